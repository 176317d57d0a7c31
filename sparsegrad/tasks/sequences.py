"""What a task gives to a run."""

from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from sparsegrad.system.schema import record, whole, word


class Sequences(NamedTuple):
    """The data of one call of :meth:`sparsegrad.OnlineLearner.run`."""

    xs: NDArray[Any]  # (T, batch, inputs)
    targets: NDArray[Any]  # (T, batch) classes, or (T, batch, outputs) values
    weights: NDArray[Any]  # (T, batch) 1 where the loss counts, else 0
    resets: NDArray[Any]  # (T, batch) True where a sequence begins


class Task(Protocol):
    """A source of sequences that can say where it stands, and go back there."""

    inputs: int
    outputs: int
    loss: str
    whole: bool  # whether each draw is whole sequences, from their start to their end
    measure: str  # the number of a report by which runs are compared
    higher_is_better: bool

    def draw(self) -> Sequences:
        """Return the next sequences, or the next part of them."""

    def hear(self, loss: float) -> None:
        """Take note of the loss of the last draw, in nats per scored step."""

    def report(self, loss: float) -> dict[str, float]:
        """Return what a report says beside the loss, given it in nats per scored step."""

    def held_out(self) -> Sequences | None:
        """Return sequences that are never learned from, if the task keeps any."""

    def position(self) -> dict[str, Any]:
        """Return where the task stands, as JSON can hold it."""

    def go_to(self, position: Any, where: str = "position") -> None:
        """Go on from where :meth:`position` was taken.

        Raises
        ------
        ValueError
            If it is no position of this task; the message begins with `where`.
        """


RANDOM = record({
    "bit_generator": word("PCG64"),
    "state": record({"state": whole(0, 2**128 - 1), "inc": whole(0, 2**128 - 1)}),
    "has_uint32": whole(0, 1),
    "uinteger": whole(0, 2**32 - 1),
})  # fmt: skip
"""The state of a generator, as NumPy gives it."""
CHECKSUM = whole(0, 2**32 - 1)
"""A CRC-32."""
