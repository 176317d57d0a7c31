"""How a step of a `Window` enters torch's graph: two autograd functions and the parameters' memory.

A backward pass that is to be differentiated itself must not be: each looks whether it is asked for.

The graph of a step that no other waits behind, as of every step in an online loop, ends at its
input and at the parameters. That of a later one ends at its input and at a root that such steps
share. Autograd runs the root after the last step of a backward pass, for it was made first, so that
J can be led through the steps in their own order.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsegrad.interop.addresses import present
from sparsegrad.interop.host_cell import HostCell
from sparsegrad.interop.waiting import Ticket
from sparsegrad.interop.window import Window

STRIDED = torch.strided
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
        ctx.flat = all(p.dim() == 1 for p in parameters)
        return parameters[0].new_zeros(1)

    @staticmethod
    def backward(ctx: Any, signals: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of each parameter, from all the signals of this pass."""
        if torch.is_grad_enabled():
            return once(Root.backward, ctx, signals)
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
        ctx.made = made
        # torch refuses a second backward pass, and weights that were changed in place meanwhile
        ctx.save_for_backward(*made[0].parameters)
        ctx.set_materialize_grads(False)
        return tensors(made[2])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Hand the learning signal in, and return the gradient of the input."""
        if torch.is_grad_enabled():
            return once(Step.backward, ctx, *grads)
        _ = ctx.saved_tensors
        link, ticket, _ = ctx.made
        state_grad = joined(grads)
        for_token, for_x, _ = ctx.needs_input_grad
        x_grad = None
        if for_x:
            x_grad = torch.from_numpy(link.host.input_gradient(ticket, state_grad))
        if not for_token:
            return None, x_grad, None
        ticket.window.signal(ticket, state_grad)
        return link.one, x_grad, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Refuse forward-mode derivatives."""
        raise RuntimeError(NO_TRANSFORMS)


class FirstStep(torch.autograd.Function):
    """A time step that no other waits behind: its gradient needs no root, a second node."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, made: tuple["Link", Ticket, np.ndarray], *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        """Do as `Step`."""
        ctx.made = made
        ctx.save_for_backward(*parameters)
        ctx.set_materialize_grads(False)
        return tensors(made[2])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Return the gradient of the input and of each parameter."""
        if torch.is_grad_enabled():
            return once(FirstStep.backward, ctx, *grads)
        _ = ctx.saved_tensors
        link, ticket, _ = ctx.made
        state_grad = joined(grads)
        needs = ctx.needs_input_grad
        x_grad = None
        if needs[0]:
            x_grad = torch.from_numpy(link.host.input_gradient(ticket, state_grad))
        if True not in needs[2:]:
            return x_grad, None, *[None] * len(needs[2:])
        flat = torch.from_numpy(ticket.window.gradient_of(ticket, state_grad))
        return x_grad, None, *flat.split_with_sizes(link.host.part_sizes)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Refuse forward-mode derivatives."""
        raise RuntimeError(NO_TRANSFORMS)


first_step: Any = super(torch.autograd.Function, FirstStep).apply
"""`FirstStep.apply`, without a look for functorch's transforms: 5 µs of a step's 85."""

NO_TRANSFORMS = (
    "a SnAp cell must be differentiated by backward() or torch.autograd.grad, got one of "
    "torch.func's transforms, forward-mode or batched gradients: for gradients per stream call "
    "per_sample_grad()"
)


class _Once(torch.autograd.Function):
    """Gradients that must not be differentiated: of them J knows no derivative."""

    @staticmethod
    def forward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple([grad.clone() for grad in grads])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(
            "the gradient of a step must not be differentiated again, got a backward pass through "
            "it (a gradient penalty): J holds first derivatives alone; detach() it"
        )


def once(backward: Any, ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
    """Run a backward pass under ``create_graph``: what it returns refuses to be differentiated.

    Whatever the loss was: torch's `once_differentiable` lets a constant gradient through in
    silence, as that of a sum.
    """
    with torch.no_grad():
        found = backward(ctx, *grads)
    some = [i for i, grad in enumerate(found) if grad is not None]
    guarded = _Once.apply(*[found[i].detach().requires_grad_() for i in some])
    out = list(found)
    for i, grad in zip(some, guarded, strict=True):
        out[i] = grad
    return tuple(out)


def tensors(new_state: np.ndarray) -> Any:
    """Return the components of a state, or the only one, as tensors on the same memory."""
    if new_state.shape[0] == 1:
        return torch.from_numpy(new_state[0])
    return tuple([torch.from_numpy(component) for component in new_state])


def lined_up(parts: tuple[Tensor, ...]) -> Tensor:
    """Return a tensor at whose address parts of one shape lie one behind the other.

    Those of a state that a step returned do.
    """
    first, size = parts[0].data_ptr(), parts[0].nbytes
    if all([part.data_ptr() == first + i * size for i, part in enumerate(parts)]):
        return parts[0]
    return torch.stack(parts).detach()


def joined(grads: tuple[Any, ...]) -> np.ndarray:
    """Return δ, (batch, states), from the gradients of the state's components.

    Raises
    ------
    RuntimeError
        If they are batched (``is_grads_batched``).
    """
    try:
        if len(grads) == 1:
            return np.ascontiguousarray(grads[0].numpy())  # of a sum's it is one number for all
        some = next(grad for grad in grads if grad is not None)
        known = [torch.zeros_like(some) if grad is None else grad for grad in grads]
        return torch.cat(known, 1).numpy()
    except RuntimeError as fault:  # of a batched tensor, which has no memory
        raise RuntimeError(NO_TRANSFORMS) from fault


def transformed() -> bool:
    """Whether one of torch.func's transforms runs."""
    return bool(torch._C._are_functorch_transforms_active())


