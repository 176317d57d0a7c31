"""Windows in torch: exact inside, J where the graph ends; against autograd and against NumPy."""

import copy
import gc
import io
import pickle
import weakref
from itertools import pairwise

import numpy as np
import oracle
import pytest
from test_exactness import a_cell, assert_same, data, oracle_of

from sparsegrad.cells import GRU, LSTM, RNN

torch = pytest.importorskip("torch", reason="torch is not installed: it is the host here")

from sparsegrad.interop.torch import SnApGRU, SnApLSTM, SnApRNN  # noqa: E402

F64 = torch.float64
KINDS = [(SnApRNN, RNN), (SnApGRU, GRU), (SnApLSTM, LSTM)]
INPUTS, UNITS, BATCH, OUTPUTS, STEPS = 4, 9, 3, 5, 11
RAGGED = (0, 3, 4, 9, 11)
"""Where windows begin, and the end."""


def cell(kind=SnApGRU, n=2, **options):
    options = {"sparsity": 0.5, "seed": 1, "dtype": F64, "window": True, **options}
    return kind(INPUTS, UNITS, n=n, **options)


def readout():
    torch.manual_seed(2)
    return torch.nn.Linear(UNITS, OUTPUTS, dtype=F64)


def inputs(steps=STEPS, batch=BATCH):
    return torch.randn(steps, batch, INPUTS, dtype=F64, generator=torch.Generator().manual_seed(3))


def head(state):
    return state[0] if isinstance(state, tuple) else state


def changed(state, how):
    return tuple(map(how, state)) if isinstance(state, tuple) else how(state)


def loss_of(out, state):
    return out(head(state)).square().sum()


def learn(module, out, xs, cuts=RAGGED, h=None, begins=None):
    """Make the steps of each window, then one backward pass; return the last state."""
    for first, last in pairwise(cuts):
        loss = 0
        for t in range(first, last):
            if begins is not None and t and begins[t].any():
                keep = (~begins[t]).to(F64)[:, None]
                h = changed(h, lambda part, keep=keep: part * keep)
            h = module(xs[t], h)
            loss = loss + loss_of(out, h)
        loss.backward()
    return h


def unrolled(module, out, xs, begins=None, weights_of=None):
    """Gradients by autograd through the whole stream, masked, and that of the inputs."""
    exact = (weights_of or module).to_torch()
    xs = xs.clone().requires_grad_()
    h, loss = None, 0
    for t, x in enumerate(xs):
        if begins is not None and t and begins[t].any():
            keep = (~begins[t]).to(F64)[:, None]
            h = changed(h, lambda part, keep=keep: part * keep)
        h = exact(x, h)
        loss = loss + loss_of(out, h)
    loss.backward()
    masks = module.masks()
    return {n: p.grad * masks[n] for n, p in exact.named_parameters()}, xs.grad


def assert_near(found, expected, tolerance=1e-10):
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        size = grad.abs().max()
        assert size > 1e-6
        assert (found[name] - grad).abs().max() <= tolerance * size, name


def begins_inside(steps=STEPS):
    begins = torch.zeros(steps, BATCH, dtype=torch.bool)
    begins[2, 0] = begins[6, 1] = begins[6, 2] = begins[9, 0] = True
    return begins


@pytest.mark.parametrize("cuts", [RAGGED, tuple(range(STEPS + 1)), (0, STEPS)])
@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_exact_windows_are_bptt_over_the_whole_stream(kind, cuts):
    module, out, xs = cell(kind, n=None), readout(), inputs()
    expected, _ = unrolled(module, out, xs)
    learn(module, out, xs, cuts)
    assert_near(module.dense_grad(), expected)


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_sequence_calls_are_windows(kind, detached):
    module, out, xs = cell(kind, n=None), readout(), inputs()
    expected, x_grad = unrolled(module, out, xs)
    xs, h = xs.clone().requires_grad_(), None
    for first, last in pairwise(RAGGED):
        outputs, h = module(xs[first:last], h)
        out(outputs).square().sum().backward()
        if detached:
            h = changed(h, torch.Tensor.detach)
    assert_near(module.dense_grad(), expected)
    # of an input too the gradient is the whole one as far as its own window goes
    assert torch.allclose(xs.grad[RAGGED[-2] :], x_grad[RAGGED[-2] :], rtol=1e-10)


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_sequences_that_begin_inside_windows(kind):
    module, out, xs, begins = cell(kind, n=None), readout(), inputs(), begins_inside()
    expected, _ = unrolled(module, out, xs, begins)
    learn(module, out, xs, begins=begins)
    assert_near(module.dense_grad(), expected)


