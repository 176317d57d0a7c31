"""SnapStep: against jax.grad through lax.scan, and against our own learner."""

import os
import pickle
import subprocess
import sys

import numba
import numpy as np
import pytest

import sparsegrad
from sparsegrad import SGD, Linear, OnlineLearner, SnAp
from sparsegrad.cells.cell import NAMES

jax = pytest.importorskip("jax", reason="jax is not installed: it is the host here")
if numba.config.DISABLE_JIT:
    pytest.skip("XLA's handlers must be compiled", allow_module_level=True)

import jax.numpy as jnp  # noqa: E402
from jax import export  # noqa: E402

from sparsegrad.interop.jax import Carry, SnapStep  # noqa: E402

CELLS = [sparsegrad.RNN, sparsegrad.GRU, sparsegrad.LSTM]
STEPS, BATCH, INPUTS, UNITS, OUTPUTS = 6, 3, 4, 9, 5


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def a_cell(cls, seed=1, dtype="float64", **options):
    cell = cls(INPUTS, UNITS, sparsity=0.6, seed=seed, dtype=dtype, **options)
    rng = np.random.default_rng(seed)
    for bias in ("bias_ih", "bias_hh"):
        weight = cell.places[bias][0]
        cell.weights[weight] = rng.standard_normal(weight.size) * 0.5
    return cell


def data(steps=STEPS):
    rng = np.random.default_rng(7)
    return (
        rng.standard_normal((steps, BATCH, INPUTS)),
        rng.integers(0, OUTPUTS, (steps, BATCH)),
    )


def mlp():
    rng = np.random.default_rng(2)
    return [jnp.array(rng.standard_normal(s) * 0.5) for s in ((UNITS, 7), (7, OUTPUTS))]


def loss_of(readout, h, target):
    logits = jnp.tanh(h @ readout[0]) @ readout[1]
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=1)
    return -picked.mean()


def dense_step(kind, p, state, x):
    """One step of the dense cell in plain JAX; state is (components, batch, units)."""
    a = x @ p["weight_ih"].T + p["bias_ih"]
    b = state[0] @ p["weight_hh"].T + p["bias_hh"]
    if kind == "RNN":
        return jnp.tanh(a + b)[None]
    if kind == "GRU":
        (ar, az, an), (br, bz, bn) = jnp.split(a, 3, axis=1), jnp.split(b, 3, axis=1)
        r, z = jax.nn.sigmoid(ar + br), jax.nn.sigmoid(az + bz)
        return ((1 - z) * jnp.tanh(an + r * bn) + z * state[0])[None]
    i, f, g, o = jnp.split(a + b, 4, axis=1)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jnp.stack([jax.nn.sigmoid(o) * jnp.tanh(c), c])


def exact(cell, readout, xs, targets):
    """Gradients through lax.scan of the dense cell, masked."""

    def total(p, readout):
        def body(state, xt):
            state = dense_step(type(cell).__name__, p, state, xt[0])
            return state, loss_of(readout, state[0], xt[1])

        start = jnp.zeros((cell.kind.components, BATCH, UNITS))
        return jax.lax.scan(body, start, (xs, targets))[1].sum()

    dense = {k: jnp.array(v) for k, v in cell.to_dense().items()}
    grads, readout_grads = jax.grad(total, argnums=(0, 1))(dense, readout)
    return {n: g * cell.masks()[n] for n, g in grads.items()}, readout_grads


def same(found, expected, tolerance=1e-10):
    size = np.abs(expected).max()
    assert size > 1e-6
    assert np.abs(found - expected).max() <= tolerance * size
    assert (np.asarray(found)[np.abs(expected) > tolerance * size] != 0).all()


def step_loss(step):
    def loss(params, readout, carry, x, target):
        carry, h = step(params, carry, x)
        return loss_of(readout, h, target), carry

    return loss


def online(step, readout, xs, targets):
    """One gradient per step, inside a scan; summed over the steps."""
    grad = jax.grad(step_loss(step), argnums=(0, 1), has_aux=True)
    params = step.params()

    def body(carry, xt):
        grads, carry = grad(params, readout, carry, *xt)
        return carry, grads

    scan = jax.jit(lambda xs, targets: jax.lax.scan(body, step.carry(BATCH), (xs, targets))[1])
    grads, readout_grads = jax.tree.map(lambda g: g.sum(axis=0), scan(xs, targets))
    return step.dense(grads), readout_grads


