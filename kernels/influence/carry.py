"""From one pattern to another: the entries of J that both keep, each as it is."""

import numpy as np
from numpy.typing import NDArray

from ..compiler.decorators import from_python


@from_python
def carry_entries(
    origin: NDArray[np.int64],  # (weights,)              in, the weight before, or -1
    old_supernode: NDArray[np.int32],  # (weights before,) in
    old_reach_indptr: NDArray[np.int64],  # (supernodes before + 1,) in
    old_reach_indices: NDArray[np.int32],  # its entries  in, sorted within each supernode
    old_indptr: NDArray[np.int64],  # (weights before + 1,) in, by weight
    supernode: NDArray[np.int32],  # (weights,)           in
    reach_indptr: NDArray[np.int64],  # (supernodes + 1,) in
    reach_indices: NDArray[np.int32],  # its entries      in
    indptr: NDArray[np.int64],  # (weights + 1,)          in, by weight
    old: NDArray[np.floating],  # (nnz before,)           in, by weight, units sorted
    data: NDArray[np.floating],  # (nnz,)                 out, by weight, units sorted
) -> None:
    """Copy what a weight's reach had before; the entries that are new are 0."""
    for weight in range(origin.size):
        start, to = reach_indptr[supernode[weight]], indptr[weight]
        before, end, value = 0, 0, 0  # of a weight that is new: it had no reach
        if origin[weight] >= 0:
            node = old_supernode[origin[weight]]
            before, end = old_reach_indptr[node], old_reach_indptr[node + 1]
            value = old_indptr[origin[weight]]
        for slot in range(indptr[weight + 1] - to):
            unit = reach_indices[start + slot]
            while before < end and old_reach_indices[before] < unit:
                before += 1
                value += 1
            found = before < end and old_reach_indices[before] == unit
            data[to + slot] = old[value] if found else data.dtype.type(0)
