"""SnAp-n cells as PyTorch modules: `loss.backward()` fills `.grad` online, without a long graph.

    cell = SnApGRU(32, 256, n=2, sparsity=0.9375)
    h = cell(x, h)                         # one time step; the graph ends at h
    loss(readout(h), target).backward()    # ∂L_t/∂weights through J_t, ∂L_t/∂x through this step
    optimizer.step()

What a step owes to earlier ones is in J, not in the graph: no gradient flows into the `h` that a
step is given, and detaching it changes nothing. J belongs to the module. It follows the sequence
from the last start: `h=None`, or `reset`. A step under ``torch.no_grad()`` leaves J alone, so that
another stream can be evaluated in between; a training stream makes all its steps with gradients on.

A layer below gets the gradient of the current step only: what x did to earlier states is not in J.

`backward` may run after each step or after several; then in the order of the steps, or once for
the sum of their losses. A step keeps D_t and I_t until J is past it, which is when its backward
pass has run, or when nothing holds its output any more.

A cell runs outside `torch.compile`: in a compiled function, call ``torch.compiler.disable(cell)``.
"""

from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from sparsegrad.cells import GRU, LSTM, RNN, Cell
from sparsegrad.cells.cell import NAMES
from sparsegrad.interop.addresses import parameter_order, present
from sparsegrad.interop.cell_window import CellWindow
from sparsegrad.interop.torch.graph import (
    FLOATS,
    Link,
    Step,
    first_step,
    in_place,
    require_cpu,
    tensors,
)


