"""Which columns of a table are inputs and which are targets, by name or by number."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparsegrad.tasks.parsing import words_of
from sparsegrad.tasks.table import Table

SHOWN = 20
"""Names of columns that a message lists at most."""
SEARCHED = 4096
"""Rows that are looked at together for a value of a target."""


class Columns(NamedTuple):
    """Places in a table."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    left_out: tuple[int, ...]  # text that nobody asked for

    def record(self, table: Table) -> dict[str, Any]:
        """Return them for a checkpoint, with the names that the table has."""
        return {
            "names": None if table.names is None else list(table.names),
            "inputs": list(self.inputs),
            "targets": list(self.targets),
            "of": table.shape[1],
        }


def choose(table: Table, inputs: str | None, targets: str, known: bool) -> Columns:
    """Find the columns that two settings mean.

    Parameters
    ----------
    table : Table
    inputs : str or None
        Names or numbers, from 0 on, that commas separate. None: every column of numbers, but no
        target if `known` is False.
    targets : str
        The same; but a number alone counts the last columns, and 0 takes all.
    known : bool
        Whether a target's value is known when it is to be predicted, as that of a later row is.

    Returns
    -------
    Columns

    Raises
    ------
    ValueError
        If there is no such column, none is left for the inputs, a target is no column of numbers or
        has none, or an input is a target that is not known.
    """
    columns = table.shape[1]
    text = tuple(column for column in range(columns) if table.words(column) is not None)
    numbers = [column for column in range(columns) if column not in text]
    if re.fullmatch(r"\d+", targets):
        count = int(targets)
        most = len(numbers) if known else len(numbers) - 1
        if count > most or (count == 0 and not known):
            raise ValueError(
                f"target columns must lie in [0, {most}] to leave an input of the "
                f"{len(numbers)} columns of {table.path}, got {targets}; 0 predicts the next row"
            )
        aims = tuple(numbers[-count:] if count else numbers)
    else:
        aims = _places(table.path, columns, table.names, "--targets", targets)
    if inputs is not None:
        sources = _places(table.path, columns, table.names, "--inputs", inputs)
    else:
        sources = tuple(column for column in numbers if known or column not in aims)
    _check(table, sources, aims, known)
    return Columns(sources, aims, tuple(column for column in text if column not in sources))


def _check(table: Table, sources: Sequence[int], aims: Sequence[int], known: bool) -> None:
    if not sources:
        raise ValueError(f"{table.path} must have a column for the inputs besides the targets")
    both = [column for column in sources if column in aims]
    if both and not known:
        raise ValueError(
            f"--inputs must leave out the targets of the same row, got {label(table, both[0])}; "
            "--horizon 1 predicts the next row by it"
        )
    for column in aims:
        word = table.words(column)
        if word is not None:
            raise ValueError(
                f"{table.path} must have numbers in a target column, got {word!r} in "
                f"{label(table, column)}"
            )
        rows = range(0, table.shape[0], SEARCHED)
        parts = (table.rows(r, min(SEARCHED, table.shape[0] - r), [column]) for r in rows)
        if all(np.isnan(part).all() for part in parts):
            raise ValueError(
                f"{table.path} must have values of its targets, got none in {label(table, column)}"
            )


def _places(
    path: Path, columns: int, names: Sequence[str] | None, flag: str, text: str
) -> tuple[int, ...]:
    """Return the places of some columns."""
    found = []
    for word in words_of(text):
        same = [] if names is None else [k for k, name in enumerate(names) if name == word]
        if not same and re.fullmatch(r"\d{1,9}", word) and int(word) < columns:
            same = [int(word)]
        if len(same) != 1:
            there = f"columns 0 to {columns - 1}" if names is None else _listed(names)
            more = "; it has two of that name: give its number" if same else ""
            raise ValueError(f"{flag} must name columns of {path}, {there}, got {word!r}{more}")
        found += same
    if not found or len(set(found)) < len(found):
        raise ValueError(f"{flag} must name columns, each once, got {text!r}")
    return tuple(found)


def label(table: Table, column: int) -> str:
    """Return how a message names a column."""
    return f"column {column}" if table.names is None else f"column {table.names[column]!r}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN]))
    return f"which has {shown}" + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
