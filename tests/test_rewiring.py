"""Schedules of masks: how many weights, which ones, and by which scores."""

import numpy as np
import oracle
import pytest

from sparsegrad import GRU, Adam, Linear, OnlineLearner, Pruning, Rewiring, SnAp
from sparsegrad.learning.rewiring import best_absent


def learner_of(batch=2, dtype="float32", sparsity=0.25, rate=0.01, units=6, **options):
    cell = GRU(3, units, sparsity=sparsity, seed=1, dtype=dtype, **options)
    return OnlineLearner(cell, Linear(2), SnAp(1), Adam(rate), batch)


def data(steps, batch=2, dtype="float32", seed=3):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((steps, batch, size)).astype(dtype) for size in (3, 2)]


def sparsities(cell):
    return {name: 1 - mask.mean() for name, mask in cell.masks().items() if mask.ndim == 2}


def dense_scores(learner, xs, ys, resets):
    """|Σ_t ∂L_t/∂a · source| of every place, by complex steps through the dense cell."""
    p = learner.parameters()
    masks = {name: np.ones(p[name].shape, bool) for name in ("weight_hh", "weight_ih")}
    weights, state = oracle.existing(masks), learner.state.astype(float)
    total = {name: np.zeros(mask.shape) for name, mask in masks.items()}
    for x, y, reset in zip(xs, ys, resets, strict=True):
        for b in range(len(x)):
            state[b] *= not reset[b]
            _, direct, _ = oracle.cell_jacobians("GRU", p, weights, state[b], x[b])
            state[b] = oracle.cell_step("GRU", p, state[b], x[b])
            error = p["readout.weight"] @ state[b, 0] + p["readout.bias"] - y[b]
            signal = p["readout.weight"].T @ error / len(x)
            for (name, at), value in zip(weights, signal @ direct, strict=True):
                total[name].flat[at] += value
    return {name: np.abs(values) for name, values in total.items()}


@pytest.mark.parametrize("batch", [1, 3])
def test_scores_of_absent_weights_are_those_of_a_dense_computation(batch, monkeypatch):
    monkeypatch.setattr("sparsegrad.learning.rewiring._AT_A_TIME", 7)  # blocks of a row or two
    learner = learner_of(batch, "float64", 0.5)
    xs, ys = data(9, batch, "float64")
    learner.run(xs, ys)
    resets = np.zeros((9, batch), bool)
    resets[4, 0] = True
    before = learner.checkpoint().tensors()
    factors = learner.probe(xs, ys, None, resets)
    for name, array in learner.checkpoint().tensors().items():
        np.testing.assert_array_equal(array, before[name])
    wanted = dense_scores(learner, xs, ys, resets)
    for name, scores in wanted.items():
        absent = np.flatnonzero(~learner.cell.masks()[name])
        for count in (1, 5, absent.size):
            places, found = best_absent(learner.cell, name, count, *factors)
            assert np.isin(places, absent).all()
            assert np.unique(places).size == count
            np.testing.assert_allclose(found, scores.flat[places], rtol=1e-9, atol=1e-14)
            best = np.sort(scores.flat[absent])[::-1][:count]
            np.testing.assert_allclose(found, best, rtol=1e-9, atol=1e-14)


def test_equal_scores_go_by_place():
    cell = GRU(3, 6, sparsity=0.5, seed=1)
    places, scores = best_absent(cell, "weight_hh", 8, np.zeros((2, 24)), np.zeros((2, 10)))
    assert places.tolist() == np.flatnonzero(~cell.masks()["weight_hh"])[:8].tolist()
    assert not scores.any()


