"""Losses of one's own, and what a loss refuses; test_exactness.py has the built-in ones."""

import copy

import numba
import numpy as np
import pytest

from sparsegrad import GRU, SGD, Linear, OnlineLearner, SnAp
from sparsegrad.learning.losses import check_loss, loss_text

UNITS, OUTPUTS = 4, 3


@numba.njit(cache=True)
def pinball(y, target):
    """Quantile 0.9."""
    total = 0.0
    for o in range(y.size):
        wrong = y[o] - target[o]
        y[o] = 0.1 if wrong > 0 else -0.9
        total += y[o] * wrong
    return total


@numba.njit(cache=True)
def halved(y, target):
    """The squared error, as the built-in one sums it."""
    total = 0.0
    for o in range(y.size):
        y[o] -= target[o]
        total += 0.5 * y[o] * y[o]
    return total


@numba.njit(cache=True)
def forgetful(y, target):
    return ((y - target) ** 2).sum()


@numba.njit(cache=True)
def wrong(y, target):
    y -= target
    return (y**2).sum()


@numba.njit(cache=True)
def silent(y, target):
    y -= target


@numba.njit(cache=True)
def stranger(y):
    return y.sum()


def learner(loss, dtype="float32", rate=0.1):
    cell = GRU(2, UNITS, sparsity=0.5, seed=1, dtype=dtype)
    return OnlineLearner(cell, Linear(OUTPUTS, loss, seed=2), SnAp(1), SGD(rate), batch=2)


def data(steps=9, dtype="float32"):
    rng = np.random.default_rng(3)
    shapes = (steps, 2, 2), (steps, 2, OUTPUTS)
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def test_an_own_loss_has_the_bits_of_the_built_in_one():
    xs, targets = data()
    ours, theirs = learner(halved), learner("squared_error")
    np.testing.assert_array_equal(ours.run(xs, targets), theirs.run(xs, targets))
    for name, values in theirs.parameters().items():
        np.testing.assert_array_equal(ours.parameters()[name], values)
    np.testing.assert_array_equal(ours.predict(xs), theirs.predict(xs))
    twin = copy.deepcopy(ours)
    np.testing.assert_array_equal(twin.run(xs, targets), ours.run(xs, targets))


def test_the_gradient_of_an_own_loss_is_that_of_its_finite_differences():
    xs, targets = data(dtype="float64")
    made = learner(pinball, "float64", rate=0.0)
    grads = made.gradient(xs, targets)[1]
    weight, step = made.readout.parameters(UNITS, np.dtype("float64")).to_dense(), 1e-6
    at = (1, 2)
    losses = []
    for sign in (1, -1):
        moved = weight["readout.weight"].copy()
        moved[at] += sign * step
        readout = Linear(OUTPUTS, pinball, weight=moved)
        losses.append(
            OnlineLearner(made.cell, readout, SnAp(1), SGD(0.0), batch=2)
            .evaluate(xs, targets)
            .sum()
        )
    expected = (losses[0] - losses[1]) / (2 * step)
    assert abs(expected) > 0.01
    assert grads["readout.weight"][at] == pytest.approx(expected, rel=1e-6)


def test_a_loss_is_told_by_its_code():
    """As ranks of a run compare it: an address would be another one in each process."""

    def made(share):
        def loss(y, target):
            return share * y.sum()

        return numba.njit(loss)

    assert loss_text(made(0.5)) == loss_text(made(0.5)) != loss_text(made(0.25))
    assert loss_text(pinball) != loss_text(halved)
    assert " at 0x" not in loss_text(pinball)
    assert loss_text("huber") == "huber"


def test_rates_are_predicted():
    xs, targets = data()
    made = learner("poisson", rate=0.0)
    made.run(xs, np.abs(targets))
    assert (made.predict(xs) > 0).all()
    with pytest.raises(ValueError, match=r"targets must be counts of at least 0, got -\d"):
        made.run(xs, targets)


def test_a_derivative_is_checked():
    y, target = np.array([0.3, -1.0, 2.0]), np.array([0.5, 0.25, 1.0])
    check_loss(pinball, y, target)
    check_loss(halved, y, target)
    with pytest.raises(ValueError, match=r"wrong must leave its derivative in y, got -0\.2 for"):
        check_loss(wrong, y, target)


@pytest.mark.parametrize(
    ("loss", "error", "text"),
    [
        (forgetful, TypeError, "forgetful must leave its derivative"),
        (silent, TypeError, "silent must be loss"),
        (stranger, TypeError, "stranger must be loss"),
        (halved.py_func, TypeError, "compiled by numba.njit, got halved, which is not"),
        ("absolute", ValueError, "loss must be one of .*got 'absolute'"),
        (3, TypeError, "loss must be one of .*got 3"),
    ],
)
def test_a_bad_loss_is_refused_in_one_line(loss, error, text):
    with pytest.raises(error, match=text) as told:
        learner(loss)
    assert "\n" not in str(told.value)


def test_a_learner_with_an_own_loss_is_not_saved_and_goes_on(tmp_path):
    xs, targets = data()
    made = learner(pinball)
    with pytest.raises(TypeError, match="in a file, got a function of your own"):
        made.save(tmp_path / "one")
    made.run(xs, targets)
    assert not list(tmp_path.iterdir())
