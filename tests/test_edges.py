"""At the edges: streams that are closed or full, pictures that cannot be, paths and alphabets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from command_line import run

from sparsegrad.cli.pictures import drawn

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="processes of their own")
NET = ["--units", "8", "--sparsity", "50%", "--batch", "2", "--method", "snap:1"]
TRAIN = ["train", "copy", *NET, "--tokens", "60"]
COUNT = ["profile", "--units", "8", "--sparsity", "0.5", "--dry-run"]
COMMAND = [sys.executable, "-m", "sparsegrad.cli"]


def shell(line, *arguments, **environment):
    """Run a line of the shell in which "$@" is the command."""
    return subprocess.run(
        ["bash", "-c", line, "-", *COMMAND, *map(str, arguments)],
        capture_output=True, timeout=300, env=os.environ | environment,
    )  # fmt: skip


# streams


@pytest.mark.parametrize("line", ['"$@" >&-', '"$@" 2>&-', '"$@" <&-', '"$@" >&- 2>&- <&-'])
def test_closed_streams_are_no_error(tmp_path, line):
    done = shell(line, *TRAIN, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr + done.stdout
    assert b"wrote" not in done.stdout
    for path in (tmp_path / "run").iterdir():  # no file got a stream's number
        assert b"copy finished" not in path.read_bytes()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"


def test_a_full_disk_behind_stdout_ends_no_run(tmp_path):
    done = shell('"$@" >/dev/full', *TRAIN, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        b"sparsegrad: cannot write to stdout: No space left on device"
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
    assert (tmp_path / "run" / "curve.png").exists()


@pytest.mark.parametrize(
    "line", ['"$@" 2>/dev/full', '"$@" 2> >(exit)', '"$@" >/dev/null 2>&1 | :']
)
def test_a_stderr_that_nobody_can_read_ends_no_run(tmp_path, line):
    done = shell(line, *TRAIN, "--out", tmp_path / "run")
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "run" / "curve.png").exists()


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ('"$@" >/dev/full', ["--help"]),
        ('"$@" >/dev/full', [*COUNT, "--format", "json"]),
        ('"$@" >&-', COUNT),
        ('"$@" 2>&-', ["--bad"]),
        ('"$@" 2>/dev/full', COUNT),
    ],
)
def test_no_command_leaves_a_traceback(line, arguments):
    done = shell(line, *arguments)
    assert done.returncode in (0, 2), done.stderr
    assert b"Traceback" not in done.stderr + done.stdout
    assert b"Exception" not in done.stderr + done.stdout
    if done.returncode == 2 and "2>" not in line:
        assert done.stderr.startswith(b"sparsegrad: ")
        assert done.stderr.count(b"\n") == 1


# pictures


SETUPS = {
    "a notebook's backend": ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, ""),
    "no backend at all": ({"MPLBACKEND": "nonsense"}, ""),
    "LaTeX": ({}, "text.usetex: True\n"),
    "a font that is not there": ({}, "font.family: No Such Font\nmathtext.fontset: cm\n"),
    "a bad value": ({}, "font.size: enormous\nno.such.key: 1\n"),
    "no text": ({}, "\xff\xfe\x00"),
    "a dark look": ({}, "axes.facecolor: black\nfigure.dpi: 3000\nsavefig.dpi: 3000\n"),
}


@pytest.mark.parametrize("setup", SETUPS)
def test_whatever_matplotlib_is_set_up_to_do_the_result_is_there(tmp_path, setup):
    environment, settings = SETUPS[setup]
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "matplotlibrc").write_bytes(settings.encode("latin-1"))
    environment = environment | {"MATPLOTLIBRC": str(folder)}
    done = shell('"$@"', *COUNT, "--format", "json", "--out", tmp_path / "out", **environment)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 4
    assert done.stderr.count(b"\n") <= 2
    assert b"Traceback" not in done.stderr
    picture = tmp_path / "out" / "profile.png"
    assert picture.exists() != (b"no picture: " in done.stderr)
    if picture.exists():
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 500_000
    if setup not in ("no text",):
        assert picture.exists(), done.stderr


@pytest.mark.parametrize(
    "error",
    [RuntimeError("LaTeX\nwas " + "not able " * 100), ValueError("x"), KeyError("font"),
     MemoryError(), RecursionError("deep"), OSError(28, "No space left", "curve.png"),
     ModuleNotFoundError("No module named 'PIL'", name="PIL"), AssertionError()],
    ids=repr,
)  # fmt: skip
def test_what_a_picture_raises_is_a_line(capsys, error):
    def draw():
        raise error

    assert not drawn(draw)
    _, err = capsys.readouterr()
    assert err.startswith("sparsegrad: no picture: ")
    assert err.count("\n") == 1
    assert len(err) < 400


def test_a_passive_comparison_without_a_gradient_is_no_error(tmp_path, capsys):
    np.save(tmp_path / "data.npy", np.zeros((300, 2), "float32"))
    status, out, err = run(
        capsys, "compare", "stream", "--passive", "--data", tmp_path / "data.npy", "--methods",
        "rflo", "--method", "rflo", "--units", 4, "--sparsity", 0, "--tokens", 50,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert status == 0, err
    assert out.startswith("method")
    assert "Traceback" not in err


# folders that are not ours


STRANGERS = (
    "metrics.jsonl", "summary.json", "curve.png", "run.json", "profile.csv", "config.json",
    ".summary.json.d/x", "compare.csv", "passive.json", "runs/events", "my thesis.tex",
)  # fmt: skip


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", STRANGERS)
def test_no_command_writes_over_what_is_not_ours(tmp_path, capsys, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"a": "stranger"}')
    before = tree(tmp_path)
    for arguments in (
        TRAIN, [*TRAIN, "--resume"], COUNT, ["compare", "copy", *NET[:-2], "--methods", "rflo"],
        ["compare", "copy", *NET[:-2], "--passive", "--methods", "rflo"],
    ):  # fmt: skip
        status, _, err = run(capsys, *arguments, "--tokens", 60, "--out", tmp_path) if (
            arguments is not COUNT) else run(capsys, *arguments, "--out", tmp_path)  # fmt: skip
        assert status == 2
        assert err.count("\n") == 1
        assert str(tmp_path) in err
        assert tree(tmp_path) == before
    assert not list(tmp_path.glob(".lock"))


def test_a_profile_is_written_again_where_a_profile_was(tmp_path, capsys):
    for _ in range(2):
        assert run(capsys, *COUNT, "--out", tmp_path)[0] == 0
    (tmp_path / "notes.txt").write_text("mine")
    assert run(capsys, *COUNT, "--out", tmp_path)[0] == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"


# the command line


@pytest.mark.parametrize(
    "arguments",
    [
        ["profile", "--inputs=--"], ["profile", "--n=--"], ["profile", "--seed", "1e3"],
        ["profile", "--units", "9" * 5000], ["profile", "--budget", "1e9x"],
        [*TRAIN, "--units", "1e300"], [*TRAIN, "--seed", "-1"], [*TRAIN, "--seed", "1e30"],
        [*TRAIN, "--tokens", "nan"], [*TRAIN, "--report", "1e19"], [*TRAIN, "--rate", "1e400"],
        [*TRAIN, "--units", "９" * 40], [*TRAIN, "--config", "/dev/zero"],
        ["train", "chars", "--text", "/dev/stdin"], ["train", "stream", "--data", "/dev/urandom"],
        [*TRAIN, "--out", "/dev/null"], [*TRAIN, "--out", "/proc"], [*TRAIN, "--threads", "-1"],
        ["train", "copy", "--hidden", "1e18"], [*TRAIN, "--out", "x" * 300],
        [*TRAIN, "--out", "a\0b"], ["train", "chars", "--text", "a\0b"],
    ],
    ids=lambda arguments: " ".join(arguments)[-40:],
)  # fmt: skip
def test_what_cannot_be_is_one_line(capsys, arguments):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("sparsegrad: ")
    assert err.count("\n") == 1


def test_a_long_seed_is_not_rounded(tmp_path, capsys):
    seed = 2**61 + 1
    assert run(capsys, *TRAIN, "--seed", seed, "--out", tmp_path / "run")[0] == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == seed


# what was right stays right


ODD = [
    "a b",
    "ä ö",
    "-x",
    "new\nline",
    "'quoted'",
    "#%&*?[a]",
    "x" * 200,
    "\udcff\udcfe",
    ".hidden",
]


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_odd_paths(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *TRAIN, f"--out={name}")
    assert (status, "copy finished" in out) == (0, True), err
    status, out, err = run(capsys, "train", "copy", f"--out={name}", "--resume", "--tokens", 90)
    assert (status, "copy finished" in out) == (0, True), err
    assert (Path(name) / "curve.png").exists()
    table = Path(f"{name[:190]}.csv")
    table.write_text("1,2\n3,4\n" * 20)
    status, out, err = run(capsys, "train", "stream", *NET, f"--data={table}")
    assert (status, "stream finished" in out) == (0, True), err


@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "cp1252"},
     {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-16"}, {"LC_ALL": "tr_TR.UTF-8"}],
    ids=str,
)  # fmt: skip
def test_other_locales_and_code_pages(tmp_path, environment):
    out = tmp_path / "Ölçüm"
    done = shell('"$@"', "compare", "copy", *NET[:-2], "--methods", "rflo", "--seeds", "0",
                 "--tokens", 60, "--out", out, **environment)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert "±" in json.dumps("±", ensure_ascii=False)
    rows = json.loads((out / "compare.json").read_text())["runs"]
    assert [row["status"] for row in rows] == ["finished"]


def test_without_asserts_and_docstrings(tmp_path):
    done = subprocess.run(
        [sys.executable, "-OO", "-m", "sparsegrad.cli", *TRAIN, "--out", tmp_path / "run"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "copy finished" in done.stdout


def test_a_cpu_without_any_extension_learns_the_same(tmp_path):
    """The code for a generic CPU is another; the run it makes is, in float64, the same."""
    losses = []
    for name, environment in (("own", {}), ("generic", {"NUMBA_CPU_NAME": "generic"})):
        cache = {} if name == "own" else {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        done = shell('"$@"', *TRAIN, "--dtype", "float64", "--out", tmp_path / name,
                     **environment, **cache)  # fmt: skip
        assert done.returncode == 0, done.stderr
        losses.append(json.loads((tmp_path / name / "summary.json").read_text())["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_processes_that_fill_one_cold_cache_together(tmp_path):
    code = (
        "import numpy as np, sparsegrad;"
        "print(sparsegrad.reach(np.eye(4) + np.eye(4, k=1), np.eye(4), 2).indices.tolist())"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    children = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]  # fmt: skip
    said = [child.communicate(timeout=300) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], said
    assert len(set(said)) == 1
    assert said[0][1] == ""
