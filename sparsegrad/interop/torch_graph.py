"""How a step of a `Window` enters torch's graph: two autograd functions and the parameters' memory.

A step's graph ends at its input and at one root that all steps share. Autograd runs the root after
the last step of a backward pass, so that J can be led through the steps in their own order.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsegrad.interop.cell_window import CellWindow
from sparsegrad.interop.window import Ticket, Window

FLOATS = {torch.float32: "float32", torch.float64: "float64"}


class Root(torch.autograd.Function):
    """Where all steps of a backward pass meet: it runs after the last of them.

    Its output is a token that every step takes; each step returns 1 for it, so that the sum tells
    how many signals belong to this pass. It saves nothing and is made once.
    """

    @staticmethod
    def forward(ctx: Any, window: Window, *parameters: Tensor) -> Tensor:
        """Return the token."""
        ctx.window, ctx.sizes = window, [p.numel() for p in parameters]
        ctx.shapes = [p.shape for p in parameters]
        return parameters[0].new_zeros(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, signals: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of each parameter, from all the signals of this pass."""
        flat = torch.from_numpy(ctx.window.gradient(round(signals.item())))
        parts = flat.split_with_sizes(ctx.sizes)
        return None, *[
            part if len(shape) == 1 else part.view(shape)
            for part, shape in zip(parts, ctx.shapes, strict=True)
        ]


class Step(torch.autograd.Function):
    """A time step; the state that it starts from is data."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, x: Tensor, call: "Call") -> tuple[Tensor, ...]:
        """Return the new state, component by component."""
        new_state, ctx.ticket = call.run(x)
        ctx.window, ctx.learns = call.window, call.wants > 1
        # torch refuses a second backward pass, and weights that were changed in place meanwhile
        ctx.save_for_backward(*call.parameters)
        ctx.set_materialize_grads(False)
        return tuple(torch.from_numpy(component) for component in new_state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Hand the learning signal in, and return the gradient of the input."""
        parameters, window, ticket = ctx.saved_tensors, ctx.window, ctx.ticket
        batch, units = ticket.d_pre.shape[0], window.cell.units
        state_grad = np.zeros((batch, window.cell.states), window.cell.dtype)
        for c, grad in enumerate(grads):
            if grad is not None:
                state_grad[:, c * units : (c + 1) * units] = grad.numpy()
        x_grad = None
        if ctx.needs_input_grad[1]:
            x_grad = torch.from_numpy(window.input_gradient(ticket, state_grad))
        if not ctx.learns:
            return None, x_grad, None
        window.signal(ticket, state_grad)
        return parameters[0].new_ones(1), x_grad, None


class Call:
    """The arguments of a step that are no tensors of the graph."""

    __slots__ = ("parameters", "parts", "state", "wants", "window")

    def __init__(
        self, link: "Link", parameters: tuple[Tensor, ...], state: np.ndarray, wants: int
    ) -> None:
        self.window, self.parameters = link.window, parameters
        self.parts = link.parts
        self.state, self.wants = state, wants

    def run(self, x: Tensor) -> tuple[np.ndarray, Ticket | None]:
        """Run the step; x is (batch, inputs)."""
        # contiguous() copies only what is not
        return self.window.forward(
            self.parts, x.detach().contiguous().numpy(), self.state, self.wants
        )


class Link:
    """A cell's window, and what ties it to the parameters as they are now."""

    def __init__(self, window: CellWindow) -> None:
        self.window = window
        self.dtype: torch.dtype = getattr(torch, window.cell.dtype.name)
        self.token: Tensor | None = None
        self.parts: tuple[np.ndarray, ...] = ()
        self._parameters: tuple[Tensor, ...] = ()
        self._addresses: tuple[int, ...] = ()
        self._trained: tuple[bool, ...] = ()

    def refresh(self, parameters: tuple[Tensor, ...]) -> None:
        """Take the parameters' memory, which optimisers change in place and others replace."""
        addresses = tuple([p.data_ptr() for p in parameters])
        same = addresses == self._addresses and len(parameters) == len(self._parameters)
        if not same or any(a is not b for a, b in zip(parameters, self._parameters, strict=True)):
            for parameter in parameters:
                require_cpu("the parameters", parameter, self.dtype)
            self.parts = tuple(p.detach().contiguous().numpy() for p in parameters)
            if any(p.data_ptr() != a.ctypes.data for p, a in zip(parameters, self.parts,
                   strict=True) if p.numel()):  # fmt: skip
                raise ValueError("the parameters must be contiguous, got a strided one")
            self._parameters, self._addresses, self.token = parameters, addresses, None

    def token_for(self, trained: tuple[bool, ...]) -> Tensor:
        """Return the root's token, made anew where other parameters are trained."""
        if self.token is None or trained != self._trained:
            self.token = Root.apply(self.window, *self._parameters)
            self._trained = trained
        return self.token


def require_cpu(name: str, tensor: Tensor, dtype: torch.dtype | None) -> None:
    """Refuse what is no tensor on the CPU, of `dtype` if one is given.

    Raises
    ------
    TypeError, ValueError
        In one line.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} must be on the CPU, got {tensor.device}: move it with .cpu()")
    if tensor.dtype not in FLOATS or (dtype is not None and tensor.dtype is not dtype):
        wanted = dtype or "torch.float32 or torch.float64"
        raise TypeError(f"{name} must be {wanted}, got {tensor.dtype}: convert it with .to()")
