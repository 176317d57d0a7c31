"""Changing masks: what stays, stays bit for bit; what is new, sets out from 0."""

import gc
import resource
import weakref

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsegrad import GRU, RNN, SGD, UORO, Adam, Linear, OnlineLearner, SnAp
from sparsegrad.registry import CELLS, parse_method

NAMES = ("weight_hh", "weight_ih", "bias_ih", "bias_hh")
WORDS = ["snap:1", "snap:2", "rtrl", "rflo", "uoro", "bptt:4", "snap:2@4", "snap:1@4", "uoro@4"]


def data(steps, batch, outputs=2, dtype="float32", seed=3):
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((steps, batch, size)) for size in (3, outputs))
    return [array.astype(dtype) for array in values]


def masks_of(cell, rng, share, names=NAMES):
    shapes = {name: array.shape for name, array in cell.masks().items()}
    return {name: rng.random(shapes[name]) < share for name in names if name in shapes}


def everything(learner):
    return learner.checkpoint().tensors() | {"updates": learner._memory.updates}


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def dense(cell, values):
    """One value per weight and whatever comes before it, as dense arrays: (..., dense shape)."""
    rows = [cell.dense_of(row) for row in values.reshape(-1, values.shape[-1])]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def of_dense(cell, arrays, lead):
    """The values of a cell's weights out of dense arrays, 0 where there is none."""
    values = np.zeros((int(np.prod(lead)), cell.weights.size), cell.dtype)
    for name, (weight, place) in cell.places.items():
        if name in arrays:
            values[:, weight] = arrays[name].reshape(len(values), -1)[:, place]
    return values.reshape(*lead, -1)


def given_the_surviving_values(learner, masks):
    """A fresh learner, by dense arrays under PyTorch's names alone."""
    cell, size = learner.cell, learner.cell.weights.size
    exist = cell.masks() | masks
    arrays = cell.to_dense()
    for name in masks:
        was = cell.masks().get(name, np.zeros(masks[name].shape, bool))
        arrays[name] = np.where(masks[name] & was, arrays.get(name, 0), 0).astype(cell.dtype)
    fresh = OnlineLearner(
        type(cell).from_dense(**arrays, masks=exist), learner.readout, learner.method,
        learner.optimizer, learner.batch, learner.update_every,
    )  # fmt: skip
    old, new = learner.checkpoint().arrays, fresh.checkpoint()
    for name in ("optimizer.first", "optimizer.second", "gradient.cell"):
        if old[name].size:
            kept = of_dense(fresh.cell, dense(cell, old[name][None, :size]), (1,))[0]
            new.arrays[name] = np.concatenate([kept, old[name][size:]])
    for name in ("state", "pending_reset", "gradient.readout", "method.left", "method.random"):
        if name in old:
            new.arrays[name] = old[name]
    if "method.right" in old:
        new.arrays["method.right"] = of_dense(
            fresh.cell, dense(cell, old["method.right"]), (learner.batch,)
        )
    if learner.pattern is not None:
        for b in range(learner.batch):
            before = learner._engine.influence.to_scipy(b).toarray()
            J = of_dense(fresh.cell, dense(cell, before), (before.shape[0],))
            pattern = fresh.pattern.to_scipy().toarray().T
            units, weights = np.nonzero(pattern.T)[::-1]
            new.arrays[f"method.influence.{b}"] = J[units, weights]
    counts = learner.checkpoint().counts
    readout = learner.checkpoint().readout
    return OnlineLearner.from_checkpoint(new._replace(counts=counts, readout=readout))


@given(
    seeds=st.lists(st.integers(0, 999), min_size=1, max_size=4),
    share=st.floats(0.1, 0.9),
    batch=st.sampled_from([1, 3]),
    every=st.sampled_from([1, 4]),
    method=st.sampled_from([SnAp(2), UORO(1)]),
)
def test_any_sequence_of_rewires_is_a_fresh_learner_with_the_surviving_values(
    seeds, share, batch, every, method
):
    cell = GRU(3, 6, sparsity=0.5, seed=1)
    learner = OnlineLearner(cell, Linear(2), method, Adam(0.01), batch, every)
    xs, ys = data(6, batch)
    learner.run(xs, ys)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        masks = masks_of(cell, rng, share, NAMES[: rng.integers(1, 5)])
        fresh = given_the_surviving_values(learner, masks)
        learner.rewire(masks)
        for name, mask in masks.items():
            np.testing.assert_array_equal(learner.cell.masks()[name], mask)
        assert_same(everything(learner), everything(fresh))
        np.testing.assert_array_equal(learner.run(xs, ys), fresh.run(xs, ys))
        assert_same(everything(learner), everything(fresh))


