"""Sparsity structures of random recurrent cells: the patterns of D and I, without values.

Each gate of a cell has a recurrent mask (units × units) and an input mask (units × inputs), both
uniformly random with an exact count of ones; biases are dense, as in `torch.nn`. Masks are drawn
as places, so that a net is described in memory of its weights' number, whatever its units'. D and
I follow from the cell's kind as for any cell, in `sparsegrad.cells.jacobians`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.jacobians import (
    Net,
    dynamics_alone,
    immediate_pattern,
    own_pattern,
    sorted_unique,
)
from sparsegrad.cells.kind import CellKind
from sparsegrad.kernels.cells.maps import Maps
from sparsegrad.registry import CELLS
from sparsegrad.system.memory import require_memory

if TYPE_CHECKING:
    from scipy.sparse import csc_array, csr_array

GATE_MASKS = ("independent", "shared")


@dataclass(frozen=True)
class Structure:
    """The patterns of a cell's Jacobians.

    Attributes
    ----------
    dynamics : csr_array of bool, (state, state)
        Where D may be non-zero.
    immediate : csc_array of bool, (state, weights)
        Where I may be non-zero.
    recurrent : int
        How many of the weights are recurrent ones.
    own : csr_array of bool, (state, state), optional
        Which entries of D cost no step of reach; see `sparsegrad.cells.jacobians.own_pattern`.
    net : Net, optional
        Kind, units and maps, without weights; None of a net that was not drawn here.
    """

    dynamics: "csr_array"
    immediate: "csc_array"
    recurrent: int
    own: "csr_array | None" = None
    net: Net | None = None

    @property
    def weights(self) -> int:
        """How many weights exist, biases included."""
        return int(self.immediate.shape[1])


@dataclass(frozen=True)
class _Net:
    """A cell as far as its patterns go."""

    kind: CellKind
    units: int
    maps: Maps


def structure(
    cell: str,
    units: int,
    sparsity: float,
    inputs: int = 32,
    gate_masks: str = "independent",
    seed: int = 0,
) -> Structure:
    """Draw the masks of a random sparse cell and return the patterns of its D and I.

    Parameters
    ----------
    cell : str
        Name of a row of `sparsegrad.registry.CELLS`.
    units : int
        Number of units, at least 1. The state of an LSTM has twice as many numbers.
    sparsity : float
        Part of the recurrent and of the input weights that do not exist, in [0, 1).
    inputs : int
        Width of the input, at least 0.
    gate_masks : str
        "independent" (each gate draws masks of its own) or "shared" (one mask for all gates).
    seed : int
        Seed of the masks.

    Returns
    -------
    Structure
        Memory and time grow with the number of weights alone.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> lstm = structure("lstm", units=64, sparsity=0.75, inputs=8)
    >>> lstm.dynamics.shape, lstm.weights
    ((128, 128), 5120)
    """
    _check(cell, units, sparsity, inputs, gate_masks)
    kind: CellKind = CELLS[cell].load().kind
    rng = np.random.default_rng(seed)
    recurrent = _drawn(rng, kind, "weight_hh", (units, units), sparsity, gate_masks)
    driven = _drawn(rng, kind, "weight_ih", (units, inputs), sparsity, gate_masks)
    net = _Net(kind, units, _maps(kind, units, inputs, recurrent, driven))
    return Structure(
        dynamics_alone(net),
        immediate_pattern(net),
        sum(map(len, recurrent.values())),
        own_pattern(net),
        net,
    )


def _check(cell: str, units: int, sparsity: float, inputs: int, gate_masks: str) -> None:
    if cell not in CELLS:
        raise ValueError(f"cell must be one of {', '.join(CELLS)}, got {cell!r}")
    if gate_masks not in GATE_MASKS:
        raise ValueError(f"gate_masks must be one of {', '.join(GATE_MASKS)}, got {gate_masks!r}")
    if not 1 <= units <= 2**30:
        raise ValueError(f"units must be between 1 and 2**30, got {units}")
    if not 0 <= sparsity < 1:  # NaN is refused too
        raise ValueError(f"sparsity must be at least 0 and below 1, got {sparsity}")
    if inputs < 0:
        raise ValueError(f"inputs must be at least 0, got {inputs}")


def _drawn(
    rng: np.random.Generator,
    kind: CellKind,
    name: str,
    shape: tuple[int, int],
    sparsity: float,
    gate_masks: str,
) -> dict[int, NDArray[np.int64]]:
    """Draw the masks of the maps that have weights under a name: sorted places, by map."""
    maps = [g for g, linear in enumerate(kind.maps) if linear.reads(name)]
    if gate_masks == "shared":
        return dict.fromkeys(maps, _random_mask(rng, *shape, sparsity))
    return {g: _random_mask(rng, *shape, sparsity) for g in maps}


def _maps(
    kind: CellKind,
    units: int,
    inputs: int,
    recurrent: dict[int, NDArray[np.int64]],
    driven: dict[int, NDArray[np.int64]],
) -> Maps:
    """Lay drawn places out as the maps of a cell, without weights."""
    n_maps = len(kind.maps)
    reads_h, reads_x = (np.zeros(units * n_maps, np.int64) for _ in range(2))
    for g in range(n_maps):
        if g in recurrent:
            reads_h[g::n_maps] = np.bincount(recurrent[g] // units, minlength=units)
        if g in driven and inputs:
            reads_x[g::n_maps] = np.bincount(driven[g] // inputs, minlength=units)
    biases = np.array([linear.bias_ih + linear.bias_hh for linear in kind.maps])
    indptr = np.zeros(units * n_maps + 1, np.int64)
    np.cumsum(reads_h + reads_x + np.tile(biases, units), out=indptr[1:])
    indices = np.full(indptr[-1], units + inputs, np.int32)
    recurrent_end = indptr[:-1] + reads_h
    for first, width, masks, offset in (
        (indptr[:-1], units, recurrent, 0),
        (recurrent_end, inputs, driven, units),
    ):
        for g, places in masks.items() if width else ():
            counts = np.bincount(places // width, minlength=units)
            shift = first[g::n_maps] - (np.cumsum(counts) - counts)  # places are sorted by unit
            indices[np.arange(places.size) + np.repeat(shift, counts)] = offset + places % width
    return Maps(indptr, recurrent_end, indices, np.empty(0))


def _random_mask(
    rng: np.random.Generator, rows: int, columns: int, sparsity: float
) -> NDArray[np.int64]:
    """Draw exactly round((1 - sparsity) rows columns) places; sorted codes row * columns + column.

    Distinct ones among uniform draws with replacement are a uniform subset of their number, and a
    uniform subset of that is one too: no permutation of all places is made. Where more than half
    of the places are kept, the missing ones are drawn.
    """
    places = rows * columns
    count = round((1 - sparsity) * places)
    require_memory(24 * min(count, places - count) + places * (2 * count > places), "a mask")
    if 2 * count > places:
        keep = np.ones(places, dtype=bool)
        keep[_subset(rng, places, places - count)] = False
        return np.flatnonzero(keep)
    return _subset(rng, places, count)


def _subset(rng: np.random.Generator, places: int, count: int) -> NDArray[np.int64]:
    found = np.empty(0, dtype=np.int64)
    while len(found) < count:
        more = rng.integers(places, size=count - len(found) + count // 8 + 16)
        found = sorted_unique(np.concatenate([found, more]))
    if len(found) > count:
        surplus = rng.choice(len(found), size=len(found) - count, replace=False, shuffle=False)
        found = np.delete(found, surplus)
    return found
