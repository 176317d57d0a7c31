"""The gated recurrent unit, in the form of CuDNN and PyTorch."""

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.kind import CellKind, Map
from sparsegrad.kernels.cells.elementwise import gru


class GRU(Cell):
    """Gated cell as ``torch.nn.GRUCell``, gates in the order r, z, n.

    ``r = σ(a_r)``, ``z = σ(a_z)``, ``n = tanh(a_in + r a_hn)``, ``h' = (1 - z) n + z h``.

    The reset gate acts after the matrix product, so that one weight touches one unit in a step and
    the immediate Jacobian stays sparse. The candidate is two maps: ``a_in`` reads the input,
    ``a_hn`` the state.
    """

    kind = CellKind(
        update=gru,
        maps=(
            Map(bias_hh=True),
            Map(bias_hh=True),
            Map(h=False),
            Map(x=False, bias_ih=False, bias_hh=True),
        ),
    )
