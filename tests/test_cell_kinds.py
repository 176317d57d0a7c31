"""Cells beside RNN, GRU and LSTM: exact gradients against torch's, and what is known of each."""

import numpy as np
import oracle
import pytest

from sparsegrad.cells import (
    ALIF,
    LIF,
    LRU,
    LTC,
    AdaptiveNeuron,
    Cell,
    CfC,
    IndRNN,
    LeakyRNN,
    MinGRU,
    Neuron,
    PeepholeLSTM,
)
from sparsegrad.cells.jacobians import dynamics_pattern, immediate_pattern, own_pattern
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import SGD
from sparsegrad.learning.readout import Linear
from sparsegrad.methods import BPTT, RFLO, RTRL, SnAp

torch = pytest.importorskip("torch", reason="torch is not installed: it is the oracle here")
INPUTS, UNITS, OUTPUTS, STEPS, BATCH = 3, 5, 2, 12, 3


class Spike(torch.autograd.Function):
    """1 above 0, with a triangle of height `slope` as its derivative."""

    @staticmethod
    def forward(ctx, x, slope):
        ctx.save_for_backward(x)
        ctx.slope = slope
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * ctx.slope * torch.relu(1 - x.abs()), None


def leaky(cell, a, s):
    return ((1 - cell.leak) * s[0] + cell.leak * torch.tanh(a[0]),)


def independent(cell, a, s):
    return (torch.relu(a[0] + a[1] * s[0]),)


def minimal(cell, a, s):
    z = torch.sigmoid(a[0])
    return ((1 - z) * s[0] + z * a[1],)


def liquid(cell, a, s):
    f = torch.sigmoid(a[0])
    return ((s[0] + f * a[1]) / (1 + torch.exp(a[2]) + f),)


def closed_form(cell, a, s):
    gate = torch.sigmoid(-a[0])
    return (gate * torch.tanh(a[1]) + (1 - gate) * torch.tanh(a[2]),)


def peepholes(cell, a, s):
    i, f = torch.sigmoid(a[0] + a[4] * s[1]), torch.sigmoid(a[1] + a[5] * s[1])
    c = f * s[1] + i * torch.tanh(a[2])
    return torch.sigmoid(a[3] + a[6] * c) * torch.tanh(c), c


def integrate_and_fire(cell, a, s):
    c = cell.neuron
    v = c.decay * s[1] + a[0] - c.threshold * s[0].detach()
    return Spike.apply((v - c.threshold) / c.threshold, c.slope), v


def adaptive(cell, a, s):
    c = cell.neuron
    v = c.decay * s[1] + a[0] - c.threshold * s[0].detach()
    b = c.adaptation_decay * s[2] + s[0]
    return Spike.apply((v - c.threshold - c.adaptation * b) / c.threshold, c.slope), v, b


def linear(cell, a, s):
    r, angle = torch.exp(-torch.exp(a[2])), torch.exp(a[3])
    z = torch.polar(r, angle) * torch.complex(s[0], s[1])
    z = z + torch.sqrt(1 - r**2) * torch.complex(a[0], a[1])
    return z.real, z.imag


STEP_OF = {
    LeakyRNN: leaky,
    IndRNN: independent,
    MinGRU: minimal,
    LTC: liquid,
    CfC: closed_form,
    PeepholeLSTM: peepholes,
    LIF: integrate_and_fire,
    ALIF: adaptive,
    LRU: linear,
}


def a_cell(cls, units=UNITS, **options):
    """Make a sparse cell whose biases are random too, around what they start from."""
    cell = cls(INPUTS, units, sparsity=0.5, seed=1, gain=1.5, dtype="float64", **options)
    cell.weights[:] += 0.2 * np.random.default_rng(3).standard_normal(cell.weights.size)
    return cell


def data(steps=STEPS, batch=BATCH):
    rng = np.random.default_rng(7)
    return rng.standard_normal((steps, batch, INPUTS)), rng.standard_normal((steps, batch, OUTPUTS))


def forward(cell, p, x, state):
    """One step by torch: the maps from the dense arrays, then the cell's formula."""
    maps, at = [], dict.fromkeys(p, 0)
    for linear_map in cell.kind.maps:
        a = torch.zeros(x.shape[0], cell.units, dtype=torch.float64)
        for name, source in (
            ("weight_hh", state[0]),
            ("weight_ih", x),
            ("bias_ih", 1),
            ("bias_hh", 1),
        ):
            if linear_map.reads(name):
                block = p[name][at[name] : at[name] + cell.units]
                a = a + (block if isinstance(source, int) else source @ block.T)
                at[name] += cell.units
        maps.append(a)
    return STEP_OF[type(cell)](cell, maps, state)


