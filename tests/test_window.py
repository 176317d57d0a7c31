"""Windows: exact inside, influence before; against torch, against NumPy, and among the methods."""

import os
from itertools import pairwise
from typing import Any

import numpy as np
import oracle
import pytest
from test_exactness import (
    BATCH,
    CELLS,
    INPUTS,
    OUTPUTS,
    UNITS,
    ThreeAtOnce,
    ThreeParts,
    a_cell,
    assert_same,
    data,
    oracle_of,
)

from sparsegrad.cells import GRU, LRU, LSTM, RNN, Cell
from sparsegrad.cells.jacobians import dynamics_pattern, immediate_pattern, own_pattern
from sparsegrad.influence import block, program
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import SGD, Adam
from sparsegrad.learning.readout import MLP, Linear
from sparsegrad.methods import BPTT, RFLO, RTRL, UORO, SnAp, engine
from sparsegrad.methods import window as window_engine
from sparsegrad.methods.snap import InfluenceEngine, influence_engine
from sparsegrad.methods.window import WindowEngine
from sparsegrad.registry import parse_method
from sparsegrad.symbolic.pattern import reach

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
STEPS = 20
WINDOWED = [SnAp(1, window=3), SnAp(2, window=3), RTRL(window=3), RFLO(window=3)]
STORED = [*WINDOWED, UORO(1, window=3)]


def learner_of(cell: Cell, method: Any, batch: int = BATCH, **options: Any) -> OnlineLearner:
    options.setdefault("optimizer", SGD(0.1))
    readout = options.pop("readout", None) or Linear(OUTPUTS, seed=2)
    return OnlineLearner(cell, readout, method, options.pop("optimizer"), batch=batch, **options)


def gradient(cell: Cell, method: Any, xs: Any, values: Any, **given: Any) -> dict[str, Any]:
    return learner_of(cell, method, xs.shape[1]).gradient(xs, values, **given)[1]


def ragged(steps: int = STEPS, batch: int = BATCH) -> dict[str, np.ndarray]:
    """Sequences that begin inside windows, and losses of unequal weight, some of none."""
    rng = np.random.default_rng(3)
    resets = np.zeros((20, batch), bool)
    resets[[4, 5, 13], [0, -1, -1]] = resets[9] = True
    resets = resets[:steps]
    weights = rng.random((steps, batch)) * (rng.random((steps, batch)) < 0.7)
    return {"weights": weights, "resets": resets}


