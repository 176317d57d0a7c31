"""Time the masked product J <- P o (D J + I) side by side with what else can compute it.

All contestants of a workload stand in one process on the same values and take turns, one sample
each, so that a busy machine slows all alike. Before anything is timed, every result is compared
with ours. Ours adds I as well; the others compute P o (D J) alone.

    panels      Influence.update, one thread and two
    csr         sparsegrad.kernels.csr_update, the plain family
    scipy       (D @ J).multiply(P)
    graphblas   C(P.S) << plus_times(D @ J), SuiteSparse, one thread
    numpy       P * (D @ J), dense, one thread

Prints JSON lines: the machine first, then one line per workload and contestant. `ratio` is its
median over that of panels on one thread. What does not fit is named with the reason.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from workloads import SETS, WORKLOADS, Workload, select

from sparsegrad.influence import Influence
from sparsegrad.kernels.csr import csr_update
from sparsegrad.pattern import ReachPattern, reach
from sparsegrad.profile import random_values
from sparsegrad.roofline import Roofline

ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")
DENSE_MULTIPLY_ADDS = 1e11
"""The dense product is run up to this size: beyond it takes seconds and shows nothing new."""
LARGE = 2**27
"""Entries of J beyond which panels run alone, and unchecked."""
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


@dataclass
class Contestant:
    """One way to compute the product."""

    name: str
    threads: int
    step: Callable[[], object]
    result: Callable[[], sparse.csr_array]  # P o (D J) after one step from the start, (p, k)
    samples: list[float] = field(default_factory=list)
    spent: float = 0.0


@dataclass
class Problem:
    """The values that all contestants start from; J is (weights, units), as the pattern is."""

    pattern: ReachPattern
    next_entries: int  # of D J without a mask
    dtype: str
    dynamics_data: NDArray[np.floating]
    immediate_data: NDArray[np.floating]
    influence_data: NDArray[np.floating]

    def by_weight(self, data: NDArray[np.floating]) -> sparse.csr_array:
        """Return J with these entries, (weights, units)."""
        pattern = self.pattern
        return sparse.csr_array((data, pattern.indices, pattern.indptr), shape=pattern.shape)

    def dynamics(self) -> sparse.csr_array:
        """Return D, (units, units)."""
        units = self.pattern.shape[1]
        return sparse.csr_array(
            (self.dynamics_data[0], self.pattern.dynamics_indices, self.pattern.dynamics_indptr),
            shape=(units, units),
        )

    def immediate(self) -> sparse.csr_array:
        """Return I by weight, (weights, units)."""
        return sparse.csr_array(
            (self.immediate_data[0], self.pattern.immediate_indices, self.pattern.immediate_indptr),
            shape=self.pattern.shape,
        )


def problem(workload: Workload) -> Problem:
    drawn = workload.structure()
    pattern = reach(drawn.dynamics, drawn.immediate, workload.n)
    if pattern.nnz > LARGE:
        unmasked = pattern.shape[0] * pattern.shape[1]  # at most; counting it would take minutes
    else:
        unmasked = reach(drawn.dynamics, drawn.immediate, workload.n + 1).nnz
    dynamics_data, immediate_data = random_values(pattern, 1, workload.dtype)
    start = np.random.default_rng(1).standard_normal(pattern.nnz, dtype=np.dtype(workload.dtype))
    return Problem(pattern, unmasked, workload.dtype, dynamics_data, immediate_data, start)


def panels(task: Problem, threads: int) -> Contestant:
    influence = Influence(task.pattern, dtype=task.dtype, threads=threads)

    def step() -> None:
        influence.update(task.dynamics_data, task.immediate_data)

    def result() -> sparse.csr_array:
        influence.from_scipy(task.by_weight(task.influence_data).T)
        step()
        return sparse.csr_array(influence.to_scipy().T - task.immediate())

    return Contestant("panels", threads, step, result)


def csr(task: Problem) -> Contestant:
    pattern = task.pattern
    dynamics, immediate = task.dynamics_data[0], task.immediate_data[0]
    values = task.influence_data.copy()
    work = np.zeros(pattern.shape[1], task.dtype)

    def step() -> None:
        csr_update(
            pattern.dynamics_indptr, pattern.dynamics_indices, pattern.immediate_indptr,
            pattern.immediate_indices, pattern.indptr, pattern.indices, dynamics,
            immediate, values, work,
        )  # fmt: skip

    def result() -> sparse.csr_array:
        values[:] = task.influence_data
        step()
        return sparse.csr_array(task.by_weight(values.copy()) - task.immediate())

    return Contestant("csr", 1, step, result)


def scipy_product(task: Problem) -> Contestant:
    dynamics = task.dynamics()
    influence = sparse.csr_array(task.by_weight(task.influence_data).T)
    mask = sparse.csr_array(task.by_weight(np.ones_like(task.influence_data)).T)

    def step() -> sparse.csr_array:
        return (dynamics @ influence).multiply(mask)

    return Contestant("scipy", 1, step, lambda: sparse.csr_array(step().T))


def graphblas_product(task: Problem) -> Contestant:
    import graphblas
    from graphblas import Matrix, semiring

    graphblas.ss.config["nthreads"] = 1

    def matrix(array: sparse.csr_array) -> Matrix:
        # copies: GraphBLAS takes ownership of the memory that it is given
        return Matrix.from_csr(
            array.indptr.copy(), array.indices.copy(), array.data.copy(), ncols=array.shape[1]
        )

    dynamics = matrix(task.dynamics())
    influence = matrix(sparse.csr_array(task.by_weight(task.influence_data).T))
    units, weights = influence.shape
    dtype = influence.dtype

    def step() -> Matrix:
        product = Matrix(dtype, units, weights)
        product(influence.S) << semiring.plus_times(dynamics @ influence)
        product.wait()
        return product

    def result() -> sparse.csr_array:
        indptr, indices, data = step().to_csr()
        by_row = sparse.csr_array((data, indices, indptr), shape=(units, weights))
        return sparse.csr_array(by_row.T)

    return Contestant("graphblas", 1, step, result)


def numpy_product(task: Problem) -> Contestant:
    dynamics = task.dynamics().toarray()
    influence = np.ascontiguousarray(task.by_weight(task.influence_data).T.toarray())
    mask = task.by_weight(np.ones_like(task.influence_data)).T.toarray()
    product = np.empty_like(influence)

    def step() -> NDArray[np.floating]:
        np.matmul(dynamics, influence, out=product)
        np.multiply(product, mask, out=product)
        return product

    return Contestant("numpy", 1, step, lambda: sparse.csr_array(step().T))


def contestants(
    task: Problem, limit: float, wanted: list[str]
) -> tuple[list[Contestant], dict[str, str]]:
    """Return who takes part, and why the others do not."""
    weights, units = task.pattern.shape
    itemsize = np.dtype(task.dtype).itemsize
    entries = task.pattern.nnz
    sparse_bytes = (itemsize + 4) * (3 * entries + task.next_entries)  # J, P, the result, D J
    dense_bytes = 3 * itemsize * units * weights
    makers: dict[str, tuple[Callable[[Problem], Contestant], float]] = {
        "csr": (csr, (itemsize + 4) * entries),
        "scipy": (scipy_product, sparse_bytes),
        "graphblas": (graphblas_product, (itemsize + 8) * 3 * entries),
        "numpy": (numpy_product, dense_bytes),
    }
    taking_part = [panels(task, 1)]
    absent: dict[str, str] = {}
    if "panels-2" in wanted:
        taking_part.append(panels(task, 2))
    for name, (make, needed) in makers.items():
        if name not in wanted:
            continue
        if entries > LARGE:
            absent[name] = f"{entries:.1e} entries of J, more than {LARGE:.1e}: takes minutes"
        elif needed > limit:
            absent[name] = f"needs {needed / 2**30:.1f} GiB, limit {limit / 2**30:.1f} GiB"
        elif name == "numpy" and units * units * weights > DENSE_MULTIPLY_ADDS:
            absent[name] = f"{units * units * weights:.1e} dense multiply-adds"
        else:
            try:
                taking_part.append(make(task))
            except ImportError as error:
                absent[name] = str(error)
    return taking_part, absent


def disagreement(ours: sparse.csr_array, other: sparse.csr_array) -> float:
    """Return the largest difference over the largest value."""
    scale = abs(ours).max() if ours.nnz else 0.0
    difference = abs(ours - other)
    return float(difference.max() / scale) if difference.nnz and scale else 0.0


def take_turns(group: list[Contestant], seconds: float) -> None:
    """Sample everyone in turn until each has had its seconds and at least three samples."""
    calls = {}
    for one in group:
        one.step()
        start = time.perf_counter()
        one.step()
        calls[one.name, one.threads] = max(1, round(0.002 / (time.perf_counter() - start + 1e-7)))
    while waiting := [c for c in group if len(c.samples) < 3 or c.spent < seconds]:
        for one in waiting:
            repeats = calls[one.name, one.threads]
            start = time.perf_counter()
            for _ in range(repeats):
                one.step()
            took = time.perf_counter() - start
            one.samples.append(took / repeats)
            one.spent += took


def run(workload: Workload, arguments: argparse.Namespace, rooflines: dict[str, Roofline]) -> None:
    task = problem(workload)
    wanted = arguments.against
    group, absent = contestants(task, arguments.limit * 2**30, wanted)
    about = {
        "workload": workload.name, "cell": workload.cell, "units": workload.units,
        "sparsity": workload.sparsity, "n": workload.n, "gate_masks": workload.gate_masks,
        "dtype": workload.dtype,
    }  # fmt: skip
    cost = task.pattern.cost(dtype=workload.dtype)
    errors: dict[tuple[str, int], float] = {}
    # a comparison takes several times J's memory
    if len(group) > 1 and not arguments.unchecked and task.pattern.nnz <= LARGE:
        reference = group[0].result()
        for one in group:
            error = disagreement(reference, one.result())
            errors[one.name, one.threads] = error
            if error > TOLERANCE[workload.dtype]:
                raise SystemExit(f"{workload.name}: {one.name} differs from panels by {error:.1e}")
        del reference
    take_turns(group, arguments.seconds)
    ours = float(np.median(group[0].samples))
    key = workload.dtype
    if key not in rooflines:
        rooflines[key] = Roofline(workload.dtype)
    least = rooflines[key].seconds(cost.multiply_adds, 2 * cost.bytes, cost.bytes)
    for one in group:
        low, median, high = np.percentile(one.samples, [25, 50, 75]).tolist()
        line = {
            **about, "method": one.name, "threads": one.threads,
            "entries": cost.entries, "multiply_adds": cost.multiply_adds,
            "seconds": median, "seconds_low": low, "seconds_high": high,
            "samples": len(one.samples), "ratio": median / ours,
            "gflops": 2e-9 * cost.multiply_adds / median,
            "gbytes_per_second": 2e-9 * cost.bytes / median,
            "roofline_fraction": least / median if one.threads == 1 else None,
            "error": errors.get((one.name, one.threads)),
        }  # fmt: skip
        print(json.dumps(line), flush=True)
    for name, reason in absent.items():
        print(json.dumps({**about, "method": name, "skipped": reason}), flush=True)


def machine() -> dict[str, object]:
    """Return what the times depend on."""
    packages = ("sparsegrad-rtrl", "numba", "numpy", "scipy", "python-graphblas")
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "machine": platform.machine(), "system": platform.system(),
        "python": platform.python_version(), "cpus": os.cpu_count(), **versions,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"sets: {', '.join(SETS)}\nworkloads: {', '.join(WORKLOADS)}",
    )  # fmt: skip
    others = ["panels-2", "csr", "scipy", "graphblas", "numpy"]
    parser.add_argument("workloads", nargs="*", default=["paper"], help="names or sets (paper)")
    parser.add_argument("--against", nargs="+", choices=others, default=others, metavar="WHO",
                        help=f"of {', '.join(others)} (default: all)")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=1.0, help="for each contestant (1)")
    parser.add_argument("--limit", type=float, default=6.0, help="GiB for each contestant (6)")
    parser.add_argument("--toy", action="store_true", help="the same workloads, tiny")
    parser.add_argument("--unchecked", action="store_true", help="time without comparing results")
    arguments = parser.parse_args()
    if not ONE_THREAD.items() <= os.environ.items():
        # libraries read these when they are loaded, which they are by now: begin again
        os.environ.update(ONE_THREAD)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    print(json.dumps(machine()), flush=True)
    rooflines: dict[str, Roofline] = {}
    for workload in select(arguments.workloads, arguments.toy):
        run(workload, arguments, rooflines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
