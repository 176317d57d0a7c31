"""The linear recurrent unit."""

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.functions import cos, exp, sin, sqrt
from sparsegrad.cells.kind import CellKind, Map
from sparsegrad.cells.symbols import Symbol


def _formula(
    re: Symbol, im: Symbol, a_re: Symbol, a_im: Symbol, nu: Symbol, phase: Symbol
) -> tuple[Symbol, Symbol]:
    r, angle = exp(-exp(nu)), exp(phase)
    size = sqrt(1 - r * r)
    g, k = r * cos(angle), r * sin(angle)
    return g * re - k * im + size * a_re, k * re + g * im + size * a_im


def _on_a_ring(rng: np.random.Generator, units: int) -> NDArray[np.float64]:
    """Return ν of radii in [0.5, 0.999], uniform over the ring's area."""
    return np.log(-0.5 * np.log(rng.uniform(0.5**2, 0.999**2, units)))


def _around(rng: np.random.Generator, units: int) -> NDArray[np.float64]:
    """Return the logarithms of angles in (0, π]."""
    return np.log(np.pi * (1 - rng.random(units)))


class LRU(Cell):
    """Linear recurrent unit in the real parametrisation of recurrent trace units.

    ``re' = r cos(θ) re - r sin(θ) im + γ W_re x``, ``im' = r sin(θ) re + r cos(θ) im + γ W_im x``
    with ``r = exp(-exp(ν))``, ``θ = exp(φ)``, ``γ = √(1 - r²)``.

    Orvieto et al. 2023, arXiv 2303.06349; Elelimy et al. 2024, arXiv 2409.01449.
    The state is [re; im]; a readout sees re, which im turns into. Each unit reads itself alone, so
    that SnAp-1 is exact. ``bias_ih`` holds ν, then φ; radii start in [0.5, 0.999], angles in
    (0, π].
    """

    kind = CellKind.from_function(
        _formula,
        maps=(
            Map(h=False, bias_ih=False),
            Map(h=False, bias_ih=False),
            Map(h=False, x=False, initial_bias=_on_a_ring),
            Map(h=False, x=False, initial_bias=_around),
        ),
    )
