"""What a state dict holds: tensors, masks that decide, J that may stay away; old ones load."""

import copy
import io
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: it is the host here")

from sparsegrad.interop.torch import SnApGRU, SnApLSTM  # noqa: E402

F64 = torch.float64
INPUTS, UNITS, BATCH = 4, 9, 3


def cell(kind=SnApGRU, seed=1, **options):
    return kind(INPUTS, UNITS, sparsity=0.5, seed=seed, dtype=F64, **options)


def inputs(steps=5, batch=BATCH):
    return torch.randn(steps, batch, INPUTS, dtype=F64, generator=torch.Generator().manual_seed(2))


def learn(module, xs, h=None):
    for x in xs:
        h = module(x, h)
        part = h[0] if isinstance(h, tuple) else h
        part.square().sum().backward()
    return tuple(s.detach() for s in h) if isinstance(h, tuple) else h.detach()


def test_masks_are_the_same_without_a_seed_and_weights_are_torchs():
    made = []
    for seed in (0, 1, 1):
        torch.manual_seed(seed)
        made.append(SnApGRU(INPUTS, UNITS, sparsity=0.5))
    for other in made[1:]:
        for name, mask in made[0].masks().items():
            assert torch.equal(mask, other.masks()[name])
    assert not torch.equal(made[0].weight_hh, made[1].weight_hh)
    assert torch.equal(made[1].weight_hh, made[2].weight_hh)
    a, b = (
        SnApGRU(INPUTS, UNITS, sparsity=0.5, seed=3),
        SnApGRU(INPUTS, UNITS, sparsity=0.5, seed=3),
    )
    assert torch.equal(a.weight_hh, b.weight_hh)


@pytest.mark.parametrize("kind", [SnApGRU, SnApLSTM])
@pytest.mark.parametrize("way", ["clone", "safetensors", "torch"])
def test_a_state_dict_is_of_tensors_and_goes_on_bit_for_bit(kind, way, tmp_path):
    module, xs = cell(kind), inputs(8)
    h = learn(module, xs[:4])
    found = module.state_dict()
    assert all(type(value) is torch.Tensor for value in found.values())
    if way == "clone":
        found = {k: v.clone() for k, v in found.items()}
    elif way == "safetensors":
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file(found, tmp_path / "cell.safetensors")
        found = safetensors.load_file(tmp_path / "cell.safetensors")
    else:
        file = io.BytesIO()
        torch.save(found, file)
        file.seek(0)
        found = torch.load(file, weights_only=True)
    other = cell(kind, seed=2)  # other masks
    other.load_state_dict(found)
    assert torch.equal(other.influence(), module.influence())
    module.zero_grad()
    for each in (module, other):
        learn(each, xs[4:], h)
    assert torch.equal(other.weight_hh.grad, module.weight_hh.grad)
    assert torch.equal(other.influence(), module.influence())
    third = cell(kind)
    third.load_state_dict(found)
    with pytest.raises(ValueError, match="got another in batch element"):
        third(xs[0], tuple(s + 1 for s in h) if kind is SnApLSTM else h + 1)


def test_influence_may_stay_away():
    module, xs = cell(), inputs()
    h = learn(module, xs)
    module.saves_influence = False
    found = module.state_dict()
    assert set(found) == {"weight_hh", "weight_ih", "bias_ih", "bias_hh", "places"}
    other = cell(seed=2)
    other.load_state_dict(found)
    assert torch.equal(other.dense()["weight_hh"], module.dense()["weight_hh"])
    assert other.influence().shape[0] == 0
    held = module.influence()
    module.load_state_dict(found)  # leaves J alone
    assert torch.equal(module.influence(), held)
    module(xs[0], h)


