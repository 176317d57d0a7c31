import copy
import doctest
import os
import pickle
from typing import Any

import hypothesis
import numba
import numpy as np
import oracle
import pytest
import scipy.sparse as sp
from hypothesis import strategies as st
from nets import nets, parallel_paths, random_sparse, ring

import sparsegrad.symbolic.pattern
from sparsegrad.symbolic import search as symbolic
from sparsegrad.symbolic.pattern import ReachPattern, reach
from sparsegrad.symbolic.rows import canonical
from sparsegrad.system.tensorfile import write_tensors

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
ARRAYS = (
    "dynamics_indptr",
    "dynamics_indices",
    "immediate_indptr",
    "immediate_indices",
    "supernode",
    "reach_indptr",
    "reach_indices",
)


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)


def dense(pattern):
    """Return the pattern of J as (units, weights), read entry by entry from the CSR by weight."""
    weights, units = pattern.shape
    kept = np.zeros((units, weights), bool)
    for weight in range(weights):
        row = pattern.indices[pattern.indptr[weight] : pattern.indptr[weight + 1]]
        assert (np.diff(row) > 0).all()
        kept[row, weight] = True
    return kept


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 40, None])
@hypothesis.given(net=nets())
def test_reach_is_that_of_the_oracle(net, n):
    pattern = reach(*net, n=n)
    kept = oracle.reach(*net, n)
    np.testing.assert_array_equal(dense(pattern), kept)
    assert pattern.shape == kept.T.shape
    assert pattern.nnz == kept.sum() == pattern.indices.size
    assert pattern.supernode.tolist() == oracle.supernodes(kept)
    assert pattern.saturated == oracle.is_saturated(*net, pattern.n)
    assert pattern.entries_by_n == tuple(
        oracle.reach(*net, step).sum() for step in range(1, len(pattern.entries_by_n) + 1)
    )
    if n is None:
        assert pattern.n == len(pattern.entries_by_n)
        assert pattern.n == 1 or not oracle.is_saturated(*net, pattern.n - 1)
    else:
        assert pattern.n == n


@pytest.mark.parametrize("n", [1, 2, 3, None])
@hypothesis.given(net=nets(), seed=st.integers(0, 2**32 - 1))
def test_own_entries_cost_no_step(net, n, seed):
    own = net[0] & (np.random.default_rng(seed).random(net[0].shape) < 0.4)
    pattern = reach(*net, n, own=sp.csr_array(own))
    kept = oracle.reach(*net, n, own)
    np.testing.assert_array_equal(dense(pattern), kept)
    assert pattern.nnz == kept.sum()
    assert pattern.saturated == (oracle.reach(*net, None, own) == kept).all()
    usual = reach(*net, n)
    assert np.array_equal(pattern.dynamics_indices, usual.dynamics_indices)
    assert np.array_equal(pattern.immediate_indices, usual.immediate_indices)
    with pytest.raises(ValueError, match=r"own must be \(\d+, \d+\) as dynamics is, got \(1, 2\)"):
        reach(*net, n, own=np.ones((1, 2), bool))


@hypothesis.given(net=nets())
def test_structure_of_d_and_i_is_kept_as_it_came(net):
    dynamics, immediate = net
    pattern = reach(dynamics, immediate)
    csr, csc = sp.csr_array(dynamics), sp.csc_array(immediate)
    np.testing.assert_array_equal(pattern.dynamics_indptr, csr.indptr)
    np.testing.assert_array_equal(pattern.dynamics_indices, csr.indices)
    np.testing.assert_array_equal(pattern.immediate_indptr, csc.indptr)
    np.testing.assert_array_equal(pattern.immediate_indices, csc.indices)


@hypothesis.given(net=nets(), n=st.integers(1, 5))
def test_reach_grows_with_n_and_stays_once_saturated(net, n):
    less, more = dense(reach(*net, n=n)), dense(reach(*net, n=n + 1))
    assert (less <= more).all()
    if reach(*net, n=n).saturated:
        assert (less == more).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_reach_runs_along_the_arrows_of_a_ring(n):
    dynamics, immediate = ring(5)
    pattern = reach(dynamics, immediate, n=n)
    for weight in range(5):
        row = pattern.indices[pattern.indptr[weight] : pattern.indptr[weight + 1]]
        assert set(row.tolist()) == {(weight + step) % 5 for step in range(n)}
    against = dense(reach(dynamics.T, immediate, n=n))
    assert (against == dense(pattern)).all() == (n == 1)


