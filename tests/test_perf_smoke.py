"""Every script of perf/ runs, on every workload of the registry, at toy size."""

import json
import subprocess
import sys
from pathlib import Path

import numba
import pytest

PERF = Path(__file__).parent.parent / "perf"
# a regular install without the repository has no perf/; interpreted kernels are no benchmark
pytestmark = [
    pytest.mark.skipif(not PERF.is_dir(), reason="perf/ is not here"),
    pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="too slow interpreted"),
]


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(PERF / "influence.py"), *arguments],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def names():
    done = run("--help")
    assert done.returncode == 0
    listed = next(line for line in done.stdout.splitlines() if line.startswith("workloads: "))
    return listed.removeprefix("workloads: ").split(", ")


def test_every_workload_runs_and_all_contestants_agree():
    pytest.importorskip("graphblas")
    done = run("all", "--toy", "--seconds", "0.001")
    assert done.returncode == 0, done.stderr
    machine, *lines = map(json.loads, done.stdout.splitlines())
    assert machine["cpus"] >= 1
    workloads = names()
    assert {line["workload"] for line in lines} == {f"{name}-toy" for name in workloads}
    contestants = [
        ("panels", 1), ("panels", 2), ("csr", 1), ("scipy", 1), ("graphblas", 1), ("numpy", 1),
    ]  # fmt: skip
    assert [(line["method"], line["threads"]) for line in lines] == contestants * len(workloads)
    for line in lines:
        limit = 2e-5 if line["dtype"] == "float32" else 1e-12
        assert 0 <= line["error"] <= limit
        assert 0 < line["seconds_low"] <= line["seconds"] <= line["seconds_high"]
        assert line["ratio"] > 0
        assert line["gflops"] >= 0
    ours = [line for line in lines if (line["method"], line["threads"]) == ("panels", 1)]
    assert all(line["ratio"] == 1 and line["roofline_fraction"] > 0 for line in ours)


def test_the_registry_holds_what_it_promises():
    workloads = names()
    paper = [
        f"{cell}-{units}-n{n}"
        for n in (1, 2, 3)
        for cell in ("rnn", "gru", "lstm")
        for units in (128, 256, 512)
    ]
    others = {"gru-1024-n2", "gru-4096-n2", "gru-128-shared-n2", "gru-2gib-n2"}
    assert set(paper) | others <= set(workloads)


def test_what_does_not_fit_is_named():
    done = run("rnn-128-n2", "--toy", "--seconds", "0.001", "--limit", "0.000001",
               "--against", "scipy", "numpy")  # fmt: skip
    assert done.returncode == 0, done.stderr
    _, ours, *absent = map(json.loads, done.stdout.splitlines())
    assert ours["method"] == "panels"
    assert [line["method"] for line in absent] == ["scipy", "numpy"]
    assert all("GiB" in line["skipped"] for line in absent)


def test_an_unknown_workload_is_named():
    done = run("rnn-7")
    assert done.returncode != 0
    assert "no workload 'rnn-7'" in done.stderr
    assert "Traceback" not in done.stderr
