"""How good is the gradient of a window? Mean cosines with the exact one, along a frozen net.

A net with fixed weights follows a random walk from random inputs, 256 steps in float64. Of each
window of T steps, after the first 32: the gradient that each method gives, beside the exact one,
which is that of RTRL. Two draws of the net each. Prints JSON lines.

    snap:n       the method itself, its steps' gradients added up
    bptt:T       BPTT inside the window, nothing before it
    snap:n@T     BPTT inside the window, what came before it through J
"""

import argparse
import json
import sys
from typing import Any

import numpy as np

from sparsegrad.cells import GRU, RNN, Cell
from sparsegrad.learning.chunk import check_chunk, raise_fault
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import SGD
from sparsegrad.learning.readout import Linear
from sparsegrad.methods import BPTT, RTRL, SnAp

STEPS, FIRST, UNITS, INPUTS = 256, 32, 64, 8
NETS = [
    (kind, sparsity, gain)
    for kind in (GRU, RNN)
    for sparsity in (0.75, 0.9375)
    for gain in (1.0, 1.5, 2.0)
]


def draw(
    kind: type[Cell], sparsity: float, gain: float, seed: int
) -> tuple[Cell, Linear, np.ndarray, np.ndarray]:
    """Draw a net without second biases, its readout, inputs and targets."""
    rng = np.random.default_rng(seed)
    gates = 3 if kind is GRU else 1

    def masks_of(columns: int) -> list[np.ndarray]:
        return [rng.random((UNITS, columns)) > sparsity for _ in range(gates)]

    def weights_of(masks: list[np.ndarray], gain: float) -> list[np.ndarray]:
        fan_in = masks[0].shape[1] * (1 - sparsity)
        return [mask * rng.normal(size=mask.shape) * gain / np.sqrt(fan_in) for mask in masks]

    masks = [masks_of(UNITS), masks_of(INPUTS)]
    weights = weights_of(masks[0], gain), weights_of(masks[1], 1.0)
    zeros = np.zeros(gates * UNITS)
    cell = kind.from_dense(
        weight_hh=np.concatenate(weights[0]), weight_ih=np.concatenate(weights[1]),
        bias_ih=zeros, bias_hh=zeros,
        masks={
            "weight_hh": np.concatenate(masks[0]), "weight_ih": np.concatenate(masks[1]),
            "bias_ih": zeros == 0, "bias_hh": zeros != 0,
        },
    )  # fmt: skip
    readout = rng.normal(size=(1, UNITS)) / np.sqrt(UNITS)
    xs = rng.normal(size=(STEPS, 1, INPUTS))
    targets = np.cumsum(rng.normal(size=STEPS) * 0.3) * 0.3
    return cell, Linear(1, weight=readout, bias=np.zeros(1)), xs, targets.reshape(-1, 1, 1)


def cosines(
    kind: type[Cell], sparsity: float, gain: float, window: int, seed: int
) -> dict[str, float]:
    """Return the mean cosine of each method."""
    cell, readout, xs, targets = draw(kind, sparsity, gain, seed)
    methods = {
        "exact": RTRL(window=window),
        "snap:1": SnAp(1),
        "snap:2": SnAp(2),
        "bptt:T": BPTT(window),
        "snap:1@T": SnAp(1, window=window),
        "snap:2@T": SnAp(2, window=window),
    }
    grads: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for name, method in methods.items():
        owner = OnlineLearner(cell, readout, method, SGD(0.1))
        engine = method.engine(cell, 1, 1)
        learner, streams = owner.beside(engine)
        for start in range(0, STEPS - window + 1, window):
            part = slice(start, start + window)
            learner.grad[:] = 0
            chunk = check_chunk(cell, readout, 1, xs[part], targets[part], None, None)
            raise_fault(engine.run(learner, chunk, streams))
            if start + window > FIRST:
                grads[name].append(learner.grad.copy())
    exact = grads.pop("exact")

    def mean(found: list[np.ndarray]) -> float:
        sizes = [np.linalg.norm(a) * np.linalg.norm(b) for a, b in zip(found, exact, strict=True)]
        return float(np.mean([a @ b / s for a, b, s in zip(found, exact, sizes, strict=True)]))

    return {name: mean(found) for name, found in grads.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="GRU @ 93.75%%, gain 1, T = 8 alone")
    options = parser.parse_args()
    nets = [(GRU, 0.9375, 1.0)] if options.toy else NETS
    for kind, sparsity, gain in nets:
        for window in (8,) if options.toy else (4, 8, 16):
            draws = [cosines(kind, sparsity, gain, window, seed) for seed in range(2)]
            line: dict[str, Any] = {
                "net": f"{kind.__name__} {UNITS} @ {sparsity:.2%}", "gain": gain, "window": window,
            }  # fmt: skip
            line |= {name: float(np.mean([d[name] for d in draws])) for name in draws[0]}
            json.dump(line, sys.stdout)
            print(flush=True)


if __name__ == "__main__":
    main()
