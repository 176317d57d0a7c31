"""Stacks: layers exact across layers, against torch's own cells and dense recursions in NumPy."""

import copy
import pickle
from typing import Any

import numpy as np
import oracle
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsegrad import (
    BPTT,
    GRU,
    LIF,
    LSTM,
    MLP,
    RFLO,
    RNN,
    RTRL,
    SGD,
    UORO,
    Adam,
    Influence,
    LeakyRNN,
    Linear,
    MinGRU,
    OnlineLearner,
    SnAp,
    Stack,
    check_cell,
    reach,
)
from sparsegrad.influence.lowering import lower
from sparsegrad.influence.program import cut_work
from sparsegrad.kernels.influence.tables import FIRST_ROW
from sparsegrad.system.tensorfile import read_tensors, write_tensors

Learner: Any = OnlineLearner
NETS = {
    "GRU on GRU": ((GRU, 5), (GRU, 4)),
    "LSTM on GRU": ((GRU, 5), (LSTM, 4)),
    "three layers": ((LSTM, 3), (RNN, 5), (GRU, 4)),
}
INPUTS, OUTPUTS, STEPS = 3, 2, 6


def a_stack(net: str = "GRU on GRU", dtype: str = "float64", **settings: Any) -> Stack:
    width, cells = INPUTS, []
    for seed, (cls, units) in enumerate(NETS[net]):
        cells.append(cls(width, units, sparsity=0.5, seed=seed + 3, dtype=dtype))
        width = units
    return Stack(cells, **settings)


def some_data(rng: Any, batch: int, steps: int = STEPS) -> tuple[Any, Any]:
    xs = rng.standard_normal((steps, batch, INPUTS))
    return xs, rng.standard_normal((steps, batch, OUTPUTS))


def a_readout() -> Linear:
    return Linear(OUTPUTS, "squared_error", seed=7)


def as_torch(stack: Stack, learner: Any) -> dict[str, torch.Tensor]:
    return {k: torch.tensor(v, requires_grad=True) for k, v in learner.parameters().items()}


def torch_cell(cls: type, p: dict[str, torch.Tensor], x: Any, state: Any) -> Any:
    """One step of torch's own cell on these parameters."""
    functions = {
        GRU: torch._VF.gru_cell, LSTM: torch._VF.lstm_cell, RNN: torch._VF.rnn_tanh_cell,
    }  # fmt: skip
    return functions[cls](x, state, p["weight_ih"], p["weight_hh"], p["bias_ih"], p["bias_hh"])


def torch_gradient(
    stack: Stack, learner: Any, xs: Any, targets: Any, resets: Any
) -> tuple[float, dict[str, Any]]:
    """Loss and gradient by autograd through torch's own cells over the whole stream."""
    p = as_torch(stack, learner)
    cells = [
        {n.removeprefix(f"layer{k}."): v for n, v in p.items() if n.startswith(f"layer{k}.")}
        for k in range(len(stack.layers))
    ]
    batch = xs.shape[1]
    zeros = [torch.zeros(batch, layer.units, dtype=torch.float64) for layer in stack.layers]
    h, c = list(zeros), list(zeros)
    total: Any = 0.0
    for t in range(len(xs)):
        keep = torch.tensor(~resets[t])[:, None]
        h, c = [one * keep for one in h], [one * keep for one in c]
        old, reads = list(h), torch.tensor(xs[t])
        for k, layer in enumerate(stack.layers):
            state = (old[k], c[k]) if isinstance(layer, LSTM) else old[k]
            new = torch_cell(type(layer), cells[k], reads, state)
            h[k], c[k] = new if isinstance(layer, LSTM) else (new, c[k])
            reads = old[k] if stack.delay else h[k]
        y = h[-1] @ p["readout.weight"].T + p["readout.bias"]
        total = total + 0.5 * ((y - torch.tensor(targets[t])) ** 2).sum() / batch
    total.backward()
    masks = stack.masks()
    return total.item(), {
        name: (value.grad.numpy() if value.grad is not None else np.zeros(value.shape))
        * masks.get(name, 1)
        for name, value in p.items()
    }


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("delay", [False, True])
def test_bptt_rtrl_and_windows_equal_torch(net: str, delay: bool, rng: Any) -> None:
    stack, batch = a_stack(net, delay=delay), 3
    xs, targets = some_data(rng, batch)
    resets = np.zeros((STEPS, batch), bool)
    resets[2, 1] = True
    everything: Any = (BPTT(), RTRL(), RTRL(window=4), SnAp(3, window=STEPS), SnAp(20))
    for method in everything:
        learner = Learner(stack, a_readout(), method, SGD(0.1), batch, threads=1)
        expected_loss, expected = torch_gradient(stack, learner, xs, targets, resets)
        loss, found = learner.gradient(xs, targets, resets=resets)
        assert loss == pytest.approx(expected_loss, abs=1e-12)
        assert found.keys() == expected.keys()
        for name, grad in expected.items():
            np.testing.assert_allclose(found[name], grad, atol=1e-10, err_msg=f"{method} {name}")
            assert abs(grad).max() > 0, name  # every layer learns


