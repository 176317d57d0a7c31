"""Every cell and every method of the registry: what a new row must pass without a test of its own.

More of the kind runs over the registry in test_cells.py, test_exactness.py and test_checkpoint.py.
"""

import copy
from dataclasses import replace
from inspect import signature
from typing import Any

import numpy as np
import pytest

import sparsegrad
from sparsegrad import SGD, Cell, Linear, OnlineLearner, check_cell
from sparsegrad.cells.jacobians import dynamics_pattern, immediate_pattern
from sparsegrad.cells.structure import structure
from sparsegrad.interop.host_cell import HostCell
from sparsegrad.methods import BPTT, RTRL
from sparsegrad.registry import CELLS, METHOD_WORDS, METHODS, CellRow, MethodRow, Row, parse_method
from sparsegrad.runs.settings import Settings

INPUTS, UNITS, OUTPUTS, STEPS = 3, 6, 4, 7
WORDS = [word.replace(":N", ":2").replace(":T", ":3") for word in METHOD_WORDS]
ROWS = [*CELLS.values(), *METHODS.values()]
DRAWN = [w for w in WORDS if "seed" in signature(type(parse_method(w, 0))).parameters]


def a_cell(row: CellRow, dtype: str = "float64", **options: Any) -> Cell:
    return row.load()(INPUTS, UNITS, **{"sparsity": 0.5, "seed": 1, "dtype": dtype} | options)


def a_learner(cell: Cell, word: str, batch: int) -> OnlineLearner:
    readout = Linear(OUTPUTS, "cross_entropy", seed=2)
    return OnlineLearner(cell, readout, parse_method(word, 3), SGD(0.1), batch=batch)


