"""A step that waits for its learning signal, and what the host's graph holds of it. NumPy alone."""

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sparsegrad.interop.window import Window


class Ticket:
    """What the host's graph holds of a step; when the graph lets go, the step can be passed.

    Attributes
    ----------
    window : Window
        Whose step it is.
    number : int
        The step's place in the window's count.
    version : int
        The weights that it ran with.
    d_pre : float array, (batch, components, maps, units), or None
        ∂s'/∂a, where the gradient of the input may be asked for.
    first : bool
        Whether no step waited for its signal when this one was made.
    """

    __slots__ = ("__weakref__", "d_pre", "first", "number", "version", "window")

    def __init__(
        self, window: "Window", number: int, version: int, d_pre: Any, first: bool = False
    ) -> None:
        self.window, self.number, self.version = window, number, version
        self.d_pre, self.first = d_pre, first


class Waiting:
    """A step that J has not passed yet: its D and I, (batch, nnz), and where J begins anew."""

    __slots__ = ("dynamics_data", "immediate_data", "number", "resets", "ticket")

    def __init__(self, dynamics_data: NDArray[Any], immediate_data: NDArray[Any]) -> None:
        self.dynamics_data, self.immediate_data = dynamics_data, immediate_data
        self.number = 0
        self.resets: NDArray[np.bool_] | None = None
        self.ticket: weakref.ref[Ticket] | None = None

    def is_alive(self) -> bool:
        """Whether a signal may still come."""
        return self.ticket is not None and self.ticket() is not None
