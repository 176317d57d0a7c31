"""A file that is read in parts and must stay as it is."""

import os
import weakref
from pathlib import Path
from typing import Any

from sparsegrad.system.reading import open_plain


class Source:
    """A file open for reading, in parts, without ever being loaded whole.

    Parts are read by ``pread`` (where there is none, by seek and read), not through a memory map:
    a file that shrinks under a map kills the process with a bus error, while here it is an error
    of one line.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OSError
        If there is no such file or it cannot be read.
    ValueError
        If it is empty, or no plain file.
    """

    def __init__(self, path: Path) -> None:
        self._file = open_plain(path)
        self.path = path
        weakref.finalize(self, os.close, self._file)
        self._stamp = self._now()
        self.size = self._stamp[0]
        if self.size == 0:
            raise ValueError(f"{path} must not be empty")

    def __reduce__(self) -> tuple[Any, ...]:  # a copy has the file open by itself
        return _reopened, (self.path, self._stamp)

    def read(self, start: int, count: int) -> bytes:
        """Return `count` bytes from `start` on.

        Raises
        ------
        ValueError
            If the file changed since it was opened.
        """
        parts: list[bytes] = []
        left = count
        while left and (part := _pread(self._file, left, start + count - left)):
            parts.append(part)
            left -= len(part)
        if left or self._now() != self._stamp:
            raise ValueError(f"{self.path} must not change while it is read; start the run anew")
        return b"".join(parts)

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self._file)
        return status.st_size, status.st_mtime_ns


def _pread(file: int, count: int, start: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file, count, start)
    os.lseek(file, start, os.SEEK_SET)  # Windows
    return os.read(file, count)


def _reopened(path: Path, stamp: tuple[int, int]) -> Source:
    source = Source(path)
    if source._stamp != stamp:
        raise ValueError(f"{path} must be as it was when the task was copied; start the run anew")
    return source
