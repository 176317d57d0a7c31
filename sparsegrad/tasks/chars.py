"""Next-byte prediction on a text file, streamed."""

import importlib.util
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsegrad.system.schema import flag, listed, record, whole
from sparsegrad.tasks.sequences import CHECKSUM, RANDOM, Sequences
from sparsegrad.tasks.source import Source

PIECE = 1 << 20  # bytes that are looked at together when a text is opened
HELD_OUT = 0.1
"""Part of a text, its end, that is never learned from."""
HELD_OUT_READ = 4096
"""Characters of it that a report reads, all rows together."""
LEAST = 1024
"""Bytes below which a text is too short to learn from."""


def default_text() -> Path:
    """Return the text that Python brings along: the help topics of its own `pydoc`.

    Raises
    ------
    FileNotFoundError
        If this Python was installed without them.
    """
    spec = importlib.util.find_spec("pydoc_data")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "topics.py"
        if path.is_file():
            return path
    raise FileNotFoundError("this Python has no pydoc_data/topics.py to learn from: name a text")


class Chars:
    """The bytes of a text, each to be predicted from those before it.

    Inputs are one-hot over the bytes that occur in the text, outputs classes over the same.
    Without `crop`, row b of the batch reads on from the b-th of equal parts of the text, around its
    end; the state goes on from draw to draw. With it, every draw is random crops from their start.

    Parameters
    ----------
    path : Path
        Any text of at least 1 KiB. The last tenth is held out.
    batch : int
        Rows.
    steps : int
        Characters per row and draw: the length of a crop.
    crop : bool
        Whether draws are random crops.
    seed : int
        Seed of the crops.
    dtype : {"float32", "float64"}
        Of the inputs.

    Attributes
    ----------
    fingerprint : int
        CRC-32 of the text.

    Raises
    ------
    OSError
        If the text cannot be read.
    ValueError
        If it is empty, too short, or no text: it holds a NUL byte.
    """

    loss = "cross_entropy"
    measure = "bits_per_character"
    higher_is_better = False

    def __init__(
        self,
        path: Path,
        batch: int,
        steps: int,
        crop: bool = False,
        seed: int = 0,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.batch, self.steps, self.whole = batch, steps, crop
        self._text = Source(path)
        self._train = int(self._text.size * (1 - HELD_OUT))
        least = max(LEAST, 40 * batch, math.ceil(2 * (steps + 1) / (1 - HELD_OUT)))
        if self._text.size < least:
            raise ValueError(
                f"{path} must have at least {least} bytes for {batch} rows of {steps} characters, "
                f"got {self._text.size}"
            )
        present, self.fingerprint = self._survey()
        self.inputs = self.outputs = int(present.sum())
        self._code = np.where(present, np.cumsum(present) - 1, -1).astype(np.int16)
        self._one_hot = np.eye(self.inputs, dtype=dtype)
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._at = np.arange(batch, dtype=np.int64) * self._train // batch
        self._fresh = np.ones(batch, bool)

    def draw(self) -> Sequences:
        """Return the next `steps` characters of every row, (steps, batch, inputs)."""
        if self.whole:
            at = self._rng.integers(0, self._train - self.steps, self.batch)
            return self._sequences(at, self.steps, np.ones(self.batch, bool))
        around = self._at + self.steps + 1 > self._train
        self._at[around] = 0
        self._fresh |= around
        drawn = self._sequences(self._at, self.steps, self._fresh)
        self._at += self.steps
        self._fresh[:] = False
        return drawn

    def hear(self, loss: float) -> None:
        """Nothing depends on the loss."""

    def report(self, loss: float) -> dict[str, float]:
        """Return the loss in bits per character."""
        return {"bits_per_character": loss / math.log(2)}

    def held_out(self) -> Sequences | None:
        """Return the same characters of the held-out end every time, in equal parts."""
        part = (self._text.size - self._train) // self.batch
        at = self._train + np.arange(self.batch) * part
        steps = min(part - 1, max(1, HELD_OUT_READ // self.batch))
        return self._sequences(at, steps, np.ones(self.batch, bool))

    def position(self) -> dict[str, Any]:
        """Return where the rows stand, and the state of the generator."""
        return {
            "at": self._at.tolist(),
            "fresh": self._fresh.tolist(),
            "fingerprint": self.fingerprint,
            "random": self._rng.bit_generator.state,
        }

    def go_to(self, position: Any, where: str = "position") -> None:
        """Go on from where :meth:`position` was taken.

        Raises
        ------
        ValueError
            If it is none of this task, or the text is another one.
        """
        rules = {
            "at": listed(whole(0, self._train), self.batch),
            "fresh": listed(flag, self.batch),
            "fingerprint": CHECKSUM,
            "random": RANDOM,
        }
        position = record(rules)(where, position)
        if position["fingerprint"] != self.fingerprint:
            raise ValueError(f"{self._text.path} must be the text of the run, got other content")
        self._at[:] = position["at"]
        self._fresh[:] = position["fresh"]
        self._rng.bit_generator.state = position["random"]

    def encode(self, text: bytes) -> NDArray[np.int64]:
        """Return the classes of some bytes, (len(text),).

        Raises
        ------
        ValueError
            If one of them does not occur in the text.
        """
        classes = self._code[np.frombuffer(text, np.uint8)].astype(np.int64)
        if (classes < 0).any():
            unknown = text[int((classes < 0).argmax())]
            raise ValueError(
                f"characters must be of those that {self._text.path} has, got {bytes([unknown])!r}"
            )
        return classes

    def decode(self, classes: NDArray[np.int64]) -> bytes:
        """Return the bytes of some classes."""
        return np.flatnonzero(self._code >= 0).astype(np.uint8)[classes].tobytes()

    def _survey(self) -> tuple[NDArray[np.bool_], int]:
        """Return which bytes occur, and the checksum."""
        present, checksum = np.zeros(256, bool), 0
        for start in range(0, self._text.size, PIECE):
            piece = self._text.read(start, min(PIECE, self._text.size - start))
            if (nul := piece.find(0)) >= 0:
                raise ValueError(
                    f"{self._text.path} must be text, got a NUL byte at {start + nul}: it is binary"
                )
            present[np.frombuffer(piece, np.uint8)] = True
            checksum = zlib.crc32(piece, checksum)
        return present, checksum

    def _sequences(self, at: NDArray[np.int64], steps: int, fresh: NDArray[np.bool_]) -> Sequences:
        rows = [np.frombuffer(self._text.read(int(a), steps + 1), np.uint8) for a in at]
        code = self._code[np.stack(rows, axis=1)]
        if code.min() < 0:  # overwritten within the resolution of the file's time
            raise ValueError(f"{self._text.path} must not change while it is read")
        resets = np.zeros((steps, at.size), bool)
        resets[0] = fresh
        weights = np.ones((steps, at.size), self._one_hot.dtype)
        return Sequences(self._one_hot[code[:-1]], code[1:].astype(np.int64), weights, resets)
