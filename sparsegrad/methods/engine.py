"""What a method gives to a learner."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

import sparsegrad.system.compiling  # noqa: F401  says so when kernels are compiled
from sparsegrad.cells.cell import Cell
from sparsegrad.cells.stack import Stack
from sparsegrad.kernels.learning.steps import Chunk, Learner, Steps, Streams
from sparsegrad.kernels.vectors.simd import BYTES, SLACK
from sparsegrad.system.memory import aligned_zeros
from sparsegrad.system.threads import start_threads

PARTS = 8
"""Ranges of units that threads share out; fixed, so that sums over them have one order."""
SHARED_WORK = 40_000
"""Weights times groups from which on sharing pays."""


class Outcome(NamedTuple):
    """How a chunk ended."""

    steps: int
    fault: int
    element: int


class Layout:
    """How the streams of a batch lie, and how their work is shared out.

    Parameters
    ----------
    cell : Cell or Stack
        The cell.
    batch : int
        Streams.
    side_by_side : bool
        Whether the method takes streams side by side in the lanes of a vector. From three streams
        on that is faster, though lanes stay idle.
    gathers : bool
        Whether the method uses the sources that the forward pass of a single stream gathers.
    threads : int, optional
        At most so many threads; default Numba's number.

    Attributes
    ----------
    abreast, groups : int
        Streams of a group, 1 or the lanes of a vector; groups.
    gathers : bool
        Whether gathered sources are kept.
    parts : int64 array, (parts + 1,)
        Ranges of units with about as many weights each; one range if the work is not worth sharing.
    threads : int
        Threads that share the parts.
    """

    def __init__(
        self, cell: Cell | Stack, batch: int, side_by_side: bool, gathers: bool, threads: int | None
    ) -> None:
        lanes = BYTES // cell.dtype.itemsize
        self.abreast = lanes if side_by_side and batch >= 3 else 1
        self.groups = -(-batch // self.abreast)
        self.gathers = gathers and self.abreast == 1
        if isinstance(cell, Cell) and cell.weights.size * self.groups >= SHARED_WORK:
            self.parts = _cut_units(cell, PARTS)
        else:
            self.parts = np.array([0, cell.units], np.int64)
        # asked for in any case: it starts Numba's threads, which a loop out of the cache would not
        available = start_threads()
        wanted = available if threads is None else threads
        self.threads = min(wanted, self.parts.size - 1)

    def steps(self, cell: Cell | Stack, batch: int, held: int) -> Steps:
        """Allocate room for what is kept of `held` steps."""
        groups, dtype, shapes = self.groups, cell.dtype, cell.shapes(self.abreast)
        sources = aligned_zeros((held, groups, shapes.sources), dtype)
        sources[:, :, shapes.one : shapes.one + self.abreast] = 1
        gathered = cell.weights.size + SLACK if self.gathers else 0
        return Steps(
            sources=sources,
            gathered=aligned_zeros((held, groups, gathered), dtype),
            d_state=aligned_zeros((held, groups, *shapes.d_state), dtype),
            d_pre=aligned_zeros((held, groups, *shapes.d_pre), dtype),
            state_grad=aligned_zeros((held, groups, cell.states * self.abreast), dtype),
            resets=np.zeros((held, batch), bool),
        )


def _cut_units(cell: Cell, parts: int) -> NDArray[np.int64]:
    """Cut the units into ranges of about as many weights each."""
    before = cell.maps.indptr[:: len(cell.kind.maps)]
    targets = np.arange(1, parts) * (cell.weights.size / parts)
    inner = np.searchsorted(before, targets)
    return np.concatenate([[0], inner, [cell.units]]).astype(np.int64)


class Engine(Protocol):
    """The running half of a method: it holds what the method carries from step to step."""

    layout: Layout
    steps: Steps

    def run(self, learner: Learner, chunk: Chunk, streams: Streams) -> Outcome:
        """Run a chunk through the compiled loop."""

    def flush(self, learner: Learner) -> None:
        """Add the gradient of the steps that are still held back."""

    def fresh(self) -> "Engine":
        """Return an engine for the same cell at the start of its sequences."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all that the engine carries from call to call, by name; to be read only.

        It depends on cell, batch and method, not on the machine or the number of threads.
        """

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what `state` of an engine for the same cell, batch and method returned."""

    def carry(self, before: Any, origin: NDArray[np.int64]) -> None:
        """Take over what the method carried on other weights of the same units.

        Parameters
        ----------
        before : Engine
            Of the same method and batch, flushed.
        origin : int64 array, (weights,)
            Which weight each of this engine's was in `before`, or -1: those set out from 0.
        """


def copy_into(arrays: dict[str, NDArray[Any]], state: dict[str, NDArray[Any]]) -> None:
    """Fill arrays with the values of the same names."""
    for name, array in arrays.items():
        array[...] = state[name]


class Method(Protocol):
    """A learning method, before it knows its cell."""

    def engine(self, cell: Cell | Stack, batch: int, threads: int | None) -> Engine:
        """Prepare the method for a cell, a batch and at most so many threads."""
