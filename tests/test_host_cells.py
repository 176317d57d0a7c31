"""Cells that PyTorch and JAX have no built-in code for: registered ones, and kinds of one's own."""

import copy
import ctypes
import pickle

import numba
import numpy as np
import pytest

from sparsegrad import ALIF, GRU, RTRL, SGD, Cell, CellKind, Linear, Map, OnlineLearner, SnAp
from sparsegrad.cells.functions import sigmoid, tanh
from sparsegrad.interop.addresses import require_cell
from sparsegrad.interop.c import CCell, functions
from sparsegrad.kernels.cells.updates import BUILT_IN
from sparsegrad.registry import CELLS

STEPS, BATCH, INPUTS, UNITS, OUTPUTS = 6, 3, 4, 9, 5


def remembered(h, m, late, a, b):
    gate = sigmoid(b)
    new = gate * m + (1 - gate) * tanh(a)
    return tanh(new + 0.3 * late), new, h


class Derived(Cell):
    """Three state numbers, of which maps and readouts see the first."""

    kind = CellKind.from_function(remembered, maps=(Map(), Map(h=False)))


@numba.njit(cache=True)
def written_update(state, pre, new_state, d_state, d_pre):
    for i in range(state.shape[1]):
        y = np.tanh(pre[0, i])
        new_state[0, i] = 0.5 * state[0, i] + y
        d_state[0, 0, i] = 0.5
        d_pre[0, 0, i] = 1 - y * y


class Written(Cell):
    """An update written by hand."""

    kind = CellKind(written_update, maps=(Map(),))


KINDS = [row.load() for row in CELLS.values() if row.load().kind.update not in BUILT_IN]
KINDS += [Derived, Written]
of_any = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def a_cell(kind, dtype="float64"):
    cell = kind(INPUTS, UNITS, sparsity=0.5, seed=1, dtype=dtype)
    cell.weights[:] += 0.2 * np.random.default_rng(1).standard_normal(cell.weights.size)
    return cell


def data(steps=STEPS):
    rng = np.random.default_rng(7)
    xs = rng.standard_normal((steps, BATCH, INPUTS))
    return xs, rng.integers(0, OUTPUTS, (steps, BATCH)), rng.standard_normal((OUTPUTS, UNITS))


def expected_of(cell, method):
    """The learner's gradient, by the weights that exist."""
    xs, targets, weight = data()
    readout = Linear(OUTPUTS, "cross_entropy", weight=weight, bias=np.zeros(OUTPUTS))
    grads = OnlineLearner(cell, readout, method, SGD(0.1), batch=BATCH).gradient(xs, targets)[1]
    masks = cell.masks()
    return {name: grads[name][masks[name]] for name in cell.places}


def same(found, expected, tolerance=1e-10):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        size = np.abs(values).max()
        assert size > 1e-6
        np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance * size)


def head(state):
    return state[0] if isinstance(state, tuple) else state


@of_any
def test_a_torch_module_has_the_learners_gradient(kind):
    torch = pytest.importorskip("torch", reason="torch is not installed: it is the host here")
    from sparsegrad.interop.torch import SnApCell

    cell = a_cell(kind)
    module, state = SnApCell(cell, n=1), None
    xs, targets, weight = map(torch.from_numpy, data())
    for x, target in zip(xs, targets, strict=True):
        state = module(x, state)
        torch.nn.functional.cross_entropy(head(state) @ weight.T, target).backward()
    same(
        {name: p.grad.numpy() for name, p in module.named_parameters()}, expected_of(cell, SnAp(1))
    )
    np.testing.assert_array_equal(module.to_cell().weights, cell.weights)


@of_any
def test_a_step_in_jax_has_the_learners_gradient(kind):
    jax = pytest.importorskip("jax", reason="jax is not installed: it is the host here")
    from sparsegrad.interop.jax import SnapStep

    cell, (xs, targets, weight) = a_cell(kind), data()
    with jax.enable_x64(True):
        step = SnapStep(cell, n=1)

        def loss(params, carry, x, target):
            carry, h = step(params, carry, x)
            logits = jax.nn.log_softmax(h @ weight.T)
            return -jax.numpy.take_along_axis(logits, target[:, None], axis=1).mean(), carry

        gradient = jax.jit(jax.grad(loss, has_aux=True))
        params, carry, total = step.params(), step.carry(BATCH), None
        for x, target in zip(xs, targets, strict=True):
            grads, carry = gradient(params, carry, x, target)
            total = grads if total is None else jax.tree.map(jax.numpy.add, total, grads)
        same({k: np.asarray(v) for k, v in total.items()}, expected_of(cell, SnAp(1)))
        with pytest.raises(RuntimeError, match=f"RNN, GRU or LSTM, got a {kind.__name__}, whose"):
            step.custom_calls  # noqa: B018 - raises


