"""Time whole steps of a sparse vanilla RNN beside braintrace, the other library that does SnAp-n.

A step is forward, the influence update, and the gradient of a squared error through a linear
readout; ours updates the weights as well. The tanh RNN has 32 inputs; both matrices are as sparse.

    ours      OnlineLearner.run with SnAp(n)
    theirs    braintrace.SnAp(n) on its sparse recurrent layer; its input layer is its dense one
              with the zeros stored, which is faster there than its sparse one, and a batch goes
              through its vmap, which at n = 1 is 14 times as fast as its own batches
    exact     the same with its dense recurrent layer, the zeros stored: exact RTRL from n = 2 on,
              which in places is faster there than SnAp-2 is; beside our SnAp-2 and our RTRL

Each stands in a process of its own, one thread, and they take turns; medians. Before that their
gradients over a few steps are compared, theirs with ours for every n, the exact ones with our
RTRL. Bytes are those of J, and with what a step takes besides. A point that takes more than
--gib or does not answer in --patience seconds is left out, and says so. Prints JSON lines.
"""

import argparse
import json
import os
import select
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from run import DiedError, Peer
from scipy import sparse

INPUTS, OUTPUTS = 32, 8
NETS = ((128, 0.75), (256, 0.9375), (512, 0.984375))
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
SAMPLE_SECONDS = 0.2
WEIGHTS = ("weight_hh", "weight_ih", "bias_ih")


@dataclass(frozen=True)
class Point:
    """A net, an n (None: exact), a batch, and the steps of one run."""

    units: int
    sparsity: float
    n: int | None
    batch: int
    steps: int
    dtype: str = "float32"

    def masks(self) -> tuple[Any, Any]:
        """Draw which weights exist."""
        rng = np.random.default_rng(0)
        shapes = (self.units, self.units), (self.units, INPUTS)
        return tuple(rng.random(shape) >= self.sparsity for shape in shapes)

    def their_bytes(self, dense: bool) -> int:
        """Estimate what braintrace needs: thrice its traces and block Jacobians, as measured."""
        wide = self.units
        if not dense:
            step = sparse.csr_array(self.masks()[0], dtype=np.int64)
            near = sparse.eye_array(self.units, dtype=np.int64, format="csr")
            for _ in range((self.n or self.units) - 1):
                near = sparse.csr_array(near + near @ step)
                near.data[:] = 1
            wide = int(near.sum(axis=0).max())
        weights = self.units**2 if dense else self.masks()[0].sum()
        traces = (weights + INPUTS * self.units) * wide
        elements = self.batch * (traces + self.units * wide**2)
        return 3 * int(elements) * np.dtype(self.dtype).itemsize

    def problem(self) -> dict[str, Any]:
        """Draw weights, inputs and targets."""
        rng = np.random.default_rng(1)
        recurrent, given = self.masks()
        scale = 1 / np.sqrt(max(1, recurrent.sum() / self.units))
        arrays = {
            "weight_hh": recurrent * rng.standard_normal(recurrent.shape) * scale,
            "weight_ih": given * rng.standard_normal(given.shape),
            "bias_ih": rng.standard_normal(self.units),
            "weight": rng.standard_normal((OUTPUTS, self.units)) / np.sqrt(self.units),
            "bias": np.zeros(OUTPUTS),
            "xs": rng.standard_normal((self.steps, self.batch, INPUTS)),
            "targets": rng.standard_normal((self.steps, self.batch, OUTPUTS)),
        }
        return {name: array.astype(self.dtype) for name, array in arrays.items()}


class Ours:
    """Our learner."""

    def __init__(self, point: Point, dense: bool, limit: float) -> None:
        import sparsegrad

        data = point.problem()
        recurrent, given = point.masks()
        cell = sparsegrad.RNN.from_dense(
            **{name: data[name] for name in WEIGHTS},
            masks={"weight_hh": recurrent, "weight_ih": given},
        )
        readout = sparsegrad.Linear(
            OUTPUTS, "squared_error", weight=data["weight"], bias=data["bias"]
        )
        method = sparsegrad.RTRL() if point.n is None else sparsegrad.SnAp(point.n)
        learner = self._learner = sparsegrad.OnlineLearner(
            cell, readout, method, sparsegrad.SGD(1e-9), batch=point.batch, threads=1
        )
        self._data = data["xs"], data["targets"]
        self.gradient = {
            name: values for name, values in learner.gradient(*self._data)[1].items()
            if name in WEIGHTS
        }  # fmt: skip
        engine: Any = learner._engine
        traces = engine.state()["traces"] if point.n == 1 else engine.influence
        self.influence_bytes = traces.nbytes

    def run(self) -> None:
        """Make all steps once."""
        self._learner.run(*self._data)


