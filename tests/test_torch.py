"""The PyTorch modules: against autograd over the unrolled sequence, and against our own learner."""

import copy
import gc
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse

from sparsegrad import RTRL, SGD, Linear, OnlineLearner, SnAp
from sparsegrad.cells.cell import NAMES

torch = pytest.importorskip("torch", reason="torch is not installed: it is the host here")

from sparsegrad.interop.torch import SnApGRU, SnApLSTM, SnApRNN  # noqa: E402
from sparsegrad.interop.torch.colouring import colour_rows  # noqa: E402
from sparsegrad.interop.torch_any import Patterns, SnApModule, probe  # noqa: E402

KINDS = [SnApRNN, SnApGRU, SnApLSTM]
STEPS, BATCH, INPUTS, UNITS, OUTPUTS = 6, 3, 4, 9, 5
F64 = torch.float64


def torch_cell(kind, sparsity=0.6, seed=1, **options):
    """A cell of torch.nn with zeros in its matrices, and which of its weights exist."""
    torch.manual_seed(seed)
    cell = getattr(torch.nn, kind._name + "Cell")(INPUTS, UNITS, dtype=F64, **options)
    masks = {}
    with torch.no_grad():
        for name, p in cell.named_parameters():
            p.copy_(torch.randn(p.shape, dtype=F64) * (0.5 if p.dim() == 2 else 0.3))
            masks[name] = torch.rand(p.shape) >= (sparsity if p.dim() == 2 else 0)
            p.mul_(masks[name])
    return cell, masks


def mlp(seed=2):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(UNITS, 7), torch.nn.Tanh(), torch.nn.Linear(7, OUTPUTS)
    ).double()


def data(steps=STEPS, batch=BATCH, seed=3):
    torch.manual_seed(seed)
    xs = torch.randn(steps, batch, INPUTS, dtype=F64)
    return xs, torch.randint(0, OUTPUTS, (steps, batch))


def head(state):
    return state[0] if isinstance(state, tuple) else state


def loss_of(readout, state, target):
    return torch.nn.functional.cross_entropy(readout(head(state)), target)


def same(found, expected, tolerance=1e-10):
    size = expected.abs().max()
    assert size > 1e-6
    assert (found - expected).abs().max() <= tolerance * size
    assert (found[expected.abs() > tolerance * size] != 0).all()


def autograd(cell, masks, readout, xs, targets):
    """Gradients through the whole sequence, masked: the exact ones."""
    state, total = None, 0
    for x, target in zip(xs, targets, strict=True):
        state = cell(x, state)
        total = total + loss_of(readout, state, target)
    grads = torch.autograd.grad(total, [*cell.parameters(), *readout.parameters()])
    names = [n for n, _ in cell.named_parameters()]
    return {n: g * masks[n] for n, g in zip(names, grads, strict=False)}, grads[len(names) :]


def online(cell, readout, xs, targets):
    """One backward pass after each step; gradients add up."""
    state = None
    for x, target in zip(xs, targets, strict=True):
        state = cell(x, state)
        loss_of(readout, state, target).backward()
    return cell.dense_grad()


@pytest.mark.parametrize("kind", KINDS)
def test_backward_per_step_equals_autograd_over_the_sequence(kind):
    theirs, masks = torch_cell(kind)
    readout, (xs, targets) = mlp(), data()
    expected, expected_readout = autograd(theirs, masks, readout, xs, targets)
    found = online(kind.from_torch(theirs, n=None, masks=masks), readout, xs, targets)
    assert found.keys() == expected.keys()
    for name in NAMES:
        same(found[name], expected[name])
    for p, grad in zip(readout.parameters(), expected_readout, strict=True):
        same(p.grad, grad)


