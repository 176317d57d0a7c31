"""SnAp-n for a torch cell of your own, ``h' = cell(x, h)``, whose Jacobians are sparse.

    masks = {"weight_hh": mask}                        # entries that exist; the others stay as is
    found = probe(cell, inputs=32, units=128, masks=masks)
    online = SnApModule(cell, found, n=2)
    h = online(x, h)
    loss(readout(h), target).backward()

The cell runs once a step. D and I are evaluated by few vector-Jacobian products through the graph
that it left: rows that share no column in the known pattern go together, one product per colour
for D, and one per colour and batch element for I. The rest is as in
`sparsegrad.interop.torch.cells`.
"""

from hashlib import sha256
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.func import functional_call

from sparsegrad.interop.faults import raise_fault
from sparsegrad.interop.torch.colouring import as_pattern, colour_rows
from sparsegrad.interop.torch.graph import FLOATS, Root, once, require_cpu
from sparsegrad.interop.torch.probing import Patterns, all_masks, check_patterns, probe
from sparsegrad.interop.torch.products import Products
from sparsegrad.interop.torch.state import State, load_state
from sparsegrad.interop.torch.streams import Streams
from sparsegrad.interop.window import Window
from sparsegrad.kernels.interop.embed import FINE, find_starts
from sparsegrad.kernels.vectors.finite import all_finite
from sparsegrad.symbolic.pattern import ReachPattern, reach

__all__ = ["Patterns", "SnApModule", "probe"]


