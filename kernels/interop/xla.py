"""A time step, and its gradient, as handlers of XLA's foreign function interface (FFI).

A handler gets the address of a call frame, a C struct of pointers and sizes, in words of 8 bytes.
The layout is that of xla/ffi/api/c_api.h, whose fields keep their places within a major version.
Everything about the cell and its pattern comes in one array of bytes, a block of int64 words (those
of a program, then the cell's; arrays by their byte offset) and the arrays behind it, so that a
compiled computation holds no address of this process.

These are plain Python until `sparsegrad.interop.jax` compiles them, once for each float type.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from ..cells.maps import Maps
from ..influence.panels import panels_contract, panels_update
from ..vectors.finite import all_finite
from .addresses import (
    CELL_COMPONENTS,
    CELL_INPUTS,
    CELL_MAPS,
    CELL_UNITS,
    CELL_WORDS,
    DYNAMICS_NNZ,
    IMMEDIATE_NNZ,
    INFLUENCE_SIZE,
    SCRATCH_SIZE,
    WEIGHTS,
    WORDS,
    cell_at,
    int64_at,
    program_at,
    real_at,
)
from .cell_step import cell_step
from .embed import add_in_order, input_gradient

BLOCK_WORDS = WORDS + CELL_WORDS
EXTENSION, API, ARGUMENTS, RESULTS = 1, 2, 9, 14
"""Words of a call frame."""
API_VERSION, CREATE_ERROR = 4, 6
"""Words of the interface: major and minor version; the function that makes an error."""
ERROR_SIZE, FAILED_PRECONDITION = 28, 9
"""Bytes of what that function takes: size, extension, message, code; the code of our error."""
_NOT_FINITE = np.frombuffer(
    b"the gradient must stay finite, it became NaN or infinite: the learning signal is, or the "
    b"influence has overflowed, and SnapStep.require_finite(carry) says in which stream; reset() "
    b"it there, or take a smaller n or smaller recurrent weights\0",
    np.uint8,
)
METADATA, VERSION, TRAITS, METADATA_WORDS = 3, 3, 4, 5
"""A word of the extension that asks for metadata; words of the metadata, and their number."""
DATA, DIMENSIONS = 3, 5
"""Words of a buffer."""


@njit(cache=True, nogil=True)
def _word(address: int, i: int) -> int:
    return carray(int64_at(address), (i + 1,))[i]


@njit(cache=True, nogil=True)
def _argument(frame: int, k: int) -> int:
    return _word(_word(_word(frame, ARGUMENTS), k), DATA)


@njit(cache=True, nogil=True)
def _result(frame: int, k: int) -> int:
    return _word(_word(_word(frame, RESULTS), k), DATA)


@njit(cache=True, nogil=True)
def _batch(frame: int, k: int) -> int:
    """First dimension of an argument."""
    return _word(_word(_word(_word(frame, ARGUMENTS), k), DIMENSIONS), 0)


@njit(cache=True, nogil=True)
def _asked_for_version(frame: int) -> bool:
    """Answer XLA's first call, which asks for the handler's version: that of its own interface."""
    extension = _word(frame, EXTENSION)
    if extension == 0:
        return False
    metadata = carray(int64_at(_word(extension, METADATA)), (METADATA_WORDS,))
    metadata[VERSION] = _word(_word(frame, API), API_VERSION)
    metadata[TRAITS] = 0
    return True


@intrinsic
def _call(typingctx: Any, function: Any, argument: Any) -> Any:
    """Call a C function at an address, of one pointer, that returns a pointer."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        pointer = builder.inttoptr(args[0], ir.FunctionType(word, [word]).as_pointer())
        return builder.call(pointer, [args[1]])

    return types.int64(types.int64, types.int64), codegen


@njit(cache=True, nogil=True)
def _error(frame: int, message: Any, room: int) -> int:
    """Return the address of an error of XLA's; `room` is that of four words to write in."""
    words = carray(int64_at(room), (4,))
    words[0], words[1], words[2], words[3] = (
        ERROR_SIZE, 0, message.ctypes.data, FAILED_PRECONDITION,
    )  # fmt: skip
    return _call(_word(_word(frame, API), CREATE_ERROR), room)  # type: ignore[call-arg]