def torch_gradient(cell, readout, xs, targets):
    masks = cell.masks()
    p = {n: torch.tensor(v, requires_grad=True) for n, v in cell.to_dense().items()}
    y = {n: torch.tensor(v, requires_grad=True) for n, v in readout.items()}
    zero = torch.zeros(xs.shape[1], cell.units, dtype=torch.float64)
    state, total = (zero,) * cell.kind.components, 0.0
    for x, target in zip(torch.tensor(xs), torch.tensor(targets), strict=True):
        state = forward(cell, p, x, state)
        out = state[0] @ y["readout.weight"].T + y["readout.bias"]
        total = total + 0.5 * ((out - target) ** 2).sum() / xs.shape[1]
    total.backward()
    grads = {n: v.grad.numpy() * masks[n] for n, v in p.items()}
    return float(total.detach()), grads | {n: v.grad.numpy() for n, v in y.items()}


def gradient(cell, method, xs, targets):
    readout = Linear(OUTPUTS, "squared_error", seed=2)
    learner = OnlineLearner(cell, readout, method, SGD(0.1), batch=xs.shape[1])
    return learner.gradient(xs, targets)


def by_map(cell, grads):
    """Cut the arrays of a gradient into one for each map that reads them."""
    cut = {}
    for name, values in grads.items():
        if name.startswith("readout"):
            cut[name] = values
            continue
        gates = [g for g, m in enumerate(cell.kind.maps) if m.reads(name)]
        for g, block in zip(gates, np.split(values, len(gates)), strict=True):
            cut[f"{name}, map {g}"] = block
    return cut


@pytest.mark.parametrize("method", [RTRL(), BPTT()], ids=str)
@pytest.mark.parametrize("cls", STEP_OF)
def test_the_exact_gradient_is_torchs(cls: type[Cell], method) -> None:
    cell, (xs, targets) = a_cell(cls), data()
    readout = Linear(OUTPUTS, "squared_error", seed=2)
    dense = readout.parameters(UNITS, np.dtype("float64")).to_dense()
    loss, expected = torch_gradient(cell, dense, xs, targets)
    found, grads = gradient(cell, method, xs, targets)
    assert found == pytest.approx(loss, rel=1e-12)
    ours, theirs = by_map(cell, grads), by_map(cell, expected)
    for name, reference in theirs.items():
        size = np.abs(reference).max()
        assert size > 1e-6, name
        assert np.abs(ours[name] - reference).max() <= 1e-10 * size, name
        assert (ours[name][np.abs(reference) > 1e-10 * size] != 0).all(), name


def torch_jacobians(cell, weights, x, state):
    """D and I of a step by torch, and the new state."""
    flat = torch.tensor(state.ravel(), requires_grad=True)
    values = torch.tensor(weights, requires_grad=True)

    def step(flat, values):
        dense = {}
        for name, (weight, place) in cell.places.items():
            shape = cell.dense_shape(name)
            full = torch.zeros(int(np.prod(shape)), dtype=torch.float64)
            dense[name] = full.index_put((torch.tensor(place),), values[torch.tensor(weight)])
            dense[name] = dense[name].reshape(shape)
        parts = tuple(part[None] for part in flat.reshape(cell.kind.components, -1))
        return torch.cat([part[0] for part in forward(cell, dense, torch.tensor(x)[None], parts)])

    D, immediate = torch.autograd.functional.jacobian(step, (flat, values))
    return D.numpy(), immediate.numpy(), step(flat, values).detach().numpy()


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("cls", STEP_OF)
def test_snap_is_the_dense_masked_recursion(cls: type[Cell], n: int) -> None:
    cell, (xs, targets) = a_cell(cls), data(steps=8, batch=1)
    D = dynamics_pattern(cell)[0].toarray()
    own = own_pattern(cell)
    kept = oracle.reach(
        D, immediate_pattern(cell).toarray(), n, None if own is None else own.toarray()
    )
    readout = Linear(OUTPUTS, "squared_error", seed=2)
    p = readout.parameters(UNITS, np.dtype("float64")).to_dense()
    state = np.zeros(cell.states)
    J = np.zeros((cell.states, cell.weights.size))
    expected = np.zeros(cell.weights.size)
    for x, target in zip(xs[:, 0], targets[:, 0], strict=True):
        D, immediate, state = torch_jacobians(cell, cell.weights.copy(), x, state)
        J = oracle.influence(kept, D, immediate, J)
        error = p["readout.weight"] @ state[:UNITS] + p["readout.bias"] - target
        expected += (p["readout.weight"].T @ error) @ J[:UNITS]
    found = gradient(cell, SnAp(n), xs, targets)[1]
    for name, values in cell.dense_of(expected).items():
        np.testing.assert_allclose(
            found[name], values, rtol=1e-10, atol=1e-12 * np.abs(values).max()
        )


