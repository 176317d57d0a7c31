"""The folder of a run: one writer, files that are whole, metrics that match the checkpoint."""

import errno
import json
import os
import shutil
import weakref
from pathlib import Path
from typing import Any

from sparsegrad.system.atomic import write_whole
from sparsegrad.system.tensorfile import need_safetensors

try:
    import fcntl
except ImportError:  # not on Windows, where a second run in a folder goes unnoticed
    fcntl = None  # type: ignore[assignment]

CHECKPOINT = "checkpoint.safetensors"
FILES = (CHECKPOINT, "checkpoint.json", "config.json", "summary.json", "curve.png")
"""What is written whole, by :func:`sparsegrad.system.atomic.replacing`."""


class Folder:
    """A folder that one run writes into.

    Parameters
    ----------
    path : Path
        Made where it does not exist.

    Raises
    ------
    ValueError
        If another run is writing there.
    OSError
        If it cannot be written to.
    ModuleNotFoundError
        If safetensors, which checkpoints need, is not installed.
    """

    def __init__(self, path: Path) -> None:
        need_safetensors()
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        # the lock goes with the process, however that ends
        self._lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        weakref.finalize(self, os.close, self._lock)
        if fcntl is not None:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"another run is writing into {path}; name another folder, or wait for it"
                ) from None
        for name in FILES:
            for left in path.glob(f".{name}.*"):  # half a file of a run that was killed
                shutil.rmtree(left, ignore_errors=True)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's path."""
        return self.path / CHECKPOINT

    @property
    def metrics(self) -> Path:
        """The path of the metrics, a line of JSON per report."""
        return self.path / "metrics.jsonl"

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file, whole."""
        write_whole(self.path / name, (json.dumps(content, indent=2) + "\n").encode())

    def read(self, name: str) -> dict[str, Any] | None:
        """Return what a JSON file holds, or None where there is none.

        Raises
        ------
        ValueError
            If it is no JSON object.
        """
        try:
            content = json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{self.path / name} must be JSON: {error}") from None
        if not isinstance(content, dict):
            raise ValueError(f"{self.path / name} must be a JSON object")
        return content


class Metrics:
    """The lines of ``metrics.jsonl``.

    Parameters
    ----------
    path : Path
    length : int
        Bytes that belong to the run so far; what comes after them was written after its checkpoint
        and is about to be written again.

    Raises
    ------
    ValueError
        If the file is shorter than that.
    OSError
        If it cannot be written.
    """

    def __init__(self, path: Path, length: int) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        weakref.finalize(self, os.close, self._file)
        size = os.fstat(self._file).st_size
        if size < length:
            raise ValueError(
                f"{path} must hold the {length} bytes that its checkpoint knows of, got {size}: "
                "lines were lost"
            )
        os.ftruncate(self._file, length)
        self.length = length

    def add(self, line: dict[str, Any]) -> None:
        """Append a line.

        Raises
        ------
        OSError
            If it cannot be written; half a line does not stay.
        """
        text = (json.dumps(line) + "\n").encode()
        try:
            if os.write(self._file, text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.ftruncate(self._file, self.length)
            error.filename = str(self._path)
            raise
        self.length += len(text)

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        os.fsync(self._file)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a metrics file, none where there is no file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ValueError
        If a line is no JSON.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
