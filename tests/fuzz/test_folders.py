"""Run folders with a file changed, and command lines of any words: one line, or as it should be."""

import copy
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from strange import NUMBERS, cases, strange_bytes, strange_json

from sparsegrad.cli import main as cli
from sparsegrad.runs.folder import Folder, read_metrics
from sparsegrad.runs.run import Run, open_run
from sparsegrad.runs.settings import Settings
from sparsegrad.system.tensorfile import read_tensors, write_tensors

TEXT = "The quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 20
NET = {"units": 4, "sparsity": 0.5, "batch": 2, "method": "rflo", "save": 0.0}
WAIT = 60
"""Seconds of a case, at most: nothing hangs."""


@pytest.fixture(autouse=True)
def clock():
    """End a case that hangs."""

    def late(number, frame):
        raise AssertionError("a case took too long")

    old = signal.signal(signal.SIGALRM, late)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each task, half done."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text").write_text(TEXT)
    np.save(folder / "data.npy", np.random.default_rng(0).random((90, 3), np.float32))
    tasks = {
        "copy": {},
        "chars": {"text": str(folder / "text"), "steps": 10},
        "stream": {"data": str(folder / "data.npy"), "steps": 10},
    }
    for task, more in tasks.items():
        settings = Settings(task, tokens=60, report=20, **NET, **more)
        Run(settings, Folder(folder / task)).train()
    return folder


def one_line(error, path):
    text = str(error)
    assert "\n" not in text, text
    assert len(text) < 1200, text
    known = str(path), "--resume must", "settings", "must be the text of the run"
    assert any(words in text for words in known), text


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != ".lock"}


@pytest.mark.parametrize("task", ["copy", "chars", "stream"])
def test_a_run_with_a_file_changed_is_refused_or_goes_on(runs, tmp_path, task):
    names = ["config.json", "metrics.jsonl", "summary.json", "checkpoint.json", "extra"]
    counts = {"refused": 0, "taken": 0}
    for seed in cases(60):
        rng = np.random.default_rng([seed, len(task)])
        out = tmp_path / str(seed)
        shutil.copytree(runs / task, out)
        name = names[rng.integers(len(names))]
        if name == "extra":  # of the checkpoint, with a checksum that fits
            tensors, about = read_tensors(out / "checkpoint.safetensors")
            about["extra"] = strange_json(rng, about["extra"])
            write_tensors(out / "checkpoint.safetensors", tensors, about)
        elif name == "metrics.jsonl" or rng.random() < 0.3:
            (out / name).write_bytes(strange_bytes(rng, (out / name).read_bytes()))
        else:
            content = json.loads((out / name).read_text())
            (out / name).write_text(json.dumps(strange_json(rng, content)))
        before = contents(out)
        signal.alarm(WAIT)
        try:
            settings, folder = open_run({"task": task, "tokens": 80}, out, True)
            run = Run(settings, folder)
        except (ValueError, OSError, MemoryError) as error:
            one_line(error, out)
            counts["refused"] += 1
            assert contents(out) == before  # the file as it was
        else:
            counts["taken"] += 1
            if settings.tokens == 80 and settings.units == 4:
                run.train()
                tokens = [line["tokens"] for line in read_metrics(out / "metrics.jsonl")]
                assert tokens == sorted(set(tokens))
            del run, folder
        shutil.rmtree(out)
    assert counts["refused"] > 10, counts


