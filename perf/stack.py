"""What a stack of two layers costs beside its count and beside single layers, and what it sees.

    counted   a step of the influence of two layers, per multiply-add, over that of one layer of the
              same cell and sparsity: 1 where crossing from layer to layer costs what is counted
    apart     a step of SnAp-1 with across=False over the sum of those of two single layers
    cosines   mean cosine of the gradient with BPTT's over whole sequences, by method

Contestants of a comparison take turns in one process on one thread; medians. Prints JSON lines.

    python perf/stack.py
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from step import learner, stream, take_turns

from sparsegrad import BPTT, GRU, LSTM, RTRL, SGD, Cell, Linear, OnlineLearner, SnAp, Stack
from sparsegrad.methods import Method

NETS = ((GRU, 64, 0.875), (GRU, 128, 0.9375), (LSTM, 128, 0.9375), (GRU, 256, 0.96875))
TOY = ((GRU, 6, 0.5),)
STEPS = 64


def layers(kind: type[Cell], units: int, sparsity: float) -> list[Cell]:
    """Return two layers, the lower with 32 inputs."""
    lower = kind(32, units, sparsity=sparsity, seed=0)
    return [lower, kind(units, units, sparsity=sparsity, seed=1)]


def timed(learners: dict[str, OnlineLearner], rounds: int) -> dict[str, float]:
    """Return the seconds of a step of each."""
    runs = {}
    for name, one in learners.items():
        xs, classes = stream(one.cell, one.batch, STEPS)
        runs[name] = lambda one=one, xs=xs, classes=classes: one.run(xs, classes)
    return {name: seconds / STEPS for name, seconds in take_turns(runs, rounds).items()}


def counted(nets: Any, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield what two layers take per multiply-add beside one."""
    methods: tuple[Method, ...] = (SnAp(2), SnAp(3), RTRL())
    for kind, units, sparsity in nets:
        cells = layers(kind, units, sparsity)
        for method in methods:
            both = {
                "one": learner(cells[1], method, 1),
                "two": learner(Stack(cells), method, 1),
                "forward": learner(Stack(cells), BPTT(window=1), 1),
            }
            seconds = timed(both, rounds)
            adds = {name: both[name].pattern.cost().multiply_adds for name in ("one", "two")}
            each = {name: seconds[name] / adds[name] for name in adds}
            yield {
                "what": "counted", "net": f"{kind.__name__} {units} @ {100 * sparsity:g}%",
                "method": str(method).partition("(")[0] + f"({getattr(method, 'n', '')})",
                "two_us": 1e6 * seconds["two"], "one_us": 1e6 * seconds["one"],
                "forward_us": 1e6 * seconds["forward"], "multiply_adds": adds["two"],
                "multiply_adds_of_one": adds["one"], "ratio": each["two"] / each["one"],
            }  # fmt: skip


def apart(nets: Any, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield what SnAp-1 of layers apart takes beside single layers."""
    for kind, units, sparsity in nets:
        cells = layers(kind, units, sparsity)
        seconds = timed(
            {
                "lower": learner(cells[0], SnAp(1), 1),
                "upper": learner(cells[1], SnAp(1), 1),
                "stack": learner(Stack(cells, across=False), SnAp(1), 1),
            },
            rounds,
        )
        yield {
            "what": "apart", "net": f"{kind.__name__} {units} @ {100 * sparsity:g}%",
            "stack_us": 1e6 * seconds["stack"],
            "ratio": seconds["stack"] / (seconds["lower"] + seconds["upper"]),
        }  # fmt: skip


def gradient(cells: Any, xs: Any, classes: Any, method: Method, across: bool) -> Any:
    """Return the gradient of the layers' weights over a whole sequence."""
    stack = Stack(cells, across=across)
    one = OnlineLearner(stack, Linear(8, "cross_entropy"), method, SGD(0.1))
    grads = one.gradient(xs, classes)[1]
    layers = [grad.ravel() for name, grad in grads.items() if name.startswith("layer")]
    return np.concatenate(layers).astype(np.float64)


def cosines(nets: Any, seeds: int) -> Iterator[dict[str, Any]]:
    """Yield how near each method's gradient is to BPTT's, over sequences of 32 steps."""
    methods = {
        "SnAp(1), apart": (SnAp(1), False), "SnAp(2), apart": (SnAp(2), False),
        "RTRL, apart": (RTRL(), False), "SnAp(2), across": (SnAp(2), True),
        "SnAp(3), across": (SnAp(3), True), "SnAp(4), across": (SnAp(4), True),
        "RTRL, across": (RTRL(), True),
    }  # fmt: skip
    for kind, units, sparsity in nets:
        found: dict[str, list[float]] = {name: [] for name in methods}
        for seed in range(seeds):
            cells = layers(kind, units, sparsity)
            rng = np.random.default_rng(seed)
            xs = rng.standard_normal((32, 1, 32)).astype(np.float32)
            classes = rng.integers(0, 8, (32, 1))

            given = cells, xs, classes
            exact = gradient(*given, BPTT(), True)
            for name, (method, across) in methods.items():
                grad = gradient(*given, method, across)
                found[name].append(grad @ exact / np.linalg.norm(grad) / np.linalg.norm(exact))
        yield {
            "what": "cosines", "net": f"{kind.__name__} {units} @ {100 * sparsity:g}%",
            **{name: round(float(np.mean(values)), 4) for name, values in found.items()},
        }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("counted", "apart", "cosines"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--toy", action="store_true")
    given = parser.parse_args()
    chosen: Any = TOY if given.toy else NETS
    parts = {
        "counted": lambda: counted(chosen, 2 if given.toy else given.rounds),
        "apart": lambda: apart(chosen, 2 if given.toy else given.rounds),
        "cosines": lambda: cosines(chosen, 1 if given.toy else given.seeds),
    }
    for what, part in parts.items():
        if given.only in (None, what):
            for line in part():
                print(json.dumps(line), flush=True)
