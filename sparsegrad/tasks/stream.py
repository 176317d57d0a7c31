"""A user's own stream of numbers, learned online: the one-step-ahead error."""

import math
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsegrad.system.memory import require_memory
from sparsegrad.system.schema import record, whole
from sparsegrad.tasks.sequences import CHECKSUM, Sequences
from sparsegrad.tasks.source import Source

PIECE = 1 << 20  # bytes that are looked at together when the file is opened


class Stream:
    """A table with one time step per row, as ``.npy`` (streamed) or CSV (loaded).

    Each step's error is taken before the step is learned from, so that it is an honest prediction.

    Parameters
    ----------
    path : Path
        ``.npy`` of float32 or float64, (time, columns), or CSV, with or without a line of names: a
        first row without any number.
    targets : int
        The last so many columns are targets, the others inputs. 0: all columns are inputs, and the
        target is the next row.
    batch : int
        The stream is cut into so many equal parts, which are learned from side by side.
    steps : int
        Rows per part and draw.
    dtype : {"float32", "float64"}
        That the numbers are converted to.

    Attributes
    ----------
    tokens : int
        Steps of one pass, over all parts.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is empty, no table of numbers, too short, or has no column left for the inputs.
    """

    loss = "squared_error"
    whole = False
    measure = "rmse"
    higher_is_better = False

    def __init__(
        self,
        path: Path,
        targets: int = 1,
        batch: int = 1,
        steps: int = 128,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.batch, self.steps = batch, steps
        self._path, self._targets, self._dtype = path, targets, np.dtype(dtype)
        self._table = open_table(path)
        rows, columns = self._table.shape
        if targets < 0 or columns - targets < 1:
            raise ValueError(
                f"target columns must lie in [0, {columns - 1}] to leave an input of the "
                f"{columns} columns of {path}, got {targets}"
            )
        self.inputs, self.outputs = columns - targets, targets or columns
        self._ahead = 0 if targets else 1
        self._part = (rows - self._ahead) // batch
        if self._part < 1:
            raise ValueError(f"{path} must have a row for each of {batch} parts, got {rows} rows")
        self.tokens = self._part * batch
        self._at = 0

    def draw(self) -> Sequences:
        """Return the next rows of every part, at most `steps`; after the end, from the start."""
        at = self._at
        count = min(self.steps, self._part - at)
        starts = [b * self._part + at for b in range(self.batch)]
        read = [self._rows(start, count + self._ahead) for start in starts]
        table = np.ascontiguousarray(np.stack(read, axis=1))
        xs = table[:count, :, : self.inputs]
        targets = table[:count, :, self.inputs :] if self._targets else table[1:]
        resets = np.zeros((count, self.batch), bool)
        resets[0] = at == 0
        self._at = (at + count) % self._part
        return Sequences(xs, targets, np.ones((count, self.batch), self._dtype), resets)

    def hear(self, loss: float) -> None:
        """Nothing depends on the loss."""

    def report(self, loss: float) -> dict[str, float]:
        """Return the root of the mean squared error of a target."""
        return {"rmse": math.sqrt(2 * loss / self.outputs)}

    def held_out(self) -> Sequences | None:
        """Nothing: every row is predicted before it is learned from."""
        return None

    def position(self) -> dict[str, Any]:
        """Return where the parts stand."""
        return {"at": self._at, "fingerprint": self._table.fingerprint}

    def go_to(self, position: Any, where: str = "position") -> None:
        """Go on from where :meth:`position` was taken.

        Raises
        ------
        ValueError
            If it is none of this task, or the file is another one.
        """
        rules = {"at": whole(0, self._part - 1), "fingerprint": CHECKSUM}
        position = record(rules)(where, position)
        if position["fingerprint"] != self._table.fingerprint:
            raise ValueError(f"{self._path} must be the file of the run, got other content")
        self._at = position["at"]

    def _rows(self, start: int, count: int) -> NDArray[Any]:
        return read_rows(self._table, self._path, start, count, self._dtype)


class Table(Protocol):
    """A table of numbers in a file, a row per time step."""

    shape: tuple[int, int]
    fingerprint: int

    def rows(self, start: int, count: int) -> NDArray[Any]:
        """Return `count` rows from `start` on, (count, columns)."""


def open_table(path: Path) -> Table:
    """Open a table, by its name ``.npy`` or else CSV.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is no table of numbers.
    """
    return _Npy(path) if path.suffix == ".npy" else _Csv(path)


def read_rows(
    table: Table, path: Path, start: int, count: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return rows of a table in a dtype, (count, columns).

    Raises
    ------
    ValueError
        If a number is not finite there.
    """
    with np.errstate(over="ignore"):
        rows = table.rows(start, count).astype(dtype)
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise ValueError(
            f"{path} must be finite in {dtype}, got {rows[row, column]} in row {start + row}, "
            f"column {column}"
        )
    return rows


class _Npy:
    """A table in a ``.npy`` file, read in parts."""

    def __init__(self, path: Path) -> None:
        self._source = Source(path)
        with open(path, "rb") as file:
            self.shape, self._dtype = _npy_header(path, file)
            self._start = file.tell()
        if self._start + self.shape[0] * self._row > self._source.size:
            raise ValueError(f"{path} is cut short: {self.shape[0]} rows were written")
        self.fingerprint = 0
        for start in range(0, self._source.size, PIECE):
            piece = self._source.read(start, min(PIECE, self._source.size - start))
            self.fingerprint = zlib.crc32(piece, self.fingerprint)

    @property
    def _row(self) -> int:
        return self.shape[1] * self._dtype.itemsize

    def rows(self, start: int, count: int) -> NDArray[Any]:
        data = self._source.read(self._start + start * self._row, count * self._row)
        return np.frombuffer(data, self._dtype).reshape(count, self.shape[1])


def _npy_header(path: Path, file: BinaryIO) -> tuple[tuple[int, int], np.dtype[Any]]:
    wanted = f"{path} must be a .npy table of floats, (time, columns), rows in order (C)"
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(file)
    except Exception:  # the header is a Python literal, and its parser fails in a dozen ways
        raise ValueError(f"{wanted}, got another kind of file") from None
    sizes = len(shape) == 2 and all(type(size) is int and size > 0 for size in shape)
    if not sizes or dtype.kind != "f" or (fortran and 1 not in shape):
        order = "Fortran" if fortran else "C"
        raise ValueError(f"{wanted}, got {dtype} of shape {shape} in {order} order")
    return (shape[0], shape[1]), dtype


class _Csv:
    """A table in a CSV file, loaded.

    A first row in which no cell is a number is a line of names. Any other row is numbers, all of
    it, wherever it stands.
    """

    def __init__(self, path: Path) -> None:
        source = Source(path)
        require_memory(10 * source.size, f"the rows of {path}")
        content = source.read(0, source.size)
        try:
            text = content.decode("utf-8-sig")  # a byte order mark is no part of the first cell
        except UnicodeDecodeError:
            raise ValueError(f"{path} must be .npy or CSV, got a binary file") from None
        lines = [line for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
        if lines and not any(map(_is_number, lines[0].split(","))):
            del lines[0]
        if not lines:
            raise ValueError(f"{path} must hold rows of numbers, got none")
        try:
            self._table = np.loadtxt(lines, delimiter=",", comments=None, quotechar='"', ndmin=2)
        except ValueError as error:
            reason = str(error).replace("row", "row of numbers", 1)
            raise ValueError(
                f"{path} must be a table of numbers, below at most one row of names: {reason}"
            ) from None
        self.shape = self._table.shape
        self.fingerprint = zlib.crc32(content)

    def rows(self, start: int, count: int) -> NDArray[Any]:
        return self._table[start : start + count]


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().strip('"'))
    except ValueError:
        return False
    return True
