"""One step of a cell inside somebody else's loop: forward, D and I of a batch, and ∂L/∂x.

A host framework holds the weights in arrays of its own, one per name, and gives the step's loss
back as δ = ∂L_t/∂s_t; then J is advanced and contracted. Nothing here is parallel: to load a
parallel kernel starts Numba's threads, and with OpenMP that sets the host's number of threads too.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .cells import Dynamics, Maps, Partials, apply_maps, dynamics_values, immediate_values
from .elementwise import gru, lstm, rnn_relu, rnn_tanh
from .panels import CONTRACT, UPDATE, panels_range, spread_dynamics
from .snap import Numbers

FINE = -1
KINDS = (rnn_tanh, rnn_relu, gru, lstm)
"""The updates that `elementwise` knows: a pointer to a function costs 25 µs to pass in a call."""


class Work(NamedTuple):
    """Scratch of a forward step; `d_state` is zero at first."""

    sources: NDArray[np.floating]  # (units + inputs + 1,)   z, its last element 1
    pre: NDArray[np.floating]  # (maps, units)
    new_state: NDArray[np.floating]  # (C, units)
    d_state: NDArray[np.floating]  # (C, C, units)


@njit(cache=True, nogil=True)
def elementwise(
    kind: int,  # place of the update in KINDS
    state: NDArray[np.floating],
    pre: NDArray[np.floating],
    new_state: NDArray[np.floating],
    d_state: NDArray[np.floating],
    d_pre: NDArray[np.floating],
) -> None:
    """Run the update of a built-in cell; the arrays are those of `kernels.elementwise`."""
    if kind == 0:
        rnn_tanh(state, pre, new_state, d_state, d_pre)
    elif kind == 1:
        rnn_relu(state, pre, new_state, d_state, d_pre)
    elif kind == 2:
        gru(state, pre, new_state, d_state, d_pre)
    else:
        lstm(state, pre, new_state, d_state, d_pre)


@njit(cache=True, nogil=True)
def gather_weights(
    parts: tuple[NDArray[Any], ...],  # one array per name      in
    order: NDArray[np.int32],  # (weights,)  weight of each element of the parts, in turn   in
    weights: NDArray[np.floating],  # (weights,)                in/out
) -> bool:
    """Take the weights over from the arrays of their names; return whether any has changed."""
    at = 0
    changed = 0
    for part in parts:
        for i in range(part.size):
            w = np.uint32(order[at])
            changed |= weights[w] != part[i]
            weights[w] = part[i]
            at += 1
    return changed != 0


@njit(cache=True, nogil=True)
def order_gradient(
    grad: NDArray[np.floating],  # (weights,)   in, in the order of the maps
    order: NDArray[np.int32],  # (weights,)     in
    flat: NDArray[np.floating],  # (weights,)   out, name after name
) -> None:
    """Order a gradient as the arrays of the names are."""
    for i in range(flat.size):
        flat[i] = grad[np.uint32(order[i])]


@njit(cache=True, nogil=True)
def embedded_step(
    kind: int,
    maps: Maps,  # in
    partials: Partials,  # in
    dynamics: Dynamics,  # in
    x: NDArray[np.floating],  # (B, inputs)                  in
    state: NDArray[np.floating],  # (B, C, units)            in
    wants: int,  # 0: s' alone; 1: and ∂s'/∂a; 2: and D, I    in
    new_state: NDArray[np.floating],  # (C, B, units)        out, component by component
    d_pre: NDArray[np.floating],  # (B, C, maps, units)      out
    dynamics_data: NDArray[np.floating],  # (B, nnz of D)    out
    immediate_data: NDArray[np.floating],  # (B, nnz of I)   out
    work: Work,  # scratch
) -> int:
    """Run a step forward. Return FINE, or b where x is not finite, or B + b where s' is not."""
    batch, components, units = state.shape
    inputs = x.shape[1]
    for b in range(batch):
        for i in range(units):
            work.sources[i] = state[b, 0, i]
        for i in range(inputs):
            if not np.isfinite(x[b, i]):
                return b
            work.sources[units + i] = x[b, i]
        apply_maps(maps, work.sources, work.pre)
        outer = d_pre[b if wants > 0 else 0]
        elementwise(kind, state[b], work.pre, work.new_state, work.d_state, outer)
        for c in range(components):
            for i in range(units):
                new_state[c, b, i] = work.new_state[c, i]
                if not np.isfinite(work.new_state[c, i]):
                    return batch + b
        if wants > 1:
            dynamics_values(dynamics, maps.weights, work.d_state, outer, dynamics_data[b])
            immediate_values(maps, partials, work.sources, outer, immediate_data[b])
    return FINE


@njit(cache=True, nogil=True)
def input_gradient(
    maps: Maps,  # in
    partials: Partials,  # in
    d_pre: NDArray[np.floating],  # (B, C, maps, units)     in
    state_grad: NDArray[np.floating],  # (B, C * units)     in   δ
    x_grad: NDArray[np.floating],  # (B, inputs)            out
) -> None:
    """Pull δ back to the input of its own step: ∂L_t/∂x = Σ_g U_gᵀ Σ_c ∂s'_c/∂a_g δ_c."""
    indices, weights = maps.indices, maps.weights
    n_maps, units = d_pre.shape[2:]
    inputs = x_grad.shape[1]
    for b in range(x_grad.shape[0]):
        for i in range(inputs):
            x_grad[b, i] = 0
        for u in range(units):
            for g in range(n_maps):
                row = u * n_maps + g
                d_map = weights.dtype.type(0)
                for q in range(partials.map_indptr[g], partials.map_indptr[g + 1]):
                    c = partials.map_components[q]
                    d_map += d_pre[b, c, g, u] * state_grad[b, c * units + u]
                for w in range(maps.recurrent_end[row], maps.indptr[row + 1]):
                    source = indices[w] - units
                    if source < inputs:  # the last source is the constant 1 of the biases
                        x_grad[b, source] += weights[w] * d_map


@njit(cache=True, nogil=True)
def serial_influence_step(
    program: Any,  # in, the named arrays of sparsegrad.program.Program
    numbers: Numbers,  # in/out
    scored: bool,
    state_grad: NDArray[np.floating],  # (B, states)   in
    grad: NDArray[np.floating],  # (weights,)          in/out
) -> None:
    """Do as `sparsegrad.kernels.snap.influence_step`, on the caller's thread."""
    p, n = program, numbers
    mode = UPDATE | CONTRACT if scored else UPDATE
    spread_dynamics(p.dynamics_indptr, p.dynamics_indices, n.dynamics_data, n.dense)
    panels_range(
        0, p.panels.shape[0] - 1, mode, p.dynamics_indptr, p.dynamics_indices, p.panels,
        p.row_indptr, p.rows, p.source_indptr, p.sources, p.columns, p.runs, n.dynamics_data,
        n.immediate_data, state_grad, n.influence, n.step_grad, n.dense, n.scratch[0],
    )  # fmt: skip
    if scored:
        for w in range(n.step_grad.size):
            grad[w] += n.step_grad[w]
