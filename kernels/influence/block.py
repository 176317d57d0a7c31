"""J through a window of steps at once, for a saturated pattern: dense products in place of steps.

    Φ_t = D_T … D_{t+1},     J_T = Φ_0 J_0 + Σ_t Φ_t I_t          (Schmidhuber 1992, for a panel)

Nothing is masked on a saturated pattern, so this is exact; its price per step falls with T. Φ is
kept transposed, Ψ_t = Φ_tᵀ, so that the rows of the panel that one entry of it serves stand side by
side. Rows are computed six at a time, with the sums in registers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..compiler.decorators import from_kernels, into_caller
from ..vectors import arithmetic  # noqa: F401 - so that vectors can be added
from ..vectors.bundles import bundle, fma_bundle, load_bundle, store_bundle
from ..vectors.simd import (
    SLACK,
    WIDE,
    index,
    lanes,
    load_part,
    pointer,
    put,
    splat,
    store_part,
    value,
)  # fmt: skip
from .tables import (
    FIRST_RUN,
    FIRST_VALUE,
    LENGTH,
    OFFSET,
    OUTSIDE,
    ROWS,
    STEP,
    STRIDE,
    TARGET,
    VECTORS,
)  # fmt: skip

AT_A_TIME = 6
"""Rows of a panel that are computed at once: with AT_ONCE vectors each they fill the registers."""
AT_ONCE = 4 if WIDE else 1
IN_CACHE = 128
"""Rows of a panel that a product takes in before the next ones."""
LONGEST = 64
"""Steps of a block; a longer window is cut into equal ones, for Ψ of every step is kept."""


class Block(NamedTuple):
    """Where the dense products of a pattern find their numbers, and Ψ."""

    column_indptr: NDArray[np.int64]  # (states + 1,)    D by columns
    column_rows: NDArray[np.int32]  # (nnz of D,)
    column_places: NDArray[np.int32]  # (nnz of D,)      place of each entry in D's data
    row_indptr: NDArray[np.int64]  # (panels + 1,)
    row_units: NDArray[np.int32]  # (rows,)              state of each panel row; -1: none
    same: NDArray[np.bool_]  # (panels,)                 rows as those of the panel before
    psi: NDArray[np.floating]  # (T + 1, states, wide)   scratch, Ψ_t of a stream
    phi: NDArray[np.floating]  # (threads, (rows + T) * pitch)  scratch, Ψ_0 on a panel's rows
    old: NDArray[np.floating]  # (threads, (rows + T) * width)  scratch, the panel, and I of a run
    new: NDArray[np.floating]  # (threads, pitch * width)       scratch, the panel as it will be


# Six rows of a panel: Σ over `count` rows of `old` from `source` on, each times six numbers of
# `phi` from `factor` on; added to what is there where `adds`.
@from_kernels
def _six_rows(nothing, count, phi, factor, old, source, across, width, new, at, adds):
    a, b, c, d, e, f = nothing, nothing, nothing, nothing, nothing, nothing
    if adds:
        a, b = load_bundle(new, at, nothing), load_bundle(new, at + width, nothing)
        c, d = load_bundle(new, at + 2 * width, nothing), load_bundle(new, at + 3 * width, nothing)
        e, f = load_bundle(new, at + 4 * width, nothing), load_bundle(new, at + 5 * width, nothing)
    for _ in range(count):
        x = load_bundle(old, source, nothing)
        a = fma_bundle(splat(phi, factor), x, a)
        b = fma_bundle(splat(phi, factor + 1), x, b)
        c = fma_bundle(splat(phi, factor + 2), x, c)
        d = fma_bundle(splat(phi, factor + 3), x, d)
        e = fma_bundle(splat(phi, factor + 4), x, e)
        f = fma_bundle(splat(phi, factor + 5), x, f)
        source += across
        factor += AT_A_TIME
    store_bundle(new, at, a)
    store_bundle(new, at + width, b)
    store_bundle(new, at + 2 * width, c)
    store_bundle(new, at + 3 * width, d)
    store_bundle(new, at + 4 * width, e)
    store_bundle(new, at + 5 * width, f)


@into_caller
def _is_wide(column, columns, n):
    return columns - column > (AT_ONCE - 1) * n


# Operands lie as the product reads them, so that it reads on and on. `old` is cut into strips of
# AT_ONCE vectors, at the end of one: where column c of row 0 stands, and how far the next row is.
@into_caller
def _strip(column, columns, count, n):
    first = column // (AT_ONCE * n) * (AT_ONCE * n)
    if _is_wide(first, columns, n):
        return first * count + column - first, AT_ONCE * n
    return column // n * n * count + column % n, n


# new[r, at + c] ← Σ_k phi[k, r] old[k, c], or its sum with that, for whole vectors of columns. What
# the last one adds beyond the columns is nothing: `old` holds 0 there. A part of the rows k at a
# time, so that its strip of `old` stays in L1 and its Φ in L2.
@from_kernels
def _product(rows, columns, count, phi, factor, old, source, width, new, at, adds):
    n = lanes(new)
    for first in range(0, count, IN_CACHE):
        part, column = min(IN_CACHE, count - first), 0
        while column < columns:
            wide = _is_wide(column, columns, n)
            across = AT_ONCE * n if wide else n
            for row in range(0, rows, AT_A_TIME):
                work = (
                    part, phi, factor + row * count + first * AT_A_TIME, old,
                    source + column * count + first * across, across, width, new,
                    at + row * width + column, adds or first > 0,
                )  # fmt: skip
                if wide:
                    _six_rows(bundle(new, AT_ONCE), *work)
                else:
                    _six_rows(bundle(new, 1), *work)
            column += across


# Ψ_{t-1} ← D_tᵀ Ψ_t for as many columns as `nothing` is wide
@from_kernels
def _sparse_product(
    nothing, states, indptr, rows, places, dynamics, psi, pitch, column, before, after, D
):
    for j in range(states):
        x = nothing
        for e in range(indptr[j], indptr[j + 1]):
            source = after + index(rows, e) * pitch + column
            d = splat(dynamics, D + index(places, e))
            x = fma_bundle(d, load_bundle(psi, source, nothing), x)
        store_bundle(psi, before + j * pitch + column, x)


@njit(cache=True, nogil=True)
def products_range(
    first: int,
    last: int,  # columns of Ψ, whole vectors
    begin: int | np.int64,  # first step
    held: int | np.int64,  # steps
    dynamics_data: NDArray[np.floating],  # (T, nnz of D)   in, of one stream
    block: Block,  # in; psi out
) -> None:
    """Form Ψ_{t-1} ← D_tᵀ Ψ_t from the last step to the first one, from Ψ_T = 1."""
    psi, states, pitch = pointer(block.psi, 0), block.psi.shape[1], block.psi.shape[2]
    rows, places = pointer(block.column_rows, 0), pointer(block.column_places, 0)
    dynamics, size = pointer(dynamics_data, 0), dynamics_data.shape[1]
    n = lanes(psi)
    block.psi[held, :, first:last] = 0
    for i in range(first, min(last, states)):
        block.psi[held, i, i] = 1
    for k in range(held - begin):
        t = held - 1 - k
        at = t * states * pitch, (t + 1) * states * pitch, t * size
        column = first
        while column < last:
            if column + 4 * n <= last:
                _sparse_product(bundle(psi, 4), states, block.column_indptr, rows, places,
                                dynamics, psi, pitch, column, *at)  # fmt: skip
                column += 4 * n
            else:
                _sparse_product(bundle(psi, 1), states, block.column_indptr, rows, places,
                                dynamics, psi, pitch, column, *at)  # fmt: skip
                column += n


# phi[k, r] ← Ψ_t[unit of row k, unit of row r] for one row k of `count`, in strips of six rows r
@into_caller
def _gather_row(psi, at, units, first, rows, pitch, nothing, phi, to, count):
    for row in range(0, pitch, AT_A_TIME):
        for r in range(row, row + AT_A_TIME):
            u = index(units, first + r) if r < rows else -1
            put(phi, to + row * count + r - row, value(psi, at + u) if u >= 0 else nothing)


@njit(cache=True, nogil=True)
def blocks_range(
    first: int,
    last: int,  # panels
    thread: int | np.int64,
    begin: int | np.int64,  # first step: J starts from 0 where it is not the window's
    held: int | np.int64,  # steps
    restarts: bool,  # J_0 is 0
    program: Any,  # in, the named arrays of sparsegrad.influence.program.Program
    block: Block,  # in
    immediate_data: NDArray[np.floating],  # (T, nnz of I)   in, of one stream
    influence: NDArray[np.floating],  # (size,)              in/out, of one stream
) -> None:
    """Take some panels of a stream through the steps held."""
    states, wide = block.psi.shape[1:]
    J, psi = pointer(influence, 0), pointer(block.psi, 0)
    old, new = pointer(block.old[thread], 0), pointer(block.new[thread], 0)
    phi, units = pointer(block.phi[thread], 0), pointer(block.row_units, 0)
    immediate, size = pointer(immediate_data, 0), immediate_data.shape[1]
    n, nothing, count = lanes(J), influence.dtype.type(0), held - begin
    for p in range(first, last):
        at, rows = program.panels[p, OFFSET], program.panels[p, ROWS]
        width, stride = SLACK * program.panels[p, VECTORS], program.panels[p, STRIDE]
        row0, pitch = block.row_indptr[p], (rows + AT_A_TIME - 1) // AT_A_TIME * AT_A_TIME
        own, values = rows * pitch, rows * width  # where a run's Φ and I stand
        own_unit = -1  # whose Φ that is
        if p == first or not block.same[p]:
            for k in range(rows):
                # a row of no state holds anything, so it is nobody's source
                u = index(units, row0 + k)
                used = 0 if u < 0 else rows
                source, to = (begin * states + max(u, 0)) * wide, k * AT_A_TIME
                _gather_row(psi, source, units, row0, used, pitch, nothing, phi, to, rows)
        for c in range(0, width, n):
            to, across = _strip(c, width, rows, n)
            for k in range(rows):
                x = load_bundle(J, at + k * stride + c, bundle(J, 1))
                store_bundle(old, to + k * across, bundle(J, 1) if restarts else x)
        _product(pitch, width, rows, phi, 0, old, 0, width, new, 0, False)
        for run in range(program.panels[p, FIRST_RUN], program.panels[p + 1, FIRST_RUN]):
            v, step = program.runs[run, FIRST_VALUE], program.runs[run, STEP]
            target, length = program.runs[run, TARGET] - at, program.runs[run, LENGTH]
            if v == OUTSIDE:  # the product has left 0 there
                continue
            row, column = target // stride, target % stride
            u = index(units, row0 + row)
            whole = (length + n - 1) // n * n
            for c in range(whole):
                to, across = _strip(c, whole, count, n)
                for t in range(begin, held):
                    x = value(immediate, t * size + v + c * step) if c < length else nothing
                    put(old, values + to + (t - begin) * across, x)
            for t in range(begin, held if u != own_unit else begin):
                to, source = own + (t - begin) * AT_A_TIME, ((t + 1) * states + u) * wide
                _gather_row(psi, source, units, row0, rows, pitch, nothing, phi, to, count)
            own_unit = u
            _product(pitch, whole, count, phi, own, old, values, width, new, column, True)
        for k in range(rows):
            for c in range(0, stride, n):
                store_part(J, at + k * stride + c, stride - c, load_part(new, k * width + c, n))


@njit(cache=True, nogil=True, parallel=True)
def blocks_threads(
    cuts: NDArray[np.int64],  # (threads + 1,)   in
    begin: int | np.int64,
    held: int | np.int64,
    restarts: bool,
    dynamics_data: NDArray[np.floating],
    program: Any,
    block: Block,
    immediate_data: NDArray[np.floating],
    influence: NDArray[np.floating],
) -> None:
    """Do as `advance_blocks` for one stream: a thread takes some columns of Ψ, then some panels."""
    threads = len(cuts) - 1
    vectors = block.psi.shape[2] // SLACK
    for i in prange(threads):
        first, last = SLACK * (vectors * i // threads), SLACK * (vectors * (i + 1) // threads)
        products_range(first, last, begin, held, dynamics_data, block)
    for i in prange(threads):
        blocks_range(
            cuts[i], cuts[i + 1], i, begin, held, restarts, program, block, immediate_data,
            influence,
        )  # fmt: skip


@njit(cache=True, nogil=True)
def advance_block(
    shared: Callable[..., None] | None,  # None: Numba drops the branch with threads
    cuts: NDArray[np.int64],  # (threads + 1,)       in, panels of each thread
    begin: int | np.int64,
    held: int | np.int64,  # steps
    restarts: bool,  # J_0 is 0
    dynamics_data: NDArray[np.floating],  # (T, nnz of D)   in, of one stream
    immediate_data: NDArray[np.floating],  # (T, nnz of I)  in
    program: Any,  # in
    block: Block,  # in; psi is scratch
    influence: NDArray[np.floating],  # (size,)             in/out
) -> None:
    """Take J of one stream through steps `begin` to `held`."""
    if shared is None:
        products_range(0, block.psi.shape[2], begin, held, dynamics_data, block)
        blocks_range(
            0, program.panels.shape[0] - 1, 0, begin, held, restarts, program, block,
            immediate_data, influence,
        )  # fmt: skip
    else:
        blocks_threads(
            cuts, begin, held, restarts, dynamics_data, program, block, immediate_data, influence
        )
