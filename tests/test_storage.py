"""J in 16 bits: what is stored, its rounding, the same bits over threads and files, refusals."""

import copy
import sys

import ml_dtypes
import numpy as np
import pytest
from scipy import sparse

import sparsegrad
from sparsegrad.cli.main import main
from sparsegrad.kernels.compiler.pointers import INTERPRETED

DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}


def diagonal(weights: int, batch: int, storage: str | None, threads: int = 1):
    """An influence whose units each feed themselves alone, with as many weights as they reach."""
    immediate = sparse.csc_array(np.ones((4, weights), bool))
    pattern = sparsegrad.reach(np.eye(4, dtype=bool), immediate, 1)
    return sparsegrad.Influence(pattern, batch, storage=storage, threads=threads)


def step(influence, factor: float, added: float = 0.0) -> None:
    pattern, batch = influence.pattern, influence.batch
    influence.update(
        np.full((batch, pattern.dynamics_indices.size), factor, np.float32),
        np.full((batch, pattern.immediate_indices.size), added, np.float32),
    )


def filled(influence, values: np.ndarray) -> None:
    pattern = influence.pattern
    data = np.resize(values.astype(np.float32), pattern.nnz)
    for b in range(influence.batch):
        kept = (data, pattern.indices, pattern.indptr)
        influence.from_scipy(sparse.csc_array(kept, pattern.shape[::-1]), b)


@pytest.mark.parametrize("storage", DTYPES)
def test_numbers_of_the_storage_stay_and_others_go_to_a_neighbour_unbiased(storage):
    every = np.arange(1 << 16, dtype=np.uint16).view(DTYPES[storage])
    every = every[np.isfinite(every.astype(np.float32))]
    held = diagonal(every.size // 4, 1, storage)
    assert held.nbytes == held.panels.size * 2
    assert held.panels.dtype == DTYPES[storage]
    filled(held, every)
    before = held.panels.copy()
    step(held, 1.0)
    np.testing.assert_array_equal(held.panels.view(np.uint16), before.view(np.uint16))

    values = np.float32([1.0, -1.7, 3e-3, 6e-6, -2.5e-7, 777.0])  # normal and subnormal in float16
    drawn = diagonal(40, 300, storage)
    filled(drawn, values)
    stored = drawn.to_scipy().data.astype(np.float64)
    step(drawn, 0.7)
    exact = stored * np.float64(np.float32(0.7))
    found = np.stack([drawn.to_scipy(b).data for b in range(300)]).astype(np.float64)
    nearest = exact.astype(DTYPES[storage])
    below = np.nextafter(nearest, DTYPES[storage].type(-np.inf))
    above = np.nextafter(nearest, DTYPES[storage].type(np.inf))
    below, above = (np.asarray(x, np.float64) for x in (below, above))
    assert ((found >= below) & (found <= above)).all()
    gap = (above - below) / 2
    error = (found - exact) / gap
    assert abs(error).max() < 1.001
    # of 300 streams and each of six values some 27 places: 8000 draws, deviation at most 1/180
    for value in range(values.size):
        assert abs(error[:, value :: values.size].mean()) < 0.03
        assert len(np.unique(found[:, value])) == 2


@pytest.mark.parametrize("storage", DTYPES)
def test_what_each_step_adds_is_kept_in_the_mean(storage):
    held = diagonal(8 if INTERPRETED else 40, 50, storage)
    filled(held, np.float32([64.0]))
    for _ in range(20):
        step(held, 1.0, 0.01)  # less than half of the distance between two numbers
    found = np.stack([held.to_scipy(b).data for b in range(50)])
    assert found.mean() == pytest.approx(64.2, abs=0.05)
    assert held.steps == 20
    twin = copy.deepcopy(held)
    for one in (held, twin):
        step(one, 0.9, 0.3)
    np.testing.assert_array_equal(held.panels, twin.panels)


def test_the_bits_are_those_of_one_thread_and_of_two_calls():
    rng = np.random.default_rng(0)
    dynamics, immediate = rng.random((24, 24)) < 0.2, rng.random((24, 200)) < 0.05
    immediate[rng.integers(24, size=200), np.arange(200)] = True
    pattern = sparsegrad.reach(dynamics, immediate, 2)
    batch = 4 if INTERPRETED else 96
    one, two, twice = (
        sparsegrad.Influence(pattern, batch, storage="bfloat16", threads=threads)
        for threads in (1, 2, 1)
    )
    assert two.threads == 2 or INTERPRETED
    for _ in range(3):
        D = rng.standard_normal((batch, pattern.dynamics_indices.size), np.float32) / 3
        immediate = rng.standard_normal((batch, pattern.immediate_indices.size), np.float32)
        delta = rng.standard_normal((batch, 24), np.float32)
        grads = [influence.update_and_contract(D, immediate, delta) for influence in (one, two)]
        twice.update(D, immediate)
        grads.append(twice.contract(delta))
        for influence, grad in zip((two, twice), grads[1:], strict=True):
            np.testing.assert_array_equal(grad, grads[0])
            np.testing.assert_array_equal(influence.panels, one.panels)


def learner(method, threads: int = 1):
    cell = sparsegrad.GRU(3, 12, sparsity=0.7, seed=0)
    readout = sparsegrad.Linear(2, loss="squared_error", seed=1)
    return sparsegrad.OnlineLearner(
        cell, readout, method, sparsegrad.Adam(1e-3), batch=2, threads=threads
    )


def data(steps: int, seed: int):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((steps, 2, 3), np.float32),
        rng.standard_normal((steps, 2, 2), np.float32),
    )


