"""SnAp-n, and exact real-time recurrent learning as its saturated case."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.jacobians import dynamics_alone, immediate_pattern, own_pattern
from sparsegrad.cells.stack import Stack, one_cell
from sparsegrad.cells.stack_jacobians import patterns_of
from sparsegrad.influence.block import block_values, plan_block
from sparsegrad.influence.influence import Influence
from sparsegrad.influence.lowering import lower
from sparsegrad.influence.program import scratch_runs
from sparsegrad.influence.storage import check_storage, words_type
from sparsegrad.kernels.compiler.pointers import pointer_to
from sparsegrad.kernels.influence.advance import WindowData, advance
from sparsegrad.kernels.learning.steps import Chunk, Learner, Streams
from sparsegrad.kernels.methods.snap import Jacobians, run_snap
from sparsegrad.kernels.methods.window import WindowPanels, close_panels
from sparsegrad.methods.engine import Engine, Layout, Outcome
from sparsegrad.methods.sharing import Share
from sparsegrad.methods.trace_layers import LayerTraceEngine
from sparsegrad.methods.traces import TraceEngine, own_weights
from sparsegrad.methods.window import Carried, check_window, goes_back, windowed
from sparsegrad.symbolic.pattern import ReachPattern, reach
from sparsegrad.system.checks import integer
from sparsegrad.system.memory import aligned_zeros
from sparsegrad.system.quantities import parse_bytes, size
from sparsegrad.system.ranks import Ranks
from sparsegrad.system.threads import start_threads

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class SnAp:
    """Sparse n-step approximation of RTRL (Menick et al. 2021, arXiv 2006.07232).

    Parameters
    ----------
    n : int
        Steps of reach, at least 1: a weight's influence is kept on the units that it reaches
        within n steps.
    window : int, optional
        Steps of a window: exact inside by BPTT, with one update at its end; what came before it
        enters through the influence. Default: none, an update at every step.
    memory : int or str, optional
        Bytes, or words such as ``"2GiB"``, that J of the whole batch may take, padding and all.
        Of units within n steps the nearest are kept then, as by the budget of
        :func:`sparsegrad.reach`; a learner refuses less than SnAp-1 needs. Default: no limit.
    storage : "bfloat16" or "float16", optional
        Keep J in 16 bits, half the memory: see :class:`sparsegrad.Influence`. Not with a window.
        Default: J in the cell's dtype.

    Raises
    ------
    TypeError
        If `n` or `window` is not an integer.
    ValueError
        If `n` or `window` is below 1, `memory` no number of bytes, or `storage` none there is.
    """

    n: int
    window: int | None = None
    memory: int | str | None = None
    storage: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "n", integer("n", self.n, least=1, hint="; RTRL() takes all steps")
        )
        check_window(self)
        if self.memory is not None:
            text = isinstance(self.memory, str)
            number = int(parse_bytes("memory", str(self.memory))) if text else self.memory
            object.__setattr__(self, "memory", integer("memory", number, least=1))
        _check_storage(self)

    def engine(self, cell: Cell | Stack, batch: int, threads: int | None) -> Engine:
        """Prepare the method for a cell, a batch and at most so many threads."""
        if isinstance(self.memory, int):
            cell = one_cell(cell, "a budget of memory")
            each = batch * words_type(self.storage, cell.dtype).itemsize
            pattern = _pattern_within(cell, self.n, each, self.memory)
            store = InfluenceEngine(cell, pattern, batch, threads, storage=self.storage)
            return windowed(store, self.window)
        if isinstance(cell, Stack):
            _require_credit(self, cell)
            if self.n == 1 and not (cell.across or self.storage or goes_back(self.window)):
                return LayerTraceEngine(cell, batch, threads)
        elif self.n == 1 and self.storage is None:
            own = own_weights(cell)
            traces = TraceEngine(cell, batch, own, threads, keeps_h=goes_back(self.window))
            return windowed(traces, self.window)
        store = influence_engine(cell, self.n, batch, threads, self.storage)
        return windowed(store, self.window)


@dataclass(frozen=True)
class RTRL:
    """Exact real-time recurrent learning: SnAp-n on the saturated pattern.

    Parameters
    ----------
    window : int, optional
        Steps of a window: exact inside by BPTT, with one update at its end; what came before it
        enters through the influence. Default: none, an update at every step.
    storage : "bfloat16" or "float16", optional
        As of :class:`SnAp`.

    Raises
    ------
    TypeError
        If `window` is not an integer.
    ValueError
        If `window` is below 1, or `storage` none there is.
    """

    window: int | None = None
    storage: str | None = None

    def __post_init__(self) -> None:
        check_window(self)
        _check_storage(self)

    def engine(self, cell: Cell | Stack, batch: int, threads: int | None) -> Engine:
        """Prepare the method for a cell, a batch and at most so many threads."""
        return windowed(influence_engine(cell, None, batch, threads, self.storage), self.window)


class InfluenceEngine:
    """The influence matrix on its reach pattern.

    Parameters
    ----------
    cell : Cell
        The cell.
    pattern : ReachPattern
        Its reach.
    batch : int
        Streams.
    threads : int, optional
        At most so many threads; default Numba's number.
    share : Share, optional
        Of which `pattern` is the part of this rank. Default: all of J is here.
    storage : str, optional
        Of J, as of :class:`SnAp`.
    """

    def __init__(
        self,
        cell: Cell | Stack,
        pattern: ReachPattern,
        batch: int,
        threads: int | None,
        share: Share | None = None,
        storage: str | None = None,
    ) -> None:
        self.cell, self.batch = cell, batch
        self.pattern, self.share = pattern, share
        self.layout = Layout(cell, batch, False, True, threads)
        self.steps = self.layout.steps(cell, batch, 1)
        # The compiled loop holds the parallel kernel. Numba starts its threads when it compiles or
        # loads that kernel itself, not when it loads a loop around it: without this a loop out of
        # the cache crashes, on one thread too.
        start_threads()
        self.influence = Influence(pattern, batch, cell.dtype, threads, storage)
        self._threads = threads
        values = pattern.immediate_indices.size if share is None else share.values
        self._jacobians = Jacobians(
            dynamics=patterns_of(cell).values,
            dynamics_data=np.zeros((batch, pattern.dynamics_indices.size), cell.dtype),
            immediate_data=np.zeros((batch, values), cell.dtype),
        )
        self._shared = self.influence.kernels()[1]
        self._store = self.influence.store() if share is None else share.store(self.influence)

    def run(self, learner: Learner, chunk: Chunk, streams: Streams) -> Outcome:
        """Run a chunk through the compiled loop."""
        update, partials = self.cell.running()
        return Outcome(
            *run_snap(
                update,
                learner,
                partials,
                self._jacobians,
                chunk,
                streams,
                self.steps,
                self._shared,
                self._store,
            )
        )

    def window_values(self, window: int) -> int:
        """Return how many numbers a window needs: D and I of each step, and scratch."""
        pattern, program, threads = self.pattern, self._store.program, self.influence.threads
        each = self.batch * (pattern.dynamics_indices.size + pattern.immediate_indices.size)
        block = block_values(pattern, program, window, threads)
        return window * each + block + threads * 2 * program.scratch_size

    def carried(self, window: int) -> Carried:
        """Allocate what takes the influence through `window` steps at once."""
        pattern, dtype, store = self.pattern, self.cell.dtype, self._store
        sizes = pattern.dynamics_indices.size, pattern.immediate_indices.size
        block = plan_block(pattern, store.program, window, self.influence.threads, dtype)
        data = WindowData(
            dynamics_data=np.zeros((self.batch, window, sizes[0]), dtype),
            immediate_data=np.zeros((self.batch, window, sizes[1]), dtype),
            begins=np.zeros(self.batch, np.int64),
            runs=scratch_runs(store.program),
            scratch=aligned_zeros((self.influence.threads, 2, store.program.scratch_size), dtype),
        )
        taken = self._shared, block, store, data
        step = pointer_to(advance, np.int64(0), *taken)
        panels = WindowPanels(step, self._jacobians.dynamics, *taken)
        return Carried(close_panels, panels, store.panels, self.cell.running()[1])

    def flush(self, learner: Learner) -> None:
        """Nothing is held back."""

    def fresh(self) -> "InfluenceEngine":
        """Return an engine for the same cell at the start of its sequences."""
        return InfluenceEngine(
            self.cell, self.pattern, self.batch, self._threads, self.share, self.influence.storage
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """Return J of each stream, weight by weight on the pattern, and what rounds it."""
        influence, share = self.influence, self.share
        parts = (influence.to_scipy(b).data for b in range(influence.batch))
        entries = parts if share is None else map(share.whole, parts)
        state = {f"influence.{b}": one for b, one in enumerate(entries)}
        return state if influence.storage is None else state | {"rounded": self._store.steps}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what :meth:`state` returned."""
        from scipy.sparse import csc_array  # 0.1 s to import, which a learner need not wait for

        pattern = self.pattern
        for b in range(self.influence.batch):
            entries = state[f"influence.{b}"]
            own = entries if self.share is None else self.share.own(entries)
            kept = (own, pattern.indices, pattern.indptr)
            self.influence.from_scipy(csc_array(kept, pattern.shape[::-1]), b)
        if self.influence.storage is not None:
            self._store.steps[:] = state["rounded"]

    def carry(self, before: "InfluenceEngine", origin: NDArray[np.int64]) -> None:
        """Take over the entries of J that the pattern keeps as it did before."""
        self.influence.carry(before.influence, origin)

    def dynamics(self, b: int = 0) -> "csr_array":
        """Return D of the last step of stream `b`, (states, states)."""
        from scipy.sparse import csr_array

        pattern = self.pattern
        states = pattern.shape[1]
        values = self._jacobians.dynamics_data[b]
        kept = (values, pattern.dynamics_indices, pattern.dynamics_indptr)
        return csr_array(kept, (states, states))


