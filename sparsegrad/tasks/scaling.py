"""Rows of a stream in the units that a learner takes them in, found as they come."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsegrad.system.schema import listed, number, record
from sparsegrad.tasks.running import Running, running_sums

FARTHEST = 10.0
"""Units from the middle beyond which an input is cut, and a target for what is learned of it."""
LARGEST = 1e100
"""A number above it has a square that no sum holds."""


class Steps(NamedTuple):
    """Steps whose rows came; of each horizon and target what is known when it is predicted."""

    xs: NDArray[Any]  # (T, batch, inputs)
    y: NDArray[Any]  # (T, batch, targets) as they came, NaN where missing
    held: NDArray[Any]  # (T, batch, targets) the last value seen up to the row
    last: NDArray[Any]  # (T, batch, horizons, targets) seen before the one to be predicted
    mean: NDArray[Any]  # (T, batch, horizons, targets) of all those before it; NaN where none
    unit: NDArray[Any]  # (T, batch, horizons, targets) in which it is learned; 0: not known yet

    def part(self, first: int, end: int | None = None) -> "Steps":
        """Return some of the steps."""
        return Steps(*(array[first:end] for array in self))

    def and_then(self, other: "Steps") -> "Steps":
        """Return these steps and others after them."""
        return Steps(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


class Scaling:
    """What was seen of a stream so far, as units for what comes.

    Parameters
    ----------
    columns : int
        Numbers in a row.
    inputs, targets : sequence of int
        Which of them are.
    horizons : sequence of int
    online : bool
        Whether to scale at all.
    hold : bool
        Whether a missing input keeps its last value, else it is 0.
    dtype : dtype
        Of `Steps.xs`.
    """

    def __init__(
        self,
        columns: int,
        inputs: Sequence[int],
        targets: Sequence[int],
        horizons: Sequence[int],
        online: bool,
        hold: bool,
        dtype: np.dtype[Any],
    ) -> None:
        self._inputs, self._targets = list(inputs), list(targets)
        self._horizons, self._online, self._hold, self._dtype = horizons, online, hold, dtype
        self._change = np.array([[h > 0 and k in inputs for k in targets] for h in horizons])
        self._running = Running(columns)
        self._moves, self._squares = np.zeros((2, *self._change.shape))  # of changes

    def steps(
        self, rows: NDArray[Any], held: NDArray[Any], before: NDArray[Any], learning: bool
    ) -> Steps:
        """Return the steps of rows.

        Parameters
        ----------
        rows : float64 array, (T, batch, columns)
            NaN where a value is missing.
        held : float64 array, (batch, columns)
            The last values seen before; NaN where none were.
        before : float64 array, (some, batch, targets)
            `Steps.held` of the rows before these, of as many as wait.
        learning : bool
            Whether the units go on with these rows, or stay.
        """
        count, mean, deviation = self._statistics(rows, learning)
        filled = _filled(held, rows)
        y, known = rows[..., self._targets], filled[..., self._targets]
        root = self._roots(y, np.concatenate([before, known[1:]]), learning)
        each = np.empty((3, len(rows), rows.shape[1], *self._change.shape))
        for h, horizon in enumerate(self._horizons):
            now = slice(1, None) if horizon else slice(None, -1)  # its own row is not known
            seen = np.where(count[now] > 0, mean[now], np.nan)[:, self._targets]
            each[0, :, :, h] = known[now]
            each[1, :, :, h] = seen[:, None]
            plain = deviation[now][:, self._targets]
            each[2, :, :, h] = np.where(self._change[h], root[:, h], plain)[:, None]
        if not self._online:
            each[2] = 1
        xs = filled[1:] if self._hold else rows
        xs = xs[..., self._inputs]
        if self._online:
            unit = np.where(deviation > 0, deviation, 1)[1:, None, self._inputs]
            xs = np.clip((xs - mean[1:, None, self._inputs]) / unit, -FARTHEST, FARTHEST)
        return Steps(np.where(np.isnan(xs), 0, xs).astype(self._dtype), y, known[1:], *each)

    def base(self, steps: Steps) -> NDArray[Any]:
        """Return what an output of 0 means, (T, batch, horizons, targets)."""
        if not self._online:
            return np.zeros_like(steps.mean)
        return np.where(self._change, steps.last, steps.mean)

    def state(self) -> dict[str, Any]:
        """Return what was seen, as JSON can hold it."""
        return {
            "columns": self._running.state(),
            "moves": self._moves.ravel().tolist(),
            "squares": self._squares.ravel().tolist(),
        }

    def go_to(self, state: Any, where: str) -> None:
        """Go on from :meth:`state`.

        Raises
        ------
        ValueError
            If it is none.
        """
        sums = listed(number(0), self._change.size)
        rules = {"columns": lambda where, value: value, "moves": sums, "squares": sums}
        state = record(rules)(where, state)
        self._running.go_to(state["columns"], f"{where}.columns")
        self._moves, self._squares = (
            np.reshape(state[name], self._change.shape) for name in ("moves", "squares")
        )

    def _statistics(self, rows: NDArray[Any], learning: bool) -> tuple[NDArray[Any], ...]:
        """Return count, mean and deviation before each row and after the last, (T + 1, columns)."""
        running, (steps, batch, columns) = self._running, rows.shape
        first = running.count, running.mean, running.deviation
        if not learning:
            return tuple(np.broadcast_to(one, (steps + 1, columns)) for one in first)
        after = running.update(rows.reshape(-1, columns))
        return tuple(
            np.concatenate([before[None], all_after[batch - 1 :: batch]])
            for before, all_after in zip(first, after, strict=True)
        )

    def _roots(self, y: NDArray[Any], known: NDArray[Any], learning: bool) -> NDArray[Any]:
        """Return the root mean square of changes up to each row, (T, horizons, targets)."""
        steps, before = len(y), len(known) - len(y)
        if not learning:
            root = np.sqrt(self._squares / np.maximum(self._moves, 1))
            return np.broadcast_to(root, (steps, *root.shape))
        moves = np.full((steps, y.shape[1], *self._change.shape), np.nan)
        for h, horizon in enumerate(self._horizons):
            first = max(0, horizon - before)  # the first row with one so far behind it
            if first < steps:
                behind = known[first + before - horizon : before + steps - horizon]
                moves[first:, :, h] = y[first:] - behind
        there = ~np.isnan(moves)
        count = running_sums(self._moves, there.sum(axis=1))
        squares = running_sums(self._squares, (np.where(there, moves, 0.0) ** 2).sum(axis=1))
        self._moves, self._squares = count[-1], squares[-1]
        root = np.sqrt(squares / np.maximum(count, 1))
        return root[1:]


def _filled(held: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """Return the last values seen before each row, and after the last, (T + 1, batch, columns)."""
    found = np.concatenate([held[None], rows])
    for t in np.flatnonzero(np.isnan(rows).any(axis=(1, 2))) + 1:
        found[t] = np.where(np.isnan(found[t]), found[t - 1], found[t])
    return found
