"""Whether a window takes J by steps or by dense products, and where these find their data."""

import math

import numpy as np
from numpy.typing import NDArray

from sparsegrad.influence.program import Program
from sparsegrad.kernels.influence.block import AT_A_TIME, LONGEST, Block
from sparsegrad.kernels.influence.tables import (
    COUNT_REACHED,
    FIRST_MEMBER,
    FIRST_REACHED,
    FIRST_RUN,
    LENGTH,
    ROWS,
    VECTORS,
)
from sparsegrad.kernels.vectors.simd import SLACK
from sparsegrad.symbolic.pattern import ReachPattern
from sparsegrad.system.memory import aligned_zeros

SPARSE = 2.0
"""What a multiply-add of a step costs, in those of a dense product (`perf/window.py`)."""


def plan_block(
    pattern: ReachPattern, program: Program, window: int, threads: int, dtype: np.dtype
) -> Block | None:
    """Prepare for dense products over a window, or return None where steps cost less.

    Decided by the pattern and the window alone, so that results depend on neither machine nor
    threads: by multiply-adds, those of steps at `SPARSE` times the price.

    Parameters
    ----------
    pattern : ReachPattern
    program : Program
        The same, lowered.
    window : int
        Steps of a window.
    threads : int
        That share the panels.
    dtype : dtype
        Of J.
    """
    if multiply_adds_of_blocks(pattern, program, window) is None:
        return None
    steps = _steps_of_block(window)
    row_indptr, row_units = _row_units(program)
    states = pattern.shape[1]
    order = np.argsort(pattern.dynamics_indices, kind="stable")
    row_of = np.repeat(np.arange(states), np.diff(pattern.dynamics_indptr))
    counts = np.bincount(pattern.dynamics_indices, minlength=states)
    like = np.zeros(row_indptr.size - 1, bool)
    for p in range(1, like.size):
        one, two = (row_units[row_indptr[q] : row_indptr[q + 1]] for q in (p - 1, p))
        like[p] = np.array_equal(one, two)
    psi, phi, old, new = (
        aligned_zeros(shape, dtype) for shape in _shapes(pattern, program, steps, threads)
    )
    return Block(
        column_indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        column_rows=row_of[order].astype(np.int32),
        column_places=order.astype(np.int32),
        row_indptr=row_indptr,
        row_units=row_units,
        same=like,
        psi=psi,
        phi=phi,
        old=old,
        new=new,
    )


def multiply_adds_of_blocks(pattern: ReachPattern, program: Program, window: int) -> float | None:
    """Count the multiply-adds of a step by dense products, or return None where steps cost less.

    Parameters
    ----------
    pattern : ReachPattern
    program : Program
        The same, lowered.
    window : int
        Steps of a window.

    Returns
    -------
    float or None
        The mean over a block, padding included; of one stream.
    """
    if not pattern.saturated or pattern.levels is not None:
        return None
    if not _by_itself(*_row_units(program)):
        return None
    steps = _steps_of_block(window)
    work = _dense_work(pattern, program, steps)
    return None if work >= SPARSE * steps * pattern.cost().multiply_adds else work / steps


def _steps_of_block(window: int) -> int:
    """Return how many steps a block has: as many as can be, in pieces of equal length."""
    return -(-window // -(-window // LONGEST))


def block_values(pattern: ReachPattern, program: Program, window: int, threads: int) -> int:
    """Return how many numbers :func:`plan_block` allocates; its arguments."""
    if multiply_adds_of_blocks(pattern, program, window) is None:
        return 0
    shapes = _shapes(pattern, program, _steps_of_block(window), threads)
    return sum(map(math.prod, shapes))


def _shapes(
    pattern: ReachPattern, program: Program, steps: int, threads: int
) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of Ψ, of Φ on a panel, of the panel as it was and as it will be."""
    rows, width = program.panels[:-1, ROWS], SLACK * program.panels[:-1, VECTORS]
    pitch = -(-rows // AT_A_TIME) * AT_A_TIME
    most = [
        int(sizes.max()) + 4 * SLACK
        for sizes in ((rows + steps) * pitch, (rows + steps) * width, pitch * width)
    ]
    states = pattern.shape[1]
    wide = -(-states // SLACK) * SLACK
    return (steps + 1, states, wide), *((threads, size) for size in most)


def _row_units(program: Program) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return where the rows of each panel begin, and the state of each of them, or -1."""
    panels, members = program.panels, program.members[:-1]
    row_indptr = np.concatenate([[0], np.cumsum(panels[:-1, ROWS])]).astype(np.int64)
    row_units = np.full(row_indptr[-1], -1, np.int32)
    panel = np.repeat(np.arange(len(panels) - 1), np.diff(panels[:, FIRST_MEMBER]))
    for p, member in zip(panel, members, strict=True):
        first, count = member[FIRST_REACHED], member[COUNT_REACHED]
        units, rows = program.reached[first : first + count].T
        row_units[row_indptr[p] + rows] = units
    return row_indptr, row_units


def _by_itself(row_indptr: NDArray[np.int64], row_units: NDArray[np.int32]) -> bool:
    """Whether no panel has several rows of one state, as narrow ones of several supernodes have."""
    panel = np.repeat(np.arange(row_indptr.size - 1), np.diff(row_indptr))[row_units >= 0]
    places = np.stack([panel, row_units[row_units >= 0]])
    return bool(np.unique(places, axis=1).shape[1] == panel.size)


def _dense_work(pattern: ReachPattern, program: Program, steps: int) -> float:
    """Count the multiply-adds of a block of so many steps."""
    rows, width = program.panels[:-1, ROWS], SLACK * program.panels[:-1, VECTORS]
    runs = np.concatenate([[0], np.cumsum(program.runs[:, LENGTH])])
    added = np.diff(runs[program.panels[:, FIRST_RUN]])
    states, entries = pattern.shape[1], pattern.dynamics_indices.size
    return float((rows**2 * width).sum() + steps * ((rows * added).sum() + states * entries))
