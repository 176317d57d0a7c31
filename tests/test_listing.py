"""`sparsegrad runs`: what lies below a folder, whoever put it there; `warm` and who says what."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from numba.core import event

from sparsegrad.cli.main import main
from sparsegrad.runs.folder import Folder
from sparsegrad.runs.listing import DAMAGED, RUNNING, STOPPED, Listed, list_runs
from sparsegrad.system.compiling import Compiling

TRAIN = ["train", "copy", "--units", "8", "--method", "snap:1", "--tokens", "5k", "--batch", "2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert main([*TRAIN, "--out", str(folder / "deep" / "done")]) == 0
    return folder


def copied(runs: Path, name: str) -> Path:
    folder = runs / name
    folder.mkdir()
    for path in (runs / "deep" / "done").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def states(folder: Path) -> dict[str, str]:
    return {run.path: run.state for run in list_runs(folder)}


def test_a_run_is_listed_as_it_ended(runs: Path, capsys: Any) -> None:
    last = json.loads((runs / "deep" / "done" / "metrics.jsonl").read_text().splitlines()[-1])
    (found,) = [run for run in list_runs(runs) if run.path == "deep/done"]
    score = f"length {last['length']:.4g}"
    assert found == Listed("deep/done", "copy", "snap:1", f"{last['tokens']:,}", score, "finished")
    assert main(["runs", str(runs)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ["run", *Listed._fields[1:]]
    assert "deep/done" in out
    assert err == ""


def test_a_run_that_goes_on_or_was_killed_says_so(runs: Path) -> None:
    name = "going"
    folder = copied(runs, name)
    held = Folder(folder)  # as a run of another process holds it
    assert states(runs)[name] == RUNNING
    os.close(held._lock)
    held._lock = os.open(os.devnull, os.O_RDONLY)  # what is closed at its end
    assert states(runs)[name] == "finished"
    with (folder / "metrics.jsonl").open("a") as file:  # reports after the summary: gone on, killed
        file.write('{"tokens": 999999, "loss": 1.0, "seconds": 9.0}\n')
    assert states(runs)[name] == STOPPED
    (folder / "summary.json").unlink()
    assert states(runs)[name] == STOPPED


def test_strangers_are_passed_over_and_damage_is_told(runs: Path, capsys: Any) -> None:
    folder = copied(runs, "torn")
    (folder / "metrics.jsonl").write_bytes(b"\xff\x00 no report\n")
    strangers = runs / "strangers"
    strangers.mkdir()
    (strangers / "config.json").write_text('{"model": "bert"}')
    for name, content in (("list", "[]"), ("half", '{"sparsegrad": '), ("bytes", "\x00\x01")):
        (strangers / name).mkdir()
        (strangers / name / "config.json").write_text(content)
    (strangers / "round").symlink_to(runs, target_is_directory=True)
    (strangers / "folder").mkdir()
    (strangers / "folder" / "config.json").mkdir()
    (strangers / "pipe").mkdir()
    os.mkfifo(strangers / "pipe" / "config.json")  # nobody writes: a reader would wait for ever
    found = states(runs)
    assert found["torn"] == DAMAGED
    assert not [name for name in found if name.startswith("strangers")]
    assert main(["runs", str(strangers)]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"no runs in {strangers}\n")


def test_a_folder_that_is_not_there_is_refused_in_a_line(tmp_path: Path, capsys: Any) -> None:
    assert main(["runs", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_warm_says_what_it_did_and_keeps_nothing(tmp_path: Path, capsys: Any, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    assert main(["warm", *TRAIN[1:6]]) == 0  # compiled by the runs above
    out = capsys.readouterr().out
    assert "copy, GRU, 8 units" in out
    assert "kept in" in out
    assert main(["warm", *TRAIN[1:6]]) == 0
    assert "nothing to compile" in capsys.readouterr().out
    assert not [*tmp_path.iterdir()]
    assert main(["warm", "copy", "--units", "0"]) == 2
    assert capsys.readouterr().err == "sparsegrad: units must be at least 1, got 0\n"


CODE = (
    "import numpy as np, sparsegrad.system.compiling\n"
    "from sparsegrad.kernels.vectors.finite import all_finite\n"
    "all_finite(np.ones(3))\n"
)


def test_compiling_is_told_on_a_terminal_alone(tmp_path: Path) -> None:
    def stderr(name: str, terminal: bool) -> str:
        env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / name)}
        ours, theirs = pty.openpty() if terminal else os.pipe()
        done = subprocess.run([sys.executable, "-c", CODE], stderr=theirs, env=env, check=False)
        os.close(theirs)
        told = b""
        try:
            while piece := os.read(ours, 4096):
                told += piece
        except OSError:  # of a terminal whose other end is closed
            pass
        os.close(ours)
        assert done.returncode == 0, told
        return told.decode()

    assert stderr("piped", False) == ""
    told = stderr("shown", True)
    assert "compiling kernels, once: 0 done, 0 s" in told
    assert "compiling kernels, once: 1 done" in told
    assert told.endswith("\r\x1b[K")  # and the line is gone
    assert stderr("shown", True) == ""  # kept from the first time


def test_what_others_compile_is_not_ours() -> None:
    said: list[str] = []
    heard = Compiling(said.append)

    def ours() -> None: ...

    def theirs() -> None: ...

    ours.__module__, theirs.__module__ = "sparsegrad.kernels.x", "sparsegrades.y"
    for function in (ours, theirs):
        dispatcher = type("Dispatcher", (), {"py_func": staticmethod(function)})()
        data = {"dispatcher": dispatcher}
        for status in event.EventStatus:
            heard.notify(event.Event("numba:compile", status, data))
    assert heard.count == 1
    assert [line.split(",")[1] for line in said if line] == [" once: 0 done", " once: 1 done"]
    assert said[-1] == ""
