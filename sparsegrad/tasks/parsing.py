"""Lines of text as rows of cells, and cells as numbers: the same rules for a file and for a pipe.

A first row in which no cell is a number is a line of names. Any other row is data, wherever it
stands.
"""

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence

SEPARATORS = ("\t", ";", "|", ",")
"""In the order in which they win where a line could be cut by two of them."""
BLANKS = " "
"""Separator of cells between any number of blanks."""
SAMPLE = 20
"""Lines that the separator is found by."""
MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
"""Words for a value that is not there, in any case."""
POINT, COMMA = ".", ","
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?|nan", re.I | re.A)
_GROUPED = {
    POINT: re.compile(r"[+-]?[1-9]\d{0,2}([,' \u00a0\u202f])\d{3}(\1\d{3})*(\.\d*)?", re.A),
    COMMA: re.compile(r"[+-]?[1-9]\d{0,2}([.' \u00a0\u202f])\d{3}(\1\d{3})*(,\d*)?", re.A),
}
"""Thousands set apart, always by the same mark and three digits at a time."""
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}", re.A)
"""1,234: a thousand and some, or one and some."""


def is_missing(cell: str) -> bool:
    """Return whether a cell says that there is no value."""
    return cell.strip().lower() in MISSING


def number_of(cell: str, decimal: str) -> float:
    """Return the number in a cell; NaN where it says that there is none.

    Parameters
    ----------
    cell : str
    decimal : str
        Mark between whole number and fraction: ``.`` or ``,``.

    Raises
    ------
    ValueError
        If it is no number.
    """
    cell = cell.strip()
    if cell.lower() in MISSING:
        return math.nan
    grouped = _GROUPED[decimal].fullmatch(cell)
    if grouped is not None:
        cell = cell.replace(grouped[1], "")
    if decimal == COMMA:
        if POINT in cell:
            raise ValueError(cell)
        cell = cell.replace(COMMA, POINT)
    if _NUMBER.fullmatch(cell) is None:
        raise ValueError(cell)
    return float(cell)


def is_number(cell: str) -> bool:
    """Return whether a cell is a number in any way of writing it; NaN and infinity are."""
    cell = cell.strip()
    for decimal in (POINT, COMMA):
        try:
            value = number_of(cell, decimal)
        except ValueError:
            continue
        if not math.isnan(value) or cell.lower() == "nan":
            return True
    return False


def is_names(row: Sequence[str]) -> bool:
    """Return whether a first row is one of names: none of its cells is a number.

    Nor is a part of one that another separator would make: it is no row of ours then.
    """
    return not any(is_number(part) for cell in row for part in re.split(r"[\t;|,]", cell))


def split(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    """Yield the cells of each line that is not blank.

    Raises
    ------
    csv.Error
        If a quote is not closed.
    """
    full = (line for line in lines if line.strip())
    if separator == BLANKS:
        return (line.split() for line in full)
    return csv.reader(full, delimiter=separator, strict=True, skipinitialspace=True)


def separator_of(lines: Sequence[str]) -> str:
    """Find what separates the cells of some first lines, names among them or not.

    Of those that cut every line but the first into equally many cells, two at least, the one by
    which most of the cells are numbers. Blanks separate only where nothing else does, and all cells
    are numbers then.

    Raises
    ------
    ValueError
        If blanks could as well set thousands apart.
    """
    best, share = COMMA, -1.0
    for separator in SEPARATORS:
        try:
            rows = list(split(lines, separator))
        except csv.Error:
            continue
        below = rows[1:] or rows
        width = len(below[0]) if below else 0
        if width < 2 or any(len(row) != width for row in below):
            continue
        cells = [cell for row in below for cell in row]
        numbers = sum(map(is_number, cells)) / len(cells)
        if numbers > share:
            best, share = separator, numbers
    return BLANKS if share < 0 and _blanks_are_safe(lines) else best


def _blanks_are_safe(lines: Sequence[str]) -> bool:
    rows = [line.split() for line in lines if line.strip()]
    below = rows[1:] or rows
    if not below or len(below[0]) < 2 or any(len(row) != len(below[0]) for row in below):
        return False
    if any(_NUMBER.fullmatch(cell) is None for row in below for cell in row):
        return False
    if all(_GROUPED[POINT].fullmatch(" ".join(row)) for row in below):
        raise ValueError(
            f"blanks in {lines[-1].strip()!r} may part two columns or thousands: part columns by ;"
        )
    return True


def decimal_of(cells: Iterable[str], others: Iterable[str]) -> str:
    """Find the decimal mark by cells that are no plain numbers: a point, or a comma.

    Parameters
    ----------
    cells : iterable of str
        Cells that ``float`` refuses.
    others : iterable of str
        Cells that it takes, looked at where the first leave it open.

    Raises
    ------
    ValueError
        If 1,234 may be either.
    """
    open_cell = None
    for cell in map(str.strip, cells):
        if _EITHER.fullmatch(cell):
            open_cell = cell
            continue
        found = [decimal for decimal in (POINT, COMMA) if _is(cell, decimal)]
        if len(found) == 1:
            return found[0]
    if open_cell is None:
        return POINT
    if any(POINT in cell and not _EITHER.fullmatch(cell.strip()) for cell in others):
        return POINT
    raise ValueError(
        f"{open_cell} may be {open_cell.replace(',', '')} or {open_cell.replace(',', '.')}: "
        "say which by --decimal point or --decimal comma"
    )


def _is(cell: str, decimal: str) -> bool:
    try:
        number_of(cell, decimal)
    except ValueError:
        return False
    return True


def names_of(row: Sequence[str], width: int) -> tuple[str, ...] | None:
    """Return the names of so many columns, or None where a line of names does not fit them."""
    names = [name.strip() for name in row]
    while len(names) > width and not names[-1]:
        names.pop()
    return tuple(names) if len(names) == width else None


def words_of(text: str) -> list[str]:
    """Return the words of a list that commas separate; one with a comma in it stands in quotes."""
    rows = list(csv.reader([text], skipinitialspace=True))
    return [word.strip() for row in rows for word in row if word.strip()]
