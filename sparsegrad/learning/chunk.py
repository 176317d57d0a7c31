"""The data of one call to a learner: checked on the way in, blamed on the way out."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.stack import Stack
from sparsegrad.kernels.learning import steps as kernels
from sparsegrad.learning.readout import MLP, Linear
from sparsegrad.methods import Outcome
from sparsegrad.system.checks import behaved, numbers, plain

_FAULTS = {
    kernels.BAD_INPUT: "xs must be finite, got NaN or infinity",
    kernels.BAD_TARGET: "targets must be finite, got NaN or infinity",
    kernels.BAD_STATE: "the state must stay finite, it became NaN or infinite",
    kernels.BAD_LOSS: "the loss must stay finite, it became NaN or infinite",
    kernels.BAD_GRADIENT: "the gradient must stay finite, it became NaN or infinite",
    kernels.GROWN: "the influence must stay within the numbers, it is about to overflow",
    kernels.LOST: "the gradient must stay finite, it became NaN or infinite",
}
_HEARD = 0.04  # seconds of compiled code between two looks at signals: Ctrl-C waits no 0.1 s


def check_chunk(
    cell: Cell | Stack,
    readout: Linear | MLP,
    batch: int,
    xs: NDArray[Any],
    targets: NDArray[Any],
    weights: NDArray[Any] | None,
    resets: NDArray[np.bool_] | None,
    *,
    outputs: bool = False,
) -> kernels.Chunk:
    """Check the data of a call, as `OnlineLearner.run` has it; the loop itself looks for NaN.

    What says where kernels read (the classes) is copied first and checked then: the caller's array
    may change meanwhile.

    Raises
    ------
    TypeError, ValueError
        If an array has the wrong shape or dtype, or a class is out of range.
    """
    chunk = unscored(cell, readout, batch, xs, resets, outputs)
    lead, dtype = chunk.scales.shape, cell.dtype
    chunk.scales[:] = 1.0 / batch
    if weights is not None:
        given = _batched(batch, plain("weights", weights), 1)
        chunk.scales[:] *= _weights(given, lead, dtype)
    if readout.loss == "cross_entropy":
        targets = _batched(batch, plain("targets", targets), 1)
        return chunk._replace(classes=_classes(targets, readout.outputs, chunk.scales))
    targets = _batched(batch, numbers("targets", targets, dtype), 2)
    _require_array("targets", targets, (*lead, readout.outputs), "f")
    if readout.loss == "poisson" and (targets[chunk.scales != 0] < 0).any():
        raise ValueError(f"targets must be counts of at least 0, got {targets.min():g}")
    return chunk._replace(values=behaved(targets))


def unscored(
    cell: Cell | Stack,
    readout: Linear | MLP,
    batch: int,
    xs: NDArray[Any],
    resets: NDArray[np.bool_] | None,
    outputs: bool,
) -> kernels.Chunk:
    """Check the inputs of a call, for steps that nothing scores; the arguments of `check_chunk`.

    Raises
    ------
    TypeError, ValueError
        If an array has the wrong shape or dtype.
    """
    dtype = cell.dtype
    xs = _batched(batch, numbers("xs", xs, dtype), 2)
    if xs.ndim != 3 or xs.shape[1:] != (batch, cell.inputs):
        raise ValueError(f"xs must have shape (T, {batch}, {cell.inputs}), got {xs.shape}")
    lead = xs.shape[:2]
    if resets is None:
        resets = np.zeros(lead, bool)
    else:
        resets = _batched(batch, plain("resets", resets), 1)
        _require_array("resets", resets, lead, "b")
        resets = resets.copy(order="C")
    return kernels.Chunk(
        xs=behaved(xs),
        classes=np.empty((0, 0), np.int64),
        values=np.empty((*lead, 0), dtype),
        scales=np.zeros(lead, dtype),
        resets=resets,
        losses=np.zeros(lead[0]),
        outputs=np.empty((*lead, readout.outputs) if outputs else (0, 0, 0), dtype),
        first=0,
        pause=lead[0],
    )


class Slices:
    """Runs a chunk in slices, so that Python hears signals between them; no bit depends on it."""

    def __init__(self) -> None:
        self.steps = 1  # of a slice; found by doubling, then from how long the last one took

    def run(self, call: Callable[[kernels.Chunk], Outcome], chunk: kernels.Chunk) -> Outcome:
        """Run a chunk through `call`, which comes back where it ended, was stopped or paused."""
        total, first = chunk.pause, 0
        if total == 1:
            return call(chunk)
        while True:
            pause = first + self.steps
            if first or pause < total:
                chunk = chunk._replace(first=first, pause=min(pause, total))
            start = time.perf_counter()
            outcome = call(chunk)
            seconds, done = time.perf_counter() - start, outcome.steps - first
            if outcome.fault != kernels.FINE or outcome.steps == total:
                return outcome
            first = outcome.steps
            if seconds > _HEARD:
                self.steps = max(1, int(done * _HEARD / seconds / 2))
            elif seconds < _HEARD / 2:
                self.steps *= 2


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
        raise FloatingPointError(
            f"{text} {where}; the steps before it are done, lower the rate or clip"
        )
    if outcome.fault == kernels.LOST:
        raise FloatingPointError(
            f"{text} {where}; the influence overflowed within it: call reset(), then use a smaller "
            "n, smaller recurrent weights or a lower rate"
        )
    where += f", batch element {outcome.element}"
    if outcome.fault in (kernels.BAD_INPUT, kernels.BAD_TARGET):
        raise ValueError(f"{text} {where}; the steps before it are done")
    if outcome.fault == kernels.GROWN:
        raise FloatingPointError(
            f"{text} {where}; the steps before it are done: begin its sequence anew "
            f"(reset({outcome.element})), use a smaller n or smaller recurrent weights"
        )
    raise FloatingPointError(
        f"{text} {where}; the steps before it are done, lower the rate or clip"
    )


def _batched(batch: int, array: NDArray[Any], ndim: int) -> NDArray[Any]:
    """Give a batch of one its axis, if the caller left it out."""
    return array[:, None] if batch == 1 and array.ndim == ndim else array


def _weights(weights: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    _require_array("weights", weights, shape, "fiu")
    with np.errstate(over="ignore"):
        weights = weights.astype(dtype)
    if not np.isfinite(weights).all():
        raise ValueError(f"weights must be finite in {dtype}, got NaN or infinity")
    return weights


def _classes(targets: NDArray[Any], outputs: int, scales: NDArray[Any]) -> NDArray[np.int64]:
    _require_array("targets", targets, scales.shape, "iu")
    targets = targets.copy(order="C")
    if targets.size and not (0 <= targets.min() and targets.max() < outputs):
        bad = (targets < 0) | (targets >= outputs)
        scored = np.argwhere(bad & (scales != 0))
        if scored.size:
            t, b = scored[0]
            raise ValueError(
                f"targets must be classes in [0, {outputs}), got {targets[t, b]} "
                f"at step {t}, batch element {b}"
            )
        targets[bad] = 0  # nobody looks at what weight 0 masks
    return targets.astype(np.int64, copy=False)


def _require_array(name: str, array: NDArray[Any], shape: tuple[int, ...], kinds: str) -> None:
    words = {"f": "floats", "fiu": "numbers", "b": "booleans", "iu": "integers"}
    if array.dtype.kind not in kinds:
        raise TypeError(f"{name} must be {words[kinds]}, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
