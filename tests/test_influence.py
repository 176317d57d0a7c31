import copy
import gc
import os
import pickle
import weakref

import hypothesis
import numba
import numpy as np
import oracle
import pytest
from hypothesis import strategies as st
from nets import nets, parallel_paths, random_sparse, ring
from scipy import sparse

import sparsegrad.influence.program
from sparsegrad.cells.structure import structure
from sparsegrad.influence.influence import Influence
from sparsegrad.kernels import panels_contract, panels_update, panels_update_and_contract
from sparsegrad.kernels.influence import panels as panel_kernels
from sparsegrad.symbolic.pattern import reach

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
STEPS = 4


def full_net(units, weights_per_unit):
    """Every unit feeds every unit: one supernode, and its product is dense."""
    immediate = np.zeros((units, units * weights_per_unit), bool)
    immediate[np.repeat(np.arange(units), weights_per_unit), np.arange(immediate.shape[1])] = True
    return np.ones((units, units), bool), immediate


def shuffled(rng, net):
    """The same net with its weights in any order, so that a supernode's are not neighbours."""
    dynamics, immediate = net
    return dynamics, immediate[:, rng.permutation(immediate.shape[1])]


def values(rng, net, batch, dtype):
    """One step's D, I (dense, zero off the pattern) and δ for each sequence."""
    dynamics, immediate = net
    units = dynamics.shape[0]
    return (
        (rng.normal(size=(batch, units, units)) * dynamics).astype(dtype),
        (rng.normal(size=(batch, *immediate.shape)) * immediate).astype(dtype),
        rng.normal(size=(batch, units)).astype(dtype),
    )


def data(pattern, D, immediate):
    """D in CSR order and I in CSC order, each (batch, nnz)."""
    rows = np.repeat(np.arange(pattern.shape[1]), np.diff(pattern.dynamics_indptr))
    columns = np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.immediate_indptr))
    return (
        np.ascontiguousarray(D[:, rows, pattern.dynamics_indices]),
        np.ascontiguousarray(immediate[:, pattern.immediate_indices, columns]),
    )


def error(net, n, dtype, batch=1, seed=0, rows_of=None, threads=None):
    """Largest error of any entry of J at any step, and of the gradient, in units of rounding.

    Compared with the dense recursion in float64 on the same numbers. One unit is the type's eps
    times the sum of the absolute values of all products that make up the entry.
    """
    rng = np.random.default_rng(seed)
    pattern = reach(*net, n=n)
    J = Influence(reach(*(rows_of or net), n=n), batch, dtype, threads)
    kept = oracle.reach(*net, n)
    eps = np.finfo(dtype).eps
    exact, scale = np.zeros((2, batch, *net[1].shape))
    worst = 0.0
    for _ in range(STEPS):
        D, immediate, delta = values(rng, net, batch, dtype)
        grad = J.update_and_contract(*data(pattern, D, immediate), delta)
        for b in range(batch):
            D64, immediate64 = D[b].astype(float), immediate[b].astype(float)
            exact[b] = oracle.influence(kept, D64, immediate64, exact[b])
            scale[b] = oracle.influence(kept, abs(D64), abs(immediate64), scale[b])
            wrong = abs(J.to_scipy(b).toarray() - exact[b])
            assert not wrong[scale[b] == 0].any()
            worst = max(worst, (wrong / np.maximum(scale[b], 1e-300)).max() / eps)
        delta64 = delta.astype(float)
        wrong = abs(grad - np.einsum("bkp,bk->p", exact, delta64))
        scale_grad = np.einsum("bkp,bk->p", scale, abs(delta64))
        assert not wrong[scale_grad == 0].any()
        worst = max(worst, (wrong / np.maximum(scale_grad, 1e-300)).max() / eps)
    return worst


