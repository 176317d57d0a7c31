"""The elementwise update of any cell, told by a number: a built-in's place, or else an address.

A pointer to a function costs 25 µs to pass in a call from Python, and a computation that JAX
exports may hold no address: the built-in updates are known by their place.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..compiler.pointers import call_at
from .elementwise import gru, lstm, rnn_relu, rnn_tanh

BUILT_IN = (rnn_tanh, rnn_relu, gru, lstm)


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
        call_at(update, (state, pre, new_state, d_state, d_pre))
