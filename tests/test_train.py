"""Runs: what they write, how they go on after any stop, and what they refuse."""

import contextlib
import io
import json
import os
import pty
import random
import re
import resource
import signal
import subprocess
import sys
import time

import numba
import numpy as np
import pytest
from command_line import run

from sparsegrad import OnlineLearner
from sparsegrad.learning.checkpoint import read_checkpoint
from sparsegrad.runs.folder import Folder, Metrics, read_metrics
from sparsegrad.runs.run import Run, open_run
from sparsegrad.runs.settings import Settings
from sparsegrad.runs.stop import StopWish
from sparsegrad.runs.watch import Watch
from sparsegrad.system.atomic import write_whole

TEXT = "The quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 60
compiled_only = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="too slow interpreted")
NET = ["--units", "8", "--sparsity", "50%", "--batch", "2"]
TINY = {"units": 8, "sparsity": 0.5, "batch": 2, "report": 30}


def without_seconds(lines):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def numbers(path):
    """What must be the same after any stop: weights and all else, and the metrics."""
    saved = read_checkpoint(path / "checkpoint.safetensors")
    return (
        saved.tensors(),
        saved.extra["task"],
        without_seconds(read_metrics(path / "metrics.jsonl")),
    )


def assert_same_run(one, two):
    (tensors, task, lines), (other_tensors, other_task, other_lines) = numbers(one), numbers(two)
    assert lines == other_lines
    assert task == other_task
    for name in tensors:
        np.testing.assert_array_equal(tensors[name], other_tensors[name], err_msg=name)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text"
    path.write_text(TEXT)
    return path


# what a run does and writes


@compiled_only
def test_a_run_learns_and_leaves_its_files(tmp_path, capsys):
    out = tmp_path / "run"
    status, printed, err = run(capsys, "train", "copy", *NET, "--tokens", "6k", "--rate", "1e-2",
                               "--method", "rtrl", "--out", out)  # fmt: skip
    assert status == 0
    names = {"config.json", "metrics.jsonl", "checkpoint.safetensors", "checkpoint.json",
             "summary.json", "curve.png"}  # fmt: skip
    assert names <= set(os.listdir(out))
    lines = read_metrics(out / "metrics.jsonl")
    assert len(lines) >= 90
    assert set(lines[0]) == {"tokens", "loss", "seconds", "length", "bits_per_bit"}
    assert [line["tokens"] for line in lines] == sorted({line["tokens"] for line in lines})
    assert lines[-1]["length"] > 1
    config = json.loads((out / "config.json").read_text())
    assert (config["rate"], config["method"], config["units"]) == (0.01, "rtrl", 8)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["tokens"] >= 6000
    assert "copy finished: 6," in printed
    assert "wrote" in err
    assert (out / "curve.png").read_bytes()[:4] == b"\x89PNG"

    whole = (out / "metrics.jsonl").read_bytes()
    status, printed, err = run(capsys, "train", "copy", "--out", out, "--resume")
    assert status == 0
    assert "copy finished: 6," in printed
    assert "the budget was spent before; go on with a larger --tokens" in err
    assert (out / "metrics.jsonl").read_bytes() == whole


def test_a_budget_in_seconds_counts_no_compiling(monkeypatch):
    run = Run(Settings("copy", seconds=0.2, **TINY))
    learn, draws = OnlineLearner.run, []

    def slow_at_first(learner, *drawn):
        draws.append(len(draws))
        time.sleep(0.5 if len(draws) == 1 else 0.01)
        return learn(learner, *drawn)

    monkeypatch.setattr(OnlineLearner, "run", slow_at_first)
    summary = run.train()
    assert summary["status"] == "finished"
    assert len(draws) > 2
    assert 0.2 <= summary["seconds"] < 0.5


@compiled_only
def test_characters_have_bits_and_a_held_out_part(text, tmp_path, capsys):
    out = tmp_path / "run"
    status, printed, _ = run(capsys, "train", "chars", "--text", text, *NET, "--tokens", "8k",
                             "--rate", "1e-2", "--method", "snap:1", "--out", out)  # fmt: skip
    assert status == 0
    lines = read_metrics(out / "metrics.jsonl")
    first, last = lines[0], lines[-1]
    assert last["bits_per_character"] < first["bits_per_character"] - 0.5
    assert last["held_out_bits_per_character"] < first["held_out_bits_per_character"]
    assert first["loss"] == pytest.approx(first["bits_per_character"] * np.log(2))
    assert "bits/char" in printed


