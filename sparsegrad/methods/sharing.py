"""An influence over ranks: which weights each rank keeps, their reach, their place in the loops.

The units are cut into parts that depend on the net alone. A part's reach and its panels are found
by themselves, so that every number of its gradient is made by the same operations whichever rank
makes it, and the weights are bitwise the same for any number of ranks. A rank takes neighbouring
parts, about as much counted work as every other.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.jacobians import Net, dynamics_alone, immediate_pattern, own_pattern
from sparsegrad.influence.influence import Influence
from sparsegrad.influence.lowering import lower_in_parts
from sparsegrad.kernels.influence.exchange import Exchange
from sparsegrad.kernels.influence.store import Store
from sparsegrad.symbolic.pattern import ReachPattern, joined, part_of, reach
from sparsegrad.system.ranks import Ranks

MOST_PARTS = 256
LEAST_UNITS = 4  # of a part: narrow panels go through together within one
TRAFFIC = 4  # multiply-adds that an entry of J costs beside its own: it is read and written


class Share:
    """What one of several ranks keeps of an influence.

    Parameters
    ----------
    cell : Cell
        The cell, the same on all ranks.
    n : int, optional
        Steps of reach; None: to saturation.
    ranks : Ranks

    Attributes
    ----------
    ranks : Ranks
    pattern : ReachPattern
        The reach of the weights of this rank.
    values : int
        Entries of I of all weights.

    Raises
    ------
    ValueError
        If there are more ranks than parts.
    """

    def __init__(self, cell: Cell, n: int | None, ranks: Ranks) -> None:
        self.ranks, self._dtype = ranks, cell.dtype
        search = Parts(cell, n)
        bounds, immediate, parts = search.bounds, search.immediate, len(search)
        if ranks.size > parts:
            raise ValueError(
                f"ranks must be at most {parts}, one for each part of {cell.units} units, got "
                f"{ranks.size}: start fewer"
            )
        self.values = immediate.nnz
        first, last = np.arange(parts + 1)[[parts * (ranks.rank + k) // ranks.size for k in (0, 1)]]
        costs = [work(part) for part in search.patterns(first, last)]
        cuts = cut_ranks(np.concatenate(ranks.every(costs)), ranks.size)
        mine = search.patterns(cuts[ranks.rank], cuts[ranks.rank + 1])
        self.pattern = joined(mine)
        lower_in_parts(self.pattern, mine)
        of_rank = bounds[cuts]
        self._first = int(of_rank[ranks.rank])
        self._values_before = int(immediate.indptr[self._first])
        self._counts = np.diff(of_rank).tolist()
        self._entries = ranks.every(self.pattern.nnz)

    def store(self, influence: Influence) -> Store:
        """Return this rank's influence as compiled loops take it, with the gradient of all."""
        store = influence.store()
        return store._replace(
            program=store.program.moved(self._first, self._values_before),
            step_grad=np.zeros(sum(self._counts), self._dtype),
            exchange=Exchange(
                words=np.array(self.ranks.words(self._dtype), np.int64),
                counts=np.array(self._counts, np.int32),
                displacements=np.cumsum([0, *self._counts[:-1]]).astype(np.int32),
                seen=np.zeros(1, np.int64),
            ),
        )

    def whole(self, entries: NDArray[Any]) -> NDArray[Any]:
        """Return the entries of J of all ranks, weight by weight, on rank 0; zeros elsewhere."""
        return self.ranks.gather(entries, self._entries)

    def own(self, entries: NDArray[Any]) -> NDArray[Any]:
        """Return this rank's part of the entries of J of all."""
        before = sum(self._entries[: self.ranks.rank])
        return entries[before : before + self._entries[self.ranks.rank]]


class Parts:
    """The parts that ranks take: which weights are in each, and their reach, found once.

    Parameters
    ----------
    net : Cell, or what has its kind, units and maps
    n : int, optional
        Steps of reach; None: to saturation.

    Attributes
    ----------
    bounds : int64 array, (parts + 1,)
        The weight at which each part begins, and the end.
    immediate : csc_array of bool, (states, weights)
        The pattern of I.
    """

    def __init__(self, net: Net, n: int | None) -> None:
        self.bounds, self.immediate = cut_parts(net), immediate_pattern(net)
        self._dynamics, self._own, self._n = dynamics_alone(net), own_pattern(net), n
        self._found: dict[int, ReachPattern] = {}

    def __len__(self) -> int:
        """How many parts there are."""
        return self.bounds.size - 1

    def patterns(self, first: int, last: int) -> list[ReachPattern]:
        """Return the patterns of parts `first` to `last` - 1, and forget all others."""
        missing = [part for part in range(first, last) if part not in self._found]
        for group in np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1):
            if group.size:
                self._find(int(group[0]), int(group[-1]) + 1)
        self._found = {part: self._found[part] for part in range(first, last)}
        return list(self._found.values())

    def _find(self, first: int, last: int) -> None:
        bounds = self.bounds[first : last + 1]
        columns = self.immediate[:, bounds[0] : bounds[-1]]
        pattern = reach(self._dynamics, columns, self._n, own=self._own)
        for k in range(last - first):
            begin, end = (bounds[k : k + 2] - bounds[0]).tolist()
            self._found[first + k] = part_of(pattern, begin, end)


def cut_parts(net: Net) -> NDArray[np.int64]:
    """Return the weight at which each part begins, and the end: whole units, about as many each."""
    before = net.maps.indptr[:: len(net.kind.maps)]  # weights of a unit follow each other
    parts = min(MOST_PARTS, -(-net.units // LEAST_UNITS))
    targets = np.arange(parts + 1) * (net.maps.indices.size / parts)
    return np.unique(before[np.searchsorted(before, targets)])


def cut_ranks(costs: NDArray[np.int64], ranks: int) -> NDArray[np.int64]:
    """Cut the parts into as many ranges of equal work, none of them empty: int64, (ranks + 1,)."""
    middle = np.cumsum(costs) - costs / 2  # a part goes to the rank that has most of it
    cuts = np.searchsorted(middle, costs.sum() * np.arange(ranks + 1) / ranks)
    cuts[0], cuts[-1] = 0, costs.size
    for k in range(1, ranks):
        cuts[k] = min(max(cuts[k], cuts[k - 1] + 1), costs.size - ranks + k)
    return cuts.astype(np.int64)


def work(part: ReachPattern) -> int:
    """Return what a part costs a rank, in multiply-adds; by it the ranks are cut."""
    cost = part.cost()
    return cost.multiply_adds + TRAFFIC * cost.entries
