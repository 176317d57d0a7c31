import os

import hypothesis
import numba
import numpy as np
import oracle
import pytest
from hypothesis import strategies as st
from nets import nets, parallel_paths, ring

from sparsegrad.kernels import csr_contract, csr_update, csr_update_and_contract
from sparsegrad.symbolic.pattern import reach

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
STEPS = 5


def random_values(rng, net, dtype):
    """One step's D, I (dense, zero off the pattern) and δ."""
    dynamics, immediate = net
    return (
        rng.normal(size=dynamics.shape).astype(dtype) * dynamics,
        rng.normal(size=immediate.shape).astype(dtype) * immediate,
        rng.normal(size=dynamics.shape[0]).astype(dtype),
    )


def structure(pattern, rows=None):
    """Leading arguments of the kernels; `rows` lends its reach where a test wants a wrong one."""
    rows = pattern if rows is None else rows
    return (
        pattern.dynamics_indptr,
        pattern.dynamics_indices,
        pattern.immediate_indptr,
        pattern.immediate_indices,
        rows.indptr,
        rows.indices,
    )


def dense(pattern, influence):
    """J, (units, weights), from its entries by weight."""
    matrix = np.zeros(pattern.shape, influence.dtype)
    matrix[np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr)), pattern.indices] = (
        influence
    )
    return matrix.T


def error(net, n, dtype, seed=0, rows=None):
    """Largest error of any entry of J and of the gradient over some steps, in units of rounding.

    Each is compared with the dense recursion in float64 on the same numbers. One unit of rounding
    is the type's eps times the sum of absolute values of all products that make up the entry, so
    that `terms · steps` is what summing in any order can be off.
    """
    rng = np.random.default_rng(seed)
    pattern = reach(*net, n=n)
    rows = pattern if rows is None else rows
    kept = oracle.reach(*net, n)
    influence = np.zeros(rows.nnz, dtype)
    both = influence.copy()
    work = np.zeros(pattern.shape[1], dtype)
    grad, grad_of_both = np.full((2, pattern.shape[0]), np.nan, dtype)
    expected = absolute = np.zeros(kept.shape)
    worst = 0.0
    for _ in range(STEPS):
        d, i, delta = random_values(rng, net, dtype)
        data = d[net[0]], i.T[net[1].T]
        csr_update(*structure(pattern, rows), *data, influence, work)
        csr_contract(rows.indptr, rows.indices, influence, delta, grad)
        csr_update_and_contract(*structure(pattern, rows), *data, delta, both, grad_of_both, work)
        np.testing.assert_array_equal(both, influence)
        np.testing.assert_array_equal(grad_of_both, grad)
        assert not work.any()
        d, i, delta = (array.astype(np.float64) for array in (d, i, delta))
        expected = oracle.influence(kept, d, i, expected)
        absolute = oracle.influence(kept, abs(d), abs(i), absolute)
        for came, wanted, size in (
            (dense(rows, influence), expected, absolute),
            (grad, expected.T @ delta, absolute.T @ abs(delta)),
        ):
            off = abs(came - wanted)
            assert not off[size == 0].any() or rows is not pattern
            worst = max(worst, (off / np.where(size == 0, 1, size)).max())
    assert absolute.any() or not net[1].any()  # alive
    return worst / np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 4, None])
@hypothesis.given(net=nets(), seed=st.integers(0, 99))
def test_influence_is_the_dense_masked_recursion_at_every_step(net, seed, n, dtype):
    # 8 units and I make at most 9 terms, 5 steps and the contraction; 54 eps is 1.2e-14 in float64
    assert error(net, n, dtype, seed) <= 9 * (STEPS + 1)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_wrong_n_and_a_reach_against_the_arrows_are_seen(n):
    net = ring(6)
    net[0][3, 0] = True  # a chord, or turning the ring about would be a symmetry
    limit = 9 * (STEPS + 1)
    assert error(net, n, np.float64) <= limit
    for wrong in (reach(*net, n=n - 1), reach(*net, n=n + 1), reach(net[0].T, net[1], n=n)):
        assert error(net, n, np.float64, rows=wrong) > 1e6 * limit


def test_parallel_paths_all_count():
    net = parallel_paths(300)
    pattern = reach(*net, n=3)
    influence, work = np.zeros(pattern.nnz), np.zeros(302)
    ones = np.ones(pattern.dynamics_indices.size), np.ones(1)
    for _ in range(3):
        csr_update(*structure(pattern), *ones, influence, work)
    assert influence[-1] == 300


def test_a_zero_value_keeps_its_place():
    """An input that is 0 for a step writes nothing, and wipes nothing either."""
    pattern = reach(np.eye(1), np.eye(1), n=1)
    influence, work = np.zeros(1), np.zeros(1)
    for written in (3.0, 0.0):
        csr_update(*structure(pattern), np.array([0.5]), np.array([written]), influence, work)
    assert influence[0] == 1.5


def test_kernels_run_inside_a_users_compiled_loop(rng):
    net = ring(5)
    pattern = reach(*net, n=2)

    @numba.njit
    def gradient(structure, dynamics_data, immediate_data, state_grads, influence, work):
        total = np.zeros(structure[4].size - 1)
        grad = np.empty_like(total)
        for t in range(len(state_grads)):
            csr_update(*structure, dynamics_data[t], immediate_data[t], influence, work)
            csr_contract(structure[4], structure[5], influence, state_grads[t], grad)
            total += grad
        return total

    values = [random_values(rng, net, np.float64) for _ in range(STEPS)]
    data = (
        np.array([d[net[0]] for d, _, _ in values]),
        np.array([i.T[net[1].T] for _, i, _ in values]),
    )
    deltas = np.array([delta for _, _, delta in values])
    total = gradient(structure(pattern), *data, deltas, np.zeros(pattern.nnz), np.zeros(5))
    expected, influence = np.zeros(5), np.zeros((5, 5))
    for d, i, delta in values:
        influence = oracle.influence(oracle.reach(*net, 2), d, i, influence)
        expected += influence.T @ delta
    np.testing.assert_allclose(total, expected, rtol=1e-13)


@pytest.mark.skipif(INTERPRETED, reason="there is no machine code to look at")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", [csr_update, csr_contract, csr_update_and_contract])
def test_kernels_allocate_nothing_and_touch_no_object(kernel, dtype):
    def code(function, *arguments):
        compiled = numba.njit(function)  # afresh: what comes from the cache has no code to show
        compiled(*arguments)
        return "".join(compiled.inspect_llvm().values())

    pattern = reach(*ring(3))
    zeros = [np.zeros(size, dtype) for size in (3, 3, 6, 3, 3)]
    dynamics_data, immediate_data, influence, vector, work = zeros
    arguments = {
        csr_update: (*structure(pattern), dynamics_data, immediate_data, influence, work),
        csr_contract: (pattern.indptr, pattern.indices, influence, vector, vector.copy()),
        csr_update_and_contract: (
            *structure(pattern), dynamics_data, immediate_data, vector, influence, vector.copy(),
            work,
        ),
    }[kernel]  # fmt: skip
    assert "NRT_MemInfo_alloc" not in code(kernel.py_func, *arguments)
    assert kernel.nopython_signatures
    assert "NRT_MemInfo_alloc" in code(lambda array: array.copy(), influence)
