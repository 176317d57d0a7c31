"""What a method gives to a learner."""

from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.kernels.steps import Chunk, Learner, Streams


class Outcome(NamedTuple):
    """How a chunk ended."""

    steps: int
    fault: int
    element: int


class Engine(Protocol):
    """The running half of a method: it holds what the method carries from step to step."""

    def run(self, learner: Learner, chunk: Chunk, streams: Streams) -> Outcome:
        """Run a chunk through the compiled loop."""

    def flush(self, learner: Learner) -> None:
        """Add the gradient of the steps that are still held back."""

    def fresh(self) -> "Engine":
        """Return an engine for the same cell at the start of its sequences."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that the engine carries from step to step, by name, not copied."""


class Method(Protocol):
    """A learning method, before it knows its cell."""

    def engine(self, cell: Cell, batch: int, threads: int | None) -> Engine:
        """Prepare the method for a cell, a batch and at most so many threads."""
