"""The update of J, its contraction, and both in one pass, for C: sparsegrad.h has the signatures.

These are plain Python until `sparsegrad.interop.c` compiles them with `numba.cfunc`, once for each
float type. They take bare pointers, allocate nothing and need no interpreter, so that a C program
may call them from any thread; each thread needs scratch of its own.
"""

from typing import Any

from numba import carray

from ..influence.panels import panels_contract, panels_update, panels_update_and_contract
from .addresses import WORDS, program_at


# J ← P ∘ (I + D J)
def c_update(
    program: Any,  # const sparsegrad_program *              in
    batch: int,  # int64_t                                   in
    dynamics_data: Any,  # (batch, dynamics_nnz)             in
    immediate_data: Any,  # (batch, immediate_nnz)           in
    influence: Any,  # (batch, influence_size)               in/out
    scratch: Any,  # (scratch_size,)                         scratch
) -> None:
    """Update J."""
    words = carray(program, (WORDS,))
    p = program_at(words, 0)
    panels_update(
        p[0], p[1], p[2], p[3], p[4], p[5], p[6],
        carray(dynamics_data, (batch, words[2])), carray(immediate_data, (batch, words[3])),
        carray(influence, (batch, words[4])), carray(scratch, (words[5],)),
    )  # fmt: skip


# grad ← Σ_b J_bᵀ δ_b
def c_contract(
    program: Any,  # const sparsegrad_program *              in
    batch: int,  # int64_t                                   in
    state_grad: Any,  # (batch, units)                       in
    influence: Any,  # (batch, influence_size)               in
    grad: Any,  # (weights,)                                 out
    scratch: Any,  # (scratch_size,)                         scratch
) -> None:
    """Contract J."""
    words = carray(program, (WORDS,))
    p = program_at(words, 0)
    panels_contract(
        p[0], p[1], p[2], p[3], p[4], p[5], p[6],
        carray(state_grad, (batch, words[0])), carray(influence, (batch, words[4])),
        carray(grad, (words[1],)), carray(scratch, (words[5],)),
    )  # fmt: skip


# both, in one pass over J
def c_update_and_contract(
    program: Any,  # const sparsegrad_program *              in
    batch: int,  # int64_t                                   in
    dynamics_data: Any,  # (batch, dynamics_nnz)             in
    immediate_data: Any,  # (batch, immediate_nnz)           in
    state_grad: Any,  # (batch, units)                       in
    influence: Any,  # (batch, influence_size)               in/out
    grad: Any,  # (weights,)                                 out
    scratch: Any,  # (scratch_size,)                         scratch
) -> None:
    """Update J and contract it."""
    words = carray(program, (WORDS,))
    p = program_at(words, 0)
    panels_update_and_contract(
        p[0], p[1], p[2], p[3], p[4], p[5], p[6],
        carray(dynamics_data, (batch, words[2])), carray(immediate_data, (batch, words[3])),
        carray(state_grad, (batch, words[0])), carray(influence, (batch, words[4])),
        carray(grad, (words[1],)), carray(scratch, (words[5],)),
    )  # fmt: skip
