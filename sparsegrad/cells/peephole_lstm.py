"""The long short-term memory cell whose gates see the memory."""

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.functions import sigmoid, tanh
from sparsegrad.cells.kind import CellKind, Map
from sparsegrad.cells.symbols import Symbol


def _formula(
    h: Symbol,
    c: Symbol,
    a_i: Symbol,
    a_f: Symbol,
    a_g: Symbol,
    a_o: Symbol,
    p_i: Symbol,
    p_f: Symbol,
    p_o: Symbol,
) -> tuple[Symbol, Symbol]:
    new_c = sigmoid(a_f + p_f * c) * c + sigmoid(a_i + p_i * c) * tanh(a_g)
    return sigmoid(a_o + p_o * new_c) * tanh(new_c), new_c


_PEEPHOLE = Map(h=False, x=False)


class PeepholeLSTM(Cell):
    """Long short-term memory with peepholes, gates in the order i, f, g, o; the state is [h; c].

    ``c' = σ(a_f + p_f c) c + σ(a_i + p_i c) tanh(a_g)``, ``h' = σ(a_o + p_o c') tanh(c')``.

    Gers, Schraudolph and Schmidhuber 2002, Journal of Machine Learning Research 3, section 2.
    ``bias_ih`` holds the biases of the gates, then the peepholes p_i, p_f, p_o, which start at 0. A
    new cell starts with a forget bias of 1.
    """

    kind = CellKind.from_function(
        _formula,
        maps=(
            Map(bias_hh=True),
            Map(bias_hh=True, initial_bias=1.0),
            Map(bias_hh=True),
            Map(bias_hh=True),
            _PEEPHOLE,
            _PEEPHOLE,
            _PEEPHOLE,
        ),
    )
