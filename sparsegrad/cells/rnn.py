"""The vanilla recurrent cell."""

from typing import Any

from numpy.typing import DTypeLike, NDArray

from sparsegrad.cells.cell import Cell
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
        self,
        inputs: int,
        units: int,
        *,
        nonlinearity: str = "tanh",
        sparsity: float = 0.0,
        gate_masks: str = "independent",
        input_sparsity: float | None = None,
        masks: dict[str, NDArray[Any]] | None = None,
        gain: float = 1.0,
        seed: int = 0,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.kind = _kind(nonlinearity)
        super().__init__(
            inputs,
            units,
            sparsity=sparsity,
            gate_masks=gate_masks,
            input_sparsity=input_sparsity,
            masks=masks,
            gain=gain,
            seed=seed,
            dtype=dtype,
        )

    @classmethod
    def from_dense(
        cls,
        weight_ih: NDArray[Any] | None = None,
        weight_hh: NDArray[Any] | None = None,
        bias_ih: NDArray[Any] | None = None,
        bias_hh: NDArray[Any] | None = None,
        masks: dict[str, NDArray[Any]] | None = None,
        nonlinearity: str = "tanh",
    ) -> "RNN":
        """Build a cell from PyTorch's arrays; see :meth:`Cell.from_dense`."""
        cell = cls.__new__(cls)
        cell.kind = _kind(nonlinearity)
        cell._take_dense(weight_ih, weight_hh, bias_ih, bias_hh, masks)
        return cell

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"kind": self.options()["nonlinearity"]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state | {"kind": _kind(state["kind"])})

    def options(self) -> dict[str, str]:
        """Return the nonlinearity."""
        return {"nonlinearity": next(k for k, kind in _KINDS.items() if kind is self.kind)}


def _kind(nonlinearity: str) -> CellKind:
    if not isinstance(nonlinearity, str) or nonlinearity not in _KINDS:
        raise ValueError(f"nonlinearity must be one of {sorted(_KINDS)}, got {nonlinearity!r}")
    return _KINDS[nonlinearity]
