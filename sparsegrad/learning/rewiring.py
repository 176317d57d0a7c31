"""Schedules of masks: magnitude pruning, and weights that move to where they are worth more.

Both go by the time steps that a learner has learned from and by its masks alone, so that a learner
that is read from a file goes on with them bit for bit. Biases stay as they are.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.layout import map_rows
from sparsegrad.cells.stack import one_cell
from sparsegrad.system.checks import integer, real

if TYPE_CHECKING:
    from sparsegrad.cells.cell import Cell
    from sparsegrad.cells.stack import Stack
    from sparsegrad.learning.learner import OnlineLearner

MATRICES = ("weight_hh", "weight_ih")
RULES = ("set", "rigl")
_AT_A_TIME = 1 << 21  # scores that are formed at a time


@dataclass(frozen=True)
class Pruning:
    """Gradual magnitude pruning (Zhu and Gupta 2017, arXiv 1710.01878, equation 1).

    From `begin` to `end`, each matrix loses its weights of least magnitude, over all gates, until
    its sparsity is ``final + (initial - final) (1 - (t - begin) / (end - begin))³``. One that is
    sparser than `final` from the start stays as it is.

    Parameters
    ----------
    final : float
        Sparsity at the end, in (0, 1).
    begin, end : int
        Time steps, ``begin < end``.
    every : int
        Time steps from one pruning to the next.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of range.
    """

    final: float
    begin: int
    end: int
    every: int

    def __post_init__(self) -> None:
        _share("final", self.final)
        integer("begin", self.begin, least=0)
        integer("every", self.every, least=1)
        integer("end", self.end, least=self.begin + 1, hint="; it must come after begin")

    def rewire(self, learner: "OnlineLearner", steps: int) -> bool:
        """Prune a learner that is about to learn from `steps` time steps, if it is time.

        Parameters
        ----------
        learner : OnlineLearner
        steps : int
            Length of the next call of :meth:`OnlineLearner.run`. Where several prunings fall in it,
            the last one is done.

        Returns
        -------
        bool
            Whether weights were pruned.

        Raises
        ------
        ValueError
            If both matrices are sparser than `final` before the first pruning.
        """
        now = learner.steps
        due = _last_due(now, steps, self.begin, self.every, self.end)
        if due is None:
            return False
        cell, masks = learner.cell, {}
        passed = max(now - 1 - self.begin, 0) // self.every  # whole intervals before these steps
        before = self.begin + passed * self.every
        sparsity = {
            name: 1 - cell.places[name][1].size / math.prod(cell.dense_shape(name))
            for name in _of(cell)
        }
        if before == self.begin and min(sparsity.values(), default=1.0) > self.final:
            raise ValueError(
                f"final must be above what is absent already, {min(sparsity.values(), default=1)}"
                f", got {self.final}: prune further, or not at all"
            )
        # what is still to go shrinks by the same factor for any start, so that none is kept in mind
        left = (self._left(due) / self._left(before)) ** 3
        for name, absent in sparsity.items():
            if absent >= self.final:
                continue
            size = math.prod(cell.dense_shape(name))
            keep = round((1 - (self.final + (absent - self.final) * left)) * size)
            masks[name] = _mask(size, _largest(cell, name, max(keep, 1)))
        return _rewired(learner, masks)

    def _left(self, step: int) -> float:
        return (self.end - step) / (self.end - self.begin)


@dataclass(frozen=True)
class Rewiring:
    """Weights of least magnitude go, as many others come, at 0; the number of weights stays.

    A share ``fraction / 2 · (1 + cos(π t / until))`` of each matrix's weights, over all gates. By
    ``"set"`` the new ones are drawn at random (Mocanu et al. 2018, arXiv 1707.04780); by ``"rigl"``
    they are those of largest score ``|Σ_t ∂L_t/∂a_i · source_j|`` over the steps that the learner
    is about to learn from (Evci et al. 2020, arXiv 1911.11134, online: the loss of a step by the
    sums of that step). Weights that go do not come back at once.

    Parameters
    ----------
    fraction : float
        Share that moves at first, in (0, 1).
    every : int
        Time steps from one rewiring to the next; the first one is at `every`.
    until : int
        Time step of the last one.
    rule : {"set", "rigl"}
    seed : int
        Of the draws of ``"set"``.

    Raises
    ------
    TypeError, ValueError
        If a setting is no number or out of range, or the rule unknown.
    """

    fraction: float
    every: int
    until: int
    rule: str = "set"
    seed: int = 0

    def __post_init__(self) -> None:
        _share("fraction", self.fraction)
        integer("every", self.every, least=1)
        integer("until", self.until, least=1)
        integer("seed", self.seed, least=0)
        if not isinstance(self.rule, str) or self.rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, got {self.rule!r}")

    def rewire(
        self,
        learner: "OnlineLearner",
        xs: NDArray[Any],
        targets: NDArray[Any],
        weights: NDArray[Any] | None = None,
        resets: NDArray[np.bool_] | None = None,
    ) -> bool:
        """Rewire a learner that is about to learn from these steps, if it is time.

        Parameters
        ----------
        learner : OnlineLearner
        xs, targets, weights, resets
            As the next call of :meth:`OnlineLearner.run` gets them. Where several rewirings fall
            in these steps, the last one is done.

        Returns
        -------
        bool
            Whether weights have moved.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As for :meth:`OnlineLearner.run`.
        """
        due = _last_due(learner.steps, len(xs), self.every, self.every, self.until)
        if due is None:
            return False
        cell, masks = learner.cell, {}
        share = self.fraction / 2 * (1 + np.cos(np.pi * due / self.until))
        rng = np.random.default_rng([self.seed, due])
        probe = learner.probe(xs, targets, weights, resets) if self.rule == "rigl" else None
        for name in _of(cell):
            exist, size = np.sort(cell.places[name][1]), math.prod(cell.dense_shape(name))
            count = min(round(share * exist.size), size - exist.size, exist.size - 1)
            if count < 1:
                continue
            if probe is None:
                new = _absent(exist, rng.choice(size - exist.size, count, replace=False))
            else:
                new = best_absent(one_cell(cell, "rigl"), name, count, *probe)[0]
            kept = _largest(cell, name, exist.size - count)
            masks[name] = _mask(size, np.concatenate([kept, new]))
        return _rewired(learner, masks)


def best_absent(
    cell: "Cell",
    name: str,
    count: int,
    signals: NDArray[np.float64],
    sources: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the places of largest score among those where a matrix has no weight.

    Parameters
    ----------
    cell : Cell
    name : str
        Of the matrix.
    count : int
        How many; of equal scores, the first places.
    signals, sources : float64 arrays, (T, rows of the maps), (T, sources)
        As :meth:`OnlineLearner.probe` returns them.

    Returns
    -------
    int64 array, float64 array, (count,)
        Places in the dense array, and their scores ``|Σ_t signals · sources|``, falling. Memory
        is that of the factors and of some rows of scores at a time.
    """
    width = cell.dense_shape(name)[1]
    first = 0 if name == "weight_hh" else cell.units
    read, rows = sources[:, first : first + width], map_rows(cell.kind, name, cell.units)
    exist = np.sort(cell.places[name][1])
    places, scores = np.empty(0, np.int64), np.empty(0)
    step = max(1, _AT_A_TIME // width)
    for row in range(0, rows.size, step):
        block = np.abs(signals[:, rows[row : row + step]].T @ read).reshape(-1)
        start = row * width
        here = exist[np.searchsorted(exist, start) : np.searchsorted(exist, start + block.size)]
        block[here - start] = -1.0
        least = np.partition(block, -count)[-count] if block.size > count else -1.0
        found = np.flatnonzero((block >= max(least, scores.min(initial=0.0))) & (block >= 0))
        if scores.size < count:
            found = np.flatnonzero((block >= least) & (block >= 0))
        places = np.concatenate([places, found + start])
        scores = np.concatenate([scores, block[found]])
        order = np.lexsort((places, -scores))[:count]
        places, scores = places[order], scores[order]
    return places, scores


def _share(name: str, value: float) -> None:
    if not 0 < real(name, value) < 1:
        raise ValueError(f"{name} must lie in (0, 1), got {value}")


def _last_due(now: int, steps: int, first: int, every: int, last: int) -> int | None:
    """Return the last step of a schedule in [now, now + steps), or None."""
    end = min(now + steps - 1, last)
    if last >= now and last == end:
        return last
    due = first + (end - first) // every * every
    return due if due >= max(now, first) else None


def _of(cell: "Cell | Stack") -> list[str]:
    """Return the names of the matrices, layer by layer of a stack."""
    return [
        name
        for name, (_, place) in cell.places.items()
        if name.rpartition(".")[2] in MATRICES and place.size
    ]


def _largest(cell: "Cell | Stack", name: str, count: int) -> NDArray[np.int64]:
    """Return the places of a matrix's weights of largest magnitude, of equal ones the first."""
    weight, place = cell.places[name]
    order = np.lexsort((place, -np.abs(cell.weights[weight])))[:count]
    return place[order]


def _absent(exist: NDArray[np.int64], ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places of these ranks among those that do not exist."""
    return ranks + np.searchsorted(exist - np.arange(exist.size), ranks, side="right")


def _mask(size: int, places: NDArray[np.int64]) -> NDArray[np.bool_]:
    mask = np.zeros(size, bool)
    mask[places] = True
    return mask


def _rewired(learner: "OnlineLearner", masks: dict[str, NDArray[np.bool_]]) -> bool:
    """Rewire where a mask is another one than before; masks are flat."""
    cell, changed = learner.cell, {}
    for name, mask in masks.items():
        place = cell.places[name][1]
        if np.count_nonzero(mask) != place.size or not mask[place].all():
            changed[name] = mask.reshape(cell.dense_shape(name))
    if changed:
        learner.rewire(changed)
    return bool(changed)
