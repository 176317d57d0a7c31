"""The cost model: predicted seconds of an influence update, from counts and rates of this machine.

The counts are those of the lowered pattern (`sparsegrad.influence.program`), no times among them.
A panel of R rows, V vectors each, whose pairs of rows have s shared and t own entries, takes

    s (V + 3), t (2 V + 3)   loads of vectors, values of D and indices
    R V, R                   vectors of J to move through the first cache; rows to walk over
    segments                 loops whose length changes

beside a fixed price per panel, per value of D and I, per entry of I that is added (by vectors where
they lie one after the other), and per call; J's bytes move at the bandwidth
of its own size. Loads from a panel that is too large for a cache have a price of their own.
The prices are rates of this machine: they are fitted, none below zero, to the times of small
synthetic patterns (probes), which the real kernel runs when the model is made. No measured point
has a part in its prediction.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsegrad.influence.influence import Influence
from sparsegrad.influence.lowering import lower
from sparsegrad.kernels.influence import tables
from sparsegrad.kernels.vectors.simd import SLACK
from sparsegrad.profiling.roofline import VECTOR_BYTES, Roofline
from sparsegrad.profiling.timing import time_update
from sparsegrad.symbolic.pattern import ReachPattern

COUNTED = (
    "call", "bandwidth", "value of D or I", "entry of I in a vector", "entry of I alone", "panel",
    "segment", "row", "vector of J",
    *(f"{kind} load, {size}" for size in ("to 16 KiB", "to 32 KiB", "to 96 KiB", "more")
      for kind in ("shared", "own")),
)  # fmt: skip
FAR = (1 << 14, 1 << 15, 3 << 15)
"""Bytes of a panel beyond which a load of its rows has another price: caches of 32 and of 48 KiB
differ, so the steps are rough."""
PROBE_SECONDS = 0.008


class Probe(NamedTuple):
    """A pattern whose panels are all alike."""

    rows: int
    columns: int
    full: float
    panels: int
    written: int = 1
    """Entries of I of each weight."""


PROBES = (
    Probe(1, 1, 0.02, 1), Probe(1, 16, 0.02, 64), Probe(1, 16, 0.02, 600),
    Probe(1, 128, 0.02, 64), Probe(1, 128, 0.02, 600), Probe(2, 300, 0.02, 300),
    Probe(2, 300, 0.02, 300, 2), Probe(2, 64, 0.02, 200, 2), Probe(8, 8, 0.1, 300),
    Probe(8, 128, 0.1, 100),
    *(Probe(48, f, full, 1600 // f + 24) for f in (8, 48, 128) for full in (0.04, 0.25, 0.5, 1)),
    *(Probe(160, f, full, 480 // f + 4) for f in (8, 48, 128) for full in (0.01, 0.1, 0.5, 1)),
    Probe(112, 80, 0.06, 60), Probe(112, 80, 0.25, 60),
    Probe(160, 128, 0.1, 60), Probe(160, 128, 0.5, 60),
    Probe(512, 64, 0.1, 4), Probe(512, 128, 0.1, 2), Probe(512, 128, 0.6, 2),
    Probe(64, 64, 0.03, 8000), Probe(16, 16, 0.1, 40000),
)  # fmt: skip
SHARED = Probe(160, 128, 0.25, 60)
"""What threads share when their gain is measured."""


class CostModel:
    """Predicts the time of an update on this machine, for one dtype.

    Parameters
    ----------
    roofline : Roofline
        Of this machine, for the dtype and threads of the updates.
    seed : int
        Of the probes.

    Attributes
    ----------
    roofline : Roofline
    prices : dict of float
        Seconds of each thing counted; of "bandwidth", the part of its time that shows.
    gain : float
        How many times as fast all threads are as one, on work that is worth sharing.
    """

    def __init__(self, roofline: Roofline, seed: int = 0) -> None:
        self.roofline = roofline
        self._lanes = VECTOR_BYTES // roofline.dtype.itemsize
        counts, seconds = [], []
        for probe in PROBES:
            pattern = synthetic(probe, seed)
            seconds.append(self._time(pattern, 1))
            counts.append(self._things(self.count(pattern)))
        from scipy.optimize import nnls  # 0.2 s to import

        # of the relative errors, and all counts of one size: they differ by six orders
        relative = np.array(counts) / np.array(seconds)[:, None]
        size = np.maximum(np.linalg.norm(relative, axis=0), np.finfo(float).tiny)
        self._prices = nnls(relative / size, np.ones(len(seconds)))[0] / size
        self.prices = dict(zip(COUNTED, self._prices.tolist(), strict=True))
        self.gain = 1.0
        if roofline.threads > 1:
            pattern = synthetic(SHARED, seed)
            self.gain = self._time(pattern, 1) / self._time(pattern, roofline.threads)

    def _time(self, pattern: ReachPattern, threads: int) -> float:
        influence = Influence(pattern, dtype=self.roofline.dtype, threads=threads)
        return time_update(influence, PROBE_SECONDS).median

    def seconds(self, pattern: ReachPattern, batch: int = 1, threads: int = 1) -> float:
        """Return the predicted seconds of an update.

        Parameters
        ----------
        pattern : ReachPattern
        batch : int
            Sequences.
        threads : int
            That work on it: one, or all that the roofline has.

        Returns
        -------
        float
        """
        return self.price(self.count(pattern, batch), threads)

    def price(self, counts: NDArray[np.float64], threads: int = 1) -> float:
        """Return the predicted seconds of an update of so much; see :meth:`count`."""
        call, *work = self._things(counts) * self._prices
        return float(call + sum(work) / (self.gain if threads > 1 else 1.0))

    def _things(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what has a price, in the order of `COUNTED`: one call, and J moved twice."""
        held = counts[1]
        return np.concatenate([[1.0, 2 * held / self.roofline.bandwidth(held)], counts[2:]])

    def count(self, pattern: ReachPattern, batch: int = 1) -> NDArray[np.float64]:
        """Count what an update of J takes; the counts of several parts of J add up.

        Parameters
        ----------
        pattern : ReachPattern
        batch : int
            Sequences.

        Returns
        -------
        float64 array, (len(COUNTED),)
            In the order of `COUNTED`; at "bandwidth" the bytes of J.
        """
        program = lower(pattern)
        panels, segments = program.panels[:-1], program.segments
        rows, vectors = panels[:, tables.ROWS], panels[:, tables.VECTORS] * SLACK // self._lanes
        first, end = panels[:, tables.FIRST_SEGMENT], panels[:, tables.END_SEGMENT]
        both = segments[:, [tables.SHARED, tables.OWN]]
        each = np.cumsum(segments[:, [tables.PAIRS]] * both, axis=0)
        each = np.concatenate([np.zeros((1, 2), np.int64), each])
        shared, own = (each[end] - each[first]).T
        far = np.digitize(rows * vectors * VECTOR_BYTES, FAR, right=True)
        loads = shared * (vectors + 3), own * (2 * vectors + 3)
        entries = pattern.immediate_indices.size
        in_vectors = program.runs[program.runs[:, tables.STEP] == 1, tables.LENGTH].sum()
        held = batch * program.size * self.roofline.dtype.itemsize
        counts = [
            entries + pattern.dynamics_indices.size, in_vectors, entries - in_vectors, len(panels),
            (end - first).sum(), rows.sum(), rows @ vectors,
            *(some[far == step].sum() for step in range(len(FAR) + 1) for some in loads),
        ]  # fmt: skip
        return np.array([1.0, held, *(batch * float(count) for count in counts)])


