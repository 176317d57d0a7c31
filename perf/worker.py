"""One contestant in a process of its own, told over a pipe what to do: `python worker.py NAME`.

A line of JSON comes in, {"do": METHOD, ...its arguments}, and a line goes out. Nothing runs between
the two, so that contestants in other processes can take their turn.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import products
import training
from contestant import Contestant, DoesNotFitError
from scipy import sparse
from workloads import PRODUCTS, TRAININGS

from sparsegrad.profiling.roofline import Roofline

SAMPLE_SECONDS = 0.002
WARM_SECONDS = 0.05
"""A step shorter than this is done once untimed before each sample: others have used the caches."""


class Worker:
    """What a conductor may ask for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._contestant: Contestant | None = None
        self._rooflines: dict[str, Roofline] = {}

    def prepare(self, workload: str, toy: bool, limit: float) -> dict[str, object]:
        """Get ready for a workload, warm: what it costs, or why this one does not take part."""
        self._contestant = None  # the last one's memory first
        room = products if workload in PRODUCTS else training
        chosen = PRODUCTS[workload] if workload in PRODUCTS else TRAININGS[workload]
        try:
            own = room.contestant(self._name, chosen.toy() if toy else chosen, limit)
        except (DoesNotFitError, ImportError, MemoryError) as error:
            return {"skipped": str(error)}
        self._contestant = own
        own.step()
        start = time.perf_counter()
        own.step()
        once = time.perf_counter() - start
        self._calls = max(1, round(SAMPLE_SECONDS / (once + 1e-7)))
        self._warm = once < WARM_SECONDS
        return own.about

    def result(self, reference: str) -> dict[str, object]:
        """Write what a step makes to the file; if it is there, compare with it instead."""
        assert self._contestant is not None
        if self._contestant.result is None:
            return {}
        own = self._contestant.result()
        if not Path(reference).exists():
            sparse.save_npz(reference, own, compressed=False)
            return {"error": 0.0}
        first = sparse.load_npz(reference)
        scale = abs(first).max() if first.nnz else 0.0
        difference = abs(first - own)
        return {"error": float(difference.max() / scale) if difference.nnz and scale else 0.0}

    def sample(self) -> dict[str, object]:
        """Time one call, or many short ones: seconds of a time step, and of all."""
        assert self._contestant is not None
        step = self._contestant.step
        if self._warm:
            step()
        start = time.perf_counter()
        for _ in range(self._calls):
            step()
        took = time.perf_counter() - start
        return {"seconds": took / (self._calls * self._contestant.steps), "took": took}

    def roofline(self, dtype: str, multiply_adds: int, bytes: int) -> dict[str, object]:
        """Least seconds of a step that reads and writes so many bytes of J."""
        if dtype not in self._rooflines:
            self._rooflines[dtype] = Roofline(dtype)
        roof = self._rooflines[dtype]
        return {
            "least": roof.seconds(multiply_adds, 2 * bytes, bytes),
            "peak": roof.peak, "bandwidth": roof.bandwidth(bytes),
        }  # fmt: skip


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints is no reply
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(worker, request.pop("do"))(**request)), file=replies, flush=True)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
