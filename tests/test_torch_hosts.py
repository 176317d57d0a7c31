"""The modules beside the rest of torch: compile, threads, processes, transforms, optimisers."""

import contextlib
import copy
import io
import os
import pickle
import threading

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: it is the host here")

import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as processes  # noqa: E402
from torch.nn.utils import parametrizations, parametrize, prune  # noqa: E402

from sparsegrad.interop.torch import SnApGRU, SnApLSTM, SnApModule, probe  # noqa: E402

F64 = torch.float64
INPUTS, UNITS, BATCH = 4, 9, 3


def cell(seed=1, **options):
    return SnApGRU(INPUTS, UNITS, sparsity=0.5, seed=seed, dtype=F64, **options)


def inputs(steps=5, batch=BATCH, seed=2):
    return torch.randn(
        steps, batch, INPUTS, dtype=F64, generator=torch.Generator().manual_seed(seed)
    )


def learn(module, xs, h=None):
    for x in xs:
        h = module(x, h)
        h.square().sum().backward()
    return h


class Net(torch.nn.Module):
    def __init__(self, core):
        super().__init__()
        self.below = torch.nn.Linear(INPUTS, INPUTS).double()
        self.core, self.above = core, torch.nn.Linear(UNITS, 2).double()

    def forward(self, x, h=None):
        h = self.core(torch.tanh(self.below(x)), h)
        return self.above(h), h


def own():
    mask = torch.rand(UNITS, UNITS, generator=torch.Generator().manual_seed(0)) < 0.3
    weight = torch.nn.Linear(UNITS, UNITS).double()

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.core, self.into = weight, torch.nn.Linear(INPUTS, UNITS).double()

        def forward(self, x, h):
            return torch.tanh(self.core(h) + self.into(x))

    made = Plain()
    with torch.no_grad():
        weight.weight.mul_(mask)
    return SnApModule(made, probe(made, INPUTS, UNITS, {"core.weight": mask}))


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(
    ("make", "backend"), [(cell, "eager"), (own, "eager"), (cell, "aot_eager")]
)
def test_a_compiled_model_steps_outside_the_graph(make, backend):
    """Inductor differs from aot_eager in the code that it makes of the layers around the cell."""
    torch.manual_seed(0)
    plain = Net(make())
    other = copy.deepcopy(plain)
    compiled = torch.compile(other, backend=backend)
    bare = torch.compile(other.core, backend=backend)
    xs = inputs()
    with torch.no_grad():
        assert torch.equal(compiled(xs[0])[0], plain(xs[0])[0])
        assert torch.equal(bare(xs[0]), plain.core(xs[0]))
    h = k = None
    for x in xs:
        (y, h), (z, k) = plain(x, h), compiled(x, k)
        y.square().sum().backward()
        z.square().sum().backward()
    for p, q in zip(plain.parameters(), other.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    assert plain.core.influence().abs().max() > 0
    assert torch.equal(plain.core.influence(), other.core.influence())


def test_threads_take_turns():
    """One evaluates under no_grad while another learns, on one module."""
    module, xs = cell(), inputs(60, 2)
    alone = copy.deepcopy(module)
    expected = learn(alone, xs)
    with torch.no_grad():
        seen = [alone(x) for x in xs]
    faults, stop = [], threading.Event()

    def evaluate():
        while not stop.is_set():
            with torch.no_grad():
                for x, y in zip(xs, seen, strict=True):
                    if not torch.equal(module(x), y):
                        faults.append(x)

    threads = [threading.Thread(target=evaluate) for _ in range(2)]
    for thread in threads:
        thread.start()
    found = learn(module, xs)
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert torch.equal(found, expected)
    assert torch.equal(module.weight_hh.grad, alone.weight_hh.grad)


@pytest.mark.parametrize("waiting", [0, 1])
@pytest.mark.parametrize("loss", [torch.sum, lambda h: h.square().sum()])
def test_a_gradient_penalty_is_refused(loss, waiting):
    module, xs = cell(), inputs()
    x = xs[1].clone().requires_grad_()
    h = module(xs[0])
    value = loss(module(x, h if waiting else h.detach()))
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="must not be differentiated again") as caught:
        (value + slope.square().sum()).backward()
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
def test_transforms_are_refused_in_one_line():
    module, x = cell(), inputs()[0]
    parameters = dict(module.named_parameters())

    def call(p, x):
        return torch.func.functional_call(module, p, (x,)).sum()

    h = module(x)
    seeds = torch.eye(BATCH, dtype=F64)[:, :, None].expand(-1, -1, UNITS)
    cases = [
        lambda: torch.func.grad(call)(parameters, x),
        lambda: torch.func.vmap(module)(x[None]),
        lambda: torch.func.jvp(module, (x,), (x,)),
        lambda: torch.autograd.grad(h, list(parameters.values()), seeds, is_grads_batched=True),
        lambda: torch.func.jacrev(module)(x),
    ]
    for case in cases:
        with pytest.raises(RuntimeError, match=r"per_sample_grad\(\)") as caught:
            case()
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match=r"script cell.to_torch\(\)"):
        torch.jit.script(module)