def test_parallel_paths_do_not_wrap_a_counter():
    net = parallel_paths(300)
    assert reach(*net, n=2).nnz == 301
    pattern = reach(*net, n=3)
    assert pattern.nnz == 302
    assert pattern.cost().multiply_adds == 600
    assert reach(*net, n=None).n == 3


def test_n_far_beyond_saturation_costs_no_more():
    pattern = reach(*ring(4), n=10**12)
    assert (pattern.n, pattern.saturated) == (10**12, True)
    assert pattern.entries_by_n == (4, 8, 12, 16)


# more walks than a word has bits; more than are counted together
@pytest.mark.parametrize("units", [70] if INTERPRETED else [70, 600])
def test_one_component_is_one_supernode(units):
    pattern = reach(*ring(units), n=None)
    assert pattern.n == units
    assert pattern.reach_indptr.tolist() == [0, units]
    assert pattern.entries_by_n == tuple(range(units, units**2 + 1, units))


def test_levels_are_counted_by_weight(rng):
    units = 70 if INTERPRETED else 700
    dynamics, immediate = random_sparse(rng, units, 2, 1)
    immediate = immediate[:, rng.integers(0, units, 3 * units)]  # of some units none, of some many
    entries = reach(dynamics, immediate, n=None).entries_by_n
    assert len(entries) > 5
    assert entries == tuple(reach(dynamics, immediate, n=m + 1).nnz for m in range(len(entries)))


def test_a_larger_net_agrees_with_sparse_products(rng):
    units = 400 if INTERPRETED else 3000  # large enough for reaches to be sorted
    dynamics, immediate = random_sparse(rng, units, 3, 2)
    links, first = sp.csr_array(dynamics, dtype=np.int64), sp.csr_array(immediate, dtype=np.int64)
    kept = first
    for n in (1, 2, 3):
        pattern = reach(dynamics, immediate, n=n)
        assert (pattern.to_scipy().T != (kept > 0)).nnz == 0
        kept = first + links @ kept


# ------------------------------------------------------------------------- what may come in


def stored(fmt, cls, zeros):
    """Make a pattern in a format of scipy.sparse, (4, 4), its stored values 0 if asked."""
    if fmt == "dia":
        data = np.ones((2, 4)) * (not zeros)
        return cls((data, [0, -1]), shape=(4, 4)), np.tri(4) - np.tri(4, k=-2) > 0
    dense = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0]], bool)
    if fmt == "dok":
        matrix = cls((4, 4))
        for row, column in np.argwhere(dense):
            matrix.setdefault((row, column), 1.0 - zeros)
        return matrix, dense
    matrix = cls(dense.astype(float), **({"blocksize": (1, 1)} if fmt == "bsr" else {}))
    if zeros and fmt == "lil":
        matrix.data[:] = [[0.0] * len(row) for row in matrix.data]
    elif zeros:
        matrix.data[:] = 0
    return matrix, dense


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("fmt", ["bsr", "coo", "csc", "csr", "dia", "dok", "lil"])
def test_every_sparse_format_and_its_explicit_zeros_are_structure(fmt, kind, zeros):
    matrix, expected = stored(fmt, getattr(sp, f"{fmt}_{kind}"), zeros)
    np.testing.assert_array_equal(
        dense(reach(matrix, np.eye(4), n=2)), oracle.reach(expected, np.eye(4), 2)
    )
    np.testing.assert_array_equal(
        dense(reach(np.eye(4), matrix, n=1)), oracle.reach(np.eye(4), expected, 1)
    )


def test_blocks_of_bsr_are_structure_as_a_whole():
    blocks = sp.bsr_array(np.diag([1.0, 0, 0, 0]), blocksize=(2, 2))
    assert reach(blocks, np.eye(4)).dynamics_indices.tolist() == [0, 1, 0, 1]