class Theirs:
    """braintrace's learner."""

    def __init__(self, point: Point, dense: bool, limit: float) -> None:
        if (needed := point.their_bytes(dense)) > limit:
            raise MemoryError(f"it would need about {needed / 2**30:.0f} GiB")
        import brainevent
        import brainstate
        import braintrace
        import jax
        import jax.numpy as jnp

        if point.dtype == "float64":
            jax.config.update("jax_enable_x64", True)
            brainstate.environ.set(precision=64)
        data, (recurrent, given) = point.problem(), point.masks()

        def stored(matrix: Any, mask: Any) -> Any:  # y = x M, so M is the transpose of ours
            there = sparse.csr_array(mask.T)
            there.sort_indices()
            rows = np.repeat(np.arange(there.shape[0]), np.diff(there.indptr))
            values = matrix.T[rows, there.indices]
            arrays = map(jnp.asarray, (values, there.indices, there.indptr))
            return brainevent.CSR(tuple(arrays), shape=there.shape)

        class Net(brainstate.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                bias = jnp.asarray(data["bias_ih"])
                matrix = data["weight_hh"]
                self.recurrent = (
                    braintrace.nn.Linear(*matrix.shape, w_init=jnp.asarray(matrix.T), b_init=bias)
                    if dense
                    else braintrace.nn.SparseLinear(stored(matrix, recurrent), b_init=bias)
                )
                self.given = braintrace.nn.Linear(
                    INPUTS, point.units, w_init=jnp.asarray(data["weight_ih"].T), b_init=None
                )
                self.readout = brainstate.ParamState(
                    {name: jnp.asarray(data[name]) for name in ("weight", "bias")}
                )

            def init_state(self, batch_size: int | None = None, **_: Any) -> None:
                shape = (point.units,) if batch_size is None else (batch_size, point.units)
                self.h = brainstate.HiddenState(jnp.zeros(shape, point.dtype))

            def update(self, x: Any) -> Any:
                self.h.value = jnp.tanh(self.given(x) + self.recurrent(self.h.value))
                readout = self.readout.value
                return self.h.value @ readout["weight"].T + readout["bias"]

        alone = point.batch == 1
        xs, targets = (data[name][:, 0] if alone else data[name] for name in ("xs", "targets"))
        learner = braintrace.compile(
            Net(), braintrace.SnAp, jnp.asarray(xs[0]), n=point.n or 2,
            batch_size=None if alone else point.batch, vmap=not alone,
            snap_max_jacobian_elements=round(limit / np.dtype(point.dtype).itemsize),
        )  # fmt: skip

        def loss(x: Any, target: Any) -> Any:
            return 0.5 * jnp.sum((learner(x) - target) ** 2) / point.batch

        steps = brainstate.transform.jit(
            lambda xs, targets: learner.etrace_grad(xs, targets, step_fn=loss, reduction="sum")
        )
        self._call = lambda: jax.block_until_ready(steps(xs, targets))
        found = {part: grads for (part, *_), grads in self._call().items()}
        weight_hh = np.asarray(found["recurrent"]["weight"])
        if not dense:
            spread = np.zeros(recurrent.shape, weight_hh.dtype).T
            spread[np.nonzero(recurrent.T)] = weight_hh
            weight_hh = spread
        self.gradient = {
            "weight_hh": weight_hh.T * recurrent,
            "weight_ih": np.asarray(found["given"]["weight"]).T * given,
            "bias_ih": np.asarray(found["recurrent"]["bias"]),
        }
        traces = [s.value for key, s in learner.states().items() if "etrace" in str(key)]
        self.influence_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(traces))

    def run(self) -> None:
        """Make all steps once."""
        self._call()


class Server:
    """What the conductor may ask a contestant for, over a pipe, as in worker.py."""

    def __init__(self, name: str) -> None:
        self._make: Callable[..., Ours | Theirs] = Ours if name == "ours" else Theirs
        self._dense = name == "exact"

    def prepare(self, point: dict[str, Any], folder: str, gib: float) -> dict[str, Any]:
        """Get ready, write the gradient to a file, and say what J takes, and a run besides."""
        try:
            self._held = self._make(Point(**point), self._dense, gib * 2**30)
        except (MemoryError, ImportError, ValueError, RuntimeError) as error:
            return {"skipped": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        np.savez(f"{folder}/{sys.argv[2]}.npz", **self._held.gradient)
        start = time.perf_counter()
        self._held.run()
        took = time.perf_counter() - start
        self._runs = max(1, round(SAMPLE_SECONDS / took))
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status("VmRSS")
        self._held.run()
        size = self._held.influence_bytes
        return {"influence_bytes": size, "bytes": size + max(0, _status("VmHWM") - before)}

    def sample(self) -> dict[str, float]:
        """Time a run, or a short one many times: seconds of one."""
        start = time.perf_counter()
        for _ in range(self._runs):
            self._held.run()
        return {"seconds": (time.perf_counter() - start) / self._runs}


def serve(name: str) -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = Server(name)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(server, request.pop("do"))(**request)), file=replies, flush=True)


