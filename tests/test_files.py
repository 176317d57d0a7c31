"""Files and folders: what keeps its kind, what is refused before it is read, and whose it is."""

import contextlib
import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sparsegrad import GRU, SGD, Linear, OnlineLearner, ReachPattern, SnAp
from sparsegrad.runs import folder as folders
from sparsegrad.runs.folder import CHECKPOINT, FILES, METRICS, Folder, Metrics, claim, read_metrics
from sparsegrad.runs.run import Run, open_run
from sparsegrad.runs.settings import Settings
from sparsegrad.system import schema
from sparsegrad.system.atomic import clear_halves, write_whole
from sparsegrad.system.reading import LARGEST, read_object, read_plain
from sparsegrad.tasks import Chars, Copy, Stream

TINY = {"units": 8, "sparsity": 0.5, "batch": 2, "report": 30}
DEEP = "[" * 200_000 + "]" * 200_000


# saving keeps the kind of what is there


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_a_mode_stays(tmp_path, mode):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(mode)
    write_whole(path, b"new")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", mode)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_any_other(tmp_path, mask):
    old = os.umask(mask)
    try:
        write_whole(tmp_path / "file", b"new")
        (tmp_path / "other").write_text("")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_links_are_written_through(tmp_path):
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "file"
    target.write_text("old")
    for number, aim in enumerate((target, "far/file", tmp_path / "link-0", "far/absent")):
        link = tmp_path / f"link-{number}"
        link.symlink_to(aim)
        write_whole(link, str(number).encode())
        assert link.is_symlink()
        assert os.readlink(link) == str(aim)
        assert link.read_text() == str(number)
    assert target.read_text() == "2"
    assert sorted(os.listdir(tmp_path / "far")) == ["absent", "file"]
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(loop, b"x")
    assert loop.is_symlink()


def test_devices_and_pipes_are_written_into(tmp_path):
    for name in ("/dev/null", "/dev/zero"):
        before = os.stat(name)
        write_whole(Path(name), b"gone")
        after = os.stat(name)
        assert (after.st_ino, after.st_mode, after.st_rdev) == (
            before.st_ino, before.st_mode, before.st_rdev,
        )  # fmt: skip
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        write_whole(Path("/dev/full"), b"x")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device or address"):
        write_whole(pipe, b"nobody reads")
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    content = bytes(range(256)) * 1000  # more than a pipe holds
    while True:
        try:
            write_whole(pipe, content)
            break
        except OSError:  # the reader is not there yet
            continue
    reader.join()
    assert read == [content]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "folder", b"x")
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_a_learner_and_a_pattern_keep_kinds_too(tmp_path):
    learner = OnlineLearner(GRU(2, 3, sparsity=0), Linear(1), SnAp(2), SGD(0.1))
    (tmp_path / "far").mkdir()
    for save, load in (
        (learner.save, OnlineLearner.load),
        (learner.pattern.save, ReachPattern.load),
    ):
        link = tmp_path / "link"
        link.symlink_to("far/file")
        save(link)
        (tmp_path / "far" / "file").chmod(0o600)
        save(link)
        assert link.is_symlink()
        assert stat.S_IMODE(link.stat().st_mode) == 0o600
        load(link)
        save("/dev/null")
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
        link.unlink()


def test_only_what_a_crash_left_is_deleted(tmp_path):
    left = tmp_path / ".sparsegrad-abcdefgh"
    left.mkdir()
    (left / "config.json").write_text("half")
    strangers = [
        tmp_path / ".config.json.d" / "config.json",  # what an earlier rule deleted
        tmp_path / ".sparsegrad-notes" / "config.json",
        tmp_path / ".sparsegrad-abcdefg1" / "thesis.tex",
        tmp_path / "real" / "config.json",
    ]
    for stranger in strangers:
        stranger.parent.mkdir()
        stranger.write_text("mine")
    (tmp_path / ".sparsegrad-abcdefg2").symlink_to("real")
    (tmp_path / ".sparsegrad-abcdefg3").write_text("a file")
    clear_halves(tmp_path, FILES)
    assert not left.exists()
    assert all(stranger.read_text() == "mine" for stranger in strangers)
    assert (tmp_path / ".sparsegrad-abcdefg3").read_text() == "a file"
    assert (tmp_path / ".sparsegrad-abcdefg2").is_symlink()


# what is no plain file ends at once


