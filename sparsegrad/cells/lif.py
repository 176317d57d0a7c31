"""The leaky integrate-and-fire neuron."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple, Unpack

from sparsegrad.cells.cell import Cell, Drawn
from sparsegrad.cells.functions import relu, spike, stop
from sparsegrad.cells.kind import CellKind
from sparsegrad.cells.symbols import Symbol
from sparsegrad.system.checks import real


class Neuron(NamedTuple):
    """The constants of a neuron.

    Parameters
    ----------
    decay : float
        α, of the membrane, in [0, 1).
    threshold : float
        θ, above 0.
    slope : float
        γ, the largest slope of a spike by v/θ, above 0.
    """

    decay: float = 0.95
    threshold: float = 0.6
    slope: float = 0.3


_USUAL = Neuron()


def _formula(
    neuron: Neuron,
) -> Callable[[Symbol, Symbol, Symbol], tuple[Symbol, Symbol]]:
    def formula(z: Symbol, v: Symbol, a: Symbol) -> tuple[Symbol, Symbol]:
        new_v = neuron.decay * v + a - neuron.threshold * stop(z)
        above = (new_v - neuron.threshold) / neuron.threshold
        return spike(above, neuron.slope * relu(1 - abs(above))), new_v

    return formula


@cache
def _kind(neuron: Neuron) -> CellKind:
    return CellKind.from_function(_formula(neuron))


class LIF(Cell):
    """Leaky integrate-and-fire neuron.

    ``v' = α v + W z + U x + b - θ z``, ``z' = 1 if v' > θ else 0``.

    Bellec et al. 2020, doi 10.1038/s41467-020-17236-y, Methods. The state is [z; v]; maps and
    readouts see the spikes z. The slope that stands in for a spike's is
    ``γ/θ max(0, 1 - |v' - θ|/θ)``, and no gradient goes through the reset.
    :class:`sparsegrad.RFLO` is e-prop.

    Parameters
    ----------
    inputs, units : int
        Width of the input; number of units.
    neuron : Neuron
        Its constants.
    sparsity, gate_masks, input_sparsity, masks, gain, seed, dtype
        As in :class:`Cell`.

    Raises
    ------
    ValueError, TypeError
        If a constant is out of range or no number; otherwise as :class:`Cell`.
    """

    kind = _kind(_USUAL)

    def __init__(
        self, inputs: int, units: int, *, neuron: Neuron = _USUAL, **drawn: Unpack[Drawn]
    ) -> None:
        self._settle(neuron)
        super().__init__(inputs, units, **drawn)

    def options(self) -> dict[str, list[float]]:
        """Return the neuron's constants."""
        return {"neuron": list(self.neuron)}

    def _settle(self, neuron: Neuron = _USUAL) -> None:
        neuron = Neuron(*neuron)  # out of a file it is a list
        self.neuron = Neuron(
            real("decay", neuron.decay, 0.0, below=1.0),
            real("threshold", neuron.threshold, above=0.0),
            real("slope", neuron.slope, above=0.0),
        )
        self.kind = _kind(self.neuron)
