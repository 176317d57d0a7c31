"""Optimisers: how a gradient changes the weights that exist and the readout."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.kernels.learning import optimizers as kernels
from sparsegrad.system.checks import integer, plain, real, sealed


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
    TypeError, ValueError
        If a setting is no number, not finite or out of range.
    """

    rate: float
    momentum: float = 0.0
    clip: float | None = None
    schedule: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        _check(self, momentum=self.momentum)

    def memory(self, size: int, dtype: np.dtype[Any]) -> kernels.Optimizer:
        """Allocate the optimiser's memory for `size` parameters."""
        _refuse_rounded(self, dtype)
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
    TypeError, ValueError
        If a setting is no number, not finite or out of range.
    """

    rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip: float | None = None
    schedule: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        _check(self, beta1=self.beta1, beta2=self.beta2)
        real("epsilon", self.epsilon, above=0.0)

    def memory(self, size: int, dtype: np.dtype[Any]) -> kernels.Optimizer:
        """Allocate the optimiser's memory for `size` parameters."""
        _refuse_rounded(self, dtype)
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
    TypeError, ValueError
        If a setting is no number, not finite or out of range.
    """

    rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 1e-2
    clip: float | None = None
    schedule: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        _check(self, beta1=self.beta1, beta2=self.beta2)
        real("epsilon", self.epsilon, above=0.0)
        real("weight_decay", self.weight_decay, least=0.0)

    def memory(self, size: int, dtype: np.dtype[Any]) -> kernels.Optimizer:
        """Allocate the optimiser's memory for `size` parameters."""
        _refuse_rounded(self, dtype)
        settings = [
            self.rate,
            self.beta1,
            self.beta2,
            self.epsilon,
            self.weight_decay,
            self.clip or 0.0,
        ]
        return _memory(kernels.ADAM, settings, self.schedule, size, size, dtype)


@dataclass(frozen=True, eq=False)
class RMSprop:
    """RMSprop (Tieleman and Hinton 2012), as PyTorch's.

    ``s ← α s + (1 − α) g²``, ``v ← μ v + g / (√s + ε)``, ``w ← w − rate · v``.

    Parameters
    ----------
    rate : float
        Learning rate.
    alpha : float
        α, decay of the second moment, in [0, 1).
    epsilon : float
        Added to the root of the second moment.
    momentum : float
        μ, in [0, 1).
    clip, schedule
        As in :class:`SGD`.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number, not finite or out of range.
    """

    rate: float = 1e-2
    alpha: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0
    clip: float | None = None
    schedule: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        _check(self, alpha=self.alpha, momentum=self.momentum)
        real("epsilon", self.epsilon, above=0.0)

    def memory(self, size: int, dtype: np.dtype[Any]) -> kernels.Optimizer:
        """Allocate the optimiser's memory for `size` parameters."""
        _refuse_rounded(self, dtype)
        settings = [self.rate, self.momentum, self.alpha, self.epsilon, 0.0, self.clip or 0.0]
        first = size if self.momentum else 0
        return _memory(kernels.RMSPROP, settings, self.schedule, first, size, dtype)


Optimizer = SGD | Adam | AdamW | RMSprop


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
    updates, warmup = integer("updates", updates, least=1), integer("warmup", warmup)
    real("floor", floor)
    if not 0 <= warmup < updates:
        raise ValueError(f"warmup must lie in [0, updates), got {warmup} of {updates}")
    rise = np.arange(1, warmup + 1) / max(warmup, 1)
    fall = np.cos(np.linspace(0.0, np.pi, updates - warmup))
    return np.concatenate([rise, floor + (1.0 - floor) * 0.5 * (1.0 + fall)])


def _check(optimizer: "Optimizer", **decays: float) -> None:
    """Look at what all optimisers have, and keep a copy of the schedule that nobody can write."""
    real("rate", optimizer.rate, least=0.0)
    if optimizer.clip is not None:
        real("clip", optimizer.clip, above=0.0)
    for name, decay in decays.items():
        real(name, decay, least=0.0, below=1.0)
    if optimizer.schedule is not None:
        given = plain("schedule", optimizer.schedule)
        if given.dtype.kind not in "fiu" or given.ndim != 1 or given.size == 0:
            raise ValueError(
                "schedule must be a filled vector of finite factors of the rate, got "
                f"{given.dtype} of shape {given.shape}"
            )
        values = given.astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("schedule must be finite, got NaN or infinity")
        object.__setattr__(optimizer, "schedule", sealed(values))


def _refuse_rounded(optimizer: "Optimizer", dtype: np.dtype[Any]) -> None:
    """Refuse settings that the dtype of the weights rounds to ones that are not allowed."""
    largest = 1.0 if optimizer.schedule is None else float(np.abs(optimizer.schedule).max())
    with np.errstate(over="ignore"):
        rate = dtype.type(optimizer.rate * largest)
    if not np.isfinite(rate):
        raise ValueError(f"rate must be finite in {dtype}, got {optimizer.rate:g}")
    if isinstance(optimizer, SGD):
        return
    with np.errstate(over="ignore"):
        epsilon = dtype.type(optimizer.epsilon)
    if not 0 < epsilon < np.inf:
        raise ValueError(
            f"epsilon must be above 0 and finite in {dtype}, got {optimizer.epsilon:g}"
        )
    for name in ("alpha",) if isinstance(optimizer, RMSprop) else ("beta1", "beta2"):
        if dtype.type(getattr(optimizer, name)) == 1:
            raise ValueError(f"{name} must be below 1 in {dtype}, got {getattr(optimizer, name)}")


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
        schedule=np.ones(1) if schedule is None else np.array(schedule),
        updates=np.zeros(1, np.int64),
        first=np.zeros(first, dtype),
        second=np.zeros(second, dtype),
    )