class _SnApCell(nn.Module):
    """What the three cells share.

    Parameters
    ----------
    input_size, hidden_size : int
        As in ``torch.nn.GRUCell``.
    n : int or None
        Steps of reach; None for exact RTRL.
    sparsity : float
        Share of ``weight_hh`` that does not exist, in [0, 1).
    gate_masks : {"independent", "shared"}
        One random mask per gate, or one for all gates of a unit.
    input_sparsity : float, optional
        The same of ``weight_ih``; default: `sparsity`.
    masks : dict of bool tensor or array, optional
        Masks of your own, under PyTorch's names.
    seed : int, optional
        Of masks and initial weights; default: drawn from torch's generator.
    dtype : torch.float32 or torch.float64
        Of everything.
    threads : int
        Threads of the influence update; results are bitwise the same for any number.

    Attributes
    ----------
    weight_hh, weight_ih, bias_ih, bias_hh : Parameter, (existing weights,)
        The weights that exist: ``dense[mask]``, row by row.

    Raises
    ------
    TypeError, ValueError
        If a size, a sparsity, a mask or a dtype is not as told.
    MemoryError
        If J does not fit; at the first step, when the batch is known.
    """

    _cell_type: ClassVar[type[Cell]]
    _name: ClassVar[str]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        n: int | None = 2,
        *,
        sparsity: float = 0.0,
        gate_masks: str = "independent",
        input_sparsity: float | None = None,
        masks: dict[str, Any] | None = None,
        seed: int | None = None,
        dtype: torch.dtype = torch.float32,
        threads: int = 1,
    ) -> None:
        super().__init__()
        self._take(
            self._cell_type(
                input_size,
                hidden_size,
                sparsity=sparsity,
                gate_masks=gate_masks,
                input_sparsity=input_sparsity,
                masks=_arrays(masks),
                seed=_seed(seed),
                dtype=_numpy_dtype(dtype),
            ),
            n,
            threads,
        )

    @classmethod
    def from_torch(
        cls,
        module: nn.Module,
        n: int | None = 2,
        masks: dict[str, Any] | None = None,
        threads: int = 1,
    ) -> Self:
        """Make a cell with the weights of ``torch.nn``'s: a ``…Cell``, or a sequence of one layer.

        Parameters
        ----------
        module : torch.nn.Module
            Of the same kind; its dtype is taken over.
        n : int or None
            Steps of reach; None for exact RTRL.
        masks : dict of bool tensor or array, optional
            Which weights exist, under PyTorch's names. Default: those of a weight matrix that are
            not 0, and all biases.
        threads : int
            As in the constructor.

        Raises
        ------
        TypeError
            If `module` is of another kind, has more layers, or another dtype.
        """
        kind = type(module).__name__.removesuffix("Cell")
        if not isinstance(module, nn.Module) or kind != cls._name:
            raise TypeError(
                f"module must be torch.nn.{cls._name}Cell or torch.nn.{cls._name}, "
                f"got {type(module).__name__}"
            )
        suffix = "" if hasattr(module, "weight_hh") else "_l0"
        if len(list(module.parameters())) > len(NAMES):
            raise TypeError("module must have one layer and one direction, got more")
        dense = {}
        for name in NAMES:
            values = getattr(module, name + suffix, None)
            if isinstance(values, Tensor):
                require_cpu(name, values, None)
                dense[name] = values.detach().numpy()
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made._take(cls._cell_of(dense, _arrays(masks), module), n, threads)
        return made

    def to_torch(self) -> nn.Module:
        """Return a ``torch.nn`` cell with these weights, and 0 where none exists."""
        window = self._window
        bias = {name in present(window.cell) for name in ("bias_ih", "bias_hh")}
        if len(bias) > 1:
            raise ValueError(f"torch.nn.{self._name}Cell must have both biases or none, got one")
        made = self._torch_cell(bias.pop())
        with torch.no_grad():
            for name, values in self.dense().items():
                getattr(made, name).copy_(values)
        return made

    def forward(self, x: Tensor, h: Any = None) -> Any:
        """Make a time step, or all steps of a sequence.

        Parameters
        ----------
        x : Tensor, (batch, input_size), (input_size,) or (time, batch, input_size)
            One step as ``torch.nn.GRUCell`` takes it, or a sequence as ``torch.nn.GRU`` does.
        h : Tensor, (batch, hidden_size), (hidden_size,) or (1, batch, hidden_size), optional
            The state; for an LSTM the pair (h, c). None begins new sequences: state and J are 0.

        Returns
        -------
        Tensor or tuple
            The new state in the same form; of a sequence ``(output, h_n)``, as ``torch.nn.GRU``.

        Raises
        ------
        TypeError, ValueError
            If a tensor has another shape or dtype, is not on the CPU, or x is not finite.
        FloatingPointError
            If the state stops being finite.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
        dimensions = x.dim()
        if dimensions == 2:
            return self._step(x, h if h is None or isinstance(h, tuple) else (h,))
        if dimensions == 3:
            return self._sequence(x, h)
        if dimensions != 1:
            raise ValueError(f"x must have 1, 2 or 3 dimensions, got {dimensions}")
        states = h if isinstance(h, tuple) else (h,)
        lifted = tuple(s[None] for s in states if s is not None)
        new = self._step(x[None], lifted or None)
        return tuple(s[0] for s in new) if isinstance(new, tuple) else new[0]

    def reset(self, which: int | Tensor | None = None) -> None:
        """Begin a new sequence at the next step: J of these batch elements starts from zero.

        The state is the caller's: give zeros for the same elements.

        Parameters
        ----------
        which : int or bool Tensor, (batch,), optional
            Batch elements. Default: all; the batch size may then change.

        Raises
        ------
        IndexError, ValueError
            If there is no such element.
        """
        window = self._window
        if which is None or not window.began:
            window.restart()
            return
        if isinstance(which, int):
            if not 0 <= which < window.batch:
                raise IndexError(f"batch element must lie in [0, {window.batch}), got {which}")
            mask = np.arange(window.batch) == which
        else:
            mask = np.asarray(which)
            if mask.dtype != np.bool_ or mask.shape != (window.batch,):
                raise ValueError(
                    f"which must be an int or bool of shape ({window.batch},), "
                    f"got {mask.dtype} {mask.shape}"
                )
        if mask.any():
            window.reset(mask)

    def dense(self) -> dict[str, Tensor]:
        """Return the weights in PyTorch's shapes and names, 0 where none exists; a copy."""
        return {name: self._spread(name, p) for name, p in self._named()}

    def dense_grad(self) -> dict[str, Tensor | None]:
        """Return the gradients likewise; None where a parameter has none."""
        return {
            name: None if p.grad is None else self._spread(name, p.grad)
            for name, p in self._named()
        }

    def influence(self) -> Tensor:
        """Return a copy of J's kept entries after the last step, (batch, entries)."""
        return torch.from_numpy(self._window.entries())

    def extra_repr(self) -> str:
        """Describe the cell for print()."""
        window = self._window
        return (
            f"{window.cell.inputs}, {window.cell.units}, n={window.n}, "
            f"weights={window.cell.weights.size}, entries={window.pattern.nnz}"
        )

    def get_extra_state(self) -> dict[str, Any]:
        """Return what `state_dict` holds beside the parameters: J, and which weights exist."""
        places = {
            name: torch.from_numpy(np.flatnonzero(mask)) for name, mask in self._masks().items()
        }
        return {"n": self._window.n, "influence": self.influence(), "places": places}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take J and the masks over; the loaded state decides which weights exist.

        Raises
        ------
        ValueError
            If the state was saved with another n.
        """
        window = self._window
        if state["n"] != window.n:
            raise ValueError(f"the state must be of n={window.n}, got one of n={state['n']}")
        masks = {}
        for name, mask in self._masks().items():
            masks[name] = np.zeros(mask.shape, bool)
            masks[name].reshape(-1)[state["places"][name].numpy()] = True
        self._rebuild(masks, state["influence"].numpy())

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_link"]
        window = self._window
        state["_frozen"] = self._masks(), window.n, window.threads, window.entries()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        masks, n, threads, entries = state.pop("_frozen")
        super().__setstate__(state)
        dtype = next(self.parameters()).dtype
        dense = {k: np.zeros(m.shape, _numpy_dtype(dtype)) for k, m in masks.items()}
        window = CellWindow(self._cell_of(dense, masks, self), n, threads)
        window.set_entries(entries)
        self._link = Link(window)

    @property
    def _window(self) -> CellWindow:
        return self._link.window

    @classmethod
    def _cell_of(
        cls, dense: dict[str, np.ndarray], masks: dict[str, Any] | None, module: nn.Module
    ) -> Cell:
        """Make our cell from dense arrays; `module` holds the options of its kind."""
        return cls._cell_type.from_dense(**dense, masks=masks)

    def _torch_cell(self, bias: bool) -> nn.Module:
        cell = self._window.cell
        kind = getattr(nn, self._name + "Cell")
        return kind(cell.inputs, cell.units, bias=bias, dtype=next(self.parameters()).dtype)

    def _take(self, cell: Cell, n: int | None, threads: int) -> None:
        """Make the parameters from a cell's weights."""
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ValueError(f"threads must be an integer >= 1, got {threads!r}")
        self._link = Link(CellWindow(cell, n, threads))
        for name in NAMES:
            parameter = None
            if name in present(cell):
                values = cell.weights[parameter_order(cell, name)]
                parameter = nn.Parameter(torch.from_numpy(values))
            self.register_parameter(name, parameter)

    def _rebuild(self, masks: dict[str, np.ndarray], entries: np.ndarray) -> None:
        """Make the window anew for the parameters' dtype, these masks and this J."""
        window = self._window
        dtype = _numpy_dtype(next(self.parameters()).dtype)
        dense = {name: np.zeros(mask.shape, dtype) for name, mask in masks.items()}
        fresh = CellWindow(self._cell_of(dense, masks, self), window.n, window.threads)
        fresh.set_entries(entries.astype(dtype))
        self._link = Link(fresh)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Follow ``.double()`` and ``.float()``; the next step refuses other devices."""
        super()._apply(fn, recurse)
        dtype = next(self.parameters()).dtype
        if dtype in FLOATS and FLOATS[dtype] != self._window.cell.dtype.name:
            self._rebuild(self._masks(), self._window.entries())
        return self

    def _masks(self) -> dict[str, np.ndarray]:
        return self._window.cell.masks()

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, getattr(self, name)) for name in NAMES if name in self._masks()]

    def _spread(self, name: str, values: Tensor) -> Tensor:
        mask = torch.from_numpy(self._masks()[name])
        dense = torch.zeros(mask.shape, dtype=values.dtype)
        dense[mask] = values.detach()
        return dense

    def _sequence(self, xs: Tensor, h: Any) -> tuple[Tensor, Any]:
        state = None
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
        return torch.stack(outputs), last if len(last) > 1 else last[0]

    def _step(self, x: Tensor, h: tuple[Tensor, ...] | None) -> Any:
        """Make a step of a batch; return the new state, a Tensor or, of several, a tuple."""
        link = self._link
        held: Any = self._parameters
        parameters = [held[name] for name in link.names]
        seen = [(id(p), p.data_ptr(), p.requires_grad) for p in parameters]
        if seen != link.seen:
            link.take(parameters, seen)
        wants = 0
        if torch.is_grad_enabled():
            wants = 2 * link.trained + x.requires_grad
        window, dtype, batch = link.window, link.dtype, x.shape[0]
        x_values = in_place("x", x, dtype, (batch, window.inputs))
        if h is None:
            if wants > 1:
                window.restart()
            h = (torch.zeros(batch, window.units, dtype=dtype),) * window.components
        else:
            if len(h) != window.components:
                raise ValueError(f"the state must be {window.components} tensor(s), got {len(h)}")
            h = tuple([in_place("the state", part, dtype, (batch, window.units)) for part in h])
            if wants > 1 and window.began and window.batch != batch:
                raise ValueError(
                    f"the batch must stay {window.batch} until reset(), got {batch}: "
                    "call reset() first, or pass no state"
                )
        new_state, ticket = window.forward(
            link.parts, batch, x_values.data_ptr(), h[0].data_ptr(), h[-1].data_ptr(), wants
        )
        if ticket is None:
            return tensors(new_state)
        if wants > 1 and not ticket.first:
            return Step.apply(link.token, x, (link, ticket, new_state))
        return first_step(x, (link, ticket, new_state), *parameters)


class SnApGRU(_SnApCell):
    """``torch.nn.GRUCell`` that learns online by SnAp-n; parameters as told by `_SnApCell`."""

    _cell_type, _name = GRU, "GRU"


class SnApLSTM(_SnApCell):
    """``torch.nn.LSTMCell`` that learns online by SnAp-n; its state is (h, c)."""

    _cell_type, _name = LSTM, "LSTM"


class SnApRNN(_SnApCell):
    """``torch.nn.RNNCell`` that learns online by SnAp-n; `from_torch` takes relu too."""

    _cell_type, _name = RNN, "RNN"
    nonlinearity = "tanh"

    @classmethod
    def from_torch(
        cls,
        module: nn.Module,
        n: int | None = 2,
        masks: dict[str, Any] | None = None,
        threads: int = 1,
    ) -> Self:
        """Make a cell with the weights of ``torch.nn.RNNCell``; see :meth:`SnApGRU.from_torch`."""
        made = super().from_torch(module, n, masks, threads)
        made.nonlinearity = str(module.nonlinearity)
        return made

    @classmethod
    def _cell_of(
        cls, dense: dict[str, np.ndarray], masks: dict[str, Any] | None, module: nn.Module
    ) -> Cell:
        return RNN.from_dense(**dense, masks=masks, nonlinearity=str(module.nonlinearity))

    def _torch_cell(self, bias: bool) -> nn.Module:
        cell, dtype = self._window.cell, next(self.parameters()).dtype
        return nn.RNNCell(
            cell.inputs, cell.units, bias=bias, nonlinearity=self.nonlinearity, dtype=dtype
        )


def _numpy_dtype(dtype: torch.dtype) -> str:
    if dtype not in FLOATS:
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    return FLOATS[dtype]


def _arrays(masks: dict[str, Any] | None) -> dict[str, np.ndarray] | None:
    return None if masks is None else {name: np.asarray(mask) for name, mask in masks.items()}


def _seed(seed: int | None) -> int:
    return int(torch.randint(2**31, ())) if seed is None else seed