@pytest.mark.parametrize("cls", CELLS)
def test_gradients_per_step_equal_jax_grad_through_scan(cls):
    cell, readout, (xs, targets) = a_cell(cls), mlp(), data()
    expected, expected_readout = exact(cell, readout, xs, targets)
    found, found_readout = online(SnapStep(cell, n=None), readout, xs, targets)
    for name in NAMES:
        same(found[name], expected[name])
    for a, b in zip(found_readout, expected_readout, strict=True):
        same(a, b)


@pytest.mark.parametrize("cls", CELLS)
def test_a_gradient_over_a_whole_scan_is_the_same(cls):
    cell, readout, (xs, targets) = a_cell(cls), mlp(), data()
    expected, _ = exact(cell, readout, xs, targets)
    step = SnapStep(cell, n=None)

    def total(params):
        def body(carry, xt):
            carry, h = step(params, carry, xt[0])
            return carry, loss_of(readout, h, xt[1])

        return jax.lax.scan(body, step.carry(BATCH), (xs, targets))[1].sum()

    found = step.dense(jax.jit(jax.grad(total))(step.params()))
    for name in NAMES:
        same(found[name], expected[name])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_gradients_equal_the_learners(n):
    cell, (xs, targets) = a_cell(sparsegrad.GRU), data()
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((OUTPUTS, UNITS)), np.zeros(OUTPUTS)
    learner = OnlineLearner(
        cell, Linear(OUTPUTS, "cross_entropy", weight=weight, bias=bias), SnAp(n), SGD(0.1),
        batch=BATCH,
    )  # fmt: skip
    expected = learner.gradient(xs, targets)[1]
    step = SnapStep(cell, n)

    def loss(params, carry, x, target):
        carry, h = step(params, carry, x)
        logits = jax.nn.log_softmax(h @ weight.T)
        return -jnp.take_along_axis(logits, target[:, None], axis=1).mean(), carry

    carry, total = step.carry(BATCH), None
    for x, target in zip(xs, targets, strict=True):  # not jitted
        grads, carry = jax.grad(loss, has_aux=True)(step.params(), carry, x, target)
        total = grads if total is None else jax.tree.map(jnp.add, total, grads)
    for name in NAMES:
        same(step.dense(total)[name], expected[name], 1e-12)


@pytest.mark.parametrize("cls", CELLS)
def test_a_layer_below_gets_the_gradient_of_the_current_step(cls):
    cell, readout, (xs, targets) = a_cell(cls), mlp(), data(2)
    step = SnapStep(cell, n=2)
    params = step.params()
    carry, _ = step(params, step.carry(BATCH), xs[0])
    dense = {k: jnp.array(v) for k, v in cell.to_dense().items()}

    def ours(x):
        return loss_of(readout, step(params, carry, x)[1], targets[1])

    def theirs(x):
        state = dense_step(cls.__name__, dense, jnp.moveaxis(carry.state, 0, 1), x)
        return loss_of(readout, state[0], targets[1])

    same(jax.grad(ours)(xs[1]), jax.grad(theirs)(xs[1]))


def test_the_cell_state_of_an_lstm_is_a_direct_signal_too():
    cell, (xs, _) = a_cell(sparsegrad.LSTM), data()
    step = SnapStep(cell, n=None)

    def loss(params, carry, x):
        carry, h = step(params, carry, x)
        return jnp.sin(h).sum() + (carry.state[:, 1] ** 2).sum(), carry

    def total(p):
        def body(state, x):
            state = dense_step("LSTM", p, state, x)
            return state, jnp.sin(state[0]).sum() + (state[1] ** 2).sum()

        return jax.lax.scan(body, jnp.zeros((2, BATCH, UNITS)), xs)[1].sum()

    carry, found = step.carry(BATCH), None
    for x in xs:
        grads, carry = jax.jit(jax.grad(loss, has_aux=True))(step.params(), carry, x)
        found = grads if found is None else jax.tree.map(jnp.add, found, grads)
    expected = jax.grad(total)({k: jnp.array(v) for k, v in cell.to_dense().items()})
    for name in NAMES:
        same(step.dense(found)[name], expected[name] * cell.masks()[name])


