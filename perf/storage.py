"""J in 16 bits: what it costs in time, and how near its gradient stays to that of float32.

Times are of an update and a contraction, one thread, in turns, medians; beside them a pass that
reads and writes as many bytes as J in float32 has. Cosines are of the gradients of single steps
along one trajectory of D and I, and so is the largest difference, in parts of the gradient's norm.

    python perf/storage.py                         times of some products, cosines over 10,000 steps
    python perf/storage.py --products gru-2gib-n2  needs 4 GiB
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from workloads import PRODUCTS, Product

from sparsegrad.influence.influence import Influence
from sparsegrad.profiling.timing import random_values
from sparsegrad.symbolic.pattern import ReachPattern, reach

STORAGES = (None, "bfloat16", "float16")


def pattern_of(product: Product) -> ReachPattern:
    """Draw a product's net and find its reach."""
    drawn = product.structure()
    return reach(drawn.dynamics, drawn.immediate, product.n)


def times(product: Product, seconds: float) -> None:
    """Print the medians of each storage, and of a pass over memory."""
    pattern = pattern_of(product)
    data = random_values(pattern, 1, "float32")
    delta = np.ones((1, pattern.shape[1]), np.float32)
    turns: dict[str, Callable[[], object]] = {}
    for storage in STORAGES:
        influence = Influence(pattern, threads=1, storage=storage)

        def step(influence: Influence = influence) -> None:
            influence.update_and_contract(*data, delta)

        turns[storage or "float32"] = step
        if storage is None:
            swept = np.ones(influence.nbytes // 4, np.float32)
    turns["a pass"] = lambda: np.multiply(swept, np.float32(1), out=swept)
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for turn in turns.values():
        turn()
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(taken["a pass"]) < 5:
        for name, turn in turns.items():
            start = time.perf_counter()
            turn()
            taken[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(all_of)) for name, all_of in taken.items()}
    said = ", ".join(f"{name} {1e3 * median:.3g} ms" for name, median in medians.items())
    ratio = medians["float32"] / medians["bfloat16"]
    print(f"{product.name}: {swept.nbytes / 2**20:.4g} MiB of J; {said}; bfloat16 {ratio:.2f}x")


def cosines(product: Product, steps: int) -> None:
    """Print how near the gradients of each storage stay to those of float32."""
    pattern, rng = pattern_of(product), np.random.default_rng(0)
    stored = {storage: Influence(pattern, threads=1, storage=storage) for storage in STORAGES}
    found: dict[str, list[float]] = {storage: [] for storage in STORAGES if storage}
    for _ in range(steps):
        data = random_values(pattern, 1, "float32", int(rng.integers(2**31)))
        delta = rng.standard_normal((1, pattern.shape[1]), np.float32)
        grads = {
            storage: influence.update_and_contract(*data, delta).astype(np.float64)
            for storage, influence in stored.items()
        }
        exact = grads.pop(None)
        for storage, grad in grads.items():
            sizes = np.linalg.norm(grad) * np.linalg.norm(exact)
            found[str(storage)].append(float(grad @ exact / sizes))
    for storage, values in found.items():
        print(
            f"{product.name}, {steps} steps, {storage}: cosine {np.mean(values):.6f} in the mean, "
            f"{min(values):.6f} at the least, {np.mean(values[-100:]):.6f} over the last hundred"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--products", nargs="+", default=["gru-128-n2", "gru-512-n2", "gru-1024-n2"]
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--toy", action="store_true", help="small nets, few steps")
    given = parser.parse_args()
    chosen = [PRODUCTS[name].toy() if given.toy else PRODUCTS[name] for name in given.products]
    for one in chosen:
        times(one, 0.01 if given.toy else given.seconds)
    cosines(chosen[0].toy(), 20 if given.toy else given.steps)
