"""The engine of SnAp-1 and RFLO: a trace per weight, which stays within its own unit."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.kernels.learning.steps import Chunk, Learner, Streams
from sparsegrad.kernels.methods.trace_window import WindowTraces, close_traces
from sparsegrad.kernels.methods.traces import HELD, Traces, run_traces
from sparsegrad.kernels.vectors.simd import BYTES, SLACK
from sparsegrad.methods.engine import Layout, Outcome, copy_into
from sparsegrad.methods.window import Carried
from sparsegrad.system.memory import aligned_zeros


class TraceEngine:
    """Traces of each weight on its unit: those of I, and of what follows from them in the unit.

    There is none of an h that nothing reads again.

    Parameters
    ----------
    cell, batch, threads
        As in :class:`Layout`.
    own_weight : int32 array, (units * maps,)
        The weight of each unit on itself through each map, if the traces follow it; else -1.
    keeps_h : bool
        Whether to keep the traces of h that no step of the method reads; a window's backward pass
        does.
    """

    def __init__(
        self,
        cell: Cell,
        batch: int,
        own_weight: NDArray[np.int32],
        threads: int | None,
        keeps_h: bool = False,
    ) -> None:
        self.cell, self.batch, self._keeps_h = cell, batch, keeps_h
        self.layout = layout = Layout(cell, batch, True, True, threads)
        count, parts = cell.kind.components, layout.parts.size - 1
        drops_h = np.zeros(cell.units, bool) if keeps_h else _drops_h(cell, own_weight)
        entries = _entries(cell, layout.abreast, drops_h)
        dtype = cell.dtype
        self.steps = layout.steps(cell, batch, HELD)
        self._traces = Traces(
            own_weight=own_weight,
            drops_h=drops_h,
            starts=np.concatenate([[0], np.cumsum(entries)]).astype(np.int64),
            traces=aligned_zeros((layout.groups, int(entries.sum())), dtype),
            blocks=aligned_zeros((HELD, count, count, cell.units * layout.abreast), dtype),
            old=aligned_zeros((parts, count * SLACK), dtype),
            sweeps=np.zeros(1, np.int64),
        )

    def traces_behind(self, weights: int) -> Traces:
        """Return the traces, as compiled loops have them, of a cell behind so many weights."""
        own = self._traces.own_weight
        return self._traces._replace(own_weight=np.where(own >= 0, own + np.int32(weights), own))

    def run(self, learner: Learner, chunk: Chunk, streams: Streams) -> Outcome:
        """Run a chunk through the compiled loop."""
        kind = self.cell.kind
        update = kind.compiled(self.cell.dtype)
        return Outcome(
            *run_traces(update, learner, kind.kept, chunk, streams, self.steps, self._traces)
        )

    def window_values(self, window: int) -> int:
        """Return how many numbers a window needs: as many for any."""
        return sum(map(math.prod, self._window_shapes()))

    def _window_shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        kind, columns = self.cell.kind, self._traces.blocks.shape[3]
        pairs = int((np.diff(kind.kept.map_indptr) ** 2).sum())
        return (pairs, columns), (kind.components, columns)

    def carried(self, window: int) -> Carried:
        """Allocate what takes the traces through any number of steps at once."""
        kind, dtype = self.cell.kind, self.cell.dtype
        chain, fresh = (aligned_zeros(shape, dtype) for shape in self._window_shapes())
        data = WindowTraces(traces=self._traces, chain=chain, fresh=fresh)
        return Carried(close_traces, data, self._traces.traces, kind.kept)

    def flush(self, learner: Learner) -> None:
        """Nothing is held back."""

    def fresh(self) -> "TraceEngine":
        """Return an engine for the same cell at the start of its sequences."""
        own, threads = self._traces.own_weight, self.layout.threads
        return TraceEngine(self.cell, self.batch, own, threads, self._keeps_h)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the traces."""
        return {"traces": self._traces.traces}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what :meth:`state` returned."""
        copy_into(self.state(), state)

    def carry(self, before: "TraceEngine", origin: NDArray[np.int64]) -> None:
        """Take over the traces of weights that were there; one that was not kept sets out from 0.

        Of an h that its unit did not read: the weight by which it does now is 0 at first.
        """
        places, old_places = self._places(), before._places()
        old_places = np.where(origin[:, None] >= 0, old_places[origin], -1)
        weight, component = np.nonzero((places >= 0) & (old_places >= 0))
        to, source = places[weight, component], old_places[weight, component]
        for lane in range(self.layout.abreast):
            self._traces.traces[:, to + lane] = before._traces.traces[:, source + lane]

    def _places(self) -> NDArray[np.int64]:
        """Return where the traces of a weight begin, (weights, components); -1: none is kept."""
        cell, partials, drops_h = self.cell, self.cell.kind.kept, self._traces.drops_h
        n_maps, lengths = len(cell.kind.maps), np.diff(cell.maps.indptr)
        row = np.arange(lengths.size)
        unit, which = np.divmod(row, n_maps)
        touched = np.diff(partials.map_indptr)[which]
        first = partials.map_components[partials.map_indptr[which]]
        drops = (drops_h[unit] & (first == 0)).astype(np.int64)
        carried, lanes = touched - drops, BYTES // cell.dtype.itemsize
        alone = self.layout.abreast == 1
        pitch = -(-lengths // lanes) * lanes if alone else np.full(lengths.size, lanes)
        sizes = carried * (pitch if alone else lanes * lengths)
        starts = np.cumsum(sizes) - sizes
        row_of = np.repeat(row, lengths)
        inset = np.arange(row_of.size) - cell.maps.indptr[row_of]
        places = np.full((row_of.size, cell.kind.components), -1, np.int64)
        for k in range(int(touched.max())):
            slot = k - drops[row_of]
            here = (k < touched[row_of]) & (slot >= 0)
            r, within, s = row_of[here], inset[here], slot[here]
            at = s * pitch[r] + within if alone else (within * carried[r] + s) * lanes
            component = partials.map_components[partials.map_indptr[which[r]] + k]
            places[np.flatnonzero(here), component] = starts[r] + at
        return places


def own_weights(cell: Cell) -> NDArray[np.int32]:
    """Return the weight of each unit on itself, (units * maps,), or -1 where there is none."""
    row = np.repeat(np.arange(cell.maps.indptr.size - 1), np.diff(cell.maps.indptr))
    own = np.flatnonzero(cell.maps.indices == row // len(cell.kind.maps))
    weights = np.full(cell.maps.indptr.size - 1, -1, np.int32)
    weights[row[own]] = own
    return weights


def _drops_h(cell: Cell, own_weight: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return which units keep no trace of h, (units,): it enters none of their components again."""
    partials, alone = cell.kind.kept, (own_weight < 0).reshape(cell.units, -1).all(axis=1)
    few = np.diff(partials.map_indptr).max() <= 2  # more go by the plain loop, which keeps all
    again = bool((partials.state_columns == 0).any())
    return np.logical_and(alone, few and not again)


def _entries(cell: Cell, abreast: int, drops_h: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the length of each unit's traces, (units,)."""
    partials = cell.kind.kept
    starts, lengths = partials.map_indptr, np.diff(cell.maps.indptr).reshape(cell.units, -1)
    map_of = np.repeat(np.arange(starts.size - 1), np.diff(starts))
    into_h = np.isin(np.arange(starts.size - 1), map_of[partials.map_components == 0])
    carried = np.diff(starts) - (drops_h[:, None] & into_h)
    lanes = BYTES // cell.dtype.itemsize
    rows = -(-lengths // lanes) * lanes if abreast == 1 else lengths * abreast
    return (rows * carried).sum(axis=1)
