"""A time step, and its gradient, as handlers of XLA's foreign function interface (FFI).

A handler gets the address of a call frame, a C struct of pointers and sizes. What is read of it:

    word 1   extensions       9   arguments       14   results
    of a buffer: word 3 its data, word 5 its dimensions

The layout is that of xla/ffi/api/c_api.h, whose fields keep their places within a major version.
Everything about the cell and its pattern comes in one array of bytes, a block of int64 words (those
of a program, then the cell's; arrays by their byte offset) and the arrays behind it, so that a
compiled computation holds no address of this process.

These are plain Python until `sparsegrad.interop.jax` compiles them, once for each float type.
"""

from typing import Any

import numpy as np
from numba import carray, njit

from ..cells.maps import Maps, apply_maps, dynamics_values, immediate_values
from ..influence.panels import panels_contract, panels_update
from .addresses import CELL_WORDS, WORDS, cell_at, int64_at, program_at, real_at
from .embed import add_in_order, elementwise, input_gradient

BLOCK_WORDS = WORDS + CELL_WORDS


@njit(cache=True, nogil=True)
def _word(address: int, i: int) -> int:
    return carray(int64_at(address), (i + 1,))[i]


@njit(cache=True, nogil=True)
def _argument(frame: int, k: int) -> int:
    return _word(_word(_word(frame, 9), k), 3)


@njit(cache=True, nogil=True)
def _result(frame: int, k: int) -> int:
    return _word(_word(_word(frame, 14), k), 3)


@njit(cache=True, nogil=True)
def _batch(frame: int, k: int) -> int:
    """First dimension of an argument."""
    return _word(_word(_word(_word(frame, 9), k), 5), 0)


@njit(cache=True, nogil=True)
def _asked_for_version(frame: int) -> bool:
    """Answer XLA's first call, which asks for the handler's version: that of its own interface."""
    extension = _word(frame, 1)
    if extension == 0:
        return False
    metadata = carray(int64_at(_word(extension, 3)), (5,))
    metadata[3] = _word(_word(frame, 2), 4)
    metadata[4] = 0
    return True


# (block, weights, x, s, J) → (s', J', ∂s'/∂a, weights in the maps' order; scratch: D, I, …)
@njit(cache=True, nogil=True)
def _step(frame: int, like: Any) -> int:
    if _asked_for_version(frame):
        return 0
    base = _argument(frame, 0)
    words = carray(int64_at(base), (BLOCK_WORDS,))
    indptr, recurrent_end, indices, partials, dynamics, order = cell_at(words[WORDS:], base)
    units, inputs = words[WORDS], words[WORDS + 1]
    count, n_maps, kind = words[WORDS + 2], words[WORDS + 3], words[WORDS + 4]
    batch, size = _batch(frame, 2), words[4]
    given = carray(real_at(_argument(frame, 1), like), (words[1],))
    x = carray(real_at(_argument(frame, 2), like), (batch, inputs))
    state = carray(real_at(_argument(frame, 3), like), (batch, count, units))
    before = carray(real_at(_argument(frame, 4), like), (batch * size,))
    new_state = carray(real_at(_result(frame, 0), like), (batch, count, units))
    influence = carray(real_at(_result(frame, 1), like), (batch, size))
    d_pre = carray(real_at(_result(frame, 2), like), (batch, count, n_maps, units))
    weights = carray(real_at(_result(frame, 3), like), (words[1],))
    D = carray(real_at(_result(frame, 4), like), (batch, words[2]))
    immediate = carray(real_at(_result(frame, 5), like), (batch, words[3]))
    scratch = carray(real_at(_result(frame, 6), like), (words[5],))
    sources = carray(real_at(_result(frame, 7), like), (units + inputs + 1,))
    pre = carray(real_at(_result(frame, 8), like), (n_maps, units))
    d_state = carray(real_at(_result(frame, 9), like), (count, count, units))
    for i in range(order.size):
        weights[order[i]] = given[i]
    maps = Maps(indptr, recurrent_end, indices, weights)
    d_state[:] = 0
    for b in range(batch):
        for i in range(units):
            sources[i] = state[b, 0, i]
        for i in range(inputs):
            sources[units + i] = x[b, i]
        sources[units + inputs] = 1
        apply_maps(maps, sources, pre)
        elementwise(kind, state[b], pre, new_state[b], d_state, d_pre[b])
        dynamics_values(dynamics, weights, d_state, d_pre[b], D[b])
        immediate_values(maps, partials, sources, d_pre[b], immediate[b])
    if _argument(frame, 4) != _result(frame, 1):  # XLA was asked for one buffer; it may have two
        flat = influence.reshape(batch * size)
        for i in range(flat.size):
            flat[i] = before[i]
    p = program_at(words, base)
    panels_update(
        p[0], p[1], p[2], p[3], p[4], p[5], p[6], D, immediate, influence, scratch,
    )  # fmt: skip
    return 0


# (block, weights in the maps' order, ∂s'/∂a, J', δ) → (∂L/∂weights, ∂L/∂x; scratch)
@njit(cache=True, nogil=True)
def _pull(frame: int, like: Any) -> int:
    if _asked_for_version(frame):
        return 0
    base = _argument(frame, 0)
    words = carray(int64_at(base), (BLOCK_WORDS,))
    indptr, recurrent_end, indices, partials, _, order = cell_at(words[WORDS:], base)
    units, inputs = words[WORDS], words[WORDS + 1]
    count, n_maps = words[WORDS + 2], words[WORDS + 3]
    batch = _batch(frame, 2)
    weights = carray(real_at(_argument(frame, 1), like), (words[1],))
    d_pre = carray(real_at(_argument(frame, 2), like), (batch, count, n_maps, units))
    influence = carray(real_at(_argument(frame, 3), like), (batch, words[4]))
    state_grad = carray(real_at(_argument(frame, 4), like), (batch, count * units))
    flat = carray(real_at(_result(frame, 0), like), (words[1],))
    x_grad = carray(real_at(_result(frame, 1), like), (batch, inputs))
    grad = carray(real_at(_result(frame, 2), like), (words[1],))
    scratch = carray(real_at(_result(frame, 3), like), (words[5],))
    p = program_at(words, base)
    panels_contract(
        p[0], p[1], p[2], p[3], p[4], p[5], p[6], state_grad, influence, grad, scratch,
    )  # fmt: skip
    flat[:] = 0
    add_in_order(order, grad, flat)
    maps = Maps(indptr, recurrent_end, indices, weights)
    input_gradient(maps, partials, d_pre, state_grad, x_grad)
    return 0


def step_float32(frame: int) -> int:
    """Run a step in float32."""
    return _step(frame, np.float32(0))


def step_float64(frame: int) -> int:
    """Run a step in float64."""
    return _step(frame, np.float64(0))


def pull_float32(frame: int) -> int:
    """Pull δ back through a step in float32."""
    return _pull(frame, np.float32(0))


def pull_float64(frame: int) -> int:
    """Pull δ back through a step in float64."""
    return _pull(frame, np.float64(0))
