"""Gradients to the last digit, in float64: against torch, against NumPy, and among the methods."""

from typing import Any

import numpy as np
import oracle
import pytest
from numba import njit

from sparsegrad import registry
from sparsegrad.cells import GRU, LSTM, RNN, Cell, CellKind, Map
from sparsegrad.cells.jacobians import dynamics_pattern, immediate_pattern, own_pattern
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import SGD
from sparsegrad.learning.readout import MLP, Linear
from sparsegrad.methods import BPTT, RFLO, RTRL, UORO, Method, SnAp
from sparsegrad.methods.snap import InfluenceEngine
from sparsegrad.symbolic.pattern import reach

CELLS = [RNN, GRU, LSTM]  # those that torch and the oracle know
ALL = [row.load() for row in registry.CELLS.values()]
STEPS, BATCH, INPUTS, UNITS, OUTPUTS = 20, 3, 4, 9, 5


def a_cell(cls: type[Cell], units: int = UNITS, seed: int = 1, **options: Any) -> Cell:
    """Make a sparse cell whose biases are random too."""
    options.setdefault("sparsity", 0.6)
    cell = cls(INPUTS, units, seed=seed, dtype="float64", **options)
    dense = cell.to_dense()
    rng = np.random.default_rng(seed)
    for bias in [name for name in ("bias_ih", "bias_hh") if name in dense]:
        dense[bias] = rng.standard_normal(dense[bias].shape) * 0.5
    return cls.from_dense(**dense, masks=cell.masks())


def data(steps: int = STEPS, batch: int = BATCH) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return (
        rng.standard_normal((steps, batch, INPUTS)),
        rng.integers(0, OUTPUTS, (steps, batch)),
        rng.standard_normal((steps, batch, OUTPUTS)),
    )


def gradient(
    cell: Cell, method: Method, xs: np.ndarray, targets: np.ndarray, readout: Any = None
) -> tuple[float, dict[str, np.ndarray]]:
    readout = readout or Linear(OUTPUTS, seed=2)
    learner = OnlineLearner(cell, readout, method, SGD(0.1), batch=xs.shape[1])
    return learner.gradient(xs, targets)


def assert_same(ours: dict[str, Any], theirs: dict[str, Any], tolerance: float = 1e-10) -> None:
    """Every tensor by itself, relative to its largest entry, and alive wherever theirs is."""
    assert ours.keys() == theirs.keys()
    for name, reference in theirs.items():
        size = np.abs(reference).max()
        assert size > 1e-4, name
        assert np.abs(ours[name] - reference).max() <= tolerance * size, name
        assert (ours[name][np.abs(reference) > tolerance * size] != 0).all(), name


def torch_gradient(
    cell: Cell, readout: dict[str, np.ndarray], xs: np.ndarray, targets: np.ndarray, loss: str
) -> tuple[float, dict[str, np.ndarray]]:
    """Return loss and gradient by torch.autograd on torch.nn's own cell, masked afterwards."""
    torch = pytest.importorskip("torch", reason="torch is not installed: it is the oracle here")
    theirs = getattr(torch.nn, type(cell).__name__ + "Cell")(cell.inputs, cell.units).double()
    with torch.no_grad():
        for name, values in cell.to_dense().items():
            getattr(theirs, name).copy_(torch.tensor(values))
    parameters = {n: torch.tensor(v, requires_grad=True) for n, v in readout.items()}
    state = None
    total = torch.zeros((), dtype=torch.float64)
    for x, target in zip(torch.tensor(xs), torch.tensor(targets), strict=True):
        state = theirs(x, state)
        h = state[0] if isinstance(state, tuple) else state
        if "readout.hidden_weight" in parameters:
            hidden = parameters["readout.hidden_weight"], parameters["readout.hidden_bias"]
            h = torch.relu(h @ hidden[0].T + hidden[1])
        y = h @ parameters["readout.weight"].T + parameters["readout.bias"]
        if loss == "cross_entropy":
            part = torch.nn.functional.cross_entropy(y, target, reduction="sum")
        elif loss == "squared_error":
            part = 0.5 * ((y - target) ** 2).sum()
        elif loss == "huber":
            part = torch.nn.functional.huber_loss(y, target, reduction="sum")
        elif loss == "poisson":
            part = torch.nn.functional.poisson_nll_loss(y, target, reduction="sum")
        else:
            part = torch.nn.functional.binary_cross_entropy_with_logits(y, target, reduction="sum")
        total = total + part / x.shape[0]
    total.backward()
    masks = cell.masks()
    grads = {n: getattr(theirs, n).grad.numpy() * masks[n] for n in masks}
    return total.item(), grads | {n: v.grad.numpy() for n, v in parameters.items()}