@pytest.mark.filterwarnings("ignore")
def test_export_says_what_to_export():
    with pytest.raises(Exception, match=r"export cell.to_torch\(\)"):
        torch.export.export(cell(), (inputs()[0],), strict=False)
    with pytest.raises(RuntimeError, match=r"export cell.to_torch\(\)"):
        torch.jit.trace(cell(), (inputs()[0],))


def test_parameters_that_are_computed():
    """weight_norm, parametrize and prune: the gradient flows to what they are computed from."""
    xs = inputs()

    class Double(torch.nn.Module):
        def forward(self, w):
            return 2 * w

    def doubled(module):
        parametrize.register_parametrization(module, "weight_hh", Double())
        return lambda: module.parametrizations.weight_hh.original.grad, 2

    def normed(module):
        parametrizations.weight_norm(module, "weight_ih")
        return lambda: module.parametrizations.weight_ih.original1.grad, None

    def pruned(module):
        prune.l1_unstructured(module, "weight_hh", amount=0.5)
        return lambda: module.weight_hh_orig.grad, None

    for change in (doubled, normed, pruned):
        module = cell()
        grad, factor = change(module)
        plain = cell()
        with torch.no_grad():
            for name in ("weight_hh", "weight_ih"):
                getattr(plain, name).copy_(getattr(module, name))
        found, expected = learn(module, xs), learn(plain, xs)
        assert torch.equal(found, expected)
        assert grad().abs().max() > 0
        if factor:
            assert torch.allclose(grad(), factor * plain.weight_hh.grad, rtol=1e-12)
        if change is pruned:
            assert torch.equal(grad(), plain.weight_hh.grad * module.weight_hh_mask)
        module.zero_grad()
        a = module(xs[0])  # and one pass over several steps
        (a.square().sum() + module(xs[1], a).square().sum()).backward()
        plain.zero_grad()
        a = plain(xs[0])
        (a.square().sum() + plain(xs[1], a).square().sum()).backward()
        if factor:
            assert torch.allclose(grad(), factor * plain.weight_hh.grad, rtol=1e-12)


