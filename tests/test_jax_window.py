"""Windows in JAX: exact inside, J before; against jax.grad over the whole stream, and NumPy."""

from itertools import pairwise

import numpy as np
import oracle
import pytest
from test_exactness import a_cell as a_host
from test_exactness import assert_same, oracle_of
from test_exactness import data as host_data
from test_jax import (
    BATCH,
    CELLS,
    INPUTS,
    NAMES,
    UNITS,
    SnapStep,
    _float64,  # noqa: F401 - a fixture
    a_cell,
    data,
    dense_step,
    exact,
    jax,
    jnp,
    loss_of,
    mlp,
    online,
    same,
)

import sparsegrad
from sparsegrad.interop.addresses import present
from sparsegrad.interop.jax import Carry

STEPS = 9


def window_loss(step):
    def loss(params, readout, carry, xs, targets):
        carry, hs = step.window(params, carry, xs)
        return jax.vmap(loss_of, (None, 0, 0))(readout, hs, targets).sum(), carry

    return loss


def in_windows(step, readout, xs, targets, cuts, jitted=True):
    """Gradients of each window, added up, and that of xs; the weights stay."""
    grad = jax.grad(window_loss(step), argnums=(0, 1, 3), has_aux=True)
    grad = jax.jit(grad) if jitted else grad
    carry, total, parts = step.carry(BATCH), None, []
    for first, last in pairwise(cuts):
        window = xs[first:last], targets[first:last]
        (*grads, x_grad), carry = grad(step.params(), readout, carry, *window)
        total = grads if total is None else jax.tree.map(jnp.add, total, grads)
        parts.append(x_grad)
    return step.dense(total[0]), total[1], carry, parts


@pytest.mark.parametrize("cuts", [(0, 2, 3, 7, STEPS), (0, STEPS), tuple(range(STEPS + 1))])
@pytest.mark.parametrize("cls", CELLS)
def test_exact_windows_are_jax_grad_over_the_whole_stream(cls, cuts):
    cell, readout, (xs, targets) = a_cell(cls), mlp(), data(STEPS)
    expected, expected_readout = exact(cell, readout, xs, targets)
    found, found_readout, _, _ = in_windows(SnapStep(cell, n=None), readout, xs, targets, cuts)
    for name in NAMES:
        same(found[name], expected[name])
    for a, b in zip(found_readout, expected_readout, strict=True):
        same(a, b)


@pytest.mark.parametrize("jitted", [False, True])
def test_inputs_get_the_whole_gradient_within_their_window(jitted):
    cell, readout, (xs, targets) = a_cell(sparsegrad.LSTM), mlp(), data(STEPS)
    dense = {k: jnp.array(v) for k, v in cell.to_dense().items()}

    def total(xs):
        def body(state, xt):
            state = dense_step("LSTM", dense, state, xt[0])
            return state, loss_of(readout, state[0], xt[1])

        start = jnp.zeros((2, BATCH, UNITS))
        return jax.lax.scan(body, start, (xs, targets))[1].sum()

    expected = jax.grad(total)(jnp.array(xs))
    cuts = (0, 5, STEPS)
    *_, parts = in_windows(SnapStep(cell, n=1), readout, xs, targets, cuts, jitted)
    same(parts[-1], expected[5:])
    assert np.abs(parts[0] - expected[:5]).max() > 1e-6  # of later windows it knows nothing


def test_a_scan_over_windows_is_exact_too():
    cell, readout, (xs, targets) = a_cell(sparsegrad.GRU), mlp(), data(STEPS)
    expected, _ = exact(cell, readout, xs, targets)
    step = SnapStep(cell, n=None)
    grad = jax.grad(window_loss(step), has_aux=True)
    params = step.params()

    def body(carry, window):
        grads, carry = grad(params, readout, carry, *window)
        return carry, grads

    cut = xs.reshape(3, 3, BATCH, INPUTS), targets.reshape(3, 3, BATCH)
    inside = jax.jit(lambda w: jax.lax.scan(body, step.carry(BATCH), w)[1])(cut)

    def whole(params):
        def body(carry, window):
            loss, carry = window_loss(step)(params, readout, carry, *window)
            return carry, loss

        return jax.lax.scan(body, step.carry(BATCH), cut)[1].sum()

    around = jax.jit(jax.grad(whole))(params)
    for grads in (jax.tree.map(lambda g: g.sum(0), inside), around):
        for name in NAMES:
            same(step.dense(grads)[name], expected[name])


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("cls", CELLS)
def test_snap_in_windows_equals_the_three_lines_in_numpy(cls, n):
    host = a_host(cls, units=5)
    xs, _, values = host_data(8, BATCH)
    kind, p, masks, kept = oracle_of(host, n)
    _, _, expected, _ = oracle.windows(kind, p, masks, xs, values, kept, 3)
    step = SnapStep(host, n)
    weight, bias = p["readout.weight"], p["readout.bias"]

    def loss(params, carry, xs, values):
        carry, hs = step.window(params, carry, xs)
        return 0.5 * ((hs @ weight.T + bias - values) ** 2).sum() / BATCH, carry

    carry, total = step.carry(BATCH), None
    for first in range(0, 8, 3):
        some = slice(first, first + 3)
        grads, carry = jax.grad(loss, has_aux=True)(step.params(), carry, xs[some], values[some])
        total = grads if total is None else jax.tree.map(jnp.add, total, grads)
    found = {n: np.asarray(g) for n, g in step.dense(total).items()}
    assert_same(found, {n: expected[n] for n in found}, tolerance=1e-11)


