"""The estimators for river: river's own checks, bits, columns that grow, and what is refused."""

import copy
import importlib
import pickle
import sys

import numpy as np
import pytest

import sparsegrad
from sparsegrad.learning.growth import grow

pytest.importorskip("river", reason="river is not installed")
from river import checks, preprocessing

from sparsegrad.interop.river import RecurrentClassifier, RecurrentRegressor

KINDS = (RecurrentRegressor, RecurrentClassifier)


@pytest.mark.parametrize("kind", KINDS)
def test_rivers_own_checks_pass_without_an_exemption(kind):
    pytest.importorskip("sklearn", reason="river's checks need scikit-learn")
    model = kind(**next(kind._unit_test_params()))
    assert model._unit_test_skips() == set()
    names = [check.__name__ for check in checks.yield_checks(model)]
    assert {"check_shuffle_features_no_impact", "check_emerging_features"} <= {*names}
    checks.check_estimator(model)


def stream(rng, count=40):
    for k in range(count):
        a, b = rng.standard_normal(2)
        yield {"a": a, "b": b}, float(np.sin(k / 3) + a), ("up", "down")[int(a > 0)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_changes_no_bit_and_is_what_the_next_step_scores(kind, rng):
    model = kind(units=8)
    for x, number, word in stream(rng):
        y = number if kind is RecurrentRegressor else word
        before = pickle.dumps(model)
        for asked in (x, {}, x | {"new": 1.0}):  # a feature without a column, too
            model.predict_one(asked)
        guess = model._ahead(x)
        assert pickle.dumps(model) == before
        if guess is not None and y in getattr(model, "_classes", {y}):
            beside = copy.deepcopy(model)
            target = [model._classes[y]] if kind is RecurrentClassifier else [[y]]
            row = model._row({**x, **model._past})
            _, scored = beside.learner.run(row, target, outputs=True)
            assert np.array_equal(scored[0], guess)
        model.learn_one(x, y)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_goes_on_bit_for_bit_and_a_clone_begins(kind, copied, rng):
    examples = [(x, y[kind is RecurrentClassifier]) for x, *y in stream(rng)]
    model = kind(units=8)
    for x, y in examples[:20]:
        model.learn_one(x, y)
    other, fresh = copied(model), model.clone()
    assert fresh.learner is None
    for x, y in examples[20:]:
        assert model.predict_one(x) == other.predict_one(x)
        model.learn_one(x, y)
        other.learn_one(x, y)
    assert np.array_equal(model.learner.state, other.learner.state)


def test_features_that_come_take_spare_columns_and_change_no_prediction(rng):
    model = RecurrentRegressor(units=8)
    for x, y, _ in stream(rng):
        model.learn_one(x, y)
    assert model.learner.cell.inputs == 3  # two features, and the last target
    kept, sizes = copy.deepcopy(model), []
    x = {"a": 0.3, "b": -0.2}
    for name in ("c", "d", "e", "f"):
        x[name] = 1.0
        guess = model.predict_one(x)
        assert guess == model.predict_one({k: v for k, v in x.items() if k != name})
        model.learn_one(x, 0.5)
        sizes.append(model.learner.cell.inputs)
    assert sizes == [6, 6, 6, 12]
    assert list(model._columns) == [*kept._columns, "c", "d", "e", "f"]
    assert kept.learner.cell.inputs == 3


def test_classes_that_come_have_a_logit_of_0(rng):
    model = RecurrentClassifier(units=8)
    assert (model.predict_one({"a": 1}), model.predict_proba_one({"a": 1})) == (None, {})
    model.learn_one({"a": 1.0}, "one")
    assert model.predict_proba_one({"a": 1.0}) == {"one": 1.0}
    for label in ("two", True, 3):
        before = model.predict_proba_one({"a": 0.5})
        model.learn_one({"a": 0.5}, label)
        assert list(model.predict_proba_one({"a": 0.5})) == [*before, label]
    for _ in range(60):
        model.learn_one({"a": 1.0}, "two")
    assert model.predict_one({"a": 1.0}) == "two"


METHODS = (sparsegrad.SnAp(1), sparsegrad.RTRL(), sparsegrad.UORO(3), sparsegrad.RFLO())


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_more_outputs_leave_state_moments_and_influence_as_they_are(method, rng):
    """Outputs whose targets are their 0 bring no gradient: the others must learn as if alone."""
    make = lambda: sparsegrad.OnlineLearner(  # noqa: E731
        sparsegrad.GRU(3, 6, sparsity=0.5), sparsegrad.Linear(2), method, sparsegrad.Adam(0.01)
    )
    alone, other = make(), make()
    xs = rng.standard_normal((60, 3)).astype("f4")
    targets = np.sin(xs[:, :2])
    for learner in (alone, other):
        learner.run(xs[:30], targets[:30])
    grown = grow(other, outputs=4, threads=1)
    alone.run(xs[30:], targets[30:])
    grown.run(xs[30:], np.pad(targets[30:], ((0, 0), (0, 2))))
    assert np.array_equal(grown.state, alone.state)
    found, wanted = grown.parameters(), alone.parameters()
    for name, array in wanted.items():
        assert np.array_equal(found[name][: len(array)], array), name
    assert not found["readout.weight"][2:].any()


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_more_inputs_keep_state_weights_and_moments(method, rng):
    learner = sparsegrad.OnlineLearner(
        sparsegrad.GRU(3, 6, sparsity=0.5), sparsegrad.Linear(2), method, sparsegrad.Adam(0.01)
    )
    xs = rng.standard_normal((60, 3)).astype("f4")
    targets = np.sin(xs[:, :2])
    learner.run(xs[:50], targets[:50])
    grown = grow(learner, inputs=7)
    wider = np.pad(xs[50:], ((0, 0), (0, 4)))
    np.testing.assert_allclose(grown.predict(wider), learner.predict(xs[50:]), rtol=1e-5)
    assert grown.steps == learner.steps
    before, after = learner.checkpoint(), grown.checkpoint()
    for name in ("optimizer.first", "optimizer.second"):
        old = before.cell.dense_of(before.arrays[name][: before.cell.weights.size])
        new = after.cell.dense_of(after.arrays[name][: after.cell.weights.size])
        assert np.array_equal(new["weight_ih"][:, :3], old["weight_ih"])
        assert not new["weight_ih"][:, 3:].any()
        assert np.array_equal(new["weight_hh"], old["weight_hh"])
        readout = before.arrays[name][before.cell.weights.size :]
        assert np.array_equal(after.arrays[name][after.cell.weights.size :], readout)
    grown.run(wider, targets[50:])  # the new influence has a place for every weight
    assert not grown.parameters()["weight_ih"][:, 3:].any()  # and an input of 0 moves none


def test_what_cannot_grow_is_refused(rng):
    cell, adam = sparsegrad.GRU(2, 3), sparsegrad.Adam()
    window = sparsegrad.OnlineLearner(cell, sparsegrad.Linear(1), sparsegrad.SnAp(1, 8), adam)
    with pytest.raises(TypeError, match="linear readout and a method without a window"):
        grow(window, inputs=4)
    learner = sparsegrad.OnlineLearner(cell, sparsegrad.Linear(2), sparsegrad.SnAp(1), adam)
    with pytest.raises(ValueError, match="outputs must be at least 2, got 1"):
        grow(learner, outputs=1)


def test_a_pipeline_with_scalers_beats_persistence():
    model = preprocessing.StandardScaler() | preprocessing.TargetStandardScaler(
        RecurrentRegressor(units=16)
    )
    wave = 500 + 100 * np.sin(np.arange(1500) / 4)
    errors = []
    for k, y in enumerate(wave.tolist()):
        errors.append(abs(model.predict_one({"slow": k // 100}) - y) if k else 0)
        model.learn_one({"slow": k // 100}, y)
    assert np.mean(errors[1000:]) < 0.5 * np.abs(np.diff(wave[1000:])).mean()


REFUSED = {
    "a word": ({"a": "red"}, 1.0, TypeError, "feature 'a' must be a finite number.*OneHotEncoder"),
    "nothing": ({"a": None}, 1.0, TypeError, "feature 'a' must be a finite number"),
    "a NaN": ({"a": float("nan")}, 1.0, ValueError, "feature 'a' must be a finite number"),
    "too large": ({"a": 1e300}, 1.0, ValueError, "in float32, got 1e\\+300"),
    "no dict": ([1.0], 1.0, TypeError, "x must be a dict of features, got list"),
    "no target": ({"a": 1.0}, None, TypeError, "y must be"),
    "a NaN as target": ({"a": 1.0}, float("nan"), (TypeError, ValueError), "y must be"),
    "a list as target": ({"a": 1.0}, [1.0], TypeError, "y must be"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_example_is_refused_in_a_line_and_changes_nothing(kind, case):
    x, y, error, text = REFUSED[case]
    model = kind(units=8)
    model.learn_one({"a": 0.5, "b": 1}, 1.0)
    before = pickle.dumps(model)
    with pytest.raises(error, match=text) as raised:
        model.learn_one(x, y)
    assert "\n" not in str(raised.value)
    assert pickle.dumps(model) == before


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"cell": "gruu"}, "cell must be rnn, gru"),
        ({"optimizer": "adamm"}, "optimizer must be sgd, adam, adamw or rmsprop"),
        ({"method": "bptt:8"}, "method must learn at every step"),
        ({"method": "snap:1@8"}, "method must learn at every step"),
        ({"method": "snap"}, "method must be one of"),
        ({"units": 0}, "units must be at least 1"),
        ({"rate": -1.0}, "rate must be above 0"),
        ({"sparsity": 1.0}, r"sparsity must lie in \[0, 1\)"),
    ],
)
def test_a_bad_parameter_is_refused_at_once(given, text):
    with pytest.raises(ValueError, match=text):
        RecurrentClassifier(**given)


def test_without_river_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "river", None)
    monkeypatch.delitem(sys.modules, "sparsegrad.interop.river")
    with pytest.raises(ImportError, match=r"sparsegrad-rtrl\[river\]"):
        importlib.import_module("sparsegrad.interop.river")
