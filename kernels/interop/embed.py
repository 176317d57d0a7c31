"""One step of a cell inside somebody else's loop: forward, D and I of a batch, and ∂L/∂x.

A host framework holds the weights in arrays of its own, one per name, and gives the step's loss
back as δ = ∂L_t/∂s_t; then J is advanced and contracted. What stays the same from call to call
comes as words of addresses (`addresses`). Nothing here is parallel: to load a parallel kernel
starts Numba's threads, and with OpenMP that sets the host's number of threads too.
"""

import numpy as np
from numba import carray, njit
from numpy.typing import NDArray

from ..cells.maps import Maps, Partials, apply_maps, dynamics_values, immediate_values
from ..cells.updates import elementwise
from ..influence.panels import CONTRACT, UPDATE, panels_range
from .addresses import CELL_INPUTS, CELL_UPDATE, cell_at, program_at, real_at, work_at

FINE = -1
COMPARED, SURE, LEARNABLE = 1, 2, 4
"""What `find_starts` is told: look at the state; a zero one goes on; it requires a gradient."""


@njit(cache=True, nogil=True)
def gather_weights(
    parts: NDArray[np.int64],  # (names, 2)  address and size of each array   in
    order: NDArray[np.int32],  # (weights,)  weight of each of their elements, in turn   in
    weights: NDArray[np.floating],  # (weights,)                in/out
) -> bool:
    """Take the weights over from the arrays of their names; return whether any has changed."""
    at = 0
    changed = 0
    for k in range(parts.shape[0]):
        part = carray(real_at(parts[k, 0], weights.dtype.type(0)), (parts[k, 1],))
        for i in range(part.size):
            w = np.uint32(order[at])
            changed |= weights[w] != part[i]
            weights[w] = part[i]
            at += 1
    return changed != 0


@njit(cache=True, nogil=True)
def add_in_order(
    order: NDArray[np.int32],  # (size,)  weight of each element; -1 where none exists   in
    step_grad: NDArray[np.floating],  # (weights,)   in, in the order of the maps
    grad: NDArray[np.floating],  # (size,)           in/out, as the host has its parameters
) -> bool:
    """Add a gradient in the host's order; return whether the sum is finite."""
    broken = 0
    for i in range(order.size):
        if order[i] >= 0:
            grad[i] += step_grad[np.uint32(order[i])]
            broken |= not np.isfinite(grad[i])
    return broken == 0


# J belongs to the state that its last step returned. A row that is given back as it was goes on; a
# row of zeros begins; any other has a J that is not here. One that was zero itself says neither.
@njit(cache=True, nogil=True)
def find_starts(
    h: NDArray[np.floating],  # (B, units)                      in
    others: NDArray[np.floating],  # (C - 1, B, units)          in, the other state numbers
    last: NDArray[np.floating],  # (C, B, units)                in: the state that J belongs to
    told: int,  # of COMPARED, SURE and LEARNABLE
    starts: NDArray[np.bool_],  # (B,)   in: where the host begins; out: and where the state is 0
) -> int:
    """Find where a sequence begins.

    Return FINE, or 2B + b where J is another state's, 3B + b where a state of zeros may go on or
    begin, 4B + b where a sequence begins at a state that wants a gradient.
    """
    components, batch, units = last.shape
    for b in range(batch):
        same = zero = True
        for i in range(units):
            same &= h[b, i] == last[0, b, i]
            zero &= h[b, i] == 0
            for k in range(1, components):
                same &= others[k - 1, b, i] == last[k, b, i]
                zero &= others[k - 1, b, i] == 0
        if starts[b]:
            if told & LEARNABLE and not zero:
                return 4 * batch + b
        elif told & COMPARED and not same:
            if not zero:
                return 2 * batch + b
            starts[b] = True
        elif told & COMPARED and zero and not told & SURE:
            return 3 * batch + b
    return FINE