def test_a_reset_begins_at_a_state_of_ones_own():
    """Rows that reset() names begin at a state that no gradient flows into."""
    module, out, xs = cell(n=None), readout(), inputs()
    start = torch.randn(BATCH, UNITS, dtype=F64)
    exact = module.to_torch()
    h, loss = None, 0
    row = torch.tensor([True, False, True])
    for t, x in enumerate(xs):
        if t == 5:
            h = torch.where(row[:, None], start, h)
        h = exact(x, h)
        loss = loss + loss_of(out, h)
    loss.backward()
    h = learn(module, out, xs[:4], (0, 4))
    loss = 0
    for t in range(4, STEPS):
        if t == 5:  # inside a window: the graph ends here
            module.reset(row)
            h = torch.where(row[:, None], start, h).detach()
        h = module(xs[t], h)
        loss = loss + loss_of(out, h)
    loss.backward()
    masks = module.masks()
    expected = {n: p.grad * masks[n] for n, p in exact.named_parameters()}
    assert_near(module.dense_grad(), expected)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(("kind", "ours"), KINDS)
def test_snap_in_windows_equals_the_three_lines_in_numpy(kind, ours, n):
    """With SGD at the end of each window of 3; the last one is ragged."""
    host = a_cell(ours, units=5)
    xs, _, values = data(STEPS, BATCH)
    name, p, masks, kept = oracle_of(host, n)
    begins = begins_inside()
    losses, after, _, J = oracle.windows(
        name, p, masks, xs, values, kept, 3, 0.1, False, begins.numpy()
    )
    module = kind.from_cell(host, n=n, window=True)
    out = torch.nn.Linear(5, OUTPUTS, dtype=F64)
    with torch.no_grad():
        out.weight.copy_(torch.tensor(p["readout.weight"]))
        out.bias.copy_(torch.tensor(p["readout.bias"]))
    optimizer = torch.optim.SGD([*module.parameters(), *out.parameters()], lr=0.1)
    h, found = None, []
    for first in range(0, STEPS, 3):
        loss = 0
        for t in range(first, min(first + 3, STEPS)):
            if t and begins[t].any():
                keep = (~begins[t]).to(F64)[:, None]
                h = changed(h, lambda part, keep=keep: part * keep)
            h = module(torch.tensor(xs[t]), h)
            one = 0.5 * (out(head(h)) - torch.tensor(values[t])).square().sum() / BATCH
            found.append(one.item())
            loss = loss + one
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(found, losses, rtol=1e-11)
    learned = {n: v.numpy() for n, v in module.dense().items()}
    learned |= {"readout.weight": out.weight.detach().numpy()}
    assert_same(learned, {n: after[n] for n in learned}, tolerance=1e-11)
    assert np.abs(after["weight_hh"] - p["weight_hh"]).max() > 1e-3
    entries = module.influence().numpy()
    pattern = module._link.host.pattern
    size = np.abs(J).max()
    for b in range(BATCH):
        assert np.isclose(np.abs(entries[b]).max(), np.abs(J[b]).max(), rtol=1e-10)
        assert np.isclose((entries[b] ** 2).sum(), (J[b] ** 2).sum(), rtol=1e-10)
    assert size > 1e-3
    assert entries.shape[1] == pattern.nnz


def test_a_window_is_neither_truncated_nor_the_method_alone():
    out, xs = readout(), inputs()
    found = {}
    for name, n, window in (("window", 1, True), ("alone", 1, False), ("exact", None, True)):
        module = cell(n=n, window=window)
        learn(module, out, xs)
        found[name] = module.dense_grad()["weight_hh"]
    module, h = cell(n=1), None  # truncated: J begins anew at each window
    for first, last in pairwise(RAGGED):
        loss = 0
        for t in range(first, last):
            if t == first and t:
                module.reset()
                h = h.detach()
            h = module(xs[t], h)
            loss = loss + loss_of(out, h)
        loss.backward()
    found["truncated"] = module.dense_grad()["weight_hh"]
    error = {name: float((grad - found["exact"]).norm()) for name, grad in found.items()}
    assert 1e-6 < error["window"] < min(error["alone"], error["truncated"])


