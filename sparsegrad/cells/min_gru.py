"""The minimal gated recurrent unit."""

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.functions import sigmoid
from sparsegrad.cells.kind import CellKind, Map
from sparsegrad.cells.symbols import Symbol


def _formula(h: Symbol, a_z: Symbol, a_h: Symbol) -> Symbol:
    z = sigmoid(a_z)
    return (1 - z) * h + z * a_h


class MinGRU(Cell):
    """Minimal gated cell, ``z = σ(W_z x + b_z)``, ``h' = (1 - z) h + z (W_h x + b_h)``.

    Feng et al. 2024, arXiv 2410.01201, section 3.1; gates in the order z, h. No gate reads the
    state, so that SnAp-1 is exact.
    """

    kind = CellKind.from_function(_formula, maps=(Map(h=False), Map(h=False)))
