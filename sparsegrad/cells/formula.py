"""A cell's update from its formula: run once on symbols, differentiated, printed, compiled."""

import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.derivatives import in_order, partials
from sparsegrad.cells.generated import module_of
from sparsegrad.cells.printer import Output, update_text
from sparsegrad.cells.symbols import Steps, Symbol


class Formula:
    """The update of a cell's units as straight-line code, with its partials.

    It is called as a compiled update is (see :class:`CellKind`), and compiled when it is first
    used.

    Parameters
    ----------
    function : function
        ``function(*state, *maps)``: the new state, a tuple if there are several components.
    maps : int
        How many of its last arguments are maps; those before them are the state.

    Attributes
    ----------
    components : int
        State numbers per unit.
    inputs : list of Symbol
        The function's arguments.
    new : list of Symbol
        Its results.
    by_state, by_map : dict of Symbol
        The partials ``(c, b)``, ``∂s'_c/∂s_b``, and ``(c, g)``, ``∂s'_c/∂a_g``, that can be
        non-zero.

    Raises
    ------
    TypeError, ValueError
        If the function branches on a value, returns something else, or ignores a map.
    """

    def __init__(self, function: Callable[..., Any], maps: int) -> None:
        self.name = getattr(function, "__name__", type(function).__name__)
        names = _arguments(function, self.name)
        self.maps, self.components = maps, len(names) - maps
        if self.components < 1:
            raise ValueError(
                f"{self.name} must take at least one state number and then {maps} maps, "
                f"got arguments ({', '.join(names)})"
            )
        code = getattr(function, "__code__", None)
        self._steps = Steps(code.co_filename if code else "", self.name)
        short = [f"s{c}" for c in range(self.components)] + [f"a{g}" for g in range(maps)]
        self.inputs = [self._steps.step("input", name) for name in short]
        self.new = self._results(function(*self.inputs))
        self.by_state: dict[tuple[int, int], Symbol] = {}
        self.by_map: dict[tuple[int, int], Symbol] = {}
        for c, slopes in enumerate(partials(self.new, self.inputs)):
            for at, slope in enumerate(slopes):
                if slope.value != 0 and at < self.components:
                    self.by_state[c, at] = slope
                elif slope.value != 0:
                    self.by_map[c, at - self.components] = slope
        for g in range(maps):
            if all(of != g for _, of in self.by_map):
                raise ValueError(
                    f"{self.name} must use every map, got no partial by "
                    f"{names[self.components + g]!r}: its weights would never learn"
                )

    def __repr__(self) -> str:
        return f"Formula({self.name})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "compiled"}

    def __call__(self, *arrays: NDArray[np.floating]) -> None:
        """Compute ``(state, pre, new_state, d_state, d_pre)`` in place."""
        self.compiled(*arrays)

    @cached_property
    def compiled(self) -> Any:
        """The update as Numba's function; interpreted, as Python's."""
        return module_of(self.text).update

    @cached_property
    def text(self) -> str:
        """The text of the update's module."""
        outputs = [Output("new", c, y) for c, y in enumerate(self.new)]
        outputs += [
            Output("inner", c * self.components + b, y) for (c, b), y in self.by_state.items()
        ]
        outputs += [Output("outer", c * self.maps + g, y) for (c, g), y in self.by_map.items()]
        return update_text(self.components, self.maps, outputs)

    @property
    def smooth(self) -> bool:
        """Whether its partials are the true ones: it has no spikes, and stops nothing."""
        steps = in_order(self.new)
        return all(step.operation not in ("spike", "stop") for step in steps)

    def conditions(self) -> list[Symbol]:
        """Return every step that chooses: ``where`` and what is made of it, and spikes."""
        return [
            step
            for step in in_order([*self.new, *self.by_state.values(), *self.by_map.values()])
            if step.operation.startswith("where_") or step.operation == "spike"
        ]

    def _results(self, results: Any) -> list[Symbol]:
        given = list(results) if isinstance(results, tuple | list) else [results]
        if len(given) != self.components or any(x is None for x in given):
            came = "nothing" if results is None else f"{len(given)} results"
            raise ValueError(
                f"{self.name} must return a new value for each of its {self.components} state "
                f"numbers, in their order, got {came}"
            )
        return [self._steps.lift(x) for x in given]


def _arguments(function: Callable[..., Any], name: str) -> list[str]:
    """Return the names of a function's arguments, all of them positional."""
    parameters = inspect.signature(function).parameters.values()
    for parameter in parameters:
        positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if not positional or parameter.default is not parameter.empty:
            raise TypeError(
                f"{name} must take plain arguments, the state and then the maps, "
                f"got {str(parameter)!r}: let a function around it hold settings"
            )
    return [parameter.name for parameter in parameters]