def test_duplicates_merge_and_do_not_cancel():
    twice = sp.coo_array(([1.0, -1.0, 1.0], ([2, 2, 0], [1, 1, 0])), shape=(3, 3))
    rows = sp.csr_array(([1.0, 1.0, 1.0], [2, 0, 2], [0, 3, 3, 3]), shape=(3, 3))
    assert reach(twice, np.eye(3)).dynamics_indices.tolist() == [0, 1]
    with pytest.warns(UserWarning, match="dynamics has row 0 with indices that are not sorted"):
        pattern = reach(rows, rows.tocoo())
    assert pattern.dynamics_indices.tolist() == [0, 2]
    assert pattern.immediate_indptr.tolist() == [0, 1, 1, 2]
    rows.sum_duplicates()
    assert reach(rows, np.eye(3)).dynamics_indices.tolist() == [0, 2]


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float32, np.float64, complex])
@pytest.mark.parametrize("order", ["C", "F"])
def test_dense_patterns_of_any_dtype_and_order(dtype, order, rng):
    dynamics = (rng.random((6, 6)) < 0.3).astype(dtype, order=order)
    immediate = (rng.random((6, 22)) < 0.2).astype(dtype, order=order)[:, ::2]
    kept = oracle.reach(dynamics, immediate, 3)
    np.testing.assert_array_equal(dense(reach(dynamics, immediate, n=3)), kept)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_the_callers_arrays_stay_the_callers(dtype):
    dynamics, immediate = sp.csr_array(ring(4)[0]), sp.csc_array(ring(4)[1])
    for matrix in (dynamics, immediate):
        matrix.indptr, matrix.indices = matrix.indptr.astype(dtype), matrix.indices.astype(dtype)
    pattern = reach(dynamics, immediate)
    before = pickle.loads(pickle.dumps(pattern))
    for array in (dynamics.indptr, dynamics.indices, immediate.indptr, immediate.indices):
        array[:] = 0  # still writeable, and not the pattern's
    assert same(pattern, before)


def broken_csr(name, value):
    matrix = sp.csr_array(np.eye(3))
    setattr(matrix, name, np.array(value, np.int32))
    return matrix


@pytest.mark.parametrize(
    ("dynamics", "immediate", "n", "error", "text"),
    [
        (np.eye(3), np.eye(3), 0, ValueError, "n must be at least 1, got 0; pass None"),
        (np.eye(3), np.eye(3), -2, ValueError, "n must be at least 1, got -2"),
        (
            np.eye(3),
            np.eye(3),
            2.0,
            TypeError,
            "n must be an integer of at least 1, got 2.0; pass None",
        ),
        (np.eye(3), np.eye(3), "2", TypeError, "got '2'"),
        (np.eye(3), np.eye(3), True, TypeError, "got True"),
        (np.ones((3, 4)), np.eye(3), 1, ValueError, r"dynamics must be square.*\(3, 4\)"),
        (np.ones(3), np.eye(3), 1, ValueError, r"dynamics must be square.*\(3,\)"),
        (np.eye(3), np.eye(4), 1, ValueError, r"with 3 units as dynamics has.*\(4, 4\)"),
        (np.eye(3), np.ones(3), 1, ValueError, r"immediate must be.*\(3,\)"),
        (np.ones((0, 0)), np.ones((0, 2)), 1, ValueError, "units and weights, got 0 and 2"),
        (np.eye(3), np.ones((3, 0)), 1, ValueError, "units and weights, got 3 and 0"),
        (sp.eye_array(3), sp.csr_array((3, 0)), 1, ValueError, "got 3 and 0"),
        (np.full((3, 3), "x"), np.eye(3), 1, TypeError, "dynamics must be a scipy.sparse array"),
        (np.eye(3), np.full((3, 3), None), 1, TypeError, "immediate must be.*got ndarray"),
        (broken_csr("indices", [0, 1, 3]), np.eye(3), 1, ValueError, r"in \[0, 3\), got 0 to 3"),
        (broken_csr("indices", [0, -1, 2]), np.eye(3), 1, ValueError, "got -1 to 2"),
        (broken_csr("indptr", [0, 2, 1, 3]), np.eye(3), 1, ValueError, "indptr must rise"),
        (broken_csr("indptr", [0, 1, 2, 9]), np.eye(3), 1, ValueError, "indptr must rise"),
        (np.eye(3), broken_csr("indptr", [0, 3]), 1, ValueError, "indptr must fit shape"),
    ],
)
def test_bad_input_is_refused_in_one_line(dynamics, immediate, n, error, text):
    with pytest.raises(error, match=text) as raised:
        reach(dynamics, immediate, n=n)
    assert "\n" not in str(raised.value)