@pytest.mark.parametrize(("every", "steps"), [(10, 5), (3, 10), (20, 10)])
def test_pruning_follows_the_cubic_and_keeps_the_largest(every, steps):
    learner, pruning = learner_of(), Pruning(0.9, begin=10, end=90, every=every)
    xs, ys = data(steps)
    seen = {}
    for _ in range(120 // steps):
        cell, weights = learner.cell, learner.parameters()
        changed = pruning.rewire(learner, len(xs))
        assert changed == (learner.cell is not cell)
        if changed:
            last = min(learner.steps + steps - 1, 90)
            due = last if last == 90 else 10 + (last - 10) // every * every
            seen[due] = sparsities(learner.cell)
            for name, array in learner.parameters().items():
                if name in ("weight_hh", "weight_ih"):
                    gone = cell.masks()[name] & ~learner.cell.masks()[name]
                    kept = learner.cell.masks()[name]
                    assert np.abs(weights[name][gone]).max() <= np.abs(weights[name][kept]).min()
                    np.testing.assert_array_equal(array[kept], weights[name][kept])
                else:
                    np.testing.assert_array_equal(array, weights[name])
        learner.run(xs, ys)
    assert all(abs(found - 0.9) < 0.5 / 54 for found in sparsities(learner.cell).values())
    assert len(seen) >= 4
    for step, found in seen.items():
        wanted = 0.9 + (0.25 - 0.9) * (1 - (step - 10) / 80) ** 3
        for name, sparsity in found.items():
            assert abs(sparsity - wanted) < (2 / 54 if step < 90 else 0.5 / 54), (name, step)


@pytest.mark.parametrize("rule", ["set", "rigl"])
def test_rewiring_moves_the_least_and_keeps_the_number(rule):
    learner, rewiring = learner_of(sparsity=0.5), Rewiring(0.4, every=10, until=40, rule=rule)
    moved = {}
    for span in range(12):
        xs, ys = data(5, seed=span)
        cell, weights = learner.cell, learner.parameters()
        probe = learner.probe(xs, ys)
        if rewiring.rewire(learner, xs, ys):
            for name in ("weight_hh", "weight_ih"):
                before, after = cell.masks()[name], learner.cell.masks()[name]
                gone, new = before & ~after, after & ~before
                share = 0.2 * (1 + np.cos(np.pi * learner.steps / 40))
                assert gone.sum() == new.sum() == round(share * before.sum())
                size = np.abs(weights[name])
                assert size[gone].max() <= size[before & after].min()
                assert not learner.parameters()[name][new].any()
                if rule == "rigl":
                    best = best_absent(cell, name, int(new.sum()), *probe)[0]
                    np.testing.assert_array_equal(np.sort(best), np.flatnonzero(new))
            moved[learner.steps] = True
        learner.run(xs, ys)
    assert list(moved) == [10, 20, 30]  # at 40 the share is 0


def test_a_learner_from_a_file_goes_on_with_its_schedules_bit_for_bit(tmp_path):
    pruning, rewiring = Pruning(0.9, 0, 60, 7), Rewiring(0.3, 9, 60, "rigl")
    learner = learner_of()

    def go_on(learner, spans):
        for span in spans:
            xs, ys = data(4, seed=span)
            pruning.rewire(learner, len(xs))
            rewiring.rewire(learner, xs, ys)
            learner.run(xs, ys)
        return learner.checkpoint().tensors()

    go_on(learner, range(6))
    learner.save(tmp_path / "one")
    resumed = OnlineLearner.load(tmp_path / "one", threads=1)
    one, other = go_on(learner, range(6, 20)), go_on(resumed, range(6, 20))
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)
    assert abs(sparsities(learner.cell)["weight_hh"] - 0.9) < 0.5 / 108


def test_a_dense_net_has_nothing_to_grow():
    learner = learner_of(sparsity=0.0)
    xs, ys = data(5)
    assert not Rewiring(0.5, every=1, until=100).rewire(learner, xs, ys)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Pruning(1.0, 0, 10, 1), ValueError, "final must lie"),
        (lambda: Pruning(0.5, 10, 10, 1), ValueError, "end must be .*11"),
        (lambda: Pruning(0.5, 0, 10, 0), ValueError, "every must be"),
        (lambda: Pruning("0.5", 0, 10, 1), TypeError, "final must be"),
        (lambda: Rewiring(0.0, 1, 10), ValueError, "fraction must lie"),
        (lambda: Rewiring(0.1, 1.5, 10), TypeError, "every must be"),
        (lambda: Rewiring(0.1, 1, 10, "rigel"), ValueError, "rule must be one of set, rigl"),
    ],
)
def test_settings_out_of_range_are_refused(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_pruning_past_what_exists_is_refused_before_the_first_one():
    learner = learner_of(sparsity=0.75)
    with pytest.raises(ValueError, match=r"final must be above what is absent already, 0.75"):
        Pruning(0.5, 0, 10, 1).rewire(learner, 5)


def test_a_matrix_may_be_sparser_than_the_other():
    learner = learner_of(sparsity=0.75, input_sparsity=0.0)
    xs, ys = data(4)
    for _ in range(8):
        Pruning(0.5, 0, 20, 5).rewire(learner, 4)
        learner.run(xs, ys)
    assert sparsities(learner.cell)["weight_hh"] == 0.75
    assert sparsities(learner.cell)["weight_ih"] == 0.5
