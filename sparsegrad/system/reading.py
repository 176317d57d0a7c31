"""Files that are read whole: plain ones, of a size that can be meant; JSON and Parquet in them.

A pipe would wait for its writer, `/dev/zero` has no end, and a folder is no file: all are refused
before anything is read.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

from sparsegrad.system.memory import require_memory

LARGEST = 1 << 24
"""Bytes of a file of settings, a summary or a report: far above what this program writes."""
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_plain(path: Path) -> int:
    """Open a plain file for reading, and nothing else; return its descriptor.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    ValueError
        If it is a folder, a pipe or a device.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # before it is opened: that may wait, or do a thing
        raise ValueError(f"{path} must be a file, got a folder, a pipe or a device")
    descriptor = os.open(path, _FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} must be a file, got a folder, a pipe or a device")
    return descriptor


def read_plain(path: Path, largest: int | None = LARGEST) -> bytes:
    """Return the bytes of a plain file.

    Parameters
    ----------
    path : Path
    largest : int or None
        Bytes that it may have; None for as many as fit in memory.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no plain file, or larger.
    MemoryError
        If it would not fit in memory.
    """
    with open(open_plain(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if largest is not None and size > largest:
            raise ValueError(f"{path} must have at most {largest} bytes, got {size}")
        require_memory(size, str(path))
        return file.read()


def parse_parquet(where: str, content: bytes) -> Any:
    """Return the ``pyarrow.Table`` in a Parquet file.

    Raises
    ------
    ModuleNotFoundError
        If pyarrow is not installed.
    ValueError
        If it is no Parquet.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ModuleNotFoundError(
            f"{where} is Parquet, which needs pyarrow: pip install 'sparsegrad-rtrl[tables]'",
            name="pyarrow",
        ) from None
    try:
        return pq.read_table(pa.BufferReader(content))
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{where} must be Parquet: {' '.join(str(error).split())}") from None


def parse_json(where: str, text: str | bytes) -> Any:
    """Return what JSON holds.

    Raises
    ------
    ValueError
        If it is no JSON, or nested deeper than can be read.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{where} must be JSON: {reason}") from None


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None where there is no file.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no plain file of a JSON object.
    """
    try:
        content = parse_json(str(path), read_plain(path))
    except FileNotFoundError:
        return None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON object")
    return content
