"""Cells: layout at the door, forward, and both Jacobians against finite differences."""

import hashlib
import tracemalloc
from typing import Any

import numba
import numpy as np
import pytest
from scipy import sparse

from sparsegrad import registry
from sparsegrad.cells import GRU, LSTM, RNN, Cell, CellKind, LeakyRNN, Map, MinGRU, check_cell
from sparsegrad.cells.jacobians import dynamics_pattern, immediate_pattern
from sparsegrad.kernels.cells import maps as kernels
from sparsegrad.kernels.cells.elementwise import rnn_tanh

CELLS = [row.load() for row in registry.CELLS.values()]


def forward(cell: Cell, state: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """One step of the cell: new state, d_state, d_pre, and the sources z."""
    c, g, units = cell.kind.components, len(cell.kind.maps), cell.units
    z = np.concatenate([state[0], x, [1.0]]).astype(cell.dtype)
    pre = np.empty((g, units), cell.dtype)
    kernels.apply_maps(cell.maps, z, pre)
    new_state = np.empty((c, units), cell.dtype)
    d_state = np.full((c, c, units), np.nan, cell.dtype)
    d_pre = np.full((c, g, units), np.nan, cell.dtype)
    cell.kind.update(state, pre, new_state, d_state, d_pre)
    return new_state, d_state, d_pre, z


def jacobians(cell: Cell, state: np.ndarray, x: np.ndarray) -> tuple:
    _, d_state, d_pre, z = forward(cell, state, x)
    pattern, dynamics = dynamics_pattern(cell)
    data = np.empty(pattern.nnz, cell.dtype)
    kernels.dynamics_values(dynamics, cell.weights, d_state, d_pre, data)
    D = pattern.astype(cell.dtype)
    D.data[:] = data
    pattern = immediate_pattern(cell)
    data = np.empty(pattern.nnz, cell.dtype)
    kernels.immediate_values(cell.maps, cell.kind.partials, z, d_pre, data)
    I_ = pattern.astype(cell.dtype)
    I_.data[:] = data
    return D.toarray(), I_.toarray()


def differences(cell: Cell, state: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    step = 1e-6
    D = np.empty((cell.states, cell.states))
    flat = state.reshape(-1)
    for j in range(cell.states):
        ends = []
        for sign in (1, -1):
            moved = flat.copy()
            moved[j] += sign * step
            ends.append(forward(cell, moved.reshape(state.shape), x)[0].ravel())
        D[:, j] = (ends[0] - ends[1]) / (2 * step)
    I_ = np.empty((cell.states, cell.weights.size))
    for w in range(cell.weights.size):
        ends = []
        for sign in (1, -1):
            kept = cell.weights[w]
            cell.weights[w] += sign * step
            ends.append(forward(cell, state, x)[0].ravel())
            cell.weights[w] = kept
        I_[:, w] = (ends[0] - ends[1]) / (2 * step)
    return D, I_


def a_cell(cls: type[Cell], **kwargs: object) -> tuple[Cell, np.ndarray, np.ndarray]:
    cell = cls(3, 6, sparsity=0.5, seed=3, dtype="float64", **kwargs)
    rng = np.random.default_rng(0)
    return cell, rng.standard_normal((cell.kind.components, 6)), rng.standard_normal(3)


# a spike's slope is a surrogate, which no difference finds
SMOOTH = [cls for cls in CELLS if getattr(cls.kind.update, "smooth", True)]


@pytest.mark.parametrize("gate_masks", ["independent", "shared"])
@pytest.mark.parametrize("cls", SMOOTH)
def test_jacobians_equal_finite_differences(cls: type[Cell], gate_masks: str) -> None:
    cell, state, x = a_cell(cls, gate_masks=gate_masks)
    D, I_ = jacobians(cell, state, x)
    D_ref, I_ref = differences(cell, state, x)
    np.testing.assert_allclose(D, D_ref, atol=1e-8)
    np.testing.assert_allclose(I_, I_ref, atol=1e-8)
    assert np.abs(I_ref).max() > 0.1


@pytest.mark.parametrize("cls", CELLS)
def test_products_with_the_jacobians_need_no_jacobian(cls: type[Cell]) -> None:
    cell, state, x = a_cell(cls)
    D, I_ = jacobians(cell, state, x)
    _, d_state, d_pre, z = forward(cell, state, x)
    rng = np.random.default_rng(1)
    tangent = rng.standard_normal(state.shape)
    pushed = np.empty_like(tangent)
    kernels.push_forward(cell.maps, cell.kind.partials, d_state, d_pre, tangent, pushed)
    np.testing.assert_allclose(pushed.ravel(), D @ tangent.ravel(), rtol=1e-12, atol=1e-13)
    pulled, grad = np.empty_like(tangent), np.ones(cell.weights.size)
    kernels.pull_states(cell.kind.partials, d_state, tangent, pulled)
    for first, last in ((0, 2), (2, cell.units)):  # units may be cut anywhere
        kernels.pull_rows(
            first, last, cell.maps, cell.kind.partials, z, d_pre, tangent, pulled[0], grad
        )
    np.testing.assert_allclose(pulled.ravel(), D.T @ tangent.ravel(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(grad - 1, I_.T @ tangent.ravel(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cls", CELLS)
def test_dense_arrays_go_in_and_come_out(cls: type[Cell], dtype: str) -> None:
    cell = cls(5, 12, sparsity=0.75, seed=1, dtype=dtype)
    dense = cell.to_dense()
    for bias in dense.keys() & {"bias_ih", "bias_hh"}:
        dense[bias] = np.random.default_rng(0).standard_normal(dense[bias].shape).astype(dtype)
    again = cls.from_dense(**dense)
    assert again.dtype == dtype
    for name, values in again.to_dense().items():
        np.testing.assert_array_equal(values, dense[name])
    for name, width in (("weight_ih", 5), ("weight_hh", 12)):
        gates = sum(linear.reads(name) for linear in cell.kind.maps)
        assert (name in dense) == (gates > 0)
        if gates:
            assert dense[name].shape == (gates * 12, width)


@pytest.mark.parametrize("gate_masks", ["independent", "shared"])
@pytest.mark.parametrize("cls", CELLS)
def test_masks_have_the_exact_count(cls: type[Cell], gate_masks: str) -> None:
    cell = cls(5, 12, sparsity=0.75, input_sparsity=0.4, gate_masks=gate_masks, seed=1)
    masks = cell.masks()
    for name, width in (("weight_hh", 12), ("weight_ih", 5)):
        by_gate = masks.get(name, np.empty((0, width), bool)).reshape(-1, 12 * width)
        np.testing.assert_array_equal(by_gate.sum(axis=1), 36)
        if by_gate.shape[0] > 1:
            same = (by_gate == by_gate[0]).all()
            assert same == (gate_masks == "shared")
    assert all(masks[bias].all() for bias in masks.keys() & {"bias_ih", "bias_hh"})


def test_seed_decides_masks_and_weights() -> None:
    one, two, other = (GRU(3, 8, sparsity=0.5, seed=s) for s in (4, 4, 5))
    np.testing.assert_array_equal(one.to_dense()["weight_hh"], two.to_dense()["weight_hh"])
    assert (one.masks()["weight_hh"] != other.masks()["weight_hh"]).any()


def test_initial_weights_are_scaled_by_the_fan_in_that_exists() -> None:
    spread = []
    for sparsity in (0.0, 0.9):
        cell = RNN(4, 300, sparsity=sparsity, seed=0, dtype="float64")
        drive = cell.to_dense()["weight_hh"] @ np.random.default_rng(0).standard_normal(300)
        spread.append(drive.std())
    np.testing.assert_allclose(spread, 1.0, rtol=0.15)


def test_own_masks_are_taken() -> None:
    blocks = np.kron(np.eye(3, dtype=bool), np.ones((2, 2), bool))
    cell = LSTM(4, 6, masks={"weight_hh": np.tile(blocks, (4, 1))})
    np.testing.assert_array_equal(cell.masks()["weight_hh"], np.tile(blocks, (4, 1)))
    assert cell.masks()["weight_ih"].all()


def test_masks_of_dense_arrays_keep_zero_weights() -> None:
    weight = np.zeros((3, 3))
    cell = RNN.from_dense(weight_ih=np.ones((3, 2)), weight_hh=weight, bias_ih=np.zeros(3))
    assert cell.weights.size == 6 + 3
    cell = RNN.from_dense(
        weight_ih=np.ones((3, 2)), weight_hh=weight, masks={"weight_hh": np.eye(3, dtype=bool)}
    )
    assert cell.weights.size == 6 + 3
    assert "bias_ih" not in cell.to_dense()


@numba.njit(cache=True)
def leaky(state, pre, new_state, d_state, d_pre):  # type: ignore[no-untyped-def]
    for i in range(state.shape[1]):
        y = np.tanh(pre[0, i])
        new_state[0, i] = 0.9 * state[0, i] + 0.1 * y
        d_state[0, 0, i] = 0.9
        d_pre[0, 0, i] = 0.1 * (1.0 - y * y)


@numba.njit(cache=True)
def leaky_wrong(state, pre, new_state, d_state, d_pre):  # type: ignore[no-untyped-def]
    for i in range(state.shape[1]):
        y = np.tanh(pre[0, i])
        new_state[0, i] = 0.9 * state[0, i] + 0.1 * y
        d_state[0, 0, i] = 0.9
        d_pre[0, 0, i] = 0.1 * (1.0 - y)


@numba.njit(cache=True)
def talks_to_its_neighbour(state, pre, new_state, d_state, d_pre):  # type: ignore[no-untyped-def]
    units = state.shape[1]
    for i in range(units):
        new_state[0, i] = pre[0, i] + state[0, (i + 1) % units] - state[0, i]
        d_state[0, 0, i] = -1.0
        d_pre[0, 0, i] = 1.0


def test_a_users_own_cell() -> None:
    class Leaky(Cell):
        kind = CellKind(update=leaky, maps=(Map(),))

    check_cell(Leaky.kind)
    cell, state, x = a_cell(Leaky)
    D, I_ = jacobians(cell, state, x)
    D_ref, I_ref = differences(cell, state, x)
    np.testing.assert_allclose(D, D_ref, atol=1e-8)
    np.testing.assert_allclose(I_, I_ref, atol=1e-8)


@pytest.mark.parametrize("cls", CELLS)
def test_check_cell_passes_the_built_in_cells(cls: type[Cell]) -> None:
    check_cell(cls(2, 2).kind)


def test_check_cell_names_the_wrong_partial() -> None:
    with pytest.raises(ValueError, match=r"∂s'\[0\]/∂a\[0\] gives"):
        check_cell(CellKind(update=leaky_wrong, maps=(Map(),)))
    with pytest.raises(ValueError, match=r"∂s'\[0\]/∂s\[0\] is declared zero but is 0\.9"):
        check_cell(CellKind(update=leaky, maps=(Map(),), state_partials=()))
    with pytest.raises(ValueError, match=r"∂s'\[0\]/∂a\[1\] is not written"):
        check_cell(CellKind(update=leaky, maps=(Map(), Map())))
    with pytest.raises(ValueError, match="reads another unit"):
        check_cell(CellKind(update=talks_to_its_neighbour, maps=(Map(),)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": 0, "units": 3}, "inputs must be at least 1, got 0"),
        ({"inputs": 2, "units": 3, "sparsity": 1.0}, r"\[0, 1\), got 1.0"),
        ({"inputs": 2, "units": 3, "gate_masks": "none"}, "gate_masks must be one of"),
        ({"inputs": 2, "units": 3, "dtype": "float16"}, "float32 or float64, got float16"),
        ({"inputs": 2, "units": 3, "masks": {"w": np.ones(3, bool)}}, "named as"),
        ({"inputs": 2, "units": 3, "masks": {"weight_hh": np.ones((3, 3))}}, "must be boolean"),
        ({"inputs": 2, "units": 3, "masks": {"weight_hh": np.ones((2, 3), bool)}}, "shape"),
    ],
)
def test_bad_cells_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        RNN(**arguments)


def test_every_way_to_build_a_cell_takes_its_settings() -> None:
    drawn = LeakyRNN(2, 3, leak=0.7, sparsity=0.5)
    dense, masks = drawn.to_dense(), drawn.masks()
    one = LeakyRNN.from_dense(**dense, masks=masks, leak=0.7)
    two = LeakyRNN.from_sparse(**dense, leak=0.7)
    three = LeakyRNN.from_edges(
        np.array([0]), np.array([1]), np.ones(1), 3, np.ones((3, 2)), leak=0.7
    )
    assert all(cell.options() == {"leak": 0.7} for cell in (drawn, one, two, three))
    np.testing.assert_array_equal(one.weights, drawn.weights)
    with pytest.raises(TypeError, match="unexpected keyword argument 'leak'"):
        GRU.from_dense(**GRU(2, 3).to_dense(), leak=0.7)


def test_bad_dense_arrays_are_refused() -> None:
    good = {"weight_ih": np.ones((6, 2)), "weight_hh": np.ones((6, 2))}
    with pytest.raises(TypeError, match="weight_ih must be float64"):
        GRU.from_dense(**{**good, "weight_ih": np.ones((6, 2), np.float32)})
    with pytest.raises(ValueError, match=r"weight_ih must have shape \(6, 3\)"):
        GRU.from_dense(**{**good, "weight_ih": np.ones((4, 3))})
    with pytest.raises(ValueError, match="weight_hh must be finite"):
        GRU.from_dense(**{**good, "weight_hh": np.full((6, 2), np.nan)})
    with pytest.raises(TypeError, match="float32 or float64, got int64"):
        GRU.from_dense(**{**good, "weight_hh": np.ones((6, 2), int)})
    with pytest.raises(ValueError, match="nonlinearity must be one of"):
        RNN(2, 3, nonlinearity="sine")


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_an_uncompiled_update_is_refused() -> None:
    with pytest.raises(TypeError, match=r"decorate it with numba\.njit"):
        CellKind(update=lambda *_: None, maps=(Map(),))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 5e-7), ("float64", 0)])
def test_tanh_is_accurate_over_its_whole_range(dtype: str, tolerance: float) -> None:
    ends = np.array([0.0, 1e-30, 1e-4, 7.9, 8.0, 100.0, 3e38])
    x = np.concatenate([np.linspace(-12, 12, 4001), ends, -ends]).astype(dtype)
    y, slope = np.empty((1, x.size), dtype), np.empty((1, 1, x.size), dtype)
    rnn_tanh(y, x[None], y, slope, slope)
    exact = np.tanh(x.astype("float64"))
    np.testing.assert_allclose(y[0], exact, rtol=max(tolerance, 1e-15), atol=0)
    x[:] = np.nan
    rnn_tanh(y, x[None], y, slope, slope)
    assert np.isnan(y).all()


@pytest.mark.parametrize("cls", CELLS)
def test_whole_vectors_of_columns_equal_columns_one_by_one(cls: type[Cell]) -> None:
    kind = cls(3, 21).kind
    c, g = kind.components, len(kind.maps)
    rng = np.random.default_rng(0)
    state, pre = rng.standard_normal((c, 21)), rng.standard_normal((g, 21))
    for dtype, tolerance in (("float32", 1e-6), ("float64", 1e-14)):
        whole = [np.zeros(shape, dtype) for shape in ((c, 21), (c, c, 21), (c, g, 21))]
        kind.update(state.astype(dtype), pre.astype(dtype), *whole)
        for i in range(21):
            one = [np.zeros((*a.shape[:-1], 1), dtype) for a in whole]
            column = slice(i, i + 1)
            kind.update(
                state[:, column].astype(dtype, order="C"),
                pre[:, column].astype(dtype, order="C"),
                *one,
            )
            for together, alone in zip(whole, one, strict=True):
                np.testing.assert_allclose(
                    together[..., column], alone, rtol=tolerance, atol=tolerance
                )


INPUT = {"input_sparsity": 0.3}


def digest(cell: Cell) -> str:
    found = hashlib.sha256()
    for array in (*cell.maps, *(a for pair in cell.places.values() for a in pair)):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize(
    ("cls", "units", "options", "expected"),
    [
        (RNN, 7, {"sparsity": 0.5}, "7929c58479048233"),
        (GRU, 130, {"sparsity": 0.9, "seed": 3}, "27a7301da9c5a5d8"),
        (
            GRU,
            130,
            {"sparsity": 0.99, "input_sparsity": 0.3, "gate_masks": "shared"},
            "272bbcd03227184d",
        ),
        (LSTM, 33, {"sparsity": 0.0, "dtype": "float64", "gain": 1.3}, "e21468d94d65a94f"),
    ],
)
def test_a_seed_draws_what_it_always_drew(
    cls: type[Cell], units: int, options: dict, expected: str
) -> None:
    """Structure, weights and places, to the last bit, as when masks were dense."""
    assert digest(cls(5, units, **options)) == expected


@pytest.mark.parametrize("cls", [RNN, GRU, LSTM, MinGRU])
def test_sparse_matrices_go_in(cls: type[Cell]) -> None:
    cell = cls(5, 12, sparsity=0.75, seed=1, dtype="float64")
    dense = cell.to_dense()
    given: dict[str, Any] = dict(dense)
    for name in given.keys() & {"weight_hh", "weight_ih"}:
        given[name] = sparse.csr_array(dense[name])
        given[name].data[0] = 0.0  # stored: it exists
        dense[name].flat[np.flatnonzero(dense[name])[0]] = 0.0
    again = cls.from_sparse(**given)
    assert digest(again) != digest(cell)
    assert again.weights.size == cell.weights.size
    for name, values in again.to_dense().items():
        np.testing.assert_array_equal(values, dense[name])


def test_edges_go_in() -> None:
    sources, targets = np.array([3, 0, 1, 3]), np.array([1, 2, 2, 0])
    weights = np.arange(1.0, 13.0).reshape(3, 4)
    cell = GRU.from_edges(sources, targets, weights, 4, weight_ih=np.ones((12, 2)))
    dense = np.zeros((3, 4, 4))
    dense[:, targets, sources] = weights
    np.testing.assert_array_equal(cell.to_dense()["weight_hh"], dense.reshape(12, 4))
    one = RNN.from_edges(sources, targets, weights[0], 4, weight_ih=np.ones((4, 2)))
    np.testing.assert_array_equal(one.to_dense()["weight_hh"], dense[0])


TWICE = sparse.csr_array((np.ones(3), np.array([1, 1, 0]), np.array([0, 2, 3, 3])), shape=(3, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda e: e([0, 4], [1, 1], [1.0, 1.0]), r"sources must lie in \[0, 3\), got 0 to 4"),
        (lambda e: e([0, 1], [1, -1], [1.0, 1.0]), r"targets must lie in \[0, 3\), got -1 to 1"),
        (lambda e: e([0, 2, 0], [1, 1, 1], np.ones(3)), "come once, got 0 to 1 twice: add them up"),
        (lambda e: e([0, 1], [1], [1.0, 1.0]), r"targets must be as many as sources, 2"),
        (lambda e: e([0.5], [1], [1.0]), r"sources must be a list of integers, got float64"),
        (lambda e: e([0], [1], [np.nan]), "weight_hh must be finite"),
        (
            lambda e: RNN.from_sparse(TWICE, np.ones((3, 2))),
            r"weight_hh must store each weight once, got \(0, 1\) twice: call sum_duplicates",
        ),
        (
            lambda e: RNN.from_dense(
                np.ones((3, 2)), sparse.eye_array(3), masks={"weight_hh": np.ones((3, 3), bool)}
            ),
            "masks must not name weight_hh, which is sparse",
        ),
        (lambda e: RNN.from_sparse(sparse.eye_array(3), np.ones((4, 2))), "weight_ih must have"),
    ],
)
def test_bad_edges_and_matrices_are_refused_in_one_line(make: Any, message: str) -> None:
    def edges(sources: Any, targets: Any, weights: Any) -> Cell:
        return RNN.from_edges(sources, targets, weights, 3, weight_ih=np.ones((3, 2)))

    with pytest.raises((ValueError, TypeError), match=message) as raised:
        make(edges)
    assert "\n" not in str(raised.value)


def test_a_large_net_takes_memory_of_its_weights_number() -> None:
    """Its dense mask would take 4 GB: 64,000 units of 10 inputs, in less than 100 MB."""
    tracemalloc.start()
    cell = RNN(2, 64_000, sparsity=1 - 10 / 64_000, seed=0)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    held = sum(a.nbytes for a in cell.maps)
    held += sum(a.nbytes for pair in cell.places.values() for a in pair)
    assert cell.places["weight_hh"][0].size == 640_000
    assert most < 4 * held
    drive = np.bincount(
        cell.places["weight_hh"][1] // 64_000,
        weights=cell.weights[cell.places["weight_hh"][0]] ** 2,
        minlength=64_000,
    )
    np.testing.assert_allclose(drive[drive > 0].mean(), 1.0, rtol=0.02)
