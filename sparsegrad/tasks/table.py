"""Tables of numbers, a row per time step: ``.npy`` (read in parts), Parquet and text (loaded)."""

import csv
import math
import re
import zlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from sparsegrad.system.memory import require_memory
from sparsegrad.system.reading import parse_parquet
from sparsegrad.tasks import parsing
from sparsegrad.tasks.dates import encoded
from sparsegrad.tasks.source import Source

PIECE = 1 << 20  # bytes that are looked at together when a file is opened
ROWS = 4096  # rows of a text that are converted together


class Table(Protocol):
    """A table in a file, a row per time step.

    Attributes
    ----------
    path : Path
    shape : tuple of int
        Rows and columns.
    names : tuple of str, or None where the columns have none
    fingerprint : int
        CRC-32 of the file.
    """

    path: Path
    shape: tuple[int, int]
    names: tuple[str, ...] | None
    fingerprint: int

    def words(self, column: int) -> str | None:
        """Return the first cell of a column that is text, a date too; None of one of numbers."""

    def width(self, column: int) -> int:
        """Return how many numbers a cell of a column makes: one, or those of a date."""

    def rows(self, start: int, count: int, columns: Sequence[int]) -> NDArray[Any]:
        """Return some columns of `count` rows from `start` on; NaN where a value is missing."""


def open_table(path: Path, decimal: str | None = None) -> Table:
    """Open a table by its name: ``.npy``, ``.parquet``, else text, ``.gz`` of it too.

    Parameters
    ----------
    path : Path
    decimal : {"point", "comma"}, optional
        Decimal mark of a text. Default: found by its cells.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is no table of numbers.
    ModuleNotFoundError
        If it is Parquet, and pyarrow is not installed.
    """
    if path.suffix == ".npy":
        return _Npy(path)
    return _parquet(path) if path.suffix in (".parquet", ".pq") else _text(path, decimal)


def read_rows(
    table: Table, start: int, count: int, columns: Sequence[int], dtype: np.dtype[Any]
) -> NDArray[np.float64]:
    """Return some columns of some rows, float64; NaN where a value is missing.

    Raises
    ------
    ValueError
        If a number is infinite in `dtype`.
    """
    rows = np.asarray(table.rows(start, count, columns), np.float64)
    with np.errstate(over="ignore"):
        infinite = np.isinf(rows.astype(dtype))
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        raise ValueError(
            f"{table.path} must be finite in {dtype}, got {rows[row, column]:g} in row "
            f"{start + row}, column {_column_at(table, columns, column)}"
        )
    return rows


def refuse_missing(
    table: Table, start: int, rows: NDArray[np.float64], columns: Sequence[int], dtype: Any
) -> None:
    """Refuse a missing value.

    Raises
    ------
    ValueError
        If there is one; it names row and column.
    """
    if np.isnan(rows).any():
        row, column = np.argwhere(np.isnan(rows))[0]
        raise ValueError(
            f"{table.path} must be finite in {dtype}, got nan in row {start + row}, column "
            f"{_column_at(table, columns, column)}; --missing hold or mask takes missing values"
        )


def _column_at(table: Table, columns: Sequence[int], place: int) -> int:
    return [column for column in columns for _ in range(table.width(column))][place]


class _Npy:
    """A table in a ``.npy`` file, read in parts."""

    names: tuple[str, ...] | None = None

    def __init__(self, path: Path) -> None:
        self.path, self._source = path, Source(path)
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

    def words(self, column: int) -> str | None:
        return None

    def width(self, column: int) -> int:
        return 1

    def rows(self, start: int, count: int, columns: Sequence[int]) -> NDArray[Any]:
        data = self._source.read(self._start + start * self._row, count * self._row)
        return np.frombuffer(data, self._dtype).reshape(count, self.shape[1])[:, list(columns)]


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


class Loaded:
    """A table in memory: columns of numbers, or of words that may be dates."""

    def __init__(
        self,
        path: Path,
        fingerprint: int,
        names: tuple[str, ...] | None,
        columns: Sequence[NDArray[np.float64] | list[str]],
    ) -> None:
        if all(isinstance(column, list) for column in columns):
            raise ValueError(f"{path} must be a table of numbers, got words alone")
        self.path, self.fingerprint, self.names = path, fingerprint, names
        self.shape = len(columns[0]), len(columns)
        self._columns = list(columns)

    def words(self, column: int) -> str | None:
        """Return the first word of a column of text."""
        found = self._columns[column]
        if not isinstance(found, list):
            return None
        return next((cell for cell in found if not parsing.is_missing(cell)), "")

    def width(self, column: int) -> int:
        """Return how many numbers a cell of a column makes; text becomes dates by it."""
        found = self._columns[column]
        if isinstance(found, list):
            self._columns[column] = found = encoded(found, f"{self.path}: column {column}")
        return 1 if found.ndim == 1 else int(found.shape[1])

    def rows(self, start: int, count: int, columns: Sequence[int]) -> NDArray[Any]:
        """Return some columns of some rows."""
        found = [np.asarray(self._columns[column])[start : start + count] for column in columns]
        return np.column_stack(found)


