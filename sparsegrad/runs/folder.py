"""The folder of a run: ours, one writer, files that are whole, metrics that fit the checkpoint."""

import contextlib
import errno
import json
import os
import weakref
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sparsegrad.runs.appended import Appended
from sparsegrad.runs.predictions import PREDICTIONS
from sparsegrad.system.atomic import clear_halves, is_half, write_whole
from sparsegrad.system.reading import parse_json, read_object, read_plain
from sparsegrad.system.schema import Rule, mapping, number, refuse, whole
from sparsegrad.system.tensorfile import need_safetensors

try:
    import fcntl
except ImportError:  # not on Windows, where a second run in a folder goes unnoticed
    fcntl = None  # type: ignore[assignment]

CHECKPOINT = "checkpoint.safetensors"
FILES = (CHECKPOINT, "checkpoint.json", "config.json", "summary.json", "curve.png")
"""What is written whole, by :func:`sparsegrad.system.atomic.replacing`."""
METRICS = "metrics.jsonl"
LOCK = ".lock"
MARK = "sparsegrad"
"""Field of the JSON file by which a folder is known as ours: the version that wrote it."""
MARKED = ("config.json", "run.json", "compare.json", "passive.json", "runs/*/config.json")
_UNLOCKED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}
"""What `flock` says on a file system that has none."""


def claim(path: Path, marks: Collection[str], names: Collection[str]) -> None:
    """Make a folder, or take one that is ours; one that is another's is never written into.

    Parameters
    ----------
    path : Path
        Made where it does not exist.
    marks : collection of str
        The JSON files by which the command knows a folder of its own; of `MARKED`.
    names : collection of str
        What the command writes there.

    Raises
    ------
    ValueError
        If the folder is neither empty nor bears a mark, or bears another command's and holds a
        file of one of the names.
    OSError
        If it cannot be made or read.
    """
    path.mkdir(parents=True, exist_ok=True)
    there = {name for name in os.listdir(path) if name != LOCK and not is_half(name)}
    own = [_is_ours(read_object(file)) for mark in marks for file in path.glob(mark)]
    if not there or any(own):
        return
    ours = any(bears(file) for mark in MARKED for file in path.glob(mark))
    strangers = sorted(there & set(names) if ours else there)
    if strangers or not ours:
        raise ValueError(
            f"{path} must be empty or hold what sparsegrad wrote, got {strangers[0]} of another "
            "program: name another folder, or move it away"
        )


def bears(path: Path) -> bool:
    """Return whether there is a JSON file, and it is ours."""
    try:
        return _is_ours(read_object(path))
    except (OSError, ValueError):
        return False


def _is_ours(content: dict[str, Any] | None) -> bool:
    """Return whether a JSON object is ours; older versions wrote some without the mark."""
    return content is not None and any(
        names <= content.keys()
        for names in ({MARK}, {"task", "method", "units"}, {"settings", "best", "curves"},
                      {"settings", "rows"})
    )  # fmt: skip


