"""A recurrent cell on weights that exist: masks, initial values, PyTorch's layout at the door."""

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsegrad.cells.kind import CellKind
from sparsegrad.kernels.cells.maps import Maps
from sparsegrad.system.checks import float_type, integer, plain, real, sealed
from sparsegrad.system.ownership import SetOnce

NAMES = ("weight_hh", "weight_ih", "bias_ih", "bias_hh")
"""PyTorch's names, in the order in which a row of the maps holds their weights."""
_MOST = 2**31 - 2  # inputs, or units: their places are 32 bits wide
_DRAWN = 1 << 22  # initial values that are drawn at a time


class Cell(SetOnce):
    """A cell of `units` units, holding only the weights that exist.

    A subclass names its :class:`CellKind` in the class attribute ``kind``; nothing else is needed.

    Parameters
    ----------
    inputs, units : int
        Width of the input; number of state units.
    sparsity : float
        Share of each recurrent matrix that is absent, in [0, 1). The count is exact, the places are
        uniformly random and fixed. Biases are always dense.
    gate_masks : {"independent", "shared"}
        One mask per gate, or one for all gates of a unit (sparser Jacobians, same weight count).
    input_sparsity : float, optional
        The same for the input matrices. Default: `sparsity`.
    masks : dict of bool arrays, optional
        Masks of your own under PyTorch's names (``weight_hh``, ``weight_ih``, ``bias_ih``,
        ``bias_hh``), shaped as the dense arrays; these override the random ones.
    gain : float
        Weights start from N(0, gain² / fan-in), with the fan-in that exists.
    seed : int
        Seed of the masks and of the initial weights.
    dtype : {"float32", "float64"}
        Of weights, state and all else.

    Attributes
    ----------
    weights : float array, (weights,)
        The weights that exist, unit by unit. A learner trains them in place.
    maps : Maps
        The sparse maps: one CSR over the sources ``[h; x; 1]``, row ``unit * n_maps + map``. Its
        structure is read-only, and no attribute can be replaced: kernels trust them.
    places : dict of (int64 array, int64 array)
        Under PyTorch's names: which of `weights` a dense array holds, and where in it, row by row.

    Raises
    ------
    ValueError
        If a size, a sparsity or a mask is out of range.
    TypeError
        If a mask is not boolean.
    """

    kind: CellKind
    _modes: ClassVar[tuple[str, ...]] = ("independent", "shared")

    def __init__(
        self,
        inputs: int,
        units: int,
        *,
        sparsity: float = 0.0,
        gate_masks: str = "independent",
        input_sparsity: float | None = None,
        masks: dict[str, NDArray[Any]] | None = None,
        gain: float = 1.0,
        seed: int = 0,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.inputs = integer("inputs", inputs, least=1, most=_MOST)
        self.units = integer("units", units, least=1, most=_MOST)
        self.dtype = float_type(dtype)
        integer("seed", seed, least=0)
        real("gain", gain)
        if not isinstance(gate_masks, str) or gate_masks not in self._modes:
            raise ValueError(f"gate_masks must be one of {self._modes}, got {gate_masks!r}")
        shares = {
            "weight_hh": sparsity,
            "weight_ih": sparsity if input_sparsity is None else input_sparsity,
        }
        for name, share in shares.items():
            real("sparsity" if name == "weight_hh" else "input_sparsity", share, 0.0, below=1.0)
        rng = np.random.default_rng(seed)
        exists = {}
        for name in NAMES:
            shape = self._dense_shape(name)
            if masks is not None and name in masks:
                exists[name] = _mask(name, masks[name], shape)
            elif name in shares:
                exists[name] = _random_mask(shape, shares[name], units, gate_masks, rng)
            else:
                exists[name] = np.ones(shape, bool)
        _refuse_unknown(masks)
        self._build(exists)
        self._initialise(exists, gain, rng)

    @classmethod
    def from_dense(
        cls,
        weight_ih: NDArray[Any],
        weight_hh: NDArray[Any],
        bias_ih: NDArray[Any] | None = None,
        bias_hh: NDArray[Any] | None = None,
        masks: dict[str, NDArray[Any]] | None = None,
    ) -> Self:
        """Build a cell from PyTorch's arrays.

        Parameters
        ----------
        weight_ih, weight_hh : float array, (gates * units, inputs) and (gates * units, units)
            Gates stacked in PyTorch's order; all arrays of one dtype, which becomes the cell's.
        bias_ih, bias_hh : float array, (gates * units,), optional
            A bias that is left out does not exist.
        masks : dict of bool arrays, optional
            Which weights exist. Default: those that are not 0, and all biases.

        Raises
        ------
        ValueError, TypeError
            If shapes or dtypes disagree, or a value is not finite.
        """
        cell = cls.__new__(cls)
        cell._take_dense(weight_ih, weight_hh, bias_ih, bias_hh, masks)
        return cell

    def options(self) -> dict[str, Any]:
        """Return what `from_dense` must be told beside arrays and masks to make such a cell."""
        return {}

    def to_dense(self) -> dict[str, NDArray[Any]]:
        """Return the weights as dense arrays under PyTorch's names; absent weights are 0."""
        return self.dense_of(self.weights)

    def dense_of(self, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return one value per weight, ``(weights,)``, as dense arrays under PyTorch's names."""
        dense = {}
        for name, (weight, place) in self.places.items():
            out = np.zeros(self._dense_shape(name), values.dtype)
            out.reshape(-1)[place] = values[weight]
            dense[name] = out
        return dense

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Return which weights exist, as dense arrays under PyTorch's names."""
        return self.dense_of(np.ones(self.weights.size, bool))

    @property
    def states(self) -> int:
        """State numbers: units times components."""
        return self.units * self.kind.components

    @property
    def weights(self) -> NDArray[Any]:
        """The weights that exist, in the order of the maps: a view, to read and to write."""
        return self.maps.weights[:]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        if self.kind is type(self).kind:
            del state["kind"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        maps = state["maps"]
        sealed_maps = maps._replace(
            indptr=sealed(maps.indptr),
            recurrent_end=sealed(maps.recurrent_end),
            indices=sealed(maps.indices),
        )
        vars(self).update(state | {"maps": sealed_maps})
        vars(self).setdefault("kind", type(self).kind)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.inputs}, {self.units}, dtype={self.dtype.name!r}) "
            f"with {self.weights.size} weights"
        )

    def _dense_shape(self, name: str) -> tuple[int, ...]:
        rows = sum(m.reads(name) for m in self.kind.maps) * self.units
        width = {"weight_ih": self.inputs, "weight_hh": self.units}.get(name)
        return (rows,) if width is None else (rows, width)

    def _take_dense(
        self,
        weight_ih: NDArray[Any],
        weight_hh: NDArray[Any],
        bias_ih: NDArray[Any] | None,
        bias_hh: NDArray[Any] | None,
        masks: dict[str, NDArray[Any]] | None,
    ) -> None:
        given = {
            "weight_hh": weight_hh,
            "weight_ih": weight_ih,
            "bias_ih": bias_ih,
            "bias_hh": bias_hh,
        }
        dense = {name: plain(name, a) for name, a in given.items() if a is not None}
        for name in ("weight_ih", "weight_hh"):
            if dense[name].ndim != 2 or 0 in dense[name].shape:
                raise ValueError(f"{name} must be a filled matrix, got shape {dense[name].shape}")
        self.inputs, self.units = dense["weight_ih"].shape[1], dense["weight_hh"].shape[1]
        self.dtype = float_type(dense["weight_hh"].dtype)
        _refuse_unknown(masks)
        exists = {}
        for name, values in dense.items():
            if values.dtype != self.dtype:
                raise TypeError(f"{name} must be {self.dtype} as weight_hh is, got {values.dtype}")
            if values.shape != self._dense_shape(name):
                raise ValueError(
                    f"{name} must have shape {self._dense_shape(name)} for {self.units} units "
                    f"and {self.inputs} inputs, got {values.shape}"
                )
            if not np.isfinite(values).all():
                raise ValueError(f"{name} must be finite, got NaN or infinity")
            if masks is not None and name in masks:
                exists[name] = _mask(name, masks[name], values.shape)
            else:
                exists[name] = values != 0 if values.ndim == 2 else np.ones(values.shape, bool)
        self._build(exists)
        for name, (weight, place) in self.places.items():
            self.weights[weight] = dense[name].reshape(-1)[place]

    def _build(self, exists: dict[str, NDArray[np.bool_]]) -> None:
        """Lay the weights that exist out as one CSR, unit by unit."""
        units, n_maps = self.units, len(self.kind.maps)
        first = {"weight_hh": 0, "weight_ih": units, "bias_ih": -1, "bias_hh": -1}
        rows, columns, places, owners = [], [], [], []
        for owner, name in enumerate(NAMES):
            if name not in exists or exists[name].size == 0:
                continue
            # row of a dense array -> row of the maps
            gates = [g for g, m in enumerate(self.kind.maps) if m.reads(name)]
            map_row = (np.arange(units)[None, :] * n_maps + np.array(gates, int)[:, None]).ravel()
            mask = exists[name].reshape(map_row.size, -1)
            row, column = np.nonzero(mask)
            rows.append(map_row[row])
            if first[name] < 0:
                columns.append(np.full(row.size, units + self.inputs))
            else:
                columns.append(first[name] + column)
            places.append(row * mask.shape[1] + column)
            owners.append(np.full(row.size, owner))
        row, column, place, owner_of = map(np.concatenate, (rows, columns, places, owners))
        if row.size == 0:
            raise ValueError("at least one weight must exist, got masks that are all False")
        order = np.lexsort((owner_of, column, row))
        row, column, place, owner_of = row[order], column[order], place[order], owner_of[order]
        edges = np.arange(units * n_maps + 1)
        indptr = np.searchsorted(row, edges).astype(np.int64)
        recurrent = np.bincount(row[column < units], minlength=units * n_maps)
        self.maps = Maps(
            indptr=sealed(indptr),
            recurrent_end=sealed(indptr[:-1] + recurrent),
            indices=sealed(column.astype(np.int32)),
            weights=np.zeros(row.size, self.dtype)[:],  # a view: nobody can resize it
        )
        if "kind" not in vars(self):
            self.kind = self.kind  # of the class: now this cell's, and set once
        self.places: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        for owner, name in enumerate(NAMES):
            if name in exists and exists[name].size:
                weight = np.flatnonzero(owner_of == owner)
                self.places[name] = (weight, place[weight])

    def _initialise(
        self, exists: dict[str, NDArray[np.bool_]], gain: float, rng: np.random.Generator
    ) -> None:
        for name in ("weight_hh", "weight_ih"):
            mask = exists[name]
            if mask.size == 0:
                continue
            fan_in = np.maximum(mask.sum(axis=1, keepdims=True), 1)
            weight, place = self.places[name]
            weight = weight[np.argsort(place)]
            rows, done = max(1, _DRAWN // mask.shape[1]), 0
            for row in range(0, mask.shape[0], rows):  # a large net's dense matrix is gigabytes
                exist = mask[row : row + rows]
                drawn = rng.standard_normal(exist.shape) * gain / np.sqrt(fan_in[row : row + rows])
                values = drawn[exist]
                with np.errstate(over="ignore"):
                    self.weights[weight[done : done + values.size]] = values
                done += values.size
        if not np.isfinite(self.weights).all():
            raise ValueError(f"gain must leave the weights finite in {self.dtype}, got {gain}")
        biases = [np.full(self.units, m.initial_bias) for m in self.kind.maps if m.bias_ih]
        if biases:
            weight, place = self.places["bias_ih"]
            self.weights[weight] = np.concatenate(biases)[place]


def _mask(name: str, mask: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    found = plain(f"mask {name}", mask)
    if found.dtype != np.bool_:
        raise TypeError(f"mask {name} must be boolean, got {found.dtype}: pass mask != 0")
    if found.shape != shape:
        raise ValueError(f"mask {name} must have shape {shape}, got {found.shape}")
    return found


def _refuse_unknown(masks: dict[str, NDArray[Any]] | None) -> None:
    for name in masks or ():
        if name not in NAMES:
            raise ValueError(f"masks must be named as {NAMES}, got {name!r}")


def _random_mask(
    shape: tuple[int, ...], sparsity: float, units: int, gate_masks: str, rng: np.random.Generator
) -> NDArray[np.bool_]:
    gates = shape[0] // units
    size = units * shape[1]
    count = round((1.0 - sparsity) * size)
    mask = np.zeros((gates, size), bool)
    if gate_masks == "shared":
        mask[:, rng.choice(size, count, replace=False)] = True
    else:
        for gate in range(gates):
            mask[gate, rng.choice(size, count, replace=False)] = True
    return mask.reshape(shape)