def strange_files(tmp_path):
    """Yield paths that no reader may wait on, fill the memory with, or fall over."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    return [tmp_path / name for name in ("pipe", "folder", "link", "socket")] + [Path("/dev/zero")]


READERS = {
    "config": lambda path: Settings.from_toml(path),
    "json": read_object,
    "metrics": read_metrics,
    "checkpoint": OnlineLearner.load,
    "pattern": ReachPattern.load,
    "text": lambda path: Chars(path, 2, 10),
    "table": Stream,
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_before_it_is_read(tmp_path, reader):
    for path in strange_files(tmp_path):
        with pytest.raises(ValueError, match="must be a file, got a folder, a pipe or a device"):
            READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_huge_files_and_deep_ones_end_at_once(tmp_path, reader):
    huge, deep = tmp_path / "huge", tmp_path / "deep"
    with open(huge, "wb") as file:
        file.truncate(1 << 42)  # of zeros, which take no room on the disk
    deep.write_text(f"a = {DEEP}" if reader == "config" else DEEP + "\n")
    for path in (huge,) if reader == "text" else (huge, deep):  # any text may be learned from
        with pytest.raises((ValueError, MemoryError), match=str(path)) as raised:
            READERS[reader](path)
        assert "\n" not in str(raised.value)


def test_plain_files_have_a_largest_size(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    assert read_plain(path, 10) == bytes(10)
    with pytest.raises(ValueError, match="must have at most 9 bytes, got 10"):
        read_plain(path, 9)
    path.write_bytes(b"{" + b" " * LARGEST + b"}")
    with pytest.raises(ValueError, match="must have at most"):
        read_object(path)


# rules


RULES = {
    "whole": (schema.whole(0, 5), [0, 5], [-1, 6, True, 2.0, "2", None, [], 10**400]),
    "number": (schema.number(0), [0, 0.5, 7], [-1e-9, float("nan"), float("inf"), True, "1", None]),
    "word": (schema.word("a", "b"), ["a"], ["c", "", 1, None, ["a"]]),
    "any word": (schema.word(), ["", "x"], [1, None, []]),
    "flag": (schema.flag, [True, False], [0, 1, "true", None]),
    "maybe": (schema.maybe(schema.whole()), [None, 3], [-1, "x"]),
    "listed": (schema.listed(schema.whole(), 2), [[1, 2]], [[1], [1, 2, 3], [1, -2], {}, None]),
    "mapping": (schema.mapping(schema.number()), [{}, {"a": 1}], [{"a": "x"}, [], None]),
    "record": (schema.record({"a": schema.flag}), [{"a": True}],
               [{}, {"a": 1}, {"a": True, "b": 1}, [], None]),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_a_rule_takes_what_it_says_and_nothing_else(name):
    rule, taken, refused = RULES[name]
    for value in taken:
        assert rule("file: field", value) == value
    for value in refused:
        with pytest.raises(ValueError, match=r"^file: field\S* must be ") as raised:
            rule("file: field", value)
        assert len(str(raised.value)) < 200


def test_an_array_has_exactly_its_shape_and_dtype():
    good = np.zeros((2, 3), np.float32)
    assert schema.require_array("f: a", good, (2, 3), "float32") is good
    assert schema.require_array("f: a", good, (None, 3), "float32") is good
    for bad in (
        None, good[0], good[:1], good.T, good.astype("float64"), good.astype(">f4"),
        good.astype("int32"), np.full((2, 3), np.nan, np.float32),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"^f: a must be "):
            schema.require_array("f: a", bad, (2, 3), "float32")


# where a task stands


def positions(tmp_path):
    text, data = tmp_path / "text", tmp_path / "data.npy"
    text.write_text("The quick brown fox jumps over the lazy dog.\n" * 60)
    np.save(data, np.random.default_rng(0).random((40, 3), np.float32))
    return [Copy(2), Chars(text, 2, 10), Chars(text, 2, 10, crop=True), Stream(data, steps=7)]


def changed(content):
    """Yield what can be wrong with a JSON object: each value of it changed, left out or added."""
    for name, value in content.items():
        for other in (None, True, -1, 2.5, "x", [], {}, 2**200, float("nan"), DEEP[:500]):
            if not (other == value and type(other) is type(value)):
                yield name, content | {name: other}
        yield name, {k: v for k, v in content.items() if k != name}
        if isinstance(value, dict):
            yield from ((name, content | {name: one}) for _, one in changed(value))
        if isinstance(value, list):
            yield name, content | {name: value + value[:1]}
            yield name, content | {name: ["x", *value[1:]]}
            yield name, content | {name: [10**12, *value[1:]]}
    yield "stranger", content | {"stranger": 1}


def test_a_position_that_cannot_be_is_refused(tmp_path):
    cases = 0
    for task in positions(tmp_path):
        task.draw()
        whole = task.position()
        for name, content in changed(whole):
            if name == "fresh" and content.get("fresh") == [True, True]:
                continue
            cases += 1
            if name == "forecast" and isinstance(content.get(name), dict):
                # a number in the place of another may be right there: it is taken whole, or not
                with contextlib.suppress(ValueError):
                    task.go_to(content, "file: task")
                    task.go_to(whole)
                continue
            with pytest.raises(ValueError, match=r"file: task|must be the"):
                task.go_to(content, "file: task")
        assert task.position() == whole
        task.go_to(json.loads(json.dumps(whole)))
    assert cases > 200


# whose folder it is


STRANGERS = {
    "metrics.jsonl": '{"step": 1}\n',
    "summary.json": "{}",
    "curve.png": "a picture",
    "config.json": '{"model_type": "llama"}',
    "run.json": '{"run": 1}',
    "profile.csv": "a,b\n",
    "compare.json": "[]",
    "notes.txt": "mine",
    ".git": "a link",
}


def tree(path):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


COMMANDS = {
    "train": (("config.json",), (*FILES, METRICS)),
    "profile": (("run.json",), ("profile.json", "profile.csv", "profile.png", "run.json")),
    "compare": (
        ("compare.json", "runs/*/config.json"),
        ("runs", "compare.csv", "compare.json", "compare.png"),
    ),
}


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_of_another_program_is_refused(tmp_path, command, name):
    (tmp_path / name).write_text(STRANGERS[name])
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"must be empty or hold what|must be a JSON object"):
        claim(tmp_path, *COMMANDS[command])
    if command == "train":
        with pytest.raises(ValueError, match=str(tmp_path)):
            Folder(tmp_path)
    assert tree(tmp_path) == before
    assert os.listdir(tmp_path) == [name]


def test_a_folder_of_ours_is_taken(tmp_path):
    claim(tmp_path / "new" / "deep", *COMMANDS["train"])
    claim(tmp_path / "new" / "deep", *COMMANDS["train"])  # empty
    ours = tmp_path / "ours"
    Folder(ours).write("config.json", Settings("copy").as_dict())
    claim(ours, *COMMANDS["train"])
    claim(ours, *COMMANDS["profile"])  # no name of it is there yet
    (ours / "profile.csv").write_text("somebody's")
    with pytest.raises(ValueError, match=r"got profile.csv of another program"):
        claim(ours, *COMMANDS["profile"])
    runs = tmp_path / "compared"
    write = runs / "runs" / "one"
    write.mkdir(parents=True)
    (write / "config.json").write_text(json.dumps(Settings("copy").as_dict()))  # as 0.1.0 did
    claim(runs, *COMMANDS["compare"])


def test_a_run_goes_on_in_a_folder_that_0_1_0_made(tmp_path):
    settings = Settings("copy", tokens=60, **TINY)
    Run(settings, Folder(tmp_path / "run")).train()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config.pop("sparsegrad")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    again, folder = open_run({"task": "copy", "tokens": 90}, tmp_path / "run", True)
    assert Run(again, folder).train()["tokens"] >= 90


# folders that change under a run, and file systems without locks


@pytest.mark.parametrize("change", ["removed", "moved", "exchanged", "unlocked"])
def test_a_folder_that_changes_under_a_run_ends_it(tmp_path, change):
    out = tmp_path / "run"
    run = Run(Settings("copy", tokens=10_000, **{**TINY, "save": 0.0}), Folder(out))
    hear = run.task.hear

    def exchange(loss):
        hear(loss)
        if not moved.exists() and run.progress.tokens > 100:
            out.rename(moved)
            if change == "exchanged":
                out.mkdir()
                second.append(Folder(out))
            elif change == "unlocked":
                out.symlink_to(moved)
                (moved / ".lock").unlink()
            elif change == "removed":
                for path in moved.iterdir():
                    path.unlink()

    moved, second = tmp_path / "moved", []
    run.task.hear = exchange
    with pytest.raises(
        ValueError, match="must stay where it is while a run writes into it"
    ) as raised:
        run.train()
    assert str(out) in str(raised.value)
    if change == "exchanged":
        assert os.listdir(out) == [".lock"]
    if change == "moved":
        assert not out.exists()
        assert (moved / CHECKPOINT).exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_gone_on_with(tmp_path, monkeypatch, number):
    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folders.fcntl, "flock", flock)
    folder = Folder(tmp_path / "run")
    assert not folder.locked
    assert Run(Settings("copy", tokens=60, **TINY), folder).train()["tokens"] >= 60


def test_a_lock_that_cannot_be_had_for_another_reason_is_an_error(tmp_path, monkeypatch):
    def flock(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(folders.fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output"):
        Folder(tmp_path / "run")


def test_windows_has_neither_flock_nor_pread(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "fcntl", None)
    monkeypatch.delattr(os, "pread")
    monkeypatch.delattr(os, "O_NONBLOCK")
    folder = Folder(tmp_path / "run")
    assert not folder.locked
    text = tmp_path / "text"
    text.write_bytes(b"The quick brown fox\r\n" * 100)
    task = Chars(text, 2, 10)
    drawn = [task.draw() for _ in range(5)]
    code = np.concatenate([d.xs.argmax(2) for d in drawn])[:, 1]
    alphabet = np.flatnonzero(task._code >= 0)
    start = 1890 // 2
    assert bytes(alphabet[code].astype(np.uint8)) == text.read_bytes()[start : start + 50]
    metrics = Metrics(tmp_path / METRICS, 0)
    metrics.add({"tokens": 1, "seconds": 0})
    assert b"\r" not in (tmp_path / METRICS).read_bytes()


# metrics


LINES = [{"tokens": 10 * n, "loss": 0.5, "seconds": 0.1 * n} for n in range(1, 6)]


def changed_metrics(content):
    """What happens to a file of lines: in editors, by git, by a full disk."""
    lines = content.splitlines(keepends=True)
    yield "line ends", content.replace(b"\n", b"\r\n")
    yield "an edited number", content.replace(b'"loss": 0.5', b'"loss": 0.123', 1)
    yield "an added line", b"".join([lines[0], b"# a note\n", *lines[1:]])
    yield "an added report", b"".join([b'{"tokens": 1, "seconds": 0}\n', *lines])
    yield "a line that went", b"".join(lines[1:])
    yield "lines in another order", b"".join(lines[::-1])
    yield "a byte order mark", b"\xef\xbb\xbf" + content
    yield "blanks", b"\n" + content
    yield "zeros", bytes(len(content))
    yield "nothing", b""
    yield "UTF-16", content.decode().encode("utf-16")
    yield "a list", content.replace(lines[2], b"[1]\n")
    yield "a word", content.replace(b"30", b'"x"')
    yield "no number", content.replace(b"0.5", b"NaN", 1)


def test_metrics_are_looked_at_before_they_are_cut(tmp_path):
    path = tmp_path / METRICS
    metrics = Metrics(path, 0)
    for line in LINES[:4]:
        metrics.add(line)
    length = metrics.length
    metrics.add(LINES[4])
    whole = path.read_bytes()
    for name, content in changed_metrics(whole):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=str(path)) as raised:
            Metrics(path, length, 40)
        assert "\n" not in str(raised.value), name
        assert path.read_bytes() == content, name
    path.write_bytes(whole)
    assert Metrics(path, length, 40).length == length  # what the checkpoint does not know is cut
    assert read_metrics(path) == LINES[:4]
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        Metrics(path, 0)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="must be a file"):
        Metrics(path, 0)


def test_metrics_that_are_none_name_file_and_line(tmp_path):
    path = tmp_path / METRICS
    for text, message in (
        ('{"tokens": 1, "seconds": 0}\n{\n', "line 2 must be JSON"),
        ('{"tokens": 1}\n', "line 1 must be a report with seconds"),
        ('{"tokens": 1.5, "seconds": 0}\n', "line 1: tokens must be a whole number"),
        ('{"tokens": 1, "seconds": 0, "loss": "low"}\n', "line 1.loss must be a finite number"),
        (f"{DEEP}\n", "line 1 must be JSON: it is nested too deeply"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"{path}: {message}"):
            read_metrics(path)


# a run's folder, field by field


def test_a_run_whose_files_lie_is_refused_by_file_and_field(tmp_path):
    out = tmp_path / "run"
    Run(Settings("copy", tokens=100, **TINY), Folder(out)).train()
    config = json.loads((out / "config.json").read_text())
    refused = 0
    for _, content in changed(config):
        (out / "config.json").write_text(json.dumps(content))
        before = tree(out)
        try:
            settings, folder = open_run({"task": "copy"}, out, True)
            Run(settings, folder)  # a field that may change, or is missing and has its default
        except (ValueError, MemoryError) as error:
            said = str(error)
        else:
            continue
        assert "\n" not in said
        assert str(out) in said or "--resume must keep" in said, content
        assert tree(out) == before
        refused += 1
    assert refused > 150


SIGHUP = """
import sys
from sparsegrad.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_terminal_that_is_closed_ends_a_run_that_can_be_gone_on_with(tmp_path):
    net = ["--units", "8", "--sparsity", "50%", "--batch", "2", "--report", "50", "--save", "0"]
    command = [sys.executable, "-c", SIGHUP, "train", "copy", *net, "--method", "snap:1",
               "--tokens", "3000", "--out"]  # fmt: skip
    out = tmp_path / "run"
    child = subprocess.Popen(
        [*command, str(out)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=tmp_path,
        start_new_session=True,
    )  # fmt: skip
    while not (out / CHECKPOINT).exists() and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGHUP)
    child.wait()
    child.stderr.close()
    done = subprocess.run([*command, str(out), "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    one, other = (
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(p / METRICS)]
        for p in (out, tmp_path / "whole")
    )
    assert one == other
