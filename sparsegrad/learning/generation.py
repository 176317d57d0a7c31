"""Classes that follow a prompt, drawn one by one from what a learner predicts."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.stack import Stack
from sparsegrad.learning.readout import MLP, Linear
from sparsegrad.system.checks import integer, plain, real

PIECE = 4096
"""Steps of a prompt that are one-hot at a time."""


def generate(
    cell: Cell | Stack,
    readout: Linear | MLP,
    batch: int,
    ahead: Callable[[NDArray[Any]], NDArray[np.floating]],
    prompt: NDArray[np.integer],
    steps: int,
    temperature: float,
    seed: int,
) -> NDArray[np.int64]:
    """Draw the classes that follow a prompt; see `OnlineLearner.generate`.

    Parameters
    ----------
    ahead : function
        Takes one-hot inputs, (T, batch, inputs), through the cell and returns the probabilities of
        the last step, (batch, outputs).
    """
    classes = readout.outputs
    if readout.loss != "cross_entropy" or cell.inputs != classes:
        raise ValueError(
            f"a learner that generates must predict its own inputs: a cross-entropy over "
            f"{cell.inputs} classes, got {readout.loss} over {classes}"
        )
    given = _prompt(prompt, batch, classes)
    steps = integer("steps", steps, least=1)
    temperature = real("temperature", temperature, least=0)
    rng = np.random.default_rng(integer("seed", seed, least=0))
    one_hot = np.eye(classes, dtype=cell.dtype)
    for start in range(0, len(given), PIECE):
        probabilities = ahead(one_hot[given[start : start + PIECE]])
    drawn = np.empty((steps, batch), np.int64)
    for t in range(steps):
        drawn[t] = _draw(probabilities, temperature, rng)
        if t + 1 < steps:
            probabilities = ahead(one_hot[drawn[t : t + 1]])
    return drawn[:, 0] if batch == 1 and np.ndim(prompt) == 1 else drawn


def _prompt(prompt: Any, batch: int, classes: int) -> NDArray[np.int64]:
    given = plain("prompt", prompt)
    if given.dtype.kind not in "iu":
        raise TypeError(f"prompt must be classes, integers, got {given.dtype}")
    if given.ndim == 1:
        given = np.repeat(given[:, None], batch, axis=1)
    if given.ndim != 2 or given.shape[1] != batch or len(given) == 0:
        raise ValueError(
            f"prompt must have shape (T,) or (T, {batch}) with T at least 1, got {np.shape(prompt)}"
        )
    if not (0 <= given.min() and given.max() < classes):
        raise ValueError(
            f"prompt must be classes in [0, {classes}), got {given.min()} to {given.max()}"
        )
    return given.astype(np.int64)


def _draw(
    probabilities: NDArray[np.floating], temperature: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw a class of each stream, by the inverse of the distribution function."""
    if temperature == 0:
        return probabilities.argmax(axis=1)
    with np.errstate(divide="ignore"):
        logs = np.log(probabilities.astype(np.float64)) / temperature
    mass = np.exp(logs - logs.max(axis=1, keepdims=True)).cumsum(axis=1)
    below = mass <= rng.random((len(mass), 1)) * mass[:, -1:]
    return below.sum(axis=1)
