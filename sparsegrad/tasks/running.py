"""Means and deviations of what was seen so far, row by row; cut into any parts, to the bit."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.system.schema import listed, number, record, whole


class Running:
    """Running mean and deviation of some columns; a missing value (NaN) leaves its column as it is.

    Sums run over differences from a column's first value, squares as Welford's (1962) do, one row
    after the other: parts of any length give the same bits.

    Parameters
    ----------
    columns : int
    """

    def __init__(self, columns: int) -> None:
        self.count = np.zeros(columns)
        self._first, self._total, self._squares = np.zeros((3, columns))

    def update(self, rows: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Take rows, (n, columns); return count, mean and deviation after each of them."""
        seen = ~np.isnan(rows)
        new = np.flatnonzero((self.count == 0) & seen.any(axis=0))
        self._first[new] = rows[seen[:, new].argmax(axis=0), new] if new.size else 0.0
        count = running_sums(self.count, seen)
        total = running_sums(self._total, np.where(seen, rows - self._first, 0.0))
        means = np.where(count > 0, self._first + total / np.maximum(count, 1), 0.0)
        products = np.maximum((rows - means[:-1]) * (rows - means[1:]), 0)
        squares = running_sums(self._squares, np.where(seen, products, 0.0))
        self.count, self._total, self._squares = count[-1], total[-1], squares[-1]
        return count[1:], means[1:], _deviations(squares[1:], count[1:])

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each column so far; 0 where nothing was seen."""
        return self._first + self._total / np.maximum(self.count, 1)

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Deviation of each column so far; 0 where it did not change."""
        return _deviations(self._squares, self.count)

    def state(self) -> dict[str, Any]:
        """Return all of it, as JSON can hold it."""
        return {
            "count": self.count.astype(int).tolist(),
            "first": self._first.tolist(),
            "total": self._total.tolist(),
            "squares": self._squares.tolist(),
        }

    def go_to(self, state: Any, where: str) -> None:
        """Go on from :meth:`state`.

        Raises
        ------
        ValueError
            If it is none.
        """
        columns = self.count.size
        numbers = listed(number(), columns)
        rules = {"count": listed(whole(), columns), "first": numbers, "total": numbers,
                 "squares": listed(number(0), columns)}  # fmt: skip
        state = record(rules)(where, state)
        self.count = np.array(state["count"], float)
        self._first, self._total, self._squares = (
            np.array(state[name], float) for name in ("first", "total", "squares")
        )


def running_sums(before: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sums before each row and after the last one, added up in order."""
    return np.cumsum(np.concatenate([before[None], rows]), axis=0)


def _deviations(squares: NDArray[Any], count: NDArray[Any]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.sqrt(np.maximum(squares, 0) / np.maximum(count, 1))
    return found
