"""A user's own table, learned online row by row: the errors of honest forecasts."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsegrad.system.schema import anything, record, whole
from sparsegrad.tasks.columns import Columns, choose, label
from sparsegrad.tasks.forecast import Forecast, Learner
from sparsegrad.tasks.scaling import Steps
from sparsegrad.tasks.sequences import CHECKSUM, Sequences
from sparsegrad.tasks.table import Table, open_table, read_rows, refuse_missing


class Scored(NamedTuple):
    """What was predicted in one draw, beside what came; NaN where a value is missing."""

    rows: list[int]  # where the first step of each part stands in the table
    truth: NDArray[Any]  # (steps, batch, horizons, targets)
    predicted: NDArray[Any]  # (steps, batch, horizons, targets)


class Stream:
    """A table with one time step per row: ``.npy`` (streamed), CSV and its kin, Parquet (loaded).

    Each step's error is taken before the step is learned from, so that it is an honest prediction.

    Parameters
    ----------
    path : Path
        ``.npy`` of float32 or float64, (time, columns), or a text with or without a line of names:
        a first row without any number.
    targets : int or str
        The last so many columns are targets; 0: all columns, a row ahead. Or names or numbers of
        columns, from 0 on, that commas separate.
    batch : int
        The stream is cut into so many equal parts, which are learned from side by side.
    steps : int
        Rows per part and draw.
    dtype : {"float32", "float64"}
        That the numbers are converted to.
    inputs : str, optional
        Names or numbers of the input columns. Default: the others, or with a horizon of 1 and more
        all. A date that is named makes six: sine and cosine of day, week and year.
    horizon : str, optional
        How many rows ahead the targets are: ``1,5,10``. Default: 0, in the same row; 1 for targets
        of 0.
    scale, missing : str
        As for :class:`Forecast`; here ``none`` is the default.
    decimal : {"point", "comma"}, optional
        Decimal mark of a text. Default: found by its numbers.

    Attributes
    ----------
    tokens : int
        Steps of one pass, over all parts.
    forecast : Forecast
        What scales and scores.
    names : list of str
        Of the targets.
    left_out : list of str
        Columns of text that were not asked for.
    scored : Scored or None
        What the last draw that was learned predicted.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is empty, no table of numbers, too short, or has no such columns.
    """

    loss = "squared_error"
    whole = False
    measure = "rmse"
    higher_is_better = False

    def __init__(
        self,
        path: Path,
        targets: int | str = 1,
        batch: int = 1,
        steps: int = 128,
        dtype: DTypeLike = "float32",
        inputs: str | None = None,
        horizon: str | None = None,
        scale: str = "none",
        missing: str = "refuse",
        decimal: str | None = None,
    ) -> None:
        self.batch, self.steps = batch, steps
        self._path, self._dtype, self._refuse = path, np.dtype(dtype), missing == "refuse"
        horizons = parse_horizon(horizon, str(targets))
        self._table = table = open_table(path, decimal)
        self._found = found = choose(table, inputs, str(targets), min(horizons) > 0)
        self._columns = [*dict.fromkeys(found.inputs + found.targets)]
        self.names = [name_of(table, column) for column in found.targets]
        self.left_out = [label(table, column) for column in found.left_out]
        self.forecast = Forecast(
            *aims_of(table, self._columns, found), horizons, scale, missing, batch, dtype
        )
        self.inputs, self.outputs = self.forecast.inputs, self.forecast.outputs
        rows, lag = table.shape[0], self.forecast.lag
        self._part = (rows - lag) // batch
        if self._part < 1:
            ahead = f" and {lag} ahead" if lag > 1 else ""
            raise ValueError(
                f"{path} must have a row for each of {batch} parts{ahead}, got {rows} rows"
            )
        self.tokens = self._part * batch
        self._at = 0
        self._steps: Steps | None = None
        self.scored: Scored | None = None

    def draw(self) -> Sequences:
        """Return the next rows of every part, at most `steps`; after the end, from the start."""
        at, lag = self._at, self.forecast.lag
        count = min(self.steps, self._part - at)
        if at == 0:
            self.forecast.begin()
            rows = self._rows(0, count + lag)
        else:
            rows = self._rows(at + lag, count)
        self._steps, drawn = self.forecast.take(rows)
        self._at = (at + count) % self._part
        return drawn

    def learn(self, learner: Learner, drawn: Sequences) -> NDArray[np.float64]:
        """Learn what was drawn last, and score what was predicted; return the losses.

        Raises
        ------
        FloatingPointError
            If the learner diverges.
        """
        if self._steps is None:
            raise ValueError("a draw must come before it is learned, got none")
        first = (self._at or self._part) - len(drawn.xs)
        losses, truth, predicted = self.forecast.learn(learner, self._steps, drawn)
        self.scored = Scored([b * self._part + first for b in range(self.batch)], truth, predicted)
        return losses

    def hear(self, loss: float) -> None:
        """Nothing depends on the loss."""

    def report(self, loss: float) -> dict[str, float]:
        """Return the errors of the forecasts since the last report, and of two baselines."""
        return self.forecast.recent() or {"rmse": math.sqrt(2 * loss / self.outputs)}

    def held_out(self) -> Sequences | None:
        """Nothing: every row is predicted before it is learned from."""
        return None

    def position(self) -> dict[str, Any]:
        """Return where the parts stand, and what the forecast carries."""
        return {
            "at": self._at,
            "fingerprint": self._table.fingerprint,
            "columns": self._found.record(self._table),
            "forecast": self.forecast.state(),
        }

    def go_to(self, position: Any, where: str = "position") -> None:
        """Go on from where :meth:`position` was taken.

        Raises
        ------
        ValueError
            If it is none of this task, or the file is another one.
        """
        rules: dict[str, Any] = {"at": whole(0, self._part - 1), "fingerprint": CHECKSUM}
        old = type(position) is dict and not {"columns", "forecast"} & position.keys()
        if not old:  # there were no forecasts at first
            rules |= {"columns": anything, "forecast": anything}
        position = record(rules)(where, position)
        if position["fingerprint"] != self._table.fingerprint:
            raise ValueError(f"{self._path} must be the file of the run, got other content")
        if old and position["at"]:
            self.forecast.take(self._rows(position["at"], self.forecast.lag))
            self.forecast.go_on()
        if not old:
            columns = self._found.record(self._table)
            if _written(position["columns"]) != _written(columns):  # == takes True for 1
                raise ValueError(f"{where}.columns must be those of the run, {columns}")
            self.forecast.go_to(position["forecast"], f"{where}.forecast")
        self._at = position["at"]

    def _rows(self, start: int, count: int) -> NDArray[np.float64]:
        """Return rows of every part, (count, batch, columns)."""
        read = []
        for b in range(self.batch):
            first = b * self._part + start
            rows = read_rows(self._table, first, count, self._columns, self._dtype)
            if self._refuse:
                refuse_missing(self._table, first, rows, self._columns, self._dtype)
            read.append(rows)
        return np.stack(read, axis=1)


def aims_of(
    table: Table, columns: Sequence[int], found: Columns
) -> tuple[int, list[int], list[int]]:
    """Return how many numbers some columns make, and which of them are targets and inputs."""
    widths = [table.width(column) for column in columns]
    at = dict(zip(columns, np.cumsum([0, *widths]).tolist(), strict=False))
    inputs = [at[c] + k for c in found.inputs for k in range(table.width(c))]
    return sum(widths), [at[column] for column in found.targets], inputs


def name_of(table: Any, column: int) -> str:
    """Return a column's name, or one made of its number."""
    return f"column_{column}" if table.names is None else str(table.names[column])


def parse_horizon(horizon: str | None, targets: str) -> tuple[int, ...]:
    """Return the rows ahead that a setting means.

    Raises
    ------
    ValueError
        If it means none.
    """
    if horizon is None:
        return (int(targets == "0"),)
    words = [word.strip() for word in horizon.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise ValueError(f"horizon must be numbers of rows, such as 1 or 1,5,10, got {horizon!r}")
    return tuple(map(int, words))


def _written(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
