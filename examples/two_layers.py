"""Two layers learn online, J across them or of each by itself, and beside them one layer.

The target is the product of three signs, six, three and one steps ago: no two of them say anything.
"""

import numpy as np

import sparsegrad
from sparsegrad import GRU, RTRL, SnAp, Stack
from sparsegrad.methods import Method


def data(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return signs, (steps, 16 streams, 1), and the products."""
    signs = np.random.default_rng(0).choice([-1, 1], (steps + 6, 16, 1)).astype(np.float32)
    return signs[6:], signs[:-6] * signs[3:-3] * signs[5:-1]


def error(cell: sparsegrad.Cell | Stack, method: Method, steps: int) -> float:
    """Return the squared error of the last fifth of the streams; guessing has 1."""
    learner = sparsegrad.OnlineLearner(
        cell, sparsegrad.Linear(1), method, sparsegrad.Adam(5e-3), batch=16
    )
    xs, targets = data(steps)
    return 2 * float(learner.run(xs, targets)[-steps // 5 :].mean())


def main(steps: int = 1000) -> tuple[float, float]:
    """Return the error of a guess, and that of two layers by exact RTRL."""
    layers = [GRU(1, 24, sparsity=0.5), GRU(24, 24, sparsity=0.5, seed=1)]
    for name, cell, method in (
        ("one layer, SnAp-2", GRU(1, 40, sparsity=0.5), SnAp(2)),
        ("two, apart, SnAp-1", Stack(layers, across=False), SnAp(1)),
        ("two, apart, SnAp-2", Stack(layers, across=False), SnAp(2)),
        ("two, across, SnAp-2", Stack(layers), SnAp(2)),
        ("two, across, RTRL", Stack(layers), RTRL()),
    ):
        after = error(cell, method, steps)
        print(f"{name:20} {cell.weights.size:5} weights   error {after:.3f}")
    return 1.0, after


if __name__ == "__main__":
    main(2000)
