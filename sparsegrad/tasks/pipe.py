"""A stream that arrives: a row is learned as it comes, and its prediction is said at once."""

import csv
import os
import select
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsegrad.system.schema import anything, record, refuse, whole
from sparsegrad.tasks import parsing
from sparsegrad.tasks.columns import choose, label
from sparsegrad.tasks.dates import encoded
from sparsegrad.tasks.forecast import Forecast, Learner
from sparsegrad.tasks.scaling import Steps
from sparsegrad.tasks.sequences import Sequences
from sparsegrad.tasks.stream import Scored, aims_of, name_of, parse_horizon
from sparsegrad.tasks.table import Loaded

WAIT = 0.1
"""Seconds until somebody looks whether the run is to stop."""
NAME = "standard input"


class Lines:
    """Lines of a descriptor as they come.

    Parameters
    ----------
    descriptor : int
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._rest = descriptor, b""
        self.ended = self.cut = False
        """Whether all has come; whether it ended without the end of a line."""

    def next(self) -> str | None:
        """Return the next line that is not blank, or None where none came in `WAIT` seconds.

        Raises
        ------
        ValueError
            If it is no text.
        """
        while not self.ended:
            line, end, rest = self._rest.partition(b"\n")
            if end:
                self._rest = rest
            elif (more := self._read()) is None:
                return None
            elif more:
                self._rest += more
                continue
            else:
                self.ended, self.cut = True, bool(line.strip())
            if line.strip():
                try:
                    return line.decode("utf-8-sig").rstrip("\r")
                except UnicodeDecodeError:
                    raise ValueError(f"{NAME} must be text, got a line that is none") from None
        return None

    def _read(self) -> bytes | None:
        if os.name == "posix" and not select.select([self._descriptor], [], [], WAIT)[0]:
            return None
        return os.read(self._descriptor, 1 << 16)


class Pipe:
    """A table whose rows arrive on standard input; what is not said here is as in `Stream`.

    Parameters
    ----------
    targets, dtype, inputs, horizon, scale, missing, decimal
        As for :class:`Stream`.
    descriptor : int, optional
        Default: that of standard input. The first row is waited for.

    Attributes
    ----------
    ended : bool
        Whether all rows have come.
    say : callable
        Takes a list of strings, first of all the names, then what is predicted from each row.

    Raises
    ------
    ValueError
        If there is no row, or it has no such columns.
    """

    loss = "squared_error"
    whole = False
    measure = "rmse"
    higher_is_better = False
    batch, tokens = 1, None

    def __init__(
        self,
        targets: int | str = 1,
        dtype: DTypeLike = "float32",
        inputs: str | None = None,
        horizon: str | None = None,
        scale: str = "none",
        missing: str = "refuse",
        decimal: str | None = None,
        descriptor: int | None = None,
    ) -> None:
        self._waiting = ""  # a line that was looked at, and is to be learned
        self._lines = Lines(sys.stdin.fileno() if descriptor is None else descriptor)
        horizons = parse_horizon(horizon, str(targets))
        self._table = table = self._first_row(decimal)
        self._found = found = choose(table, inputs, str(targets), min(horizons) > 0)
        self._columns = [*dict.fromkeys(found.inputs + found.targets)]
        self.names = [name_of(table, column) for column in found.targets]
        self.left_out = [label(table, column) for column in found.left_out]
        self._dates = [table.words(column) is not None for column in self._columns]
        self.forecast = Forecast(
            *aims_of(table, self._columns, found), horizons, scale, missing, dtype=dtype
        )
        self.inputs, self.outputs = self.forecast.inputs, self.forecast.outputs
        self.say: Callable[[Sequence[str]], None] = lambda words: None
        self.ended = False
        self.scored: Scored | None = None
        self._steps: Steps | None = None
        self._rows = self._said = 0

    def draw(self) -> Sequences:
        """Return the steps that the next row completes, none too, as where no row came yet.

        Raises
        ------
        ValueError
            If the row is none of this table.
        """
        line = self._waiting or self._lines.next()
        self._waiting = ""
        if line is None:
            self.ended = self.ended or self._lines.ended
            self._steps = None
            return self.forecast.take(np.empty((0, 1, self.forecast.columns)))[1]
        try:
            cells = next(parsing.split([line], self._separator))
        except csv.Error as error:
            raise ValueError(f"row {self._rows} of {NAME} must be whole: {error}") from None
        width = self._table.shape[1]
        if len(cells) != width:
            cut = ": it ended in mid-row" if self._lines.cut else ""
            raise ValueError(
                f"row {self._rows} of {NAME} must have {width} cells as those before, got "
                f"{len(cells)}{cut}"
            )
        row = self._numbers(cells)
        try:
            self._steps, drawn = self.forecast.take(row[None, None])
        except ValueError as error:
            raise ValueError(f"row {self._rows} of {NAME}: {error}") from None
        self._rows += 1
        return drawn

    def learn(self, learner: Learner, drawn: Sequences) -> NDArray[np.float64]:
        """Learn what the last row completed, say what is predicted from it; return the losses.

        Raises
        ------
        FloatingPointError
            If the learner diverges.
        """
        if self._steps is None:
            self.scored = None
            return np.zeros(0)
        losses, truth, predicted = self.forecast.learn(learner, self._steps, drawn)
        self.scored = Scored([self._rows - len(self._steps.xs)], truth, predicted)
        ahead = self.forecast.ahead(learner, self._steps, drawn)
        said = ahead[-1] if self.forecast.lag else predicted[-1]
        if not self._said:
            self.say([f"{n}+{h}" if h else n for h in self.forecast.horizons for n in self.names])
        self._said += 1
        self.say(["" if value != value else f"{value:.9g}" for value in said.ravel().tolist()])
        return losses

    def hear(self, loss: float) -> None:
        """Nothing depends on the loss."""

    def report(self, loss: float) -> dict[str, float]:
        """Return the errors of the forecasts since the last report, and of two baselines."""
        return self.forecast.recent()

    def held_out(self) -> Sequences | None:
        """Nothing: every row is predicted before it is learned from."""
        return None

    def position(self) -> dict[str, Any]:
        """Return how many rows came, and what the forecast carries."""
        return {
            "rows": self._rows,
            "columns": self._found.record(self._table),
            "forecast": self.forecast.state(),
        }

    def go_to(self, position: Any, where: str = "position") -> None:
        """Go on behind the rows that came until :meth:`position` was taken.

        Raises
        ------
        ValueError
            If it is none of this task, or the columns are others.
        """
        rules = {"rows": whole(), "columns": anything, "forecast": anything}
        position = record(rules)(where, position)
        here = self._found.record(self._table)
        if position["columns"] != here:
            refuse(f"the columns of {NAME}", f"those of the run, {position['columns']}", here)
        self.forecast.go_to(position["forecast"], f"{where}.forecast")
        self._rows = position["rows"]

    def _first_row(self, decimal: str | None) -> Loaded:
        """Wait for the first row, and for the names before it; return a table of it alone."""
        lines = [self._wait()]
        try:
            self._separator = parsing.separator_of(lines)
            names = next(parsing.split(lines, self._separator))
            if parsing.is_names(names):
                lines.append(self._wait())
                self._separator = parsing.separator_of(lines)
                names = next(parsing.split(lines, self._separator))
            cells = next(parsing.split(lines[-1:], self._separator))
            marks = {None: "", "point": parsing.POINT, "comma": parsing.COMMA}
            self._mark = marks[decimal]  # empty until a number has one
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{NAME} must be a table of numbers: {error}") from None
        self._waiting = lines[-1]
        columns: list[NDArray[np.float64] | list[str]] = []
        for cell in cells:
            number = parsing.is_number(cell) or parsing.is_missing(cell)
            columns.append(np.zeros(1) if number else [cell])
        named = parsing.names_of(names, len(cells)) if len(lines) > 1 else None
        return Loaded(Path(NAME), 0, named, columns)

    def _wait(self) -> str:
        while (line := self._lines.next()) is None:
            if self._lines.ended:
                raise ValueError(f"{NAME} must hold rows of numbers, got none")
        return line

    def _numbers(self, cells: Sequence[str]) -> NDArray[np.float64]:
        """Return the numbers of a row's columns, dates as theirs."""
        found: list[float] = []
        for column, date in zip(self._columns, self._dates, strict=True):
            cell, where = cells[column], f"row {self._rows} of {NAME}"
            if date:
                found += encoded([cell], where)[0].tolist()
                continue
            try:
                self._mark = self._mark or _mark_of(cell)
                found.append(parsing.number_of(cell, self._mark or parsing.POINT))
            except ValueError:
                raise ValueError(
                    f"{where} must be numbers, got {cell.strip()!r} in "
                    f"{label(self._table, column)}; --decimal says how to read 1,234"
                ) from None
        return np.array(found)


def _mark_of(cell: str) -> str:
    """Return the decimal mark that a cell shows, empty where it shows none."""
    if parsing.COMMA in cell and parsing.is_number(cell):
        return parsing.decimal_of([cell], [])
    return parsing.POINT if parsing.POINT in cell else ""
