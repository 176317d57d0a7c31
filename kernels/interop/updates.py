"""The elementwise update of any cell, told by a number: a built-in's place, or else an address.

A pointer to a function costs 25 µs to pass in a call from Python, and a computation that JAX
exports may hold no address: the built-in updates are known by their place.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..cells.elementwise import gru, lstm, rnn_relu, rnn_tanh

BUILT_IN = (rnn_tanh, rnn_relu, gru, lstm)


@intrinsic
def _call_at(
    typingctx: Any, address: Any, state: Any, pre: Any, new_state: Any, d_state: Any, d_pre: Any
) -> Any:
    """Call the function that `CellKind.compiled` points at, as Numba calls it by its pointer."""
    arrays = state, pre, new_state, d_state, d_pre
    if any(array.layout != "C" for array in arrays):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = [context.get_value_type(kind) for kind in arrays]
        function = ir.FunctionType(context.get_value_type(types.void), given)
        builder.call(builder.inttoptr(args[0], function.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, *arrays), codegen


@njit(cache=True, nogil=True)
def elementwise(
    update: int,  # place in BUILT_IN, or an address
    state: NDArray[np.floating],  # (components, units)                 in
    pre: NDArray[np.floating],  # (maps, units)                         in
    new_state: NDArray[np.floating],  # (components, units)             out
    d_state: NDArray[np.floating],  # (components, components, units)   out
    d_pre: NDArray[np.floating],  # (components, maps, units)           out
) -> None:
    """Run the update of a cell, as `CellKind` tells it."""
    if update == 0:
        rnn_tanh(state, pre, new_state, d_state, d_pre)
    elif update == 1:
        rnn_relu(state, pre, new_state, d_state, d_pre)
    elif update == 2:
        gru(state, pre, new_state, d_state, d_pre)
    elif update == 3:
        lstm(state, pre, new_state, d_state, d_pre)
    else:
        _call_at(update, state, pre, new_state, d_state, d_pre)  # type: ignore[call-arg]
