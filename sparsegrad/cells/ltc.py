"""The liquid time-constant cell."""

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.functions import exp, sigmoid
from sparsegrad.cells.kind import CellKind, Map
from sparsegrad.cells.symbols import Symbol


def _formula(h: Symbol, a: Symbol, reversal: Symbol, log_rate: Symbol) -> Symbol:
    f = sigmoid(a)
    return (h + f * reversal) / (1 + exp(log_rate) + f)


def _signs(rng: np.random.Generator, units: int) -> NDArray[np.float64]:
    return rng.choice((-1.0, 1.0), units)


class LTC(Cell):
    """Liquid time-constant cell, one fused step of its solver per time step.

    ``f = σ(W h + U x + b)``, ``h' = (h + f A) / (1 + 1/τ + f)``.

    Hasani et al. 2021, arXiv 2006.04439, equation 3 with a step of 1. ``bias_ih`` holds b, then A,
    which starts at ±1, then log(1/τ), which starts at -2.
    """

    kind = CellKind.from_function(
        _formula,
        maps=(
            Map(),
            Map(h=False, x=False, initial_bias=_signs),
            Map(h=False, x=False, initial_bias=-2.0),
        ),
    )
