"""The update of J, its contraction, both in one pass, and a step of a cell, for C.

sparsegrad.h has the signatures.

These are plain Python until `sparsegrad.interop.c` compiles them with `numba.cfunc`, once for each
float type. They take bare pointers, allocate nothing and need no interpreter, so that a C program
may call them from any thread; each thread needs scratch of its own.
"""

from typing import Any

from numba import carray

from ..influence.panels import panels_contract, panels_update, panels_update_and_contract
from .addresses import (
    CELL_COMPONENTS,
    CELL_INPUTS,
    CELL_MAPS,
    CELL_UNITS,
    CELL_WEIGHTS,
    CELL_WORDS,
    DYNAMICS_NNZ,
    IMMEDIATE_NNZ,
    INFLUENCE_SIZE,
    SCRATCH_SIZE,
    UNITS,
    WEIGHTS,
    WORDS,
    program_at,
)
from .cell_step import cell_step


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
        p.panels, p.segments, p.entries, p.members, p.reached, p.columns, p.runs,
        carray(dynamics_data, (batch, words[DYNAMICS_NNZ])),
        carray(immediate_data, (batch, words[IMMEDIATE_NNZ])),
        carray(influence, (batch, words[INFLUENCE_SIZE])), carray(scratch, (words[SCRATCH_SIZE],)),
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
        p.panels, p.segments, p.entries, p.members, p.reached, p.columns, p.runs,
        carray(state_grad, (batch, words[UNITS])),
        carray(influence, (batch, words[INFLUENCE_SIZE])),
        carray(grad, (words[WEIGHTS],)), carray(scratch, (words[SCRATCH_SIZE],)),
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
        p.panels, p.segments, p.entries, p.members, p.reached, p.columns, p.runs,
        carray(dynamics_data, (batch, words[DYNAMICS_NNZ])),
        carray(immediate_data, (batch, words[IMMEDIATE_NNZ])),
        carray(state_grad, (batch, words[UNITS])),
        carray(influence, (batch, words[INFLUENCE_SIZE])),
        carray(grad, (words[WEIGHTS],)), carray(scratch, (words[SCRATCH_SIZE],)),
    )  # fmt: skip


# s', D and I of every sequence
def c_step(
    program: Any,  # const sparsegrad_program *              in
    cell: Any,  # const sparsegrad_cell *                    in
    batch: int,  # int64_t                                   in
    weights: Any,  # (weights,)                              in
    x: Any,  # (batch, inputs)                               in
    state: Any,  # (batch, components, units)                in
    new_state: Any,  # (batch, components, units)            out
    dynamics_data: Any,  # (batch, dynamics_nnz)             out
    immediate_data: Any,  # (batch, immediate_nnz)           out
    scratch: Any,  # (work_size,)                            scratch
) -> None:
    """Make a step of a cell, the one that the program is of."""
    words, of_cell = carray(program, (WORDS,)), carray(cell, (CELL_WORDS,))
    units, inputs = of_cell[CELL_UNITS], of_cell[CELL_INPUTS]
    count, n_maps = of_cell[CELL_COMPONENTS], of_cell[CELL_MAPS]
    room = carray(scratch, (units + inputs + 1 + units * (n_maps + count * (count + n_maps)),))
    sources, room = room[: units + inputs + 1], room[units + inputs + 1 :]
    pre, room = room[: n_maps * units], room[n_maps * units :]
    d_state, d_pre = room[: count * count * units], room[count * count * units :]
    cell_step(
        of_cell, 0, carray(weights, (of_cell[CELL_WEIGHTS],)), carray(x, (batch, inputs)),
        carray(state, (batch, count, units)), carray(new_state, (batch, count, units)),
        d_pre.reshape(1, count, n_maps, units),
        carray(dynamics_data, (batch, words[DYNAMICS_NNZ])),
        carray(immediate_data, (batch, words[IMMEDIATE_NNZ])),
        sources, pre.reshape(n_maps, units), d_state.reshape(count, count, units),
    )  # fmt: skip
