"""Arrays at bare addresses: for C programs and XLA, which hold no NumPy, and for a quick call.

Words of int64 describe a pattern's program, and others a cell: first sizes, then where the arrays
lie, as addresses (base 0) or as byte offsets from `base`. `sparsegrad.interop.addresses` writes
them; the struct `sparsegrad_program` in sparsegrad.h is the same words. From Python one array of
words is one argument, where its arrays would be some twenty, 0.05 to 0.1 µs each.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..cells.maps import Dynamics, Partials
from ..influence.tables import (
    ENTRY_FIELDS,
    MEMBER_FIELDS,
    PANEL_FIELDS,
    REACHED_FIELDS,
    RUN_FIELDS,
    SEGMENT_FIELDS,
)

SIZES = (
    "units", "weights", "dynamics_nnz", "immediate_nnz", "influence_size", "scratch_size",
    "panels_count", "segments_count", "entries_count", "members_count", "rows_count", "runs_count",
)  # fmt: skip
ARRAYS = (
    "panels", "segments", "entries", "members", "reached", "columns", "runs",
)  # fmt: skip
WORDS = len(SIZES) + len(ARRAYS)
(
    UNITS, WEIGHTS, DYNAMICS_NNZ, IMMEDIATE_NNZ, INFLUENCE_SIZE, SCRATCH_SIZE,
    PANELS_COUNT, SEGMENTS_COUNT, ENTRIES_COUNT, MEMBERS_COUNT, ROWS_COUNT, RUNS_COUNT,
    PANELS, SEGMENTS, ENTRIES, MEMBERS, REACHED, COLUMNS, RUNS,
) = range(WORDS)  # fmt: skip
"""Places of the words of a program."""
CELL_SIZES = (
    "units", "inputs", "components", "maps", "update", "weights", "map_partials", "state_partials",
    "own_count", "runs", "run_entries",
)  # fmt: skip
CELL_ARRAYS = (
    "indptr", "recurrent_end", "indices", "map_indptr", "map_components", "state_rows",
    "state_columns", "own_place", "own_source", "run_indptr", "run_source", "run_weight",
    "run_place", "order",
)  # fmt: skip
CELL_WORDS = len(CELL_SIZES) + len(CELL_ARRAYS)
(
    CELL_UNITS, CELL_INPUTS, CELL_COMPONENTS, CELL_MAPS, CELL_UPDATE, CELL_WEIGHTS, MAP_PARTIALS,
    STATE_PARTIALS, OWN_COUNT, CELL_RUNS, RUN_ENTRIES,
    INDPTR, RECURRENT_END, INDICES, MAP_INDPTR, MAP_COMPONENTS, STATE_ROWS,
    STATE_COLUMNS, OWN_PLACE, OWN_SOURCE, RUN_INDPTR, RUN_SOURCE, RUN_WEIGHT,
    RUN_PLACE, ORDER,
) = range(CELL_WORDS)  # fmt: skip
"""Places of the words of a cell."""
WORK_ARRAYS = ("weights", "sources", "state", "pre", "new_state", "d_state")
(
    WORK_WEIGHTS, WORK_SOURCES, WORK_STATE, WORK_PRE, WORK_NEW_STATE, WORK_D_STATE,
) = range(len(WORK_ARRAYS))  # fmt: skip
"""Places of the words behind a cell's: what a step works in."""


class Work(NamedTuple):
    """What a step of a cell works in; the sources end with the 1 of the biases."""

    weights: NDArray[np.floating]  # (weights,)
    sources: NDArray[np.floating]  # (units + inputs + 1,)
    state: NDArray[np.floating]  # (components, units)
    pre: NDArray[np.floating]  # (maps, units)
    new_state: NDArray[np.floating]  # (components, units)
    d_state: NDArray[np.floating]  # (components, components, units)


