"""Which method for which net: cost and cosine of each, and the cheapest that comes near enough.

Costs are exact multiply-adds of a step, of weights and influence; the cosine is that of the whole
sequence's gradient (128 steps of noise, random classes at each) with BPTT's, the mean over seeds.

    python perf/which.py              the table of docs/start/methods.md
    python perf/which.py --toy
"""

import argparse
from typing import Any

import numpy as np

from sparsegrad import BPTT, GRU, LSTM, RNN, RTRL, SGD, Linear, OnlineLearner, SnAp
from sparsegrad.methods import Method
from sparsegrad.runs.step_cost import multiply_adds

NETS: Any = (
    (RNN, 64, 0.75), (RNN, 256, 0.9375), (RNN, 1024, 0.99), (GRU, 64, 0.75), (GRU, 128, 0.9375),
    (GRU, 256, 0.96875), (GRU, 512, 0.9921875), (LSTM, 64, 0.75), (LSTM, 128, 0.9375),
)  # fmt: skip
TOY: Any = ((GRU, 8, 0.5),)
METHODS: dict[str, dict[str, Method]] = {
    "every step": {
        "SnAp-1": SnAp(1), "SnAp-2": SnAp(2), "SnAp-3": SnAp(3), "RTRL": RTRL(),
    },
    "every 8 steps": {
        "BPTT:8": BPTT(8), "SnAp-1@8": SnAp(1, window=8), "SnAp-2@8": SnAp(2, window=8),
        "RTRL@8": RTRL(window=8),
    },
}  # fmt: skip
NEAR = {"every step": 0.95, "every 8 steps": 0.98}
"""Cosine from which on a method is near enough; in windows what is inside is exact already."""
MOST = 3e8  # multiply-adds of a step: a net whose exact J costs more is not measured with it


def gradient(cell: Any, method: Method, seed: int, steps: int) -> np.ndarray:
    """Return the gradient of a sequence by one of the methods."""
    rng = np.random.default_rng(seed)
    xs = rng.standard_normal((steps, 1, 32)).astype(np.float32)
    learner = OnlineLearner(cell, Linear(8, "cross_entropy"), method, SGD(0.1), threads=1)
    grads = learner.gradient(xs, rng.integers(0, 8, (steps, 1)))[1]
    cells = [grad.ravel() for name, grad in grads.items() if not name.startswith("readout")]
    return np.concatenate(cells).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--toy", action="store_true")
    given = parser.parse_args()
    seeds, steps = (1, 16) if given.toy else (given.seeds, 128)
    for period, methods in METHODS.items():
        print(f"| net, an update {period} | {' | '.join(methods)} | take |")
        print("|---" * (len(methods) + 2) + "|")
        for kind, units, sparsity in TOY if given.toy else NETS:
            cells = [kind(32, units, sparsity=sparsity, seed=seed) for seed in range(seeds)]
            exact = [gradient(cell, BPTT(), seed, steps) for seed, cell in enumerate(cells)]
            words, take = [], "none of them"
            for name, method in methods.items():
                cost = multiply_adds(method, cells[0])
                if cost > MOST:
                    words.append(f"{cost / 1e6:.0f} M")
                    continue
                near = []
                for seed, (cell, by) in enumerate(zip(cells, exact, strict=True)):
                    grad = gradient(cell, method, seed, steps)
                    near.append(grad @ by / np.linalg.norm(grad) / np.linalg.norm(by))
                mean = float(np.mean(near))
                words.append(f"{mean:.3f}, {cost / 1e6:.2g} M")
                if mean >= NEAR[period] and take == "none of them":
                    take = name
            net = f"{kind.__name__} {units} @ {100 * sparsity:.4g}%"
            print(f"| {net} | {' | '.join(words)} | {take} |", flush=True)
        print()


if __name__ == "__main__":
    main()
