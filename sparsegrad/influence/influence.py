"""The numeric phase: the values of J on a pattern, updated and contracted step by step."""

import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy.typing import DTypeLike, NDArray

import sparsegrad.system.compiling  # noqa: F401  says so when kernels are compiled
from sparsegrad.influence.lowering import lower
from sparsegrad.influence.program import Program, cut_work
from sparsegrad.influence.storage import as_numbers, as_view, as_words, check_storage, words_type
from sparsegrad.kernels.compiler.pointers import pointer_to
from sparsegrad.kernels.influence.carry import WHERE_FIELDS, carry_entries, locate_columns
from sparsegrad.kernels.influence.convert import csr_to_panels, panels_to_csr
from sparsegrad.kernels.influence.exchange import Exchange
from sparsegrad.kernels.influence.panels import CONTRACT, UPDATE, panels_range, panels_threads
from sparsegrad.kernels.influence.rounded import Rounded
from sparsegrad.kernels.influence.store import Store
from sparsegrad.kernels.influence.tables import WIDTH
from sparsegrad.kernels.vectors.finite import all_finite
from sparsegrad.symbolic.pattern import ReachPattern
from sparsegrad.symbolic.rows import values_on
from sparsegrad.system.checks import behaved, integer, plain, threads_wanted
from sparsegrad.system.memory import aligned_zeros, require_memory
from sparsegrad.system.ownership import SetOnce, refuse_second
from sparsegrad.system.threads import parallel_turn, start_threads

if TYPE_CHECKING:
    from scipy.sparse import csc_array

_NOBODY = np.empty(0, np.int64), np.empty(0, np.int32)
ALONE = Exchange(_NOBODY[0], _NOBODY[1], _NOBODY[1], _NOBODY[0])
"""Of an influence that no other rank has a part of."""


def _work(dtype: np.dtype[Any], influence: Any) -> tuple[Any, ...]:
    """Return Numba's types of a mode, a program, the data, J and the gradient."""
    places, numbers = numba.int64[:, ::1], numba.from_dtype(dtype)[:, ::1]
    program = (*[places] * 4, numba.int32[:, ::1], numba.int32[::1], places)
    return (numba.int64, *program, *[numbers] * 3, influence, numba.from_dtype(dtype)[::1])


@cache
def _alone(dtype: np.dtype[Any], influence: Any) -> Any:
    numbers = numba.from_dtype(dtype)[::1]
    return pointer_to(panels_range, numba.int64, numba.int64, *_work(dtype, influence), numbers)


@cache
def _shared(dtype: np.dtype[Any], influence: Any) -> Any:
    scratch = numba.from_dtype(dtype)[:, ::1]
    alone, work = _alone(dtype, influence), _work(dtype, influence)
    return pointer_to(panels_threads, alone, numba.int64[::1], *work, scratch)


