"""The data of one call to a learner: checked on the way in, blamed on the way out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.kernels.learning import steps as kernels
from sparsegrad.learning.readout import MLP, Linear
from sparsegrad.methods import Outcome

_FAULTS = {
    kernels.BAD_INPUT: "xs must be finite, got NaN or infinity",
    kernels.BAD_TARGET: "targets must be finite, got NaN or infinity",
    kernels.BAD_STATE: "the state must stay finite, it became NaN or infinite",
    kernels.BAD_LOSS: "the loss must stay finite, it became NaN or infinite",
    kernels.BAD_GRADIENT: "the gradient must stay finite, it became NaN or infinite",
}


def check_chunk(
    cell: Cell,
    readout: Linear | MLP,
    batch: int,
    xs: NDArray[Any],
    targets: NDArray[Any],
    weights: NDArray[Any] | None,
    resets: NDArray[np.bool_] | None,
) -> kernels.Chunk:
    """Check the data of a call, as `OnlineLearner.run` has it; the loop itself looks for NaN.

    Raises
    ------
    TypeError, ValueError
        If an array has the wrong shape or dtype, or a class is out of range.
    """
    dtype = cell.dtype
    xs = _batched(batch, xs, 2)
    if xs.dtype != dtype:
        raise TypeError(f"xs must be {dtype} as the cell is, got {xs.dtype}")
    if xs.ndim != 3 or xs.shape[1:] != (batch, cell.inputs):
        raise ValueError(f"xs must have shape (T, {batch}, {cell.inputs}), got {xs.shape}")
    lead = xs.shape[:2]
    classes, values = np.empty((0, 0), np.int64), np.empty((*lead, 0), dtype)
    if readout.loss == "cross_entropy":
        classes = _classes(_batched(batch, targets, 1), lead, readout.outputs)
    else:
        values = _values(_batched(batch, targets, 2), (*lead, readout.outputs), dtype)
    scales = np.full(lead, 1.0 / batch, dtype)
    if weights is not None:
        weights = _batched(batch, weights, 1)
        _require_array("weights", weights, lead, "f")
        if not np.isfinite(weights).all():
            raise ValueError("weights must be finite, got NaN or infinity")
        scales *= weights.astype(dtype)
    if resets is None:
        resets = np.zeros(lead, bool)
    else:
        resets = _batched(batch, resets, 1)
        _require_array("resets", resets, lead, "b")
    return kernels.Chunk(
        xs=np.require(xs, requirements=["C", "W"]),  # Numba compiles once more for read-only arrays
        classes=classes,
        values=values,
        scales=scales,
        resets=resets.copy(),
        losses=np.zeros(lead[0]),
    )


def raise_fault(outcome: Outcome) -> None:
    """Raise the error of a chunk that did not end well.

    Raises
    ------
    ValueError
        If the data were to blame.
    FloatingPointError
        If state, loss or gradient stopped being finite.
    """
    if outcome.fault == kernels.FINE:
        return
    text = _FAULTS[outcome.fault]
    where = f"at step {outcome.steps} of the call"
    if outcome.fault == kernels.BAD_GRADIENT:
        raise FloatingPointError(f"{text} {where}; the update was not made, lower the rate or clip")
    where += f", batch element {outcome.element}"
    if outcome.fault in (kernels.BAD_INPUT, kernels.BAD_TARGET):
        raise ValueError(f"{text} {where}; the steps before it are done")
    raise FloatingPointError(
        f"{text} {where}; the steps before it are done, lower the rate or clip"
    )


def _batched(batch: int, array: NDArray[Any], ndim: int) -> NDArray[Any]:
    """Give a batch of one its axis, if the caller left it out."""
    array = np.asarray(array)
    return array[:, None] if batch == 1 and array.ndim == ndim else array


def _classes(targets: NDArray[Any], shape: tuple[int, ...], outputs: int) -> NDArray[np.int64]:
    _require_array("targets", targets, shape, "iu")
    if targets.size and not (0 <= targets.min() and targets.max() < outputs):
        t, b = np.argwhere((targets < 0) | (targets >= outputs))[0]
        raise ValueError(
            f"targets must be classes in [0, {outputs}), got {targets[t, b]} "
            f"at step {t}, batch element {b}"
        )
    return np.require(targets, np.int64, requirements=["C", "W"])


def _values(targets: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if targets.dtype != dtype:
        raise TypeError(f"targets must be {dtype} as the cell is, got {targets.dtype}")
    _require_array("targets", targets, shape, "f")
    return np.require(targets, requirements=["C", "W"])


def _require_array(name: str, array: NDArray[Any], shape: tuple[int, ...], kinds: str) -> None:
    words = {"f": "floats", "b": "booleans", "iu": "integers"}
    if array.dtype.kind not in kinds:
        raise TypeError(f"{name} must be {words[kinds]}, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
