"""What a learner promises around its steps: faults, signals, copies, threads, and who may write."""

import copy
import os
import pickle
import re
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
from numba.core import config

from sparsegrad.cells import GRU, LSTM, RNN
from sparsegrad.learning import chunk
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import SGD, Adam, AdamW
from sparsegrad.learning.readout import MLP, Linear
from sparsegrad.methods import BPTT, RFLO, RTRL, UORO, SnAp

# interpreted, NumPy warns of the overflows that these tests want
pytestmark = pytest.mark.filterwarnings(
    "ignore:(overflow|invalid value) encountered:RuntimeWarning"
)

METHODS = [SnAp(1), SnAp(2), RTRL(), BPTT(), BPTT(3), RFLO(), UORO(1)]
STEPPING = [m for m in METHODS if m != BPTT()]  # without a window each call is a sequence


def make(method: Any, optimizer: Any = None, readout: Any = None, **options: Any) -> OnlineLearner:
    cell = GRU(3, 6, sparsity=0.5, seed=1, dtype="float64")
    readout = readout or Linear(4, "cross_entropy")
    return OnlineLearner(cell, readout, method, optimizer or Adam(0.01), batch=2, **options)


def stream(steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((steps, 2, 3)), rng.integers(0, 4, (steps, 2))


def everything(learner: OnlineLearner) -> dict[str, np.ndarray]:
    """All that a step may leave behind, copied."""
    kept = learner.checkpoint()
    counts = {name: np.array(count) for name, count in kept.counts.items()}
    arrays = {name: np.array(array) for name, array in kept.arrays.items()}
    filled = arrays.get("method.filled")
    for name in (
        ("sources", "d_state", "d_pre", "state_grad", "resets") if filled is not None else ()
    ):
        arrays[f"method.{name}"] = arrays[f"method.{name}"][: filled[0]]  # the rest is free
    return learner.parameters() | counts | arrays


def assert_same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


@pytest.mark.parametrize("method", [SnAp(1), SnAp(2), RFLO(), UORO(1)], ids=str)
@pytest.mark.parametrize(("before", "every"), [(5, 3), (5, 5), (3, 4), (4, 1), (6, 7)])
def test_a_new_period_counts_the_steps_since_the_last_update(
    method: Any, before: int, every: int
) -> None:
    xs, targets = stream(before + 8)
    whole, single = (make(method, update_every=10) for _ in range(2))
    for learner in (whole, single):
        learner.run(xs[:before], targets[:before])
        learner.update_after(every)
    whole.run(xs[before:], targets[before:])
    for x, target in zip(xs[before:], targets[before:], strict=True):
        single.step(x, target)
    for name, values in whole.parameters().items():
        np.testing.assert_allclose(values, single.parameters()[name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("every", [1, 3, 50])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_slices_change_no_bit(method: Any, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that pauses wherever it can equals one that never does."""
    options: Any = {} if isinstance(method, BPTT) else {"update_every": every}
    xs, targets = stream(23)
    cut, whole = (make(method, **options) for _ in range(2))
    monkeypatch.setattr(chunk, "_HEARD", 0.0)  # never longer than a step
    losses = cut.run(xs, targets)
    gradient, scores = cut.gradient(xs, targets), cut.evaluate(xs, targets)
    for slices in whole._slices.values():
        slices.steps = 100
    np.testing.assert_array_equal(losses, whole.run(xs, targets))
    assert_same(everything(cut), everything(whole))
    assert_same(gradient[1], whole.gradient(xs, targets)[1])
    np.testing.assert_array_equal(scores, whole.evaluate(xs, targets))


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("what", ["input", "target", "gradient", "reset gradient"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_bad_step_leaves_all_as_the_steps_before_it_did(
    method: Any, what: str, every: int
) -> None:
    options: Any = {} if isinstance(method, BPTT) else {"update_every": every}
    bad, good = (make(method, readout=Linear(2), **options) for _ in range(2))
    xs = stream(9)[0]
    targets = np.random.default_rng(3).standard_normal((9, 2, 2))
    resets = np.zeros((9, 2), bool)
    good.run(xs[:6], targets[:6], resets=resets[:6])
    if what == "input":
        xs[6, 1, 2] = np.nan
    elif what == "target":
        targets[6, 1, 0] = np.inf
    else:  # the error is finite, its square as a float64 too, what it makes of weights is not
        targets[6, 1, 0] = 1e153
        resets[6, 1] = what == "reset gradient"
    error = FloatingPointError if "gradient" in what else ValueError
    with pytest.raises(error, match="step 6") as caught:
        bad.run(xs, targets, resets=resets)
    assert "\n" not in str(caught.value)
    assert bad.steps == 6
    if method != BPTT():  # whose update is that of the whole call
        assert_same(everything(bad), everything(good))
    np.testing.assert_array_equal(bad.losses, good.losses)


def overflowing(method: Any, gain: float = 3.0, batch: int = 2, **options: Any) -> OnlineLearner:
    cell = RNN(2, 16, gain=gain, seed=0, dtype="float32")
    return OnlineLearner(cell, Linear(2), method, SGD(1e-9, clip=1e-9), batch=batch, **options)


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("method", [SnAp(3), RTRL(), UORO(1)], ids=str)
@pytest.mark.parametrize("scored", [True, False], ids=["scored", "unscored"])
def test_an_influence_that_overflows_is_refused_before_it_does(
    method: Any, scored: bool, every: int
) -> None:
    rng = np.random.default_rng(0)
    steps = 3000 if not config.DISABLE_JIT else 400
    gain = 3.0 if not config.DISABLE_JIT else 8.0
    xs = 0.01 * rng.standard_normal((steps, 2, 2)).astype("f4")
    targets = np.zeros((steps, 2, 2), "f4")
    weights = np.full((steps, 2), float(scored), "f4")
    xs[:, 0] *= 300  # the first stream is saturated: only the second one's influence grows
    learner = overflowing(method, gain, update_every=every)
    with pytest.raises(FloatingPointError, match=r"influence .* element 1.*reset\(1\)") as caught:
        learner.run(xs, targets, weights)
    done = learner.steps
    assert "\n" not in str(caught.value)
    assert 0 < done < steps
    assert len(learner.losses) == done
    assert np.isfinite(learner.losses).all()
    before = everything(learner)
    assert all(np.isfinite(values).all() for values in before.values() if values.dtype.kind == "f")
    with pytest.raises(FloatingPointError, match="influence"):
        learner.run(xs[:5], targets[:5], weights[:5])
    assert_same(before, everything(learner))
    twin = overflowing(method, gain, update_every=every)
    twin.run(xs[:done], targets[:done], weights[:done])
    assert_same(before, everything(twin))
    learner.reset(1)
    learner.run(xs[:5], targets[:5], weights[:5])
    assert learner.steps == done + 5


@pytest.mark.parametrize("method", [SnAp(1), SnAp(2), RTRL()], ids=str)
def test_a_lost_influence_stays_refused_until_all_is_reset(method: Any) -> None:
    learner = make(method, readout=Linear(2), update_every=2)
    xs, targets = stream(6)[0], np.ones((6, 2, 2))
    learner.run(xs[:3], targets[:3])
    weights = learner.parameters()
    for array in learner._engine.state().values():  # all at once, where no look would see it
        state = {name: np.full_like(array, 1e300) for name in learner._engine.state()}
    learner._engine.restore(state)
    targets[3] = 1e9
    with pytest.raises(FloatingPointError, match=r"call reset\(\)"):
        learner.run(xs[3:], targets[3:])
    assert_same(weights, learner.parameters())
    learner.reset(0)
    for call in (
        lambda: learner.run(xs, targets), lambda: learner.save("never"),
        lambda: pickle.dumps(learner),
    ):  # fmt: skip
        with pytest.raises(FloatingPointError, match=r"call reset\(\) first"):
            call()
    assert not os.path.exists("never")
    learner.reset()
    fresh = pickle.loads(pickle.dumps(learner))
    np.testing.assert_array_equal(
        learner.run(xs[:4], targets[:4] * 0), fresh.run(xs[:4], 0 * targets[:4])
    )


@pytest.mark.parametrize("method", [SnAp(3), RTRL(), BPTT()], ids=str)
def test_no_gradient_that_is_not_finite_is_returned(method: Any) -> None:
    steps = 3000 if not config.DISABLE_JIT else 150
    gain = 3.0 if not config.DISABLE_JIT else 30.0
    xs, targets = np.zeros((steps, 2, 2), "f4"), np.ones((steps, 2, 2), "f4")
    weights = np.zeros((steps, 2), "f4")
    weights[-1] = 1
    learner = overflowing(method, gain)
    with pytest.raises(FloatingPointError, match=r"gradient|influence") as caught:
        learner.gradient(xs, targets, weights)
    assert "\n" not in str(caught.value)


def test_a_window_whose_gradient_overflows_takes_its_last_step_back() -> None:
    """The last error, carried back through the window, overflows; forward all is well."""
    steps, gain = (400, 30.0) if not config.DISABLE_JIT else (120, 300.0)
    cells = [RNN(2, 16, gain=gain, seed=0, dtype="float32") for _ in range(2)]
    bad, good = (OnlineLearner(cell, Linear(2), BPTT(steps), SGD(1e-9), batch=2) for cell in cells)
    xs = np.zeros((steps, 2, 2), "f4")  # from a state of 0 the net is linear: D is gain times W
    targets = np.ones((steps, 2, 2), "f4")
    good.run(xs[:-1], targets[:-1])
    with pytest.raises(FloatingPointError, match=f"gradient .* at step {steps - 1}"):
        bad.run(xs, targets)
    assert bad.steps == steps - 1
    assert_same(everything(bad), everything(good))
    with pytest.raises(FloatingPointError, match="gradient"):
        bad.run(xs[-1:], targets[-1:])
    assert_same(everything(bad), everything(good))


@pytest.mark.parametrize("readout", [Linear(4, "cross_entropy"), MLP(5, 4, "cross_entropy")])
@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.5), Adam(0.01), AdamW(0.01)])
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_copy_goes_on_by_itself_bit_for_bit(
    method: Any, how: str, optimizer: Any, readout: Any
) -> None:
    options: Any = {} if isinstance(method, BPTT) else {"update_every": 3}
    learner = make(method, optimizer, readout, **options)
    xs, targets = stream(20)
    learner.run(xs[:7], targets[:7])
    learner.reset(1)
    before = everything(learner)
    other = copy.deepcopy(learner) if how == "deepcopy" else pickle.loads(pickle.dumps(learner))
    assert_same(before, everything(learner))
    losses = other.run(xs[7:], targets[7:])
    assert_same(before, everything(learner))  # nothing is shared
    np.testing.assert_array_equal(losses, learner.run(xs[7:], targets[7:]))
    assert_same(everything(other), everything(learner))
    assert (other.steps, other.batch, other.update_every) == (20, 2, learner.update_every)


@pytest.mark.parametrize("kind", ["tanh", "relu", "gru", "lstm"])
def test_a_copied_cell_is_a_cell_of_its_own(kind: str) -> None:
    cell: Any = {
        "tanh": lambda: RNN(3, 5, sparsity=0.5),
        "relu": lambda: RNN(3, 5, sparsity=0.5, nonlinearity="relu"),
        "gru": lambda: GRU(3, 5, sparsity=0.5),
        "lstm": lambda: LSTM(3, 5, sparsity=0.5),
    }[kind]()
    for other in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert_same(cell.to_dense(), other.to_dense())
        assert other.kind.update is cell.kind.update
        other.weights[:] = 0
        assert cell.weights.any()


PUBLIC = ["cell", "readout", "method", "optimizer", "batch", "update_every", "steps", "losses",
          "state", "pattern"]  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_what_a_learner_was_built_of_stays(name: str) -> None:
    learner = make(SnAp(2))
    before = getattr(learner, name)
    for value in (None, 10**7, Linear(10**7, "cross_entropy"), before):
        with pytest.raises(AttributeError):
            setattr(learner, name, value)
    with pytest.raises(AttributeError):
        delattr(learner, name)
    for handed in (learner.state, learner.losses):
        handed[...] = np.nan
    learner.step(*(part[0] for part in stream(1)))
    assert np.isfinite(learner.state).all()


@pytest.mark.skipif(config.DISABLE_JIT, reason="holds the GIL, so no second thread comes in")
@pytest.mark.parametrize("method", [SnAp(2), BPTT(3), UORO(1)], ids=str)
def test_one_thread_at_a_time(method: Any) -> None:
    learner = make(method)
    xs, targets = stream(200_000)
    learner.run(xs[:10], targets[:10])
    twin = copy.deepcopy(learner)
    thread = threading.Thread(target=lambda: learner.run(xs, targets))
    thread.start()
    while not learner._turn.locked():
        time.sleep(0.001)
    calls: list[Any] = [
        lambda: learner.run(xs[:3], targets[:3]), lambda: learner.step(xs[0], targets[0]),
        lambda: learner.gradient(xs[:3], targets[:3]),
        lambda: learner.evaluate(xs[:3], targets[:3]),
        learner.reset, lambda: learner.reset(0), lambda: learner.save("never"),
        lambda: pickle.dumps(learner), learner.parameters, lambda: learner.state,
    ]  # fmt: skip
    if not isinstance(method, BPTT):
        calls.append(lambda: learner.update_after(2))
    refused = 0
    for call in calls:
        if not thread.is_alive():
            break
        with pytest.raises(RuntimeError, match="one thread at a time"):
            call()
        refused += 1
    thread.join()
    assert refused > len(calls) // 2
    twin.run(xs, targets)
    assert_same(everything(twin), everything(learner))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.parametrize("method", STEPPING, ids=str)
def test_ctrl_c_is_heard_soon_and_the_books_are_kept(method: Any) -> None:
    learner, twin = make(method), make(method)
    xs, targets = stream(400_000 if not config.DISABLE_JIT else 3000)
    for each in (learner, twin):
        each.run(xs[:50], targets[:50])
        each.reset(1)
    pressed, heard = [], []

    def press(*_: Any) -> None:
        pressed.append(time.perf_counter())
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, press)
    wished = time.perf_counter() + 0.3
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            learner.run(xs, targets)
        heard.append(time.perf_counter() - wished)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    done = learner.steps - 50
    assert 0 < done < len(xs)
    assert heard[0] < 0.5  # 0.04 s and what a busy machine adds
    np.testing.assert_array_equal(learner.losses, twin.run(xs[:done], targets[:done]))
    assert_same(everything(learner), everything(twin))
    learner.run(xs[done : done + 9], targets[done : done + 9])  # and it goes on


@pytest.mark.parametrize("pad", [-100, -1, 4, 2**40, np.iinfo(np.int64).min])
@pytest.mark.parametrize("method", [SnAp(2), BPTT(3)], ids=str)
def test_classes_that_weight_0_masks_are_never_looked_at(method: Any, pad: int) -> None:
    xs, targets = stream(6)
    weights = np.ones((6, 2))
    weights[2, 1] = weights[4] = 0
    padded = targets.copy()
    padded[2, 1], padded[4] = pad, pad
    one, two = make(method), make(method)
    np.testing.assert_array_equal(one.run(xs, targets, weights), two.run(xs, padded, weights))
    assert padded[2, 1] == pad
    with pytest.raises(ValueError, match=re.escape(f"got {pad} at step 2, batch element 1")):
        two.run(xs, padded)


@pytest.mark.parametrize("pad", [np.nan, np.inf, 1e308])
def test_values_that_weight_0_masks_are_never_looked_at(pad: float) -> None:
    xs, targets, weights = stream(6)[0], np.ones((6, 2, 2)), np.ones((6, 2))
    weights[2, 1] = weights[4] = 0
    padded = targets.copy()
    padded[2, 1], padded[4] = pad, pad
    one, two = (make(SnAp(2), readout=Linear(2)) for _ in range(2))
    np.testing.assert_array_equal(one.run(xs, targets, weights), two.run(xs, padded, weights))


@pytest.mark.skipif(config.DISABLE_JIT, reason="needs a second thread beside compiled code")
def test_classes_that_another_thread_changes_meanwhile_are_the_checked_ones() -> None:
    learner = make(SnAp(2))
    xs, targets = stream(30_000)
    right = copy.deepcopy(learner).run(xs, targets.copy())
    thread = threading.Thread(target=lambda: results.append(learner.run(xs, targets)))
    results: list[np.ndarray] = []
    thread.start()
    while not learner._turn.locked() or learner.steps == 0:
        time.sleep(0.001)
    targets[:] = 2**40
    thread.join()
    np.testing.assert_array_equal(results[0], right)
