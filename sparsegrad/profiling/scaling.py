"""Growth exponents: how measured times and exact counts grow, beside the paper's laws.

An exponent is the slope of log y over log x, pooled over groups that share everything but x:

    b = Σ_g Σ_(i in g) (log x_i − mean_g)(log y_i − mean_g) / Σ_g Σ_(i in g) (log x_i − mean_g)²

The laws are those of the paper's cost table (Menick et al. 2021, arXiv 2006.07232) for weights of
density d on k units, with p ∝ k² places for weights: SnAp-1 d (k² + p), SnAp-2 d (k² + d² k² p),
RTRL d (k² + d k² p). For n ≥ 3 it has none. Exact counts know more than the laws: the density of
a gated cell's D, the fixed width of the input, and that both ends of an edge must be in reach.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass

from sparsegrad.profiling.profile import Point

UNITS_LAW: dict[int | str, float] = {1: 2, 2: 4, "rtrl": 4}
DENSITY_LAW: dict[int | str, float] = {1: 1, 2: 3, "rtrl": 2}


@dataclass(frozen=True)
class Fit:
    """One growth exponent.

    Attributes
    ----------
    cell : str
    against : str
        What grows: "multiply-adds", "units", "density" (of the weights) or "n".
    n : int or str
        The n of the points, "rtrl", or "all".
    points : int
        How many points the exponent of `counted` rests on, or of `time` where nothing is counted.
    time, counted, law : float or None
        Exponents of the measured time, of the exact multiply-adds, and by the paper; None where
        there is none.
    """

    cell: str
    against: str
    n: int | str
    points: int
    time: float | None
    counted: float | None
    law: float | None

    def as_dict(self) -> dict[str, object]:
        """Return the fit as plain values."""
        return asdict(self)


def exponent(
    x: Sequence[float], y: Sequence[float], group: Sequence[Hashable] | None = None
) -> float | None:
    """Fit y ∝ x^b with a factor of its own for every group.

    Parameters
    ----------
    x, y : sequence of float, positive
    group : sequence, optional
        What each point belongs to; one group where it is left out.

    Returns
    -------
    float or None
        b; None where no group holds two different x.

    Examples
    --------
    >>> exponent([1, 2, 4], [3, 12, 48])
    2.0
    """
    members: dict[Hashable, list[tuple[float, float]]] = {}
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        key = group[i] if group is not None else None
        members.setdefault(key, []).append((math.log(a), math.log(b)))
    above = below = 0.0
    for pairs in members.values():
        mean_x = sum(a for a, _ in pairs) / len(pairs)
        mean_y = sum(b for _, b in pairs) / len(pairs)
        above += sum((a - mean_x) * (b - mean_y) for a, b in pairs)
        below += sum((a - mean_x) ** 2 for a, _ in pairs)
    return above / below if below > 1e-12 else None


def fit_growth(points: Sequence[Point]) -> list[Fit]:
    """Fit every exponent that a sweep has points for.

    Parameters
    ----------
    points : sequence of Point
        A sweep's points, measured or only counted.

    Returns
    -------
    list of Fit
        Cell by cell; exponents that rest on a single value of x are left out.
    """
    fits: list[Fit] = []
    for cell in dict.fromkeys(point.cell for point in points):
        own = [point for point in points if point.cell == cell and point.multiply_adds]
        orders = list(dict.fromkeys(point.n for point in own))
        by_order = [(n, [point for point in own if point.n == n]) for n in orders]
        for n, some in [("all", own), *by_order]:
            fits += _time_against_work(cell, n, some)
        for n, some in by_order:
            fits += _growth(cell, "units", n, some, lambda p: p.units, lambda p: p.sparsity,
                            UNITS_LAW.get(n))  # fmt: skip
        for n, some in by_order:
            fits += _growth(cell, "density", n, some, lambda p: 1 - p.sparsity, lambda p: p.units,
                            DENSITY_LAW.get(n))  # fmt: skip
        finite = [point for point in own if point.n != "rtrl"]
        fits += _growth(cell, "n", "all", finite, lambda p: float(p.n),
                        lambda p: (p.units, p.sparsity), None)  # fmt: skip
    return fits


def _time_against_work(cell: str, n: int | str, points: list[Point]) -> list[Fit]:
    timed = [(p.multiply_adds, p.seconds) for p in points if p.seconds is not None]
    slope = exponent([work for work, _ in timed], [seconds for _, seconds in timed])
    return [] if slope is None else [Fit(cell, "multiply-adds", n, len(timed), slope, None, 1.0)]


def _growth(
    cell: str,
    against: str,
    n: int | str,
    points: list[Point],
    x: Callable[[Point], float],
    group: Callable[[Point], Hashable],
    law: float | None,
) -> list[Fit]:
    counted = exponent(
        [x(p) for p in points], [p.multiply_adds for p in points], [group(p) for p in points]
    )
    if counted is None:
        return []
    timed = [(p, p.seconds) for p in points if p.seconds is not None]
    slope = exponent(
        [x(p) for p, _ in timed], [seconds for _, seconds in timed], [group(p) for p, _ in timed]
    )
    return [Fit(cell, against, n, len(points), slope, counted, law)]
