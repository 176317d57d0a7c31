"""Every script of perf/ runs, on every workload of the registry, at toy size."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numba
import pytest

PERF = Path(__file__).parent.parent / "perf"
# a regular install without the repository has no perf/; interpreted kernels are no benchmark
pytestmark = [
    pytest.mark.skipif(not PERF.is_dir(), reason="perf/ is not here"),
    pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="too slow interpreted"),
]


def script(name, *arguments):
    return subprocess.run(
        [sys.executable, str(PERF / name), *map(str, arguments)],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def measured(out, *arguments):
    done = script("run.py", *arguments, "--toy", "--seconds", "0.001", "--out", out)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def names():
    done = script("run.py", "--help")
    assert done.returncode == 0
    listed = next(line for line in done.stdout.splitlines() if line.startswith("workloads: "))
    return listed.removeprefix("workloads: ").split(", ")


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    pytest.importorskip("graphblas")
    pytest.importorskip("jax")
    out = tmp_path_factory.mktemp("perf") / "all.json"
    measured(out, "product", "--workloads", "all")
    return out


def test_every_workload_runs_and_all_contestants_agree(products):
    run = json.loads(products.read_text())
    assert run["cpus"] >= 1
    assert run["versions"]["numba"]
    lines = run["lines"]
    workloads = names()
    contestants = [
        ("panels", 1), ("panels-2", 2), ("csr", 1), ("scipy", 1), ("graphblas", 1), ("numpy", 1),
        ("jax", 1),
    ]  # fmt: skip
    assert [(line["workload"], line["method"], line["threads"]) for line in lines] == [
        (name, *contestant) for name in workloads for contestant in contestants
    ]
    for line in lines:
        limit = 2e-5 if line["dtype"] == "float32" else 1e-12
        assert 0 <= line["error"] <= limit
        assert 0 < line["seconds_low"] <= line["seconds"] <= line["seconds_high"]
        assert line["ratio"] > 0
        assert line["gflops"] >= 0
    ours = [line for line in lines if line["method"] == "panels"]
    assert all(line["ratio"] == 1 and line["roofline_fraction"] > 0 for line in ours)


def test_a_run_is_reported_and_compared(products, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "picture.png"
    done = script("report.py", products, products, "--out", picture)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "python perf/run.py product --workloads all --toy" in done.stdout
    rows = [line for line in done.stdout.splitlines() if re.match(r"\| (RNN|GRU|LSTM) ", line)]
    assert len(rows) == 2 * len(names())  # the run's table, and the comparison's
    assert all("| 1.00 |" in row for row in rows[len(names()) :])
    assert "**geometric mean of the nine**" in done.stdout


def test_the_other_sections_run_and_are_reported(tmp_path):
    for library in ("torch", "jax"):
        pytest.importorskip(library)
    out = tmp_path / "run.json"
    sections = ["training", "step", "window", "torch", "jax", "profile", "symbolic", "startup"]
    lines = measured(out, *sections)["lines"]
    assert [line for line in lines if "skipped" in line] == []
    assert list(dict.fromkeys(line["section"] for line in lines)) == sections
    done = script("report.py", out)
    assert done.returncode == 0, done.stderr
    assert "| GRU 12 @ 50%, batch 16 |" in done.stdout
    assert all(f"## {section}\n" in done.stdout for section in sections[1:])
    trained = [line for line in lines if line["section"] == "training"]
    assert {line["method"] for line in trained} == {"snap-1", "bptt", "jax", "torch"}
    assert all(line["nanoseconds_per_weight"] > 0 for line in trained)


@pytest.mark.skipif(find_spec("braintrace") is None, reason="braintrace is not installed")
def test_braintrace_has_our_gradients():
    done = script("braintrace_step.py", "--toy")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["n"], line["method"]) for line in lines] == [
        (2, "ours"), (2, "theirs"), (2, "exact"), (None, "ours"), (None, "exact"), (2, "ours"),
        (2, "theirs"),
    ]  # fmt: skip
    assert all(line["ratio"] > 0 and line["bytes"] >= line["influence_bytes"] for line in lines)
    errors = [line["error"] for line in lines]
    assert errors[2] is None  # exact RTRL is not SnAp-2
    assert all(0 < error < 1e-12 for error in (errors[1], errors[4], errors[6]))


def test_torch_memory_is_flat():
    pytest.importorskip("torch")
    done = script("torch_step.py", "--memory", 4000)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["growth"] < 2**22  # a kept step of this net is 5 kB: 3600 would be 18 MB
    assert line["objects_growth"] < 50


def test_cosines_of_windows_are_those_of_the_sketch():
    """Two draws of GRU 64 @ 93.75%, gain 1, T = 8, as the dense masked recursion had them."""
    done = script("cosines.py", "--toy")
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(line) for line in done.stdout.splitlines()]
    expected = {
        "snap:1": 0.907, "snap:2": 0.989, "bptt:T": 0.971, "snap:1@T": 0.994, "snap:2@T": 0.999,
    }  # fmt: skip
    for name, cosine in expected.items():
        assert abs(line[name] - cosine) < 0.01, name


def test_whole_steps_are_compared():
    done = script("step.py", "--toy")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["what"] for line in lines] == [
        "overhead", "overhead", *3 * ["SnAp-1 over our BPTT"], *4 * ["SnAp-1 over memory"],
    ]  # fmt: skip
    assert all(line["step_us"] > 0 for line in lines)
    assert all(line["ratio"] > 0 for line in lines[2:5])
    for often, seldom in (lines[5:7], lines[7:]):
        assert often["update_every"] == 1 < seldom["update_every"]
        assert often["bytes_per_weight"] > seldom["bytes_per_weight"] > 0
    assert all(0 < line["share_of_bandwidth"] < 1 for line in lines[5:])


def test_stacks_are_compared():
    done = script("stack.py", "--toy")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["what"] for line in lines] == [*3 * ["counted"], "apart", "cosines"]
    assert all(line["ratio"] > 0 for line in lines[:4])
    assert lines[4]["RTRL, across"] == 1


def test_the_table_of_methods_is_made():
    done = script("which.py", "--toy")
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| GRU")]
    assert len(rows) == 2
    for _, *methods, take in rows:
        assert methods[-1].startswith(" 1.000")  # RTRL's is the exact gradient
        assert take.strip() != "none of them"


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


def test_what_does_not_fit_is_named(tmp_path):
    arguments = ["--limit", "0.000001", "--against", "scipy", "numpy"]
    run = measured(tmp_path / "run.json", "product", "--workloads", "rnn-128-n2", *arguments)
    *absent, ours = run["lines"]
    assert ours["method"] == "panels"
    assert [line["method"] for line in absent] == ["scipy", "numpy"]
    assert all("GiB" in line["skipped"] for line in absent)


def test_a_contestant_that_dies_is_named(monkeypatch):
    monkeypatch.syspath_prepend(str(PERF))
    import run

    peer = run.Peer("nobody")
    with pytest.raises(run.DiedError, match="its process ended with status 1"):
        peer.ask("prepare", workload="rnn-128-n2", toy=True, limit=1e9)
    peer.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["product", "--workloads", "rnn-7"], "no workload 'rnn-7'"),
        (["produce"], "no section 'produce'"),
    ],
)
def test_unknown_names_are_named(arguments, message, tmp_path):
    done = script("run.py", *arguments, "--out", tmp_path / "run.json")
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_foreign_file_is_no_run(tmp_path):
    (tmp_path / "other.json").write_text("[]")
    done = script("report.py", tmp_path / "other.json")
    assert done.returncode != 0
    assert "must be a file of perf/run.py" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_living_masks_buy_is_kept_and_gone_on_with(tmp_path):
    pytest.importorskip("matplotlib")
    text, picture = tmp_path / "text", tmp_path / "living.png"
    text.write_bytes(bytes(range(65, 91)) * 400)
    given = ["--text", text, "--out", tmp_path, "--toy", "--picture", picture]
    done = script("living.py", *given, "--seeds", 1, "--only", "SnAp-1")
    assert done.returncode == 0, done.stderr
    done = script("living.py", *given, "--seeds", 2, "--only", "SnAp-1", "SnAp-1, RigL")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.partition("| --- |")[0].splitlines()) == 3 + 1  # one had been run
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| SnAp")]
    assert [cells[0] for cells in rows] == ["| SnAp-1", "| SnAp-1, RigL"]
    assert rows[0][1] == rows[1][1]  # equal weights
    assert "SnAp-1, RigL ahead of SnAp-1: " in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_rewire_is_taken_apart():
    done = script("rewire.py", "--toy")
    assert done.returncode == 0, done.stderr
    *times, last = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in times[-2:]] == ["J carried over", "learner.rewire"]
    assert all(float(line.split()[-2]) > 0 for line in times)
    assert 0 < int(last.split()[-3]) < 64