def test_a_carry_that_is_used_twice_is_not_written_over():
    cell, (xs, _) = a_cell(sparsegrad.GRU), data()
    step = SnapStep(cell)
    params = step.params()
    carry, _ = step(params, step.carry(BATCH), xs[0])
    held = np.array(carry.influence)
    first, _ = jax.jit(step)(params, carry, xs[1])
    again, _ = jax.jit(step)(params, carry, xs[1])
    np.testing.assert_array_equal(held, carry.influence)
    np.testing.assert_array_equal(first.influence, again.influence)
    assert np.abs(held).max() > 0
    donated = jax.jit(step, donate_argnums=1)
    before = carry.influence.unsafe_buffer_pointer()
    after, _ = donated(params, carry, xs[1])
    np.testing.assert_array_equal(first.influence, after.influence)
    assert after.influence.unsafe_buffer_pointer() == before


def test_reset_begins_a_sequence_anew():
    cell, (xs, _) = a_cell(sparsegrad.GRU), data()
    step = SnapStep(cell)
    params = step.params()
    carry, _ = step(params, step.carry(BATCH), xs[0])
    cut = jax.jit(step.reset)(carry, np.array([False, True, False]))
    found, _ = step(params, cut, xs[1])
    fresh, _ = step(params, step.carry(BATCH), xs[1])
    np.testing.assert_array_equal(found.influence[1], fresh.influence[1])
    np.testing.assert_array_equal(found.state[1], fresh.state[1])
    assert np.abs(found.influence[0] - fresh.influence[0]).max() > 0


def test_single_precision_without_x64():
    with jax.enable_x64(False):
        cell = a_cell(sparsegrad.GRU, dtype="float32")
        xs, targets = data()
        step = SnapStep(cell, n=None)
        readout = [w.astype("float32") for w in mlp()]
        found, _ = online(step, readout, xs.astype("float32"), targets)
        assert found["weight_hh"].dtype == np.float32
        with pytest.raises(TypeError, match="float64 cell must have jax_enable_x64"):
            SnapStep(a_cell(sparsegrad.GRU))
    expected, _ = exact(a_cell(sparsegrad.GRU, dtype="float64"), mlp(), xs, targets)
    # the masks are the same, the weights are rounded
    for name in NAMES:
        same(np.asarray(found[name], float), expected[name], 1e-4)


def test_training_with_optax_lowers_the_loss():
    optax = pytest.importorskip("optax", reason="optax is not installed")
    step, (xs, targets) = SnapStep(a_cell(sparsegrad.GRU)), data(60)
    everything = (step.params(), mlp())
    optimizer = optax.adam(5e-2)
    grad = jax.value_and_grad(
        lambda e, carry, x, target: step_loss(step)(*e, carry, x, target), has_aux=True
    )

    @jax.jit
    def train(everything, memory, carry, x, target):
        (loss, carry), grads = grad(everything, carry, x, target)
        updates, memory = optimizer.update(grads, memory)
        return optax.apply_updates(everything, updates), memory, carry, loss

    memory, carry, losses = optimizer.init(everything), step.carry(BATCH), []
    for x in xs:
        everything, memory, carry, loss = train(everything, memory, carry, x, targets[0])
        losses.append(float(loss))
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_bad_input_is_refused_in_one_line():
    cell, (xs, _) = a_cell(sparsegrad.GRU), data()
    step = SnapStep(cell)
    params, carry = step.params(), step.carry(BATCH)
    cases = [
        (lambda: SnapStep("GRU"), TypeError, "cell must be a cell such as"),
        (lambda: SnapStep(cell, n=0), ValueError, "n must be at least 1"),
        (lambda: step(params, carry, xs[0].astype("float32")), TypeError, "x must be float64"),
        (lambda: step(params, carry, xs[0][:2]), ValueError, r"x must have shape \(3, 4\)"),
        (lambda: step({}, carry, xs[0]), ValueError, "params must be"),
        (
            lambda: step(params, Carry(carry.state, carry.influence[:, :5]), xs[0]),
            ValueError,
            "carry.influence must have shape",
        ),
        (
            lambda: step(params | {"weight_hh": params["weight_hh"][:3]}, carry, xs[0]),
            ValueError,
            "weight_hh'] must have shape",
        ),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)


def grads_of(step):
    loss = jax.grad(step_loss(step), has_aux=True)
    return lambda params, carry, x, target: loss(params, mlp(), carry, x, target)


