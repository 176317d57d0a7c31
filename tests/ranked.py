"""What tests/test_ranks.py starts under mpirun: `ranked.py CASE …`; a line of JSON a rank."""

import json
import os
import pickle
import sys
import zlib

import numpy as np
from mpi4py import MPI

import sparsegrad
from sparsegrad.cli.main import main

COMM = MPI.COMM_WORLD
STEPS = 34  # two looks at the influence
RNG = np.random.default_rng(0)
XS = RNG.normal(size=(STEPS, 1, 3)).astype(np.float32)
YS = RNG.normal(size=(STEPS, 1, 2)).astype(np.float32)
METHODS = {"snap:2": sparsegrad.SnAp(2), "rtrl": sparsegrad.RTRL()}


def learner(method="snap:2", seed=1, rate=1e-2, units=24, comm=COMM, sparsity=0.8):
    cell = sparsegrad.GRU(3, units, sparsity=sparsity, seed=seed)
    method = METHODS.get(method, method)
    return sparsegrad.OnlineLearner(
        cell, sparsegrad.Linear(2), method, sparsegrad.Adam(rate), threads=1, comm=comm
    )


def checksum(array):
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def bits(folder, other=None):
    """What every number of ranks must have alike, and what each holds; `other` ranks saved, too."""
    found = {}
    for method in METHODS:
        one = learner(method)
        losses = one.run(XS, YS)
        one.save(f"{folder}/{method}-{COMM.size}")
        _, gradient = one.gradient(XS[:5], YS[:5])
        path = f"{folder}/{method}-{other or COMM.size}"
        again = sparsegrad.OnlineLearner.load(path, comm=COMM, threads=1)
        found[method] = [checksum(losses), checksum(gradient["weight_hh"])]
        for goes_on in (one, again):
            goes_on.follow(XS[:3])
            goes_on.run(XS, YS)
            found[method].append(checksum(goes_on.cell.weights))
        found[f"entries {method}"] = one.pattern.nnz
    return found


def _other_data():
    learner().run(XS if COMM.rank else XS + 1, YS)


def _other_shape():
    learner().run(XS[:, :, : 3 - COMM.rank], YS)


REFUSED = {
    "seed": lambda: learner(seed=COMM.rank),
    "rate": lambda: learner(rate=1e-2 * (1 + COMM.rank)),
    "mask": lambda: learner(sparsity=0.8 - 0.1 * COMM.rank),
    "units": lambda: learner(units=24 + COMM.rank),
    "data": _other_data,
    "shape": _other_shape,
    "parts": lambda: learner(units=4),
    "snap:1": lambda: learner(sparsegrad.SnAp(1)),
    "window": lambda: learner(sparsegrad.SnAp(2, window=4)),
    "bptt": lambda: learner(sparsegrad.BPTT(4)),
    "comm": lambda: learner(comm=7),
    "rewire": lambda: learner().rewire({}),
    "pickle": lambda: pickle.dumps(learner()),
    "save": lambda: learner().save("/nowhere/learner"),
}


def refused():
    found = {}
    for name, call in REFUSED.items():
        try:
            call()
        except (ValueError, TypeError, OSError) as error:
            found[name] = str(error)
    one = learner()  # nothing is lost: the ranks go on together
    found["after"] = checksum(one.run(XS, YS))
    return found


def grown():
    """J of one rank's weights grows beyond the numbers: all ranks stop at one step."""
    one = learner()
    if COMM.rank == 1:
        one._engine.influence.panels[:] = 1e19
    try:
        one.run(XS, YS)
    except FloatingPointError as error:
        return str(error)


def alone(arguments):
    """Rank 1 fails where the others do not."""
    if COMM.rank == 1:

        def fail(*_):
            raise MemoryError("no room here")

        sparsegrad.OnlineLearner._run_slice = fail
    sys.exit(main(arguments))


if __name__ == "__main__":
    case, *given = sys.argv[1:]
    if case == "alone":
        alone(given)
    result = {"bits": bits, "refused": refused, "grown": grown}[case](*given)
    for rank in range(COMM.size):
        COMM.Barrier()
        if COMM.rank == rank:
            os.write(1, (json.dumps(result) + "\n").encode())
