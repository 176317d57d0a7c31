"""How a step of a `Window` enters torch's graph: two autograd functions and the parameters' memory.

The graph of a step that no other waits behind, as of every step in an online loop, ends at its
input and at the parameters. That of a later one ends at its input and at a root that such steps
share. Autograd runs the root after the last step of a backward pass, for it was made first, so that
J can be led through the steps in their own order.
"""

from collections.abc import Callable
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsegrad.interop.cell_window import CellWindow
from sparsegrad.interop.window import Ticket, Window

FLOATS = {torch.float32: "float32", torch.float64: "float64"}


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a backward pass that has none itself, as torch's `once_differentiable` does.

    That takes 4 µs, spent here only where the graph of the backward pass is asked for.
    """
    careful = once_differentiable(backward)

    def run(ctx: Any, *grads: Any) -> Any:
        return careful(ctx, *grads) if torch.is_grad_enabled() else backward(ctx, *grads)

    return run


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
        ctx.flat = all(p.dim() == 1 for p in parameters)
        return parameters[0].new_zeros(1)

    @staticmethod
    @once
    def backward(ctx: Any, signals: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of each parameter, from all the signals of this pass."""
        flat = torch.from_numpy(ctx.window.gradient(round(signals.item())))
        parts = flat.split_with_sizes(ctx.sizes)
        if ctx.flat:
            return None, *parts
        return None, *[part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True)]


class Step(torch.autograd.Function):
    """A time step; the state that it starts from is data."""

    @staticmethod
    def forward(
        ctx: Any, token: Tensor, x: Tensor, made: tuple["Link", Ticket, np.ndarray]
    ) -> tuple[Tensor, ...]:
        """Return the new state of a step that was made, component by component."""
        link, ctx.ticket, new_state = made
        ctx.link = link
        # torch refuses a second backward pass, and weights that were changed in place meanwhile
        ctx.save_for_backward(*link.parameters)
        ctx.set_materialize_grads(False)
        return tuple([torch.from_numpy(component) for component in new_state])

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Hand the learning signal in, and return the gradient of the input."""
        _ = ctx.saved_tensors
        link, ticket = ctx.link, ctx.ticket
        state_grad = joined(grads)
        for_token, for_x, _ = ctx.needs_input_grad
        x_grad = None
        if for_x:
            x_grad = torch.from_numpy(link.window.input_gradient(ticket, state_grad))
        if not for_token:
            return None, x_grad, None
        link.window.signal(ticket, state_grad)
        return link.one, x_grad, None


class FirstStep(torch.autograd.Function):
    """A time step that no other waits behind: its gradient needs no root, a second node."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, made: tuple["Link", Ticket, np.ndarray], *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        """Do as `Step`."""
        ctx.link, ctx.ticket, new_state = made
        ctx.save_for_backward(*parameters)
        ctx.set_materialize_grads(False)
        return tuple([torch.from_numpy(component) for component in new_state])

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Return the gradient of the input and of each parameter."""
        parameters = ctx.saved_tensors
        link, ticket, needs = ctx.link, ctx.ticket, ctx.needs_input_grad
        state_grad = joined(grads)
        x_grad = None
        if needs[0]:
            x_grad = torch.from_numpy(link.window.input_gradient(ticket, state_grad))
        if True not in needs[2:]:
            return x_grad, None, *[None] * len(parameters)
        flat = torch.from_numpy(link.window.gradient_of(ticket, state_grad))
        return x_grad, None, *flat.split_with_sizes(link.window.part_sizes)


def joined(grads: tuple[Any, ...]) -> np.ndarray:
    """Return δ, (batch, states), from the gradients of the state's components."""
    if len(grads) > 1:
        some = next(grad for grad in grads if grad is not None)
        known = [torch.zeros_like(some) if grad is None else grad for grad in grads]
        return torch.cat(known, 1).numpy()
    return np.ascontiguousarray(grads[0].numpy())  # of a sum's it is one number for all


class Link:
    """A cell's window, and what ties it to the parameters as they are now.

    Attributes
    ----------
    parameters : tuple of Tensor
    parts : int64 array, (parameters, 2)
        Where they lie, for `CellWindow.forward`.
    one : Tensor, (1,)
        What a step returns for the token.
    """

    def __init__(self, window: CellWindow) -> None:
        self.window = window
        self.dtype: torch.dtype = getattr(torch, window.dtype.name)
        self.one = torch.ones(1, dtype=self.dtype)
        self.parameters: tuple[Tensor, ...] = ()
        self._addresses: list[int] = []
        self._token: Tensor | None = None
        self._trained: list[bool] = []

    def refresh(self, parameters: tuple[Tensor, ...]) -> None:
        """Take the parameters' memory, which optimisers change in place and others replace.

        Raises
        ------
        TypeError, ValueError
            If a parameter is of another kind than the cell was made for.
        """
        addresses = [p.data_ptr() for p in parameters]
        if addresses == self._addresses and all(map(is_, parameters, self.parameters)):
            return
        sizes = self.window.part_sizes
        for parameter, size in zip(parameters, sizes, strict=True):
            if parameter is not in_place("the parameters", parameter, self.dtype, (size,)):
                raise ValueError("the parameters must be contiguous, got a strided one")
        self.parts = np.array([addresses, sizes], np.int64).T.copy()
        self.parameters, self._addresses, self._token = parameters, addresses, None

    def token_for(self, trained: list[bool]) -> Tensor:
        """Return the root's token, made anew where other parameters are trained."""
        if self._token is None or trained != self._trained:
            self._token = Root.apply(self.window, *self.parameters)
            self._trained = trained
        return self._token


def require_cpu(name: str, tensor: Tensor, dtype: torch.dtype | None) -> None:
    """Refuse what is no tensor on the CPU, of `dtype` if one is given.

    Raises
    ------
    TypeError, ValueError
        In one line.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name} must be dense, got {tensor.layout}: convert it with .to_dense()")
    if not tensor.is_cpu:
        raise ValueError(f"{name} must be on the CPU, got {tensor.device}: move it with .cpu()")
    if tensor.dtype not in FLOATS or (dtype is not None and tensor.dtype is not dtype):
        wanted = dtype or "torch.float32 or torch.float64"
        raise TypeError(f"{name} must be {wanted}, got {tensor.dtype}: convert it with .to()")


def in_place(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor whose values lie in C order at its `data_ptr`: itself, or else a copy.

    Raises
    ------
    TypeError, ValueError
        If it has another dtype or shape, or is not on the CPU.
    """
    if (
        isinstance(tensor, Tensor)
        and tensor.layout is torch.strided
        and tensor.is_cpu
        and tensor.dtype is dtype
        and tensor.shape == shape
        and tensor.is_contiguous()
        and not tensor.is_neg()
        and tensor.data_ptr()
    ):
        return tensor
    require_cpu(name, tensor, dtype)
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    return torch.empty(shape, dtype=dtype).copy_(tensor.detach())
