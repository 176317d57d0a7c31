"""SnAp-n and exact RTRL: forward, D, I, and the masked influence recurrence, step after step."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .cells import Dynamics, Partials, dynamics_values, immediate_values
from .csr import csr_update_and_contract
from .steps import BAD_GRADIENT, FINE, Chunk, Learner, Streams, finish, observe, signal


class Program(NamedTuple):
    """The influence on its pattern, and what a step of it reads."""

    dynamics_indptr: NDArray[np.int64]
    dynamics_indices: NDArray[np.int32]
    immediate_indptr: NDArray[np.int64]
    immediate_indices: NDArray[np.int32]
    reach_indptr: NDArray[np.int64]
    reach_indices: NDArray[np.int32]
    dynamics_data: NDArray[np.floating]  # (B, nnz of D)    scratch
    immediate_data: NDArray[np.floating]  # (B, nnz of I)   scratch
    influence: NDArray[np.floating]  # (B, entries)         in/out
    step_grad: NDArray[np.floating]  # (weights,)           scratch
    work: NDArray[np.floating]  # (states,)                 scratch, 0 on entry and exit


@njit(cache=True, nogil=True)
def influence_step(
    program: Program,  # in/out
    state_grad: NDArray[np.floating],  # (B, states)  in
    grad: NDArray[np.floating],  # (weights,)         in/out
) -> None:
    """Update J of every stream and add its gradient."""
    for b in range(program.influence.shape[0]):
        csr_update_and_contract(
            program.dynamics_indptr,
            program.dynamics_indices,
            program.immediate_indptr,
            program.immediate_indices,
            program.reach_indptr,
            program.reach_indices,
            program.dynamics_data[b],
            program.immediate_data[b],
            state_grad[b],
            program.influence[b],
            program.step_grad,
            program.work,
        )
        for w in range(grad.size):
            grad[w] += program.step_grad[w]


@njit(cache=True, nogil=True)
def run_snap(
    update: Callable[..., None],
    learner: Learner,
    partials: Partials,
    dynamics: Dynamics,
    chunk: Chunk,
    streams: Streams,
    program: Program,
) -> tuple[int, int, int]:
    """Run a chunk; return the steps done, what stopped it, and at which stream."""
    maps = learner.maps
    for t in range(chunk.xs.shape[0]):
        fault, b = observe(update, learner, chunk, t, streams)
        if fault != FINE:
            return t, fault, b
        signal(learner, chunk, t, streams)
        for b in range(program.influence.shape[0]):
            d_state, d_pre = streams.d_state[b], streams.d_pre[b]
            if chunk.resets[t, b]:
                program.influence[b, :] = 0
            dynamics_values(dynamics, maps.weights, d_state, d_pre, program.dynamics_data[b])
            immediate_values(maps, partials, streams.sources[b], d_pre, program.immediate_data[b])
        influence_step(program, streams.state_grad, learner.grad)
        if not finish(learner, streams):
            return t, BAD_GRADIENT, 0
    return chunk.xs.shape[0], FINE, 0
