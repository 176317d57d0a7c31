"""Cells of one's own: surrogates, Python-side state, layers that draw or mix; against autograd."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: it is the host here")
pytest.importorskip("rustworkx", reason="rustworkx is not installed")

from sparsegrad.interop.torch import Patterns, SnApModule, probe  # noqa: E402

F64 = torch.float64
INPUTS, UNITS, BATCH, STEPS = 3, 10, 3, 6


def mask(seed=0, density=0.25):
    return torch.rand(UNITS, UNITS, generator=torch.Generator().manual_seed(seed)) < density


class Spike(torch.autograd.Function):
    """A classic surrogate, ``forward(ctx, …)``: a step, its derivative a triangle."""

    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx, grad):
        (v,) = ctx.saved_tensors
        return grad * torch.clamp(1 - v.abs(), min=0)


class Stubborn(Spike):
    """One whose backward pass knows no batches."""

    @staticmethod
    def backward(ctx, grad):
        (v,) = ctx.saved_tensors
        return torch.from_numpy(grad.numpy() * torch.clamp(1 - v.abs(), min=0).numpy())


class Spiking(torch.nn.Module):
    def __init__(self, function=Spike, then=None):
        super().__init__()
        torch.manual_seed(3)
        self.weight_hh = torch.nn.Parameter(torch.randn(UNITS, UNITS, dtype=F64) * mask())
        self.into = torch.nn.Linear(INPUTS, UNITS).double()
        self.function, self.then, self.steps = function, then, 0
        self.register_buffer("mask", mask().to(F64))

    def forward(self, x, h):
        self.steps += 1
        rate = 1 / self.steps if self.then == "schedule" else 0.9
        z = self.function.apply(h - 0.5)
        a = rate * h + z @ (self.weight_hh * self.mask).T + self.into(x)
        return self.then(a) if isinstance(self.then, torch.nn.Module) else a


def inputs(steps=STEPS):
    return torch.randn(steps, BATCH, INPUTS, dtype=F64, generator=torch.Generator().manual_seed(4))


def compared(cell, patterns, seed=7):
    """Gradients online at exact RTRL, and of autograd over the sequence."""
    online = SnApModule(cell, patterns, n=None)
    cell.steps = 0
    torch.manual_seed(seed)
    h = None
    for x in inputs():
        h = online(x, h)
        h.square().sum().backward()
    assert cell.steps == STEPS  # it runs once a step
    found = {name: p.grad.clone() for name, p in cell.named_parameters()}
    cell.zero_grad()
    cell.steps = 0
    torch.manual_seed(seed)
    g, total = torch.zeros(BATCH, UNITS, dtype=F64), 0
    for x in inputs():
        g = cell(x, g)
        total = total + g.square().sum()
    total.backward()
    for name, p in cell.named_parameters():
        exists = patterns.masks[name]
        expected = p.grad * exists
        assert expected.abs().max() > 1e-3
        assert (found[name] - expected).abs().max() <= 1e-10 * expected.abs().max()


def probed(cell):
    return probe(cell, INPUTS, UNITS, {"weight_hh": mask()})


@pytest.mark.parametrize("function", [Spike, Stubborn])
def test_a_surrogate_of_finite_support_is_found_and_exact(function):
    cell = Spiking(function)
    found = probed(cell)
    assert cell.steps == 0  # the module is not touched
    truth = mask().numpy() | torch.eye(UNITS, dtype=torch.bool).numpy()
    assert (found.dynamics.toarray() | ~truth).all()  # nothing lacks
    compared(cell, found)


def test_state_in_python_goes_on_once_a_step():
    cell = Spiking(then="schedule")
    compared(cell, probed(cell))


def test_noise_and_dropout_are_those_of_the_step():
    cell = Spiking(then=torch.nn.Dropout(0.3))
    found = probed(Spiking())
    compared(cell, Patterns(found.dynamics, found.immediate, found.masks))


def test_a_layer_that_mixes_the_batch_is_refused():
    cell = Spiking(then=torch.nn.BatchNorm1d(UNITS).double())
    found = probed(Spiking())
    rest = {"then.weight": torch.zeros(UNITS, dtype=torch.bool)}
    rest["then.bias"] = rest["then.weight"]
    online = SnApModule(cell.eval(), Patterns(found.dynamics, found.immediate, found.masks | rest))
    cell.train()
    with pytest.raises(ValueError, match=r"each batch element must be for itself.*eval\(\)"):
        online(inputs()[0])
    cell.eval()
    online(inputs()[0]).sum().backward()


def test_an_entry_outside_the_patterns_is_seen_at_the_step():
    cell = Spiking()
    found = probed(cell)
    lacking = found.dynamics.toarray()
    row, column = (lacking & ~torch.eye(UNITS, dtype=torch.bool).numpy()).nonzero()
    lacking[row[0], column[0]] = False
    with pytest.raises(ValueError, match="the pattern of D must hold every entry"):
        SnApModule(cell, Patterns(lacking, found.immediate, found.masks, inputs=INPUTS))
    online = SnApModule(cell, Patterns(lacking, found.immediate, found.masks))
    with pytest.raises(ValueError, match="the pattern of D must hold every entry"):
        online(inputs()[0])  # the width of x is known now


def test_the_habits_of_a_state_hold_here_too():
    online = SnApModule(Spiking(), probed(Spiking()))
    xs = inputs()
    h = online(xs[0])
    h.sum().backward()
    held = online.influence()
    with pytest.raises(ValueError, match="got another in batch element"):
        online(xs[1], h + 1)
    assert torch.equal(online.influence(), held)
    with pytest.raises(ValueError, match="must not want a gradient"):
        SnApModule(Spiking(), probed(Spiking()))(xs[0], (h + 1).requires_grad_())
    saved = online.save()
    first = online(xs[1], h)
    first.sum().backward()
    online.restore(saved)
    assert torch.equal(online.influence(), held)
    k, J = online.step(xs[1], h.detach(), saved)
    assert torch.equal(k, first)
    done = torch.tensor([1.0, 0, 0], dtype=F64)
    k = k * (1 - done)[:, None]
    k, J = online.step(xs[2], k, J)
    slope = torch.autograd.grad(k.sum(), online.module.weight_hh)[0]
    assert slope.abs().max() > 0
    assert online(xs[0][:0]).shape == (0, UNITS)
    for which in (torch.tensor([1, 0, 0]), 0.5, torch.ones(2, dtype=torch.bool)):
        with pytest.raises((TypeError, ValueError)):
            online.reset(which)