def test_a_step_is_not_taken_at_weights_that_were_computed_before():
    class Times(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.by = 1.0

        def forward(self, w):
            return self.by * w

    module, xs = cell(), inputs()
    times = Times()
    parametrize.register_parametrization(module, "weight_hh", times)
    h = module(xs[0])
    times.by = 2.0
    with torch.no_grad():
        expected = module(xs[1], h)
    found = module(xs[1], h)
    assert torch.equal(found, expected)


def test_lbfgs():
    module, xs = cell(), inputs()
    optimizer = torch.optim.LBFGS(module.parameters(), lr=0.1, max_iter=5)
    saved = module.save()
    seen = []

    def closure():
        optimizer.zero_grad()
        module.restore(saved)
        h, total = None, 0
        for x in xs:
            h = module(x, h)
            total = total + (h - 0.3).square().sum()
        total.backward()
        seen.append(total.item())
        return total

    optimizer.step(closure)
    assert len(seen) > 1
    assert seen[-1] < seen[0]


def test_frozen_parameters_and_hooks():
    module, whole, xs = cell(), cell(), inputs()
    module.weight_ih.requires_grad_(False)
    heard = []
    module.weight_hh.register_hook(lambda grad: heard.append(grad))
    module.register_forward_hook(lambda *_: heard.append("forward"))
    learn(module, xs[:1])
    learn(whole, xs[:1])
    assert module.weight_ih.grad is None
    assert torch.equal(module.weight_hh.grad, whole.weight_hh.grad)
    assert heard[0] == "forward"
    assert torch.equal(heard[1], whole.weight_hh.grad)


def test_functional_call_steps_at_the_weights_given():
    module, xs = cell(), inputs()
    other = cell(seed=1)
    with torch.no_grad():
        other.weight_hh.mul_(2)
    given = {k: v.detach().clone().requires_grad_() for k, v in other.named_parameters()}
    found = torch.func.functional_call(module, given, (xs[0],))
    assert torch.equal(found, other(xs[0]))
    found.square().sum().backward()
    other.zero_grad()
    learn(other, xs[:1])
    assert torch.equal(given["weight_hh"].grad, other.weight_hh.grad)
    assert module.weight_hh.grad is None


def test_a_target_network_follows():
    online, xs = cell(), inputs()
    target = copy.deepcopy(online).requires_grad_(False)
    assert target._link.host.pattern is online._link.host.pattern  # nothing is found again
    optimizer = torch.optim.SGD(online.parameters(), lr=0.1)
    learn(online, xs)
    optimizer.step()
    with torch.no_grad():
        for p, q in zip(target.parameters(), online.parameters(), strict=True):
            p.lerp_(q, 0.5)
        assert not torch.equal(target(xs[0]), online(xs[0]))
        target.load_state_dict(online.state_dict())
        assert torch.equal(target(xs[0]), online(xs[0]))


def test_pickle_save_and_shared_memory():
    module, xs = cell(), inputs()
    h = learn(module, xs)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    twins = [pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)]
    module.share_memory()
    for twin in twins:
        twin.zero_grad()
    module.zero_grad()
    for each in (module, *twins):
        learn(each, xs, h.detach())
    for twin in twins:
        assert torch.equal(twin.weight_hh.grad, module.weight_hh.grad)
        assert torch.equal(twin.influence(), module.influence())


def _spawned(rank, module, xs, out):
    learn(module, xs)
    out[rank] = module.weight_hh.grad


def test_spawned_processes_learn_on_their_own(tmp_path):
    module, xs = cell(), inputs()
    with processes.get_context("spawn").Manager() as manager:
        out = manager.dict()
        processes.spawn(_spawned, (module, xs, out), nprocs=1)
        learn(module, xs)
        assert torch.equal(out[0], module.weight_hh.grad)


WAYS = {
    "plain": {},
    "seeded": {},
    "no_sync": {},
    "static": {"static_graph": True, "gradient_as_bucket_view": True},
}


def _rank(rank, folder, out):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    for way, options in WAYS.items():
        torch.manual_seed(rank)  # differently, as people do
        seed = rank if way == "seeded" else None
        net = Net(SnApGRU(INPUTS, UNITS, sparsity=0.5, seed=seed, dtype=F64))
        ddp = torch.nn.parallel.DistributedDataParallel(net, **options)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        h = None
        for t, x in enumerate(inputs(6)):
            waits = way == "no_sync" and t % 2 == 0
            with ddp.no_sync() if waits else contextlib.nullcontext():
                y, h = ddp(x[rank : rank + 1], h)
                y.square().sum().backward()
            if not waits:
                optimizer.step()
                optimizer.zero_grad()
        out[way, rank] = (
            {k: v.detach().clone() for k, v in net.named_parameters()},
            net.core.dense(), net.core.masks(),
        )  # fmt: skip
    dist.destroy_process_group()


