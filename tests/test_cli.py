"""The command line: formats, exit codes, one-line errors, and results that are not lost."""

import csv
import io
import json
import os
import pty
import shutil
import subprocess
import sys

import numba
import numpy as np
import pytest
from command_line import run

import sparsegrad
from sparsegrad.cells.structure import structure
from sparsegrad.profiling import cost_model as prediction
from sparsegrad.profiling import profile as profiling
from sparsegrad.profiling import timing
from sparsegrad.registry import CELLS
from sparsegrad.symbolic.pattern import reach
from sparsegrad.system.quantities import parse_bytes

KEYS = (
    "cell units sparsity n weights entries density multiply_adds bytes seconds gflops "
    "gbytes_per_second roofline_fraction vs_bptt vs_rtrl"
).split()
SMALL = ["profile", "--units", "10", "16", "--sparsity", "0.5", "0.8", "--inputs", "3"]
COUNTED = [*SMALL, "--dry-run"]


@pytest.fixture(autouse=True)
def _short_samples(monkeypatch):
    monkeypatch.setattr(profiling, "POINT_SECONDS", 0.001)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0001)
    monkeypatch.setattr(prediction, "PROBES", prediction.PROBES[:8])
    monkeypatch.setattr(prediction, "PROBE_SECONDS", 0.001)


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "sparsegrad.cli", *arguments],
        capture_output=True, text=True, timeout=300, **options,
    )  # fmt: skip


def test_json_has_the_promised_keys(capsys):
    status, out, err = run(capsys, *SMALL, "--n", "1", "2", "rtrl", "--format", "json")
    assert (status, err) == (0, "")
    points = json.loads(out)
    assert len(points) == 12
    for point in points:
        assert list(point)[: len(KEYS)] == KEYS
        assert set(point) - set(KEYS) == {
            "seconds_low", "seconds_high", "predicted_seconds", "note", "window",
            "step_multiply_adds", "step_vs_bptt", "step_seconds", "bptt_seconds",
            "step_time_vs_bptt", "ranks", "rank_entries", "rank_bytes", "exchanged_bytes",
            "exchange_seconds", "alone_seconds", "rank_seconds", "rank_speedup",
        }  # fmt: skip
        assert point["ranks"] is None
        assert point["predicted_seconds"] > 0
        assert point["seconds"] > 0
        assert point["roofline_fraction"] > 0
    assert [point["n"] for point in points[:3]] == [1, 2, "rtrl"]
    assert points[2]["vs_rtrl"] == 1


def test_dry_run_equals_reach(capsys):
    status, out, _ = run(capsys, *COUNTED, "--batch", 2, "--seed", 5, "--cells", "lstm,rnn",
                         "--n", "2,rtrl", "--dtype", "float64", "--format", "json")  # fmt: skip
    assert status == 0
    points = json.loads(out)
    assert len(points) == 16
    for point in points:
        drawn = structure(point["cell"], point["units"], point["sparsity"], 3, seed=5)
        n = None if point["n"] == "rtrl" else point["n"]
        cost = reach(drawn.dynamics, drawn.immediate, n).cost(2, "float64")
        assert [point["entries"], point["multiply_adds"], point["bytes"]] == list(cost)
        assert point["seconds"] is None


def test_csv_is_the_same_data(capsys):
    _, text, _ = run(capsys, *COUNTED, "--format", "csv")
    _, data, _ = run(capsys, *COUNTED, "--format", "json")
    rows = list(csv.DictReader(io.StringIO(text)))
    points = json.loads(data)
    assert len(rows) == len(points) == 16
    for row, point in zip(rows, points, strict=True):
        assert row == {key: "" if value is None else str(value) for key, value in point.items()}


def test_table_in_a_pipe_is_plain(capsys):
    status, out, err = run(capsys, *SMALL, "--n", "1,2")
    assert (status, err) == (0, "")
    assert out.isascii()
    assert "\x1b" not in out
    lines = out.splitlines()
    heading = next(i for i, line in enumerate(lines) if line.split()[:2] == ["cell", "units"])
    width = len(lines[heading].split())
    assert width == 17
    table = lines[heading + 1 : heading + 9]
    assert all(len(line.split()) == width for line in table)
    assert table[1].split()[:4] == ["gru", "10", "50%", "2"]
    assert "growth exponents" in lines


