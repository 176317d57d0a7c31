"""Time the symbolic pass on large nets, and weigh its memory: `python perf/symbolic_scale.py`.

Each net is a random D with so many sources per unit and one weight per entry of D and a bias per
unit, in a process of its own; the kernels are compiled before on a small net. `peak_over_result`
is what the process's memory peaked at during `reach`, over what it had before, in units of the
pattern's own bytes. Prints JSON lines; the fastest of three passes, the peak of the first.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
from scipy import sparse

from sparsegrad import ReachPattern, reach

NETS: tuple[tuple[int, int, int | None], ...] = (
    (100_000, 10, 2), (100_000, 10, 3), (1_000_000, 10, 2), (100_000, 10, None),
)  # fmt: skip
TOY: tuple[tuple[int, int, int | None], ...] = ((500, 10, 2), (500, 10, None))


def net(units: int, sources: int) -> tuple[sparse.csr_array, sparse.csc_array]:
    """Draw D, and I with a weight for every entry of D and a bias for every unit."""
    rng = np.random.default_rng(0)
    columns = rng.integers(units, size=units * sources, dtype=np.int32)
    indptr = np.arange(0, units * sources + 1, sources)
    dynamics = sparse.csr_array(
        (np.ones(columns.size, bool), columns, indptr), shape=(units, units)
    )
    weights = units * (sources + 1)
    unit = np.repeat(np.arange(units, dtype=np.int32), sources + 1)
    immediate = sparse.csc_array(
        (np.ones(weights, bool), unit, np.arange(weights + 1)), shape=(units, weights)
    )
    return dynamics, immediate


def stored(pattern: ReachPattern) -> int:
    """Bytes of the arrays of a pattern."""
    return sum(value.nbytes for value in vars(pattern).values() if isinstance(value, np.ndarray))


def resident(field: str) -> int:
    """Bytes of memory, from /proc; the peak where there is no /proc."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(units: int, sources: int, n: int | None) -> dict[str, object]:
    """Run the pass in this process."""
    small = net(100, sources)
    for steps in (2, None):
        reach(*small, n=steps)
    dynamics, immediate = net(units, sources)
    before = resident("VmRSS")
    seconds: list[float] = []
    over = 0.0
    while len(seconds) < (3 if sum(seconds) < 20 else 1):
        start = time.perf_counter()
        pattern = reach(dynamics, immediate, n=n)
        seconds.append(time.perf_counter() - start)
        over = over or (resident("VmHWM") - before) / stored(pattern)
        result = {
            "units": units, "weights": pattern.shape[0], "n": "none" if n is None else n,
            "saturates_at": pattern.n if n is None else None, "result_mib": stored(pattern) / 2**20,
        }  # fmt: skip
        del pattern
    return {**result, "seconds": min(seconds), "peak_over_result": over}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="small nets: does it run?")
    parser.add_argument("--net", nargs=3, metavar=("UNITS", "SOURCES", "N"), help="this one alone")
    options = parser.parse_args()
    if options.net is not None:
        units, sources, n = options.net
        order = None if n == "none" else int(n)
        print(json.dumps(measure(int(units), int(sources), order)))
        return
    for units, sources, order in TOY if options.toy else NETS:
        own = [str(units), str(sources), "none" if order is None else str(order)]
        subprocess.run([sys.executable, __file__, "--net", *own], check=True)


if __name__ == "__main__":
    main()