@pytest.mark.parametrize("kind", KINDS)
def test_one_backward_over_all_steps_equals_one_per_step(kind):
    theirs, masks = torch_cell(kind)
    readout, (xs, targets) = mlp(), data()
    expected, _ = autograd(theirs, masks, readout, xs, targets)
    cell = kind.from_torch(theirs, n=None, masks=masks)
    outputs, last = cell(xs)
    assert torch.equal(outputs[-1], head(last)[0])
    logits = readout(outputs).flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum").div(
        BATCH
    ).backward()
    for name in NAMES:
        same(cell.dense_grad()[name], expected[name])


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_the_learners(kind, n):
    theirs, masks = torch_cell(kind)
    module = kind.from_torch(theirs, n=n, masks=masks)
    ours = kind._cell_type.from_dense(
        **{k: p.detach().numpy() for k, p in theirs.named_parameters()},
        masks={k: m.numpy() for k, m in masks.items()},
    )
    weight, bias = np.random.default_rng(0).standard_normal((2, OUTPUTS, UNITS))
    readout = torch.nn.Linear(UNITS, OUTPUTS).double()
    with torch.no_grad():
        readout.weight.copy_(torch.tensor(weight))
        readout.bias.copy_(torch.tensor(bias[:, 0]))
    xs, targets = data()
    learner = OnlineLearner(
        ours, Linear(OUTPUTS, "cross_entropy", weight=weight, bias=bias[:, 0].copy()),
        SnAp(n), SGD(0.1), batch=BATCH,
    )  # fmt: skip
    expected = learner.gradient(xs.numpy(), targets.numpy())[1]
    found = online(module, readout, xs, targets)
    for name in NAMES:
        same(found[name], torch.from_numpy(expected[name]), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_online_training_equals_the_learners_run(kind):
    """Weights change after every step, in torch's own optimiser."""
    theirs, masks = torch_cell(kind)
    module = kind.from_torch(theirs, n=2, masks=masks)
    ours = kind._cell_type.from_dense(
        **{k: p.detach().numpy() for k, p in theirs.named_parameters()},
        masks={k: m.numpy() for k, m in masks.items()},
    )
    readout = torch.nn.Linear(UNITS, OUTPUTS).double()
    dense = {"weight": readout.weight.detach().numpy().copy(),
             "bias": readout.bias.detach().numpy().copy()}  # fmt: skip
    learner = OnlineLearner(
        ours, Linear(OUTPUTS, "cross_entropy", **dense), SnAp(2), SGD(0.1), batch=BATCH
    )
    xs, targets = data(steps=12)
    expected = learner.run(xs.numpy(), targets.numpy())
    optimizer = torch.optim.SGD([*module.parameters(), *readout.parameters()], lr=0.1)
    state, found = None, []
    for x, target in zip(xs, targets, strict=True):
        optimizer.zero_grad()
        state = module(x, state)
        loss = loss_of(readout, state, target)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    for name, values in ours.to_dense().items():
        same(module.dense()[name], torch.from_numpy(values), 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_below_gets_the_gradient_of_the_current_step(kind):
    theirs, masks = torch_cell(kind)
    cell, readout = kind.from_torch(theirs, n=2, masks=masks), mlp()
    below = torch.nn.Linear(3, INPUTS).double()
    _, targets = data()
    torch.manual_seed(4)
    raw = torch.randn(STEPS, BATCH, 3, dtype=F64)
    state, their_state = None, None
    for x, target in zip(raw, targets, strict=True):
        below.zero_grad()
        state = cell(below(x), state)
        loss_of(readout, state, target).backward()
        found = below.weight.grad.clone()
        if isinstance(their_state, tuple):
            their_state = tuple(s.detach() for s in their_state)
        elif their_state is not None:
            their_state = their_state.detach()
        their_state = theirs(below(x), their_state)
        expected = torch.autograd.grad(loss_of(readout, their_state, target), below.weight)[0]
        same(found, expected)
    frozen = kind.from_torch(theirs, n=2, masks=masks).requires_grad_(False)
    x = raw[0] @ below.weight.detach().T
    x.requires_grad_()
    head(frozen(x)).square().sum().backward()
    y = x.detach().requires_grad_()
    head(theirs(y)).square().sum().backward()
    same(x.grad, y.grad)
    assert frozen.influence().shape[0] == 0


def test_the_cell_state_of_an_lstm_is_a_direct_signal_too():
    theirs, masks = torch_cell(SnApLSTM)
    cell = SnApLSTM.from_torch(theirs, n=None, masks=masks)
    xs, _ = data()
    state, their_state, total = None, None, 0
    for x in xs:
        state, their_state = cell(x, state), theirs(x, their_state)
        (state[0].sin().sum() + state[1].square().sum()).backward()
        total = total + their_state[0].sin().sum() + their_state[1].square().sum()
    total.backward()
    for name in NAMES:
        same(cell.dense_grad()[name], getattr(theirs, name).grad * masks[name])


def test_losses_of_some_steps_alone():
    """Steps without a loss still carry influence; one loss may look at several states."""
    theirs, masks = torch_cell(SnApGRU)
    xs, _ = data(steps=8)
    cell = SnApGRU.from_torch(theirs, n=None, masks=masks)
    h, g, total = None, None, 0
    kept = []
    for t, x in enumerate(xs):
        h, g = cell(x, h), theirs(x, g)
        kept.append((h, g))
        if t in (3, 7):
            (kept[t - 2][0] * h).sum().backward()
            total = total + (kept[t - 2][1] * g).sum()
    total.backward()
    for name in NAMES:
        same(cell.dense_grad()[name], getattr(theirs, name).grad * masks[name])


def test_an_online_step_needs_no_root_and_may_share_a_pass_with_later_ones():
    theirs, masks = torch_cell(SnApGRU)
    xs, _ = data(steps=3)
    cell = SnApGRU.from_torch(theirs, n=None, masks=masks)
    h = cell(xs[0])
    assert h.grad_fn.name().startswith("FirstStep")
    later = cell(xs[1], h)
    assert later.grad_fn.name().startswith("Step")
    (h.square().sum() + later.sin().sum()).backward()
    last = cell(xs[2], later)
    assert last.grad_fn.name().startswith("FirstStep")  # J is past the others
    last.square().sum().backward()
    g = theirs(xs[0])
    k = theirs(xs[1], g)
    (g.square().sum() + k.sin().sum() + theirs(xs[2], k).square().sum()).backward()
    for name in NAMES:
        same(cell.dense_grad()[name], getattr(theirs, name).grad * masks[name])


def test_passes_that_ask_for_x_alone_leave_no_signal_behind():
    theirs, masks = torch_cell(SnApGRU)
    xs, targets = data(steps=3)
    readout = mlp()
    plain, probed = (SnApGRU.from_torch(theirs, n=2, masks=masks) for _ in range(2))
    expected = online(plain, readout, xs, targets)
    h = None
    for x, target in zip(xs, targets, strict=True):
        x = x.clone().requires_grad_()
        h = probed(x, h)
        loss = loss_of(readout, h, target)
        torch.autograd.grad(loss, x, retain_graph=True)
        loss.backward()
    for name in NAMES:
        same(probed.dense_grad()[name], expected[name], 1e-14)


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_graph_of_the_backward_pass_is_refused_only_where_it_is_used(waiting):
    theirs, masks = torch_cell(SnApGRU)
    xs, _ = data(steps=2)
    cell, plain = (SnApGRU.from_torch(theirs, n=2, masks=masks) for _ in range(2))
    x = xs[1].clone().requires_grad_()
    h, g = (c(xs[0]) for c in (cell, plain))
    if not waiting:
        h, g = h.detach(), g.detach()
    loss = cell(x, h).square().sum()
    grads = torch.autograd.grad(loss, [x, cell.weight_hh], create_graph=True)
    expected = torch.autograd.grad(plain(xs[1], g).square().sum(), [plain.weight_hh])
    same(grads[1].detach(), expected[0])
    for grad in grads:
        with pytest.raises(RuntimeError, match="must not be differentiated again"):
            grad.sum().backward()


def test_parameters_replaced_on_the_same_memory_get_the_gradient():
    theirs, masks = torch_cell(SnApGRU)
    xs, _ = data(steps=2)
    cell = SnApGRU.from_torch(theirs, n=2, masks=masks)
    old = cell.weight_hh
    cell(xs[0]).sum().backward()
    before = old.grad.clone()
    cell.weight_hh = torch.nn.Parameter(old.detach())
    first = cell(xs[0])  # two steps in one pass: the second one leads to the root
    (first.sum() + cell(xs[1], first).sum()).backward()
    assert torch.equal(old.grad, before)
    alone = SnApGRU.from_torch(theirs, n=2, masks=masks)
    first = alone(xs[0])
    (first.sum() + alone(xs[1], first).sum()).backward()
    same(cell.weight_hh.grad, alone.weight_hh.grad)


def test_backward_twice_is_refused_or_adds_the_same_again():
    theirs, masks = torch_cell(SnApGRU)
    cell, (xs, _) = SnApGRU.from_torch(theirs, masks=masks), data()
    h = cell(xs[1], cell(xs[0]))
    h.sum().backward(retain_graph=True)
    once = cell.weight_hh.grad.clone()
    h.sum().backward()
    same(cell.weight_hh.grad, 2 * once, 1e-14)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        h.sum().backward()
    same(cell.weight_hh.grad, 2 * once, 1e-14)


def test_backward_out_of_order_is_refused():
    theirs, _ = torch_cell(SnApGRU)
    cell, (xs, _) = SnApGRU.from_torch(theirs), data()
    first = cell(xs[0])
    second = cell(xs[1], first)
    second.sum().backward()
    with pytest.raises(RuntimeError, match="in the order of the steps"):
        first.sum().backward()
    old = cell(xs[2], second)
    cell(xs[0])
    with pytest.raises(RuntimeError, match="before a new sequence"):
        old.sum().backward()


def test_parameters_changed_before_backward_are_refused():
    theirs, _ = torch_cell(SnApGRU)
    cell, (xs, _) = SnApGRU.from_torch(theirs), data()
    h = cell(xs[0])
    with torch.no_grad():
        cell.weight_hh.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()
    x = xs[1].clone().requires_grad_()
    h = cell(x)
    cell.weight_hh.data.mul_(2)  # torch does not count this change; the next step finds it
    later = cell(xs[2], h)
    with pytest.raises(RuntimeError, match="weights must stay as they are"):
        h.sum().backward()
    del later


def test_memory_is_flat_whatever_is_left_without_backward():
    cell = SnApGRU(INPUTS, UNITS, sparsity=0.5, seed=0)
    window = cell._window
    h, x = None, torch.randn(2, INPUTS)
    nodes = []
    for t in range(60):
        h = cell(x, h)
        if t % 3 == 0:
            head(h).sum().backward()
        nodes.append(len(window._waiting) + len(window._free))
    assert max(nodes) <= 3
    assert not window._signals
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(200):
        h = cell(x, h)
    gc.collect()
    assert len(gc.get_objects()) - before < 20
    assert h.grad_fn.next_functions[0][0].name().startswith("Root")


def test_no_grad_does_no_influence_work():
    theirs, masks = torch_cell(SnApGRU)
    cell, (xs, _) = SnApGRU.from_torch(theirs, masks=masks), data()
    with torch.no_grad():
        h = cell(xs[0])
        assert not h.requires_grad
        assert cell.influence().shape[0] == 0
        same(h, theirs(xs[0]))
    h = cell(xs[0])
    before = cell.influence()
    with torch.no_grad():
        cell(xs[1][:2])  # another stream, of another batch size
    assert torch.equal(cell.influence(), before)
    assert before.abs().max() > 0


def test_reset_of_one_element_is_a_fresh_start_for_it():
    theirs, masks = torch_cell(SnApGRU)
    xs, _ = data(steps=4)
    cell = SnApGRU.from_torch(theirs, n=2, masks=masks)
    h = cell(xs[1], cell(xs[0]))
    cell.reset(torch.tensor([False, True, False]))
    assert cell.influence()[1].abs().max() == 0
    assert cell.influence()[0].abs().max() > 0
    h = h * torch.tensor([1, 0, 1.0]).double()[:, None]
    cell(xs[2], h)
    fresh = SnApGRU.from_torch(theirs, n=2, masks=masks)
    fresh(xs[2])
    assert torch.equal(cell.influence()[1], fresh.influence()[1])
    assert not torch.equal(cell.influence()[0], fresh.influence()[0])
    with pytest.raises(IndexError, match=r"must lie in \[0, 3\), got 3"):
        cell.reset(3)
    with pytest.raises(ValueError, match=r"bool of shape \(3,\)"):
        cell.reset(torch.ones(2, dtype=torch.bool))


def test_backward_after_reset_belongs_to_the_old_sequence():
    theirs, masks = torch_cell(SnApGRU)
    xs, _ = data()
    grads = []
    for early in (False, True):
        cell = SnApGRU.from_torch(theirs, masks=masks)
        h = cell(xs[1], cell(xs[0]))
        if early:
            cell.reset()
        h.sum().backward()
        grads.append(cell.weight_hh.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("kind", KINDS)
def test_to_torch_and_back(kind):
    theirs, masks = torch_cell(kind)
    cell = kind.from_torch(theirs)  # masks: what is not 0
    assert cell.weight_hh.shape == (int(masks["weight_hh"].sum()),)
    dense = theirs.weight_hh.detach()
    assert torch.equal(cell.weight_hh.detach(), dense[dense != 0])
    back = cell.to_torch()
    for name, p in theirs.named_parameters():
        assert torch.equal(getattr(back, name), p)
        assert torch.equal(cell.dense()[name], p)
    assert cell.dense_grad()["weight_hh"] is None
    layer = getattr(torch.nn, kind._name)(INPUTS, UNITS).double()
    xs, _ = data()
    expected, last = layer(xs)
    found, state = kind.from_torch(layer)(xs)
    same(found, expected)
    same(head(state), head(last))
    one = kind.from_torch(theirs)(xs[0, 0])
    same(head(one), head(theirs(xs[0, 0])))
    bare = kind.from_torch(torch_cell(kind, bias=False)[0])
    assert bare.bias_ih is None
    assert bare.to_torch().bias_ih is None


def test_relu_cells_come_and_go():
    theirs, _ = torch_cell(SnApRNN, nonlinearity="relu")
    cell, (xs, _) = SnApRNN.from_torch(theirs), data()
    same(cell(xs[0]), theirs(xs[0]))
    again = copy.deepcopy(cell)
    same(again(xs[0]), theirs(xs[0]))
    assert again.to_torch().nonlinearity == "relu"


def test_state_dict_carries_influence_and_masks():
    xs, targets = data(steps=6)
    readout = mlp()
    cell = SnApGRU(INPUTS, UNITS, sparsity=0.6, seed=1, dtype=F64)
    h = None
    for x in xs[:3]:
        h = cell(x, h)
    held = cell.influence()
    file = io.BytesIO()
    torch.save(cell.state_dict(), file)
    file.seek(0)
    other = SnApGRU(INPUTS, UNITS, sparsity=0.6, seed=2, dtype=F64)  # other masks
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.influence(), held)
    for name, values in cell.dense().items():
        assert torch.equal(other.dense()[name], values)
    twin = copy.deepcopy(cell)
    goes_on = [cell, other, twin]
    states = [h.detach()] * 3
    for x, target in zip(xs[3:], targets[3:], strict=True):
        for i, module in enumerate(goes_on):
            states[i] = module(x, states[i])
            loss_of(readout, states[i], target).backward()
    for module in goes_on[1:]:
        assert torch.equal(module.weight_hh.grad, cell.weight_hh.grad)
    with pytest.raises(
        RuntimeError, match=r"what n=3 keeps, got .*: load it into a module of the n"
    ):
        SnApGRU(INPUTS, UNITS, n=3, sparsity=0.6, dtype=F64).load_state_dict(cell.state_dict())


def test_a_deep_copy_goes_its_own_way():
    cell = SnApGRU(INPUTS, UNITS, sparsity=0.6, seed=1, dtype=F64)
    xs, _ = data()
    h = cell(xs[0])
    twin = copy.deepcopy(cell)
    twin(xs[1], h.detach()).sum().backward()
    assert cell.weight_hh.grad is None
    assert not torch.equal(twin.influence(), cell.influence())
    h.sum().backward()
    assert cell.weight_ih.grad.abs().max() > 0


def test_double_and_float_move_everything():
    cell = SnApGRU(INPUTS, UNITS, sparsity=0.6, seed=1)
    xs, _ = data()
    h = cell(xs[0].float())
    held = cell.influence()
    cell.double()
    assert torch.equal(cell.influence(), held.double())
    cell(xs[1], h.detach().double()).sum().backward()
    assert cell.weight_ih.grad.dtype == F64
    with pytest.raises(TypeError, match=r"parameters must be torch.float64, got torch.float16"):
        cell.half()(xs[1].half())


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_a_bit(threads):
    cell = SnApGRU(INPUTS, 40, sparsity=0.5, seed=1, threads=threads)
    again = SnApGRU(INPUTS, 40, sparsity=0.5, seed=1, threads=1)
    x = torch.ones(8, INPUTS)
    for module in (cell, again):
        module(x, module(x)).sum().backward()
    assert torch.equal(cell.weight_hh.grad, again.weight_hh.grad)


def test_the_hosts_threads_are_left_alone():
    """Numba's threads, once started, would set OpenMP's number for torch as well."""
    code = """
import torch
torch.set_num_threads(1)
from sparsegrad.interop.torch import SnApGRU
SnApGRU(4, 9)(torch.zeros(1, 4)).sum().backward()
assert torch.get_num_threads() == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


class _Streams(torch.utils.data.Dataset):
    def __init__(self, cell):
        self.cell = cell

    def __len__(self):
        return 2

    def __getitem__(self, i):
        with torch.no_grad():
            return self.cell(torch.full((1, INPUTS), float(i)))


def test_in_a_data_loader_worker():
    cell = SnApGRU(INPUTS, UNITS, sparsity=0.6, seed=1)
    cell(torch.zeros(1, INPUTS)).sum().backward()
    found = list(torch.utils.data.DataLoader(_Streams(cell), num_workers=1))
    with torch.no_grad():
        for i, state in enumerate(found):
            assert torch.equal(state[0], cell(torch.full((1, INPUTS), float(i))))


def test_strided_input_is_taken_as_it_reads():
    theirs, masks = torch_cell(SnApGRU)
    cell = SnApGRU.from_torch(theirs, masks=masks)
    x = torch.randn(INPUTS, BATCH, dtype=F64).T
    h = torch.randn(UNITS, BATCH, dtype=F64).T
    assert not x.is_contiguous()
    same(cell(x, h), theirs(x, h))


def test_tensors_without_memory_of_their_own_are_taken_as_they_read():
    cell = SnApGRU(INPUTS, UNITS, sparsity=0.6, seed=1)
    x = torch.randn(2, INPUTS)
    with torch.no_grad():
        assert torch.equal(cell(torch._neg_view(x)), cell(-x))
        zeros = torch._efficientzerotensor((2, INPUTS))
        assert torch.equal(cell(zeros), cell(torch.zeros(2, INPUTS)))
        assert torch.equal(cell(x[:1].expand(2, -1)), cell(x[[0, 0]]))


def test_bad_input_is_refused_in_one_line():
    cell = SnApGRU(INPUTS, UNITS, sparsity=0.6, seed=1)
    x, h = torch.ones(2, INPUTS), torch.zeros(2, UNITS)
    h = cell(x, h).detach()
    held = cell.influence()
    fresh = SnApGRU(INPUTS, UNITS, sparsity=0.6, seed=1)
    cases = [
        (lambda: cell(x.to("meta"), h), ValueError, "x must be on the CPU, got meta"),
        (lambda: cell(x, h.to("meta")), ValueError, "state must be on the CPU, got meta"),
        (lambda: cell(x.double(), h), TypeError, "x must be torch.float32, got torch.float64"),
        (lambda: cell(x, h.double()), TypeError, "state must be torch.float32"),
        (lambda: cell(x.to_sparse(), h), TypeError, "x must be dense, got torch.sparse_coo"),
        (lambda: cell(x[None], h), ValueError, r"shape \(1, batch, hidden_size\), got \(2, 9\)"),
        (lambda: cell(x[None], torch.stack([h, h])), ValueError, r"got \(2, 2, 9\)"),
        (lambda: cell(x.numpy(), h), TypeError, "x must be a torch.Tensor, got ndarray"),
        (lambda: cell(x[:, :2], h), ValueError, r"x must have shape \(2, 4\), got \(2, 2\)"),
        (lambda: cell(x, h[:1]), ValueError, r"state must have shape \(2, 9\), got \(1, 9\)"),
        (lambda: cell(x[:1], h[:1]), ValueError, "batch must stay 2 until reset"),
        (lambda: cell(x, (h, h)), ValueError, r"state must be 1 tensor\(s\), got 2"),
        (lambda: cell(x / 0, h), ValueError, "x must be finite, got NaN or infinity in batch"),
        (lambda: fresh(x, h + torch.inf), FloatingPointError, "state must stay finite"),
        (lambda: SnApGRU(4, 9, dtype=torch.float16), TypeError, "dtype must be torch.float32 or"),
        (lambda: SnApGRU(4, 9, n=0), ValueError, "n must be at least 1"),
        (lambda: SnApGRU(4, 9, threads=0), ValueError, "threads must be an integer >= 1, got 0"),
        (lambda: SnApGRU.from_torch(torch.nn.LSTMCell(4, 9)), TypeError, "got LSTMCell"),
        (lambda: SnApGRU.from_torch(torch.nn.GRU(4, 9, 2)), TypeError, "got num_layers=2"),
        (lambda: SnApGRU.from_torch(torch.nn.GRUCell(4, 9).half()), TypeError, "float32 or"),
        (lambda: cell(x[None][:0], None), ValueError, "at least one step, got none"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert torch.equal(cell.influence(), held)
    cell.to("meta")
    with pytest.raises(ValueError, match="parameters must be on the CPU, got meta"):
        cell(x)


def test_a_batch_may_change_after_a_reset():
    cell = SnApGRU(INPUTS, UNITS, sparsity=0.6, seed=1)
    h = cell(torch.ones(2, INPUTS))
    cell.reset()
    cell(torch.ones(3, INPUTS), torch.zeros(3, UNITS)).sum().backward()
    assert cell.influence().shape[0] == 3
    cell(torch.ones(1, INPUTS))
    assert cell.influence().shape[0] == 1
    del h


def test_saturated_modules_say_rtrl():
    theirs, masks = torch_cell(SnApGRU)
    cell = SnApGRU.from_torch(theirs, n=None, masks=masks)
    learner = OnlineLearner(cell._link.host.cell, Linear(2), RTRL(), SGD(0.1))
    assert cell._window.pattern.nnz == learner.pattern.nnz
    assert cell._window.pattern.saturated


class Leaky(torch.nn.Module):
    """A cell of a user's own, with a sparse recurrent matrix and a leak per unit."""

    def __init__(self, mask, rectify=False):
        super().__init__()
        torch.manual_seed(5)
        units = mask.shape[0]
        self.weight_hh = torch.nn.Parameter(torch.randn(units, units, dtype=F64) * mask)
        self.weight_ih = torch.nn.Parameter(torch.randn(units, INPUTS, dtype=F64))
        self.leak = torch.nn.Parameter(torch.rand(units, dtype=F64))
        self.rectify = rectify
        self.register_buffer("mask", mask.to(F64))

    def forward(self, x, h):
        a = h @ (self.weight_hh * self.mask).T + x @ self.weight_ih.T
        a = torch.relu(a - 15) if self.rectify else torch.tanh(a)
        return self.leak * h + (1 - self.leak) * a


def sparse_mask(units=20, sources=2):
    torch.manual_seed(6)
    mask = torch.zeros(units, units, dtype=torch.bool)
    for row in mask:
        row[torch.randperm(units)[:sources]] = True
    return mask


def test_an_own_cell_learns_the_exact_gradient():
    mask = sparse_mask()
    cell = Leaky(mask)
    found = probe(cell, INPUTS, 20, {"weight_hh": mask})
    assert found.widened == ()
    dynamics = mask.numpy() | np.eye(20, dtype=bool)
    assert (found.dynamics.toarray() == dynamics).all()
    online_cell = SnApModule(cell, found, n=None, inputs=INPUTS)
    assert online_cell.colours < 15  # a product per unit would be 20
    below = torch.nn.Linear(3, INPUTS).double()
    raw = torch.randn(STEPS, BATCH, 3, dtype=F64)
    h, total, g = None, 0, torch.zeros(BATCH, 20, dtype=F64)
    for x in raw:
        h = online_cell(below(x).detach(), h)
        h.square().sum().backward()
        g = cell(below(x).detach(), g)
        total = total + g.square().sum()
    expected = torch.autograd.grad(total, cell.parameters())
    for p, grad in zip(cell.parameters(), expected, strict=True):
        same(p.grad, grad)
    state = h.detach()
    x = raw[0].clone() @ below.weight.detach().T
    x.requires_grad_()
    online_cell(x, state).square().sum().backward()
    y = x.detach().requires_grad_()
    cell(y, state).square().sum().backward()
    same(x.grad, y.grad)


def test_colours_keep_rows_with_a_common_column_apart():
    rng = np.random.default_rng(0)
    pattern = scipy.sparse.csr_array(rng.random((40, 40)) < 0.06)
    colours = colour_rows(pattern)
    dense = pattern.toarray()
    for colour in range(colours.max() + 1):
        assert dense[colours == colour].sum(axis=0).max() <= 1
    assert dense.sum(axis=0).max() <= colours.max() + 1 < 15
    assert sorted(set(colours.tolist())) == list(range(colours.max() + 1))
    other = scipy.sparse.csr_array(rng.random((40, 9)) < 0.1)
    both = np.concatenate([dense, other.toarray()], 1)
    colours = colour_rows(pattern, other)
    for colour in range(colours.max() + 1):
        assert both[colours == colour].sum(axis=0).max() <= 1


def test_without_rustworkx_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "rustworkx", None)
    with pytest.raises(
        ImportError, match=r'needs rustworkx.*pip install "sparsegrad-rtrl\[torch\]"'
    ):
        colour_rows(scipy.sparse.csr_array(np.eye(3, dtype=bool)))


def test_a_pattern_that_lies_is_found():
    mask = sparse_mask()
    cell = Leaky(mask)
    found = probe(cell, INPUTS, 20, {"weight_hh": mask})
    lacking = found.dynamics.toarray()
    row, column = np.argwhere(mask.numpy())[7]
    lacking[row, column] = False
    with pytest.raises(ValueError, match=rf"D\[{row}, {column}\] = .* outside it \(1 such\)"):
        SnApModule(cell, Patterns(lacking, found.immediate, found.masks), inputs=INPUTS)
    short = found.immediate.toarray()
    row, column = np.argwhere(short)[30]
    short[row, column] = False
    with pytest.raises(ValueError, match=rf"I\[{row}, {column}\]"):
        SnApModule(cell, Patterns(found.dynamics, short, found.masks), inputs=INPUTS)


def test_a_probe_widens_what_it_is_in_doubt_of():
    mask = sparse_mask()
    found = probe(Leaky(mask, rectify=True), INPUTS, 20, {"weight_hh": mask}, trials=12)
    assert found.widened
    text = found.widened[0]
    assert text.startswith("row ")
    assert "made full" in text
    row = int(text.split()[1])
    assert found.dynamics.toarray()[row].all()
    with pytest.raises(ValueError, match="trials must be at least 2"):
        probe(Leaky(mask), INPUTS, 20, trials=1)
    with pytest.raises(ValueError, match="mask weight_hh must be bool of shape"):
        probe(Leaky(mask), INPUTS, 20, {"weight_hh": mask[:3]})
    with pytest.raises(ValueError, match="masks must be of"):
        probe(Leaky(mask), INPUTS, 20, {"weight": mask})


def test_an_own_cell_keeps_the_rules_of_a_window():
    mask = sparse_mask()
    cell = Leaky(mask)
    online_cell = SnApModule(cell, probe(cell, INPUTS, 20, {"weight_hh": mask}), n=2)
    xs, _ = data()
    h = online_cell(xs[0])
    with torch.no_grad():
        online_cell(xs[1][:1], h[:1])
    h.sum().backward()
    with pytest.raises(RuntimeError, match="a second time"):
        h.sum().backward()
    with pytest.raises(ValueError, match="batch must stay 3 until reset"):
        online_cell(xs[1][:1], h[:1])
    online_cell.reset(torch.tensor([True, False, False]))
    assert online_cell.influence()[0].abs().max() == 0
    assert online_cell.influence()[1].abs().max() > 0
    online_cell.reset()
    online_cell(xs[1][:1], h[:1].detach())
    with pytest.raises(TypeError, match=r"x must be torch.float64, got torch.float32"):
        online_cell(xs[0].float())


def own_module(seed=6, n=2):
    mask = sparse_mask()
    cell = Leaky(mask)
    with torch.no_grad():
        cell.leak.copy_(torch.rand(20, generator=torch.Generator().manual_seed(seed)))
    return SnApModule(cell, probe(cell, INPUTS, 20, {"weight_hh": mask}), n=n)


def test_an_own_cell_resumes_bit_for_bit():
    xs, _ = data(steps=6)
    cell = own_module()
    h = None
    for x in xs[:3]:
        h = cell(x, h)
        h.square().sum().backward()
    held = cell.influence()
    assert held.abs().max() > 0
    file = io.BytesIO()
    torch.save(cell.state_dict(), file)
    file.seek(0)
    other = own_module(seed=7)
    other.load_state_dict(torch.load(file, weights_only=True))
    twin = copy.deepcopy(cell)
    pickled = pickle.loads(pickle.dumps(cell))
    goes_on = [cell, other, twin, pickled]
    for module in goes_on:
        assert torch.equal(module.influence(), held)
        module.zero_grad()
        state = h.detach()
        for x in xs[3:]:
            state = module(x, state)
            state.square().sum().backward()
        module.last = state.detach()
    for module in goes_on[1:]:
        assert torch.equal(module.last, cell.last)
        assert torch.equal(module.influence(), cell.influence())
        for p, q in zip(module.parameters(), cell.parameters(), strict=True):
            assert p is not q
            assert torch.equal(p, q)
            assert torch.equal(p.grad, q.grad)


def test_an_own_cells_state_of_other_patterns_is_refused():
    cell = own_module()
    with pytest.raises(RuntimeError, match="what n=3 keeps, got"):
        own_module(n=3).load_state_dict(cell.state_dict())
    dense = torch.ones(20, 20, dtype=torch.bool)
    wide = Leaky(dense)
    wide = SnApModule(wide, probe(wide, INPUTS, 20), n=2)
    with pytest.raises(RuntimeError, match=r"load it into a module of the n|of these patterns"):
        wide.load_state_dict(cell.state_dict())


def test_an_own_cell_follows_double_and_float():
    cell = own_module()
    xs, _ = data()
    cell(xs[0])
    held = cell.influence()
    cell.float()
    assert torch.equal(cell.influence(), held.float())
    cell.module.mask = cell.module.mask.float()
    h = cell(xs[1].float(), torch.zeros(BATCH, 20))
    h.sum().backward()
    assert cell.module.leak.grad.dtype == torch.float32


def test_an_own_cell_refuses_what_is_not_finite():
    cell = own_module()
    xs, _ = data()
    h = cell(xs[0])
    held = cell.influence()
    with pytest.raises(FloatingPointError, match="must stay finite"):
        cell(xs[1] * torch.nan, h)
    assert torch.equal(cell.influence(), held)
