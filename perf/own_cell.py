"""Time a step of SnApModule, a torch cell of one's own, over one of SnApGRU on the same GRU.

Both hold one masked GRU, the former as torch.nn.GRUCell. A step is forward, loss and backward. They
take turns in one process on one thread; medians in ms, as JSON lines.
"""

import argparse
import json

import torch
from step import take_turns

from sparsegrad.interop.torch import SnApGRU, SnApModule, probe

INPUTS = 32


def measure(units: int, batch: int, sparsity: float, n: int, rounds: int) -> dict[str, object]:
    """Return the time of a step of each, and their ratio."""
    known = SnApGRU(INPUTS, units, n=n, sparsity=sparsity, seed=0)
    module = torch.nn.GRUCell(INPUTS, units)
    with torch.no_grad():
        for name, values in known.dense().items():
            getattr(module, name).copy_(values)
    own = SnApModule(module, probe(module, INPUTS, units, known.masks()), n=n)
    x = torch.randn(batch, INPUTS)

    def steps_of(cell: torch.nn.Module):
        state = None

        def step() -> None:
            nonlocal state
            state = cell(x, state)
            state.square().mean().backward()

        step()
        return step

    times = take_turns({"known": steps_of(known), "own": steps_of(own)}, rounds)
    return {
        "units": units, "batch": batch, "sparsity": sparsity, "n": n, "products": own.colours,
        "SnApGRU_ms": times["known"] * 1e3, "SnApModule_ms": times["own"] * 1e3,
        "ratio": times["own"] / times["known"],
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.75, 0.9375])
    parser.add_argument("--n", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--rounds", type=int, default=41)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for units in given.units:
        for batch in given.batch:
            for sparsity in given.sparsity:
                for n in given.n:
                    print(json.dumps(measure(units, batch, sparsity, n, given.rounds)), flush=True)
