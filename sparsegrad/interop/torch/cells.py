"""SnAp-n cells as PyTorch modules: `loss.backward()` fills `.grad` online, without a long graph.

    cell = SnApGRU(32, 256, n=2, sparsity=0.9375)
    h = cell(x, h)                         # one time step; the graph ends at h
    loss(readout(h), target).backward()    # ∂L_t/∂weights through J_t, ∂L_t/∂x through this step
    optimizer.step()

What a step owes to earlier ones is in J, not in the graph: no gradient flows into the `h` that a
step is given, and detaching it changes nothing. J belongs to the state that the last step
returned: give that back and the sequence goes on, give rows of zeros (or no state) and it begins.
Any other state is refused, for its J is not here; `save`, `restore` and `step` are for those who
need more than one. A step under ``torch.no_grad()`` leaves J alone.

A layer below gets the gradient of the current step only: what x did to earlier states is not in J.

`backward` may run after each step or after several; then in the order of the steps, or once for
the sum of their losses. A step keeps D_t and I_t until J is past it, which is when its backward
pass has run, or when nothing holds its output any more.

With windows (``window=True``) the graph goes from step to step, as that of ``torch.nn.GRU``: in
a sequence call, or between two backward passes, gradients are exact, also those of x and of
layers below. Where the graph ends, at the start of the first step after a backward pass, or where
the state was detached, J takes over:

    gradient = Σ_t I_tᵀ λ_t + J_0ᵀ (D_1ᵀ λ_1)

so that nothing is truncated. One backward pass per window: a second one through its steps is
refused. J then goes through them by its own recursion. A loop that never calls backward must detach
the state, as in all of torch, or its graph grows.

In a function under ``torch.compile`` a cell steps outside the graph.
"""

from functools import partial
from typing import Any, ClassVar, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsegrad.cells import GRU, LSTM, RNN, Cell
from sparsegrad.cells.cell import NAMES
from sparsegrad.interop.addresses import require_cell
from sparsegrad.interop.torch.arguments import (
    arrays,
    numpy_dtype,
    require_bool,
    require_cpu_device,
    require_options,
)
from sparsegrad.interop.torch.cell import OnlineCell
from sparsegrad.interop.torch.graph import require_cpu


class SnApCell(OnlineCell):
    """Any cell of ours, also of a kind of your own, as a torch module that learns online by SnAp-n.

    Parameters
    ----------
    cell : Cell
        Structure and initial weights, as of ``learner.cell``; it is not changed.
    n : int or None
        Steps of reach; None for exact RTRL.
    batch_first : bool
        Whether sequences are (batch, time, inputs).
    threads : int
        Threads of the influence update; results are bitwise the same for any number.
    window : bool
        Whether the graph through time is real between backward passes; see the head of this file.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as told.
    RuntimeError
        If compilation is switched off.

    Examples
    --------
    >>> module = SnApCell(sparsegrad.ALIF(8, 64, sparsity=0.9), n=1)
    >>> z, v, b = module(torch.randn(4, 8))  # its state numbers; a readout sees the first
    """

    def __init__(
        self,
        cell: Cell,
        n: int | None = 2,
        *,
        batch_first: bool = False,
        threads: int = 1,
        window: bool = False,
    ) -> None:
        super().__init__()
        require_cell(cell)
        self.batch_first = require_bool("batch_first", batch_first)
        self._like = cell.astype(cell.dtype)
        self._take(cell.astype(cell.dtype), n, threads, window)

    def _cell_of(self, dense: dict[str, NDArray[Any]], masks: dict[str, Any] | None) -> Cell:
        dtype = next(iter(dense.values())).dtype
        cell = self._like.rewire(masks or {}).astype(dtype)
        for name, (weight, place) in cell.places.items():
            cell.weights[weight] = dense[name].reshape(-1)[place]
        return cell


