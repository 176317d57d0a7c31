"""Numeric phase, the plain family: the influence update, one weight at a time on the plain CSR.

    SnAp-n:    J ← P ∘ (I + D·J)         P keeps (i, w) when weight w reaches unit i within n steps
    gradient:  g = Jᵀ δ                  δ_i = ∂L/∂s_i of this step

J is stored by weight: row w of the pattern holds the sorted units that w reaches, and `influence`
holds J[i, w] in the same order. D is by rows (CSR), I by weights (CSC), both sorted and unique.
`sparsegrad.reach` makes all three. Every row of a column of I lies in the reach of its weight.

The old J of one weight is scattered into `work`, a vector over all units that is zero elsewhere;
then each kept row i is a dot product of row i of D with it. What D finds outside the reach is a
zero: that is the mask. Only the places touched are cleared, so `work` is zero again on return.

Read these first, and use them as the reference: `sparsegrad.kernels.influence.panels` does the
same work many times faster. Index arrays are int32, pointers int64; all values float32, or all
float64. Nothing is allocated, checked or raised here.

Source: Menick, Elsen, Evci, Osindero, Simonyan, Graves, "A Practical Sparse Approximation for Real
Time Recurrent Learning", arXiv 2006.07232 (ICLR 2021), section 3.
"""

import numba
import numpy as np
from numpy.typing import NDArray


# J[i, w] ← Σ_m D[i, m] J[m, w] + I[i, w]   for (i, w) in the pattern
@numba.njit(cache=True, nogil=True)
def csr_update(
    dynamics_indptr: NDArray[np.int64],  # (units + 1,)    in, D by rows
    dynamics_indices: NDArray[np.int32],  # (nnz of D,)     in
    immediate_indptr: NDArray[np.int64],  # (weights + 1,)  in, I by weights
    immediate_indices: NDArray[np.int32],  # (nnz of I,)     in
    reach_indptr: NDArray[np.int64],  # (weights + 1,)  in, J by weights: pattern.indptr
    reach_indices: NDArray[np.int32],  # (nnz,)          in, pattern.indices
    dynamics_data: NDArray[np.floating],  # (nnz of D,)     in
    immediate_data: NDArray[np.floating],  # (nnz of I,)     in
    influence: NDArray[np.floating],  # (nnz,)          in/out, J_{t-1} → J_t
    work: NDArray[np.floating],  # (units,)        scratch, zero on entry and on exit
) -> None:
    """Update the influence by one step, in place."""
    for weight in range(reach_indptr.size - 1):
        start = reach_indptr[weight]
        stop = reach_indptr[weight + 1]
        for slot in range(start, stop):
            work[reach_indices[slot]] = influence[slot]
        written = immediate_indptr[weight]  # the next row of I; both lists rise
        for slot in range(start, stop):
            unit = reach_indices[slot]
            total = influence.dtype.type(0)
            for inner in range(dynamics_indptr[unit], dynamics_indptr[unit + 1]):
                total += dynamics_data[inner] * work[dynamics_indices[inner]]
            if written < immediate_indptr[weight + 1] and immediate_indices[written] == unit:
                total += immediate_data[written]
                written += 1
            influence[slot] = total
        for slot in range(start, stop):
            work[reach_indices[slot]] = 0


# g[w] = Σ_i J[i, w] δ_i
@numba.njit(cache=True, nogil=True)
def csr_contract(
    reach_indptr: NDArray[np.int64],  # (weights + 1,)  in, pattern.indptr
    reach_indices: NDArray[np.int32],  # (nnz,)          in, pattern.indices
    influence: NDArray[np.floating],  # (nnz,)          in
    state_grad: NDArray[np.floating],  # (units,)        in, δ
    grad: NDArray[np.floating],  # (weights,)      out
) -> None:
    """Turn the gradient of the state into the gradient of the weights."""
    for weight in range(reach_indptr.size - 1):
        total = influence.dtype.type(0)
        for slot in range(reach_indptr[weight], reach_indptr[weight + 1]):
            total += influence[slot] * state_grad[reach_indices[slot]]
        grad[weight] = total


# J[i, w] ← Σ_m D[i, m] J[m, w] + I[i, w],   g[w] = Σ_i J[i, w] δ_i with the new J
@numba.njit(cache=True, nogil=True)
def csr_update_and_contract(
    dynamics_indptr: NDArray[np.int64],  # (units + 1,)    in, D by rows
    dynamics_indices: NDArray[np.int32],  # (nnz of D,)     in
    immediate_indptr: NDArray[np.int64],  # (weights + 1,)  in, I by weights
    immediate_indices: NDArray[np.int32],  # (nnz of I,)     in
    reach_indptr: NDArray[np.int64],  # (weights + 1,)  in, J by weights: pattern.indptr
    reach_indices: NDArray[np.int32],  # (nnz,)          in, pattern.indices
    dynamics_data: NDArray[np.floating],  # (nnz of D,)     in
    immediate_data: NDArray[np.floating],  # (nnz of I,)     in
    state_grad: NDArray[np.floating],  # (units,)        in, δ of the new state
    influence: NDArray[np.floating],  # (nnz,)          in/out, J_{t-1} → J_t
    grad: NDArray[np.floating],  # (weights,)      out
    work: NDArray[np.floating],  # (units,)        scratch, zero on entry and on exit
) -> None:
    """Update the influence and contract it in the same pass: J is read once, written once.

    The loss of a step depends on the new state alone, so δ is known before J is updated.
    """
    for weight in range(reach_indptr.size - 1):
        start = reach_indptr[weight]
        stop = reach_indptr[weight + 1]
        for slot in range(start, stop):
            work[reach_indices[slot]] = influence[slot]
        written = immediate_indptr[weight]
        gradient = influence.dtype.type(0)
        for slot in range(start, stop):
            unit = reach_indices[slot]
            total = influence.dtype.type(0)
            for inner in range(dynamics_indptr[unit], dynamics_indptr[unit + 1]):
                total += dynamics_data[inner] * work[dynamics_indices[inner]]
            if written < immediate_indptr[weight + 1] and immediate_indices[written] == unit:
                total += immediate_data[written]
                written += 1
            influence[slot] = total
            gradient += total * state_grad[unit]
        grad[weight] = gradient
        for slot in range(start, stop):
            work[reach_indices[slot]] = 0
