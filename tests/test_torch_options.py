"""Every option of a torch module is honoured, or refused by name: against torch's own outputs."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: it is the host here")

from sparsegrad import GRU, LSTM, RNN, SGD, Linear, OnlineLearner, SnAp  # noqa: E402
from sparsegrad.interop.torch import SnApGRU, SnApLSTM, SnApRNN  # noqa: E402

KINDS = [SnApRNN, SnApGRU, SnApLSTM]
F64 = torch.float64
TIME, BATCH, INPUTS, UNITS = 5, 3, 4, 6


def head(state):
    return state[0] if isinstance(state, tuple) else state


def close(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-12


GRID = [
    (kind, layers, both_ways, bias, batch_first, projection, dtype)
    for kind, layers, both_ways, bias, batch_first, projection, dtype in itertools.product(
        KINDS, (1, 2), (False, True), (True, False), (False, True), (0, 2), (F64, torch.bfloat16)
    )
    if projection == 0 or kind is SnApLSTM
]


@pytest.mark.parametrize(
    ("kind", "layers", "both_ways", "bias", "batch_first", "proj", "dtype"), GRID
)
def test_a_layer_of_torch_is_taken_as_it_is_or_refused(
    kind, layers, both_ways, bias, batch_first, proj, dtype
):
    torch.manual_seed(1)
    options = {"proj_size": proj} if proj else {}
    layer = getattr(torch.nn, kind._name)(
        INPUTS, UNITS, num_layers=layers, bidirectional=both_ways, bias=bias,
        batch_first=batch_first, dropout=0.5 if layers > 1 else 0.0, dtype=dtype, **options,
    )  # fmt: skip
    refused = [
        name
        for name, came in (
            ("num_layers=2", layers > 1), ("bidirectional=True", both_ways), ("proj_size=2", proj),
            ("bfloat16", dtype is not F64),
        )
        if came
    ]  # fmt: skip
    if refused:
        with pytest.raises(TypeError, match="|".join(refused)) as caught:
            kind.from_torch(layer)
        assert "\n" not in str(caught.value)
        return
    x = torch.randn((BATCH, TIME, INPUTS) if batch_first else (TIME, BATCH, INPUTS), dtype=F64)
    cell = kind.from_torch(layer)
    expected, last = layer(x)
    found, state = cell(x)
    close(found, expected)
    for a, b in zip(*[s if isinstance(s, tuple) else (s,) for s in (state, last)], strict=True):
        close(a, b)
    again = cell(x, state)[0]
    close(again, layer(x, last)[0])
    assert (cell.bias, cell.batch_first) == (bias, batch_first)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_of_torch_is_taken_as_it_is(kind, bias, nonlinearity):
    options = {"nonlinearity": nonlinearity} if kind is SnApRNN else {}
    theirs = getattr(torch.nn, kind._name + "Cell")(INPUTS, UNITS, bias, dtype=F64, **options)
    x = torch.randn(BATCH, INPUTS, dtype=F64)
    close(head(kind.from_torch(theirs)(x)), head(theirs(x)))
    ours = kind(INPUTS, UNITS, bias, dtype=F64, sparsity=0.5, **options)
    close(head(ours(x)), head(ours.to_torch()(x)))
    assert (ours.input_size, ours.hidden_size, ours.bias) == (INPUTS, UNITS, bias)
    assert (ours.bias_ih is None) == (not bias)
    assert len(list(ours.parameters())) == (4 if bias else 2)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: SnApGRU(3, 6, 2), "bias must be a bool, got 2: n is given by its name"),
        (lambda: SnApGRU(3, 6, device="meta"), "device must be the CPU.*got 'meta'"),
        (lambda: SnApGRU(3, 6, batch_first=1), "batch_first must be a bool, got 1"),
        (lambda: SnApGRU(3, 6, dtype=torch.bfloat16), "dtype must be torch.float32 or"),
        (lambda: SnApRNN(3, 6, nonlinearity="sigmoid"), "nonlinearity must be one of"),
        (lambda: SnApGRU.from_torch(torch.nn.Linear(3, 6)), "got Linear"),
        (lambda: SnApGRU.from_torch(torch.nn.RNN(3, 6)), "got RNN"),
        (lambda: SnApGRU.from_cell(LSTM(3, 6)), "cell must be a sparsegrad.GRU, got LSTM"),
    ],
)
def test_arguments_are_refused_in_one_line(make, text):
    with pytest.raises((TypeError, ValueError), match=text) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_torchs_names_and_meanings():
    x, h = torch.zeros(2, 3), torch.zeros(2, 6)
    cell = SnApGRU(input_size=3, hidden_size=6, bias=True, device="cpu", dtype=torch.float32)
    assert torch.equal(cell(input=x, hx=h), cell(x))
    torch.set_default_dtype(F64)
    try:
        assert SnApGRU(3, 6).weight_hh.dtype == F64
        assert SnApGRU(3, 6)(torch.zeros(2, 3)).dtype == F64
    finally:
        torch.set_default_dtype(torch.float32)
    state = SnApLSTM(3, 6)(x, [h, h])  # a list, as torch takes it
    assert len(state) == 2


def test_autocast_casts_in():
    cell, below = SnApGRU(3, 6, sparsity=0.5), torch.nn.Linear(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        x = below(torch.ones(2, 2))
        assert x.dtype == torch.bfloat16
        h = cell(x)
    assert h.dtype == torch.float32
    h.sum().backward()
    assert below.weight.grad.abs().sum() > 0
    with pytest.raises(TypeError, match=r"x must be torch.float32, got torch.bfloat16"):
        cell(x, h)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learns", [True, False])
def test_a_batch_of_nobody(kind, learns):
    cell, theirs = kind(3, 6), getattr(torch.nn, kind._name + "Cell")(3, 6)
    x = torch.zeros(0, 3, requires_grad=True)
    with torch.set_grad_enabled(learns):
        found, expected = cell(x), theirs(x)
        found, expected = cell(x, found), theirs(x, expected)
    assert head(found).shape == head(expected).shape == (0, 6)
    assert head(found).requires_grad == learns
    if learns:
        head(found).sum().backward()
        assert not cell.weight_hh.grad.any()
        assert x.grad.shape == (0, 3)


def test_a_costly_cell_says_so_once():
    cell = SnApGRU(8, 128)
    x = torch.zeros(8, 8)
    with pytest.warns(UserWarning, match=r"takes .* multiply-adds and .* MiB of J: a sparsity of"):
        h = cell(x)
    cell(x, h)  # and not again
    SnApGRU(8, 128, sparsity=0.95)(x)


def a_mask(dtype=torch.bool, size=3):
    return torch.tensor([1, 0, 1][:size]).to(dtype)


RESETS = [
    (None, [0, 1, 2]),
    (True, [0, 1, 2]),
    (False, []),
    (np.True_, [0, 1, 2]),
    (torch.tensor(False), []),
    (torch.tensor(True), [0, 1, 2]),
    (0, [0]),
    (2, [2]),
    (np.int64(1), [1]),
    (a_mask(), [0, 2]),
    (a_mask().numpy(), [0, 2]),
    (a_mask(torch.int64), "int64"),
    (a_mask(torch.uint8), "uint8"),
    (a_mask(torch.float32), "float32"),
    (a_mask(torch.int64).numpy(), "int64"),
    (a_mask(size=2), r"got \(2,\)"),
    (a_mask()[:, None], r"got \(3, 1\)"),
    (3, "got 3"),
    (-1, "got -1"),
    (0.0, "got float"),
    ([True, False, True], "got list"),
    ("all", "got str"),
]


@pytest.mark.parametrize(("which", "expected"), RESETS, ids=lambda value: repr(value)[:24])
def test_what_reset_takes(which, expected):
    cell = SnApGRU(3, 6, sparsity=0.5)
    h = cell(torch.ones(3, 3))
    held = cell.influence()
    if isinstance(expected, str):
        with pytest.raises((TypeError, ValueError, IndexError), match=expected) as caught:
            cell.reset(which)
        assert "\n" not in str(caught.value)
        assert torch.equal(cell.influence(), held)
        return
    cell.reset(which)
    if which is None:
        assert cell.influence().shape[0] == 0
        return
    found = cell.influence()
    for b in range(3):
        assert torch.equal(found[b], held[b] * (b not in expected))
    cell(torch.ones(3, 3), h.detach())


def test_an_empty_parameter_steps():
    """A mask that leaves nothing of a matrix: its parameter has no memory."""
    masks = {"weight_ih": np.zeros((18, 3), bool)}
    theirs = torch.nn.GRUCell(3, 6, dtype=F64)
    with torch.no_grad():
        theirs.weight_ih.zero_()
    cell = SnApGRU.from_torch(theirs, n=None, masks=masks)
    assert cell.weight_ih.shape == (0,)
    x = torch.randn(2, 3, dtype=F64)
    h = g = None
    total = 0
    for _ in range(3):
        h, g = cell(x, h), theirs(x, g)
        h.square().sum().backward()
        total = total + g.square().sum()
    total.backward()
    close(cell.dense_grad()["weight_hh"], theirs.weight_hh.grad)
    assert cell.weight_ih.grad.shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_learner_moves_into_torch_and_back(kind):
    make = {SnApRNN: RNN, SnApGRU: GRU, SnApLSTM: LSTM}[kind]
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((5, 2, 3)).astype("float32")
    learner = OnlineLearner(make(3, 6, sparsity=0.5), Linear(2), SnAp(2), SGD(0.1), batch=2)
    learner.run(xs, rng.standard_normal((5, 2, 2)).astype("float32"))
    module = kind.from_cell(learner.cell, n=2)
    before = learner.cell.weights.copy()
    module(torch.from_numpy(xs[0]))
    back = module.to_cell()
    assert type(back) is make
    np.testing.assert_array_equal(back.weights, learner.cell.weights)
    with torch.no_grad():
        module.weight_hh.mul_(2)
    module(torch.from_numpy(xs[0]))
    np.testing.assert_array_equal(learner.cell.weights, before)  # nothing is shared
    again = OnlineLearner(module.to_cell(), Linear(2), SnAp(2), SGD(0.1), batch=2)
    assert np.isfinite(again.run(xs, rng.standard_normal((5, 2, 2)).astype("float32"))).all()
    relu = SnApRNN.from_cell(RNN(3, 6, nonlinearity="relu"))
    assert relu.nonlinearity == "relu"