class SnApModule(Streams):
    """A cell of your own that learns online by SnAp-n.

    Parameters
    ----------
    module : torch.nn.Module
        ``h' = module(x, h)``, (batch, inputs) and (batch, units); each batch element for itself.
        Its parameters are the ones that are trained.
    patterns : Patterns
        Where D and I may be non-zero: your own, or of `probe`.
    n : int or None
        Steps of reach; None for exact RTRL.
    inputs : int, optional
        Width of x; default: that of the probe. The patterns are checked at random points; where
        neither is given, at the first step.
    threads : int
        Threads of the influence update.

    Attributes
    ----------
    colours : int
        Vector-Jacobian products of a step for D.

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
        self._to_check: Any = D, immediate
        self.n, self._threads = n, threads
        inputs = patterns.inputs if inputs is None else inputs
        if inputs is not None:
            self._check(inputs)
        self._colours = colour_rows(D), colour_rows(sparse.csr_array(immediate))
        self.colours = int(self._colours[0].max()) + 1
        self._build(reach(D, immediate, n))

    def _check(self, inputs: int) -> None:
        D, immediate = self._to_check
        check_patterns(self.module, self._masks, D, immediate, inputs)
        self._to_check = None

    def _build(self, pattern: ReachPattern) -> None:
        """Make a window for the parameters' dtype, and what finds D and I in the products."""
        first = next(self.module.parameters())
        require_cpu("the parameters", first, None)
        dtype = first.detach().numpy().dtype
        exists = np.concatenate([mask.numpy().ravel() for mask in self._masks.values()])
        order = np.where(exists, np.cumsum(exists) - 1, -1).astype(np.int32)
        self._window = Window(pattern, dtype, self._threads, order)
        self._window.owner = self
        self._products = Products(pattern, exists, self._colours, first.dtype)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """Make a time step.

        Parameters
        ----------
        x : Tensor, (batch, inputs)
        h : Tensor, (batch, units), optional
            The state that the last step returned. Rows of zeros begin a sequence. None begins new
            sequences: state and J are 0.

        Returns
        -------
        Tensor, (batch, units)

        Raises
        ------
        TypeError, ValueError
            If a tensor has another dtype or device, the batch changed without `reset`, or the
            state is one whose J is not here.
        FloatingPointError
            If the state or its Jacobians stop being finite; J is as it was.
        """
        if torch.compiler.is_compiling():
            return _outside(self, x, h)
        dtype = getattr(torch, self._window.dtype.name)
        require_cpu("x", x, dtype)
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in self.module.parameters())
        if self._to_check is not None and x.shape[0]:
            self._check(x.shape[1])
        (h,), learnable = self._start(x, None if h is None else (h,), dtype, learns)
        if not torch.is_grad_enabled() or not x.shape[0]:
            return self.module(x, h)
        h = h.detach()
        if not learns:
            fixed = {name: p.detach() for name, p in self.module.named_parameters()}
            return functional_call(self.module, fixed, (x, h))  # its graph leads to x alone
        return self._learn(x, h, learnable)

    def _learn(self, x: Tensor, h: Tensor, learnable: bool) -> Tensor:
        window, values = self._window, h.numpy()
        sure = window.address == h.data_ptr() and not h._version
        step, told, starts = window.open(x.shape[0], sure, learnable)
        made = False
        try:
            outcome = find_starts(values, window.last[:0], window.last, told, starts)
            if outcome != FINE:
                raise_fault(outcome, x.shape[0])
            fixed = {k: p.detach().requires_grad_() for k, p in self.module.named_parameters()}
            x_leaf = x.detach().requires_grad_(x.requires_grad)
            h_leaf = h.requires_grad_()
            out = functional_call(self.module, fixed, (x_leaf, h_leaf))
            self._products.fill(out, h_leaf, list(fixed.values()), step)
            data = step.dynamics_data, step.immediate_data
            if not all(all_finite(v.reshape(-1)) for v in data) or not out.isfinite().all():
                raise FloatingPointError(
                    "the state and its Jacobians must stay finite, they became NaN or infinite; "
                    "lower the rate or clip"
                )
            made = True
        finally:
            if not made:
                window.discard(step)
        parameters = tuple(self.module.parameters())
        if window.held is None or not _same(window.held[0], parameters):
            window.held = parameters, Root.apply(window, *parameters)
        ticket = window.enter(step, starts, 0, None)
        window.last[0] = out.detach().numpy()
        kept = (out, x_leaf) if x.requires_grad else None
        new = _Signal.apply(window.held[1], x, out.detach().clone(), ticket, kept, parameters)
        window.returned, window.address = new.detach(), new.data_ptr()
        return new

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        nn.Module._save_to_state_dict(self, destination, prefix, keep_vars)
        if self.saves_influence:
            state = State.of(self._window)
            destination[prefix + "pattern"] = _fingerprint(self._window.pattern)
            destination[prefix + "influence"] = torch.from_numpy(state.entries)
            destination[prefix + "state"] = torch.from_numpy(state.last)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: list[str],
        unexpected: list[str], errors: list[str],
    ) -> None:  # fmt: skip
        old = state_dict.pop(prefix + "_extra_state", None)
        if isinstance(old, dict):
            mark = np.frombuffer(bytes.fromhex(old["pattern"]), np.uint8).copy()
            state_dict[prefix + "pattern"] = torch.from_numpy(mark)
            state_dict[prefix + "influence"] = old["influence"]
        pattern = state_dict.pop(prefix + "pattern", None)
        state = State.taken(state_dict, prefix)
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing, unexpected, errors
        )
        if state is None:
            return
        before = len(errors)
        load_state(self, self.n, state, prefix, errors)
        if len(errors) == before and pattern is not None:
            if not torch.equal(pattern.cpu(), _fingerprint(self._window.pattern)):
                errors.append(
                    f"{prefix}influence must be of these patterns, got one of others: build the "
                    "module with the patterns that it was saved with"
                )

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        window = state.pop("_window")
        del state["_products"]
        state["_frozen"] = window.pattern, *State.of(window)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        pattern, entries, last = state.pop("_frozen")
        super().__setstate__(state)
        self._build(pattern)
        self._window.set_entries(entries, last if last.shape[1] else None)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Follow ``.double()`` and ``.float()``; the next step refuses other devices."""
        super()._apply(fn, recurse)
        dtype, window = next(self.module.parameters()).dtype, self._window
        if dtype in FLOATS and FLOATS[dtype] != window.dtype.name:
            entries, last = State.of(window)
            self._build(window.pattern)
            kind = FLOATS[dtype]
            self._window.set_entries(
                entries.astype(kind), last.astype(kind) if last.shape[1] else None
            )
        return self

    def _trained(self) -> dict[str, Tensor]:
        return dict(self.module.named_parameters())


class _Signal(torch.autograd.Function):
    """Hand δ in for the weights, and lead it to the input through the cell's own graph."""

    @staticmethod
    def forward(
        ctx: Any, token: Tensor, x: Tensor, out: Tensor, ticket: Any, kept: Any, parameters: Any
    ) -> Tensor:
        ctx.ticket, ctx.kept = ticket, kept
        ctx.save_for_backward(*parameters)  # torch refuses changes in place, and a second pass
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return once(_Signal.backward, ctx, grad)
        _ = ctx.saved_tensors
        x_grad = None
        if ctx.kept is not None and ctx.needs_input_grad[1]:
            out, x = ctx.kept
            x_grad = torch.autograd.grad(out, x, grad, retain_graph=True, allow_unused=True)[0]
        if not ctx.needs_input_grad[0]:
            return None, x_grad, None, None, None, None
        ctx.ticket.window.signal(ctx.ticket, grad.contiguous().numpy())
        return grad.new_ones(1), x_grad, None, None, None, None


@_disable_dynamo
def _outside(module: SnApModule, x: Tensor, h: Any) -> Any:
    return module.forward(x, h)


def _same(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))


def _fingerprint(pattern: ReachPattern) -> Tensor:
    digest = sha256()
    for array in (
        pattern.dynamics_indptr, pattern.dynamics_indices,
        pattern.immediate_indptr, pattern.immediate_indices,
    ):  # fmt: skip
        digest.update(np.ascontiguousarray(array).tobytes())
    return torch.from_numpy(np.frombuffer(digest.digest(), np.uint8).copy())