def _pointer_to(dtype: Any) -> Any:
    """Return an intrinsic that reads an int64 as the address of a `dtype`."""

    @intrinsic
    def at(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = context.get_value_type(sig.return_type)
            return builder.inttoptr(args[0], kind)

        return types.CPointer(dtype)(types.int64), codegen

    return at


int32_at = _pointer_to(types.int32)
int64_at = _pointer_to(types.int64)


@intrinsic
def _real_at(typingctx: Any, address: Any, like: Any) -> Any:
    """Read an int64 as the address of a number of the type of `like`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return types.CPointer(like)(types.int64, like), codegen


real_at: Any = _real_at  # an intrinsic hides its first argument from type checkers


class Tables(NamedTuple):
    """The arrays of a program, as `sparsegrad.influence.program.Program` has them."""

    panels: NDArray[np.int64]
    segments: NDArray[np.int64]
    entries: NDArray[np.int64]
    members: NDArray[np.int64]
    reached: NDArray[np.int32]
    columns: NDArray[np.int32]
    runs: NDArray[np.int64]


@njit(cache=True, nogil=True)
def program_at(words: Any, base: int) -> Tables:
    """Return the arrays of a program from its block of words."""
    return Tables(
        carray(int64_at(base + words[PANELS]), (words[PANELS_COUNT] + 1, PANEL_FIELDS)),
        carray(int64_at(base + words[SEGMENTS]), (words[SEGMENTS_COUNT], SEGMENT_FIELDS)),
        carray(int64_at(base + words[ENTRIES]), (words[ENTRIES_COUNT], ENTRY_FIELDS)),
        carray(int64_at(base + words[MEMBERS]), (words[MEMBERS_COUNT] + 1, MEMBER_FIELDS)),
        carray(int32_at(base + words[REACHED]), (words[ROWS_COUNT], REACHED_FIELDS)),
        carray(int32_at(base + words[COLUMNS]), (words[WEIGHTS],)),
        carray(int64_at(base + words[RUNS]), (words[RUNS_COUNT], RUN_FIELDS)),
    )


@njit(cache=True, nogil=True)
def cell_at(words: Any, base: int) -> Any:
    """Return from a cell's words its maps without the weights, partials, dynamics, and order.

    The order is the weight of each element of the arrays of their names, one after the other.
    """
    rows, weights = words[CELL_UNITS] * words[CELL_MAPS], words[CELL_WEIGHTS]
    map_partials, state_partials = words[MAP_PARTIALS], words[STATE_PARTIALS]
    own, runs, entries = words[OWN_COUNT], words[CELL_RUNS], words[RUN_ENTRIES]
    partials = Partials(
        carray(int64_at(base + words[MAP_INDPTR]), (words[CELL_MAPS] + 1,)),
        carray(int32_at(base + words[MAP_COMPONENTS]), (map_partials,)),
        carray(int32_at(base + words[STATE_ROWS]), (state_partials,)),
        carray(int32_at(base + words[STATE_COLUMNS]), (state_partials,)),
    )
    dynamics = Dynamics(
        carray(int32_at(base + words[OWN_PLACE]), (own,)),
        carray(int32_at(base + words[OWN_SOURCE]), (own,)),
        carray(int64_at(base + words[RUN_INDPTR]), (runs + 1,)),
        carray(int32_at(base + words[RUN_SOURCE]), (runs,)),
        carray(int32_at(base + words[RUN_WEIGHT]), (entries,)),
        carray(int32_at(base + words[RUN_PLACE]), (entries,)),
    )
    return (
        carray(int64_at(base + words[INDPTR]), (rows + 1,)),
        carray(int64_at(base + words[RECURRENT_END]), (rows,)),
        carray(int32_at(base + words[INDICES]), (weights,)),
        partials,
        dynamics,
        carray(int32_at(base + words[ORDER]), (weights,)),
    )


@njit(cache=True, nogil=True)
def work_at(words: Any, like: Any) -> Work:
    """Return what a step works in, of the type of `like`, from the words of a cell and behind."""
    components, n_maps = words[CELL_COMPONENTS], words[CELL_MAPS]
    units, inputs, at = words[CELL_UNITS], words[CELL_INPUTS], words[CELL_WORDS:]
    return Work(
        carray(real_at(at[WORK_WEIGHTS], like), (words[CELL_WEIGHTS],)),
        carray(real_at(at[WORK_SOURCES], like), (units + inputs + 1,)),
        carray(real_at(at[WORK_STATE], like), (components, units)),
        carray(real_at(at[WORK_PRE], like), (n_maps, units)),
        carray(real_at(at[WORK_NEW_STATE], like), (components, units)),
        carray(real_at(at[WORK_D_STATE], like), (components, components, units)),
    )