@pytest.mark.parametrize("gate_masks", ["independent", "shared"])
@pytest.mark.parametrize("cls", CELLS)
def test_rtrl_equals_bptt_equals_torch(cls: type[Cell], gate_masks: str) -> None:
    cell = a_cell(cls, gate_masks=gate_masks)
    xs, classes, _ = data()
    readout = Linear(OUTPUTS, "cross_entropy", seed=2)
    dense = readout.parameters(UNITS, np.dtype("float64")).to_dense()
    loss, expected = torch_gradient(cell, dense, xs, classes, "cross_entropy")
    for method in (RTRL(), BPTT()):
        found, grads = gradient(cell, method, xs, classes, readout)
        assert_same(grads, expected)
        np.testing.assert_allclose(found, loss, rtol=1e-12)


@pytest.mark.parametrize(
    "loss", ["cross_entropy", "squared_error", "binary_cross_entropy", "huber", "poisson"]
)
@pytest.mark.parametrize("hidden", [0, 7])
def test_readouts_equal_torch(loss: str, hidden: int) -> None:
    cell = a_cell(GRU)
    xs, classes, values = data()
    targets = (values > 0) * 1.0
    if loss in ("squared_error", "huber", "cross_entropy"):
        targets = classes if loss == "cross_entropy" else values
    readout: Any = MLP(hidden, OUTPUTS, loss, seed=2) if hidden else Linear(OUTPUTS, loss, seed=2)
    dense = readout.parameters(UNITS, np.dtype("float64")).to_dense()
    expected_loss, expected = torch_gradient(cell, dense, xs, targets, loss)
    for method in (RTRL(), BPTT()):
        found, grads = gradient(cell, method, xs, targets, readout)
        assert_same(grads, expected)
        np.testing.assert_allclose(found, expected_loss, rtol=1e-12)


def test_rtrl_equals_bptt_on_a_relu_cell() -> None:
    dense = a_cell(RNN).to_dense()
    cell = RNN.from_dense(**dense, nonlinearity="relu")
    xs, _, values = data()
    assert_same(gradient(cell, RTRL(), xs, values)[1], gradient(cell, BPTT(), xs, values)[1])


@pytest.mark.compiled
@pytest.mark.parametrize("cls", ALL)
def test_rtrl_equals_bptt_in_float32(cls: type[Cell]) -> None:
    cell = a_cell(cls)
    single = cls.from_dense(
        **{n: v.astype(np.float32) for n, v in cell.to_dense().items()}, masks=cell.masks()
    )
    xs, classes, _ = data()
    readout = Linear(OUTPUTS, "cross_entropy", seed=2)
    exact = gradient(cell, BPTT(), xs, classes, readout)[1]
    for method in (RTRL(), BPTT(), SnAp(UNITS)):
        grads = gradient(single, method, xs.astype(np.float32), classes, readout)[1]
        assert all(g.dtype == np.float32 for g in grads.values())
        assert_same(grads, exact, tolerance=2e-4)