# (block, weights, x, s, J) → (s', J', ∂s'/∂a, weights in the maps' order; scratch: D, I, …)
@njit(cache=True, nogil=True)
def _step(frame: int, like: Any) -> int:
    if _asked_for_version(frame):
        return 0
    base = _argument(frame, 0)
    words = carray(int64_at(base), (BLOCK_WORDS,))
    cell = words[WORDS:]
    order = cell_at(cell, base)[5]
    units, inputs = cell[CELL_UNITS], cell[CELL_INPUTS]
    count, n_maps = cell[CELL_COMPONENTS], cell[CELL_MAPS]
    batch, size = _batch(frame, 2), words[INFLUENCE_SIZE]
    given = carray(real_at(_argument(frame, 1), like), (words[WEIGHTS],))
    x = carray(real_at(_argument(frame, 2), like), (batch, inputs))
    state = carray(real_at(_argument(frame, 3), like), (batch, count, units))
    before = carray(real_at(_argument(frame, 4), like), (batch * size,))
    new_state = carray(real_at(_result(frame, 0), like), (batch, count, units))
    influence = carray(real_at(_result(frame, 1), like), (batch, size))
    d_pre = carray(real_at(_result(frame, 2), like), (batch, count, n_maps, units))
    weights = carray(real_at(_result(frame, 3), like), (words[WEIGHTS],))
    D = carray(real_at(_result(frame, 4), like), (batch, words[DYNAMICS_NNZ]))
    immediate = carray(real_at(_result(frame, 5), like), (batch, words[IMMEDIATE_NNZ]))
    scratch = carray(real_at(_result(frame, 6), like), (words[SCRATCH_SIZE],))
    sources = carray(real_at(_result(frame, 7), like), (units + inputs + 1,))
    pre = carray(real_at(_result(frame, 8), like), (n_maps, units))
    d_state = carray(real_at(_result(frame, 9), like), (count, count, units))
    for i in range(order.size):
        weights[order[i]] = given[i]
    cell_step(cell, base, weights, x, state, new_state, d_pre, D, immediate, sources, pre, d_state)
    if _argument(frame, 4) != _result(frame, 1):  # XLA was asked for one buffer; it may have two
        flat = influence.reshape(batch * size)
        for i in range(flat.size):
            flat[i] = before[i]
    p = program_at(words, base)
    panels_update(
        p.panels, p.segments, p.entries, p.members, p.reached, p.columns, p.runs, D, immediate,
        influence, scratch,
    )  # fmt: skip
    return 0


# (block, weights in the maps' order, ∂s'/∂a, J', δ) → (∂L/∂weights, ∂L/∂x; scratch)
@njit(cache=True, nogil=True)
def _pull(frame: int, like: Any) -> int:
    if _asked_for_version(frame):
        return 0
    base = _argument(frame, 0)
    words = carray(int64_at(base), (BLOCK_WORDS,))
    cell = words[WORDS:]
    indptr, recurrent_end, indices, partials, _, order = cell_at(cell, base)
    units, inputs = cell[CELL_UNITS], cell[CELL_INPUTS]
    count, n_maps = cell[CELL_COMPONENTS], cell[CELL_MAPS]
    batch = _batch(frame, 2)
    weights = carray(real_at(_argument(frame, 1), like), (words[WEIGHTS],))
    d_pre = carray(real_at(_argument(frame, 2), like), (batch, count, n_maps, units))
    influence = carray(real_at(_argument(frame, 3), like), (batch, words[INFLUENCE_SIZE]))
    state_grad = carray(real_at(_argument(frame, 4), like), (batch, count * units))
    flat = carray(real_at(_result(frame, 0), like), (words[WEIGHTS],))
    x_grad = carray(real_at(_result(frame, 1), like), (batch, inputs))
    grad = carray(real_at(_result(frame, 2), like), (words[WEIGHTS],))
    scratch = carray(real_at(_result(frame, 3), like), (words[SCRATCH_SIZE],))
    p = program_at(words, base)
    panels_contract(
        p.panels, p.segments, p.entries, p.members, p.reached, p.columns, p.runs, state_grad,
        influence, grad, scratch,
    )  # fmt: skip
    flat[:] = 0
    add_in_order(order, grad, flat)
    if not all_finite(flat):
        return _error(frame, _NOT_FINITE, _result(frame, 3))
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
