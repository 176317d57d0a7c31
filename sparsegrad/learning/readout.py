"""Readouts: from the state to outputs and a loss."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.kernels.learning import readouts as kernels
from sparsegrad.learning.losses import Loss, require_loss
from sparsegrad.system.checks import integer, plain

_MOST = 2**31 - 1  # outputs, or units of a hidden layer


@dataclass(frozen=True, eq=False)
class Linear:
    """Linear readout ``y = B h + b``.

    Parameters
    ----------
    outputs : int
        Number of outputs.
    loss : str, or function compiled by ``numba.njit``
        ``"squared_error"``, half the sum of squares; ``"cross_entropy"``, softmax with integer
        classes; or the sum over outputs of the logistic loss with targets in [0, 1],
        ``"binary_cross_entropy"``; of ``d²/2`` up to a difference of 1 and ``|d| - 1/2`` beyond,
        ``"huber"``; of ``exp(y) - y target`` with targets of at least 0, ``"poisson"``: y is the
        logarithm of a rate. A function ``loss(y, target)`` of vectors of the cell's dtype returns
        L and leaves ∂L/∂y in y; see :func:`sparsegrad.learning.losses.check_loss`.
    weight : float array, (outputs, units), optional
        Initial weight, of the cell's dtype. Default: N(0, 1/units).
    bias : float array, (outputs,), optional
        Initial bias. Default: 0.
    seed : int
        Seed of the initial weight.

    Raises
    ------
    TypeError, ValueError
        If `outputs` or `seed` is no integer or too small, or the loss unknown.
    """

    outputs: int
    loss: Loss = "squared_error"
    weight: NDArray[Any] | None = None
    bias: NDArray[Any] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self)

    def parameters(self, units: int, dtype: np.dtype[Any]) -> "Parameters":
        """Allocate the parameters for a cell of `units` units and give them their first values."""
        parameters = Parameters(units, 0, self.outputs, dtype)
        rng = np.random.default_rng(self.seed)
        _start(parameters.arrays.weight, "readout weight", self.weight, rng)
        _start(parameters.arrays.bias, "readout bias", self.bias, None)
        return parameters


@dataclass(frozen=True, eq=False)
class MLP:
    """Readout with one hidden layer, ``y = B max(A h + a, 0) + b``.

    Parameters
    ----------
    hidden, outputs : int
        Width of the hidden layer; number of outputs.
    loss : str, or function compiled by ``numba.njit``
        As in :class:`Linear`.
    hidden_weight, hidden_bias, weight, bias : float arrays, optional
        Initial A ``(hidden, units)``, a ``(hidden,)``, B ``(outputs, hidden)``, b ``(outputs,)``.
        Default: N(0, 2/units), 0, N(0, 1/hidden), 0.
    seed : int
        Seed of the initial weights.

    Raises
    ------
    TypeError, ValueError
        If a width or `seed` is no integer or too small, or the loss unknown.
    """

    hidden: int
    outputs: int
    loss: Loss = "squared_error"
    hidden_weight: NDArray[Any] | None = None
    hidden_bias: NDArray[Any] | None = None
    weight: NDArray[Any] | None = None
    bias: NDArray[Any] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self)
        integer("hidden", self.hidden, least=1, most=_MOST, hint="; use Linear for none")

    def parameters(self, units: int, dtype: np.dtype[Any]) -> "Parameters":
        """Allocate the parameters for a cell of `units` units and give them their first values."""
        parameters = Parameters(units, self.hidden, self.outputs, dtype)
        rng = np.random.default_rng(self.seed)
        arrays = parameters.arrays
        _start(arrays.hidden_weight, "readout hidden_weight", self.hidden_weight, rng, np.sqrt(2))
        _start(arrays.hidden_bias, "readout hidden_bias", self.hidden_bias, None)
        _start(arrays.weight, "readout weight", self.weight, rng)
        _start(arrays.bias, "readout bias", self.bias, None)
        return parameters


@dataclass(frozen=True, eq=False)
class Parameters:
    """The parameters of a readout, or their gradient: one flat array and its parts."""

    units: int
    hidden: int
    outputs: int
    dtype: np.dtype[Any]
    flat: NDArray[Any] = field(init=False)
    arrays: kernels.Readout = field(init=False)

    def __post_init__(self) -> None:
        features = self.hidden or self.units
        shapes = (
            (self.units, self.hidden),
            (self.hidden,),
            (features, self.outputs),
            (self.outputs,),
        )
        sizes = [math.prod(shape) for shape in shapes]
        flat = np.zeros(sum(sizes), self.dtype)
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        object.__setattr__(self, "flat", flat)
        object.__setattr__(self, "arrays", kernels.Readout(*arrays))

    @property
    def features(self) -> int:
        """Width of what the last layer reads."""
        return self.hidden or self.units

    def __reduce__(self) -> tuple[Any, ...]:  # or `arrays` would be no parts of `flat` any more
        return _with_values, (self.units, self.hidden, self.outputs, self.dtype, self.flat)

    def like(self) -> "Parameters":
        """Return zeros of the same shapes."""
        return Parameters(self.units, self.hidden, self.outputs, self.dtype)

    def to_dense(self) -> dict[str, NDArray[Any]]:
        """Return copies in PyTorch's layout, ``(outputs, sources)``, under ``readout.…``."""
        dense = {f"readout.{name}": array.T.copy() for name, array in self.arrays._asdict().items()}
        if not self.hidden:
            del dense["readout.hidden_weight"], dense["readout.hidden_bias"]
        return dense


def _with_values(
    units: int, hidden: int, outputs: int, dtype: np.dtype[Any], flat: NDArray[Any]
) -> Parameters:
    parameters = Parameters(units, hidden, outputs, dtype)
    parameters.flat[:] = flat
    return parameters


def _check(readout: Linear | MLP) -> None:
    integer("outputs", readout.outputs, least=1, most=_MOST)
    integer("seed", readout.seed, least=0)
    require_loss(readout.loss)


def _start(
    target: NDArray[Any],
    name: str,
    given: NDArray[Any] | None,
    rng: np.random.Generator | None,
    gain: float = 1.0,
) -> None:
    """Fill an array, stored source by source, from what was given in PyTorch's layout."""
    if given is None:
        if rng is not None:
            target[:] = rng.standard_normal(target.shape) * gain / np.sqrt(target.shape[0])
        return
    values = plain(name, given)
    if values.dtype != target.dtype:
        raise TypeError(f"{name} must be {target.dtype} as the cell is, got {values.dtype}")
    if values.shape != target.T.shape:
        raise ValueError(f"{name} must have shape {target.T.shape}, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    target[:] = values.T
