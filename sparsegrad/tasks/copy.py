"""The copy task with the paper's curriculum (Menick et al. 2021, section 5.2).

input    # b1 b2 … bL $ - - … -        #: start, $: end, -: blank
target                   b1 b2 … bL    only the answer is scored
"""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from sparsegrad.system.schema import record, whole
from sparsegrad.tasks.sequences import RANDOM, Sequences

START, END = 2, 3
LEARNED = 0.15
"""Bits per bit below which a mini-batch counts as learned, and the strings grow."""
SPREAD = 5
LONGEST = 2**20
"""No run is long enough to get there."""
_POSITION = record({"length": whole(1, LONGEST), "random": RANDOM})


class Copy:
    """Strings of random bits to be reproduced, longer ones as they are learned.

    The longest length L starts at 1 and rises by 1 whenever the loss of a mini-batch is below 0.15
    bits per bit. The length of each string is uniform in [max(L - 5, 1), L]. Every draw is one
    mini-batch from the start of its strings; shorter strings wait in blanks for the longest.

    Parameters
    ----------
    batch : int
        Strings side by side.
    seed : int
        Seed of lengths and bits.
    dtype : {"float32", "float64"}
        Of the inputs: 0, 1, start and end each have a line of their own; a blank is all zero.

    Attributes
    ----------
    length : int
        L.
    """

    inputs = 4
    outputs = 1
    loss = "binary_cross_entropy"
    whole = True
    measure = "length"
    higher_is_better = True

    def __init__(self, batch: int, seed: int = 0, dtype: DTypeLike = "float32") -> None:
        self.batch = batch
        self.length = 1
        self._dtype = np.dtype(dtype)
        self._rng = np.random.Generator(np.random.PCG64(seed))

    def draw(self) -> Sequences:
        """Return one mini-batch, (2 · longest + 2, batch, 4)."""
        batch = self.batch
        lengths = self._rng.integers(max(self.length - SPREAD, 1), self.length + 1, batch)
        longest = int(lengths.max())
        bits = self._rng.integers(0, 2, (longest, batch))
        steps = 2 * longest + 2
        place, row = np.nonzero(np.arange(longest)[:, None] < lengths)
        value = bits[place, row]
        xs = np.zeros((steps, batch, self.inputs), self._dtype)
        xs[0, :, START] = 1
        xs[1 + place, row, value] = 1
        xs[1 + lengths, np.arange(batch), END] = 1
        answer = 2 + lengths[row] + place
        targets = np.zeros((steps, batch, 1), self._dtype)
        targets[answer, row, 0] = value
        weights = np.zeros((steps, batch), self._dtype)
        weights[answer, row] = 1
        resets = np.zeros((steps, batch), bool)
        resets[0] = True
        return Sequences(xs, targets, weights, resets)

    def hear(self, loss: float) -> None:
        """Raise L where a mini-batch was learned; the loss is in nats per bit."""
        if loss / math.log(2) < LEARNED:
            self.length += 1

    def report(self, loss: float) -> dict[str, float]:
        """Return L and the loss in bits per bit."""
        return {"length": self.length, "bits_per_bit": loss / math.log(2)}

    def held_out(self) -> Sequences | None:
        """Nothing: every string is new."""
        return None

    def position(self) -> dict[str, Any]:
        """Return L and the state of the generator."""
        return {"length": self.length, "random": self._rng.bit_generator.state}

    def go_to(self, position: Any, where: str = "position") -> None:
        """Go on from where :meth:`position` was taken; see :meth:`Task.go_to`."""
        position = _POSITION(where, position)
        self.length = position["length"]
        self._rng.bit_generator.state = position["random"]