WORDS = (
    "train", "compare", "profile", "copy", "chars", "stream", "--out", "--resume", "--units",
    "--sparsity", "--method", "--methods", "--rates", "--seeds", "--tokens", "--seconds", "--text",
    "--data", "--config", "--n", "--cells", "--inputs", "--inputs=--", "--format", "json",
    "--dry-run", "--budget", "--passive", "--every", "--jobs", "--steps", "--targets", "--batch",
    "--hidden", "--clip", "--rate", "--seed", "--threads", "--report", "--save", "--crop",
    "--update", "sequence", "--help", "--version", "rnn", "snap:1", "snap:0", "rtrl", "bptt:2",
    "uoro", "1,2", ",", "", " ", "-", "--", "=", "--=", "1", "2", "-1", "0", "1e300", "nan", "75%",
    "10k", "9" * 40, "/dev/null", "/dev/zero", "/", ".", "/proc/self/mem", "\udcff", "\n", "é",
    "a" * 5000, "*", "{}", "@file", "--\0", "１",
)  # fmt: skip


def test_no_command_line_ends_in_a_traceback(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    small = ["--units", "4", "--sparsity", "0.5", "--tokens", "20", "--batch", "1"]
    statuses = set()
    for seed in cases(300):
        rng = np.random.default_rng([seed, 5])
        words = [WORDS[k] for k in rng.integers(len(WORDS), size=rng.integers(0, 7))]
        if rng.random() < 0.8:
            words.insert(0, ["train", "profile"][rng.integers(2)])
        if words[:1] == ["train"] and rng.random() < 0.7:
            words[1:1] = ["copy", *small, "--method", "rflo"]
        elif words[:1] == ["profile"]:
            words += ["--dry-run", "--units", "4", "--n", "1"]
        if "compare" in words[:1] or ("train" in words[:1] and "--tokens" not in words):
            continue  # they would run for long, and start processes
        last = {word: k for k, word in enumerate(words)}
        if any(words[k + 1 : k + 2] != ["20"] for w, k in last.items() if w == "--tokens"):
            continue
        signal.alarm(WAIT)
        try:
            status = cli.main(list(words))
        except SystemExit as leaving:
            status = leaving.code or 0
        out, err = capsys.readouterr()
        assert status in (0, 2), (words, status)
        assert "Traceback" not in out + err, words
        if status == 2:
            assert err.startswith("sparsegrad: "), (words, err)
            assert err.count("\n") <= 2, (words, err)
        statuses.add(status)
    assert statuses == {0, 2}
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_settings_of_any_kind_are_taken_or_refused_in_a_line(tmp_path):
    path = tmp_path / "run.toml"
    known = Settings("copy").as_dict()
    counts = {"refused": 0, "taken": 0}
    for seed in cases(1500):
        rng = np.random.default_rng([seed, 9])
        content = strange_json(rng, copy.deepcopy(known))
        if not isinstance(content, dict):
            continue
        if rng.random() < 0.3:
            name = list(known)[rng.integers(len(known))]
            content[name] = str(NUMBERS[rng.integers(len(NUMBERS))])
        try:
            Settings(**Settings.read(content, str(path)))
        except ValueError:
            counts["refused"] += 1
        except TypeError:
            without_task = "task" not in content  # the one that has no default
            assert without_task, content
        else:
            counts["taken"] += 1
    assert min(counts.values()) > 50, counts


def test_bytes_of_a_table_or_a_text_are_taken_or_refused_in_a_line(tmp_path):
    from sparsegrad.tasks import Chars, Stream

    npy, table, text = (tmp_path / name for name in ("data.npy", "data.csv", "text"))
    np.save(npy, np.arange(60, dtype="float32").reshape(20, 3))
    table.write_text("a,b\n" + "1,2\n3.5,4e-1\n" * 10)
    text.write_text(TEXT)
    made = {npy: Stream, table: Stream, text: lambda path: Chars(path, 2, 10)}
    whole: dict[Path, bytes] = {path: path.read_bytes() for path in made}
    for seed in cases(600):
        rng = np.random.default_rng([seed, 3])
        path = list(made)[rng.integers(3)]
        path.write_bytes(strange_bytes(rng, whole[path]))
        signal.alarm(WAIT)
        try:
            drawn = made[path](path).draw()
        except (ValueError, MemoryError) as error:
            one_line(error, path)
        else:
            assert all(np.isfinite(array).all() for array in drawn)