class Link:
    """A cell, its window, and what ties them to the parameters as they are now.

    Attributes
    ----------
    host : HostCell
        The cell.
    window : Window
        J of the sequences that the module goes on with.
    parameters : list of Tensor
        Of the `names`, as they were last `seen`.
    seen : list of (id, address, requires_grad)
        Optimisers change parameters in place; others replace them, move them or freeze them.
    parts : int64 array, (parameters, 2)
        Where they lie, for `HostCell.forward`.
    trained : bool
        Whether any requires a gradient.
    places : (Tensor, int) or None
        The buffer of places that the masks agree with, and its version.
    one : Tensor, (1,)
        What a step returns for the token.
    """

    def __init__(self, host: HostCell, unrolls: bool) -> None:
        self.host = host
        self.window = host.window(unrolls)
        self.dtype: torch.dtype = getattr(torch, host.dtype.name)
        self.one = torch.ones(1, dtype=self.dtype)
        self.names = present(host.cell)
        self.places: tuple[Tensor, int] | None = None
        self.warned = False
        self.parameters: list[Tensor] = []
        self.seen: list[tuple[int, int, bool]] = []

    def take(self, parameters: list[Tensor], seen: list[tuple[int, int, bool]]) -> None:
        """Take over other parameters, or others of their memory, or others of them to train.

        Parametrisations compute them anew for each step. While steps wait for their signal, all
        lead to the tensors of the first of them, as long as the values are the same.

        Raises
        ------
        TypeError, ValueError
            If a parameter is of another kind than the cell was made for.
        """
        computed = any(p.grad_fn is not None for p in parameters)
        if computed and self.window.waits() and len(self.parameters) == len(parameters):
            if all(map(torch.equal, parameters, self.parameters)):
                return
        sizes = self.host.part_sizes
        for parameter, size in zip(parameters, sizes, strict=True):
            if parameter is not in_place("the parameters", parameter, self.dtype, (size,)):
                raise ValueError("the parameters must be contiguous, got a strided one")
        self.parts = np.array([[p.data_ptr() for p in parameters], sizes], np.int64).T.copy()
        self.parameters, self.seen = parameters, [] if computed else seen
        self.trained = any(p.requires_grad for p in parameters)

    def token(self, window: Window) -> Tensor:
        """Return what a window's steps share, made before any of them: autograd runs it after."""
        if window.held is None or window.held[0] is not self.parameters:
            with torch.enable_grad():
                window.held = self.parameters, Root.apply(window, *self.parameters)
        return window.held[1]


def require_cpu(name: str, tensor: Tensor, dtype: torch.dtype | None) -> None:
    """Refuse what is no tensor on the CPU, of `dtype` if one is given.

    Raises
    ------
    TypeError, ValueError
        In one line.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.layout is not STRIDED:
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
        and tensor.layout is STRIDED
        and tensor.is_cpu
        and tensor.dtype is dtype
        and tensor.shape == shape
        and tensor.is_contiguous()
        and not tensor.is_neg()
        and (tensor.data_ptr() or not tensor.numel())
    ):
        return tensor
    require_cpu(name, tensor, dtype)
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    return torch.empty(shape, dtype=dtype).copy_(tensor.detach())
