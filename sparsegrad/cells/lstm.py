"""The long short-term memory cell."""

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.kind import CellKind, Map
from sparsegrad.kernels.cells.elementwise import lstm

_CELL, _HIDDEN = 1, 0


class LSTM(Cell):
    """Long short-term memory as ``torch.nn.LSTMCell``, gates in the order i, f, g, o.

    ``c' = σ(a_f) c + σ(a_i) tanh(a_g)``, ``h' = σ(a_o) tanh(c')``; the state is ``[h; c]``.

    A new cell starts with a forget bias of 1.
    """

    kind = CellKind(
        update=lstm,
        components=2,
        maps=(
            Map(bias_hh=True),
            Map(bias_hh=True, initial_bias=1.0),
            Map(bias_hh=True),
            Map(bias_hh=True),
        ),
        state_partials=((_HIDDEN, _CELL), (_CELL, _CELL)),
        map_partials=(
            (_HIDDEN, 0),
            (_HIDDEN, 1),
            (_HIDDEN, 2),
            (_HIDDEN, 3),
            (_CELL, 0),
            (_CELL, 1),
            (_CELL, 2),
        ),
    )