@pytest.mark.parametrize("cls", CELLS)
@pytest.mark.parametrize("jitted", [False, True])
def test_vmap_puts_streams_beside_each_other(cls, jitted):
    step, (_, targets) = SnapStep(a_cell(cls)), data()
    params, maps = step.params(), 2
    rng = np.random.default_rng(3)
    many = jnp.array(rng.standard_normal((maps, BATCH, INPUTS)))
    carries = [step.carry(BATCH) for _ in range(maps)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *carries)
    one = grads_of(step)
    mapped = jax.vmap(one, in_axes=(None, 0, 0, None))
    if jitted:
        mapped = jax.jit(mapped)
    for t in range(3):
        grads, stacked = mapped(params, stacked, many + t, targets[t])
        for k in range(maps):
            grad, carries[k] = one(params, carries[k], many[k] + t, targets[t])
            for name in NAMES:  # δ comes out of one batched product, or of several
                np.testing.assert_allclose(grads[name][k], grad[name], rtol=1e-12, atol=1e-15)
            np.testing.assert_array_equal(stacked.state[k], carries[k].state)
            np.testing.assert_array_equal(stacked.influence[k], carries[k].influence)
    assert np.abs(stacked.influence).max() > 0


def test_vmap_over_parameters_and_of_a_map_and_over_x_alone():
    step, (xs, targets) = SnapStep(a_cell(sparsegrad.GRU)), data()
    params, carry = step.params(), step.carry(BATCH)
    several = jax.tree.map(lambda p: jnp.stack([p, 2 * p, -p]), params)
    one = grads_of(step)
    found, after = jax.jit(jax.vmap(one, in_axes=(0, None, None, None)))(
        several, carry, xs[0], targets[0]
    )
    for k, scale in enumerate((1, 2, -1)):
        grad, new = one(jax.tree.map(lambda p: scale * p, params), carry, xs[0], targets[0])  # noqa: B023
        for name in NAMES:
            np.testing.assert_allclose(found[name][k], grad[name], rtol=1e-12, atol=1e-15)
        np.testing.assert_array_equal(after.influence[k], new.influence)
    nested = jax.vmap(jax.vmap(lambda x: step(params, carry, x)[1]))(
        xs.reshape(2, 3, BATCH, INPUTS)
    )
    flat = jax.vmap(lambda x: step(params, carry, x)[1])(xs)
    np.testing.assert_array_equal(nested.reshape(flat.shape), flat)
    np.testing.assert_array_equal(flat[4], step(params, carry, xs[4])[1])


def test_a_gradient_of_a_mapped_loss_is_the_sum():
    step, (xs, targets) = SnapStep(a_cell(sparsegrad.GRU)), data()
    carry, _ = step(step.params(), step.carry(BATCH), xs[5])

    def total(params):
        def one(x, target):
            return step_loss(step)(params, mlp(), carry, x, target)[0]

        return jax.vmap(one)(xs[:3], targets[:3]).sum()

    found = jax.jit(jax.grad(total))(step.params())
    parts = [grads_of(step)(step.params(), carry, xs[k], targets[k])[0] for k in range(3)]
    for name in NAMES:
        same(found[name], sum(np.asarray(part[name]) for part in parts), 1e-12)


def test_checkpointed_steps_have_the_same_gradient():
    step, (xs, targets) = SnapStep(a_cell(sparsegrad.GRU)), data()

    def total(params, call):
        carry, out = step.carry(BATCH), 0
        for x, target in zip(xs, targets, strict=True):
            carry, h = call(params, carry, x)
            out = out + loss_of(mlp(), h, target)
        return out

    plain, again = (jax.grad(total)(step.params(), call) for call in (step, jax.checkpoint(step)))
    for name in NAMES:
        np.testing.assert_array_equal(plain[name], again[name])


def test_what_cannot_be_differentiated_says_so():
    step, (xs, _) = SnapStep(a_cell(sparsegrad.GRU)), data()
    params, carry = step.params(), step.carry(BATCH)

    def loss(params, x):
        return (step(params, carry, x)[1] ** 2).sum()

    def penalty(x):
        return (jax.grad(loss, argnums=1)(params, x) ** 2).sum()

    for call in (jax.grad(penalty), jax.jit(jax.grad(penalty))):
        with pytest.raises(TypeError, match="differentiated once") as caught:
            call(xs[0])
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="forward-mode"):  # JAX's own line
        jax.jvp(lambda x: loss(params, x), (jnp.array(xs[0]),), (jnp.array(xs[0]),))
    with pytest.raises(TypeError, match="x must be float64, got bfloat16"):
        step(params, carry, jnp.array(xs[0], jnp.bfloat16))