def test_defaults_are_the_documented_sweep(capsys):
    status, out, _ = run(capsys, "profile", "--dry-run", "--format", "json", "--units", "32")
    points = json.loads(out)
    assert status == 0
    assert [point["n"] for point in points[:4]] == [1, 2, 3, "rtrl"]
    assert sorted({point["sparsity"] for point in points}) == [0.75, 0.9375, 0.984375]
    assert {point["cell"] for point in points} == {"gru"}


def test_percent_and_commas_are_understood(capsys):
    arguments = ["profile", "--dry-run", "--format", "json", "--units", "8,9", "12"]
    _, out, _ = run(capsys, *arguments, "--sparsity", "75%,0.9", "--n", "RTRL", "--cells", "GRU")
    points = json.loads(out)
    assert {(p["units"], p["sparsity"]) for p in points} == {
        (units, sparsity) for units in (8, 9, 12) for sparsity in (0.75, 0.9)
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [("16GiB", 16 * 2**30), ("1.5 MiB", 1.5 * 2**20), ("2GB", 2e9), ("500k", 5e5), ("1e9", 1e9)],
)
def test_budgets_are_read(text, expected):
    assert parse_bytes("budget", text) == expected


def test_budget_marks_what_does_not_fit(capsys):
    status, out, _ = run(capsys, *SMALL, "--n", "1,rtrl", "--budget", "2KiB", "--format", "json")
    assert status == 0
    points = json.loads(out)
    assert {point["note"] for point in points} == {None, "over budget"}
    for point in points:
        assert (point["seconds"] is None) == (point["bytes"] > 2048)
        assert (point["note"] == "over budget") == (point["bytes"] > 2048)
    _, table, _ = run(capsys, *SMALL, "--n", "1,rtrl", "--budget", "2KiB")
    assert "over-budget" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "0"], "n must be at least 1, or rtrl, got 0"),
        (["--n", "two"], "n must be a whole number, got 'two'"),
        (["--units", "0"], "units must be between 1 and 2**30, got 0"),
        (["--units", "1.5"], "units must be a whole number, got '1.5'"),
        (["--sparsity", "1"], "sparsity must be at least 0 and below 1, got 1.0"),
        (["--sparsity", "most"], "sparsity must be a number such as 0.001, 75% or 10M, got 'most'"),
        (["--cells", "elman"], f"cells must be of {', '.join(CELLS)}, got elman"),
        (["--cells", ","], "cells must name at least one value, got none"),
        (["--dtype", "float16"], "dtype must be of float32, float64, got float16"),
        (["--gate-masks", "some"], "gate-masks must be of independent, shared, got some"),
        (["--threads", "0"], "threads must be at least 1, got 0"),
        (["--batch", "-1"], "batch must be at least 1, got -1"),
        (["--window", "0"], "window must be at least 1, got 0"),
        (["--window", "8,x"], "window must be a whole number, got 'x'"),
        (["--window", "2.5"], "window must be a whole number, got '2.5'"),
        (["--window", ","], "window must name at least one value, got none"),
        (["--seed", "x"], "seed must be a whole number, got 'x'"),
        (["--budget", "lots"], "budget must be a number of bytes such as 16GiB or 500MB, got"),
        (["--budget", "1..2GB"], "budget must be a number of bytes such as 16GiB or 500MB, got"),
        (["--format", "xml"], "argument --format: invalid choice: 'xml'"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_bad_arguments_are_one_line(capsys, arguments, message):
    status, out, err = run(capsys, "profile", "--dry-run", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("sparsegrad: ")
    assert err.count("\n") == 1
    assert message in err


def test_no_command_and_unknown_command(capsys):
    for arguments in ([], ["fly"]):
        status, out, err = run(capsys, *arguments)
        assert (status, out) == (2, "")
        assert err.startswith("sparsegrad: ")
        assert err.count("\n") == 1


def test_version_and_help(capsys):
    status, out, _ = run(capsys, "--version")
    assert status == 0
    assert out.startswith("sparsegrad ")
    assert out.split()[1][0].isdigit()
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert "profile" in out
    status, out, _ = run(capsys, "profile", "--help")
    assert status == 0
    assert "examples:\n  sparsegrad profile\n" in out


def test_out_writes_data_and_picture(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "new" / "results"
    status, out, err = run(capsys, *SMALL, "--n", "1,2,rtrl", "--format", "json", "--out", folder)
    assert status == 0
    assert err.startswith("wrote ")
    assert sorted(path.name for path in folder.iterdir()) == [
        "profile.csv", "profile.json", "profile.png", "run.json",
    ]  # fmt: skip
    assert (folder / "profile.json").read_text() == out
    assert (folder / "profile.png").read_bytes().startswith(b"\x89PNG")
    about = json.loads((folder / "run.json").read_text())
    assert about["sweep"]["n"] == [1, 2, "rtrl"]
    assert {fit["against"] for fit in about["fits"]} == {"multiply-adds", "units", "density", "n"}


def test_windows_are_in_the_table_the_csv_and_a_picture(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    status, out, err = run(capsys, *COUNTED, "--n", "1,rtrl", "--window", "1,8", "--out", tmp_path)
    assert status == 0
    lines = out.splitlines()
    heading = next(i for i, line in enumerate(lines) if line.split()[:2] == ["cell", "units"])
    assert lines[heading].split()[3:] == ["n", "T", "weights", "entries", "mult-adds", "xBPTT"]
    assert [line.split()[3:5] for line in lines[heading + 1 : heading + 5]] == [
        ["1", "1"], ["1", "8"], ["rtrl", "1"], ["rtrl", "8"],
    ]  # fmt: skip
    rows = list(csv.DictReader(io.StringIO((tmp_path / "profile.csv").read_text())))
    assert len(rows) == 16
    assert [row["window"] for row in rows[:2]] == ["1", "8"]
    assert all(float(row["step_multiply_adds"]) > 0 for row in rows)
    assert float(rows[3]["step_vs_bptt"]) < float(rows[2]["step_vs_bptt"])
    assert (tmp_path / "windows.png").read_bytes().startswith(b"\x89PNG")
    assert "windows.png" in err
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["sweep"]["windows"] == [1, 8]
    assert all(fit["points"] <= 8 for fit in about["fits"])  # no update is counted twice


def test_unwritable_out_does_not_lose_the_result(capsys, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    for folder in (blocked, blocked / "below"):
        status, out, err = run(capsys, *COUNTED, "--format", "json", "--out", folder)
        assert status == 2
        assert len(json.loads(out)) == 16
        assert err.startswith(f"sparsegrad: cannot write to --out {folder}: ")
        assert err.count("\n") == 1


def test_without_matplotlib_the_data_is_written(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "sparsegrad.figures.profile", raising=False)
    status, _, err = run(capsys, *COUNTED, "--out", tmp_path)
    assert status == 0
    assert err.splitlines()[0] == (
        "sparsegrad: no matplotlib, so no picture: pip install 'sparsegrad-rtrl[plot]'"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "profile.csv", "profile.json", "run.json",
    ]  # fmt: skip


def test_without_rich_a_terminal_gets_a_plain_table(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, out, err = run(capsys, *COUNTED)
    assert status == 0
    assert err == "sparsegrad: no rich, so a plain table: pip install 'sparsegrad-rtrl[cli]'\n"
    assert "gru" in out


def test_interruption_keeps_the_finished_points(capsys, monkeypatch):
    finished = profiling.profile

    def interrupted(*arguments):
        points = finished(*arguments)
        yield next(points)
        yield next(points)
        raise KeyboardInterrupt

    monkeypatch.setattr(profiling, "profile", interrupted)
    status, out, err = run(capsys, *COUNTED, "--format", "json")
    assert status == 130
    assert len(json.loads(out)) == 2
    assert err == "sparsegrad: interrupted; stopped after 2 of 16 points\n"


def test_a_net_that_does_not_fit_keeps_the_finished_points(capsys):
    arguments = ["profile", "--dry-run", "--format", "json", "--units", "10", "100000000"]
    status, out, err = run(capsys, *arguments, "--sparsity", "0.5", "--n", "1")
    assert status == 2
    assert [point["units"] for point in json.loads(out)] == [10]
    assert err.startswith("sparsegrad: a mask must fit in the available memory of ")
    assert err.endswith("; stopped after 1 of 2 points\n")
    assert err.count("\n") == 1
    status, out, err = run(capsys, *arguments[:-2], "100000000", "--sparsity", "0.5")
    assert (status, out) == (2, "")
    assert err.startswith("sparsegrad: a mask must fit in the available memory of ")


def test_a_closed_pipe_is_no_error(tmp_path):
    arguments = " ".join([*COUNTED, "--out", str(tmp_path)])
    script = f"{sys.executable} -m sparsegrad.cli {arguments} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout == "0\n"
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr
    assert (tmp_path / "profile.json").exists()


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_gets_a_table_that_fits(columns):
    pytest.importorskip("rich")
    main, side = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    child = subprocess.Popen(
        [sys.executable, "-m", "sparsegrad.cli", *COUNTED, "--sparsity", "0.984375"],
        stdout=side, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    os.close(side)
    seen = b""
    while True:
        try:
            block = os.read(main, 65536)
        except OSError:  # the other end is closed: Linux says EIO, others the empty block
            break
        if not block:
            break
        seen += block
    os.close(main)
    _, errors = child.communicate(timeout=60)
    assert (child.returncode, errors) == (0, b"")
    text = seen.decode()
    assert "\x1b[" in text
    assert "…" not in text
    assert "gru 16 @ 98.44%" in text


def test_help_loads_nothing_heavy():
    code = (
        "import sys, sparsegrad.cli.main as c\n"
        "try: c.main(['profile', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'matplotlib', 'rich'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_module_runs_as_the_command_does():
    done = command("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sparsegrad ")


@pytest.mark.parametrize("module", ["sparsegrad", "sparsegrad.cli"])
def test_the_package_runs_as_a_module(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, cwd="/"
    )
    assert (done.stdout, done.stderr) == (f"sparsegrad {sparsegrad.__version__}\n", "")


def test_info_says_what_a_report_of_a_fault_needs(capsys, monkeypatch, tmp_path):
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.nbc").write_bytes(bytes(3 * 2**20))
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("sparsegrad.system.machine.available_memory", lambda: 3 * 2**30)
    status, out, err = run(capsys, "info")
    assert (status, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["sparsegrad"] == sparsegrad.__version__
    assert f"numba {numba.__version__}" in lines["needs"]
    assert f"numpy {np.__version__}" in lines["needs"]
    assert lines["vectors"].split()[0] in ("64", "128", "256", "512")
    assert lines["threads"].startswith(f"{numba.get_num_threads()}, ")
    assert lines["memory"] == "3.00 GiB available"
    assert lines["cache"] == f"{tmp_path}: 1 files, 3.00 MiB"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert run(capsys, "info") == (0, out, "")


COMPLETIONS = [
    (["pro"], "profile"),
    (["profile", "--cells", ""], " ".join(CELLS)),
    (["profile", "--cells", "gru", "ls"], "lstm"),
    (["train", "co"], "copy"),
    (["train", "copy", "--opt"], "--optimizer"),
    (["train", "copy", "--optimizer", "adam"], "adam adamw"),
    (["compare", "copy", "--methods", "rflo", "u"], "uoro"),
    (["train", "copy", "--config", "pla"], "plan.toml"),
    (["train", "copy", "--out", ""], "runs"),
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_flags_words_and_files(tmp_path, capsys):
    pytest.importorskip("shtab")
    status, script, _ = run(capsys, "--print-completion", "bash")
    assert status == 0
    (tmp_path / "plan.toml").touch()
    (tmp_path / "runs").mkdir()
    tries = [
        f"COMP_WORDS=(sparsegrad {' '.join(repr(word) for word in words)}); "
        f"COMP_CWORD={len(words)}; COMPREPLY=(); "
        f"$complete sparsegrad {words[-1]!r} {['sparsegrad', *words][-2]!r}; echo ${{COMPREPLY[*]}}"
        for words, _ in COMPLETIONS
    ]
    finds = "complete=$(complete -p sparsegrad | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
    done = subprocess.run(
        ["bash", "-c", "\n".join([script, finds, *tries])],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines() == [expected for _, expected in COMPLETIONS]


def test_completion_without_its_extra_is_one_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    status, out, err = run(capsys, "--print-completion", "bash")
    assert (status, out) == (2, "")
    assert "pip install 'sparsegrad-rtrl[cli]'" in err
    assert err.count("\n") == 1
