"""The J of a module's sequences: begun, saved, gone on with, loaded. What both kinds share."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsegrad.interop.saved import Saved
from sparsegrad.interop.torch.arguments import chosen
from sparsegrad.interop.torch.graph import in_place
from sparsegrad.interop.window import Window


class Streams(nn.Module):
    """A module that learns online: J belongs to the state that its last step returned.

    Attributes
    ----------
    saves_influence : bool
        Whether `state_dict` holds J and the state that it belongs to.
    """

    _window: Window
    _tail: Any = None  # of a module whose graph is real through time: see `unrolled.Tail`
    saves_influence: bool = True

    def step(self, x: Tensor, h: Any = None, J: Saved | None = None) -> tuple[Any, Saved]:
        """Make a time step with a J of one's own, as a function.

        Any number of streams may go through one module like this, and a step may be made again. J
        is copied only where the one that was given is still held when J goes on.

        Parameters
        ----------
        x, h : Tensor
            As in `forward`.
        J : Saved, optional
            As this method, or `save`, returned it. None begins new sequences.

        Returns
        -------
        Tensor or tuple
            The new state.
        Saved
            The J that belongs to it.

        Raises
        ------
        TypeError, ValueError
            If J is not one of this module, or not that of h.
        """
        before, tail = self._window, self._tail
        self._window = before.like() if J is None else self._resumed("J", J)
        try:
            new = self(x, h)
            return new, self._window.save()
        finally:
            self._window, self._tail = before, tail

    def save(self) -> Saved:
        """Return J of the sequences as they are now: what `restore` takes; costs nothing yet.

        ``saved[index]`` is that of some of the sequences.
        """
        return self._window.save()

    def restore(self, saved: Saved) -> None:
        """Go on from `saved` at the next step, which takes the state of then.

        Raises
        ------
        TypeError, ValueError
            If it is not a J of this module.
        """
        self._window = self._resumed("saved", saved)

    def reset(self, which: bool | int | Tensor | NDArray[np.bool_] | None = None) -> None:
        """Begin a new sequence at the next step: J of these batch elements starts from zero.

        The state is the caller's: zeros, or what a sequence is to begin with. Rows of zeros begin
        one without it.

        Parameters
        ----------
        which : bool, int, or bool array or Tensor, (batch,), optional
            Batch elements: all or none, one, or those of a mask. Default: all; the batch size may
            then change.

        Raises
        ------
        IndexError, TypeError, ValueError
            If there is no such element, or it is something else.
        """
        window = self._window
        if which is None:
            self._window = window.restart()
        elif window.began:
            window.reset(chosen(which, window.batch))
        elif not isinstance(which, int):
            chosen(which, np.size(which))

    def influence(self) -> Tensor:
        """Return a copy of J's kept entries after the last step, (batch, entries)."""
        return torch.from_numpy(self._window.entries())

    def per_sample_grad(self, losses: Tensor, retain_graph: bool = False) -> dict[str, Tensor]:
        """Return the gradient of each sequence's loss for itself.

        Parameters
        ----------
        losses : Tensor, (batch,)
            Each a function of its own sequence's states.
        retain_graph : bool
            As in ``backward``: keep the graph for another pass, as for the layers around.

        Returns
        -------
        dict of Tensor, (batch, …)
            Under the parameters' names, each with its parameter's shape after the batch.

        Raises
        ------
        ValueError
            If the losses are not one for each sequence.
        """
        window, parameters = self._window, self._trained()
        if losses.dim() != 1 or losses.shape[0] != window.batch:
            raise ValueError(
                f"losses must have shape ({window.batch},), one for each sequence, got "
                f"{tuple(losses.shape)}"
            )
        found: list[NDArray[Any]] = []
        window.per_stream = found
        try:
            torch.autograd.grad(losses.sum(), list(parameters.values()), retain_graph=retain_graph)
        finally:
            window.per_stream = None
        flat = torch.from_numpy(sum(found[1:], found[0]))
        parts = flat.split_with_sizes([p.numel() for p in parameters.values()], 1)
        return {
            name: part.reshape(len(part), *p.shape)
            for part, (name, p) in zip(parts, parameters.items(), strict=True)
        }

    def _trained(self) -> dict[str, Tensor]:
        """Return the parameters of the gradient, in the window's order."""
        raise NotImplementedError

    def _resumed(self, name: str, saved: Saved) -> Window:
        window = self._window
        if not isinstance(saved, Saved):
            raise TypeError(
                f"{name} must be what save() or step() returned, got {type(saved).__name__}"
            )
        if saved.pattern is not window.pattern or saved.dtype != window.dtype:
            raise ValueError(
                f"{name} must be of this module or a copy of it, got one of {saved.pattern!r} in "
                f"{saved.dtype}, here {window.pattern!r} in {window.dtype}"
            )
        return saved.resume(window.owner)

    def _start(
        self, x: Tensor, h: tuple[Tensor, ...] | None, dtype: torch.dtype, learns: bool
    ) -> tuple[tuple[Tensor, ...], bool]:
        """Return the state to start from, and whether it wants a gradient; begin where none is."""
        window, batch = self._window, x.shape[0]
        shape = batch, window.units
        if h is None:
            if learns:
                if window.began and not x.isfinite().all():
                    raise ValueError("x must be finite, got NaN or infinity; J is as it was")
                self._window = window.restart()
            return (torch.zeros(shape, dtype=dtype),) * window.components, False
        if len(h) != window.components:
            raise ValueError(f"the state must be {window.components} tensor(s), got {len(h)}")
        learnable = learns and any([isinstance(p, Tensor) and p.requires_grad for p in h])
        h = tuple([in_place("the state", part, dtype, shape) for part in h])
        if not learns:
            return h, False
        if window.began and window.batch != batch:
            if any([bool(part.any()) for part in h]):
                raise ValueError(
                    f"the batch must stay {window.batch} until reset(), got {batch}: "
                    "call reset() first, or pass no state"
                )
            self._window = window.restart()
        return h, learnable