def test_ddp_of_two_processes_is_one_net(tmp_path):
    with processes.get_context("spawn").Manager() as manager:
        out = manager.dict()
        processes.spawn(_rank, (str(tmp_path), out), nprocs=2)
        found = dict(out)
    for way in WAYS:
        (first, dense, masks), (second, other, its_masks) = found[way, 0], found[way, 1]
        for name, p in first.items():
            assert torch.equal(p, second[name])
        for name in masks:
            assert torch.equal(masks[name], its_masks[name])
            assert torch.equal(dense[name], other[name])
    torch.manual_seed(0)
    net = Net(SnApGRU(INPUTS, UNITS, sparsity=0.5, dtype=F64))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    h = None
    for x in inputs(6):
        y, h = net(x[:2], h)
        (y.square().sum() / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, p in net.named_parameters():
        assert (p - found["plain", 0][0][name]).abs().max() < 1e-12


def test_forked_processes_must_not_use_the_parents_threads():
    module = SnApGRU(INPUTS, 64, sparsity=0.2, seed=1, threads=2)
    x = torch.ones(8, INPUTS)
    module(x).sum().backward()
    assert module._window._influence.threads == 2
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            module(x).sum().backward()
            text = "it went on"
        except BaseException as fault:
            text = str(fault)
        os.write(write, text.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    assert "must not use its parent's threads" in os.read(read, 1000).decode()
    os.close(read)


@pytest.mark.parametrize("n", [1, 2, None])
def test_an_influence_that_overflows_is_named(n):
    """A tanh net of large gain with a small rate: state and loss stay small, J does not."""
    torch.manual_seed(0)
    module = SnApGRU(INPUTS, 12, n=n, seed=0)
    with torch.no_grad():
        module._window  # noqa: B018
        for p in module.parameters():
            p.mul_(4)
    window = module._window
    h = module(torch.zeros(2, INPUTS) + 0.1)
    h.sum().backward()
    window._influence._panels[1, 0] = torch.inf
    kept = module.weight_hh.grad.clone()
    h = module(torch.zeros(2, INPUTS) + 0.1, h)
    with pytest.raises(FloatingPointError, match=r"influence must stay finite.*batch element 1"):
        h.sum().backward()
    assert torch.equal(module.weight_hh.grad, kept)
    h = h.detach().clone()
    h[1] = 0
    h = module(torch.zeros(2, INPUTS) + 0.1, h)  # it begins anew there
    h.sum().backward()
    assert module.weight_hh.grad.isfinite().all()
    with pytest.raises(FloatingPointError, match=r"learning signal must be finite.*element 0"):
        (module(torch.zeros(2, INPUTS), h)[0] * torch.nan).sum().backward()


def test_a_net_whose_influence_grows_stops_with_a_line():
    from sparsegrad import RNN
    from sparsegrad.interop.torch import SnApRNN

    module = SnApRNN.from_cell(RNN(2, 24, gain=3.0, seed=0), n=None)
    torch.manual_seed(0)

    def for_ever(h=None):
        for _ in range(4000):
            module.zero_grad()
            h = module(0.01 * torch.randn(1, 2), h)
            h.sum().backward()
            assert module.weight_hh.grad.isfinite().all()
            h = h.detach()

    with pytest.raises(FloatingPointError, match=r"influence must stay finite.*reset\(\) it"):
        for_ever()
    module.reset()
    h = None
    for _ in range(5):
        h = module(torch.randn(1, 2), h)
        h.sum().backward()


def test_an_lstm_state_may_be_a_list():
    module, xs = SnApLSTM(INPUTS, UNITS, sparsity=0.5, seed=1, dtype=F64), inputs()
    state = module(xs[0])
    again = module(xs[1], list(state))
    again[0].sum().backward()
    assert module.weight_hh.grad.abs().max() > 0