def test_an_exported_step_runs_again():
    step, (xs, _) = SnapStep(a_cell(sparsegrad.GRU)), data()
    params, carry = step.params(), step.carry(BATCH)
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in step.custom_calls]
    exported = export.export(
        jax.jit(lambda p, state, influence, x: tuple(step(p, Carry(state, influence), x)[0])),
        disabled_checks=checks,
    )(params, *carry, xs[0])
    again = export.deserialize(exported.serialize())
    state, influence = again.call(params, *carry, xs[0])
    expected, _ = step(params, carry, xs[0])
    np.testing.assert_array_equal(state, expected.state)
    np.testing.assert_array_equal(influence, expected.influence)


def test_a_carry_is_saved_and_restored(tmp_path):
    step, (xs, _) = SnapStep(a_cell(sparsegrad.LSTM)), data()
    params, carry = step.params(), step.carry(BATCH)
    carry, _ = step(params, carry, xs[0])
    np.savez(tmp_path / "carry.npz", **carry._asdict())
    with np.load(tmp_path / "carry.npz") as file:
        again = Carry(**{name: jnp.array(file[name]) for name in file.files})
    other = pickle.loads(pickle.dumps(step))
    assert other.n == step.n
    found, expected = other(params, again, xs[1])[0], step(params, carry, xs[1])[0]
    np.testing.assert_array_equal(found.influence, expected.influence)
    np.testing.assert_array_equal(found.state, expected.state)


def test_a_carry_in_orbax(tmp_path):
    orbax = pytest.importorskip("orbax.checkpoint", reason="orbax-checkpoint is not installed")
    step, (xs, _) = SnapStep(a_cell(sparsegrad.GRU)), data()
    params, carry = step.params(), step.carry(BATCH)
    carry, _ = step(params, carry, xs[0])
    expected = step(params, carry, xs[1])[0]
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "carry", {"params": params, "carry": carry})
        checkpointer.wait_until_finished()
        template = {"params": step.params(), "carry": step.carry(BATCH)}
        found = checkpointer.restore(tmp_path / "carry", template)
    again = step(found["params"], found["carry"], xs[1])[0]
    np.testing.assert_array_equal(again.influence, expected.influence)
    np.testing.assert_array_equal(again.state, expected.state)


