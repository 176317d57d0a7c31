"""Exact costs from patterns alone: entries of J, multiply-adds of a step, bytes.

For a pattern with reach R(w) of weight w,

    entries       = Σ_w |R(w)|                                    numbers of J that are kept
    multiply-adds = Σ_w |{(i, m) : D[i, m] ≠ 0, i and m in R(w)}|    of D·J, per step
    bytes         = entries · itemsize

each times the batch. Adding I to J is not counted: it is one addition per entry of I.
"""

from typing import NamedTuple

from numpy.typing import ArrayLike, DTypeLike

from sparsegrad.symbolic.rows import canonical
from sparsegrad.symbolic.saturation import measure_saturation
from sparsegrad.system.checks import float_type, integer


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
    itemsize = float_type(dtype).itemsize
    batch = integer("batch", batch, least=1, hint="; pass the number of sequences")
    return Cost(batch * entries, batch * multiply_adds, batch * entries * itemsize)


def saturated_counts(dynamics: ArrayLike, immediate: ArrayLike) -> tuple[int, int]:
    """Entries and multiply-adds per step of exact RTRL, from D and I without storing any reach.

    The counts of ``reach(dynamics, immediate, n=None).cost()``; see
    `sparsegrad.symbolic.saturation`.

    Parameters
    ----------
    dynamics, immediate
        As for `reach`.

    Returns
    -------
    entries, multiply_adds : int
        For one sequence.
    """
    return measure_saturation(
        canonical("dynamics", dynamics, by_columns=False),
        canonical("immediate", immediate, by_columns=True),
    )
