"""Measure everything side by side with the peers, and keep it in one file: `python perf/run.py`.

    product      the masked product J <- P o (D J + I) on the registry's workloads, beside scipy,
                 GraphBLAS, and the dense product in NumPy and in JAX (see products.py)
    training     whole steps of learning beside jitted JAX and eager torch BPTT (see training.py)
    step         whole steps, what they cost beside the influence update and beside BPTT (step.py)
    window       windows beside an update at every step and beside BPTT (window.py)
    braintrace   whole steps beside braintrace, which does SnAp-n too (braintrace_step.py)
    torch, jax   steps embedded in PyTorch and in JAX (torch_step.py, jax_step.py)
    profile      are predicted times near measured ones, and do they grow as the work does
                 (profile_check.py)
    symbolic     the reach of large nets: time, and memory over the result's (symbolic_scale.py)
    startup      what a user waits for: import, first step cold and warm (startup.py)

Every contestant of product and training stands in a process of its own, and all take turns, one
sample each, so that a busy machine slows all alike. Before a product is timed, every result is
compared with that of the panels. A contestant that cannot take part, or dies, is named with the
reason.

`python perf/report.py FILE` draws what this wrote; with a second file it compares the two.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import quantiles
from typing import IO, Any

from workloads import PRODUCTS, SETS, TRAININGS, Product, Training, select

HERE = Path(__file__).resolve().parent
ONE_THREAD = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
OURS = "panels"
TRAINERS = ("snap-1", "bptt", "jax", "torch")
AGAINST = ("panels-2", "csr", "scipy", "graphblas", "numpy", "jax")
SCRIPTS = {
    "step": "step.py",
    "window": "window.py",
    "braintrace": "braintrace_step.py",
    "torch": "torch_step.py",
    "jax": "jax_step.py",
    "profile": "profile_check.py",
    "symbolic": "symbolic_scale.py",
    "startup": "startup.py",
}
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
PACKAGES = ("sparsegrad-rtrl", "numba", "numpy", "scipy", "python-graphblas", "jax", "torch",
            "braintrace")  # fmt: skip
Line = dict[str, Any]


class DiedError(Exception):
    """A contestant's process is gone."""


class Peer:
    """A contestant in its own process."""

    def __init__(self, name: str, command: Sequence[str] = ("worker.py",)) -> None:
        self.name = name
        self.samples: list[float] = []
        self.spent = 0.0
        self.threads = 2 if name.endswith("-2") else 1
        environment = {**os.environ, **ONE_THREAD}
        if self.threads > 1:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / command[0]), *command[1:], name],
            env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    @property
    def answers(self) -> IO[str]:
        """The pipe that answers come through."""
        assert self._process.stdout is not None
        return self._process.stdout

    def tell(self, do: str, **arguments: Any) -> None:
        """Ask for something; `hear` has the answer."""
        assert self._process.stdin is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass  # `hear` says that it died

    def hear(self) -> Line:
        """Wait for the answer."""
        line = self.answers.readline()
        if not line:
            raise DiedError(f"its process ended with status {self._process.wait()}")
        return dict(json.loads(line))

    def ask(self, do: str, **arguments: Any) -> Line:
        """Ask for something and wait for the answer."""
        self.tell(do, **arguments)
        return self.hear()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