def test_a_step_as_a_cell_of_flax():
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")

    class Cell(nnx.Module):
        def __init__(self, step):
            self.step = step
            self.weights = nnx.data({k: nnx.Param(v) for k, v in step.params().items()})

        def __call__(self, carry, x):
            return self.step({k: v[...] for k, v in self.weights.items()}, carry, x)

    step, (xs, targets) = SnapStep(a_cell(sparsegrad.GRU)), data()

    @nnx.jit
    def grad(cell, carry, x, target):
        def loss(cell):
            after, h = cell(carry, x)
            return loss_of(mlp(), h, target), after

        return nnx.grad(loss, has_aux=True)(cell)

    found, carry = grad(Cell(step), step.carry(BATCH), xs[0], targets[0])
    expected, after = grads_of(step)(step.params(), step.carry(BATCH), xs[0], targets[0])
    for name in NAMES:
        value = found["weights"][name][...]
        np.testing.assert_allclose(value, expected[name], rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(carry.influence, after.influence)


def test_a_step_as_an_equinox_cell():
    equinox = pytest.importorskip("equinox", reason="equinox is not installed")

    class Cell(equinox.Module):
        params: dict
        step: SnapStep = equinox.field(static=True)

        def __call__(self, carry, x):
            return self.step(self.params, carry, x)

    step, (xs, targets) = SnapStep(a_cell(sparsegrad.GRU)), data()
    cell = Cell(step.params(), step)

    @equinox.filter_jit
    def grad(cell, carry, x, target):
        def loss(cell):
            after, h = cell(carry, x)
            return loss_of(mlp(), h, target), after

        return equinox.filter_grad(loss, has_aux=True)(cell)

    found, carry = grad(cell, step.carry(BATCH), xs[0], targets[0])
    expected, after = grads_of(step)(step.params(), step.carry(BATCH), xs[0], targets[0])
    for name in NAMES:
        np.testing.assert_allclose(found.params[name], expected[name], rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(carry.influence, after.influence)


def test_a_carry_that_is_not_finite_is_named():
    step, (xs, _) = SnapStep(a_cell(sparsegrad.GRU)), data()
    params, carry = step.params(), step.carry(BATCH)
    carry, _ = step(params, carry, xs[0])
    step.require_finite(carry)
    broken = Carry(carry.state, carry.influence.at[1, 0].set(jnp.inf))
    with pytest.raises(FloatingPointError, match=r"the influence must stay finite.*stream 1"):
        step.require_finite(broken)
    step.require_finite(step.reset(broken, np.array([False, True, False])))
    with pytest.raises(FloatingPointError, match=r"the state must stay finite.*stream 2"):
        step.require_finite(Carry(carry.state.at[2].set(jnp.nan), carry.influence))


OF_XLA = (ValueError, jax.errors.JaxRuntimeError)  # which of them, JAX decides by its version
NOT_FINITE = r"gradient must stay finite.*require_finite\(carry\) says in which stream"


def summed(step):
    def loss(params, carry, x, scale):
        after, h = step(params, carry, x)
        return scale * h.sum(), after

    return jax.grad(loss, has_aux=True)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("n", [1, 2, None])
def test_no_gradient_that_is_not_finite_is_returned(n, jitted):
    step, (xs, _) = SnapStep(a_cell(sparsegrad.GRU), n), data()
    params, grads = step.params(), summed(step)
    grads = jax.jit(grads) if jitted else grads
    found, carry = grads(params, step.carry(BATCH), xs[0], 1.0)
    overflown = Carry(carry.state, jnp.full_like(carry.influence, jnp.inf))
    with pytest.raises(OF_XLA, match=NOT_FINITE):
        jax.block_until_ready(grads(params, overflown, xs[1], 1.0))
    with pytest.raises(OF_XLA, match=NOT_FINITE):
        jax.block_until_ready(grads(params, carry, xs[1], jnp.nan))
    again, _ = grads(params, step.reset(overflown, np.ones(BATCH, bool)), xs[0], 1.0)
    for name in NAMES:  # as a fresh sequence
        np.testing.assert_array_equal(again[name], found[name])


def test_a_net_whose_influence_grows_stops_with_a_line():
    step = SnapStep(sparsegrad.RNN(2, 24, gain=3.0, seed=0), None)
    params, grads, rng = step.params(), jax.jit(summed(step)), np.random.default_rng(0)
    carry = step.carry()

    def for_ever(carry):
        for _ in range(4000):
            x = 0.01 * rng.standard_normal((1, 2)).astype("float32")
            found, carry = grads(params, carry, x, 1.0)
            assert all(np.isfinite(g).all() for g in found.values())

    with pytest.raises(OF_XLA, match=NOT_FINITE):
        for_ever(carry)


SHARDED = """
import jax, numpy as np, jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P
import sparsegrad
from sparsegrad.interop.jax import SnapStep, Carry
assert jax.device_count() == 2
step = SnapStep(sparsegrad.GRU(4, 9, sparsity=0.6, seed=1))
params, x = step.params(), jnp.array(np.random.default_rng(0).standard_normal((4, 4)), "float32")
def one(params, carry, x):
    def loss(params):
        after, h = step(params, carry, x)
        return (h ** 2).sum(), after
    return jax.grad(loss, has_aux=True)(params)
def all_of(params, carry, x):
    grads, carry = one(params, carry, x)
    return jax.tree.map(lambda g: jax.lax.psum(g, "data"), grads), carry
mesh = Mesh(np.array(jax.devices()), ("data",))
spec = Carry(P("data"), P("data"))
sharded = jax.jit(jax.shard_map(all_of, mesh=mesh, in_specs=(P(), spec, P("data")),
                  out_specs=(P(), spec), check_vma=False))
carry = again = step.carry(4)
for _ in range(3):
    grads, carry = one(params, carry, x)
    found, again = sharded(params, again, x)
    for name in grads:
        np.testing.assert_allclose(found[name], grads[name], rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(again.influence, carry.influence)
mapped = jax.pmap(all_of, axis_name="data", in_axes=(None, 0, 0))
halves = jax.tree.map(lambda v: v.reshape(2, 2, *v.shape[1:]), step.carry(4))
for _ in range(3):
    found, halves = mapped(params, halves, x.reshape(2, 2, -1))
for name in grads:
    np.testing.assert_allclose(found[name][1], grads[name], rtol=2e-5, atol=1e-6)
np.testing.assert_array_equal(halves.influence.reshape(carry.influence.shape), carry.influence)
"""


def test_streams_on_two_devices():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags}
    subprocess.run([sys.executable, "-c", SHARDED], check=True, env=environment)