def torch_over_the_stream(
    cell: Cell, xs: np.ndarray, values: np.ndarray, weights: np.ndarray, resets: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the gradient by torch.autograd, the whole stream unrolled."""
    torch = pytest.importorskip("torch", reason="torch is not installed: it is the oracle here")
    theirs = getattr(torch.nn, type(cell).__name__ + "Cell")(cell.inputs, cell.units).double()
    with torch.no_grad():
        for name, numbers in cell.to_dense().items():
            getattr(theirs, name).copy_(torch.tensor(numbers))
    dense = Linear(OUTPUTS, seed=2).parameters(cell.units, np.dtype("float64")).to_dense()
    readout = {n: torch.tensor(v, requires_grad=True) for n, v in dense.items()}
    zero = torch.zeros(xs.shape[1], cell.units, dtype=torch.float64)
    state: Any = (zero, zero) if isinstance(cell, LSTM) else zero
    total = torch.zeros((), dtype=torch.float64)
    for t in range(len(xs)):
        keep = torch.tensor(1.0 - resets[t])[:, None]
        pair = isinstance(state, tuple)
        state = tuple(s * keep for s in state) if pair else state * keep
        state = theirs(torch.tensor(xs[t]), state)
        y = (state[0] if pair else state) @ readout["readout.weight"].T + readout["readout.bias"]
        losses = 0.5 * ((y - torch.tensor(values[t])) ** 2).sum(dim=1)
        total = total + (losses * torch.tensor(weights[t])).sum() / xs.shape[1]
    total.backward()
    masks = cell.masks()
    grads = {n: getattr(theirs, n).grad.numpy() * masks[n] for n in masks}
    return grads | {n: v.grad.numpy() for n, v in readout.items()}


@pytest.mark.parametrize("window", [1, 3, 8])
@pytest.mark.parametrize("cls", CELLS)
def test_rtrl_in_windows_equals_torch_over_the_whole_stream(cls: type[Cell], window: int) -> None:
    cell = a_cell(cls)
    xs, _, values = data(STEPS)
    expected = torch_over_the_stream(cell, xs, values, **ragged())
    assert_same(gradient(cell, RTRL(window=window), xs, values, **ragged()), expected)


@pytest.mark.parametrize("method", [SnAp(1), SnAp(2), RFLO(), UORO(1)], ids=str)
@pytest.mark.parametrize("cls", CELLS)
def test_a_window_as_long_as_the_sequence_is_bptt(cls: type[Cell], method: Any) -> None:
    cell = a_cell(cls)
    xs, _, values = data(STEPS)
    exact = gradient(cell, BPTT(), xs, values, **ragged())
    for window in (STEPS, STEPS + 3):
        whole = type(method)(**vars(method) | {"window": window})
        assert_same(gradient(cell, whole, xs, values, **ragged()), exact)


@pytest.mark.parametrize("method", [SnAp(1), SnAp(2), RTRL(), RFLO(), UORO(1)], ids=str)
def test_a_window_of_one_step_is_the_method_itself(method: Any) -> None:
    cell = a_cell(GRU)
    xs, _, values = data(STEPS)
    one = type(method)(**vars(method) | {"window": 1})
    found, expected = (gradient(cell, m, xs, values, **ragged()) for m in (one, method))
    for name, grad in expected.items():
        np.testing.assert_array_equal(found[name], grad)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("method", [SnAp(1), SnAp(2), SnAp(3), RFLO()], ids=str)
@pytest.mark.parametrize("cls", CELLS)
def test_windows_equal_the_three_lines_in_numpy(cls: type[Cell], method: Any, batch: int) -> None:
    """With an update at the end of each window; the last one is ragged."""
    cell, window, steps = a_cell(cls, units=5), 3, 11
    xs, _, values = data(steps, batch)
    resets, weights = (ragged(steps, batch)[name] for name in ("resets", "weights"))
    kind, p, masks, kept = oracle_of(cell, getattr(method, "n", 1))
    losses = oracle.windows(
        kind, p, masks, xs, values, kept, window, 0.1, isinstance(method, RFLO), resets, weights
    )[0]
    learner = learner_of(cell, type(method)(**vars(method) | {"window": window}), batch)
    np.testing.assert_allclose(
        learner.run(xs, values, weights=weights, resets=resets), losses, rtol=1e-11
    )
    # the last, ragged window is still open
    before = oracle.windows(
        kind, p, masks, xs[:9], values[:9], kept, window, 0.1, isinstance(method, RFLO), resets,
        weights,
    )[1]  # fmt: skip
    assert_same(learner.parameters(), before, tolerance=1e-11)
    assert np.abs(before["weight_hh"] - p["weight_hh"]).max() > 1e-3


@pytest.mark.parametrize("method", WINDOWED, ids=str)
def test_a_window_is_neither_of_its_parts(method: Any) -> None:
    cell = a_cell(GRU)
    xs, _, values = data(STEPS)
    found = gradient(cell, method, xs, values)["weight_hh"]
    exact = gradient(cell, BPTT(), xs, values)["weight_hh"]
    alone = gradient(cell, type(method)(**vars(method) | {"window": None}), xs, values)
    parts = [alone["weight_hh"], gradient(cell, BPTT(3), xs, values)["weight_hh"]]
    if method == RTRL(window=3):
        parts = parts[1:]
    else:
        assert np.abs(found - exact).max() > 1e-6
    for other in parts:
        assert np.abs(found - other).max() > 1e-6
    if method != RFLO(window=3):
        error = np.linalg.norm(found - exact)
        assert error < min(np.linalg.norm(other - exact) for other in parts)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("cls", [*CELLS, ThreeParts, ThreeAtOnce])
def test_traces_through_windows_equal_panels_through_windows(cls: type[Cell], batch: int) -> None:
    cell = cls(INPUTS, UNITS, sparsity=0.6, seed=1, dtype="float64")
    xs, _, values = data(batch=batch)
    given = {name: array[:, :batch] for name, array in ragged().items()}
    found = gradient(cell, SnAp(1, window=3), xs * 0.5, values, **given)
    learner = learner_of(cell, RTRL(window=3), batch)
    pattern = reach(dynamics_pattern(cell)[0], immediate_pattern(cell), 1, own=own_pattern(cell))
    learner._engine = WindowEngine(InfluenceEngine(cell, pattern, batch, 1), 3)
    assert_same(found, learner.gradient(xs * 0.5, values, **given)[1], tolerance=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("method", [*STORED, BPTT(3, update_every=1)], ids=str)
def test_a_run_may_end_inside_a_window(method: Any, batch: int, dtype: str) -> None:
    xs, targets, _ = data(11, batch)
    xs = xs.astype(dtype)
    resets = ragged(11, batch)["resets"]
    learners = []
    for cuts in ([0, 11], [0, 1, 5, 6, 11]):
        cell = GRU(INPUTS, UNITS, sparsity=0.6, dtype=dtype)
        learner = learner_of(
            cell, method, batch, readout=MLP(6, OUTPUTS, "cross_entropy"), optimizer=Adam(0.01)
        )
        for a, b in pairwise(cuts):
            learner.run(xs[a:b], targets[a:b], resets=resets[a:b])
        assert learner._memory.updates[0] == (11 if isinstance(method, BPTT) else 3)
        learners.append(learner)
    one, two = (learner.parameters() | learner._engine.state() for learner in learners)
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name], err_msg=name)


@pytest.mark.compiled
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("method", [SnAp(1, window=4), RTRL(window=4)], ids=str)
def test_results_are_the_same_for_any_number_of_threads(
    method: Any, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little there is to share; other windows share the forward pass alone, or as steps."""
    monkeypatch.setattr(engine, "SHARED_WORK", 1)
    monkeypatch.setattr(program, "_SHARE", 1)
    monkeypatch.setattr(block, "SPARSE", 1e9)  # a saturated pattern goes by dense products
    xs, targets, _ = data(9, batch)
    kept = []
    for threads in (1, 2):
        cell = GRU(INPUTS, 20, sparsity=0.5, seed=2)
        readout = Linear(OUTPUTS, "cross_entropy")
        learner = learner_of(cell, method, batch, readout=readout, threads=threads)
        if INTERPRETED or threads == 1:
            pass
        elif isinstance(method, SnAp | RTRL) and getattr(method, "n", 2) > 1:
            store = getattr(learner._engine, "store", learner._engine)
            assert store.influence.threads == 2
        else:
            assert learner._loop.threads == 2
        learner.run(xs.astype(np.float32), targets)
        kept.append(learner.parameters() | learner._engine.state())
    for name, array in kept[0].items():
        np.testing.assert_array_equal(array, kept[1][name], err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", [SnAp(2), RTRL()], ids=str)
@pytest.mark.parametrize("cls", CELLS)
def test_influence_through_a_window_has_the_bits_of_steps(
    cls: type[Cell], method: Any, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "SPARSE", 0.0)
    drawn = a_cell(cls, units=12, sparsity=0.6)  # no weight is 0: a rate of 1e-40 changes none
    dense = {name: array.astype(dtype) for name, array in drawn.to_dense().items()}
    cell = cls.from_dense(**dense, masks=drawn.masks())
    xs, targets, _ = data(8, 2)
    resets = np.zeros((8, 2), bool)
    resets[6, 1] = True
    states = []
    for windowed in (method, type(method)(**vars(method) | {"window": 4})):
        learner = learner_of(
            cell, windowed, 2, readout=Linear(OUTPUTS, "cross_entropy"), optimizer=SGD(1e-40)
        )
        learner.run(xs.astype(dtype), targets, resets=resets)
        states.append(learner._engine.state())
    for b in range(2):
        np.testing.assert_array_equal(*(state[f"influence.{b}"] for state in states))
    assert np.abs(states[0]["influence.1"]).max() > 0


@pytest.mark.parametrize("batch", [1, 3])
def test_windows_of_snap_1_are_exact_on_a_complex_diagonal_cell(batch: int) -> None:
    """LRU: a slope that is 0 by its structure must stay so after a window was closed."""
    cell = LRU(INPUTS, 5, sparsity=0.4, seed=1, dtype="float64")
    xs, _, values = data(12, batch)
    exact = gradient(cell, BPTT(), xs, values)
    for window in (12, 4, 3):  # SnAp-1 is exact on a diagonal cell
        assert_same(gradient(cell, SnAp(1, window=window), xs, values), exact)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, interpreted
@pytest.mark.parametrize("where", ["an input", "the gradient"])
@pytest.mark.parametrize("method", STORED, ids=str)
def test_nan_inside_a_window_leaves_weights_influence_and_optimiser(
    method: Any, where: str
) -> None:
    """As they were before the window: nothing of it has been spent."""
    xs, targets, _ = data(8, 2)
    learner = learner_of(
        a_cell(GRU), method, 2, readout=Linear(OUTPUTS, "cross_entropy"), optimizer=Adam(0.01)
    )
    learner.run(xs[:3], targets[:3])

    def kept() -> dict[str, np.ndarray]:
        memory, store = learner._memory, learner._engine.store.state()
        found = learner.parameters() | {f"store.{name}": array for name, array in store.items()}
        found |= {"first": memory.first, "second": memory.second, "updates": memory.updates}
        return {name: array.copy() for name, array in found.items()}

    before = kept()
    if where == "an input":
        xs[4, 1, 2] = np.nan
        with pytest.raises(ValueError, match="at step 1 of the call, batch element 1"):
            learner.run(xs[3:], targets[3:])
    else:
        learner.run(xs[3:5], targets[3:5])
        learner._engine.steps.state_grad[1, 0, 0] = np.inf
        with pytest.raises(FloatingPointError, match="gradient must stay finite"):
            learner.run(xs[5:6], targets[5:6])
        learner._engine.steps.state_grad[1, 0, 0] = 0
    for name, array in kept().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    learner.run(xs[5:8], targets[5:8])  # and it goes on
    assert all(np.isfinite(array).all() for array in kept().values())


@pytest.mark.parametrize("kind", [lambda **o: SnAp(2, **o), RTRL, RFLO, UORO, BPTT])
@pytest.mark.parametrize(
    ("window", "error", "words"),
    [
        (0, ValueError, "window must be at least 1, got 0"),
        (-3, ValueError, "window must be at least 1, got -3"),
        (2.0, TypeError, "window must be an integer of at least 1, got 2.0"),
        (True, TypeError, "window must be an integer of at least 1, got True"),
        ("8", TypeError, "window must be an integer of at least 1, got '8'"),
    ],
)
def test_what_is_no_window_is_refused(kind: Any, window: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        kind(window=window)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [*STORED, SnAp(2, window=1), BPTT(3)], ids=str)
def test_a_window_decides_when_to_update(method: Any) -> None:
    with pytest.raises(ValueError, match=r"update_every must be left out with .*window decides"):
        learner_of(a_cell(GRU), method, update_every=3)
    learner = learner_of(a_cell(GRU), method)
    with pytest.raises(ValueError, match=r"update_every must be left out with .*window decides"):
        learner.update_after(5)
    assert learner.update_every == method.window


@pytest.mark.parametrize("method", [SnAp(1, window=10**9), RTRL(window=10**9), BPTT(10**9)])
def test_a_history_that_does_not_fit_is_refused_before_it_is_allocated(method: Any) -> None:
    with pytest.raises(MemoryError, match=r"GiB.*the largest window that fits is \d+") as caught:
        learner_of(GRU(8, 64), method)
    assert "\n" not in str(caught.value)
    largest = int(str(caught.value).split()[-1])
    assert 1000 < largest < 10**9


@pytest.mark.parametrize("n", [2, None])
def test_the_largest_window_that_fits_is_counted_with_all_that_it_allocates(
    n: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By products Ψ and Φ are needed too; allocated is what was counted."""
    monkeypatch.setattr(block, "SPARSE", 1e9)
    store = influence_engine(a_cell(GRU, units=24), n, 2, 1)
    data = store.carried(40).data
    numbers = [data.data.dynamics_data, data.data.immediate_data, data.data.scratch]
    if n is None:
        numbers += [data.block.psi, data.block.phi, data.block.old, data.block.new]
    assert (data.block is None) == (n == 2)
    assert store.window_values(40) == sum(array.size for array in numbers)
    steps = sum(array.nbytes for array in store.layout.steps(store.cell, 2, 1))
    least = 40 * steps + 8 * store.window_values(40)
    monkeypatch.setattr(window_engine, "available_memory", lambda: least)
    WindowEngine(store, 40)
    monkeypatch.setattr(window_engine, "available_memory", lambda: least - 1)
    with pytest.raises(MemoryError, match=r"got 40 steps of .*the largest window that fits is 39"):
        WindowEngine(store, 40)
    monkeypatch.setattr(window_engine, "available_memory", lambda: 8)
    with pytest.raises(MemoryError, match=r"got 40 steps of .*; none fits"):
        WindowEngine(store, 40)


def test_uoro_in_windows_is_unbiased_and_its_variance_falls_with_them() -> None:
    """The mean over seeds comes to the exact gradient: chance decides on the past alone."""
    cell = a_cell(GRU, units=5)
    xs, _, values = data(16, 1)
    exact = gradient(cell, BPTT(), xs, values)["weight_hh"]
    spread = []
    for window in (None, 2, 4, 8):
        draws = np.array(
            [
                gradient(cell, UORO(seed, window=window), xs, values)["weight_hh"]
                for seed in range(400)
            ]
        )
        error = draws.mean(axis=0) - exact
        sigma = draws.std(axis=0) / np.sqrt(len(draws))
        assert (np.abs(error) < 5 * sigma + 1e-12).all()
        spread.append(np.linalg.norm(draws - exact, axis=(1, 2)).mean() / np.linalg.norm(exact))
    assert spread[1] < 0.8 * spread[0]
    assert spread[2] < 0.8 * spread[1]
    assert spread[3] < 0.8 * spread[2]


@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("cls", CELLS)
def test_rolling_bptt_equals_the_same_in_numpy(cls: type[Cell], length: int, batch: int) -> None:
    cell = a_cell(cls, units=5)
    xs, _, values = data(8, batch)
    resets = ragged(8, batch)["resets"]
    kind, p, masks, _ = oracle_of(cell, 1)
    losses, after = oracle.rolling(kind, p, masks, xs, values, length, 0.1, resets)
    learner = learner_of(cell, BPTT(length, update_every=1), batch)
    found = [learner.run(xs[s], values[s], resets=resets[s]) for s in (slice(5), slice(5, 8))]
    np.testing.assert_allclose(np.concatenate(found), losses, rtol=1e-11)
    assert_same(learner.parameters(), after, tolerance=1e-11)
    assert learner._memory.updates[0] == 8


def test_rolling_bptt_over_all_steps_is_bptt() -> None:
    cell = a_cell(GRU)
    xs, _, values = data(9)
    given = {name: array[:9] for name, array in ragged().items()}
    exact = gradient(cell, BPTT(), xs, values, **given)
    assert_same(gradient(cell, BPTT(9, update_every=1), xs, values, **given), exact)
    cut = gradient(cell, BPTT(4, update_every=1), xs, values, **given)
    assert np.abs(cut["weight_hh"] - exact["weight_hh"]).max() > 1e-6


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"window": 4, "update_every": 2}, "1 is rolling BPTT"),
        ({"window": 4, "update_every": 0}, "1 is rolling BPTT"),
        ({"update_every": 1}, "update_every=1 must have a window beside it"),
    ],
)
def test_rolling_bptt_refuses_other_periods(given: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BPTT(**given)


@pytest.mark.parametrize("cls", [GRU, LSTM])
def test_dense_products_equal_steps(cls: type[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    """A saturated pattern goes through a window by either; resets inside it and a ragged end."""
    xs, _, values = data(STEPS, 2)
    given = {name: array[:, :2] for name, array in ragged(batch=2).items()}
    found = []
    for price in (0.0, 1e9):
        monkeypatch.setattr(block, "SPARSE", price)
        monkeypatch.setattr(block, "LONGEST", 5)  # a window of 8 goes in two
        learner = learner_of(a_cell(cls, units=16, sparsity=0.5), RTRL(window=8), 2)
        assert (learner._engine._data.block is not None) == (price > 0)
        found.append(learner.gradient(xs, values, **given)[1])
    assert_same(found[1], found[0], tolerance=1e-12)
    exact = gradient(a_cell(cls, units=16, sparsity=0.5), BPTT(), xs, values, **given)
    assert_same(found[1], exact)


@pytest.mark.skipif(INTERPRETED, reason="140 units are too many for Python")
def test_dense_products_of_many_rows_equal_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than one part of a product takes in."""
    cell = RNN(INPUTS, 140, sparsity=0.97, seed=1, dtype="float64")
    xs, _, values = data(6, 2)
    found = []
    for price in (0.0, 1e9):
        monkeypatch.setattr(block, "SPARSE", price)
        learner = learner_of(cell, RTRL(window=3), 2)
        assert (learner._engine._data.block is not None) == (price > 0)
        found.append(learner.gradient(xs, values)[1])
    assert_same(found[1], found[0], tolerance=1e-12)


@pytest.mark.parametrize(
    ("word", "method"),
    [
        ("snap:1@8", SnAp(1, window=8)),
        ("SnAp:2@1", SnAp(2, window=1)),
        ("rtrl@64", RTRL(window=64)),
        ("rflo@4", RFLO(window=4)),
        ("uoro@8", UORO(3, window=8)),
        ("bptt:8", BPTT(8)),
        ("bptt:8@1", BPTT(8, update_every=1)),
    ],
)
def test_a_window_has_a_word(word: str, method: Any) -> None:
    assert parse_method(word, 3) == method


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("bptt@8", "method bptt takes no @T, got 'bptt@8'; write bptt:T"),
        ("bptt:4@8", "update_every must be at most 1, got 8; 1 is rolling BPTT, else leave it out"),
        ("bptt:0@1", "window must be at least 1, got 0"),
        ("snap@8", "windows of T steps as snap:N@T or rtrl@T, rolling as bptt:T@1, got 'snap@8'"),
        ("snap:1@", "method must be one of"),
        ("snap:1@x", "method must be one of"),
        ("snap:1@0", "window must be at least 1, got 0"),
    ],
)
def test_what_is_no_word_of_a_window_is_refused(word: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_method(word, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [*STORED, BPTT(3), BPTT(3, update_every=1)], ids=str)
@pytest.mark.parametrize("held", [-1, 3, 2**40])
def test_a_state_that_holds_too_many_steps_is_refused(method: Any, held: int) -> None:
    engine = method.engine(a_cell(GRU), 2, 1)
    state = {name: array.copy() for name, array in engine.state().items()}
    name = "held" if "held" in state else "filled"
    state[name][0] = held
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 3\), got {held}"):
        engine.restore(state)