class Conductor:
    """Keeps one process per contestant and lets them take turns; the first one is ours."""

    def __init__(self, names: Sequence[str], toy: bool, seconds: float, limit: float) -> None:
        self._peers = {name: Peer(name) for name in names}
        self._toy, self._seconds, self._limit = toy, seconds, limit
        self._peaked: set[str] = set()

    def close(self) -> None:
        """End all processes."""
        for peer in self._peers.values():
            peer.close()

    def product(self, product: Product) -> Iterator[Line]:
        """Measure the masked product on one net: a line for each contestant."""
        about = self._about("product", product)
        prepared, absent = self._prepare(product.name)
        for name, reason in absent.items():
            yield {**about, "method": name, "skipped": reason}
        if OURS not in prepared:
            return
        ours, cost = self._peers[OURS], prepared[OURS]
        roofline = {key: cost[key] for key in ("multiply_adds", "bytes")}
        if product.dtype not in self._peaked:  # heavy multiply-adds lower the clock for a while
            self._peaked.add(product.dtype)
            ours.ask("roofline", dtype=product.dtype, **roofline)
            time.sleep(0 if self._toy else 2)
        errors = self._compare(prepared, TOLERANCE[product.dtype])
        for line in self._take_turns(prepared):
            seconds, alone = line["seconds"], line["threads"] == 1
            roof = ours.ask("roofline", dtype=product.dtype, **roofline)
            yield {
                **about, **line,
                "gflops": 2e-9 * cost["multiply_adds"] / seconds,
                "gbytes_per_second": 2e-9 * cost["bytes"] / seconds,
                "roofline_fraction": roof["least"] / seconds if alone else None,
                "error": errors.get(line["method"]),
            }  # fmt: skip

    def training(self, training: Training) -> Iterator[Line]:
        """Measure whole steps of learning on one net: a line for each contestant."""
        about = self._about("training", training)
        prepared, absent = self._prepare(training.name)
        for name, reason in absent.items():
            yield {**about, "method": name, "skipped": reason}
        for line in self._take_turns(prepared):
            yield {**about, **line, "nanoseconds_per_weight": 1e9 * line["seconds"]
                   / (line["weights"] * training.batch)}  # fmt: skip

    def _about(self, section: str, workload: Product | Training) -> Line:
        run = workload.toy() if self._toy else workload
        return {"section": section, "workload": workload.name, **asdict(run)}

    def _prepare(self, workload: str) -> tuple[dict[str, Line], dict[str, str]]:
        """Have everybody get ready; return what each says of itself, and why others are absent."""
        for peer in self._peers.values():
            peer.tell("prepare", workload=workload, toy=self._toy, limit=self._limit)
            peer.samples, peer.spent = [], 0.0
        prepared, absent = {}, {}
        for name, peer in list(self._peers.items()):
            try:
                answer = peer.hear()
            except DiedError as error:  # out of memory, most likely: the next workload may fit
                answer = {"skipped": str(error)}
                peer.close()
                self._peers[name] = Peer(name)
            if "skipped" in answer:
                absent[name] = answer["skipped"]
            else:
                prepared[name] = answer
        return prepared, absent

    def _compare(self, prepared: dict[str, Line], tolerance: float) -> dict[str, float | None]:
        """Compare everybody's result with the first one's."""
        errors: dict[str, float | None] = {}
        with tempfile.TemporaryDirectory() as folder:
            for name in prepared if len(prepared) > 1 else {}:
                error = self._peers[name].ask("result", reference=f"{folder}/result.npz")
                errors[name] = error.get("error")
                if (errors[name] or 0) > tolerance:
                    raise SystemExit(f"{name} differs from {next(iter(prepared))}: {errors[name]}")
        return errors

    def _take_turns(self, prepared: dict[str, Line]) -> list[Line]:
        """Sample everyone in turn until each has had its seconds and at least three samples."""
        group = [self._peers[name] for name in prepared]
        while waiting := [p for p in group if len(p.samples) < 3 or p.spent < self._seconds]:
            for peer in waiting:
                answer = peer.ask("sample")
                peer.samples.append(answer["seconds"])
                peer.spent += answer["took"]
        times = {peer.name: _quartiles(peer.samples) for peer in group}
        ours = next(iter(self._peers))
        return [
            {
                "method": peer.name, "threads": peer.threads, **prepared[peer.name],
                "seconds": times[peer.name][1], "seconds_low": times[peer.name][0],
                "seconds_high": times[peer.name][2], "samples": len(peer.samples),
                "ratio": times[peer.name][1] / times[ours][1] if ours in times else None,
            }
            for peer in group
        ]  # fmt: skip