@pytest.mark.compiled
@pytest.mark.parametrize("batch", [1, 5])
def test_streams_alone_and_abreast_equal_torch(batch: int, rng: Any) -> None:
    stack = a_stack("LSTM on GRU")
    xs, targets = some_data(rng, batch)
    learner = Learner(stack, a_readout(), BPTT(), SGD(0.1), batch)
    resets = np.zeros((STEPS, batch), bool)
    _, expected = torch_gradient(stack, learner, xs, targets, resets)
    _, found = learner.gradient(xs, targets)
    for name, grad in expected.items():
        np.testing.assert_allclose(found[name], grad, atol=1e-10, err_msg=name)


def oracle_of(stack: Stack, n: int | None) -> tuple[list[str], dict, dict, np.ndarray]:
    kinds = [type(layer).__name__ for layer in stack.layers]
    p, masks = stack.to_dense(), stack.masks()
    units = [layer.units for layer in stack.layers]
    kept = oracle.stack_patterns(
        kinds, p, masks, units, INPUTS, stack.delay, stack.across, n
    )  # fmt: skip
    return kinds, p, masks, kept


CASES = [
    ("GRU on GRU", SnAp(2), {}),
    ("GRU on GRU", SnAp(3), {"delay": True}),
    ("GRU on GRU", SnAp(1), {"across": False}),
    ("three layers", SnAp(1), {"across": False}),
    ("LSTM on GRU", SnAp(2), {"across": False}),
    ("LSTM on GRU", SnAp(2), {}),
    ("three layers", SnAp(3), {}),
    ("three layers", RTRL(), {"across": False}),
    ("three layers", RTRL(), {}),
    ("LSTM on GRU", SnAp(1, window=3), {}),
    ("GRU on GRU", SnAp(2, window=3), {"across": False}),
    ("three layers", SnAp(2, window=3), {}),
    ("GRU on GRU", SnAp(2, window=2), {"delay": True}),
]


@pytest.mark.parametrize(("net", "method", "settings"), CASES, ids=map(str, CASES))
def test_online_runs_equal_the_dense_masked_recursion(
    net: str, method: Any, settings: dict[str, bool], rng: Any
) -> None:
    stack, batch = a_stack(net, **settings), 4 if method == SnAp(1) else 2  # abreast, alone
    xs, targets = some_data(rng, batch)
    resets = np.zeros((STEPS, batch), bool)
    resets[3 if method.window == 3 else 2, 1] = True
    kinds, p, masks, kept = oracle_of(stack, getattr(method, "n", None))
    learner = Learner(stack, a_readout(), method, SGD(0.3), batch, threads=1)
    start = {k: v for k, v in learner.parameters().items() if k.startswith("readout")}
    losses, expected = oracle.stack(
        kinds, p | start, masks, xs, targets, kept, stack.delay, stack.across,
        window=method.window or 1, rate=0.3, resets=resets,
    )  # fmt: skip
    np.testing.assert_allclose(learner.run(xs, targets, resets=resets), losses, atol=1e-10)
    for name, value in learner.parameters().items():
        np.testing.assert_allclose(value, expected[name], atol=1e-10, err_msg=name)


@pytest.mark.parametrize("settings", [{}, {"delay": True}, {"across": False}], ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, None])
def test_n_counts_the_maps_crossed_within_a_step_too(
    n: int | None, settings: dict[str, bool]
) -> None:
    stack = a_stack("three layers", **settings)
    method: Any = RTRL() if n is None else SnAp(n, window=2)
    pattern = Learner(stack, a_readout(), method, SGD(0.1)).pattern
    kept = oracle_of(stack, n)[3]
    names = oracle.existing(stack.masks())
    sizes = [layer.states for layer in stack.layers]
    order = np.concatenate([np.arange(sum(sizes[:k]), sum(sizes[: k + 1])) for k in (2, 1, 0)])
    ours = dict.fromkeys(names)
    for name, (weight, place) in stack.places.items():
        ours |= {(name, at): w for w, at in zip(weight, place, strict=True)}
    found = pattern.to_scipy().toarray()[[ours[key] for key in names]].T
    np.testing.assert_array_equal(found, kept[order])


