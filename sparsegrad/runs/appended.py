"""Files that grow at their end, and that a checkpoint knows the length of."""

import errno
import os
import stat
import weakref
from pathlib import Path


class Appended:
    """A file to whose end is written.

    Parameters
    ----------
    path : Path
    length : int
        Bytes that belong to the run so far; what comes after them was written after its checkpoint
        and is about to be written again.

    Raises
    ------
    ValueError
        If the file is shorter than that, or none that can be written to.
    OSError
        If it cannot be opened.
    """

    def __init__(self, path: Path, length: int) -> None:
        self._path, self.length = path, length
        self._file = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0)
            | getattr(os, "O_BINARY", 0), 0o666,
        )  # fmt: skip
        weakref.finalize(self, os.close, self._file)
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} must be a file, got a folder, a pipe or a device")
        if status.st_size < length:
            raise ValueError(
                f"{path} must hold the {length} bytes that its checkpoint knows of, got "
                f"{status.st_size}: lines were lost"
            )

    def cut(self) -> None:
        """Cut what comes after `length`."""
        os.ftruncate(self._file, self.length)

    def add(self, content: bytes) -> None:
        """Append some lines.

        Raises
        ------
        OSError
            If they cannot be written; no part of them stays.
        """
        try:
            if os.write(self._file, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.cut()
            error.filename = str(self._path)
            raise
        self.length += len(content)

    def sync(self) -> None:
        """Wait until all is on the disk."""
        os.fsync(self._file)
