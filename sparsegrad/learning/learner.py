"""OnlineLearner: a cell, a readout, a method and an optimiser on a batch of streams."""

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.stack import Stack, one_cell
from sparsegrad.kernels.learning import steps as kernels
from sparsegrad.kernels.learning.readouts import to_probabilities
from sparsegrad.kernels.vectors.simd import SLACK
from sparsegrad.learning.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from sparsegrad.learning.chunk import Slices, check_chunk, raise_fault, unscored
from sparsegrad.learning.generation import generate
from sparsegrad.learning.losses import loss_text, loss_word
from sparsegrad.learning.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from sparsegrad.learning.readout import MLP, Linear, Parameters
from sparsegrad.learning.together import checked, require_alike
from sparsegrad.methods import BPTT, Engine, Layout, Method, Outcome
from sparsegrad.methods.bptt import HistoryEngine, RollingEngine
from sparsegrad.methods.snap import shared_engine
from sparsegrad.registry import METHODS, listed
from sparsegrad.symbolic.pattern import ReachPattern
from sparsegrad.system.checks import flag, integer, numbers, plain, threads_wanted
from sparsegrad.system.memory import aligned_zeros
from sparsegrad.system.ownership import SetOnce, refuse_second
from sparsegrad.system.ranks import Ranks
from sparsegrad.system.schema import require_arrays
from sparsegrad.system.threads import parallel_turn

_MOST_STEPS = 2**62  # of one update: they are counted in 64 bits