def allowed(net, batch=1):
    """Roundings that a sum of so many terms may gather over the steps."""
    return STEPS * (net[0].shape[0] + 3) + batch * net[0].shape[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@hypothesis.given(net=nets(), n=st.sampled_from([1, 2, 3, 4, None]), batch=st.integers(1, 3))
def test_every_entry_at_every_step_equals_the_dense_masked_recursion(net, n, batch, dtype):
    assert error(net, n, dtype, batch) <= allowed(net, batch)


WIDTHS = [1, 5, 15, 16, 17, 33, 50, 120, 128, 129, 300]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", WIDTHS[2:6] if INTERPRETED else WIDTHS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_panels_of_every_width(width, n, dtype, rng):
    """A supernode's weights fill 1, 2, 4 or 8 vectors, a part of the last one, or two panels."""
    net = shuffled(rng, random_sparse(rng, 9, 2, width))
    assert error(net, n, dtype, batch=2) <= allowed(net, 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("units", [16, 17] if INTERPRETED else [16, 17, 18, 40])
@pytest.mark.parametrize("width", [1, 4, 8])
def test_rows_of_full_products_share_their_sources(units, width, dtype, rng):
    """One, four, eight vectors; an odd row beside itself; D full and half full."""
    for density in (1.0, 0.6):
        dynamics, immediate = full_net(units, 1 + width * 128 // (2 * units))
        net = dynamics & (rng.random(dynamics.shape) < density), immediate
        assert error(net, 3, dtype, batch=2) <= allowed(net, 2)
        shared, own = Influence(reach(*net, n=3)).program.segments[:, 1:].sum(axis=0)
        assert shared > own or width < 8 or density < 1
    assert shared > 0 or width < 8


def test_supernode_without_sources():
    """One weight writes 20 units that do not feed each other: D[R, R] is empty."""
    net = np.zeros((20, 20), bool), np.ones((20, 3), bool)
    assert Influence(reach(*net)).program.entries.size == 0
    assert error(net, 2, "float64") <= allowed(net)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_narrow_panels_go_together(dtype, rng):
    """Supernodes of one, two and three vectors; those of one width share panels, in any order."""
    widths = rng.permutation(np.repeat([3, 20, 40], 20))
    net = random_sparse(rng, 60, 2, 1)
    immediate = np.repeat(np.eye(60, dtype=bool), widths, axis=1)
    program = Influence(reach(net[0], immediate, 2)).program
    assert len(program.panels) < len(program.members) / 2
    assert error((net[0], immediate), 2, dtype, batch=2) <= allowed((net[0], immediate), 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_supernodes_of_nearly_equal_reach_keep_their_own_rows(dtype):
    """An LSTM's output gate does not reach its unit's c, but shares a panel with what does."""
    drawn = structure("lstm", 24, 0.8, 3)
    net = drawn.dynamics.toarray().astype(bool), drawn.immediate.toarray().astype(bool)
    J = Influence(reach(*net, n=2), batch=2, dtype=dtype)
    outside = J.program.runs[:, 0] < 0
    assert 0 < outside.sum() < len(J.program.runs)
    assert error(net, 2, dtype, batch=2) <= allowed(net, 2)


def test_weights_of_one_supernode_may_write_different_rows(rng):
    """As in an LSTM, where entries of I for h and c alternate, and in no order at all."""
    units = 6
    dynamics = np.ones((units, units), bool)
    lstm = np.zeros((units, 12), bool)
    lstm[0], lstm[3] = True, True
    for immediate in (lstm, rng.random((units, 40)) < 0.4):
        net = dynamics, immediate
        assert error(net, 2, "float64", batch=2) <= allowed(net, 2)


def test_hundreds_of_parallel_paths_do_not_wrap():
    net = parallel_paths(40 if INTERPRETED else 300)
    for n in (2, 3):
        assert error(net, n, "float64") <= allowed(net)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_ring_walked_the_wrong_way_or_too_far_is_caught(n):
    """The comparison itself must be able to fail: n=1 and saturation are blind to the direction."""
    dynamics, immediate = ring(9)
    net = dynamics, immediate
    assert error(net, n, "float64") <= allowed(net)
    turned = reach(dynamics.T, immediate, n=n)
    assert not np.array_equal(turned.to_scipy().toarray().T, oracle.reach(*net, n))
    for wrong in (n - 1, n + 1):
        kept = oracle.reach(*net, wrong)
        J = Influence(reach(*net, n=n), dtype="float64")
        one = np.ones(9)
        exact = np.zeros((9, 9))
        for _ in range(n + 1):
            J.update(one, one)
            exact = oracle.influence(kept, dynamics * 1.0, immediate * 1.0, exact)
        assert abs(J.to_scipy().toarray() - exact).max() > 0.5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_update_then_contract_has_the_bits_of_one_pass(dtype, rng):
    net = random_sparse(rng, 12, 3, 21)
    pattern = reach(*net, n=2)
    one, two = Influence(pattern, 2, dtype), Influence(pattern, 2, dtype)
    for _ in range(STEPS):
        D, immediate, delta = values(rng, net, 2, dtype)
        D, immediate = data(pattern, D, immediate)
        fused = one.update_and_contract(D, immediate, delta)
        two.update(D, immediate)
        assert np.array_equal(fused, two.contract(delta))
        assert np.array_equal(one.panels, two.panels)


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_change_no_bit(dtype, monkeypatch, rng):
    monkeypatch.setattr(sparsegrad.influence.program, "_SHARE", 1)
    net = random_sparse(rng, 48, 5, 40)
    pattern = reach(*net, n=2)
    batch = 3
    all_J = [Influence(pattern, batch, dtype, threads) for threads in (1, 2, 3, 7)]
    assert [J.threads for J in all_J] == [1, 2, 3, 7]
    for _ in range(STEPS):
        D, immediate, delta = values(rng, net, batch, dtype)
        D, immediate = data(pattern, D, immediate)
        grads = [J.update_and_contract(D, immediate, delta) for J in all_J]
        for J, grad in zip(all_J[1:], grads[1:], strict=True):
            assert np.array_equal(grad, grads[0])
            assert np.array_equal(J.panels, all_J[0].panels)
            assert np.array_equal(J.contract(delta), grads[0])


def test_threads_are_not_used_where_work_is_small(rng):
    assert Influence(reach(*random_sparse(rng, 5, 2, 3)), threads=4).threads == 1


def test_one_row_of_data_serves_the_batch(rng):
    net = random_sparse(rng, 6, 2, 4)
    pattern = reach(*net)
    D, immediate, delta = values(rng, net, 1, "float64")
    D, immediate = data(pattern, D, immediate)
    one, many = Influence(pattern, 1, "float64"), Influence(pattern, 3, "float64")
    for _ in range(2):
        grad = one.update_and_contract(D[0], immediate[0], delta[0])
        grads = many.update_and_contract(D, immediate[0], np.repeat(delta, 3, axis=0))
    np.testing.assert_allclose(grads, 3 * grad, rtol=1e-14)
    assert np.array_equal(many.to_scipy(2).toarray(), one.to_scipy().toarray())


def test_strided_fortran_and_readonly_data_give_the_same_bits(rng):
    net = random_sparse(rng, 6, 2, 4)
    pattern = reach(*net)
    D, immediate, delta = values(rng, net, 2, "float32")
    D, immediate = data(pattern, D, immediate)
    frozen = delta.copy()
    frozen.setflags(write=False)
    plain, other = Influence(pattern, 2), Influence(pattern, 2)
    for _ in range(2):
        grad = plain.update_and_contract(D, immediate, delta)
        wide = np.repeat(D, 2, axis=1)[:, ::2]
        assert np.array_equal(
            grad, other.update_and_contract(wide, np.asfortranarray(immediate), frozen)
        )


def test_reset_is_per_sequence(rng):
    net = random_sparse(rng, 6, 2, 4)
    J = Influence(reach(*net), 3)
    J.update(*data(J.pattern, *values(rng, net, 3, "float32")[:2]))
    before = [J.to_scipy(b).toarray() for b in range(3)]
    assert all(matrix.any() for matrix in before)
    J.reset(1)
    assert not J.to_scipy(1).toarray().any()
    assert np.array_equal(J.to_scipy(-1).toarray(), before[2])
    J.reset()
    assert not J.panels.any()


def test_to_and_from_scipy(rng):
    net = random_sparse(rng, 6, 2, 4)
    J = Influence(reach(*net), 2, "float64")
    matrix = J.to_scipy()
    assert matrix.shape == net[1].shape
    assert matrix.nnz == J.pattern.nnz
    kept = oracle.reach(*net, 2)
    dense = rng.normal(size=kept.shape) * kept
    for form in ("csr", "csc", "coo", "lil", "dok", "bsr"):
        J.reset()
        J.from_scipy(sparse.csr_array(dense).asformat(form), b=1)
        assert np.array_equal(J.to_scipy(1).toarray(), dense)
        assert not J.to_scipy(0).toarray().any()
    J.from_scipy(sparse.csr_array(kept.shape), b=1)
    assert not J.panels.any()


def test_from_scipy_refuses_what_does_not_fit(rng):
    net = ring(5)
    J = Influence(reach(*net), dtype="float64")
    J.update(np.ones(5), np.ones(5))
    before = J.panels.copy()
    outside = sparse.csr_array(([1.0], ([3], [0])), shape=(5, 5))
    with pytest.raises(ValueError, match="outside it in column 0"):
        J.from_scipy(outside)
    with pytest.raises(ValueError, match="finite"):
        J.from_scipy(sparse.csr_array(([np.nan], ([0], [0])), shape=(5, 5)))
    with pytest.raises(ValueError, match=r"\(5, 5\), got \(5, 6\)"):
        J.from_scipy(sparse.csr_array((5, 6)))
    with pytest.raises(TypeError, match="float64, got float32"):
        J.from_scipy(sparse.csr_array((5, 5), dtype=np.float32))
    with pytest.raises(TypeError, match="scipy"):
        J.from_scipy(np.zeros((5, 5)))
    with pytest.raises(IndexError, match=r"\[0, 1\), got 1"):
        J.from_scipy(outside, b=1)
    assert np.array_equal(J.panels, before)


def test_bad_data_is_refused_and_J_stays(rng):
    net = random_sparse(rng, 5, 2, 3)
    J = Influence(reach(*net), 2, "float32")
    D, immediate, delta = values(rng, net, 2, "float32")
    D, immediate = data(J.pattern, D, immediate)
    J.update(D, immediate)
    before = J.panels.copy()

    def spoiled(array, bad):
        array = array.copy()
        array[-1, -1] = bad
        return array

    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="dynamics_data must be finite"):
            J.update(spoiled(D, bad), immediate)
        with pytest.raises(ValueError, match="immediate_data must be finite"):
            J.update_and_contract(D, spoiled(immediate, bad), delta)
        with pytest.raises(ValueError, match="state_grad must be finite"):
            J.update_and_contract(D, immediate, spoiled(delta, bad))
    with pytest.raises(TypeError, match="float32, got float64"):
        J.update(D.astype(float), immediate)
    with pytest.raises(TypeError, match="got list"):
        J.contract(delta.tolist())
    with pytest.raises(ValueError, match=rf"\(2, {D.shape[1]}\), got \(2, {D.shape[1] - 1}\)"):
        J.update(D[:, :-1], immediate)
    with pytest.raises(ValueError, match=r"shape \(5,\) or \(2, 5\), got \(3, 5\)"):
        J.contract(np.zeros((3, 5), np.float32))
    with pytest.raises(IndexError, match=r"\[0, 2\), got 2"):
        J.reset(2)
    with pytest.raises(IndexError, match="got -3"):
        J.to_scipy(-3)
    assert np.array_equal(J.panels, before)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # NumPy's, interpreted
@pytest.mark.parametrize("gain", [1.5, 3.0, 1e6])
@pytest.mark.parametrize("n", [1, 3, None])
def test_no_gradient_of_an_influence_that_overflows_is_returned(rng, gain, n):
    net = random_sparse(rng, 6, 2, 3)
    J = Influence(reach(*net, n), 2, "float32")
    D, immediate, delta = values(rng, net, 2, "float32")
    D, immediate = data(J.pattern, D, immediate)
    first = J.update_and_contract(D, immediate, delta)
    large = np.full_like(D, gain)

    def for_ever(call):
        for _ in range(2000):
            assert np.isfinite(call()).all()

    def in_two():
        J.update(large, immediate)
        return J.contract(delta)

    for call in (lambda: J.update_and_contract(large, immediate, delta), in_two):
        with pytest.raises(FloatingPointError, match=r"call reset\("):
            for_ever(call)
        with pytest.raises(FloatingPointError, match=r"batch element \d overf|about to overf"):
            J.contract(delta)
        J.reset()
        assert np.array_equal(J.update_and_contract(D, immediate, delta), first)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda J: pickle.loads(pickle.dumps(J))])
def test_a_copy_goes_on_by_itself(rng, copied):
    net = random_sparse(rng, 6, 2, 3)
    D, immediate, delta = values(rng, net, 2, "float64")
    J = Influence(reach(*net, 2), 2, "float64")
    D, immediate = data(J.pattern, D, immediate)
    J.update(D, immediate)
    other, before = copied(J), J.panels.copy()
    found = other.update_and_contract(D, immediate, delta)
    assert np.array_equal(J.panels, before)
    assert np.array_equal(J.update_and_contract(D, immediate, delta), found)
    assert np.array_equal(J.panels, other.panels)


def test_bad_construction_is_refused(rng, scarce):
    pattern = reach(*random_sparse(rng, 5, 2, 3), n=2)
    with pytest.raises(TypeError, match="reach"):
        Influence(pattern.to_scipy())
    with pytest.raises(TypeError, match="float16"):
        Influence(pattern, dtype="float16")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Influence(pattern, batch=0)
    for threads in (0, 1.5, True):
        with pytest.raises((TypeError, ValueError), match=r"threads must be .*at least 1"):
            Influence(pattern, threads=threads)
    one_step = pattern.entries_by_n[0]
    scarce(4 * one_step)
    with pytest.raises(MemoryError, match=r"GiB; the largest n that fits is 1"):
        Influence(pattern)


def low_level(J):
    """What a user of the kernels holds: the program, J with a guard behind it, and scratch."""
    guard = 1e30
    influence = np.zeros((J.batch, J.program.size + 8), J.dtype)
    influence[:, -8:] = guard
    return influence, np.zeros(J.program.scratch_size, J.dtype), guard


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("full", [False, True])
def test_kernels_from_a_users_own_loop(dtype, full, rng):
    """A whole loop over time inside njit; nothing is written beyond what J says that it needs."""
    net = full_net(17, 3) if full else random_sparse(rng, 9, 2, 13)
    J = Influence(reach(*net, n=2), 2, dtype)
    influence, scratch, guard = low_level(J)
    steps = [values(rng, net, 2, dtype) for _ in range(STEPS)]
    Ds, immediates = map(
        np.stack, zip(*(data(J.pattern, D, immediate) for D, immediate, _ in steps), strict=True)
    )
    deltas = np.stack([delta for *_, delta in steps])
    grads = np.zeros((STEPS, J.pattern.shape[0]), dtype)
    after = np.zeros_like(grads)

    @numba.njit
    def loop(program, Ds, immediates, deltas, influence, grads, after, scratch):
        for t in range(len(Ds)):
            if t % 2:
                panels_update_and_contract(
                    *program, Ds[t], immediates[t], deltas[t], influence, grads[t], scratch
                )
            else:
                panels_update(*program, Ds[t], immediates[t], influence, scratch)
                panels_contract(*program, deltas[t], influence, grads[t], scratch)
            panels_contract(*program, deltas[t], influence, after[t], scratch)

    loop(tuple(J.program), Ds, immediates, deltas, influence, grads, after, scratch)
    for t in range(STEPS):
        expected = J.update_and_contract(Ds[t], immediates[t], deltas[t])
        assert np.array_equal(grads[t], expected)
        assert np.array_equal(after[t], expected)
    assert np.array_equal(influence[:, : J.program.size], J.panels)
    assert (influence[:, J.program.size :] == np.dtype(dtype).type(guard)).all()


def test_kernels_refuse_strided_arrays(rng):
    """They walk bare memory: an array with other strides must not be silently misread."""
    net = random_sparse(rng, 9, 2, 13)
    J = Influence(reach(*net, n=2), 2)
    influence, scratch, _ = low_level(J)
    D, immediate, _ = values(rng, net, 2, "float32")
    D, immediate = data(J.pattern, D, immediate)
    with pytest.raises((TypeError, numba.TypingError), match="pointer"):
        panels_update(*J.program, np.asfortranarray(D), immediate, influence, scratch)


@pytest.mark.skipif(INTERPRETED, reason="there is no compiled code to look at")
@pytest.mark.parametrize("kernel", ["panels_update", "panels_contract", "panels_range"])
def test_kernels_allocate_nothing(kernel, rng):
    J = Influence(reach(*random_sparse(rng, 5, 2, 3)))
    dispatcher = getattr(panel_kernels, kernel)
    fresh = numba.njit(dispatcher.py_func)  # not from the cache, which keeps no IR
    influence, scratch, _ = low_level(J)
    D = np.zeros((1, J.pattern.dynamics_indices.size), np.float32)
    immediate = np.zeros((1, J.pattern.immediate_indices.size), np.float32)
    delta, grad = np.zeros((1, 5), np.float32), np.zeros(15, np.float32)
    arguments = {
        "panels_update": (*J.program, D, immediate, influence, scratch),
        "panels_contract": (*J.program, delta, influence, grad, scratch),
        "panels_range": (
            0, len(J.program.panels) - 1, 3, *J.program, D, immediate, delta, influence, grad,
            scratch,
        ),
    }  # fmt: skip
    fresh(*arguments[kernel])
    (code,) = fresh.inspect_llvm().values()
    assert "NRT_MemInfo_alloc" not in code

    @numba.njit
    def allocates(n):
        return np.zeros(n).sum()

    allocates(3)
    (code,) = allocates.inspect_llvm().values()
    assert "NRT_MemInfo_alloc" in code


def test_a_pattern_is_lowered_once_and_takes_its_program_along(rng):
    pattern = reach(*random_sparse(rng, 6, 2, 2))
    one, two = Influence(pattern), Influence(pattern, batch=3, dtype="float64")
    assert one._program is two._program
    sources, held = weakref.ref(one._program.entries), weakref.ref(pattern)
    del one, two
    gc.collect()
    assert sources() is not None  # the pattern alone keeps it
    del pattern
    gc.collect()
    assert held() is None
    assert sources() is None
