"""Time whole steps of learning: what they cost beside the influence update, and beside BPTT.

    overhead    share of a step of SnAp-2 that is not the influence update (forward, D, I, readout,
                optimiser), and what a step costs on a net of one unit
    bptt        a step of SnAp-1 over one of our own sparse BPTT, T = 64, both with one update a
                window
    memory      a step of SnAp-1 over the least time in which this machine's memory can pass what
                it must touch, with an update at every step and once a window: at 10 million weights
                of a vanilla net, few of which need a trace, and 20 million traces of a GRU

Contestants of a comparison take turns in one process on one thread; the ratio is that of their
medians. Prints JSON lines.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np

from sparsegrad.cells import GRU, LSTM, RNN, Cell
from sparsegrad.kernels.influence.store import update_store
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import SGD, Adam
from sparsegrad.learning.readout import Linear
from sparsegrad.methods import BPTT, Method, SnAp
from sparsegrad.profiling.roofline import Roofline

ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")
WINDOW = 64
OUTPUTS = 8
NETS = ((128, 0.75, 1), (128, 0.75, 16), (256, 0.9375, 1), (256, 0.9375, 16), (512, 0.984375, 16))
TOY = ((12, 0.5, 2),)
OTHERS = tuple((cell, 128, 0.75, batch) for cell in (RNN, LSTM) for batch in (1, 16))
LARGE = ((RNN, 20_000, 0.975, 1), (GRU, 4000, 0.975, 16))
TOY_OTHERS = ((RNN, 12, 0.5, 2), (LSTM, 12, 0.5, 3))


@numba.njit
def _influence_alone(
    shared: Any, store: Any, jacobians: Any, delta: Any, grad: Any, steps: int
) -> None:
    D, immediate = jacobians.dynamics_data, jacobians.immediate_data
    for _ in range(steps):
        update_store(shared, store, D, immediate, True, delta, grad)


def take_turns(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return each contestant's median seconds over rounds in which all take one turn."""
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            samples[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in samples.items()}


def stream(cell: Cell, batch: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((steps, batch, cell.inputs)).astype(cell.dtype)
    return xs, rng.integers(0, OUTPUTS, (steps, batch))


def learner(cell: Cell, method: Method, batch: int, **options: Any) -> OnlineLearner:
    readout = Linear(OUTPUTS, "cross_entropy")
    optimizer = options.pop("optimizer", SGD(1e-5))
    return OnlineLearner(cell, readout, method, optimizer, batch=batch, threads=1, **options)


def overhead(nets: tuple[tuple[int, float, int], ...], rounds: int) -> Iterator[dict[str, Any]]:
    for units, sparsity, batch in nets:
        cell = GRU(32, units, sparsity=sparsity)
        whole = learner(cell, SnAp(2), batch, optimizer=Adam(1e-5))
        steps = 8
        xs, targets = stream(cell, batch, steps)
        engine: Any = whole._engine
        delta, grad = engine.steps.state_grad[0], np.zeros_like(whole._loop.grad)
        alone = engine._shared, engine._store, engine._jacobians, delta, grad, steps
        seconds = take_turns(
            {
                "step": lambda w=whole, x=xs, y=targets: w.run(x, y),
                "influence": lambda a=alone: _influence_alone(*a),
            },
            rounds,
        )
        yield {
            "what": "overhead",
            "net": f"GRU {units} @ {sparsity:.2%}, batch {batch}, SnAp-2",
            "step_us": seconds["step"] / steps * 1e6,
            "share": 1 - seconds["influence"] / seconds["step"],
        }
    tiny = learner(RNN(1, 1), SnAp(1), 1)
    xs, targets = stream(tiny.cell, 1, 20_000)
    seconds = take_turns({"step": lambda: tiny.run(xs, targets)}, rounds)
    yield {"what": "overhead", "net": "RNN of one unit", "step_us": seconds["step"] / 20_000 * 1e6}


def against_bptt(
    nets: tuple[tuple[type[Cell], int, float, int], ...], rounds: int
) -> Iterator[dict[str, Any]]:
    for kind, units, sparsity, batch in nets:
        cell: Cell = kind(32, units, sparsity=sparsity)
        xs, targets = stream(cell, batch, WINDOW)
        snap = learner(cell, SnAp(1), batch, update_every=WINDOW)
        bptt = learner(cell, BPTT(WINDOW), batch)
        seconds = take_turns(
            {
                "snap": lambda s=snap, x=xs, y=targets: s.run(x, y),
                "bptt": lambda b=bptt, x=xs, y=targets: b.run(x, y),
            },
            rounds,
        )
        yield {
            "what": "SnAp-1 over our BPTT",
            "net": f"{kind.__name__} {units} @ {sparsity:.2%}, batch {batch}",
            "step_us": seconds["snap"] / WINDOW * 1e6,
            "ratio": seconds["snap"] / seconds["bptt"],
        }


def against_memory(
    nets: tuple[tuple[type[Cell], int, float, int], ...], rounds: int
) -> Iterator[dict[str, Any]]:
    """Compare with memory: what a step must touch, each array counted once read, once written."""
    for kind, units, sparsity, batch in nets:
        cell: Cell = kind(32, units, sparsity=sparsity)
        steps, size = 16, cell.weights.size
        xs, targets = stream(cell, batch, steps)
        for update_every in (1, steps):
            whole: Any = learner(cell, SnAp(1), batch, update_every=update_every)
            traces = whole._engine.state()["traces"].nbytes
            forward = 4 + 4  # the weights and the indices of their sources
            # Traces in and out, indices, weights in and out at every step. Once a window the
            # gradient takes the place of the weights, and a sweep takes four steps.
            sweep = 2 * traces / size + 4 + 8
            each = forward + (sweep if update_every == 1 else sweep / 4)
            bandwidth = Roofline().bandwidth(8 * size + traces)  # weights, indices and traces
            seconds = take_turns({"step": lambda w=whole, x=xs, y=targets: w.run(x, y)}, rounds)[
                "step"
            ]
            yield {
                "what": "SnAp-1 over memory",
                "net": f"{kind.__name__} {units} @ {sparsity:.2%}, {size} weights, batch {batch}",
                "update_every": update_every,
                "step_us": seconds / steps * 1e6,
                "bytes_per_weight": each,
                "share_of_bandwidth": each * size / (seconds / steps) / bandwidth,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="small nets, one round: does it run?")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    if not ONE_THREAD.items() <= os.environ.items():  # read when the libraries load
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    nets, others, rounds = (
        (TOY, TOY_OTHERS, 1) if options.toy else (NETS, OTHERS, options.rounds)
    )  # fmt: skip
    large = TOY_OTHERS if options.toy else LARGE
    all_nets = (*((GRU, *net) for net in nets), *others)
    for lines in (
        overhead(nets, rounds), against_bptt(all_nets, rounds), against_memory(large, rounds),
    ):  # fmt: skip
        for line in lines:
            json.dump(line, sys.stdout)
            print(flush=True)


if __name__ == "__main__":
    main()