class OnlineLearner(SetOnce):
    """Learn from streams, one time step after the other.

    Parameters
    ----------
    cell : Cell or Stack
        The recurrent cell, or several on top of each other; weights are trained in place.
    readout : Linear or MLP
        Outputs and loss.
    method : Method
        How the gradient of the cell's weights is found: ``SnAp(2)``, ``BPTT()``, or another row of
        ``sparsegrad.registry.METHODS``.
    optimizer : SGD, Adam, AdamW or RMSprop
        How it is spent, on the weights that exist and on the readout.
    batch : int
        Streams that are learned from side by side. Each has its own influence; gradients are
        averaged over the batch as the loss is.
    update_every : int, optional
        Steps whose gradients are added up for one update. Default 1; with ``BPTT`` its window.
    threads : int, optional
        At most so many threads; default Numba's number. Results are bitwise the same for any.
    comm : mpi4py.MPI.Comm, optional
        Ranks that share the influence of SnAp(n), n > 1, or RTRL: each keeps the panels of a part
        of the weights. All of them make the same calls with the same data.

    Attributes
    ----------
    cell, readout, method, optimizer, batch, update_every
        As given; to change one, build another learner. `rewire` takes another cell.
    steps : int
        Time steps learned from so far.
    losses : float64 array, (steps done,)
        Losses of the last call of `run` or `step`, as far as it came before an error or Ctrl-C.

    Raises
    ------
    TypeError
        If one of the parts is of another kind.
    ValueError
        If `batch` or `update_every` is below 1, or the readout's arrays do not fit the cell.
    MemoryError
        If the influence would not fit in memory.

    Notes
    -----
    One thread at a time: a call that finds the learner busy in another raises RuntimeError and
    changes nothing. `xs` and float targets are read during the call, from the caller's own array
    where it is C-contiguous and writable. Ctrl-C and other signals are heard every 0.04 s, after a
    step that is done. `copy.deepcopy` and pickle make a learner that goes on bit for bit by itself.
    """

    def __init__(
        self,
        cell: Cell | Stack,
        readout: Linear | MLP,
        method: Method,
        optimizer: Optimizer,
        batch: int = 1,
        update_every: int | None = None,
        threads: int | None = None,
        comm: Any = None,
    ) -> None:
        _require(cell, "cell", (Cell, Stack), "a cell such as GRU(...) or Stack([...])")
        _require(readout, "readout", (Linear, MLP), "Linear(...) or MLP(...)")
        if isinstance(method, type) or not hasattr(method, "engine"):
            known = listed(f"{row.type_name}({row.number})" for row in METHODS.values())
            raise TypeError(f"method must be {known}, got {method!r}")
        optimizers = "SGD(...), Adam(...), AdamW(...) or RMSprop(...)"
        _require(optimizer, "optimizer", (SGD, Adam, AdamW, RMSprop), optimizers)
        self.cell, self.readout, self.method, self.optimizer = cell, readout, method, optimizer
        self.batch = integer("batch", batch, least=1, most=2**31 - 1)
        every = _update_every(method, update_every)
        self._threads = threads_wanted(threads)
        self._parameters = readout.parameters(cell.units, cell.dtype)
        self._memory = optimizer.memory(cell.weights.size + self._parameters.flat.size, cell.dtype)
        self._ranks = None if comm is None else Ranks(comm)
        if self._ranks is None:
            self._engine = method.engine(cell, self.batch, self._threads)
        else:
            settings = loss_text(readout.loss), method, optimizer, batch, every
            one = one_cell(cell, "comm")
            require_alike(self._ranks, one, self._parameters.flat, settings)
            self._engine = shared_engine(method, cell, self.batch, self._threads, self._ranks)
        self._width = _width(self._engine)
        self._streams = self._new_streams(self._engine.layout)
        self._loop = self._new_loop(every, self._engine.layout)
        self._turn = threading.Lock()
        calls = "run", "gradient", "evaluate", "predict", "follow"
        self._slices = {name: Slices() for name in calls}
        self._scratch: tuple[kernels.Streams, kernels.Steps] | None = None
        self._last = np.zeros(0), 0  # losses of the last call, and the steps done before it

    def step(
        self,
        x: NDArray[Any],
        target: NDArray[Any],
        weight: NDArray[Any] | None = None,
        reset: NDArray[np.bool_] | None = None,
    ) -> float:
        """Learn from one time step: forward, gradient, update.

        Parameters
        ----------
        x : float array, (batch, inputs)
            Of the cell's dtype. With a batch of one the batch axis may be left out, here and below.
        target : int array, (batch,), or float array, (batch, outputs)
            Classes for cross-entropy, values otherwise.
        weight : float array, (batch,), optional
            Weight of each stream's loss; 0 scores nothing. Default: 1.
        reset : bool array, (batch,), optional
            Streams that begin a new sequence at this step.

        Returns
        -------
        float
            The loss, averaged over the batch.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong shape or dtype, or a value that is not allowed.
        FloatingPointError
            If the state, the loss or the gradient stops being finite.
        """
        dtype = self.cell.dtype
        classes = self.readout.loss == "cross_entropy"
        losses = self.run(
            numbers("x", x, dtype)[None],
            (plain("target", target) if classes else numbers("target", target, dtype))[None],
            None if weight is None else plain("weight", weight)[None],
            None if reset is None else plain("reset", reset)[None],
        )
        return float(losses[0])

    @overload
    def run(
        self,
        xs: NDArray[Any],
        targets: NDArray[Any],
        weights: NDArray[Any] | None = None,
        resets: NDArray[np.bool_] | None = None,
        *,
        outputs: Literal[False] = False,
    ) -> NDArray[np.float64]: ...

    @overload
    def run(
        self,
        xs: NDArray[Any],
        targets: NDArray[Any],
        weights: NDArray[Any] | None = None,
        resets: NDArray[np.bool_] | None = None,
        *,
        outputs: Literal[True],
    ) -> tuple[NDArray[np.float64], NDArray[np.floating]]: ...

    def run(
        self,
        xs: NDArray[Any],
        targets: NDArray[Any],
        weights: NDArray[Any] | None = None,
        resets: NDArray[np.bool_] | None = None,
        *,
        outputs: bool = False,
    ) -> Any:
        """Learn from T time steps in one compiled call.

        Parameters
        ----------
        xs : float array, (T, batch, inputs)
            Of the cell's dtype, or numbers that it has too; lists are taken and rounded.
        targets : int array, (T, batch), or float array, (T, batch, outputs)
            Classes for cross-entropy, values otherwise.
        weights : float array, (T, batch), optional
            Weight of each loss; 0 scores nothing. Default: 1.
        resets : bool array, (T, batch), optional
            Where a new sequence begins: state and influence start from zero at that step.
        outputs : bool
            Whether to return what was predicted at each step, too, before it was learned from.

        Returns
        -------
        float64 array, (T,)
            The loss of each step, averaged over the batch.
        float array, (T, batch, outputs)
            With `outputs`, as a pair with the losses: those that were scored, as :meth:`predict`
            has them, without the batch axis where `xs` has none.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As for :meth:`step`. The message names step and batch element; the steps before it are
            done (:attr:`losses` has theirs), and state, weights, influence, optimiser and sums are
            as they were after them. Only where the influence overflows all of a sudden, 1e20-fold
            within 32 steps, it is lost: every call but :meth:`reset` is refused then.
        RuntimeError
            If the learner is busy in another thread.
        """
        flag("outputs", outputs)
        refuse_second(self._turn, "learner")
        with self._turn:
            given = self.cell, self.readout, self.batch, xs, targets, weights, resets
            chunk = checked(self._ranks, lambda: check_chunk(*given, outputs=outputs))
            self._refuse_lost()
            self._last = chunk.losses, self.steps
            raise_fault(self._slices["run"].run(self._run_slice, chunk))
            return (chunk.losses, self._predicted(chunk, xs)) if outputs else chunk.losses

    def _run_slice(self, chunk: kernels.Chunk) -> Outcome:
        return self._advance(self._engine, self._loop, self._streams, chunk)

    def _advance(
        self,
        engine: Engine,
        loop: kernels.Learner,
        streams: kernels.Streams,
        chunk: kernels.Chunk,
    ) -> Outcome:
        with parallel_turn(self._width):
            return engine.run(loop, chunk, streams)

    def predict(
        self, xs: NDArray[Any], resets: NDArray[np.bool_] | None = None
    ) -> NDArray[np.floating]:
        """Return the outputs of the next step, or of the next steps; change nothing.

        Parameters
        ----------
        xs : float array, (batch, inputs) or (T, batch, inputs)
            Of the cell's dtype, or numbers that it has too. With a batch of one the batch axis may
            be left out.
        resets : bool array, (T, batch), optional
            With T steps, where a new sequence begins.

        Returns
        -------
        float array, (batch, outputs) or (T, batch, outputs)
            In the cell's dtype, with the axes that came. Probabilities for the cross-entropies,
            values otherwise: to the bit what :meth:`run` would score next.

        Raises
        ------
        TypeError, ValueError, FloatingPointError, RuntimeError
            As for :meth:`run`.
        """
        xs = numbers("xs", xs, self.cell.dtype)
        one = xs.ndim == (1 if self.batch == 1 else 2)
        if one and resets is not None:
            raise ValueError("resets must be left out with one step, got some: call reset() before")
        refuse_second(self._turn, "learner")
        with self._turn:
            chunk = unscored(
                self.cell, self.readout, self.batch, xs[None] if one else xs, resets, True
            )
            self._refuse_lost()
            streams, steps = self._set_out()
            chunk.resets[:1] |= self._streams.pending
            self._forward("predict", chunk, streams, steps)
            return self._predicted(chunk).reshape(*xs.shape[:-1], self.readout.outputs)

    def follow(
        self, xs: NDArray[Any], resets: NDArray[np.bool_] | None = None
    ) -> NDArray[np.floating]:
        """Go on through T time steps without targets: state and influence do, nothing is learned.

        Weights, optimiser and the gradient summed so far stay as they are. With BPTT or a window,
        the one under way ends before the steps followed, and its gradient is spent with that of
        the next.

        Parameters
        ----------
        xs : float array, (T, batch, inputs)
            As for :meth:`run`.
        resets : bool array, (T, batch), optional
            Where a new sequence begins.

        Returns
        -------
        float array, (T, batch, outputs)
            What is predicted at each step, as :meth:`predict` has it; without the batch axis where
            `xs` has none.

        Raises
        ------
        TypeError, ValueError, FloatingPointError, RuntimeError
            As for :meth:`run`.
        """
        refuse_second(self._turn, "learner")
        with self._turn:
            given = self.cell, self.readout, self.batch, xs, resets, True
            chunk = checked(self._ranks, lambda: unscored(*given))
            self._refuse_lost()
            engine, streams = self._engine, self._streams
            loop, since = self._loop._replace(update_every=0), int(streams.since[0])
            self._last = np.zeros(0), self.steps

            forward = partial(self._advance, engine, loop, streams)
            with parallel_turn(self._width):
                engine.flush(loop)
            try:
                raise_fault(self._slices["follow"].run(forward, chunk))
            finally:
                with parallel_turn(self._width):
                    engine.flush(loop)
                streams.since[0] = 0 if _decides(self.method) else since
            return self._predicted(chunk, xs)

    def generate(
        self,
        prompt: NDArray[np.integer],
        steps: int,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> NDArray[np.int64]:
        """Continue a sequence of classes, each drawn from its probabilities; change nothing.

        The cell must take what the readout gives: a class as a one-hot input. The sequence goes on
        from the learner's own state; call :meth:`reset` before for one that begins.

        Parameters
        ----------
        prompt : int array, (T,) or (T, batch)
            Classes that come first, at least one. A prompt without batch axis goes to every stream.
        steps : int
            Classes to draw.
        temperature : float
            Divides the logarithms of the probabilities; 0 takes the likeliest class.
        seed : int
            Of the draws.

        Returns
        -------
        int64 array, (steps,) or (steps, batch)
            Without the batch axis where a batch of one got a prompt without it.

        Raises
        ------
        TypeError, ValueError
            If the readout has no classes, or as many as the cell has no inputs; or if an argument
            is out of range.
        FloatingPointError, RuntimeError
            As for :meth:`run`.
        """
        refuse_second(self._turn, "learner")
        with self._turn:
            self._refuse_lost()
            streams, inner = self._set_out()

            def ahead(xs: NDArray[Any]) -> NDArray[np.floating]:
                chunk = unscored(self.cell, self.readout, self.batch, xs, None, True)
                self._forward("predict", chunk, streams, inner)
                return self._predicted(chunk)[-1]

            return generate(
                self.cell, self.readout, self.batch, ahead, prompt, steps, temperature, seed
            )

    def gradient(
        self,
        xs: NDArray[Any],
        targets: NDArray[Any],
        weights: NDArray[Any] | None = None,
        resets: NDArray[np.bool_] | None = None,
    ) -> tuple[float, dict[str, NDArray[Any]]]:
        """Return loss and gradient of whole sequences, from their start; change nothing.

        Parameters
        ----------
        xs, targets, weights, resets
            As for :meth:`run`.

        Returns
        -------
        float
            The loss, summed over time and averaged over the batch.
        dict of float arrays
            Its gradient under PyTorch's names and shapes, ``weight_ih`` … ``readout.bias``; 0 where
            a weight does not exist.

        Raises
        ------
        TypeError, ValueError, FloatingPointError, RuntimeError
            As for :meth:`run`.
        """
        refuse_second(self._turn, "learner")
        with self._turn:
            given = self.cell, self.readout, self.batch, xs, targets, weights, resets
            chunk = checked(self._ranks, lambda: check_chunk(*given))
            learner, grads = self._new_loop(0, self._engine.layout), self._parameters.like()
            learner = learner._replace(
                readout_grad=grads.arrays,
                readout_grad_flat=grads.flat,
            )
            engine, streams = self._engine.fresh(), self._new_streams(self._engine.layout)
            backward = partial(self._advance, engine, learner, streams)
            raise_fault(self._slices["gradient"].run(backward, chunk))
            with parallel_turn(self._width):
                engine.flush(learner)
            if not (np.isfinite(learner.grad).all() and np.isfinite(grads.flat).all()):
                raise FloatingPointError(
                    "the gradient must be finite, it became NaN or infinite over these steps: use "
                    "a smaller n, smaller recurrent weights or shorter sequences"
                )
            return float(chunk.losses.sum()), self.cell.dense_of(learner.grad) | grads.to_dense()

    def evaluate(
        self,
        xs: NDArray[Any],
        targets: NDArray[Any],
        weights: NDArray[Any] | None = None,
        resets: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float64]:
        """Return the losses of whole sequences, from their start, without learning.

        Parameters
        ----------
        xs, targets, weights, resets
            As for :meth:`run`.

        Returns
        -------
        float64 array, (T,)
            The loss of each step, averaged over the batch.

        Raises
        ------
        TypeError, ValueError, FloatingPointError, RuntimeError
            As for :meth:`run`.
        """
        refuse_second(self._turn, "learner")
        with self._turn:
            chunk = check_chunk(self.cell, self.readout, self.batch, xs, targets, weights, resets)
            streams, steps = self._ahead()
            streams.state[:] = 0
            self._forward("evaluate", chunk, streams, steps)
            return chunk.losses

    def probe(
        self,
        xs: NDArray[Any],
        targets: NDArray[Any],
        weights: NDArray[Any] | None = None,
        resets: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what each step's loss says of each map, and what the maps read; change nothing.

        The products of the two, summed over steps and streams, are the gradient of every weight
        that could exist, its own step's part: ``Σ_t ∂L_t/∂a_i · source_j``.

        Parameters
        ----------
        xs, targets, weights, resets
            As for :meth:`run`, which would go on with these steps.

        Returns
        -------
        float64 array, (T * batch, units * maps)
            ∂L_t/∂a_t of each row of the cell's maps, row ``unit * maps + map``.
        float64 array, (T * batch, units + inputs + 1)
            The sources ``[h; x; 1]``.

        Raises
        ------
        TypeError, ValueError, FloatingPointError, RuntimeError
            As for :meth:`run`.
        """
        refuse_second(self._turn, "learner")
        with self._turn:
            chunk = check_chunk(self.cell, self.readout, self.batch, xs, targets, weights, resets)
            self._refuse_lost()
            start, _ = self._set_out()
            chunk.resets[:1] |= self._streams.pending
            engine = HistoryEngine(one_cell(self.cell, "probe"), self.batch, None, self._threads)
            loop, streams = self.beside(engine)
            ours, theirs = self._by_lane(start), self._by_lane(streams)
            for b in range(self.batch):
                theirs[divmod(b, streams.abreast)] = ours[divmod(b, start.abreast)]
            forward = partial(self._advance, engine, loop, streams)
            raise_fault(self._slices["gradient"].run(forward, chunk))
            return engine.signals(len(chunk.xs))

    def parameters(self) -> dict[str, NDArray[Any]]:
        """Return copies of all parameters under PyTorch's names, as :meth:`gradient` has them."""
        refuse_second(self._turn, "learner")
        return self.cell.to_dense() | self._parameters.to_dense()

    @property
    def steps(self) -> int:
        """Time steps learned from so far; the loop itself counts them."""
        return int(self._streams.steps[0])

    @property
    def losses(self) -> NDArray[np.float64]:
        """Losses of the steps that the last call has done, (steps,): a copy."""
        losses, before = self._last
        return losses[: self.steps - before].copy()

    @property
    def update_every(self) -> int:
        """Steps whose gradients are added up for one update."""
        return self._loop.update_every

    @property
    def state(self) -> NDArray[Any]:
        """Copy of the state of every stream, (batch, components, units).

        Of a stack it is (batch, 1, states): :meth:`sparsegrad.Stack.split` has it by layer.
        """
        refuse_second(self._turn, "learner")
        by_lane = self._by_lane(self._streams)
        return by_lane.reshape(-1, *by_lane.shape[2:])[: self.batch].copy()

    @property
    def pattern(self) -> ReachPattern | None:
        """Reach pattern of the influence, for the methods that keep one."""
        return getattr(self._engine, "pattern", None)

    def reset(self, element: int | None = None) -> None:
        """Begin a new sequence, for one batch element or for all: state and influence are zeroed.

        Parameters
        ----------
        element : int, optional
            Batch element. Default: all.

        Raises
        ------
        TypeError, IndexError
            If there is no such element.
        RuntimeError
            If the learner is busy in another thread.
        """
        if element is not None:
            element = integer("element", element)
            if not 0 <= element < self.batch:
                raise IndexError(f"element must lie in [0, {self.batch}), got {element}")
        refuse_second(self._turn, "learner")
        with self._turn:
            # the loop zeroes what the method carries, and starts from a state of 0
            self._streams.pending[slice(None) if element is None else element] = True
            if element is not None:
                self._by_lane(self._streams)[divmod(element, self._streams.abreast)] = 0
                return
            self._streams.state[:] = 0
            if self._streams.since[0] < 0:  # what was lost goes, and the period's gradient with it
                self._loop.grad[:] = 0
                self._loop.readout_grad_flat[:] = 0
                self._streams.since[0] = 0

    def update_after(self, steps: int) -> None:
        """Add up the gradients of so many steps for each update from now on.

        Parameters
        ----------
        steps : int
            At least 1; the steps since the last update count.

        Raises
        ------
        TypeError, ValueError
            If `steps` is no such number, or the method is BPTT, whose window decides.
        RuntimeError
            If the learner is busy in another thread.
        """
        steps = _update_every(self.method, integer("steps", steps, least=1, most=_MOST_STEPS))
        refuse_second(self._turn, "learner")
        with self._turn:
            self._loop = self._loop._replace(update_every=steps)

    def rewire(self, masks: dict[str, NDArray[Any]]) -> None:
        """Go on with other weights: what both masks have stays bit for bit, the rest sets out anew.

        Of weights that stay, value, moments of the optimiser, gradient summed so far and influence
        stay; new ones begin at 0 with all of that 0, and so do entries of J of units that a weight
        reaches only now. Streams, readout and counts stay. With BPTT or a window, the one under way
        ends here, and its gradient is spent with that of the next, as in :meth:`follow`.

        :attr:`cell` is another one afterwards; the one before keeps its masks and last weights. Old
        and new influence are both in memory until this returns.

        Parameters
        ----------
        masks : dict of bool arrays
            As for :meth:`sparsegrad.Cell.rewire`: an array that is not named keeps its weights, a
            unit may lose its last one.

        Raises
        ------
        TypeError, ValueError
            If a mask has another shape or is not boolean, names no array of the cell, or no weight
            would be left; the learner is as it was.
        MemoryError
            If the new influence does not fit beside the old one; the learner is as it was.
        RuntimeError
            If the learner is busy in another thread.
        """
        if self._ranks is not None:
            raise ValueError(
                "rewire must have all of J in one process, got a learner over ranks: save it, load "
                "it without comm, rewire and save that"
            )
        refuse_second(self._turn, "learner")
        with self._turn:
            self._refuse_lost()
            self._go_on_with(self.cell.rewire(masks))

    def _go_on_with(self, cell: Any) -> None:
        """Take a cell of the same units with other weights, and carry over what it has of ours."""
        before, old = self._engine, self._loop
        engine = self.method.engine(cell, self.batch, self._threads)
        memory = self.optimizer.memory(cell.weights.size + self._parameters.flat.size, cell.dtype)
        layout, origin = engine.layout, self.cell.origin_of(cell)
        with parallel_turn(self._width):
            before.flush(old)
        if _decides(self.method):
            self._streams.since[0] = 0
        engine.carry(before, origin)
        memory.updates[:] = self._memory.updates
        grad = np.zeros(cell.weights.size + SLACK, cell.dtype)
        _carry(old.grad, grad, origin)
        _carry(self._memory.first, memory.first, origin)
        _carry(self._memory.second, memory.second, origin)
        vars(self).update(
            cell=cell,
            _engine=engine,
            _memory=memory,
            _loop=old._replace(
                maps=cell.maps,
                layers=cell.table(),
                parts=layout.parts,
                threads=layout.threads if layout.threads > 1 else None,
                optimizer=memory,
                grad=grad,
            ),
            _width=_width(engine),
            _scratch=None,
        )

    def save(self, path: str | Path) -> None:
        """Write all that the learner carries into a file, whole or not at all.

        Parameters
        ----------
        path : str or Path
            A safetensors file.

        Raises
        ------
        FloatingPointError
            If a number is not finite.
        OSError
            If the file cannot be written; one that was there before is untouched.
        """
        refuse_second(self._turn, "learner")
        with self._turn:
            self._refuse_lost()
            self.write(path, self.checkpoint())

    def write(self, path: str | Path, checkpoint: Checkpoint) -> None:
        """Write a checkpoint of this learner; of several ranks the first one writes for all.

        Parameters
        ----------
        path : str or Path
        checkpoint : Checkpoint

        Raises
        ------
        FloatingPointError
            If a number of it is not finite; on every rank.
        OSError
            If it cannot be written; on every rank.
        """
        error = None
        try:
            if self._ranks is None or self._ranks.rank == 0:
                write_checkpoint(path, checkpoint)
        except (FloatingPointError, OSError, ModuleNotFoundError) as raised:
            error = raised
        if self._ranks is not None:
            error = self._ranks.first(error)
        if error is not None:
            raise error

    @classmethod
    def load(
        cls,
        path: str | Path,
        cell: Cell | Stack | None = None,
        threads: int | None = None,
        comm: Any = None,
    ) -> "OnlineLearner":
        """Read a learner that goes on bit for bit as the one that was saved would have.

        Parameters
        ----------
        path : str or Path
            Written by :meth:`save`.
        cell : Cell, optional
            Needed for a cell of your own: one of the same structure, whose weights are replaced.
        threads : int, optional
            At most so many threads; default Numba's number.
        comm : mpi4py.MPI.Comm, optional
            Ranks that go on together, each of which reads the file; as many as you like.

        Raises
        ------
        ValueError
            If the file is foreign, of another version, cut short or damaged, or needs a cell.
        OSError
            If it cannot be read.
        """
        before = None if cell is None else cell.weights.copy()
        try:
            return cls.from_checkpoint(read_checkpoint(path, cell), threads, comm)
        except BaseException:
            if cell is not None:
                cell.weights[:] = before
            raise

    def checkpoint(self, extra: dict[str, Any] | None = None) -> Checkpoint:
        """Return all that the learner carries; arrays are its own wherever they can be.

        Parameters
        ----------
        extra : dict, optional
            What else to keep, as JSON can hold it.
        """
        weights: dict[str, Any] = self._parameters.to_dense()
        return Checkpoint(
            self.cell,
            replace(self.readout, **{k.removeprefix("readout."): v for k, v in weights.items()}),
            self.method,
            self.optimizer,
            self.batch,
            self.update_every,
            self._carried() | {f"method.{k}": v for k, v in self._engine.state().items()},
            {
                "steps": self.steps,
                "updates": int(self._memory.updates[0]),
                "since": int(self._streams.since[0]),
            },
            extra or {},
        )

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, threads: int | None = None, comm: Any = None
    ) -> "OnlineLearner":
        """Return a learner on the cell of a checkpoint that goes on from there.

        Parameters
        ----------
        checkpoint : Checkpoint
        threads : int, optional
            At most so many threads; default Numba's number. It changes no bit.
        comm : mpi4py.MPI.Comm, optional
            Ranks that go on together; their number changes no bit.

        Raises
        ------
        ValueError
            If its parts do not go together: the message names the one that is wrong.
        MemoryError
            If the influence would not fit in memory.
        """
        method, arrays = checkpoint.method, checkpoint.arrays
        try:
            learner = cls(
                checkpoint.cell,
                checkpoint.readout,
                method,
                checkpoint.optimizer,
                batch=checkpoint.batch,
                update_every=None if _decides(method) else checkpoint.update_every,
                threads=threads,
                comm=comm,
            )
        except MemoryError as error:
            raise MemoryError(f"{checkpoint.source}: {error}") from None
        learner._streams.steps[0] = checkpoint.counts["steps"]
        learner._memory.updates[0] = checkpoint.counts["updates"]
        learner._streams.since[0] = checkpoint.counts["since"]
        carried, engine = learner._carried(), learner._engine
        require_arrays(
            checkpoint.source,
            arrays,
            carried | {f"method.{k}": v for k, v in engine.state().items()},
        )
        for name, array in carried.items():
            array[...] = arrays[name]
        try:
            engine.restore(
                {k.removeprefix("method."): v for k, v in arrays.items() if k.startswith("method.")}
            )
        except ValueError as error:
            raise ValueError(f"{checkpoint.source}: method.{error}") from None
        return learner

    def beside(self, engine: Engine) -> tuple[kernels.Learner, kernels.Streams]:
        """Return arrays for another engine to run on these weights without changing them."""
        return self._new_loop(0, engine.layout), self._new_streams(engine.layout)

    def _carried(self) -> dict[str, NDArray[Any]]:
        """Return what is carried besides weights and method, by name, not copied."""
        return {
            "state": self._streams.state,
            "pending_reset": self._streams.pending,
            "optimizer.first": self._memory.first,
            "optimizer.second": self._memory.second,
            "gradient.cell": self._loop.grad[: self.cell.weights.size],
            "gradient.readout": self._loop.readout_grad_flat,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        if self._ranks is not None:
            raise TypeError(
                "a learner must have all of J in one process to be copied or pickled, got one over "
                "ranks: save it"
            )
        refuse_second(self._turn, "learner")
        with self._turn:
            self._refuse_lost()
            kept = self.checkpoint()
            arrays = {name: array.copy() for name, array in kept.arrays.items()}
            return type(self).from_checkpoint, (kept._replace(arrays=arrays), self._threads)

    def _ahead(self) -> tuple[kernels.Streams, kernels.Steps]:
        """Return streams for a forward pass beside the learner's own; kept for the next one."""
        if self._scratch is None:
            layout = self._engine.layout
            self._scratch = self._new_streams(layout), layout.steps(self.cell, self.batch, 1)
        return self._scratch

    def _set_out(self) -> tuple[kernels.Streams, kernels.Steps]:
        """Return scratch streams in the state that the next step sets out from."""
        streams, steps = self._ahead()
        streams.state[:] = self._streams.state
        if isinstance(self._engine, RollingEngine):
            start, xs, resets = self._engine.replayed()
            if len(xs):
                streams.state[:] = start
                held = unscored(self.cell, self.readout, self.batch, xs, resets, False)
                self._forward("predict", held, streams, steps)
        return streams, steps

    def _forward(
        self, call: str, chunk: kernels.Chunk, streams: kernels.Streams, steps: kernels.Steps
    ) -> None:
        update = self.cell.running()[0]

        def forward(part: kernels.Chunk) -> Outcome:
            with parallel_turn(self._width):
                return Outcome(*kernels.run_forward(update, self._loop, part, streams, steps))

        raise_fault(self._slices[call].run(forward, chunk))

    def _predicted(
        self, chunk: kernels.Chunk, xs: NDArray[Any] | None = None
    ) -> NDArray[np.floating]:
        """Return the outputs of a chunk as the user sees them, without the axis that `xs` lacks."""
        loss = loss_word(self.readout.loss, self.cell.dtype)
        to_probabilities(loss, chunk.outputs.reshape(-1, self.readout.outputs))
        left_out = self.batch == 1 and xs is not None and np.ndim(xs) == 2
        return chunk.outputs[:, 0] if left_out else chunk.outputs

    def _refuse_lost(self) -> None:
        if self._streams.since[0] < 0:
            raise FloatingPointError(
                "the influence must be finite, it was lost in an overflow: call reset() first"
            )

    def _by_lane(self, streams: kernels.Streams) -> NDArray[Any]:
        """View the state of every stream, (groups, lanes, components, units)."""
        groups, components, columns = streams.state.shape
        shape = groups, components, columns // streams.abreast, streams.abreast
        return streams.state.reshape(shape).transpose(0, 3, 1, 2)

    def _new_streams(self, layout: Layout) -> kernels.Streams:
        cell, parameters, dtype = self.cell, self._parameters, self.cell.dtype
        groups, abreast = layout.groups, layout.abreast
        shapes, width = cell.shapes(abreast), parameters.features * abreast
        return kernels.Streams(
            abreast=abreast,
            state=aligned_zeros((groups, *shapes.state), dtype),
            old_state=aligned_zeros((groups, *shapes.state), dtype),
            new_state=aligned_zeros((groups, *shapes.state), dtype),
            pre=aligned_zeros((groups, *shapes.pre), dtype),
            features=aligned_zeros((groups, width), dtype),
            error=aligned_zeros((groups, parameters.outputs * abreast), dtype),
            feature_grad=aligned_zeros((width,), dtype),
            y=np.zeros(parameters.outputs, dtype),
            since=np.zeros(1, np.int64),
            steps=np.zeros(1, np.int64),
            pending=np.zeros(self.batch, bool),
        )

    def _new_loop(self, update_every: int, layout: Layout) -> kernels.Learner:
        """Return this learner as compiled loops take it, with gradients of its own."""
        grads: Parameters = self._parameters.like()
        return kernels.Learner(
            maps=self.cell.maps,
            layers=self.cell.table(),
            parts=layout.parts,
            threads=layout.threads if layout.threads > 1 else None,
            readout=self._parameters.arrays,
            loss=loss_word(self.readout.loss, self.cell.dtype),
            optimizer=self._memory,
            update_every=update_every,
            readout_flat=self._parameters.flat,
            grad=np.zeros(self.cell.weights.size + SLACK, self.cell.dtype),
            readout_grad=grads.arrays,
            readout_grad_flat=grads.flat,
            readout_kept=np.zeros_like(grads.flat),
        )


def _require(value: object, name: str, kinds: tuple[type, ...], wanted: str) -> None:
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {wanted}, got {value!r}")


def _update_every(method: Method, update_every: int | None) -> int:
    if _decides(method):
        if update_every is not None:
            raise ValueError(
                f"update_every must be left out with {method}: its window decides, and stays"
            )
        return getattr(method, "update_every", None) or getattr(method, "window", None) or 1
    return (
        1
        if update_every is None
        else integer("update_every", update_every, least=1, most=_MOST_STEPS)
    )


def _carry(before: NDArray[Any], after: NDArray[Any], origin: NDArray[np.int64]) -> None:
    """Fill in the weights that were there before, and what follows the weights in both arrays."""
    if after.size:
        kept, rest = origin >= 0, after.size - origin.size
        after[: origin.size][kept] = before[origin[kept]]
        after[origin.size :] = before[before.size - rest :]


def _width(engine: Engine) -> int:
    """Return the threads that a step may take."""
    influence = getattr(engine, "influence", None)
    return max(engine.layout.threads, influence.threads if influence else 1)


def _decides(method: Method) -> bool:
    """Whether a method says itself when to update: at the end of its windows."""
    return isinstance(method, BPTT) or getattr(method, "window", None) is not None