def _quartiles(samples: list[float]) -> list[float]:
    return quantiles(samples, n=4, method="inclusive")


def run_script(section: str, toy: bool) -> Iterator[Line]:
    """Run a script that prints JSON lines, and yield them."""
    path = HERE / SCRIPTS[section]
    done = subprocess.run(
        [sys.executable, str(path), *(["--toy"] if toy else [])],
        env={**os.environ, **ONE_THREAD}, capture_output=True, text=True,
    )  # fmt: skip
    for line in done.stdout.splitlines():
        yield {"section": section, **json.loads(line)}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield {"section": section, "skipped": f"{path.name}: {last}"}


def machine() -> Line:
    """Return what the times depend on."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": _cpu_model(), "cpus": os.cpu_count(), "machine": platform.machine(),
        "system": platform.system(), "python": platform.python_version(), "versions": versions,
    }  # fmt: skip


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> str | None:
    """Return the commit that is checked out, with a plus where files differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(HERE), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "-s", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def main() -> int:
    sections = ["product", "training", *SCRIPTS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"sets: {', '.join(SETS)}\nworkloads: {', '.join(PRODUCTS)}",
    )  # fmt: skip
    add = parser.add_argument
    add("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(sections)} (all)")
    add("--workloads", nargs="+", default=["paper", "large"], metavar="NAME",
        help="of the product: names or sets (paper large)")  # fmt: skip
    add("--against", nargs="*", choices=AGAINST, default=list(AGAINST), metavar="WHO",
        help=f"of the product: of {', '.join(AGAINST)} (all)")  # fmt: skip
    add("--seconds", type=float, default=1.0, help="for each contestant of a workload (1)")
    add("--limit", type=float, default=4.0, help="GiB for each contestant (4)")
    add("--toy", action="store_true", help="the same, tiny: does it run?")
    add("--out", type=Path, help="file to write (runs/perf-TIME.json)")
    options = parser.parse_args()
    wanted = options.sections or sections
    for section in wanted:
        if section not in sections:
            parser.error(f"no section {section!r}; there are {', '.join(sections)}")
    chosen = select(options.workloads)
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    out = options.out or Path("runs") / f"perf-{now[:19].replace(':', '')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {"time": now, "commit": commit(), "command": sys.argv[1:], **machine()}
    lines: list[Line] = []
    for line in measure(wanted, chosen, options):
        lines.append(line)
        print(_short(line), flush=True)
        whole = out.with_suffix(".partial")  # an interrupted run keeps what it has
        whole.write_text(json.dumps({**about, "lines": lines}, indent=1) + "\n")
        whole.replace(out)
    print(f"wrote {out}", file=sys.stderr)
    return 0


def _short(line: Line) -> str:
    """Say what was measured, in a line for whoever waits."""
    if line["section"] in ("product", "training"):
        value = line.get("skipped") or f"{1e3 * line['seconds']:.4g} ms, {line['ratio']:.3g}x"
        return f"{line['workload']:20} {line['method']:10} {value}"
    return f"{line['section']:10} " + ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else str(value)
        for key, value in line.items()
        if key != "section" and value is not None
    )


def measure(
    wanted: list[str], chosen: list[Product], options: argparse.Namespace
) -> Iterator[Line]:
    """Measure section after section."""
    for section in wanted:
        if section in SCRIPTS:
            if (HERE / SCRIPTS[section]).exists():
                yield from run_script(section, options.toy)
            continue
        names = [OURS, *options.against] if section == "product" else TRAINERS
        conductor = Conductor(names, options.toy, options.seconds, options.limit * 2**30)
        with closing(conductor):
            if section == "product":
                for product in chosen:
                    yield from conductor.product(product)
            else:
                for training in TRAININGS.values():
                    yield from conductor.training(training)


if __name__ == "__main__":
    sys.exit(main())
