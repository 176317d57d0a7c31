"""Files that are written whole or not at all, whatever happens meanwhile."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a new file, which takes another's place once it is on the disk.

    Parameters
    ----------
    path : Path
        The place. Where the block raises, what is there stays, and the new file goes.

    Yields
    ------
    Path
        In a folder beside `path`: whatever a crash leaves behind is there, under a known name.

    Raises
    ------
    OSError
        If it cannot be written; it names `path`.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            new = Path(folder, path.name)
            yield new
            with open(new, "r+b") as file:
                os.fsync(file.fileno())
            mask = os.umask(0)  # who made it may have kept it private; the result should not be
            os.umask(mask)
            os.chmod(new, 0o666 & ~mask)
            os.replace(new, path)
    except OSError as error:  # of a full disk it names no file, or one that nobody knows
        error.filename = str(path)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Parameters
    ----------
    path : Path
    content : bytes

    Raises
    ------
    OSError
        If it cannot be written.
    """
    with replacing(path) as new:
        new.write_bytes(content)