class _Gated(OnlineCell):
    """Construction of the three cells.

    Parameters
    ----------
    input_size, hidden_size : int
        As in ``torch.nn.GRUCell``.
    bias : bool
        Whether there are biases.
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
        Of masks and initial weights. Default: masks of seed 0, the same in every process, and
        weights drawn from torch's generator.
    batch_first : bool
        Whether sequences are (batch, time, input_size).
    device : torch.device, optional
        The CPU.
    dtype : torch.float32 or torch.float64, optional
        Of everything. Default: torch's.
    threads : int
        Threads of the influence update; results are bitwise the same for any number.
    window : bool
        Whether the graph through time is real between backward passes; see the head of this file.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as told.
    MemoryError
        If J does not fit; at the first step, when the batch is known.
    """

    _cell_type: ClassVar[type[Cell]]
    _name: ClassVar[str]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        n: int | None = 2,
        sparsity: float = 0.0,
        gate_masks: str = "independent",
        input_sparsity: float | None = None,
        masks: dict[str, Any] | None = None,
        seed: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        threads: int = 1,
        window: bool = False,
    ) -> None:
        super().__init__()
        require_bool("bias", bias)
        require_cpu_device(device)
        self.batch_first = require_bool("batch_first", batch_first)

        kind = self._kind()

        def made(masks: dict[str, Any] | None, seed: int) -> Cell:
            return kind(
                input_size,
                hidden_size,
                sparsity=sparsity,
                gate_masks=gate_masks,
                input_sparsity=input_sparsity,
                masks=masks,
                seed=seed,
                dtype=numpy_dtype(dtype),
            )

        cell = made(arrays(masks), 0 if seed is None else seed)
        if seed is None:
            cell = made(cell.masks(), int(torch.randint(2**31, ())))
        if not bias:
            dense, found = cell.to_dense(), cell.masks()
            weights = [name for name in NAMES if name.startswith("weight")]
            cell = self._cell_of({k: dense[k] for k in weights}, {k: found[k] for k in weights})
        self._take(cell, n, threads, window)

    def _kind(self) -> Any:
        return self._cell_type

    def _cell_of(self, dense: dict[str, NDArray[Any]], masks: dict[str, Any] | None) -> Cell:
        return self._cell_type.from_dense(**dense, masks=masks)

    @classmethod
    def from_torch(
        cls,
        module: nn.Module,
        n: int | None = 2,
        masks: dict[str, Any] | None = None,
        threads: int = 1,
        window: bool = False,
    ) -> Self:
        """Make a cell with the weights of ``torch.nn``'s: a ``…Cell``, or a sequence of one layer.

        Parameters
        ----------
        module : torch.nn.Module
            Of the same kind; dtype, nonlinearity and ``batch_first`` are taken over.
        n : int or None
            Steps of reach; None for exact RTRL.
        masks : dict of bool tensor or array, optional
            Which weights exist, under PyTorch's names. Default: those of a weight matrix that are
            not 0, and all biases.
        threads, window
            As in the constructor.

        Raises
        ------
        TypeError
            If `module` is of another kind, has more layers or directions, a projection, or
            another dtype.
        """
        require_options(module, cls._name)
        suffix = "" if hasattr(module, "weight_hh") else "_l0"
        dense = {}
        for name in NAMES:
            values = getattr(module, name + suffix, None)
            if isinstance(values, Tensor):
                require_cpu(name, values, None)
                dense[name] = values.detach().numpy()
        made = cls._bare(str(getattr(module, "nonlinearity", "tanh")))
        made.batch_first = bool(getattr(module, "batch_first", False))
        made._take(made._cell_of(dense, arrays(masks)), n, threads, window)
        return made

    @classmethod
    def from_cell(
        cls, cell: Cell, n: int | None = 2, threads: int = 1, window: bool = False
    ) -> Self:
        """Make a torch cell with the weights and masks of one of ours, as of ``learner.cell``.

        Raises
        ------
        TypeError
            If it is of another kind.
        """
        if type(cell) is not cls._cell_type:
            raise TypeError(f"cell must be a sparsegrad.{cls._name}, got {type(cell).__name__}")
        made = cls._bare("relu" if "relu" in cell.kind.update.__name__ else "tanh")
        made._take(made._cell_of(cell.to_dense(), cell.masks()), n, threads, window)
        return made

    def to_torch(self) -> nn.Module:
        """Return a ``torch.nn`` cell with these weights, and 0 where none exists."""
        names = self._link.names
        bias = {name in names for name in ("bias_ih", "bias_hh")}
        if len(bias) > 1:
            raise ValueError(f"torch.nn.{self._name}Cell must have both biases or none, got one")
        made = self._torch_cell(bias.pop(), next(self.parameters()).dtype)
        with torch.no_grad():
            for name, values in self.dense().items():
                getattr(made, name).copy_(values)
        return made

    @classmethod
    def _bare(cls, nonlinearity: str) -> Self:
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        return made

    def _torch_cell(self, bias: bool, dtype: torch.dtype) -> nn.Module:
        kind = getattr(nn, self._name + "Cell")
        return kind(self.input_size, self.hidden_size, bias=bias, dtype=dtype)


class SnApGRU(_Gated):
    """``torch.nn.GRUCell`` that learns online by SnAp-n; parameters as told by `_Gated`."""

    _cell_type, _name = GRU, "GRU"


class SnApLSTM(_Gated):
    """``torch.nn.LSTMCell`` that learns online by SnAp-n; its state is (h, c)."""

    _cell_type, _name = LSTM, "LSTM"


class SnApRNN(_Gated):
    """``torch.nn.RNNCell`` that learns online by SnAp-n, with its `nonlinearity`, tanh or relu."""

    _cell_type, _name = RNN, "RNN"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        n: int | None = 2,
        sparsity: float = 0.0,
        gate_masks: str = "independent",
        input_sparsity: float | None = None,
        masks: dict[str, Any] | None = None,
        seed: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        threads: int = 1,
        window: bool = False,
    ) -> None:
        self.__dict__["nonlinearity"] = nonlinearity  # before the parameters can be made
        super().__init__(
            input_size, hidden_size, bias, n=n, sparsity=sparsity, gate_masks=gate_masks,
            input_sparsity=input_sparsity, masks=masks, seed=seed, batch_first=batch_first,
            device=device, dtype=dtype, threads=threads, window=window,
        )  # fmt: skip
        self.nonlinearity = nonlinearity

    def _kind(self) -> Any:
        return partial(RNN, nonlinearity=self.nonlinearity)

    def _cell_of(self, dense: dict[str, NDArray[Any]], masks: dict[str, Any] | None) -> Cell:
        return RNN.from_dense(**dense, masks=masks, nonlinearity=self.nonlinearity)

    @classmethod
    def _bare(cls, nonlinearity: str) -> Self:
        made = super()._bare(nonlinearity)
        made.nonlinearity = nonlinearity
        return made

    def _torch_cell(self, bias: bool, dtype: torch.dtype) -> nn.Module:
        return nn.RNNCell(self.input_size, self.hidden_size, bias, self.nonlinearity, dtype=dtype)