class Influence(SetOnce):
    """The influence matrix J = ds/dθ of a batch of sequences, on a fixed pattern.

    Parameters
    ----------
    pattern : ReachPattern
        Which entries of J are kept.
    batch : int
        Number of sequences; each has its own J.
    dtype : float32 or float64
        Of J and of all data passed in.
    threads : int, optional
        At most so many threads; by default Numba's number. Work that is too small to share runs
        on one. Results are bitwise the same for every number.
    storage : "bfloat16" or "float16", optional
        Keep J in 16 bits: half the memory. What is computed is float32, and so are all data passed
        in and out; each new J is rounded stochastically, by random bits that hang on the step, the
        sequence and the place alone. float16 ends at 65504. Default: J in its dtype.

    Attributes
    ----------
    program : Program
        The flat arrays that the kernels take, ``panels_update(*program, …)``: a copy, so take it
        once.
    panels : float array, (batch, size)
        The values, panel after panel. All zero at first. A view: who writes to it writes J. Of
        storage bfloat16 the dtype is that of ``ml_dtypes``, which must be installed.
    steps : int
        Updates so far; with a storage, what the random bits of the next one hang on.
    cuts : int64 array, (threads + 1,)
        The panels of each thread: panels ``cuts[i]`` to ``cuts[i + 1]`` are those of thread i. A
        copy.
    scratch : float array, (threads, program.scratch_size)
        What the kernels work in; no more than one of them at a time may use it. A view.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range.
    MemoryError
        If J does not fit in the available memory; nothing is allocated then.

    Notes
    -----
    SnAp-n keeps J_t = P_n ∘ (I_t + D_t J_{t-1}) (Menick et al. 2021, arXiv 2006.07232, section
    3); once the pattern is saturated this is exact RTRL.

    One thread at a time: a call that finds J busy in another raises RuntimeError and changes
    nothing. `copy.deepcopy` and pickle make a J of its own on the same pattern.
    """

    def __init__(
        self,
        pattern: ReachPattern,
        batch: int = 1,
        dtype: DTypeLike = "float32",
        threads: int | None = None,
        storage: Any = None,
    ) -> None:
        if not isinstance(pattern, ReachPattern):
            raise TypeError(
                f"pattern must be a ReachPattern, got {type(pattern).__name__}; call reach() first"
            )
        pattern.cost(batch, dtype)  # looks at both
        self._threads = threads_wanted(threads)
        self.pattern = pattern
        self.batch = integer("batch", batch)
        self.dtype = np.dtype(dtype)
        self.storage = check_storage(storage)
        held = words_type(self.storage, self.dtype)
        each = self.batch * held.itemsize
        require_memory(
            pattern.nnz * each, "J", tuple(entries * each for entries in pattern.entries_by_n)
        )
        self._program: Program = lower(pattern)
        size = self._program.size
        require_memory(size * each, "J with its padding")
        self._panels = aligned_zeros((self.batch, size), held)
        self._steps = np.zeros(1, np.int64)
        self._influence: Any = self._panels  # as the kernels take it
        if self.storage is not None:
            keys = np.random.SeedSequence(0).generate_state(self.batch, np.uint64).view(np.int64)
            self._influence = Rounded(self._panels, keys, self._steps)
        self._kind = numba.typeof(self._influence)
        most = start_threads() if self._threads is None else self._threads
        self._cuts = cut_work(self._program, self.batch, most)
        if self.threads > 1:
            start_threads()
        self._scratch = aligned_zeros((self.threads, self._program.scratch_size), self.dtype)
        self._turn = threading.Lock()
        self._no_data, self._no_grad = (
            np.empty((self.batch, 0), self.dtype),
            np.empty(0, self.dtype),
        )

    @property
    def threads(self) -> int:
        """Threads that a step uses: fewer than asked for where the work is too small to share."""
        return self._cuts.size - 1

    @property
    def program(self) -> Program:
        """The flat arrays that the kernels take: copies."""
        arrays: Any = (array.copy() for array in self._program)
        return Program(*arrays)

    @property
    def panels(self) -> NDArray[Any]:
        """J's values, (batch, size): a view."""
        return as_view(self._panels, self.storage)

    @property
    def steps(self) -> int:
        """Updates so far."""
        return int(self._steps[0])

    @property
    def cuts(self) -> NDArray[np.int64]:
        """The panels of each thread, (threads + 1,): a copy."""
        return self._cuts.copy()

    @property
    def scratch(self) -> NDArray[Any]:
        """What the kernels work in, (threads, scratch size): a view."""
        return self._scratch[:]

    @property
    def nbytes(self) -> int:
        """Bytes of J's values, with padding."""
        return self._panels.nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        refuse_second(self._turn, "influence")
        with self._turn:
            given = self.pattern, self.batch, self.dtype, self._threads, self.storage
            return _with_panels, (*given, self._panels.copy(), self.steps)

    def __repr__(self) -> str:
        stored = "" if self.storage is None else f", storage={self.storage!r}"
        return f"Influence({self.pattern!r}, batch={self.batch}, dtype={self.dtype}{stored})"

    def update(self, dynamics_data: NDArray[Any], immediate_data: NDArray[Any]) -> None:
        """Advance J by one step: J ← P ∘ (I + D J).

        Parameters
        ----------
        dynamics_data : float array, (nnz of D,) or (batch, nnz of D), or scipy.sparse matrix
            Values of D_t in CSR order. One row serves the whole batch. A matrix, (units, units),
            may have its entries in any order.
        immediate_data : float array, (nnz of I,) or (batch, nnz of I), or scipy.sparse matrix
            Values of I_t in CSC order, weight by weight; a matrix is (units, weights).

        Raises
        ------
        TypeError, ValueError
            If a dtype or shape is wrong, a value is not finite, or a matrix has an entry outside
            the pattern that `reach` got; J is as it was.
        RuntimeError
            If J is busy in another thread.
        """
        self._step(UPDATE, dynamics_data, immediate_data, None)

    def contract(self, state_grad: NDArray[Any]) -> NDArray[Any]:
        """Return the gradient of the step's loss, Σ_b J_bᵀ δ_b.

        Parameters
        ----------
        state_grad : float array, (units,) or (batch, units)
            δ_t = ∂L_t/∂s_t, the direct one.

        Returns
        -------
        float array, (weights,)
            Summed over the batch.

        Raises
        ------
        TypeError, ValueError
            If the dtype or shape is wrong or a value is not finite.
        FloatingPointError
            If the gradient is not finite: J has overflowed, and must be reset.
        RuntimeError
            If J is busy in another thread.
        """
        return self._step(CONTRACT, None, None, state_grad)

    def update_and_contract(
        self,
        dynamics_data: NDArray[Any],
        immediate_data: NDArray[Any],
        state_grad: NDArray[Any],
    ) -> NDArray[Any]:
        """Advance J and return the gradient, in one pass over J.

        δ_t depends on the state alone, so it is known before J_t. Arguments, result and errors
        are those of `update` and `contract`, and so are the bits.
        """
        return self._step(UPDATE | CONTRACT, dynamics_data, immediate_data, state_grad)

    def reset(self, b: int | None = None) -> None:
        """Set J to zero, as at the start of a sequence: of batch element `b`, or of all.

        Raises
        ------
        TypeError, IndexError
            If there is no batch element `b`.
        RuntimeError
            If J is busy in another thread.
        """
        which = slice(None) if b is None else self._element(b)
        refuse_second(self._turn, "influence")
        with self._turn:
            self._panels[which] = 0

    def to_scipy(self, b: int = 0) -> "csc_array":
        """Return J of batch element `b` as a csc_array, (units, weights): a copy.

        All kept entries are stored, zeros included: the structure is the pattern.

        Raises
        ------
        TypeError, IndexError
            If there is no batch element `b`.
        RuntimeError
            If J is busy in another thread.
        MemoryError
            If the copy does not fit.
        """
        from scipy.sparse import csc_array  # 0.1 s to import, a fifth of `import sparsegrad`

        b, pattern = self._element(b), self.pattern
        kept = pattern.csr(self.dtype.itemsize)
        data = np.empty(pattern.nnz, self._panels.dtype)
        refuse_second(self._turn, "influence")
        with self._turn:
            panels_to_csr(*self._layout, self._panels[b], data)
        return csc_array((as_numbers(data), *kept), shape=pattern.shape[::-1])

    def from_scipy(self, matrix: Any, b: int = 0) -> None:
        """Set J of batch element `b` from a sparse matrix, (units, weights), of any format.

        Kept entries that the matrix does not store become 0. With a storage, each number becomes
        the nearest that it has.

        Raises
        ------
        IndexError
            If there is no batch element `b`.
        TypeError, ValueError
            If the dtype or shape is wrong, a value is not finite or beyond what the storage holds,
            or an entry lies outside the pattern; J is as it was.
        """
        from scipy.sparse import issparse

        b, pattern = self._element(b), self.pattern
        if not issparse(matrix):
            raise TypeError(f"matrix must be a scipy.sparse one, got {type(matrix).__name__}")
        if matrix.dtype != self.dtype:
            raise TypeError(
                f"matrix must be {self.dtype}, got {matrix.dtype}; convert it with .astype"
            )
        if matrix.shape != pattern.shape[::-1]:
            raise ValueError(
                f"matrix must be units × weights, {pattern.shape[::-1]}, got {matrix.shape}"
            )
        data = values_on("matrix", matrix, matrix.shape, True, pattern.indptr, pattern.indices)
        if not np.isfinite(data).all():
            raise ValueError("matrix must be finite, got NaN or infinity")
        data = as_words(data, self._panels.dtype)
        refuse_second(self._turn, "influence")
        with self._turn:
            csr_to_panels(*self._layout, data, self._panels[b])

    def carry(self, before: "Influence", origin: NDArray[np.int64]) -> None:
        """Take over the entries of another J that this pattern keeps too; all others become 0.

        Parameters
        ----------
        before : Influence
            Of the same units, batch, dtype and storage.
        origin : int64 array, (weights,)
            Which weight each of this one's was there, or -1.
        """
        new, old = self._program, before._program
        where = np.empty((before.pattern.shape[0], WHERE_FIELDS), np.int64)
        strides = np.empty(len(old.members), np.int64)
        locate_columns(old.panels, old.members, old.columns, where, strides)
        tops = np.empty(new.members[:, WIDTH].max(initial=0), np.int64)
        self._steps[:] = before._steps
        for b in range(self.batch):
            carry_entries(
                origin, old.members, old.reached, where, strides, before._panels[b],
                new.panels, new.members, new.reached, new.columns, self._panels[b], tops,
            )  # fmt: skip

    @property
    def _layout(self) -> tuple[Any, Any, Any, Any, Any]:
        program = self._program
        return (
            program.panels, program.members, program.reached, program.columns, self.pattern.indptr,
        )  # fmt: skip

    def store(self) -> Store:
        """Return the influence as compiled loops take it, beside `kernels()[1]`.

        It shares J, so that what a loop does is done to this influence; no more than one loop at a
        time may work on it.
        """
        return Store(
            alone=_alone(self.dtype, self._kind),
            program=self._program,
            cuts=self._cuts,
            panels=self._panels,
            influence=self._influence,
            steps=self._steps,
            step_grad=np.zeros(self.pattern.shape[0], self.dtype),
            scratch=self._scratch,
            exchange=ALONE,
        )

    def kernels(self) -> tuple[Any, Any]:
        """Return `panels_range` and `panels_threads` as pointers for compiled loops.

        None in place of the latter where a step uses one thread: it takes seconds to compile.
        """
        given = self.dtype, self._kind
        return _alone(*given), _shared(*given) if self.threads > 1 else None

    def _step(
        self,
        mode: int,
        dynamics_data: NDArray[Any] | None,
        immediate_data: NDArray[Any] | None,
        state_grad: NDArray[Any] | None,
    ) -> NDArray[Any]:
        pattern = self.pattern
        if hasattr(dynamics_data, "tocsr"):
            dynamics_data = pattern.dynamics_data_of(dynamics_data)
        if hasattr(immediate_data, "tocsr"):
            immediate_data = pattern.immediate_data_of(immediate_data)
        D = immediate = delta = self._no_data
        grad = self._no_grad
        if mode & UPDATE:
            D = self._gate("dynamics_data", dynamics_data, pattern.dynamics_indices.size)
            immediate = self._gate("immediate_data", immediate_data, pattern.immediate_indices.size)
        if mode & CONTRACT:
            delta = self._gate("state_grad", state_grad, pattern.shape[1])
            grad = np.empty(pattern.shape[0], self.dtype)
        refuse_second(self._turn, "influence")
        with self._turn:
            work = (*self._program, D, immediate, delta, self._influence, grad)
            if self.threads == 1:
                panels_range(0, len(self._program.panels) - 1, mode, *work, self._scratch[0])
            else:
                with parallel_turn(self.threads):
                    alone = _alone(self.dtype, self._kind)
                    panels_threads(alone, self._cuts, mode, *work, self._scratch)
            self._steps[0] += mode & UPDATE
        if mode & CONTRACT and not all_finite(grad):
            self._blame()
        return grad

    def _blame(self) -> None:
        """Raise the error of a gradient that is not finite."""
        panels = as_numbers(self._panels)
        bad = [b for b in range(self.batch) if not all_finite(panels[b])]
        if bad:
            raise FloatingPointError(
                f"the influence must stay finite, that of batch element {bad[0]} overflowed: call "
                f"reset({bad[0]}), then use a smaller n or smaller recurrent weights"
            )
        raise FloatingPointError(
            "the gradient must be finite, it became NaN or infinite: J and state_grad are finite, "
            f"the largest {abs(panels).max():.3g} in J, their product is not; call reset() "
            "if J is about to overflow, or use a smaller state_grad"
        )

    def _gate(self, name: str, data: Any, length: int) -> NDArray[Any]:
        """Check data at the boundary and return it as a C-contiguous (batch, length) array."""
        if not isinstance(data, np.ndarray) or data.dtype != self.dtype:
            came = data.dtype if isinstance(data, np.ndarray) else type(data).__name__
            raise TypeError(f"{name} must be a NumPy array of {self.dtype}, got {came}")
        data = plain(name, data)
        if data.shape != (self.batch, length):
            if data.shape not in ((length,), (1, length)):
                raise ValueError(
                    f"{name} must have shape ({length},) or ({self.batch}, {length}), "
                    f"got {data.shape}"
                )
            data = data.reshape(1, length)
            if self.batch > 1:
                data = data.repeat(self.batch, axis=0)
        data = behaved(data)
        if not all_finite(data.reshape(-1)):
            raise ValueError(f"{name} must be finite, got NaN or infinity; J is as it was")
        return data

    def _element(self, b: int) -> int:
        place = integer("batch element", b)
        if not -self.batch <= place < self.batch:
            raise IndexError(f"batch element must lie in [0, {self.batch}), got {b}")
        return place % self.batch


def _with_panels(
    pattern: ReachPattern,
    batch: int,
    dtype: np.dtype[Any],
    threads: int | None,
    storage: str | None,
    panels: NDArray[Any],
    steps: int,
) -> Influence:
    influence = Influence(pattern, batch, dtype, threads, storage)
    influence._panels[:] = panels
    influence._steps[0] = steps
    return influence