def shareable(method: Any) -> bool:
    """Whether ranks can share a method's influence: one on a pattern, step by step."""
    if not isinstance(method, SnAp | RTRL) or getattr(method, "n", 2) == 1:
        return False
    return not (method.window or method.storage or getattr(method, "memory", None))


def shared_engine(
    method: Any, cell: Cell | Stack, batch: int, threads: int | None, ranks: Ranks
) -> InfluenceEngine:
    """Prepare a method of which each rank keeps a part of the influence.

    Raises
    ------
    ValueError
        If the method keeps no influence on a pattern, or has a window, a budget or a storage.
    """
    if not shareable(method):
        raise ValueError(
            f"method must be SnAp(n) from n = 2 on or RTRL(), without window, memory and storage, "
            f"to be shared by ranks, got {method!r}: leave comm out, one process does the others"
        )
    cell = one_cell(cell, "an influence over ranks")
    share = Share(cell, getattr(method, "n", None), ranks)
    return InfluenceEngine(cell, share.pattern, batch, threads, share)


def influence_engine(
    cell: Cell | Stack,
    n: int | None,
    batch: int,
    threads: int | None,
    storage: str | None = None,
) -> InfluenceEngine:
    """Find the reach of a cell's weights in `n` steps, None for all, and prepare for it."""
    words_type(storage, cell.dtype)  # looked at before minutes go into a reach
    found = patterns_of(cell)
    pattern = reach(found.dynamics, found.immediate, n, own=found.own, levels=found.levels)
    return InfluenceEngine(cell, pattern, batch, threads, storage=storage)


