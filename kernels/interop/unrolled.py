"""One step back through a graph that a host holds: Dᵀ λ for the state, Iᵀ λ for the weights."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def pull_state(
    dynamics_indptr: NDArray[np.integer],  # (states + 1,)   in, D by rows
    dynamics_indices: NDArray[np.int32],  # (nnz of D,)      in
    dynamics_data: NDArray[np.floating],  # (B, nnz of D)    in
    state_grad: NDArray[np.floating],  # (B, states)         in   λ
    before: NDArray[np.floating],  # (B, states)             out  Dᵀ λ
) -> None:
    """Form Dᵀ λ of every stream."""
    before[:] = 0
    for b in range(state_grad.shape[0]):
        for i in range(state_grad.shape[1]):
            grad = state_grad[b, i]
            for e in range(dynamics_indptr[i], dynamics_indptr[i + 1]):
                before[b, dynamics_indices[e]] += dynamics_data[b, e] * grad


@njit(cache=True, nogil=True)
def pull_weights(
    immediate_indptr: NDArray[np.integer],  # (weights + 1,)  in, I weight by weight
    immediate_indices: NDArray[np.int32],  # (nnz of I,)      in
    immediate_data: NDArray[np.floating],  # (B, nnz of I)    in
    state_grad: NDArray[np.floating],  # (B, states)          in   λ
    step_grad: NDArray[np.floating],  # (weights,)            out  Σ_b Iᵀ λ
) -> None:
    """Form Iᵀ λ, summed over the streams in their order."""
    step_grad[:] = 0
    for b in range(state_grad.shape[0]):
        for w in range(step_grad.size):
            for e in range(immediate_indptr[w], immediate_indptr[w + 1]):
                step_grad[w] += immediate_data[b, e] * state_grad[b, immediate_indices[e]]