def test_a_reach_that_does_not_fit_is_refused_before_it_is_filled(monkeypatch, scarce, rng):
    net = random_sparse(rng, 50, 4, 1)
    sizes = [4 * reach(*net, n=n).reach_indices.size for n in (1, 2, 3)]
    assert sizes[1] < sizes[2]
    scarce(sizes[1])
    assert reach(*net, n=2).n == 2
    monkeypatch.setattr(symbolic, "fill_reach", None)
    with pytest.raises(MemoryError, match=r"got .* GiB; the largest n that fits is 2$"):
        reach(*net, n=3)
    scarce(8)
    with pytest.raises(MemoryError, match="no n fits"):
        reach(*net, n=2)


def test_the_csr_by_weight_is_counted_before_it_is_made(scarce):
    pattern = reach(*ring(4))
    scarce(4 * pattern.nnz - 1)
    with pytest.raises(MemoryError, match="CSR of the pattern by weight must fit"):
        _ = pattern.indices


# --------------------------------------------------------------------------- how it is found


def test_keys_that_collide_do_not_merge_what_differs(monkeypatch, rng):
    net = random_sparse(rng, 40, 3, 2)
    expected = reach(*net, n=2)
    honest = symbolic.Search._unit_hash
    monkeypatch.setattr(
        symbolic.Search,
        "_unit_hash",
        lambda search: honest(search) & (1 if search.seed < 2 else -1),
    )
    assert same(reach(*net, n=2), expected)
    monkeypatch.setattr(symbolic.Search, "_unit_hash", lambda search: honest(search) * 0)
    dynamics, immediate = ring(4)
    search = symbolic.Search(canonical("", dynamics, False), canonical("", immediate, True), 2)
    size, key, _, _ = search.count()
    supernode, lead = symbolic._merge(key)
    assert size.tolist() == [2, 2, 2, 2]  # only a look at the units tells them apart
    assert supernode.tolist() == [0, 0, 0, 0]
    reach_indptr = np.array([0, 2])
    assert not search.check(supernode, lead, reach_indptr, search.fill(lead, reach_indptr))


def test_a_saturated_component_takes_one_walk(monkeypatch):
    walks = []

    def count_reach(start, stop, *arguments):
        walks.append(stop - start)
        return honest(start, stop, *arguments)

    honest = symbolic.count_reach
    monkeypatch.setattr(symbolic, "count_reach", count_reach)
    reach(*ring(9), n=None)
    assert walks == [1]


@pytest.mark.parametrize("n", [2, None])
def test_the_number_of_threads_changes_nothing(n, monkeypatch, rng):
    net = random_sparse(rng, 90, 2, 2)
    expected = reach(*net, n=n)
    monkeypatch.setattr(symbolic, "_GROUPS_PER_TASK", 1)
    for threads in (1, 2, 5):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        pattern = reach(*net, n=n)
        assert same(pattern, expected)
        assert pattern.entries_by_n == expected.entries_by_n
        assert pattern.saturated == expected.saturated


@pytest.mark.parametrize("n", [2, None])
def test_progress_rises_to_one(n, monkeypatch, rng):
    told = []
    monkeypatch.setattr(symbolic, "_GROUPS_PER_TASK", 10)
    net = random_sparse(rng, 90, 2, 2)
    pattern = reach(*net, n=n, progress=told.append)
    assert same(pattern, reach(*net, n=n))
    assert len(told) > 10
    assert told == sorted(told)
    assert 0 < told[0] < 0.1
    assert told[-1] == 1


# -------------------------------------------------------------------------------------- in a file