def test_layers_apart_learn_as_single_learners_do(rng: Any) -> None:
    """J that keeps to its layer, one layer high, is a learner of that cell alone."""
    cell = GRU(INPUTS, 5, sparsity=0.5, dtype="float64")
    xs, targets = some_data(rng, 2)
    for method in (SnAp(2), BPTT()):
        one, other = (
            Learner(c, a_readout(), method, Adam(0.1), 2)
            for c in (cell.astype("float64"), Stack([cell], across=False))
        )
        np.testing.assert_allclose(one.run(xs, targets), other.run(xs, targets), atol=1e-12)


@st.composite
def leveled(draw: Any) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    units, weights = draw(st.integers(2, 24)), draw(st.integers(1, 60))
    levels = rng.integers(0, draw(st.integers(1, 4)), units)
    dynamics = rng.random((units, units)) < draw(st.floats(0.02, 0.4))
    immediate = np.zeros((units, weights), bool)
    immediate[rng.integers(0, units, weights), np.arange(weights)] = True
    return levels, dynamics, immediate, rng


@given(leveled(), st.sampled_from([1, 2, 3, None]), st.integers(1, 2))
def test_influence_by_levels_equals_the_dense_masked_recursion(
    net: Any, n: int | None, batch: int
) -> None:
    levels, dynamics, immediate, rng = net
    pattern = reach(dynamics, immediate, n, levels=levels)
    kept = oracle.reach(dynamics, immediate, n)
    np.testing.assert_array_equal(pattern.to_scipy().toarray().T, kept)
    influence = Influence(pattern, batch, "float64", threads=1)
    J = np.zeros((batch, *kept.shape))
    fresh = levels[:, None] > levels
    for _ in range(3):
        D = rng.standard_normal((batch, *dynamics.shape)) * dynamics
        direct = rng.standard_normal((batch, *immediate.shape)) * immediate
        delta = rng.standard_normal((batch, levels.size))
        for b in range(batch):
            old, J[b] = J[b].copy(), 0
            for level in range(levels.max() + 1):
                now = direct[b] + (D[b] * ~fresh) @ old + (D[b] * fresh) @ J[b]
                J[b][levels == level] = np.where(kept, now, 0)[levels == level]
        grad = influence.update_and_contract(
            np.stack([one[dynamics] for one in D]),
            np.stack([one.T[immediate.T] for one in direct]),
            delta,
        )
        for b in range(batch):
            np.testing.assert_allclose(influence.to_scipy(b).toarray(), J[b], atol=1e-10)
        expected = sum(one.T @ by for one, by in zip(J, delta, strict=True))
        np.testing.assert_allclose(grad, expected, atol=1e-10)


@pytest.mark.parametrize("storage", ["bfloat16", "float16"])
def test_influence_by_levels_goes_in_16_bits(storage: str, rng: Any) -> None:
    levels = np.repeat([1, 0, 2], [8, 6, 7])
    dynamics, immediate = rng.random((21, 21)) < 0.3, np.zeros((21, 40), bool)
    immediate[rng.integers(0, 21, 40), np.arange(40)] = True
    pattern = reach(dynamics, immediate, 2, levels=levels)
    exact, stored = (Influence(pattern, 1, "float32", storage=kept) for kept in (None, storage))
    for _ in range(5):
        D = 0.3 * rng.standard_normal(pattern.dynamics_indices.size).astype("f4")
        direct = rng.standard_normal(40).astype("f4")
        delta = rng.standard_normal((1, 21)).astype("f4")
        one, other = (i.update_and_contract(D, direct, delta) for i in (exact, stored))
        np.testing.assert_allclose(other, one, atol=0.03 * abs(one).max())


def test_threads_get_all_stages_of_a_panel(rng: Any) -> None:
    levels = np.repeat([0, 1, 2], 40)
    pattern = reach(rng.random((120, 120)) < 0.1, np.eye(120), 3, levels=levels)
    program = lower(pattern)
    first = program.panels[:-1, FIRST_ROW]
    assert 0 < np.count_nonzero(first) < first.size
    for threads in range(2, 9):
        cuts = cut_work(program, 1000, threads)
        assert cuts.size == threads + 1
        assert not first[cuts[:-1]].any()
        assert (np.diff(cuts) > 0).all()


