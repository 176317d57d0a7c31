"""Every parameter of every public class and call: right, or refused in one line."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from sparsegrad.cells import GRU, LSTM, RNN
from sparsegrad.influence.influence import Influence
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import SGD, Adam, AdamW, RMSprop, cosine
from sparsegrad.learning.readout import MLP, Linear
from sparsegrad.methods import BPTT, RFLO, RTRL, UORO, SnAp
from sparsegrad.symbolic.pattern import reach

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")

REFUSED = TypeError, ValueError, IndexError, MemoryError
STRANGE = {
    "None": None, "0": 0, "-1": -1, "True": True, "np.True_": np.True_, "2.5": 2.5, "'2'": "2",
    "nan": np.nan, "inf": np.inf, "-inf": -np.inf, "huge": 10**30, "1e300": 1e300, "list": [1],
    "array": np.ones(2), "array of one": np.ones(1, int), "complex": 1j, "object": object(),
    "type": int, "bytes": b"2",
}  # fmt: skip
NOTHING: set[str] = set()
COUNT = NOTHING  # none of the strange values is an integer of at least 1 that makes sense
SEED = {"0", "huge"}


def tried(call: Callable[..., Any], *given: Any) -> tuple[Any, str | None]:
    """What a call returns, and what it says where it refuses: one line."""
    try:
        return call(*given), None
    except REFUSED as error:
        refusal = str(error)
    assert refusal
    assert "\n" not in refusal
    return None, refusal


def pattern() -> Any:
    return reach(np.eye(3), np.eye(3), 1)


def learner(method: Any = None, cell: Any = None, **options: Any) -> OnlineLearner:
    cell = cell or RNN(3, 4, dtype="float64")
    return OnlineLearner(cell, Linear(2), method or SnAp(1), SGD(0.1), **options)


def steady(cls: Any, name: str) -> Callable[[Any], Any]:
    """A setting that is looked at when the learner is built, or before."""
    return lambda value: learner_with(cls(**{name: value}))


def learner_with(optimizer: Any) -> OnlineLearner:
    return OnlineLearner(RNN(3, 4), Linear(2), SnAp(1), optimizer)


SCALARS: dict[str, tuple[Callable[[Any], Any], set[str]]] = {
    "SnAp.n": (lambda v: SnAp(v), {"huge"}),
    "BPTT.window": (lambda v: BPTT(v), {"None", "huge"}),
    "UORO.seed": (lambda v: UORO(v), SEED),
    "Linear.outputs": (lambda v: Linear(v), COUNT),
    "Linear.loss": (lambda v: Linear(2, v), NOTHING),
    "Linear.seed": (lambda v: Linear(2, seed=v), SEED),
    "MLP.hidden": (lambda v: MLP(v, 2), COUNT),
    "MLP.outputs": (lambda v: MLP(2, v), COUNT),
    "MLP.loss": (lambda v: MLP(2, 2, v), NOTHING),
    "MLP.seed": (lambda v: MLP(2, 2, seed=v), SEED),
    "SGD.rate": (steady(SGD, "rate"), {"0", "2.5", "huge"}),
    "SGD.momentum": (lambda v: learner_with(SGD(0.1, momentum=v)), {"0"}),
    "SGD.clip": (lambda v: learner_with(SGD(0.1, clip=v)), {"None", "2.5", "huge", "1e300"}),
    "cosine.updates": (lambda v: cosine(v), COUNT),
    "cosine.warmup": (lambda v: cosine(4, v), {"0"}),
    "cosine.floor": (lambda v: cosine(4, 1, v), {"0", "-1", "2.5", "huge", "1e300"}),
    "Influence.pattern": (lambda v: Influence(v), NOTHING),
    "Influence.batch": (lambda v: Influence(pattern(), v), COUNT),
    "Influence.dtype": (lambda v: Influence(pattern(), 1, v), NOTHING),
    "Influence.threads": (lambda v: Influence(pattern(), threads=v), {"None", "huge"}),
    "reach.n": (lambda v: reach(np.eye(3), np.eye(3), v), {"None", "huge"}),
    "reach.dynamics": (lambda v: reach(v, np.eye(3)), NOTHING),
    "reach.immediate": (lambda v: reach(np.eye(3), v), NOTHING),
    "pattern.cost.batch": (lambda v: pattern().cost(v), {"huge"}),
    "pattern.cost.dtype": (lambda v: pattern().cost(1, v), NOTHING),
    "pattern.dynamics_data_of": (lambda v: pattern().dynamics_data_of(v), NOTHING),
    "pattern.immediate_data_of": (lambda v: pattern().immediate_data_of(v), NOTHING),
    "OnlineLearner.cell": (
        lambda v: OnlineLearner(v, Linear(2), SnAp(1), SGD(0.1)),
        NOTHING,
    ),
    "OnlineLearner.readout": (lambda v: OnlineLearner(RNN(3, 4), v, SnAp(1), SGD(0.1)), NOTHING),
    "OnlineLearner.method": (lambda v: OnlineLearner(RNN(3, 4), Linear(2), v, SGD(0.1)), NOTHING),
    "OnlineLearner.optimizer": (learner_with, NOTHING),
    "OnlineLearner.batch": (lambda v: learner(batch=v), COUNT),
    "OnlineLearner.update_every": (lambda v: learner(update_every=v), {"None"}),
    "RNN.nonlinearity": (lambda v: RNN(2, 3, nonlinearity=v), NOTHING),
}
for method in (SnAp(1), SnAp(2), RTRL(), BPTT(), BPTT(2), UORO(), RFLO()):
    SCALARS[f"threads of {method}"] = (
        lambda v, m=method: learner(m, threads=v),
        {"None", "huge"},
    )
for optimizer in (Adam, AdamW):
    name = optimizer.__name__
    SCALARS |= {
        f"{name}.rate": (steady(optimizer, "rate"), {"0", "2.5", "huge"}),
        f"{name}.beta1": (steady(optimizer, "beta1"), {"0"}),
        f"{name}.beta2": (steady(optimizer, "beta2"), {"0"}),
        f"{name}.epsilon": (steady(optimizer, "epsilon"), {"2.5", "huge"}),
        f"{name}.clip": (steady(optimizer, "clip"), {"None", "2.5", "huge", "1e300"}),
        f"{name}.schedule": (
            steady(optimizer, "schedule"), {"None", "list", "array", "array of one"},
        ),
    }  # fmt: skip
SCALARS |= {
    "RMSprop.alpha": (steady(RMSprop, "alpha"), {"0"}),
    "RMSprop.epsilon": (steady(RMSprop, "epsilon"), {"2.5", "huge"}),
    "RMSprop.momentum": (steady(RMSprop, "momentum"), {"0"}),
}
SCALARS["AdamW.weight_decay"] = (steady(AdamW, "weight_decay"), {"0", "2.5", "huge", "1e300"})
for kind in (RNN, GRU, LSTM):
    name = kind.__name__
    SCALARS |= {
        f"{name}.inputs": (lambda v, k=kind: k(v, 3), COUNT),
        f"{name}.units": (lambda v, k=kind: k(3, v), COUNT),
        f"{name}.sparsity": (lambda v, k=kind: k(2, 3, sparsity=v), {"0"}),
        f"{name}.input_sparsity": (lambda v, k=kind: k(2, 3, input_sparsity=v), {"0", "None"}),
        f"{name}.gate_masks": (lambda v, k=kind: k(2, 3, gate_masks=v), NOTHING),
        f"{name}.gain": (lambda v, k=kind: k(2, 3, gain=v), {"0", "-1", "2.5", "huge"}),
        f"{name}.seed": (lambda v, k=kind: k(2, 3, seed=v), SEED),
        f"{name}.dtype": (lambda v, k=kind: k(2, 3, dtype=v), NOTHING),
        f"{name}.masks": (lambda v, k=kind: k(2, 3, masks=v), {"None"}),
    }


@pytest.mark.parametrize("parameter", SCALARS)
def test_a_strange_value_is_right_or_refused_in_one_line(parameter: str) -> None:
    call, allowed = SCALARS[parameter]
    for name, value in STRANGE.items():
        _, refusal = tried(call, value)
        assert (refusal is None) == (name in allowed), f"{parameter} of {name}: {refusal}"


@pytest.mark.parametrize("value", STRANGE, ids=str)
def test_calls_of_a_built_object_refuse_and_leave_it(value: str) -> None:
    strange = STRANGE[value]
    J = Influence(pattern(), 2, "float64")
    J.panels[:] = np.arange(J.panels.size).reshape(J.panels.shape)
    whole = learner(batch=2)
    whole._streams.state[:] = 1.0
    before = J.panels.copy(), whole.state, whole.parameters(), whole.update_every
    calls: dict[str, tuple[Callable[[], Any], set[str]]] = {
        "J.reset": (lambda: J.reset(strange), {"None", "0", "-1"}),
        "J.to_scipy": (lambda: J.to_scipy(strange), {"0", "-1"}),
        "J.from_scipy": (lambda: J.from_scipy(strange), NOTHING),
        "J.from_scipy b": (lambda: J.from_scipy(J.to_scipy(), strange), {"0", "-1"}),
        "J.update D": (lambda: J.update(strange, np.ones(3)), NOTHING),
        "J.update I": (lambda: J.update(np.ones(3), strange), NOTHING),
        "J.contract": (lambda: J.contract(strange), NOTHING),
        "reset": (lambda: whole.reset(strange), {"None", "0"}),
        "update_after": (lambda: whole.update_after(strange), NOTHING),
        "xs": (lambda: whole.run(strange, np.ones((3, 2, 2))), NOTHING),
        "targets": (lambda: whole.run(np.ones((3, 2, 3)), strange), NOTHING),
        "x": (lambda: whole.step(strange, np.ones((2, 2))), NOTHING),
        "target": (lambda: whole.step(np.ones((2, 3)), strange), NOTHING),
    }
    for name, (call, allowed) in calls.items():
        if value in allowed:
            continue
        assert tried(call)[1] is not None, f"{name} took {value}"
        np.testing.assert_array_equal(J.panels, before[0], err_msg=name)
        np.testing.assert_array_equal(whole.state, before[1], err_msg=name)
        for key, values in whole.parameters().items():
            np.testing.assert_array_equal(values, before[2][key], err_msg=name)
        assert whole.update_every == before[3]


def variants(right: np.ndarray, tmp_path: Any) -> dict[str, tuple[Any, bool]]:
    """Forms of one array, and whether each must give the very same result."""
    read_only = right.copy()
    read_only.setflags(write=False)
    wide = np.repeat(right[..., None], 2, axis=-1)
    raw = bytearray(right.nbytes + 1)
    unaligned = np.frombuffer(raw, right.dtype, offset=1, count=right.size).reshape(right.shape)
    unaligned[...] = right
    mapped = np.memmap(tmp_path / "map", right.dtype, "w+", shape=right.shape)
    mapped[...] = right
    flat = right.reshape(right.shape[0], -1)
    found: dict[str, tuple[Any, bool]] = {
        "read-only": (read_only, True),
        "not contiguous": (wide[..., 0], True),
        "Fortran": (np.asfortranarray(right), True),
        "reversed": (right[::-1].copy()[::-1], True),
        "not aligned": (unaligned, True),
        "memmap": (mapped, True),
        "masked": (np.ma.masked_array(right), False),
        "matrix": (np.asmatrix(flat), False),
        "longer": (np.concatenate([right, right]), False),
        "deeper": (right[None, None], False),
        "empty": (right[:0], False),
        "object": (right.astype(object), False),
        "complex": (right.astype(complex), False),
        "text": (right.astype(str), False),
        "other dtype": (right.astype("f2" if right.dtype.kind == "f" else "f4"), False),
        "records": (np.zeros(right.shape, [("a", "f8")]), False),
    }
    if right.dtype.itemsize > 1:
        swapped = right.astype(right.dtype.newbyteorder())
        found["other byte order"] = (swapped, right.dtype.kind == "i")
    return found


def same(one: Any, two: Any) -> None:
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


RNG = np.random.default_rng(0)
XS, VALUES = RNG.standard_normal((5, 2, 3)), RNG.standard_normal((5, 2, 2))
CLASSES = RNG.integers(0, 2, (5, 2))
WEIGHTS, RESETS = np.ones((5, 2)), RNG.random((5, 2)) < 0.3
D, DELTA = RNG.standard_normal(3), RNG.standard_normal((2, 3))


def run(**given: Any) -> Any:
    """Losses and weights after a run, from the same start each time."""
    data = {"xs": XS, "targets": VALUES, "weights": WEIGHTS, "resets": RESETS} | given
    loss = "cross_entropy" if data["targets"] is CLASSES or "classes" in given else "squared_error"
    data["targets"] = data.pop("classes", data["targets"])
    whole = OnlineLearner(RNN(3, 4, dtype="float64"), Linear(2, loss), SnAp(1), SGD(0.1), batch=2)
    return [whole.run(**data), *whole.parameters().values()]


def step_J(dynamics: Any = D, immediate: Any = D, delta: Any = DELTA) -> Any:
    J = Influence(pattern(), 2, "float64")
    J.update(D, D)
    return [J.update_and_contract(dynamics, immediate, delta), J.panels.copy()]


def dense(name: str) -> Callable[[Any], Any]:
    cell = GRU(3, 4, seed=1, dtype="float64")
    return lambda value: list(
        GRU.from_dense(**(cell.to_dense() | {name: value})).to_dense().values()
    )


def masked(value: Any) -> Any:
    return list(GRU(3, 4, masks={"weight_hh": value}, dtype="float64").to_dense().values())


def starting(name: str) -> Callable[[Any], Any]:
    def call(value: Any) -> Any:
        cell, readout = RNN(3, 4, dtype="float64"), Linear(2, **{name: value})
        return list(OnlineLearner(cell, readout, SnAp(1), SGD(0.1)).parameters().values())

    return call


DENSE = GRU(3, 4, seed=1, dtype="float64").to_dense()
ARRAYS: dict[str, tuple[Callable[[Any], Any], np.ndarray]] = {
    "xs": (lambda v: run(xs=v), XS),
    "targets": (lambda v: run(targets=v), VALUES),
    "classes": (lambda v: run(classes=v), CLASSES),
    "weights": (lambda v: run(weights=v), WEIGHTS),
    "resets": (lambda v: run(resets=v), RESETS),
    "dynamics_data": (lambda v: step_J(dynamics=v), D),
    "immediate_data": (lambda v: step_J(immediate=v), D),
    "state_grad": (lambda v: step_J(delta=v), DELTA),
    "from_dense weight_hh": (dense("weight_hh"), DENSE["weight_hh"]),
    "from_dense bias_ih": (dense("bias_ih"), DENSE["bias_ih"]),
    "mask": (masked, RNG.random((12, 4)) < 0.5),
    "readout weight": (starting("weight"), RNG.standard_normal((2, 4))),
    "readout bias": (starting("bias"), RNG.standard_normal(2)),
}  # fmt: skip
CONVERTED = {"weights", "xs", "targets"}  # of any float type, where no number changes


@pytest.mark.parametrize("argument", ARRAYS)
def test_an_array_of_any_form_gives_the_same_or_is_refused(argument: str, tmp_path: Any) -> None:
    call, right = ARRAYS[argument]
    expected = call(right)
    for name, (value, must) in variants(right, tmp_path).items():
        kept = np.array(value, copy=True) if must else None
        may = must or (argument in CONVERTED and name in ("other dtype", "other byte order"))
        found, refusal = tried(call, value)
        if refusal is not None:
            assert not must, (name, refusal)
            continue
        assert may, f"{argument} took {name}"
        same(found, call(value.astype(right.dtype)) if name == "other dtype" else expected)
        if kept is not None:
            np.testing.assert_array_equal(value, kept)


def test_matrices_of_any_order_update_alike() -> None:
    """A matrix whose indices are not sorted is put right; its bare values would not be."""
    rng = np.random.default_rng(0)
    net = sp.random_array((8, 8), density=0.4, rng=rng, dtype=np.float64).tocsr()
    into = sp.random_array((8, 12), density=0.3, rng=rng, dtype=np.float64).tocsc()
    net.sort_indices()
    into.sort_indices()
    right = Influence(reach(net, into, 3), 2, "float64")
    for _ in range(3):
        right.update(net.data, into.data)
    for form in ("csr", "csc", "coo", "lil", "dok"):
        other = Influence(right.pattern, 2, "float64")
        for _ in range(3):
            other.update(shuffled(net.asformat(form)), shuffled(into.asformat(form)))
        np.testing.assert_array_equal(right.panels, other.panels)
    other = Influence(right.pattern, 2, "float64")  # blocks hold zeros that the pattern has not
    for _ in range(3):
        other.update(sp.bsr_array(net, blocksize=(2, 2)), sp.bsr_array(into, blocksize=(4, 4)))
    np.testing.assert_array_equal(right.panels, other.panels)
    outside = np.argwhere(net.toarray() == 0)[0]
    wrong = net.tolil()
    wrong[tuple(outside)] = 1.0
    for bad, text in (
        (wrong, "outside it in row"),
        (net[:7], r"shape \(8, 8\)"),
        (net.astype("f4"), "float64"),
    ):
        with pytest.raises((TypeError, ValueError), match=text):
            other.update(bad, into)
    np.testing.assert_array_equal(right.panels, other.panels)


def shuffled(matrix: Any) -> Any:
    """The same matrix with the entries of each row or column in another order."""
    if matrix.format not in ("csr", "csc"):
        return matrix
    matrix = matrix.copy()
    for start, end in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        order = np.arange(start, end)[::-1]
        matrix.indices[start:end], matrix.data[start:end] = (
            matrix.indices[order],
            matrix.data[order],
        )
    matrix.has_sorted_indices = False
    return matrix


@pytest.mark.parametrize("which", ["dynamics", "immediate"])
def test_reach_warns_of_an_order_that_values_would_not_follow(which: str) -> None:
    net, into = sp.csr_array(np.ones((3, 3))), sp.csc_array(np.ones((3, 4)))
    given = {"dynamics": net, "immediate": into}
    right = reach(**given)
    given[which] = shuffled(given[which])
    with pytest.warns(UserWarning, match=f"{which} has .* not sorted") as told:
        found = reach(**given)
    assert "\n" not in str(told[0].message)
    np.testing.assert_array_equal(found.dynamics_indices, right.dynamics_indices)
    np.testing.assert_array_equal(found.immediate_indices, right.immediate_indices)


def places() -> dict[str, np.ndarray]:
    """Arrays by which kernels find their places, as a user can get hold of them."""
    found = reach(np.ones((3, 3)), np.ones((3, 4)))
    J, cell = Influence(found), GRU(3, 4)
    whole = learner(SnAp(2), GRU(3, 4, dtype="float64"))
    arrays = {f"pattern.{n}": getattr(found, n) for n in (
        "dynamics_indptr", "dynamics_indices", "immediate_indptr", "immediate_indices",
        "supernode", "reach_indptr", "reach_indices", "indptr", "indices")}  # fmt: skip
    arrays |= {f"maps.{n}": getattr(cell.maps, n) for n in ("indptr", "indices", "recurrent_end")}
    arrays |= {f"learner.maps.{n}": getattr(whole.cell.maps, n) for n in ("indptr", "indices")}
    arrays |= {f"partials.{n}": array for n, array in cell.kind.partials._asdict().items()}
    arrays |= {f"J.pattern.{n}": getattr(J.pattern, n) for n in ("indptr", "indices")}
    return arrays


@pytest.mark.parametrize("name", places())
def test_places_cannot_be_written(name: str) -> None:
    array = places()[name]
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.setflags(write=True)
    while array is not None:  # nor through what it is a view of
        assert not isinstance(array, np.ndarray) or not array.flags.writeable
        array = array.base if isinstance(array, np.ndarray) else None


def test_what_is_handed_out_of_an_influence_changes_nothing_but_values() -> None:
    net, into = np.ones((3, 3)), np.ones((3, 4))
    one, two = (Influence(reach(net, into, 2), 2, "float64") for _ in range(2))
    for name in ("pattern", "batch", "dtype"):
        with pytest.raises(AttributeError, match="must stay as it is: build another Influence"):
            setattr(one, name, None)
    for name in ("program", "panels", "cuts", "scratch", "threads", "nbytes"):
        with pytest.raises(AttributeError):
            setattr(one, name, None)
    for array in one.program:
        array[...] = 10**9
    one.cuts[...] = 10**9
    one.panels.shape = (-1,)
    one.scratch.shape = (-1, 1)
    matrix, bare = one.to_scipy(), one.pattern.to_scipy()
    for copied in (matrix, bare):
        assert copied.indices.dtype == copied.indptr.dtype == np.int32
        copied.data[:] = 0
        copied.eliminate_zeros()
        assert copied.nnz == 0
    for J in (one, two):
        J.update(np.ones(9), np.ones(12))
    np.testing.assert_array_equal(one.contract(np.ones(3)), two.contract(np.ones(3)))


def test_too_many_entries_for_32_bits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsegrad.symbolic.pattern._MOST_SOURCES", 8)
    assert reach(np.eye(8), np.eye(8)).nnz == 8
    with pytest.raises(ValueError, match="at most 8 entries, got 9"):
        reach(np.ones((3, 3)), np.eye(3))


class _Foreign:
    """An array of another library that has no dense form: asking for one raises what it likes."""

    shape = (3, 3)
    format = "csr"

    def tocsr(self) -> None:
        raise RuntimeError("no\nsuch thing")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("Cannot convert\na sparse array to dense automatically")


@pytest.mark.parametrize("value", [_Foreign(), {0: [1]}, {1, 2}, "graph", [[1], [1, 2]], iter([])])
def test_reach_refuses_foreign_kinds_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match=r"must be a scipy\.sparse array or a dense") as caught:
        reach(value, np.eye(3))
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match=r"must be a scipy\.sparse"):
        reach(np.eye(3), value)


@pytest.mark.parametrize("name", ["inputs", "units", "dtype", "kind", "maps", "places"])
def test_what_a_cell_was_built_of_stays(name: str) -> None:
    for cell in (GRU(2, 3), RNN(2, 3), LSTM(2, 3)):
        with pytest.raises(AttributeError):
            setattr(cell, name, None)
        with pytest.raises(AttributeError):
            delattr(cell, name)
