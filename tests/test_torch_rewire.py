"""A torch cell on other masks: what stays, what sets out anew, and what optimisers have of it."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: it is the host here")

from torch import nn  # noqa: E402

from sparsegrad import Adam, Linear, OnlineLearner, SnAp  # noqa: E402
from sparsegrad.interop.torch import SnApGRU, SnApLSTM  # noqa: E402

F64 = torch.float64
INPUTS, UNITS, OUTPUTS, BATCH = 4, 9, 2, 3
NAMES = ("weight_hh", "weight_ih", "bias_ih", "bias_hh")


def cell(kind=SnApGRU, **options):
    return kind(INPUTS, UNITS, sparsity=0.5, seed=1, dtype=F64, **options)


def masks_of(module, seed=0, share=0.3):
    """Masks where a share of the places is another one than before, biases too."""
    rng = np.random.default_rng(seed)
    return {
        name: mask ^ torch.from_numpy(rng.random(mask.shape) < share)
        for name, mask in module.masks().items()
    }


def inputs(steps=6, seed=2):
    return torch.randn(
        steps, BATCH, INPUTS, dtype=F64, generator=torch.Generator().manual_seed(seed)
    )


def learn(module, optimizer, xs, h=None, readout=None):
    """Make an update after each step; return the losses and the last state, in its graph."""
    losses = []
    for x in xs:
        optimizer.zero_grad()
        h = module(x, h)
        seen = h[0] if isinstance(h, tuple) else h
        loss = (seen if readout is None else readout(seen)).square().sum() / 2 / BATCH
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, h


def dense_influence(module):
    """J with a row per place of the dense arrays: (batch, places, states)."""
    host, found = module._link.host, []
    pattern, flat = host.pattern, module.influence().numpy()
    sizes = [mask.numel() for mask in module.masks().values()]
    first = dict(zip(module.masks(), np.cumsum([0, *sizes]), strict=False))
    weight, place = (
        np.concatenate([part + shift for part, shift in parts])
        for parts in zip(
            *[[(w, 0), (at, first[name])] for name, (w, at) in host.cell.places.items()],
            strict=True,
        )
    )
    row = np.empty(weight.size, np.int64)
    row[weight] = place
    rows = np.repeat(row, np.diff(pattern.indptr))
    for entries in flat:
        dense = np.full((sum(sizes), pattern.shape[1]), np.nan)
        dense[rows, pattern.indices] = entries
        found.append(dense)
    return np.array(found)


def test_it_goes_on_as_a_learner_does():
    module, readout = cell(), nn.Linear(UNITS, OUTPUTS).double()
    dense = {k: p.detach().numpy().copy() for k, p in readout.named_parameters()}
    learner = OnlineLearner(
        module.to_cell(), Linear(OUTPUTS, **dense), SnAp(2), Adam(0.02), batch=BATCH
    )
    optimizer = torch.optim.Adam([*module.parameters(), *readout.parameters()], lr=0.02)
    xs, h = inputs(18), None
    for span in range(3):
        if span:
            masks = masks_of(module, span)
            learner.rewire({name: mask.numpy() for name, mask in masks.items()})
            module.rewire(masks, optimizer)
        part = xs[6 * span : 6 * span + 6]
        wanted = learner.run(part.numpy(), np.zeros((6, BATCH, OUTPUTS)))
        found, h = learn(module, optimizer, part, h, readout)
        np.testing.assert_allclose(found, wanted, rtol=1e-10)
    for name, values in learner.cell.to_dense().items():
        np.testing.assert_allclose(module.dense()[name].numpy(), values, rtol=1e-8, atol=1e-12)
    for b, entries in enumerate(module.influence().numpy()):
        J = learner.checkpoint().arrays[f"method.influence.{b}"]
        np.testing.assert_allclose(entries, J, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", [SnApGRU, SnApLSTM])
def test_what_stays_stays_bit_for_bit_and_a_fresh_module_goes_on_alike(kind):
    module, xs = cell(kind), inputs(9)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    _, h = learn(module, optimizer, xs[:6])
    before, J, old = module.dense(), dense_influence(module), module.masks()
    grads, masks = module.dense_grad(), masks_of(module)
    module.rewire(masks, optimizer)
    assert list(map(torch.equal, module.masks().values(), masks.values())) == [True] * 4
    for name, mask in masks.items():
        both = mask & old[name]
        assert torch.equal(module.dense()[name], torch.where(both, before[name], 0.0))
        assert torch.equal(module.dense_grad()[name], torch.where(both, grads[name], 0.0))
    now, stays = dense_influence(module), torch.cat([
        (masks[name] & old[name]).reshape(-1) for name in masks]).numpy()  # fmt: skip
    kept = ~np.isnan(now)
    wanted = np.where(stays[:, None] & ~np.isnan(J), J, 0.0)
    np.testing.assert_array_equal(now[kept], wanted[kept])
    assert np.count_nonzero(now[kept]) > 500

    fresh = kind.from_cell(module.to_cell())
    fresh.load_state_dict(module.state_dict())
    other = torch.optim.Adam(fresh.parameters(), lr=0.02)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    detached = tuple(s.detach() for s in h) if isinstance(h, tuple) else h.detach()
    assert learn(module, optimizer, xs[6:], h)[0] == learn(fresh, other, xs[6:], detached)[0]
    for one, two in zip(module.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(module.influence(), fresh.influence())


OPTIMIZERS = {
    "SGD": {"momentum": 0.9}, "Adam": {"amsgrad": True}, "AdamW": {}, "NAdam": {}, "RAdam": {},
    "Adamax": {}, "RMSprop": {"momentum": 0.5, "centered": True}, "Adadelta": {}, "ASGD": {},
    "Adagrad": {"initial_accumulator_value": 0.5}, "Rprop": {},
}  # fmt: skip


@pytest.mark.parametrize("word", OPTIMIZERS)
def test_the_moments_of_what_stays_stay(word):
    module, xs = cell(), inputs()
    groups = [
        {"params": [module.weight_hh], "lr": 0.01},
        {"params": [module.bias_ih, module.bias_hh]},
    ]
    optimizer = getattr(torch.optim, word)(groups, lr=0.02, **OPTIMIZERS[word])
    _, h = learn(module, optimizer, xs)
    old, masks = module.masks()["weight_hh"], masks_of(module)
    before = {
        key: value.clone() if isinstance(value, torch.Tensor) else value
        for key, value in optimizer.state[module.weight_hh].items()
    }
    parameter = module.weight_hh
    module.rewire(masks, optimizer)
    assert parameter not in optimizer.state
    assert optimizer.param_groups[0]["params"][0] is module.weight_hh
    assert [g["lr"] for g in optimizer.param_groups] == [0.01, 0.02]
    start = {"sum": 0.5, "step_size": 0.01}
    state, now = optimizer.state[module.weight_hh], masks["weight_hh"]
    assert state.keys() == before.keys()
    moments = 0
    for key, value in before.items():
        if getattr(value, "ndim", 0) == 0:
            assert state[key] == value
            continue
        moments += 1
        dense = torch.full(now.shape, start.get(key, 0.0), dtype=F64)
        dense[old] = value
        dense[~(old & now)] = start.get(key, 0.0)
        assert torch.equal(state[key], dense[now]), key
    assert moments
    learn(module, optimizer, xs, h)
    assert module.weight_ih.grad is not None  # and no optimiser steps it


def test_an_optimiser_of_what_was_before_refuses_its_step():
    module, xs = cell(), inputs()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    other = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    _, h = learn(module, optimizer, xs)
    module.rewire(masks_of(module))
    with pytest.raises(RuntimeError, match="must hold the parameters that a cell has after rewire"):
        learn(module, optimizer, xs, h)
    other.step()
    learn(module, torch.optim.Adam(module.parameters(), lr=0.02), xs, module(xs[0]).detach())


@pytest.mark.parametrize("window", [False, True])
def test_sequences_go_on_and_what_was_saved_before_does_not(window):
    module, xs = cell(window=window), inputs()
    module.bias_hh.requires_grad_(False)
    module.weight_hh.decays = False  # whatever a user has written on it
    optimizer = torch.optim.SGD([module.weight_hh, module.weight_ih, module.bias_ih], lr=0.1)
    _, h = learn(module, optimizer, xs)
    saved = module.save()
    module.rewire(masks_of(module), optimizer)
    assert module.weight_hh.decays is False
    assert not module.bias_hh.requires_grad
    with pytest.raises(ValueError, match="another in batch element 0"):
        module(xs[0], h.detach() + 1)
    with pytest.raises(ValueError, match="saved must be of this module"):
        module.restore(saved)
    learn(module, optimizer, xs, h)
    module(xs[0])  # and sequences begin
    cell().rewire(masks_of(module))  # before any has begun


def everything(module):
    return [
        *(p for p in module.parameters()), *(p.detach().clone() for p in module.parameters()),
        *module.masks().values(), module.influence(),
    ]  # fmt: skip


REFUSED = {
    "another shape": ({"weight_hh": torch.ones(9, 9) > 0}, None, ValueError, r"\(27, 9\)"),
    "a mask of numbers": ({"weight_hh": torch.ones(27, 9)}, None, TypeError, "boolean, got float"),
    "another array": ({"weight_xh": torch.ones(27, 9) > 0}, None, ValueError, "named as"),
    "an array left out": ({"bias_ih": torch.ones(27) > 0}, None, ValueError, "the cell has, w"),
    "no weight left": (
        {"weight_hh": torch.zeros(27, 9) > 0, "weight_ih": torch.zeros(27, 4) > 0}, None,
        ValueError, "at least one weight must exist",
    ),
    "no optimiser": ({}, 0.1, TypeError, "a torch.optim.Optimizer that .* got float"),
    "LBFGS": ({}, lambda m: torch.optim.LBFGS(m.parameters()), TypeError, "got LBFGS"),
    "others' optimiser": (
        {}, lambda m: torch.optim.SGD(nn.Linear(1, 1).parameters()), ValueError, "of others",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_the_module_as_it_was(case):
    masks, optimizer, error, text = REFUSED[case]
    module = cell(bias=False)
    _, h = learn(module, torch.optim.SGD(module.parameters(), lr=0.1), inputs())
    before = everything(module)
    with pytest.raises(error, match=text):
        module.rewire(masks, optimizer(module) if callable(optimizer) else optimizer)
    assert all(map(torch.equal, everything(module), before))
    module(inputs()[0], h)


def test_what_hangs_on_a_parameter_or_waits_is_refused():
    module, xs = cell(), inputs()
    h = module(xs[0])
    with pytest.raises(RuntimeError, match="no step waits for its backward pass"):
        module.rewire({})
    h.sum().backward()
    module.rewire({})
    handle = module.weight_hh.register_hook(lambda grad: grad)
    with pytest.raises(ValueError, match="no hooks on weight_hh"):
        module.rewire({})
    handle.remove()
    nn.utils.parametrize.register_parametrization(module, "weight_hh", nn.Identity())
    with pytest.raises(ValueError, match="plain parameter weight_hh, got one that a param"):
        module.rewire({})


def test_a_lost_backward_pass_is_refused():
    """Signals of steps before would go to parameters that nobody has any more."""
    module, xs = cell(), inputs()
    loss = module(xs[0]).sum()
    loss.backward(retain_graph=True)
    module.rewire({})
    with pytest.raises(RuntimeError, match="in the order of the steps"):
        loss.backward()