def test_a_learner_goes_on_from_its_file_bit_for_bit_and_after_a_rewire(tmp_path):
    first = learner(sparsegrad.SnAp(2, storage="bfloat16"))
    full = learner(sparsegrad.SnAp(2))
    assert first._engine.influence.nbytes * 2 == full._engine.influence.nbytes
    losses, exact = first.run(*data(30, 0)), full.run(*data(30, 0))
    assert not np.array_equal(losses, exact)
    np.testing.assert_allclose(losses, exact, rtol=2e-3)
    first.save(tmp_path / "a.safetensors")
    again = sparsegrad.OnlineLearner.load(tmp_path / "a.safetensors")
    assert again.method == first.method
    np.testing.assert_array_equal(first.run(*data(10, 1)), again.run(*data(10, 1)))
    mask = first.cell.to_dense()["weight_hh"] != 0
    mask[0] = False
    for one in (first, again):
        one.rewire({"weight_hh": mask})
        assert one._engine.influence.steps == 40
    np.testing.assert_array_equal(first.run(*data(10, 2)), again.run(*data(10, 2)))
    np.testing.assert_array_equal(first.cell.weights, again.cell.weights)


def test_gradient_is_close_to_that_of_float32_and_changes_nothing():
    stored, full = learner(sparsegrad.RTRL(storage="bfloat16")), learner(sparsegrad.RTRL())
    for _ in range(2):
        (_, grads), (_, exact) = (one.gradient(*data(20, 3)) for one in (stored, full))
        for name, grad in exact.items():
            np.testing.assert_allclose(grads[name], grad, atol=2e-2 * abs(grad).max())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diagonal(4, 1, "half"), "storage must be 'bfloat16' or 'float16', or None"),
        (lambda: diagonal(4, 1, 16), "storage must be a word or a dtype, got 16"),
        (
            lambda: sparsegrad.Influence(
                diagonal(4, 1, None).pattern, dtype="float64", storage="bfloat16"
            ),
            "storage bfloat16 must come with float32",
        ),
        (lambda: filled(diagonal(4, 1, "float16"), np.float32([7e4])), "must stay within float16"),
        (lambda: sparsegrad.SnAp(2, window=4, storage="float16"), "must be None with a window"),
        (lambda: sparsegrad.RTRL(window=4, storage="float16"), "must be None with a window"),
    ],
)
def test_bad_storage_is_refused_in_one_line(call, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_bfloat16_is_seen_by_ml_dtypes_alone(monkeypatch):
    held = diagonal(4, 1, "bfloat16")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="pip install 'sparsegrad-rtrl"):
        _ = held.panels
    assert held.to_scipy().data.dtype == np.float32


def test_a_run_on_the_command_line_keeps_its_storage(tmp_path, capsys):
    flags = ["--units", "8", "--tokens", "400", "--batch", "2", "--report", "200"]
    run = tmp_path / "run"
    assert main(["train", "copy", *flags, "--storage", "bfloat16", "--out", str(run)]) == 0
    assert (
        sparsegrad.OnlineLearner.load(run / "checkpoint.safetensors").method.storage == "bfloat16"
    )
    for refused in (["--method", "uoro"], ["--dtype", "float64"], ["--method", "snap:2@8"]):
        assert main(["train", "copy", *flags, "--storage", "bfloat16", *refused]) != 0
        assert "storage" in capsys.readouterr().err