def test_layers_below_learn_through_time():
    """Two of ours on a linear layer: in one window all is BPTT, whatever n."""
    torch.manual_seed(4)
    below, out, xs = torch.nn.Linear(6, INPUTS, dtype=F64), readout(), inputs()
    raw = torch.randn(STEPS, BATCH, 6, dtype=F64)
    first, second = cell(n=1), SnApLSTM(UNITS, UNITS, n=1, sparsity=0.5, seed=2, dtype=F64,
                                        window=True)  # fmt: skip
    exact = first.to_torch(), second.to_torch()
    grads = []
    for one, two in (exact, (first, second)):
        below.zero_grad()
        h = g = None
        loss = 0
        for x in raw:
            h = one(below(x), h)
            g = two(h, g)
            loss = loss + loss_of(out, g)
        loss.backward()
        grads.append(below.weight.grad.clone())
    assert torch.allclose(grads[1], grads[0], rtol=1e-10)
    masks = first.masks()
    expected = {n: p.grad * masks[n] for n, p in exact[0].named_parameters()}
    assert_near(first.dense_grad(), expected)
    assert xs.shape[0] == STEPS


def test_frozen_weights_hand_the_gradient_on():
    module, xs = cell(), inputs().requires_grad_()
    module.requires_grad_(False)
    _, expected = unrolled(module, readout(), xs.detach())
    outputs, _ = module(xs)
    readout()(outputs).square().sum().backward()
    assert torch.allclose(xs.grad, expected, rtol=1e-10)
    assert module.weight_hh.grad is None


def test_steps_without_grad_leave_the_window_open():
    module, out, xs = cell(n=None), readout(), inputs()
    expected, _ = unrolled(module, out, xs)
    h, loss = None, 0
    for t, x in enumerate(xs):
        if t == 5:
            with torch.no_grad():
                module(torch.randn_like(x), h)
        h = module(x, h)
        loss = loss + loss_of(out, h)
    loss.backward()
    assert_near(module.dense_grad(), expected)


def test_a_state_that_was_detached_ends_the_graph_and_loses_nothing():
    """The losses before and after it go back in one pass, or the later ones alone."""
    module, out, xs = cell(n=None), readout(), inputs()
    expected, _ = unrolled(module, out, xs)
    h, loss = None, 0
    for t, x in enumerate(xs):
        h = module(x, h if t != 5 else h.detach())
        loss = loss + loss_of(out, h)
    loss.backward()
    assert_near(module.dense_grad(), expected)


def test_losses_of_a_part_go_first():
    """A pass through the first steps of a window ends it there; the rest is a window of its own."""
    module, out, xs = cell(n=None), readout(), inputs()
    expected, _ = unrolled(module, out, xs)
    h, losses = None, []
    for x in xs:
        h = module(x, h)
        losses.append(loss_of(out, h))
    sum(losses[:4]).backward()
    sum(losses[4:]).backward()
    assert_near(module.dense_grad(), expected)


def test_a_second_pass_through_a_window_is_refused_and_changes_nothing():
    module, out, xs = cell(), readout(), inputs()
    h, losses = None, []
    for x in xs[:4]:
        h = module(x, h)
        losses.append(loss_of(out, h))
    (losses[3] * 1).backward(retain_graph=True)
    held, J = module.weight_hh.grad.clone(), module.influence()
    for late in (losses[3], losses[1]):
        with pytest.raises(RuntimeError, match="must have one backward pass, got another") as why:
            late.backward(retain_graph=True)
        assert "\n" not in str(why.value)
    assert torch.equal(module.weight_hh.grad, held)
    assert torch.equal(module.influence(), J)
    loss_of(out, module(xs[4], h)).backward()  # and it goes on
    assert not torch.equal(module.weight_hh.grad, held)


def test_gradients_of_inputs_alone_spend_nothing():
    module, out, xs = cell(n=None), readout(), inputs().requires_grad_()
    expected, x_grad = unrolled(module, out, xs.detach())
    outputs, _ = module(xs)
    loss = out(outputs).square().sum()
    (found,) = torch.autograd.grad(loss, xs, retain_graph=True)
    assert torch.allclose(found, x_grad, rtol=1e-10)
    loss.backward()
    assert_near(module.dense_grad(), expected)


