"""Entries of D that cost no step of reach: what a unit's state numbers are to each other."""

from typing import Any

import numpy as np

from sparsegrad.symbolic.rows import Rows, canonical


def followed(own: Any, dynamics: Rows, weights: Rows) -> tuple[Rows, Rows]:
    """Return the patterns of N D and N I, where N follows the own entries any number of times.

    The reach of these at n is that of D and I with all own entries followed after every step.

    Parameters
    ----------
    own : scipy.sparse array or dense array, (units, units)
        Which entries of D cost no step.
    dynamics, weights : Rows
        D by rows and I by columns, canonical.

    Raises
    ------
    ValueError
        If `own` has another shape than D.
    """
    from scipy.sparse import csc_array, csr_array, eye_array  # 0.2 s to import

    units = dynamics.columns
    if np.shape(own) != (units, units):
        raise ValueError(f"own must be ({units}, {units}) as dynamics is, got {np.shape(own)}")
    links = canonical("own", own, by_columns=False)
    once = csr_array(
        (np.ones(links.indices.size, bool), links.indices, links.indptr), shape=(units, units)
    )
    closed = eye_array(units, dtype=bool, format="csr") + once
    while True:
        longer = (closed @ closed).astype(bool)
        if longer.nnz == closed.nnz:
            break
        closed = longer
    rows = csr_array(
        (np.ones(dynamics.indices.size, bool), dynamics.indices, dynamics.indptr),
        shape=(units, units),
    )
    columns = csc_array(
        (np.ones(weights.indices.size, bool), weights.indices, weights.indptr),
        shape=(units, weights.indptr.size - 1),
    )
    return (
        canonical("dynamics", (closed @ rows).astype(bool), by_columns=False),
        canonical("immediate", (closed @ columns).astype(bool), by_columns=True),
    )
