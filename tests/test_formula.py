"""Cells from their formula alone: partials, printed code, its file, and what is refused."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from numba.core import config

from sparsegrad.cells import GRU, LSTM, Cell, CellKind, Map, check_cell
from sparsegrad.cells.functions import (
    cos,
    exp,
    log,
    maximum,
    minimum,
    relu,
    sigmoid,
    sin,
    spike,
    sqrt,
    stop,
    tanh,
    where,
)
from sparsegrad.cells.generated import module_of
from sparsegrad.kernels.cells import elementwise
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import SGD
from sparsegrad.learning.readout import Linear
from sparsegrad.methods import BPTT, RTRL

compiled = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="nothing is compiled")
TWO = (Map(), Map(h=False, x=False))


def leaky(h, a, b):
    z = sigmoid(b)
    return (1 - z) * h + z * tanh(a)


def gru(h, a_r, a_z, a_in, a_hn):
    r, z = sigmoid(a_r), sigmoid(a_z)
    n = tanh(a_in + r * a_hn)
    return n + z * (h - n)


def lstm(h, c, a_i, a_f, a_g, a_o):
    c = sigmoid(a_f) * c + sigmoid(a_i) * tanh(a_g)
    return sigmoid(a_o) * tanh(c), c


def of_numpy(h, a):
    return np.float64(0.5) * np.tanh(h) - np.exp(-np.square(a)) + np.maximum(a, h) / np.float32(2)


def circles(x, y, a, r):
    size = exp(-exp(r))
    return size * (cos(a) * x - sin(a) * y), size * (sin(a) * x + cos(a) * y)


def roots(h, a):
    return sqrt(1 + h * h) - log(1 + abs(a)) + a**3 / (1 + a**2) + h**1 / 4


def branches(h, a):
    far = where((a > 2) & ~(h < -1), a * a, where((a <= 0) | (h == 0), h * a, h + a))
    return minimum(far, 50) + maximum(h, a) + relu(a - 6)


def spiking(z, v, a):
    v = 0.9 * v + a - 0.5 * stop(z)
    return spike(v - 0.5, 0.3 * relu(1 - abs(v - 0.5))), v


def a_constant(h, a):
    return 0.9 * h + a


def delayed(h, one, two, a):
    return one, two, tanh(a)


FORMULAS = {
    leaky: TWO,
    gru: GRU.kind.maps,
    lstm: LSTM.kind.maps,
    of_numpy: (Map(),),
    circles: TWO,
    roots: (Map(),),
    branches: (Map(),),
    spiking: (Map(),),
    a_constant: (Map(),),
    delayed: (Map(),),
}


@pytest.mark.parametrize("function", FORMULAS, ids=lambda f: f.__name__)
def test_partials_are_those_of_the_formula(function):
    check_cell(CellKind.from_function(function, FORMULAS[function]))


@pytest.mark.parametrize("function", FORMULAS, ids=lambda f: f.__name__)
def test_new_states_are_what_the_formula_makes_of_arrays(function, rng):
    kind = CellKind.from_function(function, FORMULAS[function])
    c, g, units = kind.components, len(kind.maps), 37
    for dtype, tolerance in (("float32", 2e-6), ("float64", 1e-15)):
        state = (3 * rng.standard_normal((c, units))).astype(dtype)
        pre = (3 * rng.standard_normal((g, units))).astype(dtype)
        new = np.empty((c, units), dtype)
        kind.update(state, pre, new, np.empty((c, c, units), dtype), np.empty((c, g, units), dtype))
        expected = function(*state, *pre)
        expected = np.stack(expected if isinstance(expected, tuple) else [expected])
        np.testing.assert_allclose(new, expected, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("function", "cls"), [(gru, GRU), (lstm, LSTM)])
def test_derived_code_has_the_bits_of_what_was_written_by_hand(function, cls, dtype, rng):
    kind = CellKind.from_function(function, cls.kind.maps)
    assert kind.partials.state_rows.tolist() == cls.kind.partials.state_rows.tolist()
    assert kind.map_partials is not None
    if cls.kind.map_partials is not None:
        assert sorted(kind.map_partials) == sorted(cls.kind.map_partials)
    c, g, units = kind.components, 4, 53
    state = (3 * rng.standard_normal((c, units))).astype(dtype)
    pre = (3 * rng.standard_normal((g, units))).astype(dtype)
    results = []
    for update in (kind.update, cls.kind.update):
        arrays = [np.zeros(shape, dtype) for shape in ((c, units), (c, c, units), (c, g, units))]
        update(state, pre, *arrays)
        results.append(np.concatenate([a.ravel() for a in arrays]))
    np.testing.assert_array_equal(*results)


def test_structural_zeros_are_found():
    kind = CellKind.from_function(spiking)
    assert kind.state_partials == ((0, 1), (1, 1))  # none by z: the reset is stopped
    assert kind.map_partials == ((0, 0), (1, 0))
    kind = CellKind.from_function(lambda h, a, b: h - h + a + 0 * b + b, TWO)
    assert kind.state_partials == ()


def test_equal_formulas_are_one_kernel():
    one = CellKind.from_function(leaky, TWO)
    other = CellKind.from_function(lambda h, a, b: leaky(h, a, b), TWO)
    assert one.update.compiled is other.update.compiled


class Own(Cell):
    kind = CellKind.from_function(leaky, maps=(Map(), Map(h=False, x=False, initial_bias=-1.0)))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_cell_of_five_lines_learns(batch):
    cell = Own(3, 6, sparsity=0.5, seed=1, dtype="float64")
    xs = np.random.default_rng(0).standard_normal((12, batch, 3))
    grads = [
        OnlineLearner(cell, Linear(2, seed=1), method, SGD(0.1), batch=batch).gradient(
            xs, xs[..., :2]
        )[1]
        for method in (RTRL(), BPTT())
    ]
    for name, expected in grads[1].items():
        assert np.abs(expected).max() > 1e-4
        np.testing.assert_allclose(grads[0][name], expected, rtol=1e-10, atol=1e-13)


@njit
def spiking_by_hand(state, pre, new_state, d_state, d_pre):
    for i in range(state.shape[1]):
        v = 0.9 * state[1, i] + pre[0, i] - 0.5 * state[0, i]
        slope = 0.3 * max(1 - abs(v - 0.5), 0.0)
        new_state[0, i], new_state[1, i] = 1.0 if v > 0.5 else 0.0, v
        d_state[0, 1, i], d_state[1, 1, i] = slope * 0.9, 0.9
        d_pre[0, 0, i], d_pre[1, 0, i] = slope, 1.0


@njit
def far_off(state, pre, new_state, d_state, d_pre):
    """relu(a - 20) with the slope of the other side."""
    for i in range(state.shape[1]):
        new_state[0, i] = max(pre[0, i] - 20.0, 0.0)
        d_pre[0, 0, i] = 0.0


def test_check_cell_takes_surrogates_and_reaches_branches():
    partials = {"state_partials": ((0, 1), (1, 1)), "map_partials": ((0, 0), (1, 0))}
    by_hand = CellKind(spiking_by_hand, (Map(),), 2, **partials)
    check_cell(by_hand, formula=spiking)
    with pytest.raises(
        ValueError, match=r"∂s'\[0\]/∂s\[1\] gives 0\.\d+ where the difference is 0"
    ):
        check_cell(by_hand)

    def steeper(z, v, a):
        v = 0.9 * v + a - 0.5 * stop(z)
        return spike(v - 0.5, 0.4 * relu(1 - abs(v - 0.5))), v

    with pytest.raises(ValueError, match=r"∂s'\[0\]/∂a\[0\] gives"):
        check_cell(by_hand, formula=steeper)
    with pytest.raises(ValueError, match=r"s'\[1\] gives .* where the formula gives"):
        check_cell(by_hand, formula=lambda z, v, a: (spiking(z, v, a)[0], v))
    far = CellKind(far_off, (Map(),), state_partials=())
    with pytest.raises(ValueError, match=r"∂s'\[0\]/∂a\[0\] gives 0 where the difference is 1"):
        check_cell(far, formula=lambda h, a: relu(a - 20))
    with pytest.raises(ValueError, match="2 state numbers as the kind has, got 1"):
        check_cell(by_hand, formula=lambda h, a: a)


def branching(h, a):
    if a > 0:
        return a
    return h


ELSEWHERE = []


def leaking(h, a):
    ELSEWHERE.append(a)
    return ELSEWHERE[0] + h


LINE = branching.__code__.co_firstlineno + 1


@pytest.mark.parametrize(
    ("function", "maps", "message"),
    [
        (branching, 1, rf"branching, line {LINE}, must not branch on a value.*write where\("),
        (lambda h, a: max(h, a), 1, "must not branch on a value"),
        (lambda h, a: h and a, 1, "must not branch on a value"),
        (lambda h, a: a if 0 < a < 1 else h, 1, "must not branch on a value"),
        (lambda h, a: math.tanh(a), 1, "not of math"),
        (lambda h, a: np.arctan(a), 1, r"got numpy\.arctan: there are absolute, add"),
        (lambda h, a: np.where(a > 0, a, h), 1, r"got numpy\.where; where, maximum"),
        (lambda h, a: np.ones(3) * a, 1, r"an array of shape \(3,\).*a map of its own"),
        (lambda h, a: a * (h > 0), 1, r"write where\(condition, 1, 0\)"),
        (lambda h, a: a * np.inf, 1, "numbers that float32 holds, got inf"),
        (lambda h, a: a * 1e200, 1, r"numbers that float32 holds, got 1e\+200"),
        (lambda h, a: a**0.5, 1, r"whole powers from 1 to 16: write exp\(p \* log\(x\)\)"),
        (lambda h, a: a / 0, 1, "must not divide by 0"),
        (lambda h, a: None, 1, "each of its 1 state numbers, in their order, got nothing"),
        (lambda h, a: (h, a), 1, "each of its 1 state numbers, in their order, got 2 results"),
        (lambda h, c, a: a, 1, "each of its 2 state numbers, in their order, got 1 results"),
        (lambda h, a, b: a, 2, "every map, got no partial by 'b': its weights would never learn"),
        (lambda h, a, b: a + stop(b), 2, "got no partial by 'b'"),
        (lambda a: a, 1, r"one state number and then 1 maps, got arguments \(a\)"),
        (lambda h, *a: a, 1, r"plain arguments, .*got '\*a'"),
        (lambda h, a=1: a, 1, "plain arguments, .*got 'a=1'"),
    ],
)
def test_what_is_no_formula_is_refused_in_one_line(function, maps, message):
    with pytest.raises((TypeError, ValueError, ZeroDivisionError), match=message) as error:
        CellKind.from_function(function, maps=(Map(),) * maps)
    assert "\n" not in str(error.value)


def test_a_symbol_of_another_formula_is_refused():
    CellKind.from_function(leaking)
    with pytest.raises(ValueError, match="must use its own arguments, got another's symbol"):
        CellKind.from_function(leaking)


SCRIPT = """
import numpy as np
from sparsegrad.cells import CellKind, Map
from sparsegrad.cells.functions import exp, tanh
kind = CellKind.from_function(lambda h, a: tanh(h) * exp(-a) + 0.125)
state, pre = np.zeros((1, 20)), np.zeros((1, 20))
new, d_state, d_pre = np.zeros((1, 20)), np.zeros((1, 1, 20)), np.zeros((1, 1, 20))
kind.update(state, pre, new, d_state, d_pre)
assert (new == 0.125).all() and (d_state == 1).all() and (d_pre == 0).all()
update = kind.update.compiled
stats = getattr(update, "stats", None)
print(None if stats is None else sum(stats.cache_hits.values()), update.__code__.co_filename)
"""


def start(**environment):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def printed(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    hits, path = out.split()
    return hits, Path(path)


@compiled
def test_the_code_is_kept_in_a_file_that_two_processes_may_write_at_once(tmp_path):
    both = [start(NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    (_, path), (_, same) = map(printed, both)
    assert path == same
    assert path.is_relative_to(tmp_path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing half written
    written = path.stat().st_mtime_ns
    assert printed(start(NUMBA_CACHE_DIR=str(tmp_path))) == ("1", path)  # out of Numba's cache
    assert path.stat().st_mtime_ns == written
    path.write_text(path.read_text()[:100])
    assert printed(start(NUMBA_CACHE_DIR=str(tmp_path)))[1] == path
    assert "def update" in path.read_text()


@compiled
def test_the_file_is_in_a_folder_of_the_users_own(tmp_path):
    own = {"NUMBA_CACHE_DIR": "", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    path = printed(start(**own))[1]
    assert path.is_relative_to(tmp_path / "cache")
    assert path.parent.stat().st_mode & 0o077 == 0


def test_interpreted_code_needs_no_file():
    hits, path = printed(start(NUMBA_DISABLE_JIT="1"))
    assert hits == "None"
    assert str(path).startswith("<sparsegrad_cell_")


def test_the_same_text_is_the_same_module():
    text = CellKind.from_function(leaky, TWO).update.text
    assert module_of(text) is module_of(text)
    assert elementwise.sigmoid is module_of(text).sigmoid
