"""The elementwise half of a cell: s'_c = φ_c(s, a), with its partials, all units in one call.

Every cell's update has the one signature (state, pre, new_state, d_state, d_pre), and writes its
last three arguments in full where a partial can be non-zero. A partial that is structurally zero
(named in the cell's kind) is never read, so it is never written either. A column is a unit, or a
unit of one of several streams: each is by itself.

A cell's formula stands once, and takes numbers as well as vectors of columns; its update runs it
over whole vectors, then over the columns that are left.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

from ..vectors.arithmetic import clip, map_tanh
from ..vectors.simd import VectorType, lanes, load, pointer, put, store, value


def tanh(x: Any) -> Any:
    """Return tanh of a number or a vector; in float32 by a quotient of polynomials.

    Its largest error is 4e-7 of the result, against 15 ns a call of the library's tanhf that
    took a quarter of a step of SnAp-1.
    """
    return np.tanh(x)


def _exact(x: Any) -> Any:
    return np.tanh(x)


def _lane_by_lane(x: Any) -> Any:
    return map_tanh(x)


@overload(tanh)
def _tanh_overload(x: Any) -> Any:
    if isinstance(x, VectorType) and x.dtype == types.float64:
        return _lane_by_lane
    if x == types.float64:
        return _exact
    f = np.float32
    # Coefficients of Eigen's generic_fast_tanh_float: odd over even, on [-7.9, 7.9].
    a1, a3, a5, a7 = (
        f(4.89352455891786e-3),
        f(6.37261928875436e-4),
        f(1.48572235717979e-5),
        f(5.12229709037114e-8),
    )
    a9, a11, a13 = f(-8.60467152213735e-11), f(2.00018790482477e-13), f(-2.76076847742355e-16)
    b0, b2, b4, b6 = (
        f(4.89352518554385e-3),
        f(2.26843463243900e-3),
        f(1.18534705686654e-4),
        f(1.19825839466702e-6),
    )
    end = f(7.90531110763549805)

    def rational(x: Any) -> Any:
        x = clip(x, end)
        y = x * x
        odd = ((((((a13 * y + a11) * y + a9) * y + a7) * y + a5) * y + a3) * y + a1) * x
        return odd / (((b6 * y + b4) * y + b2) * y + b0)

    return rational


@njit(cache=True, nogil=True)
def sigmoid(x: Any, half: Any) -> Any:
    """Return σ(x) = (1 + tanh(x/2)) / 2, which cannot overflow."""
    return half + half * tanh(half * x)


@njit(cache=True, nogil=True)
def rnn_tanh(
    state: NDArray[np.floating],  # (1, columns)     in   h
    pre: NDArray[np.floating],  # (1, columns)       in   a
    new_state: NDArray[np.floating],  # (1, columns)      out  h'
    d_state: NDArray[np.floating],  # (1, 1, columns)     out  not written: h enters through a alone
    d_pre: NDArray[np.floating],  # (1, 1, columns)       out  ∂h'/∂a
) -> None:
    """Vanilla cell: h' = tanh(a)."""
    one = pre.dtype.type(1)
    a, new, outer = pointer(pre, 0), pointer(new_state, 0), pointer(d_pre, 0)
    columns = state.shape[1]
    i = 0
    while i + lanes(a) <= columns:
        y = tanh(load(a, i))
        store(new, i, y)
        store(outer, i, one - y * y)
        i += lanes(a)
    while i < columns:
        y = tanh(value(a, i))
        put(new, i, y)
        put(outer, i, one - y * y)
        i += 1


