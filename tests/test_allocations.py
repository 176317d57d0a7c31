"""What a run allocates: nothing per step in the kernels, and nothing that grows with T around them.

Python's tracemalloc sees NumPy's memory and not that of compiled code, so both are looked at.
"""

import gc
import tracemalloc
from typing import Any

import numba
import numpy as np
import pytest
from numba.core import config

from sparsegrad.cells import GRU, LSTM, RNN, Cell
from sparsegrad.kernels.learning import steps
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import Adam
from sparsegrad.learning.readout import Linear
from sparsegrad.methods import BPTT, RFLO, RTRL, UORO, SnAp, bptt, snap, traces, uoro

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="there is no compiled code to look at")
BATCH, INPUTS, UNITS = 2, 3, 6
PER_STEP = 8 + BATCH * (8 + 8 + 2)  # bytes of a call's own data: losses; scales, classes, resets


def learner_of(method: Any) -> OnlineLearner:
    cell = LSTM(INPUTS, UNITS, sparsity=0.5, seed=1, dtype="float64")
    return OnlineLearner(cell, Linear(4, "cross_entropy"), method, Adam(0.01), batch=BATCH)


def data(steps: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((steps, BATCH, INPUTS)), rng.integers(0, 4, (steps, BATCH))


def peak(learner: OnlineLearner, steps: int) -> int:
    """Bytes at the worst moment of a run, over those before it."""
    xs, targets = data(steps)
    gc.collect()
    tracemalloc.start()
    try:
        learner.run(xs, targets)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def growth(method: Any) -> float:
    """Bytes per step that a longer run takes: the least of three, as slow machines make slices."""
    short, long = 100, 4100
    learner = learner_of(method)
    learner.run(*data(short))  # compiles
    return min(peak(learner, long) - peak(learner, short) for _ in range(3)) / (long - short)


@pytest.mark.parametrize("method", [SnAp(1), SnAp(2), RTRL(), UORO(), RFLO(), BPTT(4)], ids=str)
def test_memory_does_not_grow_with_the_length_of_a_run(method: Any) -> None:
    assert growth(method) <= PER_STEP + 8


def test_memory_of_bptt_grows_with_its_window() -> None:
    """The measure must be able to see a step that is kept."""
    assert growth(BPTT()) >= 8 * BATCH * (UNITS + INPUTS + 1)
    kept = [sum(a.nbytes for a in learner_of(BPTT(w))._engine.state().values()) for w in (4, 400)]
    assert kept[1] > 80 * kept[0]


def assert_allocates_nothing(compiled: Any) -> None:
    assert compiled.signatures
    for code in compiled.inspect_llvm().values():
        assert "NRT_MemInfo_alloc" not in code


# Each loop holds all kernels of its steps: forward, Jacobians, influence, readout, optimiser.
@pytest.mark.parametrize(
    ("module", "loop", "method"),
    [
        (traces, "run_traces", SnAp(1)),
        (snap, "run_snap", SnAp(2)),
        (uoro, "run_uoro", UORO()),
        (bptt, "run_bptt", BPTT(4)),
        (steps, "run_forward", SnAp(1)),
    ],
)
def test_loops_allocate_nothing(
    module: Any, loop: str, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = numba.njit(getattr(module, loop).py_func)  # not from the cache, which keeps no IR
    monkeypatch.setattr(module, loop, fresh)
    learner = learner_of(method)
    (learner.evaluate if loop == "run_forward" else learner.run)(*data(3))
    assert_allocates_nothing(fresh)


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM], ids=lambda kind: kind.__name__)
def test_cells_allocate_nothing(kind: type[Cell]) -> None:
    """Loops call a cell's update through a pointer, so it is not in their code."""
    cell_kind = kind(INPUTS, UNITS).kind
    c, g = cell_kind.components, len(cell_kind.maps)
    fresh = numba.njit(cell_kind.update.py_func)
    rows, blocks = np.zeros((c, UNITS)), np.zeros((c, c, UNITS))
    fresh(rows, np.zeros((g, UNITS)), rows.copy(), blocks, np.zeros((c, g, UNITS)))
    assert_allocates_nothing(fresh)


def test_an_allocation_in_a_called_kernel_is_seen() -> None:
    @numba.njit
    def allocates(n: int) -> float:
        return np.zeros(n).sum()

    @numba.njit
    def calls(n: int) -> float:
        return allocates(n) + allocates(n + 1)

    calls(3)
    with pytest.raises(AssertionError, match="NRT_MemInfo_alloc"):
        assert_allocates_nothing(calls)
