"""The vanilla cell with a leak."""

from collections.abc import Callable
from functools import cache
from typing import Unpack

from sparsegrad.cells.cell import Cell, Drawn
from sparsegrad.cells.functions import tanh
from sparsegrad.cells.kind import CellKind, Map
from sparsegrad.cells.symbols import Symbol
from sparsegrad.system.checks import real


def _formula(leak: float) -> Callable[[Symbol, Symbol], Symbol]:
    def formula(h: Symbol, a: Symbol) -> Symbol:
        return (1 - leak) * h + leak * tanh(a)

    return formula


@cache
def _kind(leak: float) -> CellKind:
    return CellKind.from_function(_formula(leak), maps=(Map(bias_hh=True),))


class LeakyRNN(Cell):
    """Leaky integrator ``h' = (1 - α) h + α tanh(W h + U x + b)``.

    Jaeger et al. 2007, doi 10.1016/j.neunet.2007.04.016; the rate network of Murray 2019, doi
    10.7554/eLife.43299, whose rule :class:`sparsegrad.RFLO` is.

    Parameters
    ----------
    inputs, units : int
        Width of the input; number of units.
    leak : float
        α, in (0, 1]: the time step over the time constant.
    sparsity, gate_masks, input_sparsity, masks, gain, seed, dtype
        As in :class:`Cell`.

    Raises
    ------
    ValueError, TypeError
        If a setting is out of range or no number; otherwise as :class:`Cell`.
    """

    kind = _kind(0.1)

    def __init__(
        self, inputs: int, units: int, *, leak: float = 0.1, **drawn: Unpack[Drawn]
    ) -> None:
        self._settle(leak)
        super().__init__(inputs, units, **drawn)

    def options(self) -> dict[str, float]:
        """Return the settings."""
        return {"leak": self.leak}

    def _settle(self, leak: float = 0.1) -> None:
        self.leak = real("leak", leak, above=0.0)
        if self.leak > 1:
            raise ValueError(f"leak must be at most 1, got {leak}")
        self.kind = _kind(self.leak)