def _text(path: Path, decimal: str | None) -> Table:
    source = Source(path)
    require_memory(10 * source.size, f"the rows of {path}")
    content = source.read(0, source.size)
    fingerprint = zlib.crc32(content)
    try:
        raw = _unzipped(path, content) if content[:2] == b"\x1f\x8b" else content
        text = raw.decode("utf-8-sig")  # a byte order mark is no part of the first cell
    except UnicodeDecodeError:
        raise ValueError(f"{path} must be .npy, Parquet or CSV, got a binary file") from None
    lines = [line for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
    whole = text[-1:] in ("\n", "\r")
    try:
        separator = parsing.separator_of(lines[: parsing.SAMPLE])
        found = next(parsing.split(lines, separator), None)
        names = found if found is not None and parsing.is_names(found) else None
        if found is None or (names is not None and len(lines) == 1):
            raise ValueError("got none, but at most a row of names")
        columns = _columns(lines, separator, names is not None, decimal)
    except (ValueError, csv.Error) as error:
        cut = "" if whole or "cells" not in str(error) else "; the file ends in mid-row"
        raise ValueError(
            f"{path} must be a table of numbers, it must hold rows of numbers, {error}{cut}"
        ) from None
    named = None if names is None else parsing.names_of(names, len(columns))
    return Loaded(path, fingerprint, named, columns)


def _unzipped(path: Path, content: bytes) -> bytes:
    """Return what gzip packed, as much as fits in memory."""
    unpack, parts, size = zlib.decompressobj(wbits=31), [], 0
    try:
        while content and not unpack.eof:
            part = unpack.decompress(content, 64 * PIECE)
            content, size = unpack.unconsumed_tail, size + len(part)
            require_memory(10 * size, f"the rows of {path}")
            parts.append(part)
    except zlib.error as error:
        raise ValueError(f"{path} must be gzip, as its first bytes say: {error}") from None
    if not unpack.eof:
        raise ValueError(f"{path} must be whole, it is cut short")
    return b"".join(parts)


def _columns(
    lines: list[str], separator: str, named: bool, decimal: str | None
) -> list[NDArray[np.float64] | list[str]]:
    """Return the columns of lines of text, the first line left out where it has names."""
    mark = {None: parsing.POINT, "point": parsing.POINT, "comma": parsing.COMMA}[decimal]
    read = _read(lines, separator, named, mark)
    if decimal is None and any(column.odd for column in read):
        rows = islice(parsing.split(lines, separator), int(named), None)
        mark = parsing.decimal_of(
            (cell for column in read for cell in column.odd), (cell for row in rows for cell in row)
        )
        if mark != parsing.POINT:
            read = _read(lines, separator, named, mark)
    return [column.done(k) for k, column in enumerate(read)]


def _read(lines: list[str], separator: str, named: bool, decimal: str) -> list["_Column"]:
    rows = islice(parsing.split(lines, separator), int(named), None)
    columns: list[_Column] = []
    start = 0
    while block := list(islice(rows, ROWS)):
        columns = columns or [_Column(decimal) for _ in block[0]]
        for at, row in enumerate(block, start):
            if len(row) != len(columns):
                raise ValueError(
                    f"row of numbers {at} must have {len(columns)} cells as those before, got "
                    f"{len(row)}"
                )
        for column, cells in zip(columns, zip(*block, strict=True), strict=True):
            column.add(cells)
        start += len(block)
    return columns


class _Column:
    """A column of a text while it is read."""

    def __init__(self, decimal: str) -> None:
        self._decimal = decimal
        self._blocks: list[NDArray[np.float64]] = []
        self._cells: list[str] = []  # as long as none of them is a number
        self._rows = self._numbers = 0
        self._word: tuple[int, str] | None = None  # the first that is no number, and its row
        self.odd: list[str] = []
        """Numbers that are not written plainly, a few of each block."""

    def add(self, cells: Sequence[str]) -> None:
        values = np.empty(len(cells))
        plain = self._decimal == parsing.POINT
        try:
            if plain and not any("_" in cell or not cell.isascii() for cell in cells):
                values[:] = [float(cell) for cell in cells]
            else:
                plain = False
        except ValueError:
            plain = False
        if not plain:
            self._slowly(cells, values)
        self._numbers += int((~np.isnan(values)).sum())
        if self._numbers == 0:
            self._cells += cells
        else:
            self._cells.clear()
        self._blocks.append(values)
        self._rows += len(cells)

    def _slowly(self, cells: Sequence[str], values: NDArray[np.float64]) -> None:
        for k, cell in enumerate(cells):
            try:
                values[k] = parsing.number_of(cell, self._decimal)
            except ValueError:
                values[k] = math.nan
                if self._word is None:
                    self._word = self._rows + k, cell
            if "," in cell or cell.count(".") > 1:
                self.odd += [cell] if parsing.is_number(cell) else []

    def done(self, place: int) -> NDArray[np.float64] | list[str]:
        if self._word is None:
            return np.concatenate(self._blocks)
        if self._numbers == 0:
            return self._cells
        row, cell = self._word
        raise ValueError(f"got {cell.strip()!r} in row of numbers {row}, column {place}")


def _parquet(path: Path) -> Table:
    source = Source(path)
    require_memory(10 * source.size, f"the rows of {path}")
    content = source.read(0, source.size)
    read = parse_parquet(str(path), content)
    if not read.num_rows or not read.num_columns:
        raise ValueError(f"{path} must hold rows of numbers, got none")
    columns = [_arrow_column(column) for column in read.columns]
    return Loaded(path, zlib.crc32(content), tuple(read.column_names), columns)


def _arrow_column(column: Any) -> NDArray[np.float64] | list[str]:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    if any(is_kind(kind) for is_kind in numbers):
        if pa.types.is_boolean(kind):
            column = column.cast(pa.int8())
        found = column.cast(pa.float64(), safe=False).to_numpy()
        return np.array(found, np.float64)
    return ["" if value is None else str(value) for value in column.to_pylist()]
