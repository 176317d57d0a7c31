"""From one pattern to another: the entries of J that both keep, each as it is."""

import numpy as np
from numpy.typing import NDArray

from ..compiler.decorators import from_kernels, from_python
from .tables import (
    COUNT_REACHED,
    FIRST_COLUMN,
    FIRST_MEMBER,
    FIRST_REACHED,
    INSET,
    OFFSET,
    PANEL_ROW,
    STRIDE,
    UNIT,
    WIDTH,
)

WHERE_FIELDS = 2
MEMBER, TOP = range(WHERE_FIELDS)
"""A row of `where`: the member that a weight's column is of, and its place in J's first row."""


@from_python
def locate_columns(
    panels: NDArray[np.int64],  # (panels + 1, 9)    in
    members: NDArray[np.int64],  # (members + 1, 5)  in
    columns: NDArray[np.int32],  # (weights,)        in
    where: NDArray[np.int64],  # (weights, 2)        out
    strides: NDArray[np.int64],  # (members,)        out, from row to row of J
) -> None:
    """Find the column of every weight."""
    for p in range(panels.shape[0] - 1):
        for k in range(panels[p, FIRST_MEMBER], panels[p + 1, FIRST_MEMBER]):
            first, top = members[k, FIRST_COLUMN], panels[p, OFFSET] + members[k, INSET]
            strides[k] = panels[p, STRIDE]
            for c in range(members[k, WIDTH]):
                where[columns[first + c], MEMBER] = k
                where[columns[first + c], TOP] = top + c


@from_kernels
def _rows_of(
    members: NDArray[np.int64], reached: NDArray[np.int32], k: int | np.int64
) -> NDArray[np.int32]:
    """Return the units of a member and their rows, (rows, 2)."""
    first = members[k, FIRST_REACHED]
    return reached[first : first + members[k, COUNT_REACHED]]


@from_python
def carry_entries(
    origin: NDArray[np.int64],  # (weights,)            in, the weight before, or -1
    old_members: NDArray[np.int64],  # (members + 1, 5) in, of the pattern before
    old_reached: NDArray[np.int32],  # (rows, 2)        in
    old_where: NDArray[np.int64],  # (weights, 2)       in
    old_strides: NDArray[np.int64],  # (members,)       in
    old: NDArray[np.generic],  # (size,)                in, J before
    panels: NDArray[np.int64],  # (panels + 1, 9)       in
    members: NDArray[np.int64],  # (members + 1, 5)     in
    reached: NDArray[np.int32],  # (rows, 2)            in, sorted by unit within a supernode
    columns: NDArray[np.int32],  # (weights,)           in
    influence: NDArray[np.generic],  # (size,)          out, where it is kept
    tops: NDArray[np.int64],  # (most columns of a member,)  scratch
) -> None:
    """Copy what a weight's reach had before, row by row; the entries that are new are 0."""
    for p in range(panels.shape[0] - 1):
        for k in range(panels[p, FIRST_MEMBER], panels[p + 1, FIRST_MEMBER]):
            first, width = members[k, FIRST_COLUMN], members[k, WIDTH]
            top, rows = panels[p, OFFSET] + members[k, INSET], _rows_of(members, reached, k)
            begin = 0
            while begin < width:  # columns that lay in one member before go together
                before, end = np.int64(-1), begin
                while end < width:
                    weight = origin[columns[first + end]]
                    tops[end] = -1
                    if weight >= 0:
                        if before >= 0 and old_where[weight, MEMBER] != before:
                            break
                        before, tops[end] = old_where[weight, MEMBER], old_where[weight, TOP]
                    end += 1
                old_rows, down = old_reached[:0], np.int64(0)  # columns that are all new had none
                if before >= 0:
                    old_rows = _rows_of(old_members, old_reached, before)
                    down = old_strides[before]
                _carry_rows(
                    old_rows, down, tops[begin:end], old, rows, panels[p, STRIDE], top + begin,
                    influence,
                )  # fmt: skip
                begin = end


@from_kernels
def _carry_rows(
    old_rows: NDArray[np.int32],  # (rows before, 2)    in
    old_stride: int | np.int64,
    old_tops: NDArray[np.int64],  # (columns,)          in, their places in the first row, or -1
    old: NDArray[np.generic],  # (size,)                in
    rows: NDArray[np.int32],  # (rows, 2)               in
    stride: int,
    top: int,  # place of the first column in the first row
    influence: NDArray[np.generic],  # (size,)          out
) -> None:
    """Copy the rows of some columns; those that were not reached are 0."""
    zero = influence.dtype.type(0)
    q = 0
    for r in range(rows.shape[0]):
        to = top + rows[r, PANEL_ROW] * stride
        while q < old_rows.shape[0] and old_rows[q, UNIT] < rows[r, UNIT]:
            q += 1
        if q < old_rows.shape[0] and old_rows[q, UNIT] == rows[r, UNIT]:
            down = old_rows[q, PANEL_ROW] * old_stride
            for c in range(old_tops.size):
                influence[to + c] = old[old_tops[c] + down] if old_tops[c] >= 0 else zero
        else:
            influence[to : to + old_tops.size] = zero