@pytest.mark.parametrize("kind", [ALIF, GRU, Derived, Written], ids=lambda kind: kind.__name__)
def test_a_step_in_c_has_the_learners_gradient(kind):
    cell, (xs, targets, weight) = a_cell(kind), data()
    ours = CCell(cell, n=1)
    program, states = ours.program.struct, (BATCH, cell.kind.components, UNITS)
    state, new, delta = np.zeros(states), np.zeros(states), np.zeros(states)
    D, immediate, influence = (
        np.zeros((BATCH, size))
        for size in (program.dynamics_nnz, program.immediate_nnz, program.influence_size)
    )
    grad, scratch, work = map(np.zeros, (cell.weights.size, program.scratch_size, ours.work_size))
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    found = functions("float64")
    step = ctypes.CFUNCTYPE(None, pointer, pointer, count, *[pointer] * 7)(found.step)
    both = ctypes.CFUNCTYPE(None, pointer, count, *[pointer] * 6)(found.update_and_contract)
    total = np.zeros_like(grad)
    for x, target in zip(xs, targets, strict=True):
        arrays = cell.weights, np.ascontiguousarray(x), state, new, D, immediate, work
        about = ctypes.addressof(program), ctypes.addressof(ours.struct)
        step(*about, BATCH, *[array.ctypes.data for array in arrays])
        logits = np.exp(new[:, 0] @ weight.T)
        wrong = logits / logits.sum(1, keepdims=True) - np.eye(OUTPUTS)[target]
        delta[:, 0] = wrong @ weight / BATCH
        arrays = D, immediate, delta, influence, grad, scratch
        both(about[0], BATCH, *[array.ctypes.data for array in arrays])
        total += grad
        state[:] = new
    dense, masks = cell.dense_of(total), cell.masks()
    same({name: dense[name][masks[name]] for name in masks}, expected_of(cell, SnAp(1)))


def by_autograd(torch, cell):
    """The gradient of a Derived cell, through the whole sequence."""
    xs, targets, weight = map(torch.from_numpy, data())
    dense = {k: torch.tensor(v, requires_grad=True) for k, v in cell.to_dense().items()}
    h = m = late = torch.zeros(BATCH, UNITS, dtype=torch.float64)
    total = 0
    for x, target in zip(xs, targets, strict=True):
        a, b = (x @ dense["weight_ih"].T + dense["bias_ih"]).split(UNITS, 1)
        gate = torch.sigmoid(b)
        m = gate * m + (1 - gate) * torch.tanh(a + h @ dense["weight_hh"].T)
        h, late = torch.tanh(m + 0.3 * late), h
        total = total + torch.nn.functional.cross_entropy(h @ weight.T, target)
    total.backward()
    return {k: v.grad.numpy()[cell.masks()[k]] for k, v in dense.items()}


def test_three_state_numbers_are_exact_against_autograd():
    """By J alone, and by the graph of a window; with states that do not lie side by side."""
    torch = pytest.importorskip("torch", reason="torch is not installed: it is the host here")
    from sparsegrad.interop.torch import SnApCell

    cell = a_cell(Derived)
    expected = by_autograd(torch, cell)
    same(expected_of(cell, RTRL()), expected)
    xs, targets, weight = map(torch.from_numpy, data())
    module, state = SnApCell(cell, n=None), None
    for x, target in zip(xs, targets, strict=True):
        state = module(x, state and tuple(part.detach().clone() for part in state))
        torch.nn.functional.cross_entropy(state[0] @ weight.T, target).backward()
    same({name: p.grad.numpy() for name, p in module.named_parameters()}, expected)
    module = SnApCell(cell, n=1, window=True)
    logits = module(xs)[0] @ weight.T
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    (losses * STEPS).backward()
    same({name: p.grad.numpy() for name, p in module.named_parameters()}, expected)


def test_a_module_of_an_own_kind_is_copied_stored_and_converted():
    torch = pytest.importorskip("torch", reason="torch is not installed: it is the host here")
    from sparsegrad.interop.torch import SnApCell

    module = SnApCell(a_cell(Derived), n=1)
    xs = torch.from_numpy(data()[0])
    state = module(xs[0])
    others = copy.deepcopy(module), pickle.loads(pickle.dumps(module)), SnApCell(a_cell(Derived), 1)
    others[2].load_state_dict(module.state_dict())
    expected = module(xs[1], state)
    for other in others:
        for part, wanted in zip(other(xs[1], state), expected, strict=True):
            assert torch.equal(part, wanted)
        assert torch.equal(other.influence(), module.influence())
    module.float()
    new = module(xs[2].float(), tuple(part.float() for part in expected))
    assert [part.dtype for part in new] == [torch.float32] * 3
    assert module.to_cell().dtype == np.float32


def test_what_is_no_cell_is_refused_in_one_line():
    for what in (None, Written, Derived.kind):
        with pytest.raises(TypeError, match=r"cell must be a cell such as .*got \w+: ") as told:
            require_cell(what)
        assert "\n" not in str(told.value)


def test_built_in_updates_hold_no_address():
    for row in CELLS.values():
        cell = a_cell(row.load())
        assert (cell.kind.word(cell.dtype) < len(BUILT_IN)) == (cell.kind.update in BUILT_IN)
