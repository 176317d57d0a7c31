"""How the cost of SnAp-n grows: exact counts and measured times over a sweep of structures.

Every point is one cell structure at one n. Its counts come from patterns alone:

    entries        Σ over weights w of |reach_n(w)|
    multiply_adds  Σ over entries (i, w) of |{m : D[i, m] ≠ 0, m ∈ reach_n(w)}|
    density        entries / (state numbers × weights that exist)
    vs_rtrl        multiply_adds / those of the saturated pattern (exact RTRL on the same weights)
    vs_bptt        (weights + multiply_adds) / (3 × weights): forward and influence update, beside
                   forward, backward and gradient of sparse BPTT, one multiply-add per weight each

and its time from `Influence.update` on random values, warm: the median over repeats with its
quartiles, with `predicted_seconds` by `sparsegrad.profiling.cost_model` beside it.
`gflops` is 2 × multiply_adds / seconds, `gbytes_per_second` counts J as read once and
written once, and `roofline_fraction` is the least time of
`sparsegrad.profiling.roofline` over the median.

With windows, a point for each: `step_multiply_adds` of a learner's step and `step_vs_bptt`, over
the 3 × weights of BPTT; `step_seconds`, `bptt_seconds` and their ratio `step_time_vs_bptt` are
measured, by `sparsegrad.runs.step_cost`.

With ranks, a point for each number of them, by `sparsegrad.runs.rank_cost`: `rank_entries` and
`rank_bytes` of the largest part of J, `exchanged_bytes` into each rank in a step and the
`exchange_seconds` that they take, `alone_seconds` of what every rank does for itself, and
`rank_seconds` of a whole step, `rank_speedup` times as fast as one rank's.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import product

import numpy as np

from sparsegrad.cells.structure import GATE_MASKS, Structure, structure
from sparsegrad.influence.influence import Influence
from sparsegrad.profiling.cost_model import CostModel
from sparsegrad.profiling.timing import time_update
from sparsegrad.registry import CELLS
from sparsegrad.symbolic.cost import saturated_counts
from sparsegrad.symbolic.pattern import reach
from sparsegrad.system.quantities import percent

DTYPES = ("float32", "float64")
POINT_SECONDS = 0.15
"""How long a point is timed, at least."""
MOST_RANKS = 256
"""Parts that J is cut into at most, `sparsegrad.methods.sharing.MOST_PARTS`."""
TRIAL_WEIGHTS = 4096
CHUNK_ENTRIES = 2**27
"""Reached units (over supernodes) that counting holds at once, judged by a trial."""


@dataclass(frozen=True)
class Sweep:
    """What to profile: every combination of cells, units, sparsity, n and windows.

    Attributes
    ----------
    cells : tuple of str
        Names of rows of `sparsegrad.registry.CELLS`.
    units : tuple of int
    sparsity : tuple of float
        In [0, 1).
    n : tuple of int or None
        Each at least 1; None is exact RTRL (the saturated pattern).
    windows : tuple of int
        Steps of the windows of which a learner's step is counted and timed too; may be empty.
    ranks : tuple of int
        Numbers of ranks that share J, whose step is counted; may be empty.
    gate_masks : str
        "independent" or "shared".
    inputs, batch, threads, seed : int
    dtype : str
        "float32" or "float64".
    budget : float
        Bytes; a point that needs more is counted but not run.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    cells: tuple[str, ...] = ("gru",)
    units: tuple[int, ...] = (128, 256, 512)
    sparsity: tuple[float, ...] = (0.75, 0.9375, 0.984375)
    n: tuple[int | None, ...] = (1, 2, 3, None)
    windows: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    gate_masks: str = "independent"
    inputs: int = 32
    batch: int = 1
    dtype: str = "float32"
    threads: int = 1
    seed: int = 0
    budget: float = math.inf

    def __post_init__(self) -> None:
        """Refuse values out of range before anything is built."""
        for name in ("cells", "units", "sparsity", "n"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name at least one value, got none")
        for cell in self.cells:
            _require(cell in CELLS, "cells", f"be of {', '.join(CELLS)}", cell)
        for units in self.units:
            _require(1 <= units <= 2**30, "units", "be between 1 and 2**30", units)
        for sparsity in self.sparsity:
            _require(0 <= sparsity < 1, "sparsity", "be at least 0 and below 1", sparsity)
        for n in self.n:
            _require(n is None or n >= 1, "n", "be at least 1, or rtrl", n)
        for window in self.windows:
            _require(window >= 1, "window", "be at least 1", window)
        for ranks in self.ranks:
            _require(1 <= ranks <= MOST_RANKS, "ranks", f"be between 1 and {MOST_RANKS}", ranks)
        if self.ranks and 1 in self.n:
            raise ValueError(
                "n must be from 2 on, or rtrl, with ranks, got 1: SnAp-1's J is no larger than the "
                "weights, and is not shared"
            )
        if self.ranks and self.windows:
            raise ValueError(
                f"window must be left out with ranks, which go step by step, got {self.windows[0]}"
            )
        _require(self.gate_masks in GATE_MASKS, "gate-masks", f"be of {', '.join(GATE_MASKS)}",
                 self.gate_masks)  # fmt: skip
        _require(self.dtype in DTYPES, "dtype", f"be of {', '.join(DTYPES)}", self.dtype)
        _require(self.inputs >= 0, "inputs", "be at least 0", self.inputs)
        _require(self.batch >= 1, "batch", "be at least 1", self.batch)
        _require(self.threads >= 1, "threads", "be at least 1", self.threads)
        _require(self.seed >= 0, "seed", "be at least 0", self.seed)
        _require(self.budget > 0, "budget", "be more than 0 bytes", self.budget)

    def __len__(self) -> int:
        """How many points the sweep has."""
        nets = len(self.cells) * len(self.units) * len(self.sparsity)
        return nets * len(self.n) * max(1, len(self.windows), len(self.ranks))


def _require(holds: bool, name: str, rule: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{name} must {rule}, got {got}")


@dataclass(frozen=True)
class Point:
    """One row of the profile; see the module's head for what is counted.

    Attributes
    ----------
    seconds : float or None
        Median time of one step (one update of J for the whole batch); None where nothing ran.
    seconds_low, seconds_high : float or None
        Its quartiles.
    predicted_seconds : float or None
        The same by the cost model, from counts and rates of this machine.
    note : str or None
        Why nothing ran.
    window : int or None
        Steps of the window of a learner's step; None where none was asked for.
    step_multiply_adds, step_vs_bptt : float or None
        Of that step, for the whole batch; None where no window was asked for, or the pattern that
        decides on dense products does not fit.
    step_seconds, bptt_seconds, step_time_vs_bptt : float or None
        Median time of a learner's step, of BPTT's with as long a window, and their ratio.
    ranks : int or None
        That share J; None where none were asked for.
    rank_entries, rank_bytes : int or None
        Of J, for the whole batch, on the rank that has most of it.
    exchanged_bytes : float or None
        That come into a rank in a step.
    exchange_seconds, alone_seconds, rank_seconds, rank_speedup : float or None
        Time that this takes, of what every rank does for itself, of a step, and its ratio to a step
        of one rank.
    """

    cell: str
    units: int
    sparsity: float
    n: int | str
    weights: int
    entries: int
    density: float
    multiply_adds: int
    bytes: int
    seconds: float | None = None
    gflops: float | None = None
    gbytes_per_second: float | None = None
    roofline_fraction: float | None = None
    vs_bptt: float | None = None
    vs_rtrl: float | None = None
    seconds_low: float | None = None
    seconds_high: float | None = None
    predicted_seconds: float | None = None
    note: str | None = None
    window: int | None = None
    step_multiply_adds: float | None = None
    step_vs_bptt: float | None = None
    step_seconds: float | None = None
    bptt_seconds: float | None = None
    step_time_vs_bptt: float | None = None
    ranks: int | None = None
    rank_entries: int | None = None
    rank_bytes: int | None = None
    exchanged_bytes: float | None = None
    exchange_seconds: float | None = None
    alone_seconds: float | None = None
    rank_seconds: float | None = None
    rank_speedup: float | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the row as plain values."""
        return asdict(self)


POINT_KEYS = tuple(entry.name for entry in fields(Point))
WithSteps = Callable[[Sweep, Structure, Point, bool], Iterable[Point]]


def profile(
    sweep: Sweep,
    model: CostModel | None,
    announce: Callable[[str], None] = lambda text: None,
    with_steps: WithSteps | None = None,
) -> Iterator[Point]:
    """Yield the points of a sweep, one after another, as soon as each is there.

    Parameters
    ----------
    sweep : Sweep
        What to run.
    model : CostModel or None
        Of this machine, for the sweep's dtype and threads; None for exact counts alone.
    announce : callable
        Told in a few words what comes next.
    with_steps : callable, optional
        Given the sweep, the structure, a point and whether to measure, yields the point for each
        window or number of ranks; needed where the sweep has such.

    Yields
    ------
    Point
        In the order cells, units, sparsity, n, windows or ranks.
    """
    for cell, units, sparsity in product(sweep.cells, sweep.units, sweep.sparsity):
        net = f"{cell} {units} @ {percent(sparsity)}"
        announce(f"{net}: masks")
        drawn = structure(cell, units, sparsity, sweep.inputs, sweep.gate_masks, sweep.seed)
        rtrl = saturated_counts(drawn.dynamics, drawn.immediate)
        for n in sweep.n:
            title = f"{net}, {'rtrl' if n is None else f'n = {n}'}"
            announce(title)

            def tell(part: float, title: str = title) -> None:
                announce(f"{title}: reach, {100 * part:.0f}%")

            entries, multiply_adds = rtrl if n is None else exact_counts(drawn, n, tell)
            announce(title)
            point = Point(
                cell=cell, units=units, sparsity=sparsity, n="rtrl" if n is None else n,
                weights=drawn.weights,
                entries=sweep.batch * entries,
                density=entries / (drawn.weights * drawn.dynamics.shape[0]),
                multiply_adds=sweep.batch * multiply_adds,
                bytes=sweep.batch * entries * np.dtype(sweep.dtype).itemsize,
                vs_bptt=(drawn.weights + multiply_adds) / (3 * drawn.weights),
                vs_rtrl=multiply_adds / rtrl[1] if rtrl[1] else 1.0,
            )  # fmt: skip
            point = point if model is None else _measured(point, sweep, drawn, model)
            if with_steps is None:
                yield point
            else:
                yield from with_steps(sweep, drawn, point, model is not None)


def exact_counts(
    drawn: Structure, n: int, progress: Callable[[float], object] = lambda part: None
) -> tuple[int, int]:
    """Count entries and multiply-adds of SnAp-n for one sequence, in bounded memory.

    Parameters
    ----------
    drawn : Structure
        Patterns of D and I.
    n : int
        Steps of reach.
    progress : callable, optional
        Told the part that is done.

    Returns
    -------
    entries, multiply_adds : int
        The same as `reach(dynamics, immediate, n, own=own).cost()` counts; a pattern too large to
        hold is counted in parts, weight after weight.
    """
    weights = drawn.weights
    trial = reach(drawn.dynamics, drawn.immediate[:, :TRIAL_WEIGHTS], n, own=drawn.own)
    if trial.shape[0] == weights:
        return trial.cost()[:2]
    reached_per_weight = trial.reach_indptr[-1] / trial.shape[0]
    part = max(1, int(CHUNK_ENTRIES / reached_per_weight))
    counts = np.zeros(2, object)  # Python's integers: no count is too large
    for start in range(0, weights, part):
        columns = drawn.immediate[:, start : start + part]
        done, share = start / weights, columns.shape[1] / weights
        tell = lambda some, done=done, share=share: progress(done + some * share)  # noqa: E731
        counts += reach(drawn.dynamics, columns, n, tell, drawn.own).cost()[:2]
    return int(counts[0]), int(counts[1])


def _measured(point: Point, sweep: Sweep, drawn: Structure, model: CostModel) -> Point:
    """Time a point, or note why it was not."""
    if point.bytes > sweep.budget:
        return replace(point, note="over budget")
    try:
        n = None if isinstance(point.n, str) else point.n  # "rtrl"
        pattern = reach(drawn.dynamics, drawn.immediate, n, own=drawn.own)
        influence = Influence(pattern, sweep.batch, sweep.dtype, sweep.threads)
        timing = time_update(influence, POINT_SECONDS, sweep.seed)
    except MemoryError:
        return replace(point, note="out of memory")
    moved = 2 * point.bytes
    least = model.roofline.seconds(point.multiply_adds, moved, point.bytes)
    return replace(
        point,
        seconds=timing.median,
        seconds_low=timing.low,
        seconds_high=timing.high,
        predicted_seconds=model.seconds(pattern, sweep.batch, influence.threads),
        gflops=2e-9 * point.multiply_adds / timing.median,
        gbytes_per_second=1e-9 * moved / timing.median,
        roofline_fraction=least / timing.median,
    )
