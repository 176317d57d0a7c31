"""What makes one cell differ from another: its maps and its elementwise update."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self

import numba
import numpy as np
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray

from sparsegrad.cells.formula import Formula
from sparsegrad.kernels.cells.maps import Partials
from sparsegrad.kernels.cells.updates import BUILT_IN
from sparsegrad.kernels.compiler.pointers import INTERPRETED, pointer_to
from sparsegrad.system.checks import sealed


@dataclass(frozen=True)
class Map:
    """One linear map ``a_g = W_g h + U_g x + b_g`` of a cell.

    Parameters
    ----------
    h, x : bool
        Whether the map reads the state (``W_g``) and the input (``U_g``).
    bias_ih, bias_hh : bool
        Which of PyTorch's two biases the map adds.
    initial_bias : float or function
        Value that ``bias_ih`` starts from in a new cell, or ``function(rng, units)``, which draws
        one for each unit.
    """

    h: bool = True
    x: bool = True
    bias_ih: bool = True
    bias_hh: bool = False
    initial_bias: float | Callable[[np.random.Generator, int], NDArray[np.float64]] = 0.0

    def initial(self, rng: np.random.Generator, units: int) -> NDArray[np.float64]:
        """Return what ``bias_ih`` starts from, (units,)."""
        if callable(self.initial_bias):
            return self.initial_bias(rng, units)
        return np.full(units, self.initial_bias)

    def reads(self, name: str) -> bool:
        """Whether the map has weights in the array of PyTorch's `name`."""
        return {
            "weight_ih": self.x,
            "weight_hh": self.h,
            "bias_ih": self.bias_ih,
            "bias_hh": self.bias_hh,
        }[name]