def data(batch: int, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    xs = rng.standard_normal((STEPS, batch, INPUTS)).astype(dtype)
    return xs, rng.integers(0, OUTPUTS, (STEPS, batch))


# cells


@pytest.mark.parametrize("row", CELLS.values(), ids=CELLS)
def test_the_partials_are_those_of_the_update(row: CellRow) -> None:
    check_cell(a_cell(row).kind)


def is_smooth(row: CellRow) -> bool:
    """Whether the partials are true ones: a spike's slope is a surrogate, which no step finds."""
    return getattr(row.load().kind.update, "smooth", True)


@pytest.mark.parametrize("method", [RTRL(), BPTT()], ids=str)
@pytest.mark.parametrize("row", [r for r in CELLS.values() if is_smooth(r)], ids=lambda r: r.name)
def test_the_exact_gradient_is_that_of_finite_differences(row: CellRow, method: Any) -> None:
    """Along random directions in the space of all weights, through whole sequences."""
    cell, (xs, targets) = a_cell(row), data(batch=2)
    readout = Linear(OUTPUTS, "cross_entropy", seed=2)
    learner = OnlineLearner(cell, readout, method, SGD(0.1), batch=2)
    rng = np.random.default_rng(9)
    cell.weights[:] += 0.3 * rng.standard_normal(cell.weights.size)  # biases too
    grads = learner.gradient(xs, targets)[1]
    start, step = cell.weights.copy(), 1e-6
    for _ in range(3):
        direction = rng.standard_normal(start.size)
        losses = []
        for sign in (1, -1):
            cell.weights[:] = start + sign * step * direction
            losses.append(learner.evaluate(xs, targets).sum())
        cell.weights[:] = start
        along = sum((grads[n] * v).sum() for n, v in cell.dense_of(direction).items())
        assert abs(along) > 1e-3
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(along, rel=1e-6)


@pytest.mark.parametrize("row", [r for r in CELLS.values() if r.torch], ids=lambda row: row.name)
def test_a_cell_that_names_torchs_computes_the_same(row: CellRow) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: it is the oracle here")
    cell, (xs, targets) = a_cell(row), data(batch=2)
    theirs = getattr(torch.nn, f"{row.torch}Cell")(INPUTS, UNITS).double()
    with torch.no_grad():
        for name, values in cell.to_dense().items():
            getattr(theirs, name).copy_(torch.tensor(values))
        state = None
        for x in torch.tensor(xs):
            state = theirs(x, state)
    learner = OnlineLearner(cell, Linear(OUTPUTS, "cross_entropy"), RTRL(), SGD(0.0), batch=2)
    learner.run(xs, targets)  # at a rate of 0
    components = state if isinstance(state, tuple) else (state,)
    expected = np.stack([part.numpy() for part in components], axis=1)
    np.testing.assert_allclose(learner.state, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("row", CELLS.values(), ids=CELLS)
def test_the_profile_draws_the_structure_of_the_cell(row: CellRow) -> None:
    drawn = structure(row.name, UNITS, 0.0, INPUTS)
    cell = a_cell(row, sparsity=0.0)
    for pattern, expected in (
        (drawn.dynamics, dynamics_pattern(cell)[0]),
        (drawn.immediate, immediate_pattern(cell)),
    ):
        assert pattern.shape == expected.shape
        assert (pattern != expected).nnz == 0


@pytest.mark.parametrize("row", CELLS.values(), ids=CELLS)
def test_a_copied_cell_is_a_cell_of_its_own(row: CellRow) -> None:
    cell, data_of = a_cell(row), data(batch=2)
    twin = copy.deepcopy(cell)
    before = a_learner(cell, "rtrl", 2).evaluate(*data_of)
    np.testing.assert_array_equal(a_learner(twin, "rtrl", 2).evaluate(*data_of), before)
    twin.weights[:] = 0
    np.testing.assert_array_equal(a_learner(cell, "rtrl", 2).evaluate(*data_of), before)


@pytest.mark.parametrize("row", CELLS.values(), ids=CELLS)
def test_a_host_framework_takes_a_cell(row: CellRow) -> None:
    cell = a_cell(row)
    assert HostCell(cell, 2, 1).order.size == cell.weights.size


# methods, on every cell


@pytest.mark.parametrize("word", [word for word in WORDS if word not in DRAWN])
@pytest.mark.parametrize("row", CELLS.values(), ids=CELLS)
def test_a_batch_is_the_mean_of_its_streams(row: CellRow, word: str) -> None:
    """But where each stream draws its own random numbers."""
    cell, batch = a_cell(row), 3
    xs, targets = data(batch)
    loss, grads = a_learner(cell, word, batch).gradient(xs, targets)
    alone = a_learner(cell, word, 1)
    parts = [alone.gradient(xs[:, b : b + 1], targets[:, b : b + 1]) for b in range(batch)]
    assert loss == pytest.approx(np.mean([part[0] for part in parts]), rel=1e-12)
    for name, values in grads.items():
        mean = np.mean([part[1][name] for part in parts], axis=0)
        np.testing.assert_allclose(values, mean, rtol=1e-11, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("row", CELLS.values(), ids=CELLS)
def test_single_precision_is_double_precision_to_its_digits(row: CellRow, word: str) -> None:
    found = []
    for dtype in ("float64", "float32"):
        double = a_cell(row)
        dense = {n: v.astype(dtype) for n, v in double.to_dense().items()}
        cell = row.load().from_dense(**dense, masks=double.masks(), **double.options())
        grads = a_learner(cell, word, 2).gradient(*data(2, dtype))[1]
        assert {values.dtype for values in grads.values()} == {np.dtype(dtype)}
        found.append(grads)
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("row", CELLS.values(), ids=CELLS)
def test_the_command_line_makes_a_learner_that_learns(row: CellRow, word: str) -> None:
    settings = Settings("copy", cell=row.name, method=word, units=8, sparsity=0.5, batch=2)
    task = settings.make_task()
    learner = settings.make_learner(task)
    assert type(learner.cell) is row.load()
    assert type(learner.method) is METHODS[word.partition(":")[0]].load()
    before = learner.parameters()
    for _ in range(3):  # at least one window is full
        learner.run(*task.draw())
    for name, values in learner.parameters().items():
        assert np.isfinite(values).all()
        # few units spike in so few steps: their recurrent weights may rest
        if name in ("weight_hh" if is_smooth(row) else "weight_ih", "readout.weight"):
            assert (values != before[name]).any(), name


# rows


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_has_a_public_name(row: Row) -> None:
    assert getattr(sparsegrad, row.type_name) is row.load()
    assert row.type_name in sparsegrad.__all__


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Row("GRU", "cells.gru:GRU", "gated"), "row's name must be a lower-case word, got"),
        (lambda: Row("gru", "cells/gru.py", "gated"), "must have a path such as 'cells.gru:GRU'"),
        (lambda: Row("gru", "cells.gru:GRU", ""), "row 'gru' must have a help text, got none"),
        (lambda: Row("gru", "cells.gruu:GRU", "x").load(), "'gru' must name a class: No module"),
        (lambda: Row("gru", "cells.gru:GRUU", "x").load(), "'gru' must name a class: .* 'GRUU'"),
        (
            lambda: CellRow("m", "cells.kind:Map", "x").load(),
            "'m': cells.kind:Map must have 'kind'",
        ),
        (lambda: MethodRow("m", "methods.snap:SnAp", "x"), "row 'm' must have words such as 'm'"),
        (
            lambda: MethodRow("m", "methods.snap:SnAp", "x", words=("m:N",)),
            r"row 'm' must say which argument the number of \('m:N',\) is for, got ''",
        ),
        (
            lambda: MethodRow("m", "cells.gru:GRU", "x", words=("m",)).load(),
            "row 'm': cells.gru:GRU must have 'engine'",
        ),
    ],
)
def test_an_incomplete_row_is_refused_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_rows_of_one_name_are_refused() -> None:
    from sparsegrad.registry import _by_name

    with pytest.raises(ValueError, match=r"names of their own, got \['gru', 'gru'\]"):
        _by_name((CELLS["gru"], replace(CELLS["gru"], torch="")))