@pytest.mark.parametrize("cls", ALL)
def test_snap_equals_rtrl_once_saturated(cls: type[Cell]) -> None:
    cell = a_cell(cls)
    xs, _, values = data()
    exact = gradient(cell, RTRL(), xs, values)[1]
    saturating = OnlineLearner(cell, Linear(OUTPUTS), RTRL(), SGD(0.1)).pattern.n
    assert_same(gradient(cell, SnAp(saturating), xs, values)[1], exact, tolerance=1e-14)
    if saturating > 1:  # a diagonal cell is exact at once
        assert saturating > 2
        short = gradient(cell, SnAp(1), xs, values)[1]
        assert max(np.abs(short[name] - exact[name]).max() for name in exact) > 1e-9


@pytest.mark.compiled
@pytest.mark.parametrize("cls", ALL)
def test_snap_two_equals_rtrl_on_a_dense_net(cls: type[Cell]) -> None:
    cell = a_cell(cls, sparsity=0.0)
    xs, _, values = data()
    exact = gradient(cell, RTRL(), xs, values)[1]
    assert_same(gradient(cell, SnAp(2), xs, values)[1], exact, tolerance=1e-14)


def oracle_of(cell: Cell, n: int | None) -> tuple[str, dict, dict, np.ndarray]:
    """Kind, parameters and masks for the oracle, and the pattern of SnAp-n by its own reach."""
    kind, masks = type(cell).__name__, cell.masks()
    readout = Linear(OUTPUTS, seed=2).parameters(cell.units, np.dtype("float64"))
    p = cell.to_dense() | readout.to_dense()
    rng = np.random.default_rng(0)
    state = rng.standard_normal((cell.kind.components, cell.units))
    D, immediate, _ = oracle.cell_jacobians(
        kind, p, oracle.existing(masks), state, rng.standard_normal(cell.inputs)
    )
    return kind, p, masks, oracle.reach(D, immediate, n)


@pytest.mark.parametrize("method", [SnAp(1), SnAp(2), SnAp(3), RFLO()], ids=str)
@pytest.mark.parametrize("cls", CELLS)
def test_approximations_equal_the_dense_masked_recursion(cls: type[Cell], method: Any) -> None:
    cell = a_cell(cls, units=6)
    xs, _, values = data(steps=8, batch=2)
    xs[:, :, 1] = 0  # an input that is 0 must not wipe the influence of its weights
    xs[0, :, 1] = 1
    kind, p, masks, kept = oracle_of(cell, getattr(method, "n", 1))
    _, _, expected = oracle.online(
        kind, p, masks, xs, values, kept, leak_only=isinstance(method, RFLO)
    )
    grads = gradient(cell, method, xs, values)[1]
    assert_same(grads, expected, tolerance=1e-12)
    exact = gradient(cell, BPTT(), xs, values)[1]
    if getattr(method, "n", 1) < 3:
        assert np.abs(grads["weight_hh"] - exact["weight_hh"]).max() > 1e-6


@njit
def three_parts(state, pre, new_state, d_state, d_pre):  # type: ignore[no-untyped-def]
    """Three components, two maps: h' = tanh(a) + p q, p' = p/2 + b, q' = q/4 + sin(a) p."""
    for i in range(state.shape[1]):
        p, q, y = state[1, i], state[2, i], np.tanh(pre[0, i])
        new_state[0, i] = y + p * q
        new_state[1, i] = 0.5 * p + pre[1, i]
        new_state[2, i] = 0.25 * q + np.sin(pre[0, i]) * p
        d_state[0, 1, i], d_state[0, 2, i] = q, p
        d_state[1, 1, i] = 0.5
        d_state[2, 1, i], d_state[2, 2, i] = np.sin(pre[0, i]), 0.25
        d_pre[0, 0, i], d_pre[2, 0, i] = 1 - y * y, np.cos(pre[0, i]) * p
        d_pre[1, 1, i] = 1


class ThreeParts(Cell):
    kind = CellKind(
        update=three_parts,
        maps=(Map(), Map()),
        components=3,
        state_partials=((0, 1), (0, 2), (1, 1), (2, 1), (2, 2)),
        map_partials=((0, 0), (2, 0), (1, 1)),
    )