def test_gradients_of_each_sequence():
    module, out, xs = cell(n=None), readout(), inputs()
    h = learn(module, out, xs[:5], (0, 5))
    losses = torch.zeros(BATCH, dtype=F64)
    for x in xs[5:]:
        h = module(x, h)
        losses = losses + out(h).square().sum(1)
    found = module.per_sample_grad(losses)
    masks = module.masks()
    for b in range(BATCH):  # each by autograd alone: the whole stream, without the window before
        whole, before = (unrolled(module, out, part[:, b : b + 1])[0] for part in (xs, xs[:5]))
        for name, grads in found.items():
            expected = (whole[name] - before[name])[masks[name]]
            assert torch.allclose(grads[b], expected, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("kind", [SnApGRU, SnApLSTM])
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict", "save"])
def test_a_copy_inside_a_window_goes_on_from_its_j(kind, way):
    """The steps of the open window are in no graph of the copy: J has them."""
    module, out, xs = cell(kind, n=None), readout(), inputs()
    h = learn(module, out, xs[:4], (0, 4))
    for x in xs[4:7]:  # an open window
        h = module(x, h)
    if way == "deepcopy":
        other = copy.deepcopy(module)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(module))
    elif way == "state_dict":
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        other = cell(kind, n=None, seed=5)
        other.load_state_dict(torch.load(file))
    else:
        saved, other = module.save(), module
        ahead = module(xs[7], h)
        module.restore(saved)
        assert head(ahead).requires_grad
    assert other.window
    other.zero_grad()
    learn(other, out, xs[7:], (0, 2, 4), h)
    whole, until = unrolled(cell(kind, n=None), out, xs)[0], {}
    for name, grad in unrolled(cell(kind, n=None), out, xs[:7])[0].items():
        until[name] = whole[name] - grad
    assert_near(other.dense_grad(), until, 1e-9)


def test_the_window_goes_on_after_a_refused_step():
    module, out, xs = cell(n=None), readout(), inputs()
    expected, _ = unrolled(module, out, xs)
    h, loss = None, 0
    for t, x in enumerate(xs):
        if t == 6:
            with pytest.raises(ValueError, match="x must be finite"):
                module(x * torch.nan, h)
            with pytest.raises(ValueError, match="must be the one that the last step returned"):
                module(x, h + 1)
        h = module(x, h)
        loss = loss + loss_of(out, h)
    loss.backward()
    assert_near(module.dense_grad(), expected)


def test_a_loss_of_nan_leaves_j_at_the_start_of_the_window():
    module, out, xs = cell(), readout(), inputs()
    h = learn(module, out, xs[:4], (0, 4))
    J, held = module.influence(), module.weight_hh.grad.clone()
    h_bad, state = None, h.detach()
    saved = module.save()
    h_bad = state
    loss = 0
    for x in xs[4:7]:
        h_bad = module(x, h_bad)
        loss = loss + loss_of(out, h_bad)
    with pytest.raises(FloatingPointError, match="learning signal must be finite"):
        (loss * torch.nan).backward()
    assert torch.equal(module.weight_hh.grad, held)
    module.restore(saved)
    assert torch.equal(module.influence(), J)
    learn(module, out, xs[4:7], (0, 3), state)


def test_threads_change_nothing():
    found = []
    for threads in (1, 2):
        module, out, xs = cell(threads=threads), readout(), inputs()
        learn(module, out, xs)
        found.append((module.weight_hh.grad, module.influence()))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_graph_that_nobody_holds_is_freed():
    """A loop that detaches keeps no more than two steps; a module that is gone keeps none."""
    module, xs = cell(SnApLSTM), inputs()
    h = None
    for _ in range(5):
        for x in xs:
            h = changed(module(x, h), torch.Tensor.detach)
    assert len(module._window._waiting) <= 2
    h = module(xs[0], h)
    gone = weakref.ref(module._tail.window)
    del module, h
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("value", [8, None, "yes"])
def test_what_is_no_bool_is_refused(value):
    with pytest.raises(TypeError, match="window must be a bool") as why:
        cell(window=value)
    assert "\n" not in str(why.value)


def test_functional_steps_are_windows_of_one_and_leave_the_modules_open():
    module, out, xs = cell(n=None), readout(), inputs()
    expected, _ = unrolled(module, out, xs)
    h = J = None
    for x in xs:  # the state of another window is in no graph of this one: J takes over
        h, J = module.step(x, h, J)
        loss_of(out, h).backward()
    assert_near(module.dense_grad(), expected)
    module, h, loss = cell(n=1), None, 0  # one window, so that all is the graph's
    for t, x in enumerate(xs):
        h = module(x, h)
        if t == 5:
            module.step(torch.randn_like(x))
        loss = loss + loss_of(out, h)
    loss.backward()
    assert_near(module.dense_grad(), expected)


def test_layers_below_have_one_graph_per_window():
    """The state is given back as it was: what a pass has used up is in no later one."""
    torch.manual_seed(4)
    below, out, module = torch.nn.Linear(6, INPUTS, dtype=F64), readout(), cell(n=None)
    raw = torch.randn(STEPS, BATCH, 6, dtype=F64)
    h = None
    for first, last in pairwise(RAGGED):
        loss = 0
        for t in range(first, last):
            h = module(below(raw[t]), h)
            loss = loss + loss_of(out, h)
        loss.backward()
    expected, _ = unrolled(module, out, below(raw).detach())
    assert_near(module.dense_grad(), expected)