def _check_storage(method: SnAp | RTRL) -> None:
    """Put the name of a method's storage in its place; refuse one with a window.

    Raises
    ------
    TypeError, ValueError
        If there is no such storage, or it has a window.
    """
    object.__setattr__(method, "storage", check_storage(method.storage))
    if method.storage is not None and method.window is not None:
        raise ValueError(
            f"storage must be None with a window, whose steps carry J in its dtype, got "
            f"{method.storage} and {method.window}; leave one of them out"
        )


def _require_credit(method: SnAp, stack: Stack) -> None:
    """Refuse steps of reach that end below the highest layer: weights would never learn.

    Raises
    ------
    ValueError
        If the lowest layer's influence does not reach the readout.
    """
    if stack.across and method.n < len(stack.layers) and not goes_back(method.window):
        raise ValueError(
            f"n must be at least {len(stack.layers)}, the layers that the lowest one's influence "
            f"has to cross, got {method.n}; or build the stack with across=False"
        )


def _pattern_within(cell: Cell, n: int, each: int, memory: int) -> ReachPattern:
    """Find the largest part of a reach whose J fits in so many bytes, by its rule of a budget.

    An entry takes `each` bytes, those of the whole batch.

    Raises
    ------
    ValueError
        If SnAp-1 needs more.
    """
    jacobians = dynamics_alone(cell), immediate_pattern(cell)
    own = own_pattern(cell)
    least = reach(*jacobians, 1, own=own)
    if lower(least).size * each > memory:
        raise ValueError(
            f"memory must be at least {size(lower(least).size * each)}, which SnAp-1 needs, got "
            f"{size(memory)}"
        )
    budget = max(memory // each, least.nnz)
    while budget > least.nnz:
        pattern = reach(*jacobians, n, own=own, budget=budget)
        padded = lower(pattern).size * each
        if padded <= memory:
            return pattern
        budget = min(budget - 1, int(0.999 * pattern.nnz * memory / padded))  # padding counts too
    return least
