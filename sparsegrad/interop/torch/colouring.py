"""Which rows of a Jacobian of known pattern one vector-Jacobian product can hold.

The colouring is rustworkx's. Colours and seconds, graph included, on the recurrent pattern of
RNN 256 @ 93.75% (28 rows share a column, so no colouring has fewer) and of RNN 1024 @ 98.44% (31):

    rustworkx, saturation       52  0.01 s      54   0.05 s
    networkx, DSATUR            53  0.7  s      54  20    s
    networkx, smallest last     56  0.3  s      58   2.5  s
    fullest row first, by hand  57  0.01 s      57   0.05 s

Libraries that differentiate as well, such as asdex and sparsejac, are for JAX functions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def colour_rows(*patterns: sparse.csr_array) -> NDArray[np.int32]:
    """Colour rows so that rows of one colour share no column in any of the patterns.

    The sum of such rows, one vector-Jacobian product, holds each of their entries by itself
    (Curtis, Powell and Reid 1974).

    Parameters
    ----------
    patterns : csr_array, (rows, columns) each
        What is stored is structure.

    Returns
    -------
    int32 array, (rows,)
        Colours from 0, without gaps.

    Raises
    ------
    ImportError
        If rustworkx is not installed.
    """
    try:
        import rustworkx
    except ImportError:
        raise ImportError(
            "a torch cell of your own needs rustworkx, which is not installed: "
            'pip install "sparsegrad-rtrl[torch]"'
        ) from None
    rows = patterns[0].shape[0]
    shared = sparse.csr_array((rows, rows), dtype=np.int64)
    for pattern in patterns:
        ones = sparse.csr_array(
            (np.ones(pattern.indices.size, np.int64), pattern.indices, pattern.indptr),
            shape=pattern.shape,
        )
        shared = shared + ones @ ones.T
    pairs = sparse.triu(shared, 1, format="csr").tocoo()
    graph = rustworkx.PyGraph()
    graph.add_nodes_from(range(rows))
    graph.extend_from_edge_list(list(zip(pairs.row.tolist(), pairs.col.tolist(), strict=True)))
    colours = rustworkx.graph_greedy_color(graph, strategy=rustworkx.ColoringStrategy.Saturation)
    return np.array([colours[row] for row in range(rows)], np.int32)


def as_pattern(name: str, pattern: Any, shape: tuple[int, int]) -> sparse.csr_array:
    """Return a pattern, sparse or dense, as a csr_array of bool with sorted, unique columns.

    Raises
    ------
    ValueError
        If its shape is another.
    """
    found = sparse.csr_array(pattern)
    if found.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {found.shape}")
    found = sparse.csr_array(
        (np.ones(found.indices.size, bool), found.indices, found.indptr), shape=shape
    )
    found.sum_duplicates()
    return found
