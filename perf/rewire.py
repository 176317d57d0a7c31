"""Where the time of a rewire goes, and how much of the pattern it leaves: `python perf/rewire.py`.

Some of a GRU's recurrent weights move to places drawn at random. A fresh symbolic pass is `reach`
from the patterns of D and I to the pattern of J, validated. `copied` is what it takes to copy the
pattern's arrays: no repair that writes them anew takes less. Medians, one thread.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import sparsegrad
from sparsegrad.cells.jacobians import dynamics_alone, dynamics_pattern, immediate_pattern
from sparsegrad.influence import lowering


def moved(cell: sparsegrad.GRU, share: float, seed: int) -> dict[str, np.ndarray]:
    """Return masks where a share of the recurrent weights has gone elsewhere."""
    rng, mask = np.random.default_rng(seed), cell.masks()["weight_hh"]
    places, flat = np.flatnonzero(mask), mask.reshape(-1)
    count = max(1, round(share * places.size))
    new = rng.integers(0, flat.size, 4 * count)
    flat[rng.choice(places, count, replace=False)] = False
    flat[np.setdiff1d(new, places)[:count]] = True
    return {"weight_hh": mask}


def changed(before: sparsegrad.ReachPattern, after: sparsegrad.ReachPattern, unit: int) -> bool:
    """Whether the reach of a supernode, of which each unit has one here, is another one."""
    one, two = (
        p.reach_indices[p.reach_indptr[unit] : p.reach_indptr[unit + 1]] for p in (before, after)
    )
    return not np.array_equal(one, two)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--share", type=float, default=0.01, help="of the recurrent weights")
    parser.add_argument("--n", type=int, default=2)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--toy", action="store_true", help="a small net, once")
    given = parser.parse_args()
    units, sparsity, turns = (64, 0.9, 1) if given.toy else (4096, 0.996, given.turns)
    cell = sparsegrad.GRU(32, units, sparsity=sparsity, seed=0)
    learner = sparsegrad.OnlineLearner(
        cell, sparsegrad.Linear(1), sparsegrad.SnAp(given.n), sparsegrad.Adam(), threads=1
    )
    masks = moved(cell, given.share, 1)
    after = cell.rewire(masks)
    D, immediate, origin = dynamics_alone(after), immediate_pattern(after), cell.origin_of(after)
    pattern, before = sparsegrad.reach(D, immediate, given.n), learner.pattern
    assert before is not None
    J, old = (sparsegrad.Influence(p, threads=1) for p in (pattern, before))
    arrays = [a for a in vars(pattern).values() if isinstance(a, np.ndarray)]
    parts: dict[str, Callable[[], Any]] = {
        "another cell": lambda: cell.rewire(masks),
        "D, and where its values come from": lambda: dynamics_pattern(after),
        "a fresh symbolic pass": lambda: sparsegrad.reach(D, immediate, given.n),
        "copied": lambda: [array.copy() for array in arrays],
        "the pattern lowered": lambda: lowering._lower(pattern),
        "J carried over": lambda: J.carry(old, origin),
    }
    ahead: list[dict[str, np.ndarray]] = []  # drawn off the clock
    parts["learner.rewire"] = lambda: learner.rewire(ahead.pop())
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(turns + 1):
        ahead.append(moved(learner.cell, given.share, turn + 2))
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            taken[name].append(time.perf_counter() - start)
    for name, seconds in taken.items():
        print(f"{name}: {1e3 * np.median(seconds[1:]):.2f} ms")
    others = sum(changed(before, pattern, unit) for unit in range(units))
    print(f"supernodes with another reach: {others} of {units}")


if __name__ == "__main__":
    main()