@dataclass(frozen=True)
class CellKind:
    """An elementwise update ``s' = φ(s, a)`` and the maps that feed it.

    Parameters
    ----------
    update : function compiled by ``numba.njit``, or Formula
        What :meth:`from_function` derives; or written by hand:
        ``update(state, pre, new_state, d_state, d_pre)`` for all units in one call: `state` and
        `new_state` are ``(components, units)``, `pre` is ``(maps, units)``. Each column is by
        itself; it may be a unit of any of several streams. It writes `new_state`,
        ``d_state[c, b] = ∂s'_c/∂s_b``, ``(components, components, units)``, and
        ``d_pre[c, g] = ∂s'_c/∂a_g``, ``(components, maps, units)``. All arrays are C-contiguous
        and of the cell's dtype. It allocates nothing.
    maps : tuple of Map
        The maps, in the order of the gates in the dense arrays.
    components : int
        State numbers per unit. The maps read component 0; a readout does too.
    state_partials : tuple of (c, b), optional
        The ``∂s'_c/∂s_b`` that can be non-zero; the others are never read. Default: all.
    map_partials : tuple of (c, g), optional
        The ``∂s'_c/∂a_g`` that can be non-zero. Default: all.

    Raises
    ------
    ValueError
        If there is no map or component, or a partial names one that does not exist.
    TypeError
        If `update` is not compiled.
    """

    update: Callable[..., None]
    maps: tuple[Map, ...]
    components: int = 1
    state_partials: tuple[tuple[int, int], ...] | None = None
    map_partials: tuple[tuple[int, int], ...] | None = None
    partials: Partials = field(init=False, repr=False, compare=False)
    kept: Partials = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.maps or self.components < 1:
            raise ValueError(
                f"a cell kind must have at least one map and one component, "
                f"got {len(self.maps)} and {self.components}"
            )
        if not isinstance(self.update, Dispatcher | Formula) and not INTERPRETED:
            raise TypeError(
                f"update must be compiled, got {type(self.update).__name__}: "
                "decorate it with numba.njit(cache=True), or pass a formula to from_function"
            )
        c, g = self.components, len(self.maps)
        by_state = _checked("state_partials", self.state_partials, (c, c))
        by_map = _checked("map_partials", self.map_partials, (c, g))
        partials = _laid_out(by_state, by_map, g)
        object.__setattr__(self, "partials", partials)
        object.__setattr__(self, "kept", _followed(partials, by_state, by_map, g))

    @classmethod
    def from_function(cls, function: Callable[..., Any], maps: Iterable[Map] = (Map(),)) -> Self:
        """Make a cell's kind from its formula alone; its partials are derived from it.

        The formula is run once on symbols, differentiated by reverse mode and printed as vector
        code, which Numba compiles when it is first used and caches for other processes.

        Parameters
        ----------
        function : function
            ``function(*state, *maps)``: the state numbers of a unit and what its maps give;
            returns the new state, a tuple if there are several numbers, in the same order. It
            computes with numbers, ``+ - * / **`` and the functions of
            :mod:`sparsegrad.cells.functions`, or NumPy's of the same names.
        maps : iterable of Map
            The maps, in the order of the last arguments. Default: one that reads state and input.

        Raises
        ------
        TypeError
            If the formula branches on a value (the message names the line), or uses a function
            without a derivative.
        ValueError
            If it returns another number of values, ignores a map, or mixes formulas.

        Examples
        --------
        >>> from sparsegrad.cells.functions import sigmoid, tanh
        >>> def leaky(h, a, b):
        ...     z = sigmoid(b)
        ...     return (1 - z) * h + z * tanh(a)
        >>> kind = CellKind.from_function(leaky, maps=(Map(), Map(h=False, x=False)))
        >>> kind.components, kind.map_partials
        (1, ((0, 0), (0, 1)))
        """
        maps = tuple(maps)
        formula = Formula(function, len(maps))
        return cls(
            update=formula,
            maps=maps,
            components=formula.components,
            state_partials=tuple(formula.by_state),
            map_partials=tuple(formula.by_map),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        given = self.update, self.maps, self.components, self.state_partials, self.map_partials
        return type(self), given

    def __deepcopy__(self, memo: dict[int, Any]) -> "CellKind":
        return self  # nobody can change it

    def compiled(self, dtype: np.dtype[Any]) -> Any:
        """`update` as a function pointer of fixed type.

        A compiled loop that takes a pointer is cached across processes; one that takes the
        function itself would be compiled again in each.
        """
        update = self.update.compiled if isinstance(self.update, Formula) else self.update
        return _pointer(update, np.dtype(dtype))  # its name would cost ten times the look-up

    def word(self, dtype: np.dtype[Any]) -> int:
        """Return what `kernels.cells.updates` knows the update by: its place, or its address.

        The update at an address stays where it is as long as the process.

        Raises
        ------
        RuntimeError
            If it is interpreted and has no address.
        """
        if self.update in BUILT_IN:
            return BUILT_IN.index(self.update)
        if INTERPRETED:
            raise RuntimeError(
                "an update that is known by its address must be compiled, got NUMBA_DISABLE_JIT=1: "
                "unset it"
            )
        return int(self.compiled(dtype).address)


def _laid_out(
    by_state: list[tuple[int, int]], by_map: list[tuple[int, int]], maps: int
) -> Partials:
    counts = np.bincount([q[1] for q in by_map], minlength=maps)
    return Partials(
        map_indptr=sealed(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)),
        map_components=sealed(
            np.array([q[0] for q in sorted(by_map, key=lambda q: (q[1], q[0]))], "i4")
        ),
        state_rows=sealed(np.array([q[0] for q in by_state], "i4")),
        state_columns=sealed(np.array([q[1] for q in by_state], "i4")),
    )


def _followed(
    partials: Partials, by_state: list[tuple[int, int]], by_map: list[tuple[int, int]], maps: int
) -> Partials:
    """Return the partials with all components that follow from a map's within the unit.

    What is added is 0 at each step, but a weight's influence on it is not: J has a row for it.
    """
    reached = set(by_map)
    while True:
        more = {(c, g) for c, b in by_state for from_b, g in reached if from_b == b} - reached
        if not more:
            break
        reached |= more
    return partials if len(reached) == len(by_map) else _laid_out(by_state, sorted(reached), maps)


def _checked(
    name: str, pairs: tuple[tuple[int, int], ...] | None, shape: tuple[int, int]
) -> list[tuple[int, int]]:
    everything = [(a, b) for a in range(shape[0]) for b in range(shape[1])]
    if pairs is None:
        return everything
    for pair in pairs:
        if pair not in everything:
            raise ValueError(f"{name} must lie below {shape}, got {pair}")
    return sorted(set(pairs))


@cache
def _pointer(update: Any, dtype: np.dtype[Any]) -> Any:
    number = numba.from_dtype(dtype)
    flat, deep = number[:, ::1], number[:, :, ::1]
    return pointer_to(update, flat, flat, flat, deep, deep)
