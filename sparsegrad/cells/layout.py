"""Which weights exist, and where each of them lies.

A weight is known by its place in one of PyTorch's dense arrays, row by row: nothing here needs a
dense array, so that a net takes memory of its weights' number, whatever its units'.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.kind import CellKind
from sparsegrad.kernels.cells.maps import Maps
from sparsegrad.system.checks import sealed
from sparsegrad.system.memory import require_memory

NAMES = ("weight_hh", "weight_ih", "bias_ih", "bias_hh")
"""PyTorch's names, in the order in which a row of the maps holds their weights."""
Places = dict[str, NDArray[np.int64]]
"""Under PyTorch's names: the places of the weights that exist, ascending."""
Weights = dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Under PyTorch's names: the weights of an array, ascending, and the place of each."""
_DRAWN = 1 << 22  # initial values that are drawn at a time
_LARGE = 1 << 30  # places of an array from which on only weights that exist are drawn


def random_places(
    shape: tuple[int, ...], sparsity: float, units: int, gate_masks: str, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw which places of a dense array exist: their exact share of each gate, uniformly."""
    gates = shape[0] // units
    if gates == 0:
        return np.empty(0, np.int64)
    size = units * shape[1]
    count = round((1.0 - sparsity) * size)
    # NumPy's choice shuffles all places where more than one in fifty is wanted
    require_memory(8 * (size if count > size // 50 else 5 * count), "a random mask")

    def drawn() -> NDArray[np.int64]:
        return np.sort(rng.choice(size, count, replace=False))

    if gate_masks == "shared":
        one = drawn()
        return np.concatenate([one + gate * size for gate in range(gates)])
    return np.concatenate([drawn() + gate * size for gate in range(gates)])


def lay_out(
    kind: CellKind, units: int, inputs: int, exists: Places, dtype: np.dtype[Any]
) -> tuple[Maps, Weights]:
    """Lay the weights that exist out as one CSR, unit by unit.

    Returns
    -------
    Maps
        Their rows and sources, all weights 0.
    dict of (int64 array, int64 array)
        Under PyTorch's names: the weights of an array, ascending, and the place of each.

    Raises
    ------
    ValueError
        If no weight exists.
    """
    n_maps = len(kind.maps)
    total = sum(places.size for places in exists.values())
    if total == 0:
        raise ValueError("at least one weight must exist, got masks that are all False")
    widths = {"weight_hh": units, "weight_ih": inputs, "bias_ih": 1, "bias_hh": 1}
    first = {"weight_hh": 0, "weight_ih": units, "bias_ih": units + inputs}
    by_row = {
        name: _count_rows(kind, name, units, places, widths[name])
        for name, places in exists.items()
    }
    indptr = np.zeros(units * n_maps + 1, np.int64)
    np.cumsum(sum(by_row.values()), out=indptr[1:])
    begin = indptr[:-1].copy()
    indices, owner = np.empty(total, np.int32), np.empty(total, np.uint8)
    place_of = np.empty(total, np.int64)
    for number, name in enumerate(NAMES):
        if name not in exists or exists[name].size == 0:
            continue
        places, width = exists[name], widths[name]
        row = places // width  # of the dense array
        weight = np.arange(places.size) - np.searchsorted(row, np.arange(row[-1] + 1))[row]
        weight += begin[map_rows(kind, name, units)[row]]
        indices[weight] = first.get(name, units + inputs) + places % width
        owner[weight] = number
        place_of[weight] = places
        begin += by_row[name]
    maps = Maps(
        indptr=sealed(indptr),
        recurrent_end=sealed(indptr[:-1] + by_row.get("weight_hh", 0)),
        indices=sealed(indices),
        weights=np.zeros(total, dtype)[:],  # a view: nobody can resize it
    )
    found = {}
    for number, name in enumerate(NAMES):
        if name in exists and any(m.reads(name) for m in kind.maps):
            weight = np.flatnonzero(owner == number)
            found[name] = weight, place_of[weight]
    return maps, found


def origins(before: Weights, after: Weights, weights: int) -> NDArray[np.int64]:
    """Return which weight of one layout each weight of another was, or -1: int64, (weights,)."""
    origin = np.full(weights, -1, np.int64)
    for name in after.keys() & before.keys():
        (old_weight, old_place), (weight, place) = before[name], after[name]
        order = np.argsort(old_place, kind="stable")
        old_weight, old_place = old_weight[order], old_place[order]
        at = np.searchsorted(old_place, place)
        found = at < old_place.size
        found[found] = old_place[at[found]] == place[found]
        origin[weight[found]] = old_weight[at[found]]
    return origin


def map_rows(kind: CellKind, name: str, units: int) -> NDArray[np.int64]:
    """Return the row of the maps of each row of a dense array."""
    gates = np.array([g for g, m in enumerate(kind.maps) if m.reads(name)], np.int64)
    return (np.arange(units)[None, :] * len(kind.maps) + gates[:, None]).ravel()


def _count_rows(
    kind: CellKind, name: str, units: int, places: NDArray[np.int64], width: int
) -> NDArray[np.int64]:
    """Return how many weights of an array each row of the maps has."""
    counts = np.zeros(units * len(kind.maps), np.int64)
    rows = map_rows(kind, name, units)
    counts[rows] = np.bincount(places // width, minlength=rows.size)
    return counts


def draw_weights(
    weights: NDArray[Any],
    weight: NDArray[np.int64],
    place: NDArray[np.int64],
    shape: tuple[int, ...],
    gain: float,
    rng: np.random.Generator,
) -> None:
    """Draw the weights of a dense array from N(0, gain² / fan-in), with the fan-in that exists.

    A normal number is drawn for every place, in the order of the dense array, and those of places
    that do not exist are left out; an array of 2³⁰ places or more takes only what it needs.

    Parameters
    ----------
    weights : float array, (all weights,)
        Written at `weight`.
    weight, place : int64 arrays
        The array's weights, and their places in it.
    shape : tuple
        Of the dense array.
    gain, rng
        As in :class:`sparsegrad.Cell`.
    """
    order = np.argsort(place, kind="stable")
    weight, place = weight[order], place[order]
    rows, width = shape
    scale = np.sqrt(np.maximum(np.bincount(place // width, minlength=rows), 1))
    step = max(1, _DRAWN // width)
    if rows * width >= _LARGE:
        drawn = rng.standard_normal(place.size)
        _put(weights, weight, drawn * gain / scale[place // width])
        return
    done = 0
    for row in range(0, rows, step):
        drawn = rng.standard_normal((min(step, rows - row), width)).reshape(-1)
        end = int(np.searchsorted(place, (row + step) * width))
        here = place[done:end]
        _put(weights, weight[done:end], drawn[here - row * width] * gain / scale[here // width])
        done = end


def _put(weights: NDArray[Any], weight: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    with np.errstate(over="ignore"):
        weights[weight] = values