@njit(cache=True, nogil=True)
def host_step(
    cell: NDArray[np.int64],  # (CELL_WORDS + WORK_ARRAYS,)     in: a cell, and what it works in
    parts: NDArray[np.int64],  # (names, 2)  where the weights are   in
    places: tuple[int, int, int],  # of x, (B, inputs), h, (B, units), and (C - 1, B, units)  in
    wants: int,  # 0: s' alone; 1: and ∂s'/∂a; 2: D and I; 3: all    in
    told: int,  # for `find_starts`                             in
    starts: NDArray[np.bool_],  # (B,)  where a sequence begins     in/out, with D and I
    last: NDArray[np.floating],  # (C, B, units)  the state J belongs to    in/out, with D and I
    new_state: NDArray[np.floating],  # (C, B, units)           out, component by component
    d_pre: NDArray[np.floating],  # (B or 1, C, maps, units)    out, or scratch
    dynamics_data: NDArray[np.floating],  # (B, nnz of D)       out
    immediate_data: NDArray[np.floating],  # (B, nnz of I)      out
) -> tuple[bool, int]:
    """Run a step forward.

    Return whether the weights are others than last time, and FINE, or b where x is not finite,
    B + b where s' is not, or what `find_starts` found; `last` is as it was then.
    """
    indptr, recurrent_end, indices, partials, dynamics, order = cell_at(cell, 0)
    components, batch, units = new_state.shape
    inputs, zero = cell[CELL_INPUTS], new_state.dtype.type(0)
    weights, sources, state, pre, new, d_state = work_at(cell, zero)
    x = carray(real_at(places[0], zero), (batch, inputs))
    h = carray(real_at(places[1], zero), (batch, units))
    others = carray(real_at(places[2], zero), (components - 1, batch, units))
    if wants & 2:
        outcome = find_starts(h, others, last, told, starts)
        if outcome != FINE:
            return False, outcome
    maps = Maps(indptr, recurrent_end, indices, weights)
    changed = gather_weights(parts, order, weights)
    for b in range(batch):
        for i in range(units):
            sources[i] = state[0, i] = h[b, i]
            for k in range(1, components):
                state[k, i] = others[k - 1, b, i]
        for i in range(inputs):
            if not np.isfinite(x[b, i]):
                return changed, b
            sources[units + i] = x[b, i]
        apply_maps(maps, sources, pre)
        outer = d_pre[b if wants & 1 else 0]
        elementwise(cell[CELL_UPDATE], state, pre, new, d_state, outer)
        for k in range(components):
            for i in range(units):
                new_state[k, b, i] = new[k, i]
                if not np.isfinite(new[k, i]):
                    return changed, batch + b
        if wants & 2:
            dynamics_values(dynamics, weights, d_state, outer, dynamics_data[b])
            immediate_values(maps, partials, sources, outer, immediate_data[b])
    if wants & 2:
        for k in range(components):
            for b in range(batch):
                for i in range(units):
                    last[k, b, i] = new_state[k, b, i]
    return changed, FINE


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
def host_input_gradient(
    cell: NDArray[np.int64],  # (CELL_WORDS + WORK_ARRAYS,)  in
    d_pre: NDArray[np.floating],  # (B, C, maps, units)      in
    state_grad: NDArray[np.floating],  # (B, C * units)      in   δ
    x_grad: NDArray[np.floating],  # (B, inputs)             out
) -> None:
    """Pull δ back to the input of its own step, with the weights of the last step."""
    indptr, recurrent_end, indices, partials, _, _ = cell_at(cell, 0)
    work = work_at(cell, d_pre.dtype.type(0))
    maps = Maps(indptr, recurrent_end, indices, work.weights)
    input_gradient(maps, partials, d_pre, state_grad, x_grad)


@njit(cache=True, nogil=True)
def host_influence_step(
    program: NDArray[np.int64],  # (WORDS,)                   in
    dynamics_data: NDArray[np.floating],  # (B, nnz of D)     in
    immediate_data: NDArray[np.floating],  # (B, nnz of I)    in
    scored: bool,
    state_grad: NDArray[np.floating],  # (B, states)          in
    influence: NDArray[np.floating],  # (B, size)             in/out
    order: NDArray[np.int32],  # (host's size,)  see `add_in_order`   in
    grad: NDArray[np.floating],  # (host's size,)             in/out
    step_grad: NDArray[np.floating],  # (weights,)            scratch
    scratch: NDArray[np.floating],  # (1, scratch size)       scratch
) -> bool:
    """Update J of every sequence; if it is scored add its gradient, and say if that is finite."""
    p = program_at(program, 0)
    mode = UPDATE | CONTRACT if scored else UPDATE
    panels_range(
        0, p[0].shape[0] - 1, mode, p[0], p[1], p[2], p[3], p[4], p[5], p[6],
        dynamics_data, immediate_data, state_grad, influence, step_grad, scratch[0],
    )  # fmt: skip
    return add_in_order(order, step_grad, grad) if scored else True