def test_equal_masks_need_no_symbolic_pass(monkeypatch):
    module, other = cell(), cell()
    learn(module, inputs())
    for place in ("host_cell.reach", "host_cell.dynamics_pattern"):
        monkeypatch.setattr(f"sparsegrad.interop.{place}", None)
    host = other._link.host
    other.load_state_dict(module.state_dict())
    assert other._link.host is host
    assert torch.equal(other.influence(), module.influence())


def test_loading_takes_the_time_of_a_few_steps():
    """Fewer than 3 on a quiet machine; with a symbolic pass it was 60. The least of some turns."""
    module = SnApGRU(32, 256, n=2, sparsity=0.9375, seed=1)
    other, x, h = copy.deepcopy(module), torch.ones(8, 32), None
    spent = {"step": [], "load": []}
    for _ in range(5):
        start = time.perf_counter()
        h = module(x, h)
        h.sum().backward()
        spent["step"].append(time.perf_counter() - start)
        found = module.state_dict()
        start = time.perf_counter()
        other.load_state_dict(found)
        spent["load"].append(time.perf_counter() - start)
    print({name: f"{1e3 * min(times):.1f} ms" for name, times in spent.items()})
    assert min(spent["load"]) < 10 * min(spent["step"])
    assert torch.equal(other.influence(), module.influence())


def test_masks_that_come_by_buffers_are_taken():
    """As a broadcast does: values are copied in place, nothing is called."""
    module, other, xs = cell(seed=1), cell(seed=2), inputs()
    learn(other, xs)
    with torch.no_grad():
        for p, q in zip(other.parameters(), module.parameters(), strict=True):
            p.copy_(q)
        other.places.copy_(module.places)
        assert torch.equal(other(xs[0]), module(xs[0]))
    assert torch.equal(other.masks()["weight_hh"], module.masks()["weight_hh"])
    other.places[0] = 10**6
    with pytest.raises(ValueError, match="places must be sorted places in weight_hh of 243"):
        other(xs[0])


def test_a_state_dict_of_the_first_version_loads():
    module, xs = cell(), inputs()
    h = learn(module, xs)
    found = module.state_dict()
    old = {k: v for k, v in found.items() if k.startswith(("weight", "bias"))}
    places = {k: torch.from_numpy(np.flatnonzero(m.numpy())) for k, m in module.masks().items()}
    old["_extra_state"] = {"n": 2, "influence": found["influence"], "places": places}
    other = cell(seed=2)
    other.load_state_dict(old)
    assert torch.equal(other.influence(), module.influence())
    module.zero_grad()
    for each in (module, other):
        learn(each, xs, h)
    assert torch.equal(other.weight_hh.grad, module.weight_hh.grad)


def test_a_state_dict_that_does_not_fit_is_refused():
    module, xs = cell(), inputs()
    learn(module, xs)
    found = module.state_dict()
    wrong = cell(n=3)
    learn(wrong, xs)
    held = wrong.influence()
    with pytest.raises(RuntimeError, match=r"influence must be \(batch, .*what a|what n=3 keeps"):
        wrong.load_state_dict(found)
    assert torch.equal(wrong.influence(), held)
    with pytest.raises(RuntimeError, match="state must be"):
        cell().load_state_dict({**found, "state": found["state"][:, :2]})
    with pytest.raises(RuntimeError, match="places"):
        cell().load_state_dict({k: v for k, v in found.items() if k != "places"})
    fresh = cell()
    with torch.no_grad():
        fresh.load_state_dict(cell(seed=5).state_dict())  # no J yet
    assert fresh.influence().shape[0] == 0


def test_a_module_within_a_model_is_loaded_by_its_prefix():
    model = torch.nn.ModuleDict({"core": cell(), "head": torch.nn.Linear(UNITS, 2).double()})
    learn(model["core"], inputs())
    other = torch.nn.ModuleDict({"core": cell(seed=2), "head": torch.nn.Linear(UNITS, 2).double()})
    other.load_state_dict(model.state_dict())
    assert torch.equal(other["core"].influence(), model["core"].influence())
    assert "core.influence" in model.state_dict()
