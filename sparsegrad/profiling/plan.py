"""What fits: which n, sparsity or budget of J stays within some memory and some time per update.

Entries are exact counts; a time is that of the cost model (`sparsegrad.profiling.cost_model`) for
an update of J, of the whole batch. Where SnAp-n does not fit, the largest budget that does is
looked for (`reach(…, budget=)`): by memory directly, by time in a few tries.
"""

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from sparsegrad.cells.structure import Structure, structure
from sparsegrad.influence.lowering import lower
from sparsegrad.profiling.cost_model import CostModel
from sparsegrad.profiling.profile import Sweep, exact_counts
from sparsegrad.symbolic.cost import saturated_counts
from sparsegrad.symbolic.pattern import ReachPattern, reach
from sparsegrad.system.quantities import percent

_TRIES = 8
_CLOSE = 1.05  # budgets that differ by less are as good


class Choice(NamedTuple):
    """A net and a method, and whether they fit.

    Attributes
    ----------
    cell, units, sparsity, weights
        The net.
    n : int or str
        Steps of reach, or "rtrl".
    entries : int
        Entries of J for the whole batch that SnAp-n has.
    bytes : int
        What is kept of them takes, with padding where it fits.
    seconds : float or None
        Predicted time of an update with them; None where J is larger than the memory.
    fits : bool
    kept : int or None
        Entries for the whole batch within a budget that fits, where SnAp-n does not; None where
        none fits.
    """

    cell: str
    units: int
    sparsity: float
    weights: int
    n: int | str
    entries: int
    bytes: int
    seconds: float | None
    fits: bool
    kept: int | None = None


def plan(
    sweep: Sweep,
    seconds: float,
    model: CostModel,
    announce: Callable[[str], None] = lambda text: None,
) -> Iterator[Choice]:
    """Yield what a sweep's nets and methods need, and whether it fits.

    Parameters
    ----------
    sweep : Sweep
        Its `budget` is the memory that J may take.
    seconds : float
        That an update may take; infinite for any.
    model : CostModel
        Of this machine, for the sweep's dtype and threads.
    announce : callable
        Told in a few words what comes next.

    Yields
    ------
    Choice
        In the order cells, units, sparsity, n.
    """
    for cell, units, sparsity in product(sweep.cells, sweep.units, sweep.sparsity):
        net = f"{cell} {units} @ {percent(sparsity)}"
        announce(f"{net}: masks")
        drawn = structure(cell, units, sparsity, sweep.inputs, sweep.gate_masks, sweep.seed)
        for n in sweep.n:
            announce(f"{net}, {'rtrl' if n is None else f'n = {n}'}")
            yield _choice(sweep, drawn, seconds, model, (cell, units, sparsity), n)


def _choice(
    sweep: Sweep,
    drawn: Structure,
    seconds: float,
    model: CostModel,
    net: tuple[str, int, float],
    n: int | None,
) -> Choice:
    if n is None:
        entries = saturated_counts(drawn.dynamics, drawn.immediate)[0]
    else:
        entries = exact_counts(drawn, n)[0]
    each = sweep.batch * np.dtype(sweep.dtype).itemsize
    found = Choice(
        *net, drawn.weights, "rtrl" if n is None else n, sweep.batch * entries, each * entries,
        None, False,
    )  # fmt: skip
    took, held = math.inf, each * entries
    if held <= sweep.budget:
        pattern = reach(drawn.dynamics, drawn.immediate, n, own=drawn.own)
        took, held = _predict(sweep, model, pattern)
        found = found._replace(seconds=took, bytes=held)
        if took <= seconds and held <= sweep.budget:
            return found._replace(fits=True)
    kept = _within(sweep, drawn, seconds, model, n, entries, entries * min(1.0, seconds / took))
    return found._replace(kept=None if kept is None else sweep.batch * kept)


def _within(
    sweep: Sweep,
    drawn: Structure,
    seconds: float,
    model: CostModel,
    n: int | None,
    entries: int,
    guess: float,
) -> int | None:
    """Return about the most entries of one sequence that fit; None if not even SnAp-1's do."""
    each = sweep.batch * np.dtype(sweep.dtype).itemsize

    def fits(n: int | None, budget: int | None) -> tuple[int, float]:
        """Return the entries of a budget, and how far they exceed what they may take."""
        pattern = reach(drawn.dynamics, drawn.immediate, n, own=drawn.own, budget=budget)
        took, held = _predict(sweep, model, pattern)
        return pattern.nnz, max(took / seconds, held / sweep.budget)

    low, excess = fits(1, None)
    if excess > 1:
        return None
    high = int(min(entries, sweep.budget / each))
    guess = guess if math.isfinite(guess) and guess > low else high
    for _ in range(_TRIES):
        if high <= _CLOSE * low:
            break
        budget = int(min(max(guess, _CLOSE * low), high))
        found, excess = fits(n, budget)
        if excess <= 1:
            low, high = found, high if budget < high else found
        else:
            high = min(found, high - 1)
        guess = found * 0.98 / excess
        if not low < guess < high:
            guess = math.sqrt(low * high)
    return low


def _predict(sweep: Sweep, model: CostModel, pattern: ReachPattern) -> tuple[float, int]:
    """Return predicted seconds and bytes of J with its padding."""
    held = lower(pattern).size * sweep.batch * np.dtype(sweep.dtype).itemsize
    return model.seconds(pattern, sweep.batch, sweep.threads), held
