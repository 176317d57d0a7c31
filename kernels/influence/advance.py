"""J through a window of steps, panel by panel, and its contraction.

    J_t ← P ∘ (I_t + D_t J_{t-1})   for all steps t of the window, before the next panel is begun

A panel stays in the cache for the whole window, so that J crosses memory once a window and not
once a step; the numbers are those of a step at a time, bit for bit. Where its counts say so, a
saturated pattern goes by dense products instead (block.py).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .block import Block, advance_block
from .panels import CONTRACT, UPDATE
from .store import Store
from .tables import OFFSET


class WindowData(NamedTuple):
    """What takes J through a window."""

    dynamics_data: NDArray[np.floating]  # (B, T, nnz of D)     D of each step
    immediate_data: NDArray[np.floating]  # (B, T, nnz of I)    I of each step
    begins: NDArray[np.int64]  # (B,)                           the last step that resets, or -1


@njit(cache=True, nogil=True)
def advance_range(
    begin: int,
    end: int,  # panels
    held: int | np.int64,  # steps
    store: Store,  # in/out
    data: WindowData,  # in
    scratch: NDArray[np.floating],  # (scratch size,)
) -> None:
    """Take some panels of every stream through the steps held."""
    s, p, d = store, store.program, data
    for panel in range(begin, end):
        first, last = p.panels[panel, OFFSET], p.panels[panel + 1, OFFSET]
        for b in range(s.panels.shape[0]):
            if d.begins[b] >= 0:
                s.panels[b, first:last] = 0
            for t in range(max(d.begins[b], 0), held):
                s.alone(
                    panel, panel + 1, UPDATE, p.panels, p.segments, p.entries, p.members,
                    p.reached, p.columns, p.runs, d.dynamics_data[b, t : t + 1],
                    d.immediate_data[b, t : t + 1], d.dynamics_data[b, t : t + 1],
                    s.panels[b : b + 1], scratch, scratch,
                )  # fmt: skip


# By turns for now: a store holds its program, and Numba's parallel loops take no tuple in a tuple.
@njit(cache=True, nogil=True)
def advance_threads(held: int | np.int64, store: Store, data: WindowData) -> None:
    """Run `advance_range` on one range of panels after the other; otherwise its arguments."""
    for i in range(len(store.cuts) - 1):
        advance_range(store.cuts[i], store.cuts[i + 1], held, store, data, store.scratch[i])


@njit(cache=True, nogil=True)
def advance(
    held: int | np.int64,  # steps
    shared: Callable[..., None] | None,  # `panels_threads`, or None: Numba drops its branch
    block: Block | None,  # None: by steps
    store: Store,  # in/out
    data: WindowData,  # in
) -> None:
    """Take J through the steps held."""
    if block is not None:
        most = block.psi.shape[0] - 1
        for b in range(data.begins.size):
            for first in range(0, held, most):
                begin, count = data.begins[b] - first, min(most, held - first)
                if begin < count:
                    advance_block(
                        shared, store.cuts, max(begin, 0), count, begin >= 0,
                        data.dynamics_data[b, first : first + count],
                        data.immediate_data[b, first : first + count], store.program, block,
                        store.panels[b],
                    )  # fmt: skip
    elif shared is None:
        advance_range(0, store.program.panels.shape[0] - 1, held, store, data, store.scratch[0])
    else:
        advance_threads(held, store, data)


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