@pytest.mark.parametrize("n", [2, None])
def test_a_saved_pattern_comes_back(n, tmp_path, rng):
    pattern = reach(*random_sparse(rng, 30, 3, 2), n=n)
    pattern.save(tmp_path / "pattern")
    again = ReachPattern.load(str(tmp_path / "pattern"))
    assert same(again, pattern)
    assert repr(again) == repr(pattern)
    assert again.entries_by_n == pattern.entries_by_n
    assert again.cost() == pattern.cost()
    assert not again.reach_indices.flags.writeable
    reach(*ring(3)).save(tmp_path / "pattern")  # replaces
    assert ReachPattern.load(tmp_path / "pattern").shape == (3, 3)


def test_files_that_are_no_pattern_are_refused_in_a_line(tmp_path):
    path = tmp_path / "pattern"
    reach(*ring(40)).save(path)
    whole = path.read_bytes()
    for content, text in [
        (whole[:-3], "must be a reach pattern of sparsegrad, got another kind of file, or one"),
        (whole[:-1] + b"\x7f", "damaged: its checksum does not fit"),
        (b"text", "must be a reach pattern of sparsegrad, got another kind of file"),
        (b"", "must be a reach pattern of sparsegrad, got another kind of file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=text) as raised:
            ReachPattern.load(path)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)
    write_tensors(path, {}, {}, kind="checkpoint")
    with pytest.raises(
        ValueError, match="must be a reach pattern of sparsegrad, got sparsegrad ch"
    ):
        ReachPattern.load(path)
    with pytest.raises(FileNotFoundError):
        ReachPattern.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"reach_indices": np.array([0, 9, 1, 2, 2, 3, 0, 3], np.int32)}, r"in \[0, 4\)"),
        ({"supernode": np.zeros(3, np.int32)}, "must have 4 entries, got 3"),
        ({"dynamics_indptr": np.zeros((2, 2), np.int64)}, "must be a 1-D array of int64"),
        ({"supernode": np.zeros(4, np.int64)}, "must be a 1-D array of int32"),
        ({"supernode": None}, "must be .*supernode.*, got"),
        ({"n": "2"}, r"n must be a whole number .*, got"),
        ({"saturated": 1}, "saturated must be"),
        ({"entries_by_n": [4, 9]}, "must end with the 8 entries"),
        ({"entries_by_n": None}, "entries_by_n"),
        ({"more": 1}, "got .*more"),
    ],
)
def test_a_file_whose_content_does_not_fit_together_is_refused(change, text, tmp_path):
    pattern = reach(*ring(4))
    arrays = {name: getattr(pattern, name) for name in ARRAYS}
    about = {"n": 2, "saturated": False, "entries_by_n": [4, 8]}
    for name, value in change.items():
        (arrays if name in ARRAYS else about)[name] = value
    arrays = {name: array for name, array in arrays.items() if array is not None}
    write_tensors(tmp_path / "pattern", arrays, about, kind="reach pattern")
    with pytest.raises(ValueError, match=text) as raised:
        ReachPattern.load(tmp_path / "pattern")
    assert str(raised.value).startswith(str(tmp_path / "pattern"))
    assert "\n" not in str(raised.value)


# ------------------------------------------------------------------------- what it is, as an object


def test_repr_tells_the_sizes_in_one_line():
    assert repr(reach(*ring(4), n=2)) == (
        "ReachPattern(weights=4, units=4, n=2, saturated=False, entries=8, density=0.5, "
        "supernodes=4)"
    )


def test_to_scipy_is_boolean_and_by_weight():
    matrix = reach(*ring(4), n=2).to_scipy()
    assert isinstance(matrix, sp.csr_array)
    assert matrix.dtype == bool
    np.testing.assert_array_equal(matrix.toarray(), oracle.reach(*ring(4), 2).T)


def test_arrays_have_the_agreed_types_and_are_read_only():
    pattern = reach(*ring(4))
    for name in (*ARRAYS, "indptr", "indices"):
        array = getattr(pattern, name)
        assert array.dtype == (np.int64 if name.endswith("indptr") else np.int32)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    with pytest.raises(AttributeError):
        pattern.n = 3


