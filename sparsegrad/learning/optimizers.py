"""Optimisers: how a gradient changes the weights that exist and the readout."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.kernels.learning import optimizers as kernels


@dataclass(frozen=True, eq=False)
class SGD:
    """Stochastic gradient descent, ``v ← μ v + g``, ``w ← w − rate · v``, as PyTorch's.

    Parameters
    ----------
    rate : float
        Learning rate.
    momentum : float
        μ, in [0, 1).
    clip : float, optional
        Largest norm of the gradient of cell and readout together; a longer one is scaled down.
    schedule : float array, (updates,), optional
        Factor of the rate at each update; the last one stays. See :func:`cosine`.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """

    rate: float
    momentum: float = 0.0
    clip: float | None = None
    schedule: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        _check(self.rate, self.clip, self.schedule, momentum=self.momentum)

    def memory(self, size: int, dtype: np.dtype[Any]) -> kernels.Optimizer:
        """Allocate the optimiser's memory for `size` parameters."""
        settings = [self.rate, self.momentum, 0.0, 0.0, 0.0, self.clip or 0.0]
        first = size if self.momentum else 0
        return _memory(kernels.SGD, settings, self.schedule, first, 0, dtype)


@dataclass(frozen=True, eq=False)
class Adam:
    """Adam (Kingma and Ba 2015), as PyTorch's.

    Parameters
    ----------
    rate : float
        Learning rate.
    beta1, beta2 : float
        Decay of the moments, in [0, 1).
    epsilon : float
        Added to the root of the second moment.
    clip, schedule
        As in :class:`SGD`.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """

    rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip: float | None = None
    schedule: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        _check(self.rate, self.clip, self.schedule, beta1=self.beta1, beta2=self.beta2)

    def memory(self, size: int, dtype: np.dtype[Any]) -> kernels.Optimizer:
        """Allocate the optimiser's memory for `size` parameters."""
        settings = [self.rate, self.beta1, self.beta2, self.epsilon, 0.0, self.clip or 0.0]
        return _memory(kernels.ADAM, settings, self.schedule, size, size, dtype)


@dataclass(frozen=True, eq=False)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as PyTorch's.

    Parameters
    ----------
    rate : float
        Learning rate.
    beta1, beta2, epsilon
        As in :class:`Adam`.
    weight_decay : float
        Share of every parameter, biases included, that decays per unit of rate.
    clip, schedule
        As in :class:`SGD`.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """

    rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 1e-2
    clip: float | None = None
    schedule: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        _check(self.rate, self.clip, self.schedule, beta1=self.beta1, beta2=self.beta2)
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")

    def memory(self, size: int, dtype: np.dtype[Any]) -> kernels.Optimizer:
        """Allocate the optimiser's memory for `size` parameters."""
        settings = [
            self.rate,
            self.beta1,
            self.beta2,
            self.epsilon,
            self.weight_decay,
            self.clip or 0.0,
        ]
        return _memory(kernels.ADAM, settings, self.schedule, size, size, dtype)


def cosine(updates: int, warmup: int = 0, floor: float = 0.0) -> NDArray[np.float64]:
    """Return a schedule that rises linearly over `warmup` updates, then falls as a cosine.

    Parameters
    ----------
    updates : int
        Length of the schedule, in updates.
    warmup : int
        Updates to reach the full rate, less than `updates`.
    floor : float
        Factor at the end.

    Returns
    -------
    float64 array, (updates,)
        Factors of the rate.

    Raises
    ------
    ValueError
        If `updates` is below 1 or `warmup` not in [0, updates).

    Examples
    --------
    >>> cosine(5, warmup=2).tolist()
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if updates < 1 or not 0 <= warmup < updates:
        raise ValueError(f"warmup must lie in [0, updates), got {warmup} of {updates}")
    rise = np.arange(1, warmup + 1) / max(warmup, 1)
    fall = np.cos(np.linspace(0.0, np.pi, updates - warmup))
    return np.concatenate([rise, floor + (1.0 - floor) * 0.5 * (1.0 + fall)])


def _check(
    rate: float, clip: float | None, schedule: NDArray[np.float64] | None, **decays: float
) -> None:
    if not (np.isfinite(rate) and rate >= 0):
        raise ValueError(f"rate must be finite and at least 0, got {rate}")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be above 0, got {clip}; pass None not to clip")
    for name, decay in decays.items():
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"{name} must lie in [0, 1), got {decay}")
    if schedule is not None:
        values = np.asarray(schedule)
        if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
            raise ValueError("schedule must be a filled vector of finite factors of the rate")


def _memory(
    kind: int,
    settings: list[float],
    schedule: NDArray[np.float64] | None,
    first: int,
    second: int,
    dtype: np.dtype[Any],
) -> kernels.Optimizer:
    return kernels.Optimizer(
        kind=kind,
        settings=np.array(settings, np.float64),
        schedule=np.ones(1) if schedule is None else np.array(schedule, np.float64),
        updates=np.zeros(1, np.int64),
        first=np.zeros(first, dtype),
        second=np.zeros(second, dtype),
    )
