"""Between ranks: the gradient that each has of its own weights, and what any of them has seen.

MPI is called at the address of its functions, from the compiled loop: a step has no Python in it
for any number of ranks, and a learner without ranks has one branch more.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..compiler.foreign import call_c

WORDS = 7
(
    ALLGATHERV,  # addresses of the functions
    ALLREDUCE,
    IN_PLACE,  # the constants and handles of this MPI
    COMMUNICATOR,
    NUMBER,  # the type of a weight
    INTEGER,  # int64
    MAXIMUM,
) = range(WORDS)


class Exchange(NamedTuple):
    """How a rank talks to the others; all empty for one rank, which talks to none."""

    words: NDArray[np.int64]  # (WORDS,) or (0,)
    counts: NDArray[np.int32]  # (ranks,) weights of each rank, one range after the other
    displacements: NDArray[np.int32]  # (ranks,) the first of them
    seen: NDArray[np.int64]  # (1,)   scratch


@njit(cache=True, nogil=True)
def gather_gradient(
    exchange: Exchange,  # in
    grad: NDArray[np.floating],  # (weights,)  in: those of this rank; out: all
) -> None:
    """Take from every rank the gradient of its own weights: each number is made by one rank."""
    w = exchange.words
    if w.size > 0:
        call_c(w[ALLGATHERV], (
            w[IN_PLACE], np.int64(0), w[NUMBER], np.int64(grad.ctypes.data),
            np.int64(exchange.counts.ctypes.data), np.int64(exchange.displacements.ctypes.data),
            w[NUMBER], w[COMMUNICATOR],
        ))  # fmt: skip


@njit(cache=True, nogil=True)
def seen_by_any(
    exchange: Exchange,  # in
    b: int,
) -> int:
    """Return the largest b of all ranks: -1 where no rank has seen a stream."""
    w = exchange.words
    if w.size == 0:
        return b
    exchange.seen[0] = b
    call_c(w[ALLREDUCE], (
        w[IN_PLACE], np.int64(exchange.seen.ctypes.data), np.int64(1), w[INTEGER], w[MAXIMUM],
        w[COMMUNICATOR],
    ))  # fmt: skip
    return exchange.seen[0]
