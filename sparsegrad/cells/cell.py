"""A recurrent cell on weights that exist: masks, initial values, PyTorch's layout at the door."""

from typing import Any, ClassVar, NamedTuple, Self, TypedDict

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsegrad.cells.kind import CellKind
from sparsegrad.cells.layout import (
    NAMES,
    Places,
    draw_weights,
    lay_out,
    origins,
    random_places,
)
from sparsegrad.cells.sparse import edges_to_matrix, is_sparse, stored
from sparsegrad.system.checks import float_type, integer, plain, real, sealed
from sparsegrad.system.ownership import SetOnce

_MOST = 2**31 - 2  # inputs, or units: their places are 32 bits wide


class Shapes(NamedTuple):
    """Shapes of what a step has of a group of streams; `kernels.learning.steps` says what of."""

    state: tuple[int, int]
    pre: tuple[int, int]
    d_state: tuple[int, int, int]
    d_pre: tuple[int, int, int]
    sources: int
    one: int  # first of the sources that are 1


class Drawn(TypedDict, total=False):
    """How masks and weights of a cell are drawn: what every constructor takes, see `Cell`."""

    sparsity: float
    gate_masks: str
    input_sparsity: float | None
    masks: dict[str, NDArray[Any]] | None
    gain: float
    seed: int
    dtype: DTypeLike


