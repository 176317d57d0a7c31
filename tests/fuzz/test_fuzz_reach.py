"""Random nets and random calls of reach and Influence, against the dense recursion in NumPy.

A case is its number: SPARSEGRAD_FUZZ cases (default few) from SPARSEGRAD_FUZZ_FIRST on (default 0).
"""

import os
from typing import Any

import numpy as np
import oracle
import scipy.sparse as sp

from sparsegrad.influence.influence import Influence
from sparsegrad.symbolic.pattern import reach

CASES, FIRST = (int(os.environ.get(f"SPARSEGRAD_FUZZ{name}", default)) for name, default in
                (("", "250"), ("_FIRST", "0")))  # fmt: skip
FORMATS = ("csr", "csc", "coo", "lil", "dok", "bsr")
REFUSED = TypeError, ValueError, IndexError


def net_of(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    units, weights = int(rng.integers(1, 13)), int(rng.integers(1, 40))
    dynamics = rng.random((units, units)) < rng.choice([0, 0.05, 0.2, 0.5, 1])
    immediate = rng.random((units, weights)) < rng.choice([0, 0.05, 0.2, 0.5])
    if rng.random() < 0.5:  # weights of one unit each, in any order
        immediate[:] = False
        immediate[rng.integers(0, units, weights), np.arange(weights)] = True
    return dynamics, immediate


def given(rng: np.random.Generator, pattern: np.ndarray) -> Any:
    """A pattern in some form, with explicit zeros among its entries."""
    if rng.random() < 0.3:
        return pattern.astype(rng.choice(["?", "i1", "f4", "c16"]))
    row, column = np.nonzero(pattern)
    coo = sp.coo_array((rng.integers(0, 2, row.size), (row, column)), shape=pattern.shape)
    return coo.asformat(FORMATS[rng.integers(3)])


def values(rng: np.random.Generator, where: np.ndarray, dtype: Any) -> np.ndarray:
    return (rng.standard_normal(where.shape) * where).astype(dtype)


def handed(rng: np.random.Generator, J: Influence, D: np.ndarray, immediate: np.ndarray) -> Any:
    """The data of a step: as bare values, or as matrices of any format."""
    if rng.random() < 0.3:
        return [
            sp.coo_array(m).asformat(FORMATS[rng.integers(len(FORMATS))]).astype(J.dtype)
            for m in (D, immediate)
        ]
    pattern = J.pattern
    rows = np.repeat(np.arange(pattern.shape[1]), np.diff(pattern.dynamics_indptr))
    columns = np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.immediate_indptr))
    flat = D[rows, pattern.dynamics_indices], immediate[pattern.immediate_indices, columns]
    return [np.tile(data, (J.batch, 1)) if rng.random() < 0.5 else data for data in flat]


def spoil(rng: np.random.Generator, data: Any) -> Any:
    """Make a thing of the wrong kind, shape, type or value out of the data of a step."""
    if not isinstance(data, np.ndarray):
        data = np.asarray(data.toarray())
    wrong = [
        data[..., :-1] if data.shape[-1] > 1 else np.zeros((3, 3), data.dtype),
        np.append(data, data[..., :1]).astype(data.dtype) if data.size else "?",
        data.astype("f2"), data.astype(data.dtype.newbyteorder()), data.astype(object),
        np.full_like(data, np.nan) if data.size else None, list(data), None, "D", 1.0,
        np.ma.masked_array(data), data[None, None, None],
    ]  # fmt: skip
    return wrong[rng.integers(len(wrong))]


def one_case(number: int) -> None:
    rng = np.random.default_rng(number)
    dynamics, immediate = net_of(rng)
    n = [1, 2, 3, 5, None][rng.integers(5)]
    pattern = reach(given(rng, dynamics), given(rng, immediate), n)
    kept = oracle.reach(dynamics, immediate, n)
    np.testing.assert_array_equal(pattern.to_scipy().toarray().T, kept)
    assert pattern.saturated == oracle.is_saturated(dynamics, immediate, pattern.n)
    batch, dtype = int(rng.integers(1, 5)), ("float32", "float64")[rng.integers(2)]
    J = Influence(pattern, batch, dtype, threads=int(rng.integers(1, 3)))
    exact, scale = np.zeros((2, batch, *immediate.shape))
    allowed = np.finfo(dtype).eps * 16 * (dynamics.shape[0] + 3) * (batch + 1)
    for _ in range(int(rng.integers(1, 7))):
        what = rng.integers(6)
        D, moved = values(rng, dynamics, dtype), values(rng, immediate, dtype)
        delta = rng.standard_normal((batch, dynamics.shape[0])).astype(dtype)
        data = handed(rng, J, D, moved)
        if what == 0:
            b = int(rng.integers(batch))
            J.reset(b)
            exact[b] = scale[b] = 0
        elif what == 1:
            b = int(rng.integers(batch))
            exact[b] = scale[b] = values(rng, kept, dtype)
            scale[b] = abs(scale[b])
            J.from_scipy(sp.coo_array(exact[b].astype(dtype)).asformat(FORMATS[rng.integers(6)]), b)
        elif what == 2:
            before = J.panels.copy()
            bad = list(data)
            place = int(rng.integers(2))
            bad[place] = spoil(rng, bad[place])
            try:
                J.update(*bad)
            except REFUSED as error:
                refusal = str(error)
            assert "\n" not in refusal
            np.testing.assert_array_equal(J.panels, before)
        else:
            for b in range(batch):
                exact[b] = oracle.influence(kept, D.astype(float), moved.astype(float), exact[b])
                scale[b] = oracle.influence(kept, abs(D).astype(float), abs(moved), scale[b])
            if what == 3:
                J.update(*data)
            else:
                grad = J.update_and_contract(*data, delta)
                sums = np.einsum("bkp,bk->p", scale, abs(delta))
                wrong = abs(grad - np.einsum("bkp,bk->p", exact, delta))
                assert (wrong <= allowed * sums).all()
                np.testing.assert_array_equal(grad, J.contract(delta))
        for b in range(batch):
            assert (abs(J.to_scipy(b).toarray() - exact[b]) <= allowed * scale[b]).all()


def test_random_nets_and_calls() -> None:
    for number in range(FIRST, FIRST + CASES):
        try:
            one_case(number)
        except BaseException as error:
            error.add_note(f"case {number}: SPARSEGRAD_FUZZ=1 SPARSEGRAD_FUZZ_FIRST={number}")
            raise
