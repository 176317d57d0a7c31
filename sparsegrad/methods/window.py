"""Windows: exact inside by BPTT, influence before; one engine for every method."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numba
import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.stack import Stack
from sparsegrad.kernels.cells.maps import Partials
from sparsegrad.kernels.compiler.pointers import INTERPRETED, pointer_to
from sparsegrad.kernels.learning.steps import FINE, Chunk, Learner, Steps, Streams
from sparsegrad.kernels.methods.bptt import History
from sparsegrad.kernels.methods.window import run_window
from sparsegrad.methods.engine import Engine, Layout, Outcome, copy_into
from sparsegrad.system.checks import integer
from sparsegrad.system.memory import aligned_zeros, available_memory


class Carried(NamedTuple):
    """What a method gives to a window: how to close one, and on what.

    Attributes
    ----------
    close : function
        Kernel that adds the gradient of the steps held and takes the influence through them.
    data : NamedTuple
        What it works on.
    influence : float array, (groups, size)
        Where numbers that grow too large are seen.
    partials : Partials
        Those that `close` follows: of a method with traces, all that follow from a map's.
    """

    close: Any
    data: Any
    influence: NDArray[Any]
    partials: Partials


class InfluenceStore(Engine, Protocol):
    """An engine that carries an influence, which a window can take along."""

    batch: int

    @property
    def cell(self) -> Cell | Stack:
        """The net."""

    def window_values(self, window: int) -> int:
        """Return how many numbers `carried` allocates for a window."""

    def carried(self, window: int) -> Carried:
        """Allocate what takes the influence through `window` steps at once."""

    def fresh(self) -> "InfluenceStore":
        """Return one for the same cell at the start of its sequences."""


def check_window(method: Any) -> None:
    """Check the window of a method that is being made.

    Raises
    ------
    TypeError, ValueError
        If it is no integer, or below 1.
    """
    if method.window is not None:
        window = integer("window", method.window, least=1, hint="; None is no window")
        object.__setattr__(method, "window", window)


def goes_back(window: int | None) -> bool:
    """Whether a window needs a backward pass: one step is the method itself."""
    return window is not None and window > 1


def _none(window: int) -> int:
    return 0


def require_history(
    window: int,
    cell: Cell | Stack,
    batch: int,
    layout: Layout,
    values: Callable[[int], int] = _none,
) -> None:
    """Refuse a window whose history does not fit in memory, before it is allocated.

    Parameters
    ----------
    window : int
        Steps.
    cell : Cell
    batch : int
    layout : Layout
        Of the steps.
    values : function
        How many numbers a window needs beside those of `Layout.steps`.

    Raises
    ------
    MemoryError
        If it needs more than the memory that is available.
    """
    each = sum(array.nbytes for array in layout.steps(cell, batch, 1))

    def needed(steps: int) -> int:
        return steps * each + values(steps) * cell.dtype.itemsize

    available = available_memory()
    if available is None or needed(window) <= available:
        return
    fits, beyond = 0, window
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        if needed(middle) <= available:
            fits = middle
        else:
            beyond = middle
    advice = f"the largest window that fits is {fits}" if fits else "none fits"
    raise MemoryError(
        f"the history of a window must fit in the available memory of {available / 2**30:.3g} GiB, "
        f"got {window} steps of {needed(window) / 2**30:.3g} GiB; {advice}"
    )


def new_history(cell: Cell | Stack, layout: Layout) -> History:
    """Allocate what a backward pass needs beside the steps."""
    shapes = cell.shapes(layout.abreast)
    columns = shapes.state[1] if isinstance(cell, Cell) else shapes.sources  # see `pull_layers`
    return History(
        filled=np.zeros(1, np.int64),
        adjoint=aligned_zeros((2, layout.groups, *shapes.state), cell.dtype),
        h_before=aligned_zeros((layout.parts.size - 1, layout.groups, columns), cell.dtype),
    )


def forget_unfilled(cell: Cell | Stack, steps: Steps, history: History, layout: Layout) -> None:
    """Clear the place of the next step: a bad one has left there what no file may hold."""
    filled = int(history.filled[0])
    for array in steps:
        array[filled:] = 0
    one = cell.shapes(layout.abreast).one
    steps.sources[filled:, :, one : one + layout.abreast] = 1


def check_held(name: str, state: dict[str, NDArray[Any]], window: int) -> None:
    """Refuse more steps than leave a place for the next one.

    Raises
    ------
    ValueError
        If there are as many as the window has, or a number below 0.
    """
    held = int(state[name][0])
    if not 0 <= held < window:
        raise ValueError(f"{name} must lie in [0, {window}), got {held}")


class WindowEngine:
    """The steps since the window began, and the influence at its start.

    Parameters
    ----------
    store : InfluenceStore
        The method's own engine, which holds the influence.
    window : int
        Steps of a window.
    """

    def __init__(self, store: InfluenceStore, window: int) -> None:
        cell, layout, batch = store.cell, store.layout, store.batch
        self.store, self.window, self.layout = store, window, layout
        require_history(window, cell, batch, layout, store.window_values)
        self.steps = layout.steps(cell, batch, window)
        self.history = new_history(cell, layout)
        self._close, self._data, self._influence, self._partials = store.carried(window)
        self._pointer: Any = None
        self.pattern = getattr(store, "pattern", None)

    def run(self, learner: Learner, chunk: Chunk, streams: Streams) -> Outcome:
        """Run a chunk through the compiled loop."""
        update = self.store.cell.running()[0]
        work = self._partials, streams.abreast, self.steps, self.history, self._data
        if self._pointer is None:
            self._pointer = pointer_to(self._close, *map(_type, (learner, *work)))
        outcome = Outcome(
            *run_window(
                update, self._pointer, learner, self._partials, chunk, streams,
                self.steps, self.history, self._influence, self._data,
            )
        )  # fmt: skip
        if outcome.fault != FINE:
            forget_unfilled(self.store.cell, self.steps, self.history, self.layout)
        return outcome

    def flush(self, learner: Learner) -> None:
        """Add the gradient of the steps that are still held back."""
        self._close(
            learner, self._partials, self.layout.abreast, self.steps, self.history, self._data
        )  # fmt: skip

    def fresh(self) -> "WindowEngine":
        """Return an engine for the same cell at the start of its sequences."""
        return WindowEngine(self.store.fresh(), self.window)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the steps that are held, and the influence at the start of the window."""
        return self._held() | self.store.state()

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what :meth:`state` returned.

        Raises
        ------
        ValueError
            If it holds as many steps as the window or more: the next one would have no place.
        """
        check_held("filled", state, self.window)
        copy_into(self._held(), state)
        self.store.restore(state)

    def carry(self, before: "WindowEngine", origin: NDArray[np.int64]) -> None:
        """Take the influence over: the window under way has ended, the next one begins."""
        self.store.carry(before.store, origin)

    def _held(self) -> dict[str, NDArray[Any]]:
        return {"filled": self.history.filled, **self.steps._asdict()}


def windowed(store: InfluenceStore, window: int | None) -> Engine:
    """Return an engine for windows of so many steps, or the method's own for none and for one.

    A window of one step is the method itself, whose gradient δᵀ J has J's mask; the three lines
    would give δᵀ (I + D J_0), one hop further.
    """
    return WindowEngine(store, window) if window is not None and goes_back(window) else store


def _type(value: Any) -> Any:
    return None if INTERPRETED else numba.typeof(value)
