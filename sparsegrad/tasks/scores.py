"""How well values were predicted, beside the last value (persistence) and a running mean."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.system.schema import listed, number, record

MODELS = ("", "_persistence", "_mean")
"""What follows a measure's name: nothing for the learner, then the two baselines."""


class Scores:
    """Sums of errors of the learner and of two baselines, by horizon and target.

    Parameters
    ----------
    horizons : sequence of int
    targets : int
    """

    def __init__(self, horizons: Sequence[int], targets: int) -> None:
        self._horizons, shape = tuple(horizons), (len(horizons), targets)
        self._squares, self._sizes = np.zeros((2, len(MODELS), *shape))
        self._count, self._first, self._total, self._spread = np.zeros((4, *shape))

    @property
    def count(self) -> int:
        """Values that were scored."""
        return int(self._count.sum())

    def add(self, truth: NDArray[Any], models: Sequence[NDArray[Any]]) -> None:
        """Score values, (steps, batch, horizons, targets); NaN in one of the arrays scores nothing.

        Parameters
        ----------
        truth : float array
        models : sequence of float arrays
            What each of `MODELS` said.
        """
        errors = np.stack([truth - model for model in models])
        there = ~np.isnan(errors).any(axis=0)
        errors = np.where(there, errors, 0.0)
        new = (self._count == 0) & there.any(axis=(0, 1))
        flat = np.where(there, truth, math.nan).reshape(-1, *self._count.shape)
        for h, k in np.argwhere(new):
            column = flat[:, h, k]
            self._first[h, k] = column[~np.isnan(column)][0]
        away = np.where(there, truth - self._first, 0.0)
        self._squares += (errors**2).sum(axis=(1, 2))
        self._sizes += np.abs(errors).sum(axis=(1, 2))
        self._count += there.sum(axis=(0, 1))
        self._total += away.sum(axis=(0, 1))
        self._spread += (away**2).sum(axis=(0, 1))

    def report(self) -> dict[str, float]:
        """Return RMSE, MAE and nRMSE of each model, and RMSE by horizon where there are several.

        nRMSE divides by the deviation of what came, target by target: the root of the mean over
        targets of squared error by variance. A target that did not change is left out of it.
        """
        if not self.count:
            return {}
        variance = self._spread - self._total**2 / np.maximum(self._count, 1)
        changed = variance > 1e-12 * np.maximum(self._spread, 1e-300)
        found = {}
        for model, squares, sizes in zip(MODELS, self._squares, self._sizes, strict=True):
            found[f"rmse{model}"] = math.sqrt(squares.sum() / self.count)
            found[f"mae{model}"] = float(sizes.sum() / self.count)
            if changed.any():
                parts = squares[changed] / variance[changed]
                found[f"nrmse{model}"] = math.sqrt(parts.mean())
            for h, horizon in enumerate(self._horizons if len(self._horizons) > 1 else ()):
                if self._count[h].any():
                    mean = squares[h].sum() / self._count[h].sum()
                    found[f"rmse_{horizon}{model}"] = math.sqrt(mean)
        return found

    def state(self) -> dict[str, Any]:
        """Return the sums, as JSON can hold them."""
        return {name: array.ravel().tolist() for name, array in self._arrays().items()}

    def go_to(self, state: Any, where: str) -> None:
        """Go on from :meth:`state`.

        Raises
        ------
        ValueError
            If it is none.
        """
        arrays = self._arrays()
        rules = {name: listed(number(), array.size) for name, array in arrays.items()}
        for name, values in record(rules)(where, state).items():
            arrays[name][...] = np.reshape(values, arrays[name].shape)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "squares": self._squares, "sizes": self._sizes, "count": self._count,
            "first": self._first, "total": self._total, "spread": self._spread,
        }  # fmt: skip
