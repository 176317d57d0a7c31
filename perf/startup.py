"""Time what a user waits for, each in a fresh process: imports, and the first step.

    import   `import sparsegrad`, and with it the engine (`reach`, `Influence`)
    engine   reach, Influence and one update of GRU 128 @ 75%, SnAp-2, from importing on
    learner  the same net learning one step: cell, learner and `run`

"cold" is with an empty Numba cache, "warm" with the one that this left. Prints JSON lines; medians.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from statistics import median

IMPORT = """
mark("import")
import sparsegrad
mark("engine")
from sparsegrad import Influence, reach
"""
ENGINE = """
from sparsegrad.cells.structure import structure
drawn = structure("gru", {units}, 0.75)
mark("import")
from sparsegrad import Influence, reach
import numpy as np
mark("reach")
pattern = reach(drawn.dynamics, drawn.immediate, 2)
mark("influence")
J = Influence(pattern)
D, I = (np.ones(x.nnz, np.float32) for x in (drawn.dynamics, drawn.immediate))
mark("update")
J.update(D, I)
"""
LEARNER = """
mark("import")
import numpy as np
import sparsegrad as s
mark("build")
readout = s.Linear(4, "cross_entropy")
learner = s.OnlineLearner(s.GRU(32, {units}, sparsity=0.75), readout, s.SnAp(2), s.Adam())
xs, targets = np.zeros((1, 1, 32), np.float32), np.zeros((1, 1), int)
mark("run")
learner.run(xs, targets)
"""
PRELUDE = """
import time
marks = []
mark = lambda name: marks.append((name, time.perf_counter()))
"""
CLOSE = """
mark("end")
import json
parts = {{a: later - at for (a, at), (_, later) in zip(marks, marks[1:])}}
print(json.dumps(parts))
"""
SCRIPTS = {"import": IMPORT, "engine": ENGINE, "learner": LEARNER}


def once(script: str, units: int, cache: str) -> dict[str, float]:
    """Run a script in a fresh process; return the seconds of its parts, in order."""
    code = (PRELUDE + script + CLOSE).format(units=units)
    done = subprocess.run(
        # -P: of the package that is installed, not of a folder by its name where this is called
        [sys.executable, "-P", "-c", code], env={**os.environ, "NUMBA_CACHE_DIR": cache},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    parts: dict[str, float] = json.loads(done.stdout)
    return {"seconds": sum(parts.values()), **parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--toy",
        action="store_true",
        help="a small net, once, with the cache there is: does it run?",
    )
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    units, repeats = (12, 1) if options.toy else (128, options.repeats)
    for what, script in SCRIPTS.items():
        with tempfile.TemporaryDirectory() as empty:
            cache = os.environ.get("NUMBA_CACHE_DIR", empty) if options.toy else empty
            if what != "import":
                print(json.dumps({"what": f"{what}, cold", **once(script, units, cache)}))
            sys.stdout.flush()
            warm = [once(script, units, cache) for _ in range(repeats)]
        middle = {part: median(run[part] for run in warm) for part in warm[0]}
        print(json.dumps({"what": f"{what}, warm", **middle}), flush=True)


if __name__ == "__main__":
    main()
