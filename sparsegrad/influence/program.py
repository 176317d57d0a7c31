"""The structure that the panel kernels replay: layout of J in panels and the lists of sources."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsegrad.kernels.influence.panels import MOST_VECTORS
from sparsegrad.kernels.influence.tables import (
    END_SEGMENT,
    FIRST_COLUMN,
    FIRST_ENTRY,
    FIRST_MEMBER,
    FIRST_REACHED,
    FIRST_ROW,
    FIRST_RUN,
    FIRST_SEGMENT,
    FIRST_VALUE,
    OFFSET,
    OUTSIDE,
    OWN,
    PAIRS,
    ROWS,
    SHARED,
    STRIDE,
    TARGET,
    VECTORS,
)
from sparsegrad.kernels.vectors.simd import SLACK

_PANEL = 20  # vectors' worth of work that a panel costs beside its rows
_SHARE = 100_000  # vectors of work per thread, some 40 µs: handing over less gains nothing


class Program(NamedTuple):
    """The flat arrays of one lowered pattern, in the order in which the panel kernels take them.

    Attributes
    ----------
    panels : int64 array, (panels + 1, 10)
        Offset in J, rows, vectors of 16 columns, stride, first and last segment, first entry,
        first member, first run, first row that is written; the last row ends J, the members and
        the runs. A panel whose rows read each other within a step has a row here for each stage.
    segments : int64 array, (segments, 3)
        Pairs of rows with equally long lists: pairs, shared entries, own entries of each.
    entries : int64 array, (entries, 2)
        The sources of each pair of rows: position in D's data (upper 32 bits), row in the panel
        (lower ones).
    members : int64 array, (members + 1, 5)
        The supernodes of each panel: first column, width, first of `reached`, how many, place
        of the first column in a row.
    reached : int32 array, (rows, 2)
        The units that each supernode reaches, sorted, and the panel row of each.
    columns : int32 array, (weights,)
        The weight of each panel column.
    runs : int64 array, (runs, 4)
        Where I is added: first value in I's data, step between values, first place in J, length.
        A first value of -1 sets to zero what lies outside the reach.
    """

    panels: NDArray[np.int64]
    segments: NDArray[np.int64]
    entries: NDArray[np.int64]
    members: NDArray[np.int64]
    reached: NDArray[np.int32]
    columns: NDArray[np.int32]
    runs: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Elements of J for one sequence: entries, padding, and the slack at the end."""
        return int(self.panels[-1, OFFSET]) + SLACK

    @property
    def scratch_size(self) -> int:
        """Elements of scratch that one thread needs: the tallest panel and a row of zeros."""
        rows, vectors, again = self.panels[:-1, [ROWS, VECTORS, FIRST_ROW]].T
        return int(((rows + 1 + again) * vectors).max(initial=MOST_VECTORS)) * SLACK + SLACK

    def moved(self, weights: int, values: int, size: int = 0) -> "Program":
        """Return the program of the same panels behind so many weights, values of I and J's."""
        panels, runs = self.panels.copy(), self.runs.copy()
        panels[:, OFFSET] += size
        runs[runs[:, FIRST_VALUE] != OUTSIDE, FIRST_VALUE] += values
        runs[:, TARGET] += size
        return self._replace(panels=panels, columns=self.columns + np.int32(weights), runs=runs)


def join_programs(programs: list[Program]) -> Program:
    """Return the program of all panels of several, whose columns and runs go on (`moved`)."""
    count = {name: np.cumsum([0, *(len(getattr(one, name)) for one in programs)])
             for name in ("segments", "entries", "reached", "columns", "runs")}  # fmt: skip
    members = np.cumsum([0, *(len(one.members) - 1 for one in programs)])
    tables, listed = [], []
    for k, one in enumerate(programs):
        panels, table = one.panels.copy(), one.members.copy()
        panels[:, [FIRST_SEGMENT, END_SEGMENT]] += count["segments"][k]
        panels[:, FIRST_ENTRY] += count["entries"][k]
        panels[:, FIRST_MEMBER] += members[k]
        panels[:, FIRST_RUN] += count["runs"][k]
        table[:, FIRST_COLUMN] += count["columns"][k]
        table[:, FIRST_REACHED] += count["reached"][k]
        last = k == len(programs) - 1
        tables.append(panels if last else panels[:-1])
        listed.append(table if last else table[:-1])
    return Program(
        panels=np.concatenate(tables),
        members=np.concatenate(listed),
        **{name: np.concatenate([getattr(one, name) for one in programs]) for name in count},
    )


def scratch_runs(program: Program) -> NDArray[np.int64]:
    """Return the runs with their places in a scratch panel, whose rows are of whole vectors."""
    panel = np.repeat(np.arange(len(program.panels) - 1), np.diff(program.panels[:, FIRST_RUN]))
    offset, stride, vectors = program.panels[panel][:, [OFFSET, STRIDE, VECTORS]].T
    runs = program.runs.copy()
    row, column = np.divmod(runs[:, TARGET] - offset, stride)
    runs[:, TARGET] = row * SLACK * vectors + column
    return runs


def cut_work(program: Program, batch: int, threads: int) -> NDArray[np.int64]:
    """Cut the panels into ranges of equal work, one per thread: int64, (threads + 1,).

    Work is the vectors that a panel loads, about the time it takes. Less than _SHARE of it stays
    on one thread.
    """
    panels = program.panels[:-1]
    each = (program.segments[:, PAIRS] * program.segments[:, field] for field in (SHARED, OWN))
    shared, own = (np.concatenate(([0], np.cumsum(part))) for part in each)
    first, last, vectors = panels[:, FIRST_SEGMENT], panels[:, END_SEGMENT], panels[:, VECTORS]
    loads = (shared[last] - shared[first]) * (vectors + 3)
    loads += (own[last] - own[first]) * (2 * vectors + 3)
    work = np.cumsum(batch * (loads + 4 * panels[:, ROWS] * vectors + _PANEL))
    threads = int(min(threads, work.size, max(1, work[-1] // _SHARE)))
    inner = np.searchsorted(work, work[-1] * np.arange(1, threads) // threads)
    begins = np.append(np.flatnonzero(panels[:, FIRST_ROW] == 0), work.size)  # stages stay together
    inner = begins[np.searchsorted(begins, inner)]
    return np.concatenate(([0], inner, [work.size])).astype(np.int64)
