"""SnAp-n for a torch cell of your own, ``h' = cell(x, h)``, whose Jacobians are sparse.

    masks = {"weight_hh": mask}                        # entries that exist; the others stay as is
    found = probe(cell, inputs=32, units=128, masks=masks)
    online = SnApModule(cell, found, n=2)
    h = online(x, h)
    loss(readout(h), target).backward()

D and I are evaluated by few vector-Jacobian products: rows that share no column in the known
pattern go together, one product per colour. The rest is as in `sparsegrad.interop.torch.cells`.
"""

from hashlib import sha256
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, vjp, vmap

from sparsegrad.interop.torch.colouring import as_pattern, colour_rows
from sparsegrad.interop.torch.graph import FLOATS, Root, require_cpu
from sparsegrad.interop.torch.probing import Patterns, all_masks, check_patterns, probe
from sparsegrad.interop.window import Window
from sparsegrad.kernels.vectors.finite import all_finite
from sparsegrad.symbolic.pattern import ReachPattern, reach

__all__ = ["Patterns", "SnApModule", "probe"]


class SnApModule(nn.Module):
    """A cell of your own that learns online by SnAp-n.

    Parameters
    ----------
    module : torch.nn.Module
        ``h' = module(x, h)``, (batch, inputs) and (batch, units), made of operations that
        ``torch.func.vmap`` knows. Its parameters are the ones that are trained.
    patterns : Patterns
        Where D and I may be non-zero: your own, or of `probe`.
    n : int or None
        Steps of reach; None for exact RTRL.
    inputs : int, optional
        Width of x; given, the patterns are checked at random points first.
    threads : int
        Threads of the influence update.

    Attributes
    ----------
    colours : int
        Vector-Jacobian products of a step.

    Raises
    ------
    ValueError
        If a pattern has another shape, or lacks an entry that is not zero: which one is named.
    """

    def __init__(
        self,
        module: nn.Module,
        patterns: Patterns,
        n: int | None = 2,
        inputs: int | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__()
        self.module = module
        self._masks = all_masks(module, patterns.masks)
        weights = sum(int(mask.sum()) for mask in self._masks.values())
        units = sparse.csr_array(patterns.dynamics).shape[0]
        D = as_pattern("dynamics", patterns.dynamics, (units, units))
        immediate = as_pattern("immediate", patterns.immediate, (units, weights))
        if inputs is not None:
            check_patterns(module, self._masks, D, immediate, inputs)
        self.n, self._threads = n, threads
        self._colour = colour_rows(D, immediate)
        self.colours = int(self._colour.max()) + 1
        self._build(reach(D, immediate, n))

    def _build(self, pattern: ReachPattern) -> None:
        """Make a window for the parameters' dtype, and what finds D and I in the products."""
        first = next(self.module.parameters())
        require_cpu("the parameters", first, None)
        dtype, units = first.detach().numpy().dtype, pattern.shape[1]
        exists = np.concatenate([mask.numpy().ravel() for mask in self._masks.values()])
        order = np.where(exists, np.cumsum(exists) - 1, -1).astype(np.int32)
        self._window = Window(pattern, dtype, self._threads, order)
        self._token: Tensor | None = None
        seeds = np.zeros((self.colours, units), dtype)
        seeds[self._colour, np.arange(units)] = 1
        self._seeds = torch.from_numpy(seeds)
        # where each value of D and I lies in the (colours, columns) that the products return
        rows = np.repeat(np.arange(units), np.diff(pattern.dynamics_indptr))
        columns = np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.immediate_indptr))
        self._dynamics_at = _pair(self._colour[rows], pattern.dynamics_indices)
        self._immediate_at = _pair(
            self._colour[pattern.immediate_indices], np.flatnonzero(exists)[columns]
        )

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """Make a time step.

        Parameters
        ----------
        x : Tensor, (batch, inputs)
        h : Tensor, (batch, units), optional
            None begins new sequences: state and J are 0.

        Returns
        -------
        Tensor, (batch, units)

        Raises
        ------
        TypeError, ValueError
            If a tensor has another dtype or device, or the batch changed without `reset`.
        FloatingPointError
            If the state or its Jacobians stop being finite; J is as it was.
        """
        window = self._window
        dtype = getattr(torch, window.dtype.name)
        require_cpu("x", x, dtype)
        batch, units = x.shape[0], window.pattern.shape[1]
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in self.module.parameters())
        if h is None:
            h = torch.zeros(batch, units, dtype=dtype)
            if learns:
                window.restart()
        require_cpu("h", h, dtype)
        if h.shape != (batch, units):
            raise ValueError(f"h must have shape ({batch}, {units}), got {tuple(h.shape)}")
        if not torch.is_grad_enabled():
            return self.module(x, h)
        if learns and window.began and window.batch != batch:
            raise ValueError(
                f"the batch must stay {window.batch} until reset(), got {batch}: call reset() first"
            )
        h = h.detach()
        fixed = {name: p.detach() for name, p in self.module.named_parameters()}
        out = functional_call(self.module, fixed, (x, h))  # its graph leads to x alone
        if not learns:
            return out
        step = window.open(batch)
        if not self._evaluate(fixed, x.detach(), h, step) or not out.isfinite().all():
            window.discard(step)
            raise FloatingPointError(
                "the state and its Jacobians must stay finite, they became NaN or infinite; "
                "lower the rate or clip"
            )
        ticket = window.enter(step, None)
        if self._token is None:
            self._token = Root.apply(window, *self.module.parameters())
        return _Signal.apply(self._token, out, window, ticket, tuple(self.module.parameters()))

    def reset(self, which: Tensor | None = None) -> None:
        """Begin a new sequence at the next step: in the elements of `which`, bool, or in all."""
        if which is None or not self._window.began:
            self._window.restart()
        else:
            self._window.reset(np.asarray(which))

    def influence(self) -> Tensor:
        """Return a copy of J's kept entries after the last step, (batch, entries)."""
        return torch.from_numpy(self._window.entries())

    def get_extra_state(self) -> dict[str, Any]:
        """Return what `state_dict` holds beside the parameters: J, and a mark of its pattern."""
        mark = _fingerprint(self._window.pattern)
        return {"n": self.n, "pattern": mark, "influence": self.influence()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take J over.

        Raises
        ------
        ValueError
            If the state was saved with another n or other patterns.
        """
        window = self._window
        if state["n"] != self.n:
            raise ValueError(f"the state must be of n={self.n}, got one of n={state['n']}")
        if state["pattern"] != _fingerprint(window.pattern):
            raise ValueError(
                "the state must be of these patterns, got one of others: build the module with "
                "the patterns that it was saved with"
            )
        window.set_entries(state["influence"].numpy().astype(window.dtype))

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        window = state.pop("_window")
        state["_token"] = None
        state["_frozen"] = window.pattern, window.entries()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        pattern, entries = state.pop("_frozen")
        super().__setstate__(state)
        self._build(pattern)
        self._window.set_entries(entries)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Follow ``.double()`` and ``.float()``; the next step refuses other devices."""
        super()._apply(fn, recurse)
        dtype, window = next(self.module.parameters()).dtype, self._window
        if dtype in FLOATS and FLOATS[dtype] != window.dtype.name:
            entries = window.entries()
            self._build(window.pattern)
            self._window.set_entries(entries.astype(FLOATS[dtype]))
        return self

    def _evaluate(self, fixed: dict[str, Tensor], x: Tensor, h: Tensor, step: Any) -> bool:
        """Fill a step's D and I by one product per colour; return whether they are finite."""

        def rows(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            def one(fixed: dict[str, Tensor], h: Tensor) -> Tensor:
                return functional_call(self.module, fixed, (x[None], h[None]))[0]

            pull: Any = vjp(one, fixed, h)[1]
            by_weight, by_state = vmap(pull)(self._seeds)
            return by_state, torch.cat([g.flatten(1) for g in by_weight.values()], 1)

        by_state, by_weight = vmap(rows)(x, h)
        step.dynamics_data[:] = by_state[:, self._dynamics_at[0], self._dynamics_at[1]].numpy()
        step.immediate_data[:] = by_weight[:, self._immediate_at[0], self._immediate_at[1]].numpy()
        data = step.dynamics_data, step.immediate_data
        return all(all_finite(values.reshape(-1)) for values in data)


class _Signal(torch.autograd.Function):
    """Let δ through to the input's graph, and hand it in for the weights."""

    @staticmethod
    def forward(
        ctx: Any, token: Tensor, out: Tensor, window: Window, ticket: Any, parameters: Any
    ) -> Tensor:
        ctx.window, ctx.ticket = window, ticket
        ctx.save_for_backward(*parameters)  # torch refuses changes in place, and a second pass
        return out.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors
        ctx.window.signal(ctx.ticket, grad.contiguous().numpy())
        return grad.new_ones(1), grad, None, None, None


def _fingerprint(pattern: ReachPattern) -> str:
    digest = sha256()
    for array in (
        pattern.dynamics_indptr, pattern.dynamics_indices,
        pattern.immediate_indptr, pattern.immediate_indices,
    ):  # fmt: skip
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _pair(rows: Any, columns: Any) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(columns.astype(np.int64))
