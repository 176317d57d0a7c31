"""What the SnAp cells share: a step, and the J that belongs to its state."""

import copy
import warnings
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from sparsegrad.cells import Cell
from sparsegrad.cells.cell import NAMES
from sparsegrad.interop.addresses import parameter_order, present
from sparsegrad.interop.host_cell import HostCell
from sparsegrad.interop.torch.arguments import arrays, numpy_dtype, require_bool
from sparsegrad.interop.torch.graph import (
    FLOATS,
    NO_TRANSFORMS,
    Link,
    Step,
    first_step,
    in_place,
    lined_up,
    tensors,
    transformed,
)
from sparsegrad.interop.torch.rewired import (
    hand_over,
    moved,
    moved_states,
    origins,
    plain_parameters,
)
from sparsegrad.interop.torch.state import State, load_state, masks_at, modern, places_of
from sparsegrad.interop.torch.streams import Streams
from sparsegrad.interop.torch.unrolled import attached, unrolled_step
from sparsegrad.interop.window import Window
from sparsegrad.symbolic.pattern import ReachPattern

_COSTLY = 1_000_000_000  # multiply-adds of a step that are worth a warning: some 20 ms
_is_exporting = getattr(torch.compiler, "is_exporting", bool)  # torch >= 2.7


class OnlineCell(Streams):
    """What a cell of ours does as a torch module; see :class:`sparsegrad.interop.torch.SnApGRU`.

    Attributes
    ----------
    input_size, hidden_size : int
        As in ``torch.nn.GRUCell``.
    bias, batch_first : bool
        As in torch.
    n : int or None
        Steps of reach.
    window : bool
        Whether the graph through time is real between backward passes.
    weight_hh, weight_ih, bias_ih, bias_hh : Parameter, (existing weights,)
        The weights that exist: ``dense[mask]``, row by row.
    places : int32 Tensor, (existing weights,)
        Where each stands in its dense array, parameter after parameter: a buffer, so that masks
        are loaded, broadcast and compared with the weights.
    """

    places: Tensor

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Make a time step, or all steps of a sequence.

        Parameters
        ----------
        input : Tensor, (batch, input_size), (input_size,) or (time, batch, input_size)
            One step as ``torch.nn.GRUCell`` takes it, or a sequence as ``torch.nn.GRU`` does;
            (batch, time, input_size) with `batch_first`.
        hx : Tensor, (batch, hidden_size), (hidden_size,) or (1, batch, hidden_size), optional
            The state that the last step returned; for an LSTM the pair (h, c), and so for every
            cell of several components. Rows of zeros begin a sequence. None begins new sequences:
            state and J are 0.

        Returns
        -------
        Tensor or tuple
            The new state in the same form; of a sequence ``(output, h_n)``, as ``torch.nn.GRU``.

        Raises
        ------
        TypeError, ValueError
            If a tensor has another shape or dtype, is not on the CPU, x is not finite, or the
            state is one whose J is not here.
        FloatingPointError
            If the state stops being finite.
        """
        if torch.compiler.is_compiling():
            if _is_exporting():
                raise RuntimeError(NO_EXPORT)
            return _outside(self, input, hx)
        if torch._C._get_tracing_state() is not None:  # it would keep this step's numbers
            raise RuntimeError(NO_EXPORT)
        if not isinstance(input, Tensor):
            raise TypeError(f"x must be a torch.Tensor, got {type(input).__name__}")
        if isinstance(hx, list):
            hx = tuple(hx)
        dimensions = input.dim()
        if dimensions == 2:
            return self._step(input, hx if hx is None or isinstance(hx, tuple) else (hx,))
        if dimensions == 3:
            return self._sequence(input, hx)
        if dimensions != 1:
            raise ValueError(f"x must have 1, 2 or 3 dimensions, got {dimensions}")
        states = hx if isinstance(hx, tuple) else (hx,)
        lifted = tuple(s[None] for s in states if s is not None)
        new = self._step(input[None], lifted or None)
        return tuple(s[0] for s in new) if isinstance(new, tuple) else new[0]

    def dense(self) -> dict[str, Tensor]:
        """Return the weights in PyTorch's shapes and names, 0 where none exists; a copy."""
        return {name: self._spread(name, p) for name, p in self._named()}

    def dense_grad(self) -> dict[str, Tensor | None]:
        """Return the gradients likewise; None where a parameter has none."""
        return {
            name: None if p.grad is None else self._spread(name, p.grad)
            for name, p in self._named()
        }

    def to_cell(self) -> Cell:
        """Return a cell of ours with these weights and masks: what a learner takes."""
        dense = {name: values.numpy() for name, values in self.dense().items()}
        return self._cell_of(dense, self._masks())

    def masks(self) -> dict[str, Tensor]:
        """Return which weights exist, bool, in PyTorch's shapes and names."""
        return {name: torch.from_numpy(mask) for name, mask in self._masks().items()}

    def rewire(self, masks: dict[str, Any], optimizer: torch.optim.Optimizer | None = None) -> None:
        """Go on with other weights: what both masks have stays bit for bit, the rest sets out anew.

        Of weights that stay, value, gradient summed so far and influence stay; new ones begin at 0
        with all of that 0, and so do entries of J of units that a weight reaches only now. The
        sequences go on from their states.

        Parameters become others, for their sizes change. In `optimizer` they take the place of
        those of before, with the moments of what stays. Any other optimiser that holds those of
        before refuses its next step: make a new one. Wrap the module in ``DistributedDataParallel``
        anew. J from `save` or `step` before is refused afterwards.

        Parameters
        ----------
        masks : dict of bool tensor or array
            Which weights exist, under PyTorch's names and shaped as the dense arrays; an array
            that is not named keeps its weights. A unit may lose its last one.
        optimizer : torch.optim.Optimizer, optional
            The one that trains these parameters: any that keeps its moments weight by weight.

        Raises
        ------
        TypeError, ValueError
            If a mask has another shape or is not boolean, names no array of the cell, or no weight
            would be left; if a parameter is computed or has hooks; if the optimiser has none of
            the parameters, or moments of another kind. The module is as it was, as after:
        RuntimeError
            If a step still waits for its backward pass.
        MemoryError
            If the new influence does not fit beside the old one.
        """
        link = self._agree()
        before, old = plain_parameters(self, link.names), self.to_cell()
        cell = old.rewire(arrays(masks) or {})
        if present(cell) != link.names:
            raise ValueError(
                f"masks must name arrays that the cell has, {', '.join(link.names)}, got "
                f"{', '.join(masks)}"
            )
        if link.window.waits():
            raise RuntimeError(
                "rewire must come when no step waits for its backward pass, got one that does: "
                "call backward first, or let go of its state and its loss"
            )
        origin = origins(old, cell)
        states = moved_states(optimizer, before, origin)
        made = {name: moved(p, origin[name]) for name, p in before.items()}
        follower = Link(HostCell(cell, self.n, link.host.threads), self.window)
        follower.window.carry(link.window, old.origin_of(cell))
        hand_over(optimizer, before, made, states)
        self._parameters.update(made)
        self.places = places_of(cell)
        self._link, self._tail = follower, None  # both hold a J: the old one is free now

    def extra_repr(self) -> str:
        """Describe the cell for print()."""
        host = self._link.host
        return (
            f"{host.inputs}, {host.units}, n={host.n}, "
            f"weights={host.cell.weights.size}, entries={host.pattern.nnz}"
            + (", window=True" if self.window else "")
        )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.saves_influence:
            state = State.of(self._link.window)
            destination[prefix + "influence"] = torch.from_numpy(state.entries)
            destination[prefix + "state"] = torch.from_numpy(state.last)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: list[str],
        unexpected: list[str], errors: list[str],
    ) -> None:  # fmt: skip
        modern(state_dict, prefix)
        state = State.taken(state_dict, prefix)
        before = len(errors)
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing, unexpected, errors
        )
        if len(errors) == before:
            self._agree()
            load_state(self, self.n, state, prefix, errors)

    def __prepare_scriptable__(self) -> Any:
        """Refuse ``torch.jit.script``, which asks this first."""
        raise TypeError(
            "a SnAp cell must run in Python, got torch.jit.script: script cell.to_torch() instead"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        made = memo[id(self)] = type(self).__new__(type(self))
        pattern = self._link.host.pattern
        memo[id(pattern)] = pattern  # structure alone: nothing of it is found again
        made.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return made

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_link"]
        state.pop("_tail", None)  # the copy's steps are not in this graph: J goes on
        host, window = self._link.host, self._link.window
        state["_frozen"] = self._masks(), host.pattern, host.threads, *State.of(window)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        masks, pattern, threads, entries, last = state.pop("_frozen")
        super().__setstate__(state)
        self._build(masks, threads, pattern)
        self._link.window.set_entries(entries, last if last.shape[1] else None)

    def _cell_of(self, dense: dict[str, NDArray[Any]], masks: dict[str, Any] | None) -> Cell:
        """Make a cell of ours from dense arrays."""
        raise NotImplementedError

    def _take(self, cell: Cell, n: int | None, threads: int, window: bool) -> None:
        """Make the parameters from a cell's weights, and J for it."""
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ValueError(f"threads must be an integer >= 1, got {threads!r}")
        self.n, self.window = n, require_bool("window", window)
        self.input_size, self.hidden_size = cell.inputs, cell.units
        self.batch_first = getattr(self, "batch_first", False)
        self._link = link = Link(HostCell(cell, n, threads), self.window)
        for name in NAMES:
            parameter = None
            if name in link.names:
                values = cell.weights[parameter_order(cell, name)]
                parameter = nn.Parameter(torch.from_numpy(values))
            self.register_parameter(name, parameter)
        self.bias = self.bias_ih is not None
        self.register_buffer("places", places_of(cell))

    def _build(
        self, masks: dict[str, NDArray[np.bool_]], threads: int, pattern: ReachPattern | None
    ) -> None:
        """Make host and window for these masks and the parameters' dtype; no J yet."""
        dtype = numpy_dtype(next(self.parameters()).dtype)
        dense = {name: np.zeros(mask.shape, dtype) for name, mask in masks.items()}
        host = HostCell(self._cell_of(dense, masks), self.n, threads, pattern)
        self._link = Link(host, self.window)

    def _agree(self) -> Link:
        """Have the masks that `places` tells: others may have been loaded, or come by broadcast."""
        link, places = self._link, self._buffers["places"]
        assert places is not None
        if not places.is_cpu:
            raise ValueError(
                f"the parameters must be on the CPU, got {places.device}: move them with .cpu()"
            )
        if not torch.equal(places, places_of(link.host.cell)):
            masks = masks_at(places, self._masks(), link.host.part_sizes)
            self._build(masks, link.host.threads, None)
            link = self._link
        link.places = places, places._version
        return link

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Follow ``.double()`` and ``.float()``; the next step refuses other devices."""
        super()._apply(fn, recurse)
        dtype, link = next(self.parameters()).dtype, self._link
        if dtype in FLOATS and FLOATS[dtype] != link.host.dtype.name:
            entries, last = State.of(link.window)
            self._build(self._masks(), link.host.threads, link.host.pattern)
            kind = FLOATS[dtype]
            self._link.window.set_entries(
                entries.astype(kind), last.astype(kind) if last.shape[1] else None
            )
        return self

    @property
    def _window(self) -> Window:
        return self._link.window

    @_window.setter
    def _window(self, window: Window) -> None:
        self._link.window = window

    def _trained(self) -> dict[str, Tensor]:
        return dict(zip(self._link.names, self._link.parameters, strict=True))

    def _masks(self) -> dict[str, NDArray[np.bool_]]:
        return self._link.host.cell.masks()

    def _named(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self._link.names]

    def _spread(self, name: str, values: Tensor) -> Tensor:
        mask = torch.from_numpy(self._masks()[name])
        dense = torch.zeros(mask.shape, dtype=values.dtype)
        dense[mask] = values.detach()
        return dense

    def _sequence(self, xs: Tensor, h: Any) -> tuple[Tensor, Any]:
        state = None
        if self.batch_first:
            xs = xs.transpose(0, 1)
        if h is not None:
            state = h if isinstance(h, tuple) else (h,)
            for s in state:
                if isinstance(s, Tensor) and (s.dim() != 3 or s.shape[0] != 1):
                    raise ValueError(
                        f"the state of a sequence must have shape (1, batch, hidden_size), "
                        f"got {tuple(s.shape)}"
                    )
            state = tuple(s[0] for s in state)
        outputs = []
        for x in xs:
            new = self._step(x, state)
            state = new if isinstance(new, tuple) else (new,)
            outputs.append(state[0])
        if state is None:
            raise ValueError("a sequence must have at least one step, got none")
        last = tuple(s[None] for s in state)
        output = torch.stack(outputs, 1 if self.batch_first else 0)
        return output, last if len(last) > 1 else last[0]

    def _step(self, x: Tensor, h: tuple[Tensor, ...] | None) -> Any:
        """Make a step of a batch; return the new state, a Tensor or, of several, a tuple."""
        try:
            return self._made(x, h)
        except RuntimeError:
            if transformed():
                raise RuntimeError(NO_TRANSFORMS) from None
            raise

    def _made(self, x: Tensor, h: tuple[Tensor, ...] | None) -> Any:
        link, places, held = self._link, self._buffers["places"], self._parameters
        agreed: Any = link.places
        if agreed is None or places is not agreed[0] or places._version != agreed[1]:
            link = self._agree()
        try:
            parameters: Any = [held[name] for name in link.names]
        except KeyError:  # a parametrisation computes it
            parameters = [getattr(self, name) for name in link.names]
        seen = [(id(p), p.data_ptr(), p.requires_grad) for p in parameters]
        if seen != link.seen:
            link.take(parameters, seen)
        wants = 0
        if torch.is_grad_enabled():
            wants = 2 * link.trained + x.requires_grad
            if self.window and (wants or attached(h)):
                wants |= 2
        host, dtype, batch = link.host, link.dtype, x.shape[0]
        if x.dtype is not dtype and torch.is_autocast_enabled("cpu") and x.is_floating_point():
            x = x.to(dtype)  # as torch's own cells do
        x_values = in_place("x", x, dtype, (batch, host.inputs))
        if not batch:
            return self._of_nobody(x, link)
        if wants > 1 and not link.warned:
            self._warn_of_cost(link, batch)
        h, learnable = self._start(x_values, h, dtype, wants > 1)
        window, at = link.window, h[0].data_ptr()
        others = h[-1] if host.components < 3 else lined_up(h[1:])
        token = sure = None
        if wants > 1:
            token = link.token(window)
            sure = window.address == at and not any([part._version for part in h])
        new_state, ticket = host.forward(
            window, link.parts, batch, (x_values.data_ptr(), at, others.data_ptr()), wants,
            bool(sure), learnable,
        )  # fmt: skip
        if ticket is None:
            return tensors(new_state)
        if self.window and token is not None:
            made = host, link.one, ticket, new_state
            tail = self._tail if learnable else None
            new, self._tail = unrolled_step(tail, token, x, made, link.parameters)
            window.returned = new_state
            window.address = (new[0] if host.components > 1 else new).data_ptr()
            return new
        if wants > 1:
            window.returned = new_state
            if not ticket.first:
                new = Step.apply(token, x, (link, ticket, new_state))
                window.address = (new[0] if host.components > 1 else new).data_ptr()
                return new
        new = first_step(x, (link, ticket, new_state), *link.parameters)
        if wants > 1:
            window.address = (new[0] if host.components > 1 else new).data_ptr()
        return new

    def _of_nobody(self, x: Tensor, link: Link) -> Any:
        """Return the state of a batch of 0, in a graph like torch's: gradients are zero."""
        empty = x.new_zeros(0, link.host.units)
        if torch.is_grad_enabled():
            empty = empty + sum([p.sum() for p in link.parameters]) * 0 + x.sum() * 0
        count = link.host.components
        return empty if count == 1 else tuple([empty.clone() for _ in range(count)])

    def _warn_of_cost(self, link: Link, batch: int) -> None:
        """Say once if a step is so costly that a sparser cell is likely wanted."""
        link.warned = True
        cost = link.host.pattern.cost(batch, link.host.dtype)
        if cost.multiply_adds > _COSTLY:
            weights = [m.size for name, m in self._masks().items() if name.startswith("weight")]
            filled = link.host.cell.weights.size / sum(weights)
            # at n = 2 they go with the fourth power of the density
            fits = filled * (_COSTLY / 4 / cost.multiply_adds) ** 0.25
            warnings.warn(
                f"a step of this cell takes {cost.multiply_adds:.2g} multiply-adds and "
                f"{cost.bytes / 2**20:.0f} MiB of J: a sparsity of {1 - min(fits, 0.5):.2f} or n=1 "
                "takes a small part of that",
                stacklevel=6,
            )


NO_EXPORT = (
    "a SnAp cell must run in Python, got torch.export or torch.jit.trace: export cell.to_torch(), "
    "or write a step with sparsegrad.interop.onnx"
)


@_disable_dynamo
def _outside(cell: OnlineCell, x: Tensor, h: Any) -> Any:
    """Make a step outside the graph of ``torch.compile``: kernels read memory at addresses."""
    return cell.forward(x, h)
