"""The cost model: predicted seconds of an influence update, from counts and rates of this machine.

The counts come from a pattern alone. A supernode of f weights, whose R units have S entries of D
among them, is a panel of R rows and V = ⌈f / lanes⌉ vectors, and its update takes

    S·V      multiply-adds of whole vectors, which are the dearer the emptier D[R, R] is
    S, R     sources and rows to walk over, once for every eight vectors
    R·V      vectors of J to move: in a cache, and at the bandwidth of J's own size

beside a fixed price per panel, per value of D and I, and per call. The prices are rates of this
machine: they are fitted, none below zero, to the times of small synthetic patterns (probes),
which the real kernel runs when the model is made. No measured point has a part in its prediction.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsegrad.influence import Influence
from sparsegrad.pattern import ReachPattern
from sparsegrad.roofline import VECTOR_BYTES, Roofline
from sparsegrad.timing import time_update

FULL = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
"""How full D[R, R] is where multiply-adds have a price of their own; linear in between."""
COUNTED = (
    "call", "bandwidth", "value of D or I", "entry of I", "panel", "row", "vector of J", "source",
    *(f"vector of multiply-adds at {100 * full:.0f}%" for full in FULL),
)  # fmt: skip
TALL = 8
"""Rows from which on fullness means anything."""
TOGETHER = 8
"""Vectors that one look at a source serves."""
PROBE_SECONDS = 0.008


class Probe(NamedTuple):
    """A pattern whose panels are all alike."""

    rows: int
    columns: int
    full: float
    panels: int


PROBES = (
    Probe(1, 1, 0.02, 1), Probe(1, 16, 0.02, 64), Probe(1, 16, 0.02, 600),
    Probe(1, 128, 0.02, 64), Probe(1, 128, 0.02, 600), Probe(2, 300, 0.02, 300),
    Probe(8, 8, 0.1, 300), Probe(8, 128, 0.1, 100),
    *(Probe(48, f, full, 1600 // f + 24) for f in (8, 48, 128) for full in (0.04, *FULL[1:])),
    *(Probe(160, f, full, 480 // f + 4) for f in (8, 48, 128) for full in (0.01, 0.1, *FULL[1:])),
    Probe(400, 128, 0.5, 2), Probe(64, 64, 0.03, 8000), Probe(16, 16, 0.1, 40000),
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
            counts.append(self._count(pattern, 1))
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
        call, *work = self._count(pattern, batch) * self._prices
        return float(call + sum(work) / (self.gain if threads > 1 else 1.0))

    def _count(self, pattern: ReachPattern, batch: int) -> NDArray[np.float64]:
        """Count what has a price, in the order of `COUNTED`."""
        columns, sources = pattern.weights_per_supernode, pattern.edges_per_supernode
        rows = np.diff(pattern.reach_indptr)
        vectors = -(-columns // self._lanes)
        passes = -(-vectors // TOGETHER)
        full = np.where(rows >= TALL, sources / np.maximum(rows * rows, 1), 0.0)
        near = np.clip(1 - np.abs(full[:, None] - FULL) / FULL[1], 0, 1)
        entries = pattern.immediate_indices.size
        held = batch * float(rows @ vectors) * VECTOR_BYTES
        counts = [
            entries + pattern.dynamics_indices.size, entries, rows.size, rows @ passes,
            rows @ vectors, sources @ passes, *((sources * vectors) @ near),
        ]  # fmt: skip
        moving = 2 * held / self.roofline.bandwidth(held)
        return np.array([1.0, moving, *(batch * float(count) for count in counts)])


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
        pointers(units, sources), rows_of(units, sources).ravel(), pointers(weights, 1),
        np.repeat(reached[:, 0], probe.columns),
        np.repeat(np.arange(probe.panels, dtype=np.int32), probe.columns),
        pointers(probe.panels, probe.rows), reached.ravel(), 2, False, (weights * probe.rows,),
    )  # fmt: skip
