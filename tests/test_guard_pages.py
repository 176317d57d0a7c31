"""Kernels stay within every array of a learner and an influence: beyond each lies a forbidden page.

In processes of their own, which a step too far kills.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from guarded import Guard, arrays_of, guarded
from numba.core import config

from sparsegrad.cells import GRU, LSTM, RNN
from sparsegrad.influence.influence import Influence
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import SGD, Adam
from sparsegrad.learning.readout import MLP, Linear
from sparsegrad.methods import BPTT, RFLO, RTRL, UORO, SnAp
from sparsegrad.symbolic.pattern import reach

pytestmark = pytest.mark.skipif(
    config.DISABLE_JIT or sys.platform == "win32", reason="needs compiled code and mprotect"
)
METHODS = [SnAp(1), SnAp(2), RTRL(), RFLO(), UORO(), BPTT(3), BPTT()]
SIZES = [(RNN, 1, 1, 1), (RNN, 17, 3, 2), (GRU, 5, 2, 3), (GRU, 16, 1, 9), (LSTM, 7, 3, 1),
         (LSTM, 3, 2, 4)]  # fmt: skip


def a_learner(method: Any, size: Any, dtype: str, variant: bool) -> OnlineLearner:
    kind, units, inputs, batch = size
    cell = kind(inputs, units, sparsity=0.4, seed=1, dtype=dtype)
    readout = MLP(3, 5, "cross_entropy") if variant else Linear(2)
    optimizer = Adam(0.01, clip=1.0) if variant else SGD(0.01, momentum=0.9)
    options = {} if isinstance(method, BPTT) else {"update_every": 2}
    return OnlineLearner(cell, readout, method, optimizer, batch=batch, threads=1, **options)


def guard_learner(learner: OnlineLearner, behind: bool) -> None:
    """Move all that a learner and its engine hold to guarded memory."""
    engine, cell = learner._engine, learner.cell
    held: list[dict[str, Any]] = [vars(engine)]
    if hasattr(engine, "influence"):
        held.append(vars(engine.influence))
    own = [vars(learner), vars(learner._parameters), vars(cell)]
    names = {"_loop", "_streams", "_memory", "flat", "arrays", "maps"}
    trees = [v for d in held for v in d.values()] + [d[n] for d in own for n in names if n in d]
    guard = Guard([a for tree in trees for a in arrays_of(tree)], behind)
    for fields in held:
        for name, value in fields.items():
            if isinstance(value, np.ndarray | tuple):
                fields[name] = guard(value)
    for fields in own:
        for name in names & fields.keys():
            fields[name] = guard(fields[name])

    def run_slice(chunk: Any) -> Any:
        inner = Guard([], behind)(chunk)
        outcome = engine.run(learner._loop, inner, learner._streams)
        chunk.losses[:] = inner.losses
        return outcome

    vars(learner)["_run_slice"] = run_slice


def learners(dtype: str) -> None:
    """Run guarded learners beside bare ones."""
    rng = np.random.default_rng(0)
    for method in METHODS:
        for number, size in enumerate(SIZES):
            kind, _, inputs, batch = size
            del kind
            for behind in (True, False):
                variant = number % 2 == 0
                bare, held = (a_learner(method, size, dtype, variant) for _ in range(2))
                guard_learner(held, behind)
                xs = rng.standard_normal((7, batch, inputs)).astype(dtype)
                targets: Any = rng.integers(0, 5, (7, batch))
                if not variant:
                    targets = rng.standard_normal((7, batch, 2)).astype(dtype)
                weights = (rng.random((7, batch)) < 0.8).astype(dtype)
                resets = rng.random((7, batch)) < 0.2
                for _ in range(2):
                    losses = [w.run(xs, targets, weights, resets) for w in (bare, held)]
                    np.testing.assert_array_equal(*losses)
                for name, values in bare.parameters().items():
                    np.testing.assert_array_equal(values, held.parameters()[name])
        print(method, "stayed within", flush=True)


def influences(dtype: str) -> None:
    """Update guarded influences beside bare ones."""
    rng = np.random.default_rng(0)
    for units, width, n in [(1, 1, 1), (3, 5, 2), (9, 13, 2), (17, 16, 3), (8, 129, None)]:
        dynamics = rng.random((units, units)) < 0.4
        into = np.zeros((units, units * width), bool)
        into[np.arange(units * width) % units, np.arange(units * width)] = True
        pattern = reach(dynamics, into, n)
        for behind in (True, False):
            bare, held = (Influence(pattern, 2, dtype, threads=1) for _ in range(2))
            names = ("_program", "_panels", "_cuts", "_scratch")
            guard = Guard([a for n in names for a in arrays_of(vars(held)[n])], behind)
            for name in names:
                vars(held)[name] = guard(vars(held)[name])
            for _ in range(3):
                D = rng.standard_normal((2, dynamics.sum())).astype(dtype)
                I = rng.standard_normal((2, into.sum())).astype(dtype)  # noqa: E741
                delta = rng.standard_normal((2, units)).astype(dtype)
                found = [
                    J.update_and_contract(*(guarded(a, behind) for a in (D, I, delta)))
                    for J in (bare, held)
                ]
                np.testing.assert_array_equal(*found)
                for J in (bare, held):
                    J.update(guarded(D, behind), guarded(I, behind))
                np.testing.assert_array_equal(
                    bare.contract(delta), held.contract(guarded(delta, behind))
                )
            matrix = held.to_scipy(1)
            held.from_scipy(matrix, 0)
            np.testing.assert_array_equal(held.to_scipy(0).data, matrix.data)
        print(pattern, "stayed within", flush=True)


def step_too_far(dtype: str) -> None:
    """What the guard is for: a kernel reads one number behind its array."""
    learner = a_learner(SnAp(1), SIZES[1], dtype, False)
    guard_learner(learner, True)
    maps = learner._loop.maps
    short = learner._loop._replace(maps=maps._replace(indptr=maps.indptr[1:]))
    learner._engine.run(short, Guard([], True)(chunk_of(learner, dtype)), learner._streams)
    print("nothing happened", flush=True)


def chunk_of(learner: OnlineLearner, dtype: str) -> Any:
    from sparsegrad.learning.chunk import check_chunk

    xs, targets = np.ones((3, 2, 3), dtype), np.ones((3, 2, 2), dtype)
    return check_chunk(learner.cell, learner.readout, 2, xs, targets, None, None)


def child(what: str, dtype: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", __file__, what, dtype],
        capture_output=True, text=True, timeout=3000, check=False, cwd=Path(__file__).parent,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("what", ["learners", "influences"])
def test_kernels_stay_within_every_array(what: str, dtype: str) -> None:
    run = child(what, dtype)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("stayed within") == (len(METHODS) if what == "learners" else 5)


def test_a_step_too_far_is_seen() -> None:
    run = child("step_too_far", "float64")
    assert run.returncode < 0, run.stdout + run.stderr
    assert "nothing happened" not in run.stdout


if __name__ == "__main__":
    {f.__name__: f for f in (learners, influences, step_too_far)}[sys.argv[1]](sys.argv[2])