@pytest.mark.parametrize("again", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_copy_is_the_same_and_as_read_only(again):
    pattern = reach(*ring(4), n=None)
    other = again(pattern)
    assert same(other, pattern)
    assert not other.supernode.flags.writeable
    assert repr(other) == repr(pattern)


def test_a_pattern_built_by_hand_copies_what_others_could_write():
    pattern = reach(*ring(4))
    arrays = {name: getattr(pattern, name).copy() for name in ARRAYS}
    built = ReachPattern(**arrays, n=2, saturated=False, entries_by_n=pattern.entries_by_n)
    for array in arrays.values():
        array[:] = 0  # still writeable, and no longer the pattern's
    assert same(built, pattern)
    arrays = {name: getattr(pattern, name).copy() for name in ARRAYS}
    views = {name: array[:] for name, array in arrays.items()}
    for view in views.values():
        view.setflags(write=False)
    built = ReachPattern(**views, n=2, saturated=False, entries_by_n=pattern.entries_by_n)
    for array in arrays.values():
        array[:] = 0
    assert same(built, pattern)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"supernode": np.zeros(4)}, TypeError, "supernode must be a 1-D array of int32"),
        ({"supernode": [0, 1, 2, 3]}, TypeError, "got list"),
        ({"supernode": np.zeros(3, np.int32)}, ValueError, "must have 4 entries, got 3"),
        ({"supernode": np.array([0, 1, 2, 4], np.int32)}, ValueError, r"in \[0, 4\), got 0 to 4"),
        ({"supernode": np.array([3, 2, 1, 0], np.int32)}, ValueError, "reach the units it writes"),
        ({"supernode": np.array([1, 0, 2, 3], np.int32)}, ValueError, "got weight 0 that does not"),
        ({"reach_indices": np.array([0, 0, 1, 2, 2, 3, 0, 3], np.int32)}, ValueError, "got row 0"),
        ({"reach_indices": np.arange(8, dtype=np.int32)}, ValueError, "row 2 that is not"),
        ({"reach_indptr": np.array([0, 2, 4, 6, 7])}, ValueError, "rise from 0 to the number of"),
        ({"dynamics_indptr": np.array([0, 2, 1, 3, 4])}, ValueError, "dynamics_indptr must rise"),
        ({"dynamics_indptr": np.zeros(1, np.int64)}, ValueError, "must have units and weights"),
        ({"entries_by_n": (4, 9)}, ValueError, "must end with the 8 entries"),
        ({"n": 0}, ValueError, "n be at least 1"),
    ],
)
def test_a_pattern_built_by_hand_is_checked(change, error, text):
    pattern = reach(*ring(4))
    parts = {name: getattr(pattern, name) for name in ARRAYS}
    parts |= {"n": 2, "saturated": False, "entries_by_n": (4, 8)}
    with pytest.raises(error, match=text) as raised:
        ReachPattern(**(parts | change))
    assert "\n" not in str(raised.value)


def test_the_examples_in_the_docstrings_run():
    assert doctest.testmod(sparsegrad.symbolic.pattern).attempted > 0
    assert doctest.testmod(sparsegrad.symbolic.pattern).failed == 0


class Nodes:
    """What NumPy takes for the list of its nodes, as it does a graph of networkx."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, node: int) -> int:
        return range(2)[node]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Nodes, "Nodes"),
        (lambda: None, "NoneType"),
        (lambda: "ab", "str"),
        (lambda: iter([[1, 0], [0, 1]]), "list_iterator"),
        (
            lambda: pytest.importorskip("torch").eye(2).to_sparse(),
            "Tensor",
        ),
        (
            lambda: pytest.importorskip("jax.experimental.sparse").BCSR.fromdense(np.eye(2)),
            "BCSR",
        ),
    ],
)
def test_what_is_no_matrix_of_ours_is_refused_by_its_name(make: Any, name: str) -> None:
    matrix, immediate = make(), np.eye(2)
    for given in ((matrix, immediate), (immediate, matrix)):
        with pytest.raises(TypeError, match=f"got {name}; convert it to scipy") as raised:
            reach(*given, 2)
        assert "\n" not in str(raised.value)