@compiled_only
def test_a_stream_is_passed_once_and_its_error_falls(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 2)).astype("float32")
    y = np.roll(x[:, :1], 1, axis=0)  # the input of one step before
    np.save(tmp_path / "data.npy", np.hstack([x, y]))
    out = tmp_path / "run"
    status, _, _ = run(capsys, "train", "stream", "--data", tmp_path / "data.npy", "--units", 16,
                       "--sparsity", 0, "--rate", "1e-2", "--steps", 30, "--method", "rflo",
                       "--out", out)  # fmt: skip
    assert status == 0
    lines = read_metrics(out / "metrics.jsonl")
    assert lines[-1]["tokens"] == 3000
    assert lines[-1]["rmse"] < 0.7 * lines[0]["rmse"]


def test_the_same_seed_gives_the_same_run(tmp_path):
    for seed, name in ((1, "a"), (1, "b"), (2, "c")):
        Run(Settings("copy", tokens=500, seed=seed, **TINY), Folder(tmp_path / name)).train()
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert numbers(tmp_path / "a")[2] != numbers(tmp_path / "c")[2]


@compiled_only
def test_updates_at_the_end_of_sequences_equal_bptt():
    settings = {**TINY, "tokens": 300, "dtype": "float64"}
    runs = [
        Run(Settings("copy", **settings, update="sequence", method="rtrl")),
        Run(Settings("copy", **settings, method="bptt")),
        Run(Settings("copy", **settings, method="rtrl")),
    ]
    for one in runs:
        one.train()
    rtrl, bptt, online = (one.learner.parameters()["weight_hh"] for one in runs)
    np.testing.assert_allclose(rtrl, bptt, atol=1e-9)
    assert np.abs(online - bptt).max() > 1e-4


def test_settings_come_from_a_file_and_flags_win(tmp_path, capsys):
    config, out = tmp_path / "run.toml", tmp_path / "run"
    config.write_text('units = 8\nsparsity = "50%"\nbatch = 2\nrate = 0.5\ngate-masks = "shared"\n')
    status, _, _ = run(capsys, "train", "copy", "--config", config, "--rate", "0.01",
                       "--tokens", 50, "--out", out)  # fmt: skip
    assert status == 0
    resolved = json.loads((out / "config.json").read_text())
    assert (resolved["rate"], resolved["units"], resolved["gate_masks"]) == (0.01, 8, "shared")
    assert (resolved["sparsity"], resolved["tokens"], resolved["report"]) == (0.5, 50, 1)


@compiled_only
def test_a_time_budget_ends_a_run():
    began = time.monotonic()
    Run(Settings("copy", tokens=20, **TINY)).train()  # compile
    summary = Run(Settings("copy", seconds=0.3, **TINY)).train()
    assert 0.3 <= summary["seconds"] < 5 + time.monotonic() - began


@compiled_only
@pytest.mark.parametrize("columns", [150, 60])
def test_a_terminal_shows_a_bar(columns):
    pytest.importorskip("rich")
    main, other = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "sparsegrad.cli", "train", "copy", *NET, "--seconds", "2",
         "--report", "100"],
        stdout=other, stderr=other, env=os.environ | {"TERM": "xterm", "COLUMNS": str(columns)},
    )  # fmt: skip
    os.close(other)
    seen = b""
    with contextlib.suppress(OSError):  # the terminal is closed at the end
        while part := os.read(main, 4096):
            seen += part
    assert child.wait(timeout=60) == 0
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", seen.decode(errors="replace"))
    bars = [line for line in re.split(r"[\r\n]+", shown) if "left" in line]
    assert all(re.match("[━╸╺]{8} ", line) for line in bars)
    assert max(map(len, bars)) <= columns
    for word in ("tokens/s", "loss", r"L \d", "left"):
        assert re.search(word, bars[-1])
    assert ("bits/bit" in bars[-1]) == (columns == 150)  # what does not fit goes, whole
    assert "copy finished" in shown


def test_a_run_goes_on_when_nobody_reads_its_lines(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    summary = Run(Settings("copy", tokens=100, **TINY), watch=Watch).train()
    assert (summary["status"], summary["tokens"] >= 100) == ("finished", True)


# going on


@pytest.mark.parametrize("method", ["snap:1", "snap:2", "rtrl", "bptt", "bptt:3", "uoro", "rflo"])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, method):
    layers = 2 if method == "snap:2" else 1
    settings = {**TINY, "method": method, "rate": 0.01, "save": 0.0, "layers": layers}
    Run(Settings("copy", tokens=200, **settings), Folder(tmp_path / "whole")).train()
    folder = Folder(tmp_path / "parts")
    for tokens in (70, 71, 140, 200):
        Run(Settings("copy", tokens=tokens, **settings), folder).train()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("crop", [False, True])