@pytest.mark.parametrize("cls", CELLS)
def test_the_carry_is_that_of_steps(cls):
    """Bit for bit: a window of one's own may be followed by steps, and a reset between them."""
    step, (xs, targets) = SnapStep(a_cell(cls)), data(STEPS)
    by_steps = step.carry(BATCH)
    for x in xs:
        by_steps, _ = step(step.params(), by_steps, x)
    *_, by_windows, _ = in_windows(step, mlp(), xs, targets, (0, 4, STEPS))
    forward, hs = step.window(step.params(), step.carry(BATCH), xs)
    for found in (by_windows, forward):
        np.testing.assert_array_equal(found.state, by_steps.state)
        np.testing.assert_array_equal(found.influence, by_steps.influence)
    np.testing.assert_array_equal(hs[-1], by_steps.state[:, 0])
    begun = step.reset(by_steps, np.array([True, False, False]))
    carry, _ = step.window(step.params(), begun, xs)
    np.testing.assert_array_equal(carry.influence[0], by_steps.influence[0])
    assert np.abs(carry.influence[1] - by_steps.influence[1]).max() > 1e-9


def test_a_window_is_less_biased_than_its_steps():
    cell, readout, (xs, targets) = a_cell(sparsegrad.GRU), mlp(), data(STEPS)
    expected, _ = exact(cell, readout, xs, targets)
    step, error = SnapStep(cell, n=1), {}
    window = in_windows(step, readout, xs, targets, (0, 3, 6, STEPS))[0]
    steps = online(step, readout, xs, targets)[0]
    for name, grads in (("window", window), ("steps", steps)):
        error[name] = float(jnp.linalg.norm(grads["weight_hh"] - expected["weight_hh"]))
    assert 1e-6 < error["window"] < error["steps"]


def test_the_cell_state_at_the_end_is_a_signal():
    """A loss on the carry's state enters λ of the last step."""
    cell, (xs, _) = a_cell(sparsegrad.LSTM), data(STEPS)
    step = SnapStep(cell, n=None)
    dense = {k: jnp.array(v) for k, v in cell.to_dense().items()}

    def total(p):
        state = jnp.zeros((2, BATCH, UNITS))
        for x in xs:
            state = dense_step("LSTM", p, state, x)
        return (state[1] ** 2).sum()

    def ours(params, carry):
        for some in (xs[:4], xs[4:]):
            carry, _ = step.window(params, carry, some)
        return (carry.state[:, 1] ** 2).sum()

    expected = jax.grad(total)(dense)["weight_hh"] * cell.masks()["weight_hh"]
    found = jax.grad(ours)(step.params(), step.carry(BATCH))
    same(step.dense(found)["weight_hh"], expected)


def test_vmap_puts_windows_beside_each_other():
    step, readout, (xs, targets) = SnapStep(a_cell(sparsegrad.GRU)), mlp(), data(STEPS)
    many = jnp.stack([jnp.array(xs), jnp.array(xs) + 1])
    grad = jax.grad(window_loss(step), has_aux=True)
    start = step.window(step.params(), step.carry(BATCH), xs)[0]
    mapped = jax.vmap(lambda x: grad(step.params(), readout, start, x, targets))(many)
    for k in range(2):
        grads, carry = grad(step.params(), readout, start, many[k], targets)
        for name in NAMES:
            np.testing.assert_allclose(mapped[0][name][k], grads[name], rtol=1e-11, atol=1e-14)
        np.testing.assert_array_equal(mapped[1].influence[k], carry.influence)


def test_bad_windows_are_refused_in_one_line():
    step, (xs, _) = SnapStep(a_cell(sparsegrad.GRU)), data()
    params, carry = step.params(), step.carry(BATCH)
    cases = [
        (lambda: step.window(params, carry, xs[0]), ValueError, r"xs must have shape \(steps, ba"),
        (lambda: step.window(params, carry, xs[:0]), ValueError, r"steps > 0, got \(0, 3, 4\)"),
        (lambda: step.window(params, carry, xs[:, :2]), ValueError, "xs must have shape"),
        (lambda: step.window(params, carry, xs.astype("float32")), TypeError, "xs must be float64"),
        (lambda: step.window({}, carry, xs), ValueError, "params must be"),
        (
            lambda: step.window(params, Carry(carry.state, carry.influence[:, :5]), xs),
            ValueError,
            "carry.influence must have shape",
        ),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)

    def penalty(x):
        inner = jax.grad(lambda x: (step.window(params, carry, x)[1] ** 2).sum())
        return (inner(x) ** 2).sum()

    with pytest.raises(TypeError, match="differentiated once") as caught:
        jax.grad(penalty)(jnp.array(xs))
    assert "\n" not in str(caught.value)


def test_what_no_map_touches_may_hold_anything():
    """XLA's memory is not cleared, and a kernel writes no slope that is 0 by its structure."""
    cell = a_cell(sparsegrad.LSTM)
    step = SnapStep(cell, n=1)
    rng = np.random.default_rng(0)
    d_pre = rng.standard_normal((2, BATCH, 2, 4, UNITS))
    adjoints = jnp.array(rng.standard_normal((2, BATCH, 2 * UNITS)))
    weights = jnp.concatenate([step.params()[name] for name in present(cell)])
    d_pre[:, :, 1, 3] = 0  # c has nothing of the output gate
    expected = step._pulls.inputs(weights, jnp.array(d_pre), adjoints)
    d_pre[:, :, 1, 3] = np.nan
    found = step._pulls.inputs(weights, jnp.array(d_pre), adjoints)
    np.testing.assert_array_equal(found, expected)
    assert np.abs(expected).max() > 0.1
