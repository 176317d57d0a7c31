"""What a step of a learner costs by each method and window: exact counts, and measured times.

Multiply-adds of a step, the mean over a window of T, for p weights and a J of E entries whose
update takes M (`sparsegrad.symbolic.cost`):

    BPTT             3 p                      forward, λ to the step before, gradient
    J at every step  p + M + E                forward, update, contraction
    J with windows   3 p + M' + E / T         and the way of J through the window

M' is M, or that of dense products where a window takes these; of SnAp-1 and RFLO, whose traces go
through a window as linear forms, E + M / T. UORO has no J: its two factors take 5 p and D's
recurrent weights, their contraction p. Elementwise work and the readout are not counted, nor is the
sum of I and D J: BPTT has neither.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from sparsegrad.cells.jacobians import Net, dynamics_alone, immediate_pattern, own_pattern
from sparsegrad.cells.structure import Structure
from sparsegrad.influence.block import multiply_adds_of_blocks
from sparsegrad.influence.lowering import lower
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import SGD
from sparsegrad.learning.readout import Linear
from sparsegrad.methods import BPTT, RFLO, RTRL, UORO, Method, SnAp
from sparsegrad.profiling import profile
from sparsegrad.profiling.profile import Point, Sweep
from sparsegrad.profiling.timing import LEAST_SAMPLES, SLOW_SECONDS
from sparsegrad.registry import CELLS
from sparsegrad.symbolic.pattern import ReachPattern, reach

RUN_STEPS = 64
"""A timed call makes whole windows of about so many steps."""


def multiply_adds(method: Method, net: Net) -> float:
    """Count the multiply-adds of a step of one stream, the mean over a window.

    Parameters
    ----------
    method : Method
        One of ours.
    net : Cell, or what has its kind, units and maps
        Its weights are not looked at.

    Returns
    -------
    float
    """
    weights, window = net.maps.indices.size, getattr(method, "window", None) or 1
    if isinstance(method, BPTT):
        return 3.0 * weights * (window if method.update_every else 1)
    if isinstance(method, UORO):
        recurrent = int((net.maps.recurrent_end - net.maps.indptr[:-1]).sum())
        kept = 5 * weights + recurrent
        return kept + (2.0 * weights if window == 1 else 3 * weights + weights / window)
    if isinstance(method, RFLO):
        return with_windows(weights, *_leaks(net), window, True, None)
    n = method.n if isinstance(method, SnAp) else None
    pattern = reach(dynamics_alone(net), immediate_pattern(net), n, own=own_pattern(net))
    cost = pattern.cost()
    return with_windows(weights, cost.entries, cost.multiply_adds, window, n == 1, pattern)


def with_windows(
    weights: int,
    entries: int,
    update: int,
    window: int,
    traces: bool,
    pattern: ReachPattern | None,
) -> float:
    """Count the multiply-adds of a step by a J, the mean over a window; see the module's head.

    Parameters
    ----------
    weights, entries, update : int
        p, E and M.
    window : int
    traces : bool
        Whether J is the traces of SnAp-1 or RFLO.
    pattern : ReachPattern or None
        Of J, where a window may take dense products.
    """
    if window == 1:
        return float(weights + update + entries)
    if traces:
        return 3 * weights + entries + (update + entries) / window
    blocks = None
    if pattern is not None and pattern.saturated:
        blocks = multiply_adds_of_blocks(pattern, lower(pattern), window)
    return 3 * weights + (update if blocks is None else blocks) + entries / window


def with_steps(sweep: Sweep, drawn: Structure, point: Point, measure: bool) -> Iterator[Point]:
    """Yield a point of a profile with the cost of a learner's step in each window of the sweep.

    The net that is timed is drawn alike, with as many weights, but has masks of its own.

    Parameters
    ----------
    sweep : Sweep
    drawn : Structure
        Of the point's net.
    point : Point
    measure : bool
        Whether to time steps too.

    Yields
    ------
    Point
    """
    pattern, fits = None, True
    if point.vs_rtrl == 1 and max(sweep.windows) > 1:  # saturated: dense products may cost less
        try:
            pattern = reach(drawn.dynamics, drawn.immediate, None, own=drawn.own)
        except MemoryError:
            fits = False
    for window in sweep.windows:
        found = replace(point, window=window)
        if fits or window == 1:
            counted = with_windows(
                point.weights, point.entries // sweep.batch, point.multiply_adds // sweep.batch,
                window, point.n == 1, pattern,
            )  # fmt: skip
            found = replace(
                found,
                step_multiply_adds=sweep.batch * counted,
                step_vs_bptt=counted / (3 * point.weights),
            )
        yield _timed(sweep, found) if measure and point.note is None else found


def _timed(sweep: Sweep, point: Point) -> Point:
    """Time a step of a learner by the point's method, and by BPTT with as long a window."""
    window = point.window
    method = RTRL(window) if isinstance(point.n, str) else SnAp(point.n, window)
    try:
        own, bptt = _in_turns(
            [_runner(sweep, point, each) for each in (method, BPTT(window))], profile.POINT_SECONDS
        )
    except MemoryError:
        return replace(point, note="out of memory")
    return replace(point, step_seconds=own, bptt_seconds=bptt, step_time_vs_bptt=own / bptt)


def _runner(sweep: Sweep, point: Point, method: Method) -> tuple[Callable[[], object], int]:
    """Return a call that runs whole windows of a learner with one output, and how many steps."""
    cell = CELLS[point.cell].load()(
        sweep.inputs, point.units, sparsity=point.sparsity, gate_masks=sweep.gate_masks,
        seed=sweep.seed, dtype=sweep.dtype,
    )  # fmt: skip
    learner = OnlineLearner(
        cell, Linear(1), method, SGD(1e-6), batch=sweep.batch, threads=sweep.threads
    )
    window = point.window or 1
    steps = window * max(1, RUN_STEPS // window)
    rng = np.random.default_rng(sweep.seed)
    xs = rng.standard_normal((steps, sweep.batch, cell.inputs)).astype(cell.dtype)
    targets = rng.standard_normal((steps, sweep.batch, 1)).astype(cell.dtype)
    return lambda: learner.run(xs, targets), steps


def _in_turns(runners: Sequence[tuple[Callable[[], object], int]], seconds: float) -> list[float]:
    """Return the median seconds of a step of each, warm, over rounds in which all take one turn.

    Their ratio is one of the same moments, whatever else the machine does.
    """
    samples: list[list[float]] = [[] for _ in runners]
    for run, _ in runners:
        run()  # compiles, and touches all memory
    spent = 0.0
    while spent < seconds or len(samples[0]) < (LEAST_SAMPLES if spent < SLOW_SECONDS else 2):
        for (run, steps), own in zip(runners, samples, strict=True):
            start = time.perf_counter()
            run()
            took = time.perf_counter() - start
            own.append(took / steps)
            spent += took
    return [float(np.median(own)) for own in samples]


def _leaks(net: Net) -> tuple[int, int]:
    """Count the entries of RFLO's J, and the multiply-adds of an update: D without the maps."""
    kept, n_maps = net.kind.kept, len(net.kind.maps)
    fan_in = np.diff(net.maps.indptr).reshape(-1, n_maps).sum(axis=0)
    leaks = list(zip(net.kind.partials.state_rows, net.kind.partials.state_columns, strict=True))
    entries = update = 0
    for g in range(n_maps):
        touched = set(kept.map_components[kept.map_indptr[g] : kept.map_indptr[g + 1]].tolist())
        entries += int(fan_in[g]) * len(touched)
        update += int(fan_in[g]) * sum(row in touched and of in touched for row, of in leaks)
    return entries, update
