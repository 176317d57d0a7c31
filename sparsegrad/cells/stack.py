"""Layers of cells, the h of one the input of the next, as one net that a learner trains."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsegrad.cells.cell import Cell, Shapes
from sparsegrad.cells.layout import Weights, origins
from sparsegrad.kernels.cells.layers import LAYER_FIELDS, Layers
from sparsegrad.kernels.cells.maps import Maps, Partials
from sparsegrad.system.checks import flag, sealed
from sparsegrad.system.ownership import SetOnce


class Place(NamedTuple):
    """Where the blocks of a layer begin; see `kernels.cells.layers`."""

    state: int
    pre: int
    d_state: int
    d_pre: int
    row: int
    weight: int


class Stack(SetOnce):
    """Cells on top of each other: each reads the one below it, the readout the highest.

    Parameters
    ----------
    cells : sequence of Cell
        The lowest first, of one dtype; each takes as many inputs as the one below it has units. The
        stack has copies of them, see `layers`.
    delay : bool
        Whether a layer reads the last state of the one below instead of this step's, as layers of
        a brain do. Default: this step's, as in ``torch.nn.GRU(num_layers=2)``.
    across : bool
        Whether a weight's influence crosses from layer to layer: exact at n = all, and n counts the
        maps crossed within a step too. If not, J keeps to the layer of its weight, and the error
        of a step is handed down through that step alone: a part of the memory and the work, and
        what happened to the layers above meanwhile is not seen. Not with `delay`. BPTT is exact
        either way.

    Attributes
    ----------
    layers : tuple of Cell
        The cells, whose weights are parts of the stack's.
    inputs, units : int
        Of the lowest and the highest cell.
    weights : float array, (weights,)
        Of all layers, the lowest first. A learner trains them in place.
    states : int
        State numbers of all layers.

    Raises
    ------
    TypeError
        If there is something else than cells, or their dtypes differ.
    ValueError
        If there is none, or one does not fit on the one below it.

    Examples
    --------
    >>> from sparsegrad import GRU, LSTM, Stack
    >>> Stack([GRU(8, 32, sparsity=0.75), LSTM(32, 16, sparsity=0.75, seed=1)])
    Stack(GRU(8, 32), LSTM(32, 16), dtype='float32') with 1984 weights
    """

    def __init__(self, cells: Sequence[Cell], *, delay: bool = False, across: bool = True) -> None:
        cells = _checked(cells)
        flag("delay", delay)
        flag("across", across)
        if delay and not across:
            raise ValueError(
                "across must be True with delay: within one step no error comes down, got False"
            )
        self.delay, self.across = bool(delay), bool(across)
        self.dtype = cells[0].dtype
        self.inputs, self.units = cells[0].inputs, cells[-1].units
        weights = np.concatenate([cell.weights for cell in cells])
        layers, ends = [], np.cumsum([cell.weights.size for cell in cells])
        for cell, end in zip(cells, ends, strict=True):
            layer = cell.astype(self.dtype)
            own = weights[end - cell.weights.size : end]
            vars(layer).update(maps=layer.maps._replace(weights=own))
            layers.append(layer)
        self.layers = tuple(layers)
        self.starts = _places(self.layers)
        self.states = sum(layer.states for layer in layers)
        self.maps = self._join(weights[:])
        self.places: Weights = {
            f"layer{k}.{name}": (weight + start.weight, place)
            for k, (layer, start) in enumerate(zip(layers, self.starts, strict=True))
            for name, (weight, place) in layer.places.items()
        }

    @property
    def weights(self) -> NDArray[Any]:
        """The weights that exist, layer by layer: a view, to read and to write."""
        return self.maps.weights[:]

    def to_dense(self) -> dict[str, NDArray[Any]]:
        """Return the weights as dense arrays, ``layer0.weight_hh``, …; absent weights are 0."""
        return self.dense_of(self.weights)

    def dense_of(self, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return one value per weight, ``(weights,)``, as dense arrays by name."""
        return {
            f"layer{k}.{name}": array
            for k, (layer, start) in enumerate(zip(self.layers, self.starts, strict=True))
            for name, array in layer.dense_of(
                values[start.weight : start.weight + layer.weights.size]
            ).items()
        }

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Return which weights exist, as dense arrays by name."""
        return self.dense_of(np.ones(self.weights.size, bool))

    def dense_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array by name: how many weights it could have."""
        layer, _, own = name.partition(".")
        return self.layers[int(layer.removeprefix("layer"))].dense_shape(own)

    def rewire(self, masks: dict[str, NDArray[Any]]) -> "Stack":
        """Return a stack on other masks, named by layer; as :meth:`sparsegrad.Cell.rewire`.

        Raises
        ------
        ValueError, TypeError
            If a mask names no array of the stack, or as for :meth:`sparsegrad.Cell.rewire`.
        """
        for name in masks:
            if name not in self.places:
                raise ValueError(
                    f"masks must name arrays of the stack, {', '.join(self.places)}, got {name!r}"
                )
        layers = []
        for k, layer in enumerate(self.layers):
            lead = f"layer{k}."
            own = {n.removeprefix(lead): mask for n, mask in masks.items() if n.startswith(lead)}
            layers.append(layer.rewire(own) if own else layer)
        return Stack(layers, delay=self.delay, across=self.across)

    def astype(self, dtype: DTypeLike) -> "Stack":
        """Return a copy of this stack, of another float type or the same."""
        layers = [layer.astype(dtype) for layer in self.layers]
        return Stack(layers, delay=self.delay, across=self.across)

    def origin_of(self, stack: "Stack") -> NDArray[np.int64]:
        """Return which weight of this stack each of another is, or -1: int64, (weights,)."""
        return origins(self.places, stack.places, stack.weights.size)

    def split(self, state: NDArray[Any]) -> list[NDArray[Any]]:
        """Return a learner's state by layer.

        Parameters
        ----------
        state : array, (batch, 1, states)
            ``learner.state``.

        Returns
        -------
        list of array, (batch, components, units)
            A view for each layer, the lowest first.

        Raises
        ------
        ValueError
            If it has another shape.
        """
        if np.ndim(state) != 3 or state.shape[1:] != (1, self.states):
            raise ValueError(
                f"state must have shape (batch, 1, {self.states}), got {np.shape(state)}"
            )
        return [
            state[:, 0, start.state : start.state + layer.states].reshape(
                len(state), layer.kind.components, layer.units
            )
            for layer, start in zip(self.layers, self.starts, strict=True)
        ]

    def options(self) -> dict[str, Any]:
        """Return what a file says of the stack beside its weights."""
        return {"delay": self.delay, "across": self.across}

    def shapes(self, abreast: int) -> Shapes:
        """Return the shapes of a step's arrays for `abreast` streams side by side."""
        totals = [sum(sizes) * abreast for sizes in zip(*map(_sizes, self.layers), strict=True)]
        pre, d_state, d_pre = totals[1:4]
        states, one = self.states * abreast, (self.states + self.inputs) * abreast
        return Shapes(
            (1, states), (1, pre), (1, 1, d_state), (1, 1, d_pre), one + abreast + states, one
        )

    def running(self) -> tuple[Any, Any]:
        """Return update and partials as of one cell: of the right type, the layers have their own.

        Numba drops the branch of layers from loops of one cell, not that of one cell from these.
        """
        return self.layers[0].running()

    def table(self) -> Layers:
        """Return the layers as compiled loops have them."""
        table = np.zeros((len(self.layers), LAYER_FIELDS), np.int64)
        value = maps = components = states = 0
        for row, layer, start in zip(table, self.layers, self.starts, strict=True):
            kind = layer.kind
            row[:] = (
                kind.word(self.dtype), layer.units, kind.components, len(kind.maps), start.state,
                start.pre, start.d_state, start.d_pre, start.row, value, maps, components, states,
                kind.partials.state_rows.size,
            )  # fmt: skip
            lengths = np.diff(layer.maps.indptr).reshape(layer.units, -1).sum(axis=0)
            value += int(lengths @ np.diff(kind.partials.map_indptr))
            maps += len(kind.maps) + 1
            components += kind.partials.map_components.size
            states += kind.partials.state_rows.size
        partials = zip(*(layer.kind.partials for layer in self.layers), strict=True)
        return Layers(
            table=table,
            new=self.states + self.inputs + 1,
            apart=not self.across,
            partials=Partials(*(np.concatenate(arrays) for arrays in partials)),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.layers, self.delay, self.across)

    def __repr__(self) -> str:
        names = (f"{type(layer).__name__}({layer.inputs}, {layer.units})" for layer in self.layers)
        return (
            f"Stack({', '.join(names)}, dtype={self.dtype.name!r}) with {self.weights.size} weights"
        )

    def _join(self, weights: NDArray[Any]) -> Maps:
        """Lay the maps of all layers out as one: their sources are z = [s; x; 1; s']."""
        one = self.states + self.inputs
        indptr, ends, indices = [np.zeros(1, np.int64)], [], []
        for k, (layer, start) in enumerate(zip(self.layers, self.starts, strict=True)):
            source = layer.maps.indices.astype(np.int64)
            recurrent, bias = source < layer.units, source == layer.units + layer.inputs
            driven = ~(recurrent | bias)
            below = self.states
            end = layer.maps.recurrent_end
            if (
                k > 0
            ):  # what it reads of the layer below is state as well, and stands behind its own
                below = self.starts[k - 1].state + (0 if self.delay else one + 1)
                row = np.repeat(np.arange(end.size), np.diff(layer.maps.indptr))
                end = end + np.bincount(row[driven], minlength=end.size)
            source[recurrent] += start.state
            source[driven] += below - layer.units
            source[bias] = one
            indptr.append(layer.maps.indptr[1:] + start.weight)
            ends.append(end + start.weight)
            indices.append(source.astype(np.int32))
        return Maps(
            indptr=sealed(np.concatenate(indptr)),
            recurrent_end=sealed(np.concatenate(ends)),
            indices=sealed(np.concatenate(indices)),
            weights=weights,
        )