@njit
def three_at_once(state, pre, new_state, d_state, d_pre):  # type: ignore[no-untyped-def]
    """Three components under one map: h' = tanh(a) + q, p' = h/2 + a, q' = p/4 + sin(a)."""
    for i in range(state.shape[1]):
        y, a = np.tanh(pre[0, i]), pre[0, i]
        new_state[0, i] = y + state[2, i]
        new_state[1, i] = 0.5 * state[0, i] + a
        new_state[2, i] = 0.25 * state[1, i] + np.sin(a)
        d_state[0, 2, i], d_state[1, 0, i], d_state[2, 1, i] = 1, 0.5, 0.25
        d_pre[0, 0, i], d_pre[1, 0, i], d_pre[2, 0, i] = 1 - y * y, 1, np.cos(a)


class ThreeAtOnce(Cell):
    kind = CellKind(
        update=three_at_once,
        maps=(Map(),),
        components=3,
        state_partials=((0, 2), (1, 0), (2, 1)),
        map_partials=((0, 0), (1, 0), (2, 0)),
    )


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("cls", [*ALL, ThreeParts, ThreeAtOnce])
def test_the_traces_of_snap_one_equal_the_influence_of_reach_one(
    cls: type[Cell], batch: int
) -> None:
    """SnAp-1 has kernels of its own; the panels of the pattern of n = 1 must agree."""
    cell = cls(INPUTS, UNITS, sparsity=0.6, seed=1, dtype="float64")
    xs, _, values = data(batch=batch)
    found = gradient(cell, SnAp(1), xs * 0.5, values)[1]
    learner = OnlineLearner(cell, Linear(OUTPUTS, seed=2), RTRL(), SGD(0.1), batch=batch)
    own = own_pattern(cell)
    assert (own is None) == (cls.__name__ not in ("ALIF", "LRU", "ThreeParts"))
    pattern = reach(dynamics_pattern(cell)[0], immediate_pattern(cell), 1, own=own)
    learner._engine = InfluenceEngine(cell, pattern, batch, 1)
    assert_same(found, learner.gradient(xs * 0.5, values)[1], tolerance=1e-12)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("cls", "kept"), [(RNN, 0), (LSTM, 3)])
def test_no_trace_of_h_is_kept_where_no_unit_reads_itself(
    cls: type[Cell], kept: int, batch: int
) -> None:
    hollow = np.tile(~np.eye(UNITS, dtype=bool), (1 if cls is RNN else 4, 1))
    cell = a_cell(cls, sparsity=0.0, masks={"weight_hh": hollow})
    learner = OnlineLearner(cell, Linear(OUTPUTS), SnAp(1), SGD(0.1), batch=batch)
    row = UNITS - 1 + INPUTS + 2  # two biases
    lanes = 16 if batch == 1 else row * 8  # 14 weights fill two vectors of 8
    assert learner._engine.state()["traces"].size == kept * UNITS * lanes
    xs, _, values = data(batch=batch)
    pattern = reach(dynamics_pattern(cell)[0], immediate_pattern(cell), 1)
    by_panels = OnlineLearner(cell, Linear(OUTPUTS, seed=2), RTRL(), SGD(0.1), batch=batch)
    by_panels._engine = InfluenceEngine(cell, pattern, batch, 1)
    found = gradient(cell, SnAp(1), xs * 0.5, values)[1]
    assert_same(found, by_panels.gradient(xs * 0.5, values)[1], tolerance=1e-12)


