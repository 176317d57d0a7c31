"""What a step of a learner over ranks costs each of them: counted, and expected on paper.

    step = what every rank does for itself + update of the panels of one rank + exchange

The parts of J are those of `OnlineLearner(…, comm=comm)`, and the rank that counts is the one
with the most work. Its update is priced by the cost model, the exchange by the network. What every
rank does for itself (forward pass, D and I, readout, optimiser, all weights of them) is measured
here: it is the step of a learner that has one part of J alone, without that part's update.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.structure import Structure
from sparsegrad.influence.influence import Influence
from sparsegrad.kernels.influence.exchange import Exchange
from sparsegrad.kernels.influence.store import Store
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import Adam
from sparsegrad.learning.readout import Linear
from sparsegrad.methods.sharing import Parts, cut_ranks, work
from sparsegrad.methods.snap import InfluenceEngine
from sparsegrad.profiling.cost_model import COUNTED, CostModel
from sparsegrad.profiling.network import Network
from sparsegrad.profiling.profile import POINT_SECONDS, Point, Sweep
from sparsegrad.profiling.timing import time_call
from sparsegrad.registry import CELLS

GROUP = 16
"""Parts whose reach is held at once."""
RUN_STEPS = 16


def with_ranks(
    sweep: Sweep,
    drawn: Structure,
    point: Point,
    network: Network,
    model: CostModel | None,
) -> Iterator[Point]:
    """Yield a point of a profile with the cost of a step for each number of ranks of the sweep.

    Parameters
    ----------
    sweep : Sweep
    drawn : Structure
        Of the point's net.
    point : Point
    network : Network
    model : CostModel or None
        Of this machine, for the sweep's dtype and threads; None: counts alone.

    Yields
    ------
    Point
    """
    n = None if isinstance(point.n, str) else point.n
    counts, works = count_parts(drawn.net, n, sweep.batch, model)
    alone = 0.0 if model is None else _alone(sweep, point, n, model)
    itemsize = np.dtype(sweep.dtype).itemsize
    total = point.weights * itemsize

    def seconds(ranks: int, model: CostModel) -> float:
        """Return the time of a step on the rank with the most work."""
        most = shares(counts, works, ranks)[np.argmax(shares(works, works, ranks))]
        update = model.price(most[1:], sweep.threads)
        return float(alone + update + network.gather_seconds(ranks, total))

    for ranks in sweep.ranks:
        found = replace(point, ranks=ranks)
        if ranks > works.size:
            yield replace(found, note=f"{works.size} parts")
            continue
        entries = int(shares(counts, works, ranks)[:, 0].max())
        found = replace(
            found,
            rank_entries=entries,
            rank_bytes=entries * itemsize,
            exchanged_bytes=network.gather_bytes(ranks, total),
            exchange_seconds=network.gather_seconds(ranks, total),
        )
        if model is not None:
            took = seconds(ranks, model)
            speedup = seconds(1, model) / took
            found = replace(found, alone_seconds=alone, rank_seconds=took, rank_speedup=speedup)
        yield found


def count_parts(
    net: Any, n: int | None, batch: int = 1, model: CostModel | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Count the parts that ranks take.

    Parameters
    ----------
    net : Cell, or what has its kind, units and maps
    n : int, optional
        Steps of reach; None: to saturation.
    batch : int
        Sequences.
    model : CostModel, optional

    Returns
    -------
    counts : float64 array, (parts, 1 + len(COUNTED))
        Entries of J, then what the model counts; zeros without it.
    works : int64 array, (parts,)
        By which ranks are cut.
    """
    parts = Parts(net, n)
    counts = np.zeros((len(parts), 1 + len(COUNTED)))
    works = np.zeros(len(parts), np.int64)
    for first in range(0, len(parts), GROUP):
        for k, part in enumerate(parts.patterns(first, min(first + GROUP, len(parts))), first):
            counts[k, 0], works[k] = batch * part.nnz, work(part)
            if model is not None:
                counts[k, 1:] = model.count(part, batch)
    return counts, works


def shares(counts: NDArray[Any], works: NDArray[np.int64], ranks: int) -> NDArray[Any]:
    """Return the sums of what is counted for each part over those of each rank: (ranks, …)."""
    return np.add.reduceat(counts, cut_ranks(works, ranks)[:-1])


class _OnePart:
    """SnAp-n with the panels of one part of the weights, as a rank has that has no more of them."""

    def __init__(self, n: int | None) -> None:
        self.n = n

    def engine(self, cell: Any, batch: int, threads: int | None) -> InfluenceEngine:
        """Prepare the method for a cell."""
        parts = Parts(cell, self.n)
        (pattern,) = parts.patterns(0, 1)
        return InfluenceEngine(cell, pattern, batch, threads, _Place(cell, parts))  # type: ignore[arg-type]


class _Place:
    """The place of the first part among all weights, as `Share` gives that of a rank."""

    def __init__(self, cell: Cell, parts: Parts) -> None:
        self.values, self._shape = parts.immediate.nnz, (cell.weights.size, cell.dtype)

    def store(self, influence: Influence) -> Store:
        """Return the influence as compiled loops take it, with the gradient of all weights."""
        store, none = influence.store(), np.zeros(0, np.int32)
        nobody = Exchange(none.astype(np.int64), none, none, np.zeros(1, np.int64))
        return store._replace(step_grad=np.zeros(*self._shape), exchange=nobody)


def _alone(sweep: Sweep, point: Point, n: int | None, model: CostModel) -> float:
    """Time what every rank does for itself in a step of a learner with Adam and one output."""
    cell = CELLS[point.cell].load()(
        sweep.inputs, point.units, sparsity=point.sparsity, gate_masks=sweep.gate_masks,
        seed=sweep.seed, dtype=sweep.dtype,
    )  # fmt: skip
    learner = OnlineLearner(
        cell, Linear(1), _OnePart(n), Adam(1e-6), batch=sweep.batch, threads=sweep.threads
    )
    rng = np.random.default_rng(sweep.seed)
    shape = RUN_STEPS, sweep.batch
    xs = rng.standard_normal((*shape, cell.inputs)).astype(cell.dtype)
    targets = rng.standard_normal((*shape, 1)).astype(cell.dtype)
    pattern = learner.pattern
    assert pattern is not None  # of that part
    took = time_call(lambda: learner.run(xs, targets), POINT_SECONDS).median / RUN_STEPS
    return max(0.0, took - model.seconds(pattern, sweep.batch, sweep.threads))
