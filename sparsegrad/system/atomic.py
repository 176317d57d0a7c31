"""Files that are written whole or not at all, whatever happens meanwhile."""

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = ".sparsegrad-"
"""Of the folder that holds a file until it is whole."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a new file, which takes another's place once it is on the disk.

    What is there keeps its kind: a link stays a link and the file behind it is replaced, a file's
    mode stays what it is (0600 stays 0600), and a device or a pipe is written into.

    Parameters
    ----------
    path : Path
        The place. Where the block raises, what is there stays, and the new file goes.

    Yields
    ------
    Path
        In a folder beside the place: whatever a crash leaves behind is there, under a known name.

    Raises
    ------
    OSError
        If it cannot be written; it names `path`.
    """
    try:
        mode = _mode_of(path)
        plain = mode is None or stat.S_ISREG(mode)
        place = Path(os.path.realpath(path)) if plain else path
        beside = place.parent if plain else None  # nobody writes files into /dev
        with tempfile.TemporaryDirectory(dir=beside, prefix=PREFIX) as folder:
            new = Path(folder, path.name)
            # made here, so that it has the mode of any new file here; a writer may know better
            os.close(os.open(new, os.O_CREAT | os.O_WRONLY, 0o666))
            kept = new.stat().st_mode if mode is None else mode
            yield new
            if not plain:
                _pour(new, place)
                return
            with open(new, "r+b") as file:
                os.fsync(file.fileno())
            os.chmod(new, stat.S_IMODE(kept))
            os.replace(new, place)
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


def clear_halves(folder: Path, names: Collection[str]) -> None:
    """Delete what crashes left of these files in a folder, and nothing else.

    Parameters
    ----------
    folder : Path
    names : collection of str
        Of files that :func:`replacing` was writing there.
    """
    for left in folder.iterdir():
        if not is_half(left.name) or left.is_symlink() or not left.is_dir():
            continue
        for name in set(names) & set(os.listdir(left)):
            (left / name).unlink()
        if not os.listdir(left):
            left.rmdir()


def is_half(name: str) -> bool:
    """Return whether a folder's name is one that :func:`replacing` gives."""
    return re.fullmatch(re.escape(PREFIX) + "[a-z0-9_]{8}", name) is not None


def _mode_of(path: Path) -> int | None:
    """Return the kind and mode of what is at the end of all links, or None for nothing."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _pour(new: Path, place: Path) -> None:
    """Write a file's content into a device or a pipe; without a reader it is an error, no wait."""
    target = os.open(place, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "set_blocking"):
        os.set_blocking(target, True)
    with open(target, "wb") as out, open(new, "rb") as content:
        shutil.copyfileobj(content, out)
