"""What a learner predicts: outputs that it scores, steps without targets, classes that follow."""

from typing import Any

import numpy as np
import pytest

from sparsegrad.cells import GRU, LSTM, RNN
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import Adam
from sparsegrad.learning.readout import MLP, Linear
from sparsegrad.methods import BPTT, RFLO, RTRL, UORO, SnAp

INPUTS, UNITS, OUTPUTS, STEPS = 3, 7, 4, 12
METHODS = [
    SnAp(1), SnAp(2), RTRL(), RFLO(), UORO(1), BPTT(), BPTT(4), BPTT(3, update_every=1),
    SnAp(1, window=4), SnAp(2, window=4), UORO(1, window=4),
]  # fmt: skip
READOUTS = [
    Linear(OUTPUTS), MLP(5, OUTPUTS, "cross_entropy"), Linear(OUTPUTS, "binary_cross_entropy"),
]  # fmt: skip


def a_learner(method: Any, readout: Any = READOUTS[1], batch: int = 3) -> OnlineLearner:
    cell = GRU(INPUTS, UNITS, sparsity=0.4, seed=1, dtype="float64")
    return OnlineLearner(cell, readout, method, Adam(0.01), batch=batch, threads=1)


def data(readout: Any, batch: int = 3, steps: int = STEPS) -> tuple[Any, ...]:
    rng = np.random.default_rng(3)
    xs = rng.standard_normal((steps, batch, INPUTS))
    if readout.loss == "cross_entropy":
        return xs, rng.integers(0, OUTPUTS, (steps, batch))
    return xs, rng.random((steps, batch, OUTPUTS))


def losses_of(readout: Any, outputs: Any, targets: Any) -> Any:
    """The loss of each step from what was predicted, in NumPy."""
    if readout.loss == "cross_entropy":
        chosen = np.take_along_axis(outputs, targets[..., None], axis=-1)[..., 0]
        each = -np.log(chosen)
    elif readout.loss == "squared_error":
        each = 0.5 * ((outputs - targets) ** 2).sum(-1)
    else:
        each = -(targets * np.log(outputs) + (1 - targets) * np.log(1 - outputs)).sum(-1)
    return each.mean(-1)


def kept(learner: OnlineLearner) -> dict[str, np.ndarray]:
    """All that a learner carries."""
    found = learner.checkpoint()
    carried = (
        learner.parameters() | found.arrays | {k: np.array(v) for k, v in found.counts.items()}
    )
    return {name: np.array(array) for name, array in carried.items()}


def assert_same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name], err_msg=name)