def _restore(layers: tuple[Cell, ...], delay: bool, across: bool) -> Stack:
    return Stack(layers, delay=delay, across=across)


def _checked(cells: Any) -> list[Cell]:
    if isinstance(cells, Cell) or not isinstance(cells, Sequence):
        raise TypeError(f"cells must be a list of cells, got {type(cells).__name__}")
    for k, cell in enumerate(cells):
        if not isinstance(cell, Cell):
            raise TypeError(f"cells must be cells such as GRU(...), got {cell!r} at place {k}")
        below = cells[k - 1]
        if k and cell.inputs != below.units:
            raise ValueError(
                f"layer {k} must take the {below.units} units of layer {k - 1} as inputs, got "
                f"{cell.inputs}"
            )
        if cell.dtype != cells[0].dtype:
            raise TypeError(f"layer {k} must be {cells[0].dtype} as layer 0 is, got {cell.dtype}")
    if not cells:
        raise ValueError("a stack must have at least one cell, got none")
    return list(cells)


def _sizes(layer: Cell) -> Place:
    components, maps, units = layer.kind.components, len(layer.kind.maps), layer.units
    return Place(
        layer.states, maps * units, components * layer.states, components * maps * units,
        maps * units, layer.weights.size,
    )  # fmt: skip


def _places(layers: tuple[Cell, ...]) -> list[Place]:
    """Return where the blocks of each layer begin.

    States alone go the highest layer first, so that a readout finds its h where a cell has it.
    """
    sizes = [_sizes(layer) for layer in layers]
    ends = np.cumsum(sizes, axis=0)
    starts = ends - np.array(sizes)
    starts[:, 0] = ends[-1, 0] - ends[:, 0]
    return [Place(*map(int, row)) for row in starts]


def one_cell(cell: Cell | Stack, what: str) -> Cell:
    """Return the cell, where nothing else will do.

    Raises
    ------
    TypeError
        If it is a stack.
    """
    if isinstance(cell, Stack):
        raise TypeError(
            f"{what} must have one cell, got a stack of {len(cell.layers)}: its layers learn by "
            "SnAp(n), RTRL() or BPTT()"
        )
    return cell