@pytest.mark.parametrize("cls", [IndRNN, MinGRU, LRU])
def test_a_diagonal_cell_is_exact_at_n_of_one(cls: type[Cell]) -> None:
    cell, (xs, targets) = a_cell(cls), data(steps=1000, batch=1)
    exact, found = (gradient(cell, method, xs, targets)[1] for method in (BPTT(), SnAp(1)))
    for name, values in exact.items():
        size = np.abs(values).max()
        assert size > 1e-6
        assert np.abs(found[name] - values).max() <= 1e-10 * size, name


def test_rflo_on_alif_is_e_prop() -> None:
    """Bellec et al. 2020, Methods: ε_v filters what a weight brings, e = ψ (ε_v - β ε_b)."""
    cell, (xs, targets) = a_cell(ALIF), data(batch=1)
    readout = Linear(OUTPUTS, "squared_error", seed=2)
    p = readout.parameters(UNITS, np.dtype("float64")).to_dense()
    dense = cell.to_dense()
    arrays = {n: np.zeros(v.shape) for n, v in dense.items()}
    e_v = {n: np.zeros(v.shape) for n, v in dense.items()}
    e_b = {n: np.zeros(v.shape) for n, v in dense.items()}
    z, v, b, psi = (np.zeros(UNITS) for _ in range(4))
    spikes = 0
    for x, target in zip(xs[:, 0], targets[:, 0], strict=True):
        drive = dense["weight_hh"] @ z + dense["weight_ih"] @ x + dense["bias_ih"]
        presynaptic = {"weight_hh": z[None], "weight_ih": x[None], "bias_ih": np.ones(UNITS)}
        for name, old in e_v.items():
            shape = (-1, 1) if old.ndim == 2 else (-1,)
            slope = psi.reshape(shape)
            e_b[name] = (
                slope * old
                + (cell.neuron.adaptation_decay - slope * cell.neuron.adaptation) * e_b[name]
            )
            e_v[name] = cell.neuron.decay * old + presynaptic[name]
        v = cell.neuron.decay * v + drive - cell.neuron.threshold * z
        b = cell.neuron.adaptation_decay * b + z
        above = (v - cell.neuron.threshold - cell.neuron.adaptation * b) / cell.neuron.threshold
        z = (above > 0) * 1.0
        psi = cell.neuron.slope / cell.neuron.threshold * np.maximum(0, 1 - np.abs(above))
        spikes += int(z.sum())
        error = p["readout.weight"] @ z + p["readout.bias"] - target
        signal = p["readout.weight"].T @ error
        for name in arrays:
            shape = (-1, 1) if arrays[name].ndim == 2 else (-1,)
            e = psi.reshape(shape) * (e_v[name] - cell.neuron.adaptation * e_b[name])
            arrays[name] += signal.reshape(shape) * e
    assert 5 < spikes < 0.7 * STEPS * UNITS
    found = gradient(cell, RFLO(), xs, targets)[1]
    for name, mask in cell.masks().items():
        size = np.abs(arrays[name] * mask).max()
        assert size > 1e-6
        assert np.abs(found[name] - arrays[name] * mask).max() <= 1e-10 * size, name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LeakyRNN(2, 3, leak=0.0), "leak must be above 0, got 0"),
        (lambda: LeakyRNN(2, 3, leak=1.5), "leak must be at most 1, got 1.5"),
        (lambda: LIF(2, 3, neuron=Neuron(decay=1.0)), r"decay must lie in \[0, 1\), got 1"),
        (
            lambda: LIF(2, 3, neuron=Neuron(threshold=float("nan"))),
            "threshold must be finite, got nan",
        ),
        (
            lambda: ALIF(2, 3, neuron=AdaptiveNeuron(adaptation=-1.0)),
            "adaptation must be finite and at least 0, got -1",
        ),
        (
            lambda: ALIF(2, 3, neuron=AdaptiveNeuron(slope="steep")),
            "slope must be a number, got 'steep'",
        ),
        (lambda: LRU.from_dense(np.ones((2, 2)), np.ones((2, 2))), "weight_hh must be left out"),
        (lambda: LIF.from_dense(np.ones((2, 2))), "weight_hh must be given: a LIF reads it"),
    ],
)
def test_bad_settings_are_refused_in_one_line(make, message) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as error:
        make()
    assert "\n" not in str(error.value)