def _status(name: str) -> int:
    """Return a size in bytes from this process's status, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def measure(point: Point, names: list[str], options: argparse.Namespace) -> None:
    """Compare and time one point; print a line for each contestant."""
    about = {"units": point.units, "sparsity": point.sparsity, "batch": point.batch,
             "dtype": point.dtype, "n": point.n}  # fmt: skip
    peers = {name: Peer(name, [Path(__file__).name, "--serve"]) for name in names}
    try:
        with tempfile.TemporaryDirectory() as folder:
            ready = {}
            for name, peer in peers.items():
                peer.tell("prepare", point=asdict(point), folder=folder, gib=options.gib)
                answer = _hear(peer, options.patience)
                if "skipped" in answer:
                    print(json.dumps({**about, "method": name, **answer}), flush=True)
                else:
                    ready[name] = answer
            same = ready if point.n is None else ready.keys() - {"exact"}
            errors = {name: _error(folder, name) for name in same} if "ours" in ready else {}
        for name, error in errors.items():
            if error > TOLERANCE[point.dtype]:
                raise SystemExit(f"{name} differs from ours by {error:.1e} at {point}")
        samples: dict[str, list[float]] = {name: [] for name in ready}
        for _ in range(options.rounds):
            for name in ready:
                samples[name].append(peers[name].ask("sample")["seconds"] / point.steps)
        seconds = {name: statistics.median(values) for name, values in samples.items()}
        for name, sizes in ready.items():
            line = {**about, "method": name, "seconds": seconds[name], **sizes}
            if "ours" in ready:
                ours = ready["ours"]
                line |= {
                    "ratio": seconds[name] / seconds["ours"],
                    "influence_ratio": sizes["influence_bytes"] / ours["influence_bytes"],
                    "bytes_ratio": sizes["bytes"] / ours["bytes"],
                    "error": errors.get(name),
                }
            print(json.dumps(line), flush=True)
    finally:
        for peer in peers.values():
            peer.close()


def _hear(peer: Peer, patience: float) -> dict[str, Any]:
    """Wait so many seconds for an answer; without one the peer is left out."""
    if not select.select([peer.answers], [], [], patience)[0]:
        peer.close()
        return {"skipped": f"no answer in {patience:.0f} s"}
    try:
        return peer.hear()
    except DiedError as error:
        return {"skipped": str(error)}


def _error(folder: str, name: str) -> float:
    """Return the largest difference from our gradient, over each tensor's largest element."""
    ours, other = (np.load(f"{folder}/{who}.npz") for who in ("ours", name))
    return max(float(abs(ours[k] - other[k]).max() / abs(ours[k]).max()) for k in WEIGHTS)


def contestants(n: int | None) -> list[str]:
    """Return which of braintrace's ways take part."""
    return {None: ["exact"], 2: ["theirs", "exact"]}.get(n, ["theirs"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="sizes for a smoke test")
    parser.add_argument("--units", type=int, nargs="*", choices=[u for u, _ in NETS])
    parser.add_argument("--n", type=int, nargs="*", default=[1, 2, 3], help="0: exact")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gib", type=float, default=8, help="that the peer may need")
    parser.add_argument("--patience", type=float, default=150, help="seconds to get ready")
    parser.add_argument("--serve", choices=["ours", "theirs", "exact"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    if options.toy:
        options.rounds = 1
        for n in (2, None):
            point = Point(12, 0.7, n, 1, 5, "float64")
            measure(point, ["ours", *contestants(n)], options)
        measure(Point(12, 0.7, 2, 3, 5, "float64"), ["ours", "theirs"], options)
        return
    for units, sparsity in NETS:
        if options.units and units not in options.units:
            continue
        for batch in options.batch:
            for n in options.n:
                steps = 64 if n == 1 else 8 if batch == 1 and n < 3 else 2
                point = Point(units, sparsity, n or None, batch, steps)
                measure(point, ["ours", *contestants(point.n)], options)


if __name__ == "__main__":
    main()
