"""J through a window of steps, panel by panel, and its contraction.

    J_t ← P ∘ (I_t + D_t J_{t-1})   for all steps t of the window, before the next panel is begun

A panel stays in the cache for the whole window, so that J crosses memory once a window and not
once a step. Two scratch panels take turns as the old one and the new one: nothing is copied between
steps, and the last step writes J. The numbers are those of a step at a time, bit for bit. Where its
counts say so, a saturated pattern goes by dense products instead (block.py).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..compiler.decorators import into_caller
from ..vectors.bundles import bundle, load_bundle, store_bundle
from ..vectors.simd import SLACK, lanes, pointer
from .block import Block, advance_block
from .panels import CONTRACT, Panel, add_immediate, keep_new, multiply_panel
from .store import Store
from .tables import (
    END_SEGMENT,
    FIRST_ENTRY,
    FIRST_ROW,
    FIRST_RUN,
    FIRST_SEGMENT,
    OFFSET,
    ROWS,
    STRIDE,
    VECTORS,
)


class WindowData(NamedTuple):
    """What takes J through a window."""

    dynamics_data: NDArray[np.floating]  # (B, T, nnz of D)     D of each step
    immediate_data: NDArray[np.floating]  # (B, T, nnz of I)    I of each step
    begins: NDArray[np.int64]  # (B,)                           the last step that resets, or -1
    runs: NDArray[np.int64]  # (runs, 4)                        the program's, into a scratch panel
    scratch: NDArray[np.floating]  # (threads, 2, scratch size)


# A scratch panel with rows of whole vectors ← the panel, or 0, and a row of zeros behind either.
@into_caller
def _set_out(restarts, rows, width, J, at, stride, old, other):
    n = lanes(J)
    for c in range(0, width, n):
        for r in range(rows):
            x = bundle(J, 1) if restarts else load_bundle(J, at + r * stride + c, bundle(J, 1))
            store_bundle(old, r * width + c, x)
        store_bundle(old, rows * width + c, bundle(J, 1))
        store_bundle(other, rows * width + c, bundle(J, 1))


@njit(cache=True, nogil=True)
def advance_range(
    begin: int,
    end: int,  # panels
    held: int | np.int64,  # steps
    program: Any,  # in, the named arrays of sparsegrad.influence.program.Program
    data: WindowData,  # in
    influence: NDArray[np.floating],  # (B, size)             in/out
    scratch: NDArray[np.floating],  # (2, scratch size)       scratch
) -> None:
    """Take some panels of every stream through the steps held."""
    panels, size = program.panels, influence.shape[1]
    segments, entries = pointer(program.segments, 0), pointer(program.entries, 0)
    runs, runs_there = pointer(data.runs, 0), pointer(program.runs, 0)
    batch, steps, D_size = data.dynamics_data.shape
    I_size = data.immediate_data.shape[2]
    p = begin
    while p < end:
        behind = p + 1  # of all stages of this panel
        while behind < end and panels[behind, FIRST_ROW] > 0:
            behind += 1
        rows, width, at = panels[p, ROWS], SLACK * panels[p, VECTORS], panels[p, OFFSET]
        stride = panels[p, STRIDE]
        for b in range(batch):
            J, old, new = pointer(influence, b * size), pointer(scratch, 0), pointer(scratch[1], 0)
            _set_out(data.begins[b] >= 0, rows, width, J, at, stride, old, new)
            for t in range(max(data.begins[b], 0), held):
                last = t + 1 == held
                target = J if last else new
                to, pitch = (at, stride) if last else (np.int64(0), width)
                where = runs_there if last else runs
                ahead: Any = panels[behind, OFFSET] - at if last else np.int64(0)
                before = np.int64(0)
                dynamics = pointer(data.dynamics_data, (b * steps + t) * D_size)
                immediate = pointer(data.immediate_data, (b * steps + t) * I_size)
                for stage in range(p, behind):
                    row = panels[stage, FIRST_ROW]
                    if row > 0:
                        keep_new(
                            row - before, target, to + before * pitch, pitch, width, old,
                            (rows + 1 + before) * width,
                        )  # fmt: skip
                    panel = Panel(
                        rows, width, panels[stage, FIRST_SEGMENT], panels[stage, END_SEGMENT],
                        panels[stage, FIRST_ENTRY], to + row * pitch, ahead, pitch,
                    )  # fmt: skip
                    multiply_panel(False, panel, segments, entries, dynamics, target, old)
                    first, last_run = panels[stage, FIRST_RUN], panels[stage + 1, FIRST_RUN]
                    add_immediate(first, last_run, where, immediate, target)
                    before = row
                old, new = new, old
        p = behind


@njit(cache=True, nogil=True, parallel=True)
def advance_threads(
    cuts: NDArray[np.int64],  # (threads + 1,)  in, panels of each thread
    held: int | np.int64,
    program: Any,
    data: WindowData,
    influence: NDArray[np.floating],
) -> None:
    """Run `advance_range` on one range of panels per thread; otherwise its arguments."""
    for i in prange(len(cuts) - 1):
        advance_range(cuts[i], cuts[i + 1], held, program, data, influence, data.scratch[i])


@njit(cache=True, nogil=True)
def advance(
    held: int | np.int64,  # steps
    shared: Callable[..., None] | None,  # `panels_threads`, or None: Numba drops its branch
    block: Block | None,  # None: by steps
    store: Store,  # in/out
    data: WindowData,  # in
) -> None:
    """Take J through the steps held."""
    program, panels = store.program, store.panels
    if block is not None:
        most = block.psi.shape[0] - 1
        for b in range(data.begins.size):
            for first in range(0, held, most):
                begin, count = data.begins[b] - first, min(most, held - first)
                if begin < count:
                    advance_block(
                        shared, store.cuts, max(begin, 0), count, begin >= 0,
                        data.dynamics_data[b, first : first + count],
                        data.immediate_data[b, first : first + count], program, block, panels[b],
                    )  # fmt: skip
    elif shared is None:
        advance_range(0, program.panels.shape[0] - 1, held, program, data, panels, data.scratch[0])
    else:
        advance_threads(store.cuts, held, program, data, panels)


@njit(cache=True, nogil=True)
def contract(
    shared: Callable[..., None] | None,  # see `advance`
    store: Store,  # in
    state_grad: NDArray[np.floating],  # (B, states)   in
    grad: NDArray[np.floating],  # (weights,) or more  in/out
) -> None:
    """Add Σ_b J_bᵀ δ_b."""
    s, p = store, store.program
    if shared is None:
        s.alone(
            0, p.panels.shape[0] - 1, CONTRACT, p.panels, p.segments, p.entries, p.members,
            p.reached, p.columns, p.runs, state_grad, state_grad, state_grad, s.panels,
            s.step_grad, s.scratch[0],
        )  # fmt: skip
    else:
        shared(
            s.alone, s.cuts, CONTRACT, p.panels, p.segments, p.entries, p.members, p.reached,
            p.columns, p.runs, state_grad, state_grad, state_grad, s.panels, s.step_grad,
            s.scratch,
        )  # fmt: skip
    for w in range(s.step_grad.size):
        grad[w] += s.step_grad[w]
