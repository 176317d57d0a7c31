"""Steps whose graph through time is real, and J where it ends.

λ goes from step to step by autograd itself. The first step of a window gives Dᵀ λ, ∂L/∂s of the
state that it started from, to the root that all of its steps share, which contracts J with it.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsegrad.interop.host_cell import HostCell
from sparsegrad.interop.torch.graph import NO_TRANSFORMS, joined, once, tensors
from sparsegrad.interop.waiting import Ticket
from sparsegrad.interop.window import Window

Made = tuple[HostCell, Tensor, Ticket, np.ndarray]
"""The cell, 1 for the token, the step's ticket and its new state."""


class Tail(NamedTuple):
    """The last step's state in the graph, which the next step goes on from.

    It is held by the module alone: held by what the graph holds, it would never be freed.
    """

    window: Window
    number: int
    states: tuple[Tensor, ...]


class UnrolledStep(torch.autograd.Function):
    """A time step in a graph through time."""

    @staticmethod
    def forward(
        ctx: Any, token: Tensor, x: Tensor, made: Made, count: int, *others: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the new state of a step that was made, component by component.

        The `others` are so many components of the state before, and the parameters.
        """
        ctx.made, ctx.count = made, count
        # torch refuses a second backward pass, and weights that were changed in place meanwhile
        ctx.save_for_backward(*others[count:])
        ctx.set_materialize_grads(False)
        return tensors(made[3])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Return the gradient of the input and of the state before, or leave the latter to J."""
        found: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        if all(grad is None for grad in grads):
            return tuple(found)
        if torch.is_grad_enabled():
            return once(UnrolledStep.backward, ctx, *grads)
        host, one, ticket, _ = ctx.made
        window, state_grad = ticket.window, joined(grads)
        before, ends = window.pull(ticket, state_grad)
        _ = ctx.saved_tensors
        if ctx.needs_input_grad[1]:
            found[1] = torch.from_numpy(host.input_gradient(ticket, state_grad))
        ends = ends or not ctx.count
        if ctx.needs_input_grad[0]:
            window.signal(ticket, state_grad, before if ends else None)
            found[0] = one
        if not ends:
            found[4 : 4 + ctx.count] = torch.from_numpy(before).split(host.units, 1)
        return tuple(found)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Refuse forward-mode derivatives."""
        raise RuntimeError(NO_TRANSFORMS)


def attached(h: Any) -> bool:
    """Whether a state is in a graph."""
    return h is not None and any([isinstance(p, Tensor) and p.requires_grad for p in h])


def unrolled_step(
    tail: Tail | None, token: Tensor, x: Tensor, made: Made, parameters: list[Tensor]
) -> tuple[Any, Tail]:
    """Put a step that was made into the graph; return the new state, and the tail that it is.

    Parameters
    ----------
    tail : Tail or None
        Of the last step; None where the state that was given is in no graph.
    token : Tensor
        What the steps of the window share.
    x : Tensor, (batch, inputs)
    made : Made
    parameters : list of Tensor
    """
    ticket = made[2]
    window, before = ticket.window, ticket.number - 1
    goes_on = tail is not None and tail.window is window and tail.number == before > window.passed
    states = tail.states if tail is not None and goes_on else ()
    new = UnrolledStep.apply(token, x, made, len(states), *states, *parameters)
    return new, Tail(window, ticket.number, new if isinstance(new, tuple) else (new,))