@pytest.mark.parametrize("readout", READOUTS, ids=lambda r: r.loss)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_run_returns_the_outputs_that_it_scores(method: Any, readout: Any) -> None:
    xs, targets = data(readout)
    alone, told = a_learner(method, readout), a_learner(method, readout)
    scored = alone.run(xs, targets)
    losses, outputs = told.run(xs, targets, outputs=True)
    np.testing.assert_array_equal(losses, scored)
    assert_same(kept(alone), kept(told))
    np.testing.assert_allclose(losses_of(readout, outputs, targets), losses, rtol=1e-12)
    assert outputs.shape == (STEPS, 3, OUTPUTS)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_prediction_is_what_the_next_step_scores_and_changes_nothing(
    method: Any, batch: int
) -> None:
    xs, targets = data(READOUTS[1], batch)
    learner = a_learner(method, batch=batch)
    resets = np.zeros((STEPS, batch), bool)
    resets[5, 0] = True
    for t in range(STEPS):
        if t == 8:
            learner.reset(0)
        before = kept(learner)
        if t == 5:
            found = learner.predict(xs[5:6], resets[5:6])[0]
        else:
            found = learner.predict(xs[t])
        assert_same(before, kept(learner))
        _, outputs = learner.run(
            xs[t : t + 1], targets[t : t + 1], resets=resets[t : t + 1], outputs=True
        )
        np.testing.assert_array_equal(found, outputs[0])


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_predictions_of_a_sequence_are_those_of_steps_followed(method: Any) -> None:
    xs, targets = data(READOUTS[1])
    learner = a_learner(method)
    learner.run(xs[:6], targets[:6])
    learner.reset(1)
    ahead = learner.predict(xs[6:])
    weights = learner.parameters()
    memory = learner._memory
    moments = memory.first.copy(), memory.second.copy(), memory.updates.copy()
    parts = [learner.follow(xs[6:9]), learner.follow(xs[9:])]
    np.testing.assert_array_equal(np.concatenate(parts), ahead)
    assert_same(weights, learner.parameters())
    for one, two in zip(moments, (memory.first, memory.second, memory.updates), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("method", [m for m in METHODS if m != BPTT()], ids=str)
def test_what_is_followed_moves_state_and_influence_as_unscored_steps_do(method: Any) -> None:
    """Whole windows, so that a window begins where the steps followed do."""
    xs, targets = data(READOUTS[1])
    one, two = a_learner(method), a_learner(method)
    for learner in (one, two):
        learner.run(xs[:4], targets[:4])
    weights = one.parameters()
    one.follow(xs[4:8])
    # without a rate, unscored steps change no weight either
    two._memory.settings[0] = 0
    two.run(xs[4:8], targets[4:8], weights=np.zeros((4, 3)))
    np.testing.assert_array_equal(one.state, two.state)
    assert_same(weights, one.parameters())
    state = two._engine.state()
    for name, array in one._engine.state().items():
        if name not in ("sources", "gathered", "d_state", "d_pre", "state_grad", "resets"):
            # steps that are taken at once are summed at once: the last bit of a trace may differ
            np.testing.assert_allclose(array, state[name], rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("method", [SnAp(1), SnAp(2), UORO(1), RFLO()], ids=str)
def test_steps_followed_leave_the_gradient_that_is_summed(method: Any) -> None:
    """Between two of the three steps of an update: it is as if they had been unscored."""
    xs, targets = data(READOUTS[1])
    cell = GRU(INPUTS, UNITS, sparsity=0.4, seed=1, dtype="float64")
    learner = OnlineLearner(cell, READOUTS[1], method, Adam(0.01), batch=3, update_every=3)
    learner.run(xs[:2], targets[:2])
    before = kept(learner)
    learner.follow(xs[2:7])
    after = kept(learner)
    for name in ("gradient.cell", "gradient.readout", "since", "updates", "weight_hh"):
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    learner.run(xs[7:8], targets[7:8])
    assert learner._memory.updates[0] == 1


def test_a_window_that_steps_followed_cut_short_keeps_its_gradient() -> None:
    xs, targets = data(READOUTS[1])
    learner = a_learner(SnAp(2, window=4))
    learner.run(xs[:3], targets[:3])
    assert not learner._loop.grad.any()
    learner.follow(xs[3:4])
    whole = a_learner(RTRL())
    found = learner._loop.grad[: learner.cell.weights.size].copy()
    expected = whole.gradient(xs[:3], targets[:3])[1]
    dense = learner.cell.dense_of(found)
    for name, array in dense.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-10, atol=1e-12)
    learner.run(xs[4:7], targets[4:7])
    assert learner._memory.updates[0] == 0
    learner.run(xs[7:8], targets[7:8])
    assert learner._memory.updates[0] == 1


def test_a_batch_of_one_may_leave_out_its_axis() -> None:
    xs, targets = data(READOUTS[1], batch=1)
    shapes = []
    for x, y in ((xs, targets), (xs[:, 0], targets[:, 0])):
        learner = a_learner(SnAp(1), batch=1)
        outputs = learner.run(x, y, outputs=True)[1]
        shapes.append([outputs, learner.follow(x), learner.predict(x), learner.predict(x[0])])
    for full, short in zip(*shapes, strict=True):
        np.testing.assert_array_equal(full.reshape(short.shape), short)
    assert [array.ndim for array in shapes[0]] == [3, 3, 3, 2]
    assert [array.ndim for array in shapes[1]] == [2, 2, 2, 1]


def a_speaker(batch: int = 1) -> OnlineLearner:
    cell = LSTM(OUTPUTS, UNITS, seed=2)
    learner = OnlineLearner(
        cell, Linear(OUTPUTS, "cross_entropy"), SnAp(1), Adam(0.02), batch=batch
    )
    classes = np.arange(401 * batch).reshape(401, batch) % OUTPUTS
    learner.run(np.eye(OUTPUTS, dtype=np.float32)[classes[:-1]], classes[1:])
    return learner


def test_generated_classes_follow_what_was_learned() -> None:
    learner = a_speaker()
    before = kept(learner)
    learner.reset()
    after_reset = kept(learner)
    found = learner.generate([0, 1, 2, 3, 0, 1], 9, temperature=0)
    np.testing.assert_array_equal(found, [2, 3, 0, 1, 2, 3, 0, 1, 2])
    assert_same(after_reset, kept(learner))
    assert_same({n: before[n] for n in learner.parameters()}, learner.parameters())


@pytest.mark.parametrize("batch", [1, 2])
def test_greedy_classes_are_those_of_predictions_step_by_step(batch: int) -> None:
    learner = a_speaker(batch)
    found = learner.generate(np.full((2, batch), 3), 5, temperature=0)
    eye, said = np.eye(OUTPUTS, dtype=np.float32), [np.full(batch, 3)] * 2
    for t in range(5):
        outputs = learner.predict(eye[np.stack(said)])
        said.append(outputs[-1].argmax(-1))
        np.testing.assert_array_equal(found[t], said[-1])


def test_drawn_classes_have_the_predicted_probabilities() -> None:
    """300 draws of one class at a temperature of 2: within 4 deviations."""
    learner = a_speaker()
    eye = np.eye(OUTPUTS, dtype=np.float32)
    wanted = np.sqrt(learner.predict(eye[1]).astype(float))
    wanted /= wanted.sum()
    draws = [int(learner.generate([1], 1, temperature=2.0, seed=s)[0]) for s in range(300)]
    counts = np.bincount(draws, minlength=OUTPUTS) / 300
    assert (abs(counts - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / 300) + 1e-3).all()
    assert learner.generate([1], 30, seed=5).tolist() == learner.generate([1], 30, seed=5).tolist()
    assert learner.generate([1], 30, seed=5).tolist() != learner.generate([1], 30, seed=6).tolist()


def test_lists_numbers_and_arrays_that_fit_are_taken() -> None:
    def run(x: Any, target: Any) -> tuple[float, dict[str, np.ndarray]]:
        learner = OnlineLearner(RNN(2, 3, seed=1), Linear(1), SnAp(1), Adam(0.1))
        return learner.step(x, target), learner.parameters()

    wanted = run(np.array([0.5, -2], np.float32), np.array([1], np.float32))
    for x, target in [
        ([0.5, -2.0], [1.0]), ([0.5, -2], [1]), ((0.5, -2), [True + 0]),
        (np.array([0.5, -2]), np.array([1])), ([np.float32(0.5), np.float64(-2)], [1.0]),
        (np.array([0.5, -2], np.float16), np.array([1], np.uint8)),
    ]:  # fmt: skip
        loss, parameters = run(x, target)
        assert loss == wanted[0]
        assert_same(parameters, wanted[1])
    assert np.isfinite(run([0.1, 0.2], [0.3])[0])


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.array([0.1, 0.2]), r"got float64 with numbers that float32 does not have: round"),
        (np.array([2**24 + 1, 0]), "got int64 with numbers that float32 does not have"),
        (np.array([1j, 0]), "must be float32 as the cell is, got complex128"),
        (np.array([None, 0.5]), "what are no numbers"),
        ([[1, 2], [3]], "inhomogeneous|unequal"),
        (["a", "b"], "got text"),
        ([True, False], "got booleans"),
        ([1e39, 0.0], "xs must be finite"),
    ],
)
def test_what_is_not_exact_or_no_number_is_refused(x: Any, words: str) -> None:
    learner = OnlineLearner(RNN(2, 3, seed=1), Linear(1), SnAp(1), Adam(0.1))
    before = kept(learner)
    for call in (lambda: learner.step(x, [1.0]), lambda: learner.predict(x)):
        with pytest.raises((TypeError, ValueError), match=words) as raised:
            call()
        assert "\n" not in str(raised.value)
    assert_same(before, kept(learner))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s, v: v.generate([0], 3), "must predict its own inputs"),
        (lambda s, v: s.generate([], 3), "T at least 1|must be classes, integers"),
        (lambda s, v: s.generate([4], 3), r"classes in \[0, 4\), got 4 to 4"),
        (lambda s, v: s.generate([0.5], 3), "must be classes, integers, got float64"),
        (lambda s, v: s.generate([[0, 1]], 3), r"shape \(T,\) or \(T, 1\)"),
        (lambda s, v: s.generate([0], 0), "steps must be at least 1"),
        (
            lambda s, v: s.generate([0], 3, temperature=-1),
            "temperature must be finite and at least",
        ),
        (lambda s, v: s.generate([0], 3, temperature=float("nan")), "temperature must be finite"),
        (lambda s, v: s.generate([0], 3, seed=-1), "seed must be at least 0"),
        (lambda s, v: s.predict(np.zeros(4, np.float32), np.zeros(1, bool)), "resets must be left"),
        (
            lambda s, v: s.predict(np.zeros((2, 2, 4), np.float32)),
            r"xs must have shape \(T, 1, 4\)",
        ),
        (lambda s, v: s.follow(np.full((2, 4), np.nan, np.float32)), "xs must be finite"),
        (lambda s, v: s.run(np.eye(4, dtype="f4"), [0] * 4, outputs=1), "outputs must be True or"),
    ],
)
def test_calls_that_cannot_be_are_refused_in_a_line(call: Any, words: str) -> None:
    speaker, values = a_speaker(), a_learner(SnAp(1), READOUTS[0])
    before = kept(speaker)
    with pytest.raises((TypeError, ValueError), match=words) as raised:
        call(speaker, values)
    assert "\n" not in str(raised.value)
    assert_same(before, kept(speaker))