@njit(cache=True, nogil=True)
def rnn_relu(
    state: NDArray[np.floating],  # (1, columns)     in   h
    pre: NDArray[np.floating],  # (1, columns)       in   a
    new_state: NDArray[np.floating],  # (1, columns)      out  h'
    d_state: NDArray[np.floating],  # (1, 1, columns)     out  not written: h enters through a alone
    d_pre: NDArray[np.floating],  # (1, 1, columns)       out  ∂h'/∂a
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
def gru_formula(h: Any, a_r: Any, a_z: Any, a_in: Any, a_hn: Any, half: Any, one: Any) -> Any:
    """Return h', ∂h'/∂h beside the maps, and ∂h'/∂a of the four maps."""
    r = sigmoid(a_r, half)
    z = sigmoid(a_z, half)
    n = tanh(a_in + r * a_hn)
    d_n = (one - z) * (one - n * n)
    d_r = d_n * a_hn * (r * (one - r))
    return n + z * (h - n), z, d_r, (h - n) * (z * (one - z)), d_n, d_n * r


@njit(cache=True, nogil=True)
def gru(
    state: NDArray[np.floating],  # (1, columns)     in   h
    pre: NDArray[np.floating],  # (4, columns)       in   a_r, a_z, a_in, a_hn
    new_state: NDArray[np.floating],  # (1, columns)      out  h'
    d_state: NDArray[np.floating],  # (1, 1, columns)     out  ∂h'/∂h beside the maps: z
    d_pre: NDArray[np.floating],  # (1, 4, columns)       out  ∂h'/∂a
) -> None:
    """GRU: r = σ(a_r), z = σ(a_z), n = tanh(a_in + r a_hn), h' = (1 - z) n + z h."""
    half, one = pre.dtype.type(0.5), pre.dtype.type(1)
    h, a, new = pointer(state, 0), pointer(pre, 0), pointer(new_state, 0)
    inner, outer = pointer(d_state, 0), pointer(d_pre, 0)
    k = state.shape[1]
    i = 0
    while i + lanes(a) <= k:
        y, z, d_r, d_z, d_in, d_hn = gru_formula(
            load(h, i), load(a, i), load(a, k + i), load(a, 2 * k + i), load(a, 3 * k + i),
            half, one,
        )  # fmt: skip
        store(new, i, y)
        store(inner, i, z)
        store(outer, i, d_r)
        store(outer, k + i, d_z)
        store(outer, 2 * k + i, d_in)
        store(outer, 3 * k + i, d_hn)
        i += lanes(a)
    while i < k:
        y, z, d_r, d_z, d_in, d_hn = gru_formula(
            value(h, i), value(a, i), value(a, k + i), value(a, 2 * k + i), value(a, 3 * k + i),
            half, one,
        )  # fmt: skip
        put(new, i, y)
        put(inner, i, z)
        put(outer, i, d_r)
        put(outer, k + i, d_z)
        put(outer, 2 * k + i, d_in)
        put(outer, 3 * k + i, d_hn)
        i += 1


@njit(cache=True, nogil=True)
def lstm_formula(c: Any, a_i: Any, a_f: Any, a_g: Any, a_o: Any, half: Any, one: Any) -> Any:
    """Return h', c', ∂h'/∂c', f, o's partial of h', and the partials of c' by a_i, a_f, a_g."""
    i, f, o = sigmoid(a_i, half), sigmoid(a_f, half), sigmoid(a_o, half)
    g = tanh(a_g)
    new_c = f * c + i * g
    y = tanh(new_c)
    d_i, d_f, d_g = g * (i * (one - i)), c * (f * (one - f)), i * (one - g * g)
    return o * y, new_c, o * (one - y * y), f, y * (o * (one - o)), d_i, d_f, d_g


@njit(cache=True, nogil=True)
def lstm(
    state: NDArray[np.floating],  # (2, columns)     in   h, c
    pre: NDArray[np.floating],  # (4, columns)       in   a_i, a_f, a_g, a_o
    new_state: NDArray[np.floating],  # (2, columns)      out  h', c'
    d_state: NDArray[np.floating],  # (2, 2, columns)     out  ∂h'/∂c, ∂c'/∂c; ∂/∂h not written
    d_pre: NDArray[np.floating],  # (2, 4, columns)       out  ∂h'/∂a, ∂c'/∂a; ∂c'/∂a_o not written
) -> None:
    """LSTM: i, f, o = σ(a_i, a_f, a_o), g = tanh(a_g), c' = f c + i g, h' = o tanh(c')."""
    half, one = pre.dtype.type(0.5), pre.dtype.type(1)
    s, a, new = pointer(state, 0), pointer(pre, 0), pointer(new_state, 0)
    inner, outer = pointer(d_state, 0), pointer(d_pre, 0)
    k = state.shape[1]
    u = 0
    while u + lanes(a) <= k:
        h, c, d_h, f, d_o, d_i, d_f, d_g = lstm_formula(
            load(s, k + u), load(a, u), load(a, k + u), load(a, 2 * k + u), load(a, 3 * k + u),
            half, one,
        )  # fmt: skip
        store(new, u, h)
        store(new, k + u, c)
        store(inner, k + u, d_h * f)
        store(inner, 3 * k + u, f)
        store(outer, u, d_h * d_i)
        store(outer, k + u, d_h * d_f)
        store(outer, 2 * k + u, d_h * d_g)
        store(outer, 3 * k + u, d_o)
        store(outer, 4 * k + u, d_i)
        store(outer, 5 * k + u, d_f)
        store(outer, 6 * k + u, d_g)
        u += lanes(a)
    while u < k:
        h, c, d_h, f, d_o, d_i, d_f, d_g = lstm_formula(
            value(s, k + u), value(a, u), value(a, k + u), value(a, 2 * k + u),
            value(a, 3 * k + u), half, one,
        )  # fmt: skip
        put(new, u, h)
        put(new, k + u, c)
        put(inner, k + u, d_h * f)
        put(inner, 3 * k + u, f)
        put(outer, u, d_h * d_i)
        put(outer, k + u, d_h * d_f)
        put(outer, 2 * k + u, d_h * d_g)
        put(outer, 3 * k + u, d_o)
        put(outer, 4 * k + u, d_i)
        put(outer, 5 * k + u, d_f)
        put(outer, 6 * k + u, d_g)
        u += 1
