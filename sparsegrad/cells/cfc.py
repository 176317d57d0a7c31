"""The closed-form continuous-time cell."""

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.functions import sigmoid, tanh
from sparsegrad.cells.kind import CellKind, Map
from sparsegrad.cells.symbols import Symbol


def _formula(h: Symbol, a_f: Symbol, a_g: Symbol, a_h: Symbol) -> Symbol:
    fade = sigmoid(-a_f)
    return fade * tanh(a_g) + (1 - fade) * tanh(a_h)


class CfC(Cell):
    """Closed-form continuous-time cell, ``h' = σ(-f) tanh(g) + (1 - σ(-f)) tanh(h)``.

    Hasani et al. 2022, doi 10.1038/s42256-022-00556-7, with a step of 1; f, g and h are
    maps of state and input, in this order, without a backbone.
    """

    kind = CellKind.from_function(_formula, maps=(Map(), Map(), Map()))