class Cell(SetOnce):
    """A cell of `units` units, holding only the weights that exist.

    A subclass names its :class:`CellKind` in the class attribute ``kind``; nothing else is needed.
    One with settings of its own takes them in its constructor and in ``_settle``, which sets the
    kind that belongs to them, and returns them from :meth:`options`.

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
        exists: Places = {}
        for name in NAMES:
            shape = self.dense_shape(name)
            if masks is not None and name in masks:
                exists[name] = np.flatnonzero(_mask(name, masks[name], shape))
            elif name in shares:
                exists[name] = random_places(shape, shares[name], units, gate_masks, rng)
            else:
                exists[name] = np.arange(shape[0])
        _refuse_unknown(masks)
        self._build(exists)
        self._initialise(gain, rng)

    @classmethod
    def from_dense(
        cls,
        weight_ih: NDArray[Any] | None = None,
        weight_hh: NDArray[Any] | None = None,
        bias_ih: NDArray[Any] | None = None,
        bias_hh: NDArray[Any] | None = None,
        masks: dict[str, NDArray[Any]] | None = None,
        **settings: Any,
    ) -> Self:
        """Build a cell from PyTorch's arrays.

        Parameters
        ----------
        weight_ih, weight_hh : float array, (gates * units, inputs) and (gates * units, units)
            Gates stacked in PyTorch's order; all arrays of one dtype, which becomes the cell's. One
            that no map of the cell reads is left out.
        bias_ih, bias_hh : float array, (gates * units,), optional
            A bias that is left out does not exist.
        masks : dict of bool arrays, optional
            Which weights exist. Default: those that are not 0, and all biases.
        **settings
            Of the cell, as its constructor has them: what :meth:`options` returns.

        Raises
        ------
        ValueError, TypeError
            If shapes or dtypes disagree, or a value is not finite.
        """
        cell = cls.__new__(cls)
        cell._settle(**settings)
        cell._take_dense(weight_ih, weight_hh, bias_ih, bias_hh, masks)
        return cell

    @classmethod
    def from_sparse(
        cls,
        weight_hh: Any = None,
        weight_ih: Any = None,
        bias_ih: NDArray[Any] | None = None,
        bias_hh: NDArray[Any] | None = None,
        **settings: Any,
    ) -> Self:
        """Build a cell from sparse matrices; memory and time grow with the weights alone.

        Parameters
        ----------
        weight_hh, weight_ih : scipy.sparse matrix or array, or dense float array
            Shaped as in :meth:`from_dense`, which takes them as well. What a sparse one stores
            exists, zeros too; of a dense one, what is not 0.
        bias_ih, bias_hh : float array, (gates * units,), optional
            A bias that is left out does not exist.
        **settings
            As for :meth:`from_dense`.

        Raises
        ------
        ValueError, TypeError
            As for :meth:`from_dense`, or if a matrix stores a weight twice.
        """
        return cls.from_dense(weight_ih, weight_hh, bias_ih, bias_hh, **settings)

    @classmethod
    def from_edges(
        cls,
        sources: NDArray[np.integer],
        targets: NDArray[np.integer],
        weights: NDArray[Any],
        units: int,
        weight_ih: Any = None,
        bias_ih: NDArray[Any] | None = None,
        bias_hh: NDArray[Any] | None = None,
        **settings: Any,
    ) -> Self:
        """Build a cell from a list of recurrent edges.

        Parameters
        ----------
        sources, targets : integer array, (edges,)
            Each edge's units. An edge exists in every gate.
        weights : float array, (gates, edges), or (edges,) of a cell of one gate
            A weight in each of the maps that read the state.
        units : int
            Number of units.
        weight_ih, bias_ih, bias_hh, **settings
            As in :meth:`from_sparse`.

        Raises
        ------
        ValueError, TypeError
            If a unit does not exist, an edge comes twice, or as for :meth:`from_sparse`.
        """
        gates = sum(m.h for m in cls.kind.maps)
        matrix = edges_to_matrix(sources, targets, weights, units, gates)
        return cls.from_sparse(matrix, weight_ih, bias_ih, bias_hh, **settings)

    def options(self) -> dict[str, Any]:
        """Return what `from_dense` must be told beside arrays and masks to make such a cell."""
        return {}

    def _settle(self) -> None:
        """Take the settings that this kind of cell has beside those of all cells: here none."""

    def to_dense(self) -> dict[str, NDArray[Any]]:
        """Return the weights as dense arrays under PyTorch's names; absent weights are 0."""
        return self.dense_of(self.weights)

    def dense_of(self, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return one value per weight, ``(weights,)``, as dense arrays under PyTorch's names."""
        dense = {}
        for name, (weight, place) in self.places.items():
            out = np.zeros(self.dense_shape(name), values.dtype)
            out.reshape(-1)[place] = values[weight]
            dense[name] = out
        return dense

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Return which weights exist, as dense arrays under PyTorch's names."""
        return self.dense_of(np.ones(self.weights.size, bool))

    def rewire(self, masks: dict[str, NDArray[Any]]) -> Self:
        """Return a cell on other masks: weights of both keep their values, new ones are 0.

        Parameters
        ----------
        masks : dict of bool arrays
            Which weights exist, under PyTorch's names and shaped as the dense arrays; an array
            that is not named keeps its weights. A unit may lose its last one.

        Returns
        -------
        Cell
            Of the same kind and options. This cell stays as it is.

        Raises
        ------
        ValueError, TypeError
            If a mask has another shape or is not boolean, names no array of the cell, or no weight
            would be left.
        """
        exists = {name: np.sort(place) for name, (_, place) in self.places.items()}
        _refuse_unknown(masks)
        for name, mask in masks.items():
            if not any(m.reads(name) for m in self.kind.maps):
                raise ValueError(
                    f"masks must name arrays of the cell, {', '.join(self.places)}, got {name!r}"
                )
            exists[name] = np.flatnonzero(_mask(name, mask, self.dense_shape(name)))
        cell = type(self).__new__(type(self))
        vars(cell).update({k: v for k, v in vars(self).items() if k not in ("maps", "places")})
        cell._build(exists)
        origin = self.origin_of(cell)
        kept = origin >= 0
        cell.weights[kept] = self.weights[origin[kept]]
        return cell

    def astype(self, dtype: DTypeLike) -> Self:
        """Return a copy of this cell, of another float type or the same.

        Raises
        ------
        TypeError
            If `dtype` is not float32 or float64.
        """
        cell = type(self).__new__(type(self))
        others = ("maps", "places", "dtype")
        vars(cell).update({k: v for k, v in vars(self).items() if k not in others})
        cell.dtype = float_type(dtype)
        cell._build({name: np.sort(place) for name, (_, place) in self.places.items()})
        cell.weights[:] = self.weights
        return cell

    def origin_of(self, cell: "Cell") -> NDArray[np.int64]:
        """Return which weight of this cell each weight of another is, or -1: int64, (weights,)."""
        return origins(self.places, cell.places, cell.weights.size)

    @property
    def states(self) -> int:
        """State numbers: units times components."""
        return self.units * self.kind.components

    def shapes(self, abreast: int) -> Shapes:
        """Return the shapes of a step's arrays for `abreast` streams side by side."""
        components, maps, columns = self.kind.components, len(self.kind.maps), self.units * abreast
        one = columns + self.inputs * abreast
        return Shapes(
            (components, columns), (maps, columns), (components, components, columns),
            (components, maps, columns), one + abreast, one,
        )  # fmt: skip

    def running(self) -> tuple[Any, Any]:
        """Return update and partials as compiled loops take them."""
        return self.kind.compiled(self.dtype), self.kind.partials

    def table(self) -> None:
        """Return the layers of the net: one cell has none."""

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

    def dense_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array under PyTorch's name: how many weights it could have."""
        rows = sum(m.reads(name) for m in self.kind.maps) * self.units
        width = {"weight_ih": self.inputs, "weight_hh": self.units}.get(name)
        return (rows,) if width is None else (rows, width)

    def _take_dense(
        self,
        weight_ih: NDArray[Any] | None,
        weight_hh: NDArray[Any] | None,
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
        arrays = {
            name: a if is_sparse(a) else plain(name, a)
            for name, a in given.items()
            if a is not None
        }
        self._take_sizes(arrays)
        _refuse_unknown(masks)
        exists: Places = {}
        values: dict[str, NDArray[Any]] = {}
        for name, array in arrays.items():
            if array.dtype != self.dtype:
                raise TypeError(
                    f"{name} must be {self.dtype} as {next(iter(arrays))} is, got {array.dtype}"
                )
            if array.shape != self.dense_shape(name):
                raise ValueError(
                    f"{name} must have shape {self.dense_shape(name)} for {self.units} units "
                    f"and {self.inputs} inputs, got {array.shape}"
                )
            if not np.isfinite(array.data if is_sparse(array) else array).all():
                raise ValueError(f"{name} must be finite, got NaN or infinity")
            mask = None if masks is None else masks.get(name)
            exists[name], values[name] = _existing(name, array, mask)
        self._build(exists)
        for name, (weight, place) in self.places.items():
            self.weights[weight] = values[name][np.searchsorted(exists[name], place)]

    def _take_sizes(self, dense: dict[str, NDArray[Any]]) -> None:
        """Take units, inputs and dtype from the arrays that the cell's maps must have."""
        for name in ("weight_hh", "weight_ih"):
            read = any(m.reads(name) for m in self.kind.maps)
            if read != (name in dense):
                must = "be given" if read else "be left out"
                reads = "reads" if read else "does not read"
                raise TypeError(f"{name} must {must}: a {type(self).__name__} {reads} it")
            if read and (dense[name].ndim != 2 or 0 in dense[name].shape):
                raise ValueError(f"{name} must be a filled matrix, got shape {dense[name].shape}")
        if "weight_hh" in dense:
            self.units = dense["weight_hh"].shape[1]
        else:
            gates = sum(m.x for m in self.kind.maps)
            self.units = max(1, dense["weight_ih"].shape[0] // gates)
        self.inputs = dense["weight_ih"].shape[1] if "weight_ih" in dense else 1
        self.dtype = float_type(next(iter(dense.values())).dtype)

    def _build(self, exists: Places) -> None:
        """Lay the weights that exist out as the maps."""
        self.maps, self.places = lay_out(self.kind, self.units, self.inputs, exists, self.dtype)
        if "kind" not in vars(self):
            self.kind = self.kind  # of the class: now this cell's, and set once

    def _initialise(self, gain: float, rng: np.random.Generator) -> None:
        for name in ("weight_hh", "weight_ih"):
            if name in self.places:
                weight, place = self.places[name]
                draw_weights(self.weights, weight, place, self.dense_shape(name), gain, rng)
        if not np.isfinite(self.weights).all():
            raise ValueError(f"gain must leave the weights finite in {self.dtype}, got {gain}")
        biases = [m.initial(rng, self.units) for m in self.kind.maps if m.bias_ih]
        if biases:
            weight, place = self.places["bias_ih"]
            self.weights[weight] = np.concatenate(biases)[place]


def _existing(
    name: str, array: Any, mask: NDArray[Any] | None
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the places of an array's weights, ascending, and their values."""
    if is_sparse(array):
        if mask is not None:
            raise ValueError(f"masks must not name {name}, which is sparse: what it stores exists")
        return stored(name, array)
    if mask is not None:
        places = np.flatnonzero(_mask(name, mask, array.shape))
    else:
        places = np.flatnonzero(array) if array.ndim == 2 else np.arange(array.size)
    return places, array.reshape(-1)[places]


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
