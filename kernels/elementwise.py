"""The elementwise half of a cell: s'_c = φ_c(s, a), with its partials, all units in one call.

Every function here has the one signature of a cell's update, (state, pre, new_state, d_state,
d_pre), and writes its last three arguments in full where a partial can be non-zero. A partial that
is structurally zero (named in the cell's kind) is never read, so it is never written either.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def rnn_tanh(
    state: NDArray[np.floating],  # (1, units)     in   h
    pre: NDArray[np.floating],  # (1, units)       in   a
    new_state: NDArray[np.floating],  # (1, units)      out  h'
    d_state: NDArray[np.floating],  # (1, 1, units)     out  not written: h enters through a alone
    d_pre: NDArray[np.floating],  # (1, 1, units)       out  ∂h'/∂a
) -> None:
    """Vanilla cell: h' = tanh(a)."""
    one = pre.dtype.type(1)
    for i in range(state.shape[1]):
        h = np.tanh(pre[0, i])
        new_state[0, i] = h
        d_pre[0, 0, i] = one - h * h


@njit(cache=True, nogil=True)
def rnn_relu(
    state: NDArray[np.floating],  # (1, units)     in   h
    pre: NDArray[np.floating],  # (1, units)       in   a
    new_state: NDArray[np.floating],  # (1, units)      out  h'
    d_state: NDArray[np.floating],  # (1, 1, units)     out  not written: h enters through a alone
    d_pre: NDArray[np.floating],  # (1, 1, units)       out  ∂h'/∂a
) -> None:
    """Vanilla cell: h' = max(a, 0), with slope 0 at a = 0 as PyTorch has it."""
    zero = pre.dtype.type(0)
    one = pre.dtype.type(1)
    for i in range(state.shape[1]):
        a = pre[0, i]
        # NaN must stay NaN, so that a diverged state is seen: (a > 0) is False for it
        new_state[0, i] = zero if a <= zero else a
        d_pre[0, 0, i] = one if a > zero else zero


@njit(cache=True, nogil=True)
def gru(
    state: NDArray[np.floating],  # (1, units)     in   h
    pre: NDArray[np.floating],  # (4, units)       in   a_r, a_z, a_in, a_hn
    new_state: NDArray[np.floating],  # (1, units)      out  h'
    d_state: NDArray[np.floating],  # (1, 1, units)     out  ∂h'/∂h beside the maps: z
    d_pre: NDArray[np.floating],  # (1, 4, units)       out  ∂h'/∂a
) -> None:
    """GRU: r = σ(a_r), z = σ(a_z), n = tanh(a_in + r a_hn), h' = (1 - z) n + z h."""
    one = pre.dtype.type(1)
    half = pre.dtype.type(0.5)
    for i in range(state.shape[1]):
        # σ(a) = (1 + tanh(a/2)) / 2 cannot overflow
        r = half + half * np.tanh(half * pre[0, i])
        z = half + half * np.tanh(half * pre[1, i])
        n = np.tanh(pre[2, i] + r * pre[3, i])
        new_state[0, i] = n + z * (state[0, i] - n)
        d_n = (one - z) * (one - n * n)
        d_state[0, 0, i] = z
        d_pre[0, 0, i] = d_n * pre[3, i] * r * (one - r)
        d_pre[0, 1, i] = (state[0, i] - n) * z * (one - z)
        d_pre[0, 2, i] = d_n
        d_pre[0, 3, i] = d_n * r


@njit(cache=True, nogil=True)
def lstm(
    state: NDArray[np.floating],  # (2, units)     in   h, c
    pre: NDArray[np.floating],  # (4, units)       in   a_i, a_f, a_g, a_o
    new_state: NDArray[np.floating],  # (2, units)      out  h', c'
    d_state: NDArray[np.floating],  # (2, 2, units)     out  ∂h'/∂c, ∂c'/∂c; ∂/∂h not written
    d_pre: NDArray[np.floating],  # (2, 4, units)       out  ∂h'/∂a, ∂c'/∂a; ∂c'/∂a_o not written
) -> None:
    """LSTM: i, f, o = σ(a_i, a_f, a_o), g = tanh(a_g), c' = f c + i g, h' = o tanh(c')."""
    one = pre.dtype.type(1)
    half = pre.dtype.type(0.5)
    for u in range(state.shape[1]):
        i = half + half * np.tanh(half * pre[0, u])
        f = half + half * np.tanh(half * pre[1, u])
        g = np.tanh(pre[2, u])
        o = half + half * np.tanh(half * pre[3, u])
        c = f * state[1, u] + i * g
        y = np.tanh(c)
        new_state[0, u] = o * y
        new_state[1, u] = c
        d_h = o * (one - y * y)  # ∂h'/∂c'
        d_state[1, 1, u] = f
        d_state[0, 1, u] = d_h * f
        d_pre[1, 0, u] = g * i * (one - i)
        d_pre[1, 1, u] = state[1, u] * f * (one - f)
        d_pre[1, 2, u] = i * (one - g * g)
        for gate in range(3):
            d_pre[0, gate, u] = d_h * d_pre[1, gate, u]
        d_pre[0, 3, u] = y * o * (one - o)