def dense_run(kind, p, spans, n, leak_only, rate):
    """`oracle.online` over spans with masks of their own; J of a weight goes on while it exists."""
    p, J, losses = {k: np.array(v) for k, v in p.items()}, {}, []
    units = p["weight_hh"].shape[1]
    components = 2 if kind == "LSTM" else 1
    batch = spans[0][1].shape[1]
    state = np.zeros((batch, components, units))
    for masks, xs, targets in spans:
        weights = oracle.existing(masks)
        p |= {name: p[name] * mask for name, mask in masks.items()}
        gates = [
            mask.astype(int) for mask in np.split(masks["weight_hh"], len(p["bias_hh"]) // units)
        ]
        links = sum(gates) + np.eye(units)
        if kind == "LSTM":  # gates i, f, g make c', which h' reads beside all four
            links = np.block([[sum(gates), np.eye(units)], [sum(gates[:3]), np.eye(units)]])
        for t in range(len(xs)):
            step, loss = {k: np.zeros(v.shape) for k, v in p.items()}, 0.0
            for b in range(batch):
                D, direct, leak = oracle.cell_jacobians(kind, p, weights, state[b], xs[t, b])
                # by structure, whatever a value is: a unit's own components, and its map's
                unit = [at // (p[name].size // len(p[name])) % units for name, at in weights]
                own = np.array([np.tile(np.arange(units) == u, components) for u in unit]).T
                if kind == "LSTM":
                    gate = [at // (p[name].size // len(p[name])) // units for name, at in weights]
                    own[units:, np.array(gate) == 3] = False
                kept = own if n == 1 else own | ((links @ own) > 0)
                before = np.zeros(direct.shape)
                for w, weight in enumerate(weights):
                    before[:, w] = np.where(kept[:, w], J.get((b, weight), 0), 0)
                now = np.where(kept, direct + (leak if leak_only else D) @ before, 0)
                J |= {(b, weight): now[:, w] for w, weight in enumerate(weights)}
                state[b] = oracle.cell_step(kind, p, state[b], xs[t, b])
                h = state[b, 0]
                error = p["readout.weight"] @ h + p["readout.bias"] - targets[t, b]
                loss += 0.5 * error @ error / batch
                signal = p["readout.weight"].T @ error / batch
                step["readout.weight"] += np.outer(error, h) / batch
                step["readout.bias"] += error / batch
                for (name, at), value in zip(weights, signal @ now[:units], strict=True):
                    step[name].flat[at] += value
            losses.append(loss)
            p = {name: values - rate * step[name] for name, values in p.items()}
        exist = {(b, weight) for b in range(batch) for weight in weights}
        J = {key: value for key, value in J.items() if key in exist}
    return np.array(losses), p


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("word", ["snap:1", "rflo", "snap:2"])
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_masks_that_change_agree_with_a_dense_recursion(kind, word, batch):
    rng, method = np.random.default_rng(11), parse_method(word, 0)
    cell = CELLS[kind.lower()].load()(3, 5, sparsity=0.5, seed=2, dtype="float64")
    learner = OnlineLearner(cell, Linear(2), method, SGD(0.05), batch)
    start, spans, losses = learner.parameters(), [], []
    for span in range(4):
        xs, ys = data(5, batch, dtype="float64", seed=span)
        if span:
            learner.rewire(masks_of(cell, rng, 0.5, NAMES[:2]))
        spans.append((learner.cell.masks(), xs, ys))
        losses.append(learner.run(xs, ys))
    n = 2 if word == "snap:2" else 1
    wanted, p = dense_run(kind, start, spans, n, word == "rflo", 0.05)
    np.testing.assert_allclose(np.concatenate(losses), wanted, rtol=1e-11)
    for name, values in learner.parameters().items():
        np.testing.assert_allclose(values, p[name], rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("word", WORDS)
def test_a_rewire_to_the_same_masks_changes_nothing(word):
    for batch in (1, 3):
        learners = [
            OnlineLearner(
                GRU(3, 6, sparsity=0.5, seed=1), Linear(2), parse_method(word, 1), Adam(0.01), batch
            )
            for _ in range(2)
        ]
        xs, ys = data(8, batch)
        for learner in learners:
            learner.run(xs, ys)
        learners[0].rewire(learners[0].cell.masks())
        if "@" not in word and ":4" not in word:  # nobody reads what a window has left behind
            assert_same(*map(everything, learners))
        np.testing.assert_array_equal(*(learner.run(xs, ys) for learner in learners))
        assert_same(*map(everything, learners))


@pytest.mark.parametrize("word", ["bptt:4", "snap:2@4", "uoro@4"])
def test_a_window_under_way_ends_and_its_gradient_is_spent_with_the_next(word):
    learner = OnlineLearner(
        GRU(3, 6, sparsity=0.5, seed=1), Linear(2), parse_method(word, 1), SGD(0.0), 2
    )
    xs, ys = data(10, 2)
    learner.run(xs[:6], ys[:6])
    mask = learner.cell.masks()["weight_hh"].copy()
    mask[np.nonzero(mask)[0][0], np.nonzero(mask)[1][0]] = False
    learner.rewire({"weight_hh": mask})
    arrays = learner.checkpoint().arrays
    assert arrays["method.filled"][0] == 0
    assert np.count_nonzero(arrays["gradient.cell"]) > 50
    updates = learner._memory.updates[0]
    learner.run(xs[6:9], ys[6:9])
    assert learner._memory.updates[0] == updates
    learner.run(xs[9:], ys[9:])
    assert learner._memory.updates[0] == updates + 1
    assert not learner.checkpoint().arrays["gradient.cell"].any()


@pytest.mark.parametrize("word", WORDS)
def test_a_unit_may_lose_its_last_weight_and_get_another(word):
    learner = OnlineLearner(
        RNN(3, 5, sparsity=0.4, seed=1), Linear(2), parse_method(word, 1), Adam(0.01), 2
    )
    xs, ys = data(8, 2)
    learner.run(xs, ys)
    masks = learner.cell.masks()
    for mask in masks.values():
        mask[2] = False
    learner.rewire(masks)
    learner.run(xs, ys)
    assert learner.state[:, 0, 2].tolist() == [0, 0]  # tanh of no sum
    masks["bias_ih"][2] = True
    learner.rewire(masks)
    learner.run(xs, ys)
    assert learner.state[:, 0, 2].all()


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_goes_on(cell):
    learner = OnlineLearner(
        CELLS[cell].load()(3, 5, sparsity=0.4, seed=1), Linear(2), SnAp(2), SGD(1e-3), 2
    )
    xs, ys = data(4, 2)
    learner.run(xs, ys)
    before = learner.cell
    learner.rewire(masks_of(before, np.random.default_rng(4), 0.6, NAMES[:2]))
    assert learner.cell is not before
    assert learner.cell.options() == before.options()
    learner.run(xs, ys)


def refused(learner, masks, error, text):
    before, cell = everything(learner), learner.cell
    with pytest.raises(error, match=text):
        learner.rewire(masks)
    assert learner.cell is cell
    assert_same(everything(learner), before)


def test_what_is_refused_leaves_the_learner_as_it_was(monkeypatch, scarce):
    learner = OnlineLearner(GRU(3, 4, seed=1), Linear(2), SnAp(2, window=4), Adam(0.01), 1)
    xs, ys = data(6, 1)
    learner.run(xs, ys)
    refused(learner, {"weight_hh": np.ones((4, 4), bool)}, ValueError, r"shape \(12, 4\), got")
    refused(learner, {"weight_hh": np.ones((12, 4))}, TypeError, "boolean, got float64")
    refused(learner, {"weight_xh": np.ones((12, 4), bool)}, ValueError, "named as")
    none = {name: np.zeros_like(mask) for name, mask in learner.cell.masks().items()}
    refused(learner, none, ValueError, "at least one weight must exist")
    learner = OnlineLearner(CELLS["mingru"].load()(3, 4), Linear(2), SnAp(1), SGD(0.1), 1)
    refused(learner, {"weight_hh": np.ones((8, 4), bool)}, ValueError, "masks must name arrays of")


def test_memory_that_is_missing_leaves_the_learner_as_it_was(monkeypatch, scarce):
    learner = OnlineLearner(GRU(3, 4, seed=1), Linear(2), SnAp(2), Adam(0.01), 1)
    before, cell = everything(learner), learner.cell
    scarce(1000)
    with pytest.raises(MemoryError, match="must fit"):
        learner.rewire({"weight_hh": np.eye(4, dtype=bool).repeat(3, 0)})
    monkeypatch.undo()
    assert learner.cell is cell
    assert_same(everything(learner), before)


def test_a_thousand_rewires_leak_nothing():
    learner = OnlineLearner(GRU(2, 5, sparsity=0.5, seed=1), Linear(2), SnAp(2), SGD(0.1), 1)
    rng = np.random.default_rng(0)
    first = weakref.ref(learner.pattern)

    def rewire(times):
        for _ in range(times):
            learner.rewire({"weight_hh": rng.random((15, 5)) < 0.5})
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = rewire(100)
    assert first() is None
    assert rewire(1000) - before < 4096  # KiB


def test_a_rewired_learner_is_saved_and_copied(tmp_path):
    learner = OnlineLearner(GRU(3, 6, sparsity=0.5, seed=1), Linear(2), SnAp(2), Adam(0.01), 2)
    xs, ys = data(8, 2)
    learner.run(xs, ys)
    learner.rewire(masks_of(learner.cell, np.random.default_rng(1), 0.3))
    learner.save(tmp_path / "one")
    resumed = OnlineLearner.load(tmp_path / "one")
    assert_same(everything(resumed), everything(learner))
    np.testing.assert_array_equal(resumed.run(xs, ys), learner.run(xs, ys))
    assert_same(everything(resumed), everything(learner))
