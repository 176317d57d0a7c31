"""A learner's step over ranks of MPI, against one rank, and one rank against no ranks at all.

    python perf/ranks.py                     GRU 4096 @ 99.6%, SnAp-2, on 1 and 2 ranks
    python perf/ranks.py --ranks 1 2 4 --workload gru-1024-n2
    python perf/ranks.py --units 1000000 --sources 10 --ranks 4 --steps 10

One thread a rank. Each number of ranks is a start of mpirun of its own; the times of one rank, with
and without `comm`, are taken in turns in one process. Printed: milliseconds a step (median), times
as fast as the first line, J of the largest rank and its part of the whole, seconds to set up.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from workloads import PRODUCTS

import sparsegrad

MPIRUN = Path(sys.executable).with_name("mpirun")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--workload", default="gru-4096-n2", choices=PRODUCTS)
    parser.add_argument("--units", type=int, help="a vanilla net of so many units instead")
    parser.add_argument("--sources", type=int, default=10, help="of each of them")
    parser.add_argument("--steps", type=int, default=20, help="of a measurement; there are five")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        inside(arguments)
        return
    first: float | None = None
    for ranks in arguments.ranks:
        command = [str(MPIRUN) if MPIRUN.exists() else "mpirun", "-n", str(ranks), sys.executable]
        done = subprocess.run(
            [*command, __file__, "--inside", *sys.argv[1:]], capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(done.stderr.strip() or f"mpirun ended with {done.returncode}")
        row = json.loads(done.stdout.splitlines()[-1])
        first = first or row["seconds"]
        alone = f", {row['overhead']:+.1%} against no comm" if "overhead" in row else ""
        print(
            f"{ranks} ranks: {1e3 * row['seconds']:.3g} ms a step, {first / row['seconds']:.2f}x; "
            f"J of the largest {row['largest'] / 2**20:.4g} MiB, {row['part']:.3f} of the whole; "
            f"set up in {row['setup']:.1f} s{alone}"
        )


def learner(arguments: argparse.Namespace, comm: Any) -> "sparsegrad.OnlineLearner":
    if arguments.units:
        sparsity = 1 - arguments.sources / arguments.units
        cell = sparsegrad.RNN(8, arguments.units, sparsity=sparsity, input_sparsity=0.9)
        n = 2
    else:
        workload = PRODUCTS[arguments.workload]
        workload = workload.toy() if arguments.toy else workload
        kinds = {"rnn": sparsegrad.RNN, "gru": sparsegrad.GRU, "lstm": sparsegrad.LSTM}
        cell = kinds[workload.cell](
            workload.inputs, workload.units, sparsity=workload.sparsity,
            gate_masks=workload.gate_masks, dtype=workload.dtype,
        )  # fmt: skip
        n = workload.n
    return sparsegrad.OnlineLearner(
        cell, sparsegrad.Linear(1), sparsegrad.SnAp(n), sparsegrad.SGD(1e-6), threads=1, comm=comm
    )


def inside(arguments: argparse.Namespace) -> None:
    """Measure on one rank of several; the first one prints."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    begin = time.perf_counter()
    shared = learner(arguments, comm)
    setup = time.perf_counter() - begin
    both = (
        [shared, learner(arguments, None)] if comm.size == 1 and not arguments.units else [shared]
    )
    rng = np.random.default_rng(0)
    inputs = shared.cell.inputs
    xs = rng.standard_normal((arguments.steps, 1, inputs)).astype(shared.cell.dtype)
    ys = np.zeros((arguments.steps, 1, 1), shared.cell.dtype)
    seconds: list[list[float]] = [[] for _ in both]
    for turn in range(6):
        for k, one in enumerate(both):
            comm.Barrier()
            begin = time.perf_counter()
            one.run(xs, ys)
            if turn:  # the first one compiles, and finds how long a step takes
                seconds[k].append((time.perf_counter() - begin) / arguments.steps)
    kept = comm.allgather(shared.pattern.nnz * shared.cell.dtype.itemsize)
    row = {
        "seconds": float(np.median(seconds[0])), "setup": setup,
        "largest": max(kept), "part": max(kept) / sum(kept),
    }  # fmt: skip
    if len(both) > 1:
        row["overhead"] = float(np.median(np.divide(*seconds))) - 1
    if comm.rank == 0:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
