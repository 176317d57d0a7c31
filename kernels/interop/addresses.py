"""Arrays at bare addresses: for C programs and XLA, which hold no NumPy, and for a quick call.

Words of int64 describe a pattern's program, and others a cell: first sizes, then where the arrays
lie, as addresses (base 0) or as byte offsets from `base`. `sparsegrad.interop.addresses` writes
them; the struct `sparsegrad_program` in sparsegrad.h is the same words. From Python one array of
words is one argument, where its arrays would be some twenty, 0.05 to 0.1 µs each.
"""

from typing import Any

from numba import carray, njit, types
from numba.extending import intrinsic

from ..cells.maps import Dynamics, Partials

SIZES = (
    "units", "weights", "dynamics_nnz", "immediate_nnz", "influence_size", "scratch_size",
    "panels_count", "segments_count", "entries_count", "members_count", "rows_count", "runs_count",
)  # fmt: skip
ARRAYS = (
    "panels", "segments", "entries", "members", "reached", "columns", "runs",
)  # fmt: skip
WORDS = len(SIZES) + len(ARRAYS)
CELL_SIZES = (
    "units", "inputs", "components", "maps", "kind", "weights", "map_partials", "state_partials",
    "own_count", "runs", "run_entries",
)  # fmt: skip
CELL_ARRAYS = (
    "indptr", "recurrent_end", "indices", "map_indptr", "map_components", "state_rows",
    "state_columns", "own_place", "own_source", "run_indptr", "run_source", "run_weight",
    "run_place", "order",
)  # fmt: skip
CELL_WORDS = len(CELL_SIZES) + len(CELL_ARRAYS)
WORK_ARRAYS = ("weights", "sources", "state", "pre", "new_state", "d_state")


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


@njit(cache=True, nogil=True)
def program_at(words: Any, base: int) -> Any:
    """Return the seven arrays of a program from its block of words, in the kernels' order."""
    n_panels, n_segments, n_entries = words[6], words[7], words[8]
    n_members, n_rows, n_runs = words[9], words[10], words[11]
    return (
        carray(int64_at(base + words[12]), (n_panels + 1, 9)),
        carray(int64_at(base + words[13]), (n_segments, 3)),
        carray(int64_at(base + words[14]), (n_entries, 2)),
        carray(int64_at(base + words[15]), (n_members + 1, 5)),
        carray(int32_at(base + words[16]), (n_rows, 2)),
        carray(int32_at(base + words[17]), (words[1],)),
        carray(int64_at(base + words[18]), (n_runs, 4)),
    )


@njit(cache=True, nogil=True)
def cell_at(words: Any, base: int) -> Any:
    """Return from a cell's words its maps without the weights, partials, dynamics, and order.

    The order is the weight of each element of the arrays of their names, one after the other.
    """
    units, n_maps, weights = words[0], words[3], words[5]
    map_partials, state_partials = words[6], words[7]
    own, runs, entries = words[8], words[9], words[10]
    partials = Partials(
        carray(int64_at(base + words[14]), (n_maps + 1,)),
        carray(int32_at(base + words[15]), (map_partials,)),
        carray(int32_at(base + words[16]), (state_partials,)),
        carray(int32_at(base + words[17]), (state_partials,)),
    )
    dynamics = Dynamics(
        carray(int32_at(base + words[18]), (own,)),
        carray(int32_at(base + words[19]), (own,)),
        carray(int64_at(base + words[20]), (runs + 1,)),
        carray(int32_at(base + words[21]), (runs,)),
        carray(int32_at(base + words[22]), (entries,)),
        carray(int32_at(base + words[23]), (entries,)),
    )
    return (
        carray(int64_at(base + words[11]), (units * n_maps + 1,)),
        carray(int64_at(base + words[12]), (units * n_maps,)),
        carray(int32_at(base + words[13]), (weights,)),
        partials,
        dynamics,
        carray(int32_at(base + words[24]), (weights,)),
    )