def test_a_stopped_run_on_text_goes_on_bit_for_bit(text, tmp_path, crop):
    settings = {**TINY, "text": str(text), "steps": 20, "crop": crop, "method": "snap:1"}
    settings["report"] = 200
    Run(Settings("chars", tokens=800, **settings), Folder(tmp_path / "whole")).train()
    folder = Folder(tmp_path / "parts")
    for tokens in (300, 800):
        Run(Settings("chars", tokens=tokens, **settings), folder).train()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def command(out, *more):
    return [sys.executable, "-m", "sparsegrad.cli", "train", "copy", *NET, "--tokens", "20k",
            "--report", "50", "--rate", "1e-2", "--save", "0.02", "--out", str(out),
            *more]  # fmt: skip


@compiled_only
def test_a_run_killed_again_and_again_goes_on_bit_for_bit(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run(command(whole, "--save", "1000"), check=True, capture_output=True)
    moments = random.Random(1)
    kills, begun = 0, False
    while True:
        child = subprocess.Popen(
            command(parts, *["--resume"] * begun), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        metrics = parts / "metrics.jsonl"
        before = metrics.stat().st_mtime_ns if metrics.exists() else 0
        if kills < 4:
            while child.poll() is None and (  # until it does something
                not metrics.exists() or metrics.stat().st_mtime_ns == before
            ):
                time.sleep(0.002)
            time.sleep(moments.random() * 0.12)
            child.kill()
        _, err = child.communicate()
        begun = (parts / "config.json").exists()
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, err
        kills += 1
    assert kills >= 3
    assert_same_run(whole, parts)


@compiled_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_kill_save_and_say_how_to_go_on(tmp_path, number):
    whole, out = tmp_path / "whole", tmp_path / "run"
    quick = ["--save", "1000"]
    subprocess.run(command(whole, "--save", "1000"), check=True, capture_output=True)
    child = subprocess.Popen(
        command(out, *quick), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").stat().st_size:
        time.sleep(0.01)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number, err
    assert f"go on with: sparsegrad train copy --out {out} --resume" in err
    assert "Traceback" not in err
    assert json.loads((out / "summary.json").read_text())["status"] == "interrupted"
    done = [sys.executable, "-m", "sparsegrad.cli", "train", "copy", "--out", str(out), "--resume"]
    subprocess.run(done, check=True, capture_output=True)
    assert_same_run(whole, out)


def test_a_larger_budget_goes_on_and_smaller_settings_stay(tmp_path, capsys):
    out = tmp_path / "run"
    Run(Settings("copy", tokens=200, **TINY), Folder(out)).train()
    status, _, _ = run(capsys, "train", "copy", "--out", out, "--resume", "--tokens", 400)
    assert status == 0
    assert json.loads((out / "summary.json").read_text())["tokens"] >= 400


# divergence


@compiled_only  # NumPy would warn of the overflow
def test_divergence_stops_with_step_tensor_and_hint(tmp_path, capsys):
    out = tmp_path / "run"
    np.save(tmp_path / "data.npy", np.full((2000, 2), 100, "float32"))
    status, _, err = run(capsys, "train", "stream", "--data", tmp_path / "data.npy", "--units", 4,
                         "--cell", "rnn", "--sparsity", 0, "--optimizer", "sgd", "--rate", "1e3",
                         "--steps", 1, "--save", 0, "--scale", "none", "--out", out)  # fmt: skip
    assert status == 2
    assert err.count("\n") == 1
    for words in ("diverged at step ", "must stay finite", " in readout.weight", "lower --rate",
                  f"the last good checkpoint stays in {out}"):  # fmt: skip
        assert words in err
    assert json.loads((out / "summary.json").read_text())["status"] == "diverged"
    learner = OnlineLearner.load(out / "checkpoint.safetensors")
    assert all(np.isfinite(array).all() for array in learner.parameters().values())


# what is refused


def refused(capsys, *arguments):
    status, _, err = run(capsys, "train", *arguments)
    assert status == 2
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paste"], "task must be one of copy, chars, stream, got 'paste'"),
        (["copy", "--method", "snap"], "method must be one of snap:N, rtrl"),
        (["copy", "--method", "snap:0"], "n must be at least 1"),
        (["copy", "--cell", "tpu"], "cell must be one of rnn, gru, lstm"),
        (["copy", "--rate", "fast"], "rate must be a number such as"),
        (["copy", "--rate", "0"], "rate must be above 0"),
        (["copy", "--units", "1.5"], "units must be a whole number"),
        (["copy", "--units", "0"], "units must be at least 1"),
        (["copy", "--sparsity", "100%"], r"sparsity must lie in [0, 1)"),
        (["copy", "--tokens", "0"], "tokens must be at least 1"),
        (["copy", "--seconds", "0"], "seconds must be above 0"),
        (["copy", "--resume"], "--resume must come with --out"),
        (["copy", "--config", "/no/such.toml"], "/no/such.toml: No such file"),
        (["chars", "--method", "bptt"], "method bptt must have sequences that end"),
        (["chars", "--update", "sequence"], "update sequence must have sequences that end"),
        (["copy", "--update", "sequence", "--method", "bptt:3"], "goes with bptt, not with bptt:T"),
        (["chars", "--text", "/no/such/text"], "/no/such/text: No such file"),
        (["stream"], "must have a table: name it with --data"),
        (["copy", "--layers", "0"], "layers must be at least 1"),
        (["copy", "--layers", "2", "--method", "uoro"], "layers must be 1 with uoro, got 2"),
        (["copy", "--layers", "2", "--method", "bptt:8@1"], "layers must be 1 with bptt:8@1"),
        (["copy", "--layers", "2", "--rewire", "rigl:0.1:9"], "layers must be 1 with rewire rigl"),
        (["copy", "--layers", "3", "--method", "snap:2"], "n must be at least 3, the layers"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_a_wrong_config_file_is_named(tmp_path, capsys):
    config = tmp_path / "run.toml"
    for content, message in (
        ("units = ", "must be TOML"),
        ("unit = 3", "must name settings, got 'unit'"),
        ("crop = 1", "crop must be true or false"),
        ("units = [3]", "units must be a number or a word"),
    ):
        config.write_text(content)
        assert message in refused(capsys, "copy", "--config", config)


def test_a_folder_holds_one_run(tmp_path, capsys):
    out = tmp_path / "run"
    assert "--resume must find a run, got none" in refused(capsys, "copy", "--out", out, "--resume")
    arguments = ["copy", *NET, "--tokens", 100, "--out", out]
    assert run(capsys, "train", *arguments)[0] == 0
    before = (out / "metrics.jsonl").read_bytes()
    assert "holds a run: go on with it by --resume" in refused(capsys, *arguments)
    assert "must keep the settings of the run: rate is 0.001 there, got 0.1" in refused(
        capsys, *arguments, "--resume", "--rate", "0.1"
    )
    assert "task is copy there, got chars" in refused(capsys, "chars", "--out", out, "--resume")
    assert (out / "metrics.jsonl").read_bytes() == before


def test_two_runs_at_once_in_a_folder_are_refused(tmp_path, capsys):
    held = Folder(tmp_path / "run")
    held.write("config.json", Settings("copy", **TINY).as_dict())
    err = refused(capsys, "copy", "--out", tmp_path / "run", "--resume")
    assert "another run is writing into" in err
    del held
    assert (
        run(capsys, "train", "copy", "--out", tmp_path / "run", "--resume", "--tokens", 50)[0] == 0
    )


def test_a_run_without_a_checkpoint_yet_begins_anew_and_says_so(tmp_path, capsys):
    Folder(tmp_path).write("config.json", Settings("copy", tokens=50, **TINY).as_dict())
    again = ["train", "copy", "--out", tmp_path, "--resume"]
    status, _, err = run(capsys, *again)
    assert status == 0
    assert "begins anew" in err
    assert "begins anew" not in run(capsys, *again)[2]


def test_files_of_a_run_that_do_not_fit_are_refused(tmp_path):
    settings = Settings("copy", tokens=300, **TINY)
    out = tmp_path / "run"
    Run(settings, Folder(out)).train()
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text(lines[0])
    with pytest.raises(ValueError, match="lines were lost"):
        Run(settings, Folder(out))
    (out / "checkpoint.safetensors").rename(tmp_path / "lost")
    with pytest.raises(ValueError, match=r"checkpoint.json tells of, got none: restore it"):
        Run(settings, Folder(out))
    assert (out / "metrics.jsonl").read_text() == lines[0]
    (tmp_path / "lost").rename(out / "checkpoint.safetensors")
    config = (out / "config.json").read_text()
    (out / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json must be JSON"):
        open_run({"task": "copy"}, out, True)
    (out / "config.json").write_text(config)
    other = Settings("copy", tokens=300, **{**TINY, "units": 9})
    with pytest.raises(ValueError, match="must be of the run in config"):
        Run(other, Folder(out))


@pytest.mark.parametrize("task", ["chars", "stream"])
def test_a_run_goes_on_with_a_file_that_was_moved(text, tmp_path, capsys, task):
    file = {"chars": text, "stream": tmp_path / "data.npy"}[task]
    np.save(tmp_path / "data.npy", np.random.default_rng(0).random((400, 2), np.float32))
    flag, out = {"chars": "--text", "stream": "--data"}[task], tmp_path / "run"
    arguments = ["train", task, *NET, "--steps", 20, "--out", out, "--tokens"]
    assert run(capsys, *arguments, 80, flag, file)[0] == 0
    moved = file.rename(tmp_path / f"moved{file.suffix}")
    assert f"{file}: No such file" in refused(capsys, *arguments[1:], 200, "--resume")
    assert run(capsys, *arguments, 200, "--resume", flag, moved)[0] == 0
    assert run(capsys, *arguments, 300, "--resume")[0] == 0  # the place is kept
    moved.write_bytes(moved.read_bytes()[:-100] + bytes(reversed(moved.read_bytes()[-100:])))
    assert "got other content" in refused(capsys, *arguments[1:], 400, "--resume", flag, moved)


def test_a_text_that_changes_between_runs_is_refused(text, tmp_path):
    settings = Settings("chars", tokens=40, text=str(text), steps=20, **TINY)
    Run(settings, Folder(tmp_path / "run")).train()
    text.write_text(TEXT.replace("fox", "cat"))
    with pytest.raises(ValueError, match="must be the text of the run"):
        Run(settings, Folder(tmp_path / "run"))


def test_a_full_disk_loses_nothing(tmp_path):
    out = tmp_path / "run"
    folder = Folder(out)
    settings = {**TINY, "save": 0.0}
    Run(Settings("copy", tokens=300, **settings), folder).train()
    kept = (out / "checkpoint.safetensors").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    quiet = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    going_on = Run(Settings("copy", tokens=600, **settings), folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="what was there stays: make room and go on"):
            going_on.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, quiet)
    assert (out / "checkpoint.safetensors").read_bytes() == kept
    Run(Settings("copy", tokens=600, **settings), folder).train()
    Run(Settings("copy", tokens=600, **settings), Folder(tmp_path / "whole")).train()
    assert_same_run(tmp_path / "whole", out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_loop_over_seeds_too(tmp_path, number):
    class StoppedError(Exception):
        pass

    def handler(number, frame):
        raise StoppedError

    begun = []

    def loop():
        for seed in (1, 2):
            run = Run(Settings("copy", tokens=1000, seed=seed, **TINY), Folder(tmp_path / "a"))
            begun.append(seed)
            run.task.hear = lambda loss: signal.raise_signal(number)
            run.train()

    old = signal.signal(number, handler)
    try:
        with pytest.raises(StoppedError):
            loop()
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, old)
    assert begun == [1]
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert 0 < summary["tokens"] < 1000
    extra = read_checkpoint(tmp_path / "a" / "checkpoint.safetensors").extra
    assert extra["progress"]["tokens"] == summary["tokens"]


def test_half_a_line_does_not_stay_where_the_disk_is_full(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl", 0)
    metrics.add({"tokens": 1, "seconds": 0.5})
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    quiet = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for room in (5, 0):  # half a line fits, or nothing
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + room, limits[1]))
            with pytest.raises(OSError, match=r"metrics\.jsonl"):
                metrics.add({"tokens": 2, "seconds": 1.0})
            assert (tmp_path / "metrics.jsonl").read_bytes() == whole
        with pytest.raises(OSError, match=r"'[^']*/config\.json'"):  # the place, not a passing name
            write_whole(tmp_path / "config.json", bytes(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, quiet)
    assert os.listdir(tmp_path) == ["metrics.jsonl"]
    metrics.add({"tokens": 2, "seconds": 1.0})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_a_second_ctrl_c_ends_at_once():
    with StopWish() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
