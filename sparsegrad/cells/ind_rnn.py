"""The independently recurrent cell."""

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.functions import relu
from sparsegrad.cells.kind import CellKind, Map
from sparsegrad.cells.symbols import Symbol


def _formula(h: Symbol, a: Symbol, u: Symbol) -> Symbol:
    return relu(a + u * h)


def _up_to_one(rng: np.random.Generator, units: int) -> NDArray[np.float64]:
    return rng.random(units)


class IndRNN(Cell):
    """Independently recurrent cell, ``h' = relu(W x + b + u h)``.

    Li et al. 2018, arXiv 1803.04831, equation 2. Each unit reads itself alone, so that SnAp-1 is
    exact. ``bias_ih`` holds b, then u, which starts uniformly in [0, 1).
    """

    kind = CellKind.from_function(
        _formula, maps=(Map(h=False), Map(h=False, x=False, initial_bias=_up_to_one))
    )
