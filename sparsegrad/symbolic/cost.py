"""Exact costs from patterns alone: entries of J, multiply-adds of a step, bytes.

For a pattern with reach R(w) of weight w,

    entries       = Σ_w |R(w)|                                    numbers of J that are kept
    multiply-adds = Σ_w |{(i, m) : D[i, m] ≠ 0, i and m in R(w)}|    of D·J, per step
    bytes         = entries · itemsize

each times the batch. Adding I to J is not counted: it is one addition per entry of I.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from sparsegrad.symbolic.saturation import measure_saturation
from sparsegrad.symbolic.search import Rows, canonical
from sparsegrad.system.memory import available_memory, require_memory

if TYPE_CHECKING:
    from sparsegrad.symbolic.pattern import ReachPattern


__all__ = [
    "Cost",
    "available_memory",
    "bptt_multiply_adds",
    "dense_rtrl_multiply_adds",
    "price",
    "require_memory",
    "saturated_cost",
    "saturated_counts",
]


class Cost(NamedTuple):
    """What one influence matrix costs, for a whole batch.

    Attributes
    ----------
    entries : int
        Numbers of J that are kept.
    multiply_adds : int
        Multiply-adds of D·J in one step.
    bytes : int
        Bytes of those entries, without padding or structure.
    """

    entries: int
    multiply_adds: int
    bytes: int


def price(entries: int, multiply_adds: int, batch: int, dtype: DTypeLike) -> Cost:
    """Cost of a batch of J, each with so many entries and multiply-adds."""
    itemsize = np.dtype(dtype).itemsize
    if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
    if isinstance(batch, bool) or not isinstance(batch, int | np.integer):
        raise TypeError(f"batch must be an integer >= 1, got {batch!r}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}; pass the number of sequences")
    batch = int(batch)
    return Cost(batch * entries, batch * multiply_adds, batch * entries * itemsize)


def bptt_multiply_adds(pattern: "ReachPattern", batch: int = 1) -> int:
    """Multiply-adds per step of BPTT on the same sparse net: three per weight.

    One for the forward pass, one for the error that flows back, one for the weight's gradient.
    """
    return 3 * pattern.shape[0] * batch


def dense_rtrl_multiply_adds(pattern: "ReachPattern", batch: int = 1) -> int:
    """Multiply-adds per step of RTRL with D and J stored dense: units² · weights."""
    weights, units = pattern.shape
    return units * units * weights * batch


def saturated_cost(pattern: "ReachPattern", batch: int = 1, dtype: DTypeLike = "float32") -> Cost:
    """Cost of exact RTRL on the net of a pattern, whatever the pattern's own n.

    The same as `reach(dynamics, immediate, n=None).cost(batch, dtype)`, but no reach is stored;
    see `sparsegrad.symbolic.saturation`.

    Parameters
    ----------
    pattern : ReachPattern
        Any pattern of the net; n = 1 is the cheapest to make.
    batch, dtype
        As in `ReachPattern.cost`.
    """
    dynamics = Rows(pattern.dynamics_indptr, pattern.dynamics_indices, pattern.shape[1])
    weights = Rows(pattern.immediate_indptr, pattern.immediate_indices, pattern.shape[1])
    return price(*measure_saturation(dynamics, weights), batch, dtype)


def saturated_counts(dynamics: ArrayLike, immediate: ArrayLike) -> tuple[int, int]:
    """Entries and multiply-adds per step of exact RTRL, from D and I without any pattern.

    Parameters
    ----------
    dynamics, immediate
        As for `reach`.

    Returns
    -------
    entries, multiply_adds : int
        As in `saturated_cost`, for one sequence.
    """
    return measure_saturation(
        canonical("dynamics", dynamics, by_columns=False),
        canonical("immediate", immediate, by_columns=True),
    )
