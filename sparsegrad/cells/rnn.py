"""The vanilla recurrent cell."""

from typing import Any, Unpack

from sparsegrad.cells.cell import Cell, Drawn
from sparsegrad.cells.kind import CellKind, Map
from sparsegrad.kernels.cells.elementwise import rnn_relu, rnn_tanh

_MAPS = (Map(bias_hh=True),)
_KINDS = {
    "tanh": CellKind(update=rnn_tanh, maps=_MAPS, state_partials=()),
    "relu": CellKind(update=rnn_relu, maps=_MAPS, state_partials=()),
}


class RNN(Cell):
    """Vanilla cell ``h' = φ(W h + b_hh + U x + b_ih)``, as ``torch.nn.RNNCell``.

    Parameters
    ----------
    inputs, units : int
        Width of the input; number of state units.
    nonlinearity : {"tanh", "relu"}
        The function φ.
    sparsity, gate_masks, input_sparsity, masks, gain, seed, dtype
        As in :class:`Cell`.
    """

    kind = _KINDS["tanh"]

    def __init__(
        self, inputs: int, units: int, *, nonlinearity: str = "tanh", **drawn: Unpack[Drawn]
    ) -> None:
        self._settle(nonlinearity)
        super().__init__(inputs, units, **drawn)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"kind": self.options()["nonlinearity"]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state | {"kind": _kind(state["kind"])})

    def _settle(self, nonlinearity: str = "tanh") -> None:
        self.kind = _kind(nonlinearity)

    def options(self) -> dict[str, str]:
        """Return the nonlinearity."""
        return {"nonlinearity": next(k for k, kind in _KINDS.items() if kind is self.kind)}


def _kind(nonlinearity: str) -> CellKind:
    if not isinstance(nonlinearity, str) or nonlinearity not in _KINDS:
        raise ValueError(f"nonlinearity must be one of {sorted(_KINDS)}, got {nonlinearity!r}")
    return _KINDS[nonlinearity]