@pytest.mark.compiled
def test_any_cell_goes_on_any_other(rng: Any) -> None:
    """Kinds of a formula of their own, of several components: RTRL is BPTT, in all parameters."""
    cells = [
        LeakyRNN(INPUTS, 5, sparsity=0.5, dtype="float64"),
        LIF(5, 6, sparsity=0.5, seed=1, dtype="float64"),
        MinGRU(6, 4, sparsity=0.5, seed=2, dtype="float64"),
    ]
    stack = Stack(cells)
    xs, targets = some_data(rng, 1, 12)
    grads = [
        Learner(stack, a_readout(), method, SGD(0.1)).gradient(3 * xs, targets)[1]
        for method in (BPTT(), RTRL(), RTRL(window=5))
    ]
    for name, exact in grads[0].items():
        for grad in grads[1:]:
            np.testing.assert_allclose(grad[name], exact, atol=1e-10, err_msg=name)
    assert any(abs(exact).max() > 0 for name, exact in grads[0].items() if "layer0" in name)


@pytest.mark.compiled
@pytest.mark.parametrize("method", [SnAp(1), SnAp(2), RTRL(window=3), BPTT(4)], ids=str)
def test_no_bit_depends_on_calls_copies_or_files(method: Any, rng: Any, tmp_path: Any) -> None:
    xs, targets = some_data(rng, 2, 20)

    def a_learner() -> Any:
        stack = a_stack("LSTM on GRU", across=method != SnAp(1))
        readout = MLP(4, OUTPUTS, "squared_error")
        return Learner(stack, readout, method, Adam(0.01), 2, threads=1)

    whole = a_learner()
    whole.run(xs, targets)
    parts = a_learner()
    parts.run(xs[:7], targets[:7])
    parts.save(tmp_path / "learner.safetensors")
    loaded = Learner.load(tmp_path / "learner.safetensors")
    assert repr(loaded.cell) == repr(parts.cell)
    given = Learner.load(tmp_path / "learner.safetensors", parts.cell.astype("float64"))
    copied, pickled = copy.deepcopy(parts), pickle.loads(pickle.dumps(parts))
    for learner in (parts, loaded, given, copied, pickled):
        learner.run(xs[7:], targets[7:])
        for name, value in whole.parameters().items():
            np.testing.assert_array_equal(learner.parameters()[name], value, err_msg=name)
        np.testing.assert_array_equal(learner.state, whole.state)


def test_the_layers_hold_the_weights_that_are_trained(rng: Any) -> None:
    stack = a_stack()
    before = [layer.weights.copy() for layer in stack.layers]
    learner = Learner(stack, a_readout(), BPTT(3), SGD(0.1), 1)
    xs, targets = some_data(rng, 1, 3)
    learner.run(xs, targets)
    after = np.concatenate([layer.weights for layer in stack.layers])
    np.testing.assert_array_equal(after, stack.weights)
    for old, layer in zip(before, stack.layers, strict=True):
        assert (old != layer.weights).any()
    upper, lower = stack.split(learner.state)[::-1]
    assert upper.shape == (1, 1, 4)
    assert lower.shape == (1, 1, 5)
    np.testing.assert_array_equal(
        learner.predict(xs[:1])[0], learner.run(xs[:1], targets[:1], outputs=True)[1][0]
    )


@pytest.mark.compiled
@pytest.mark.parametrize("method", [SnAp(1), SnAp(2)], ids=str)
def test_rewire_keeps_what_both_masks_have(method: Any, rng: Any) -> None:
    stack = a_stack(across=method.n > 1)
    learner = Learner(stack, a_readout(), method, Adam(0.05), 1)
    xs, targets = some_data(rng, 1, 12)
    learner.run(xs[:6], targets[:6])
    masks = {"layer1.weight_hh": ~stack.masks()["layer1.weight_hh"]}
    before = learner.parameters()
    learner.rewire(masks)
    after = learner.parameters()
    for name, value in before.items():
        if name != "layer1.weight_hh":
            np.testing.assert_array_equal(after[name], value)
    assert not after["layer1.weight_hh"].any()
    assert np.isfinite(learner.run(xs[6:], targets[6:])).all()
    assert after["layer1.weight_hh"].shape == learner.parameters()["layer1.weight_hh"].shape
    assert learner.parameters()["layer1.weight_hh"][masks["layer1.weight_hh"]].all()