def synthetic(probe: Probe, seed: int = 0) -> ReachPattern:
    """Make the pattern of a probe, which no net need have: random reaches over a random D.

    Parameters
    ----------
    probe : Probe
    seed : int

    Returns
    -------
    ReachPattern
    """
    rng = np.random.default_rng(seed)
    units = max(2 * probe.rows, 64)

    def rows_of(count: int, length: int) -> NDArray[np.int32]:
        """Sorted places, in `count` rows of as many units each."""
        drawn = np.argpartition(rng.random((count, units), np.float32), length - 1)[:, :length]
        return np.sort(drawn).astype(np.int32)

    def pointers(count: int, length: int) -> NDArray[np.int64]:
        return np.arange(0, count * length + 1, length, dtype=np.int64)

    sources = max(1, round(probe.full * units))
    reached = rows_of(probe.panels, probe.rows)
    weights = probe.panels * probe.columns
    return ReachPattern(
        pointers(units, sources), rows_of(units, sources).ravel(), pointers(weights, probe.written),
        np.repeat(reached[:, : probe.written], probe.columns, axis=0).ravel(),
        np.repeat(np.arange(probe.panels, dtype=np.int32), probe.columns),
        pointers(probe.panels, probe.rows), reached.ravel(), 2, False, (weights * probe.rows,),
    )  # fmt: skip
