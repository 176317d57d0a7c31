"""Habits that are legal with torch.nn.GRUCell: the same program on both, or a line that says no."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: it is the host here")

from torch.utils.checkpoint import checkpoint  # noqa: E402

from sparsegrad.interop.torch import SnApGRU, SnApLSTM  # noqa: E402

F64 = torch.float64
BATCH, INPUTS, UNITS, STEPS = 3, 4, 7, 6
KINDS = [SnApGRU, SnApLSTM]


def pair(kind, seed=1):
    """A dense cell of torch.nn, and ours with its weights at exact RTRL."""
    torch.manual_seed(seed)
    theirs = getattr(torch.nn, kind._name + "Cell")(INPUTS, UNITS, dtype=F64)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.randn(p.shape, dtype=F64) * 0.4)
            if p.dim() == 2:
                p.mul_(torch.rand(p.shape) < 0.5)
    return theirs, kind.from_torch(theirs, n=None)


def inputs(steps=STEPS, batch=BATCH, seed=2):
    torch.manual_seed(seed)
    return torch.randn(steps, batch, INPUTS, dtype=F64)


def loss_of(state):
    h = state[0] if isinstance(state, tuple) else state
    return h.square().sum() + h.sin().sum()


def on(state, change):
    """Change each component of a state."""
    return tuple(map(change, state)) if isinstance(state, tuple) else change(state)


def zeros(cell, batch=BATCH):
    part = torch.zeros(batch, UNITS, dtype=F64)
    return (part, part) if isinstance(cell, SnApLSTM | torch.nn.LSTMCell) else part


DONE = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=F64)


def times_not_done(cell, learn, cut):
    h = zeros(cell)
    for x, done in zip(inputs(), DONE, strict=True):
        h = on(h, lambda s: s * (1 - done)[:, None])  # noqa: B023
        h = cell(x, h)
        learn(loss_of(h))
        h = on(h, cut)


def where_not_done(cell, learn, cut):
    h = zeros(cell)
    for x, done in zip(inputs(), DONE, strict=True):
        h = on(h, lambda s: torch.where(done[:, None] > 0, 0.0, s))  # noqa: B023
        h = cell(x, h)
        learn(loss_of(h))
        h = on(h, cut)


def zeroed_in_place(cell, learn, cut):
    h = zeros(cell)
    for x, done in zip(inputs(), DONE, strict=True):
        h = cell(x, h)
        learn(loss_of(h))
        h = on(h, lambda s: cut(s).clone())
        for part in h if isinstance(h, tuple) else (h,):
            part[done > 0] = 0


def a_state_through_other_shapes(cell, learn, cut):
    h = zeros(cell)
    for x in inputs():
        h = cell(x, on(h, lambda s: torch.cat([s[:1], s[1:]]).T.contiguous().T[None][0]))
        learn(loss_of(h))
        h = on(h, cut)


def a_loss_now_and_then(cell, learn, cut):
    h = zeros(cell)
    for t, x in enumerate(inputs()):
        h = cell(x, h)
        if t in (2, 5):
            learn(loss_of(h))
        h = on(h, cut)


def evaluation_without_gradients(cell, learn, cut):
    h = zeros(cell)
    for x in inputs():
        h = cell(x, h)
        learn(loss_of(h))
        h = on(h, cut)
        with torch.no_grad():
            other = cell(inputs(1, 2)[0])
            cell(inputs(1, 2)[0], other)
            cell(x, h)  # a value to bootstrap from


def no_state_begins_again(cell, learn, cut):
    for x in inputs():
        h = cell(x)
        learn(loss_of(h))
        h = cell(x, on(h, cut))
        learn(loss_of(h))


def zeros_of_another_batch_begin(cell, learn, cut):
    for batch in (2, 3, 1):
        h = zeros(cell, batch)
        for x in inputs(2, batch):
            h = cell(x, h)
            learn(loss_of(h))
            h = on(h, cut)


RIGHT = [
    times_not_done,
    where_not_done,
    zeroed_in_place,
    a_state_through_other_shapes,
    a_loss_now_and_then,
    evaluation_without_gradients,
    no_state_begins_again,
    zeros_of_another_batch_begin,
]


def same(found, expected, tolerance=1e-10):
    size = expected.abs().max()
    assert size > 1e-6
    assert (found - expected).abs().max() <= tolerance * size


def gradients_agree(theirs, ours, tolerance=1e-10):
    masks = ours.masks()
    for name, grad in ours.dense_grad().items():
        same(grad, getattr(theirs, name).grad * masks[name], tolerance)


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("habit", RIGHT, ids=lambda habit: habit.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_a_habit_has_the_gradient_of_autograd(kind, habit, detached):
    theirs, ours = pair(kind)
    losses = []
    habit(theirs, losses.append, lambda s: s)
    sum(losses).backward()
    habit(ours, lambda loss: loss.backward(), lambda s: s.detach() if detached else s)
    gradients_agree(theirs, ours)


@pytest.mark.parametrize("kind", KINDS)
def test_one_backward_over_sequences_that_end_within_it(kind):
    theirs, ours = pair(kind)
    for cell in (theirs, ours):
        losses = []
        times_not_done(cell, losses.append, lambda s: s)
        sum(losses).backward()
    gradients_agree(theirs, ours)


def after_steps(cell, steps=2):
    h = zeros(cell)
    for x in inputs(steps):
        h = cell(x, h)
        loss_of(h).backward()
    return h


OTHER = "got another in batch element"


def refused_habits():
    x = inputs(1)[0]

    def second_stream(cell):
        h = after_steps(cell)
        other = torch.randn(BATCH, UNITS, dtype=F64)
        cell(x, other)
        return h

    def evaluated_with_gradients(cell):
        h = after_steps(cell)
        cell(x)
        cell(x, h)

    def twice(cell):
        h = after_steps(cell)
        cell(x, h).sum().backward()
        cell(x, h)

    def with_noise(cell):
        cell(x, after_steps(cell) + 1e-9)

    def rows_exchanged(cell):
        cell(x, after_steps(cell)[[1, 0, 2]])

    def warmed_up_without_gradients(cell):
        h = after_steps(cell)
        with torch.no_grad():
            h = cell(x, h)
        cell(x, h)

    def checkpointed(cell):
        h = after_steps(cell)
        a = checkpoint(cell, x, h, use_reentrant=False)
        checkpoint(cell, x, a, use_reentrant=False).sum().backward()

    return [
        second_stream, evaluated_with_gradients, twice, with_noise, rows_exchanged,
        warmed_up_without_gradients, checkpointed,
    ]  # fmt: skip


@pytest.mark.parametrize("habit", refused_habits(), ids=lambda habit: habit.__name__)
def test_a_state_whose_influence_is_not_here_is_refused(habit):
    _, ours = pair(SnApGRU)
    with pytest.raises(ValueError, match=OTHER) as caught:
        habit(ours)
    assert "\n" not in str(caught.value)
    assert "restore()" in str(caught.value)


def test_nothing_is_lost_after_a_refused_step():
    _, ours = pair(SnApGRU)
    h = after_steps(ours)
    held = ours.influence()
    x = inputs(1)[0]
    for state in (h + 1, h[:2]):
        with pytest.raises(ValueError, match="got"):
            ours(x[: len(state)], state)
    with pytest.raises(ValueError, match="x must be finite"):
        ours(x * torch.nan)
    assert torch.equal(ours.influence(), held)
    ours(x, h).sum().backward()


def test_a_state_that_wants_a_gradient_begins_no_sequence():
    _, ours = pair(SnApGRU)
    x = inputs(1)[0]
    encoder = torch.nn.Linear(2, UNITS).double()
    start = encoder(torch.ones(BATCH, 2, dtype=F64))
    learned = torch.nn.Parameter(torch.ones(UNITS, dtype=F64))
    for state in (start, learned.expand(BATCH, -1)):
        with pytest.raises(ValueError, match=r"must not want a gradient.*detach\(\) it"):
            ours(x, state)
    h = ours(x, start.detach())
    done = torch.tensor([True, False, False])
    ours.reset(done)
    with pytest.raises(ValueError, match="in batch element 0: none flows into it"):
        ours(x, torch.where(done[:, None], learned, h))
    ours(x, torch.where(done[:, None], learned, h).detach()).sum().backward()
    with pytest.raises(ValueError, match="must not want a gradient"):  # recomputed in backward
        checkpoint(pair(SnApGRU)[1], x, start, use_reentrant=True).sum().backward()


def test_a_given_state_begins_a_sequence():
    theirs, ours = pair(SnApGRU)
    start = torch.randn(BATCH, UNITS, dtype=F64)
    done = torch.tensor([True, False, True])
    for cell in (theirs, ours):
        h, losses = start, []
        for t, x in enumerate(inputs()):
            if t == 3:
                if cell is ours:
                    cell.reset(done)
                h = (
                    torch.where(done[:, None], start, h).detach()
                    if cell is ours
                    else torch.where(done[:, None], start, h)
                )
            h = cell(x, h)
            losses.append(loss_of(h))
        sum(losses).backward()
    gradients_agree(theirs, ours)


def test_a_state_that_is_zero_itself_says_neither():
    ours = SnApGRU(INPUTS, UNITS, sparsity=0.4, seed=1, dtype=F64)  # its biases are zero
    nothing, x = torch.zeros(BATCH, INPUTS, dtype=F64), inputs(1)[0]
    h = ours(nothing)
    assert not h.any()
    h = ours(nothing, h)  # the tensor itself, or another on its memory, goes on
    h = ours(nothing, h.detach())
    held = ours.influence()
    assert held.abs().max() > 0
    with pytest.raises(ValueError, match=r"whether it begins a sequence.*reset\(which\)"):
        ours(x, h * 1)
    ours.reset(torch.zeros(BATCH, dtype=torch.bool))
    assert torch.equal(ours.influence(), held)
    ours(x, h * 1)
    fresh = SnApGRU(INPUTS, UNITS, sparsity=0.4, seed=1, dtype=F64)
    fresh(x)
    assert not torch.equal(ours.influence(), fresh.influence())
    begun = SnApGRU(INPUTS, UNITS, sparsity=0.4, seed=1, dtype=F64)
    h = begun(nothing)
    begun.reset(True)
    begun(x, h * 0)
    assert torch.equal(begun.influence(), fresh.influence())


@pytest.mark.parametrize("kind", KINDS)
def test_streams_side_by_side_through_step(kind):
    """Self-play: two streams through one cell, in turns, one loss of both."""
    theirs, ours = pair(kind)
    xs, ys = inputs(seed=5), inputs(batch=2, seed=6)
    g, k, losses = zeros(theirs), zeros(theirs, 2), []
    for x, y in zip(xs, ys, strict=True):
        g, k = theirs(x, g), theirs(y, k)
        losses.append(loss_of(g) * loss_of(k))
    sum(losses).backward()
    g = k = J = K = None
    for x, y in zip(xs, ys, strict=True):
        g, J = ours.step(x, g, J)
        k, K = ours.step(y, k, K)
        (loss_of(g) * loss_of(k)).backward()
    gradients_agree(theirs, ours)
    assert ours.influence().shape[0] == 0  # its own J has not begun
    with pytest.raises(ValueError, match=OTHER):
        ours.step(xs[0], on(g, lambda s: s + 1), J)


def test_a_step_that_is_made_again():
    """A closure as of LBFGS: each time from the same state and J, at the weights of then."""
    theirs, ours = pair(SnApGRU)
    xs = inputs()
    h, J = None, None
    for x in xs[:3]:
        h, J = ours.step(x, h, J)
        loss_of(h).backward()
    h = h.detach()
    grads = []
    for _ in range(3):
        ours.zero_grad()
        new, _ = ours.step(xs[3], h, J)
        loss_of(new).backward()
        grads.append(ours.dense_grad()["weight_hh"])
    assert torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], grads[2])
    g = None
    for x in xs[:3]:
        g = theirs(x, g)
    theirs.zero_grad()
    loss_of(theirs(xs[3], g)).backward()
    gradients_agree(theirs, ours)


def test_save_and_restore():
    theirs, ours = pair(SnApGRU)
    xs = inputs()
    h = None
    for x in xs[:2]:
        h = ours(x, h)
        loss_of(h).backward()
    saved, held, then = ours.save(), ours.influence(), h
    for _ in range(2):  # an epoch is run again, an evaluation in between
        ours.zero_grad()
        h = then
        for x in xs[2:4]:
            h = ours(x, h)
            loss_of(h).backward()
        ours(xs[5][:1])
        ours.restore(saved)
        assert torch.equal(ours.influence(), held)
    g = None
    for x in xs[:2]:
        g = theirs(x, g)
    theirs.zero_grad()
    losses = []
    for x in xs[2:4]:
        g = theirs(x, g)
        losses.append(loss_of(g))
    sum(losses).backward()
    gradients_agree(theirs, ours)
    with pytest.raises(TypeError, match="saved must be what save"):
        ours.restore(held)
    with pytest.raises(ValueError, match="of this module or a copy of it"):
        pair(SnApGRU, seed=4)[1].restore(saved)


def test_nothing_is_copied_that_need_not_be():
    _, ours = pair(SnApGRU)
    h = after_steps(ours)
    window, place = ours._window, ours._window._influence._panels.ctypes.data
    saved = ours.save()
    assert ours._window is window
    ours.restore(saved)
    assert ours._window is window
    del saved
    h = ours(inputs(1)[0], h)
    h.sum().backward()
    assert ours._window._influence._panels.ctypes.data == place
    J = ours.save()
    for x in inputs():
        h, J = ours.step(x, h, J)
        h.sum().backward()
    assert J._window._influence._panels.ctypes.data == place
    kept = J
    h, J = ours.step(inputs(1)[0], h, J)
    h.sum().backward()
    assert kept.store().influence._panels.ctypes.data == place
    assert J._window._influence._panels.ctypes.data != place


@pytest.mark.parametrize("index", [1, slice(1, 3), [2, 0], np.array([False, True, True])])
def test_some_of_the_saved_sequences_go_on(index):
    theirs, ours = pair(SnApGRU)
    xs = inputs()
    h = None
    for x in xs[:3]:
        h = ours(x, h)
    ours.restore(ours.save()[index])
    chosen = np.atleast_1d(np.arange(BATCH)[index])
    h = h.detach()[chosen]
    for x in xs[3:]:
        h = ours(x[chosen], h)
        loss_of(h).backward()
    g, losses = None, []
    for t, x in enumerate(xs):
        g = theirs(x, g)
        losses.append(loss_of(g[chosen]) if t >= 3 else 0)
    sum(losses).backward()
    gradients_agree(theirs, ours)


def test_saved_sequences_that_are_not_there():
    ours = SnApGRU(INPUTS, UNITS, sparsity=0.4, dtype=F64)
    assert ours.save().batch == 0
    with pytest.raises(IndexError, match="no sequence yet"):
        ours.save()[0]
    h = after_steps(ours)
    with pytest.raises(IndexError):
        ours.save()[3]
    with pytest.raises(IndexError, match="at least one"):
        ours.save()[[]]
    assert h.shape[0] == ours.save().batch == BATCH


def test_a_fresh_save_is_a_fresh_start():
    _, ours = pair(SnApGRU)
    fresh = ours.save()
    h = after_steps(ours)
    held = ours.influence()
    ours.restore(fresh)
    assert ours.influence().shape[0] == 0
    after_steps(ours)
    assert torch.equal(ours.influence(), held)
    assert h is not None


def test_gradients_per_stream():
    """TD(λ) with an environment in each batch element: a trace of gradients for each."""
    theirs, ours = pair(SnApGRU)
    readout = torch.nn.Linear(UNITS, 1).double()
    xs = inputs()
    h, found = None, []
    for x in xs:
        h = ours(x, h)
        found.append(ours.per_sample_grad(readout(h)[:, 0], retain_graph=True))
        readout.zero_grad()
        readout(h).sum().backward()  # and the layer above once more
    masks = ours.masks()
    for t in (1, 3, 5):
        for b in range(BATCH):
            g = None
            for x in xs[: t + 1]:
                g = theirs(x[b : b + 1], g)
            expected = torch.autograd.grad(readout(g).sum(), [theirs.weight_hh, theirs.bias_ih])
            same(found[t]["weight_hh"][b], expected[0][masks["weight_hh"]])
            same(found[t]["bias_ih"][b], expected[1])
    with pytest.raises(ValueError, match=r"losses must have shape \(3,\)"):
        ours.per_sample_grad(readout(h).sum())


def test_gradients_per_stream_over_several_steps():
    theirs, ours = pair(SnApLSTM)
    xs = inputs()
    total, h = 0, None
    for x in xs:
        h = ours(x, h)
        total = total + h[0].square().sum(1)
    found = ours.per_sample_grad(total)
    once, h, total_once = pair(SnApLSTM)[1], None, 0
    for x in xs:
        h = once(x, h)
        total_once = total_once + h[0].square().sum()
    total_once.backward()
    for name, rows in found.items():
        same(rows.sum(0), getattr(once, name).grad, 1e-12)
    g, total = None, 0
    for x in xs:
        g = theirs(x[1:2], g)
        total = total + g[0].square().sum()
    total.backward()
    same(found["weight_ih"][1], theirs.weight_ih.grad[ours.masks()["weight_ih"]])