@pytest.mark.parametrize(("every", "batch"), [(1, 2), (3, 2), (5, 2), (5, 3)])
@pytest.mark.parametrize("method", [SnAp(1), SnAp(2), RTRL(), RFLO()], ids=str)
@pytest.mark.parametrize("cls", CELLS)
def test_online_runs_equal_the_same_recursion_in_numpy(
    cls: type[Cell], method: Any, every: int, batch: int
) -> None:
    cell = a_cell(cls, units=5)
    xs, _, values = data(steps=9, batch=batch)
    resets = np.zeros((9, batch), bool)
    resets[2, 0] = resets[4, 1] = True
    kind, p, masks, kept = oracle_of(cell, None if method == RTRL() else getattr(method, "n", 1))
    losses, expected, _ = oracle.online(
        kind,
        p,
        masks,
        xs,
        values,
        kept,
        rate=0.1,
        every=every,
        leak_only=isinstance(method, RFLO),
        resets=resets,
    )
    learner = OnlineLearner(
        cell, Linear(OUTPUTS, seed=2), method, SGD(0.1), batch=batch, update_every=every
    )
    found = learner.run(xs, values, resets=resets)
    np.testing.assert_allclose(found, losses, rtol=1e-11)
    assert_same(learner.parameters(), expected, tolerance=1e-11)
    assert np.abs(expected["weight_hh"] - p["weight_hh"]).max() > 1e-3


@pytest.mark.parametrize("cls", CELLS)
def test_snap_one_is_exact_for_block_diagonal_recurrence(cls: type[Cell]) -> None:
    gates = {RNN: 1, GRU: 3, LSTM: 4}[cls]
    own = {"weight_hh": np.tile(np.eye(UNITS, dtype=bool), (gates, 1))}
    xs, _, values = data()
    cell = a_cell(cls, masks=own)
    exact = gradient(cell, BPTT(), xs, values)[1]
    # a weight of the LSTM's output gate writes h alone and needs one hop more to reach c
    reached = SnAp(2 if cls is LSTM else 1)
    assert_same(gradient(cell, reached, xs, values)[1], exact)
    blocks = np.kron(np.eye(3, dtype=bool), np.ones((3, 3), bool))
    cell = a_cell(cls, masks={"weight_hh": np.tile(blocks, (gates, 1))})
    exact = gradient(cell, BPTT(), xs, values)[1]
    assert_same(gradient(cell, SnAp(2), xs, values)[1], exact)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("cls", CELLS)
def test_the_first_n_steps_are_exact(cls: type[Cell], n: int) -> None:
    cell = a_cell(cls, sparsity=0.8)
    xs, _, values = data(steps=n + 1)
    weights = np.zeros((n + 1, BATCH))
    for last in range(n + 1):
        weights[:] = 0
        weights[last] = 1
        grads = []
        for method in (SnAp(n), BPTT()):
            learner = OnlineLearner(cell, Linear(OUTPUTS, seed=2), method, SGD(0.1), batch=BATCH)
            grads.append(learner.gradient(xs, values, weights=weights)[1])
        error = np.abs(grads[0]["weight_ih"] - grads[1]["weight_ih"]).max()
        assert error < 1e-14 if last < n else error > 1e-9


@pytest.mark.compiled
@pytest.mark.parametrize("cls", CELLS)
def test_uoro_is_unbiased(cls: type[Cell]) -> None:
    draws, groups = 1000, 30
    cell = a_cell(cls, units=4)
    xs, _, values = data(steps=6, batch=1)
    exact = gradient(cell, RTRL(), xs, values)[1]
    repeated = np.repeat(xs, draws, axis=1), np.repeat(values, draws, axis=1)
    means = [gradient(cell, UORO(seed), *repeated)[1] for seed in range(groups)]
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        samples = np.array([mean[name] for mean in means])
        error = samples.mean(axis=0) - exact[name]
        spread = samples.std(axis=0, ddof=1) / np.sqrt(groups)
        lively = spread > 0
        score = error[lively] / spread[lively]
        assert np.abs(error[~lively]).max(initial=0) < 1e-12, name
        assert np.abs(score).max() < 5, name  # up to 64 entries, 29 degrees of freedom
        assert np.sqrt((score**2).mean()) < 1.6, name
        assert spread.max() < 0.1 * np.abs(exact[name]).max(), name