@pytest.mark.parametrize(
    ("make", "error", "line"),
    [
        (lambda: Stack([]), ValueError, "at least one cell, got none"),
        (lambda: Stack(GRU(3, 4)), TypeError, "cells must be a list of cells, got GRU"),
        (lambda: Stack([GRU(3, 4), 5]), TypeError, "got 5 at place 1"),
        (lambda: Stack([GRU(3, 4), GRU(5, 4)]), ValueError, "must take the 4 units of layer 0"),
        (lambda: Stack([GRU(3, 4), GRU(4, 4, dtype="float64")]), TypeError, "float32 as layer 0"),
        (lambda: Stack([GRU(3, 4)], delay=1), TypeError, "delay must be True or False, got 1"),
        (
            lambda: Stack([GRU(3, 4)], delay=True, across=False),
            ValueError,
            "across must be True with delay",
        ),
        (lambda: a_stack().rewire({"weight_hh": None}), ValueError, "must name arrays of the st"),
        (lambda: check_cell(a_stack()), TypeError, "kind must be a CellKind, such as GRU.kind"),
        (lambda: check_cell(GRU), TypeError, "kind must be a CellKind, such as GRU.kind"),
        (lambda: a_stack().split(np.zeros((1, 9))), ValueError, "state must have shape .batch, 1"),
        (lambda: Stack([a_stack()]), TypeError, "cells must be cells such as GRU"),
        (lambda: learn(SnAp(1)), ValueError, "n must be at least 2, the layers .* across=False"),
        (lambda: learn(RFLO()), TypeError, "RFLO must have one cell, got a stack of 2"),
        (lambda: learn(UORO(0)), TypeError, "UORO must have one cell, got a stack of 2"),
        (lambda: learn(BPTT(4, update_every=1)), TypeError, "rolling BPTT must have one cell"),
        (lambda: learn(SnAp(2, memory="1MiB")), TypeError, "a budget of memory must have one cell"),
        (lambda: learn(RTRL()).probe(*probed()), TypeError, "probe must have one cell"),
        (
            lambda: reach(np.eye(3), np.eye(3), 1, levels=[0, -1, 0]),
            ValueError,
            "levels must be a number of at least 0 for each of 3 units",
        ),
        (lambda: reach(np.eye(3), np.eye(3), 1, levels=[0.5] * 3), TypeError, "of integers"),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, error: type[Exception], line: str) -> None:
    with pytest.raises(error, match=line) as raised:
        make()
    assert "\n" not in str(raised.value)


def learn(method: Any) -> Any:
    return Learner(a_stack(), a_readout(), method, SGD(0.1))


def probed() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((1, INPUTS)), np.zeros((1, OUTPUTS))


@pytest.mark.compiled
def test_a_pattern_with_levels_is_saved_and_loaded(tmp_path: Any) -> None:
    pattern = reach(np.tri(4), np.eye(4), 2, levels=[0, 0, 1, 1])
    pattern.save(tmp_path / "pattern.safetensors")
    loaded = type(pattern).load(tmp_path / "pattern.safetensors")
    np.testing.assert_array_equal(loaded.levels, [0, 0, 1, 1])
    plain = reach(sp.csr_array(np.tri(4)), np.eye(4), 2)
    plain.save(tmp_path / "plain.safetensors")
    assert type(pattern).load(tmp_path / "plain.safetensors").levels is None


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"inputs": 5}, "cell.inputs must be that of its layers, 3, got 5"),
        ({"across": 1}, "cell.across must be true or false, got 1"),
        ({"layers": []}, "at least one cell, got none"),
        ({"layers": [{"kind": "Stack"}] * 2}, "cell.layers.0. must be a record of"),
        ({"delay": True, "across": False}, "across must be True with delay"),
    ],
)
def test_a_file_that_lies_about_its_layers_is_refused(
    change: dict[str, Any], line: str, tmp_path: Any
) -> None:
    path = tmp_path / "learner.safetensors"
    learn(SnAp(2)).save(path)
    tensors, about = read_tensors(path)
    about["cell"] |= change
    write_tensors(path, tensors, about)
    with pytest.raises(ValueError, match=line) as raised:
        Learner.load(path)
    assert "\n" not in str(raised.value)