def marked(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file of `MARKED`, with the mark."""
    return {MARK: version("sparsegrad-rtrl")} | content


class Folder:
    """A folder that one run writes into.

    Parameters
    ----------
    path : Path
        Made where it does not exist.

    Attributes
    ----------
    locked : bool
        Whether a second run there would be refused: some file systems have no locks.

    Raises
    ------
    ValueError
        If another run is writing there, or what is there is not of a run.
    OSError
        If it cannot be written to.
    ModuleNotFoundError
        If safetensors, which checkpoints need, is not installed.
    """

    def __init__(self, path: Path) -> None:
        need_safetensors()
        claim(path, ("config.json",), (*FILES, METRICS, PREDICTIONS))
        self.path = path
        # the lock goes with the process, however that ends
        self._lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        weakref.finalize(self, os.close, self._lock)
        self.locked = _lock(self._lock, path)
        self.check()
        clear_halves(path, FILES)  # of a run that was killed

    def check(self) -> None:
        """Look whether the folder is still the one that was locked.

        Raises
        ------
        ValueError
            If it was removed, moved or exchanged: whoever writes there now must not find our files.
        """
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self.path / LOCK), os.fstat(self._lock)):
                return
        raise ValueError(
            f"{self.path} must stay where it is while a run writes into it, but it was removed, "
            "moved or exchanged; the run ends here, and its last checkpoint is where it went"
        )

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's path."""
        return self.path / CHECKPOINT

    @property
    def metrics(self) -> Path:
        """The path of the metrics, a line of JSON per report."""
        return self.path / METRICS

    @property
    def predictions(self) -> Path:
        """The path of what a run on a table predicted."""
        return self.path / PREDICTIONS

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file, whole; one of `MARKED` says that the folder is ours."""
        self.check()
        content = marked(content) if name in MARKED else content
        write_whole(self.path / name, (json.dumps(content, indent=2) + "\n").encode())

    def read(self, name: str) -> dict[str, Any] | None:
        """Return what a JSON file holds, or None where there is none.

        Raises
        ------
        ValueError
            If it is no JSON object.
        """
        return read_object(self.path / name)


def _lock(descriptor: int, path: Path) -> bool:
    """Lock a file for this process; return False where the file system cannot."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"another run is writing into {path}; name another folder, or wait for it"
        ) from None
    except OSError as error:
        if error.errno not in _UNLOCKED:
            error.filename = str(path / LOCK)
            raise
        return False
    return True


def is_locked(path: Path) -> bool:
    """Return whether a run holds the lock of a folder; ours is given back within microseconds."""
    path = path / LOCK
    if fcntl is None or not path.is_file() or path.is_symlink():
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no right to read it, or a file system without locks
        return False
    return False


class Metrics:
    """The lines of ``metrics.jsonl``.

    Parameters
    ----------
    path, length
        As for :class:`Appended`.
    reported : int
        Tokens at the last of these lines.

    Raises
    ------
    ValueError
        If the file is shorter than that, or these bytes are not the lines of the run: they were
        edited, or their ends converted. The file is then as it was.
    OSError
        If it cannot be written.
    """

    def __init__(self, path: Path, length: int, reported: int = 0) -> None:
        self._file = Appended(path, length)
        if length:
            _check_lines(path, read_plain(path, None)[:length], reported)
        self._file.cut()

    @property
    def length(self) -> int:
        """Bytes so far."""
        return self._file.length

    def add(self, line: dict[str, Any]) -> None:
        """Append a line.

        Raises
        ------
        OSError
            If it cannot be written; half a line does not stay.
        """
        self._file.add((json.dumps(line) + "\n").encode())

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        self._file.sync()


def _check_lines(path: Path, content: bytes, reported: int) -> None:
    """Look whether bytes are whole lines of a run up to its last report, before any are cut."""
    lines = _parsed(path, content) if content.endswith(b"\n") and b"\r" not in content else []
    tokens = [line["tokens"] for line in lines]
    if not tokens or tokens[-1] != reported or tokens != sorted(set(tokens)):
        raise ValueError(
            f"{path} must hold the lines that its checkpoint knows of, {len(content)} bytes up to "
            f"{reported} tokens: they were edited, or their ends converted; restore the file"
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a metrics file, none where there is no file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ValueError
        If a line is no report; the message names file and line.
    """
    try:
        content = read_plain(path, None)
    except FileNotFoundError:
        return []
    return _parsed(path, content[: content.rfind(b"\n") + 1])


REPORT: Rule = mapping(number())
"""A report: names with numbers."""


def _parsed(path: Path, content: bytes) -> list[dict[str, Any]]:
    lines = []
    for at, text in enumerate(content.split(b"\n")[:-1], 1):
        where = f"{path}: line {at}"
        line: dict[str, Any] = REPORT(where, parse_json(where, text))
        for name, rule in (("tokens", whole()), ("seconds", number(0))):
            if name not in line:
                refuse(where, f"a report with {name}", sorted(line))
            rule(f"{where}: {name}", line[name])
        lines.append(line)
    return lines
