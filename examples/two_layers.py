"""Two layers learn online: J across the layers, and J of each layer by itself, beside one layer.

The target is the product of two signs, three and one steps ago: neither alone says anything.
"""

import numpy as np

import sparsegrad


def data(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return signs, (steps, 16 streams, 1), and the products."""
    signs = np.random.default_rng(0).choice([-1, 1], (steps + 3, 16, 1)).astype(np.float32)
    return signs[3:], signs[:-3] * signs[2:-1]


def error(cell: sparsegrad.Cell | sparsegrad.Stack, method: object, steps: int) -> float:
    """Return the squared error of the last fifth of a stream; guessing has 1."""
    learner = sparsegrad.OnlineLearner(
        cell, sparsegrad.Linear(1), method, sparsegrad.Adam(5e-3), batch=16
    )
    xs, targets = data(steps)
    return 2 * float(learner.run(xs, targets)[-steps // 5 :].mean())


def main(steps: int = 3000) -> tuple[float, float]:
    """Return the error of a guess, and that of two layers whose J goes across."""
    layers = [sparsegrad.GRU(1, 24, sparsity=0.5), sparsegrad.GRU(24, 24, sparsity=0.5, seed=1)]
    nets = {
        "one layer, SnAp-2": (sparsegrad.GRU(1, 40, sparsity=0.5), sparsegrad.SnAp(2)),
        "two, apart, SnAp-2": (sparsegrad.Stack(layers, across=False), sparsegrad.SnAp(2)),
        "two, across, SnAp-2": (sparsegrad.Stack(layers), sparsegrad.SnAp(2)),
        "two, across, RTRL": (sparsegrad.Stack(layers), sparsegrad.RTRL()),
    }
    for name, (cell, method) in nets.items():
        after = error(cell, method, steps)
        print(f"{name:22} {cell.weights.size:5} weights   error {after:.3f}")
    return 1.0, after


if __name__ == "__main__":
    main(20_000)
