"""Named arrays in one safetensors file: written whole or not at all, checked bit by bit.

The header's ``__metadata__`` holds what the arrays alone do not say, as JSON, and a SHA-256 of
that and of all arrays. Any program that reads safetensors reads these files.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.system.atomic import replacing
from sparsegrad.system.memory import require_memory
from sparsegrad.system.reading import open_plain, parse_json

FORMAT = "sparsegrad"
VERSION = 4
DTYPES = ("BOOL", "I32", "I64", "U64", "F32", "F64")
"""Of arrays in these files, as safetensors calls them."""


def write_tensors(
    path: Path, tensors: dict[str, NDArray[Any]], about: dict[str, Any], kind: str = "checkpoint"
) -> None:
    """Write arrays and what is to be known of them into one file, whole or not at all.

    Parameters
    ----------
    path : Path
        Replaced only once the new file is complete and on the disk.
    tensors : dict of arrays
    about : dict
        Whatever JSON can hold; NaN and infinity it cannot.
    kind : str
        What the file is; :func:`read_tensors` wants the same.

    Raises
    ------
    OSError
        If the file cannot be written; a file that was there before is untouched.
    ModuleNotFoundError
        If safetensors is not installed; see :func:`need_safetensors`.
    """
    need_safetensors()
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    text = json.dumps(about, sort_keys=True)
    metadata = {
        "format": f"{FORMAT} {kind}",
        "version": str(VERSION),
        "about": text,
        "sha256": _digest(arrays, text),
    }
    with replacing(path) as new:
        try:
            save_file(arrays, new, metadata)  # from the arrays' own memory, without a copy
        except SafetensorError as error:
            raise _os_error(error, path) from error


def read_tensors(path: Path, kind: str = "checkpoint") -> tuple[dict[str, NDArray[Any]], Any]:
    """Read a file of :func:`write_tensors`, and check every bit of it.

    Parameters
    ----------
    path : Path
    kind : str
        What the file must be.

    Returns
    -------
    dict of arrays
        The arrays by name.
    object
        What was said about them. Like the arrays it is as the writer meant it, whoever that was:
        the caller looks at every field before it is used.

    Raises
    ------
    ValueError
        If the file is foreign, of another kind or version, cut short or damaged.
    OSError
        If it cannot be read.
    MemoryError
        If it would not fit in memory.
    ModuleNotFoundError
        If safetensors is not installed; see :func:`need_safetensors`.
    """
    need_safetensors()
    from safetensors import SafetensorError, safe_open

    descriptor = open_plain(path)  # which safe_open would wait on, were it a pipe
    size = os.fstat(descriptor).st_size
    os.close(descriptor)
    require_memory(size, f"the arrays of {path}")
    foreign = (
        f"{path} must be a {kind} of {FORMAT}, got another kind of file, or one that is cut short "
        "or damaged"
    )
    try:
        # read, not mapped: a file that shrinks under a map kills the process
        with safe_open(path, framework="np", backend="pread") as file:
            metadata = file.metadata() or {}
            _check(path, metadata, kind)
            for name in file.keys():
                if file.get_slice(name).get_dtype() not in DTYPES:
                    raise ValueError(f"{foreign}: {name} is of no dtype of {FORMAT}'s")
            arrays = file.get_tensors()
    except SafetensorError as error:
        raise ValueError(f"{foreign} ({error})") from None
    about = str(metadata.get("about"))
    if metadata.get("sha256") != _digest(arrays, about):
        raise ValueError(f"{path} is damaged: its checksum does not fit its content")
    return arrays, parse_json(f"{path}: about", about)


def need_safetensors() -> None:
    """Say what to install where safetensors is missing, before there is something to lose.

    Raises
    ------
    ModuleNotFoundError
        If it is, or is older than 0.8, which first wrote and read without a copy.
    """
    try:
        from safetensors import TensorSpec  # noqa: F401
    except ImportError:
        raise ModuleNotFoundError(
            "files of sparsegrad are safetensors files, and need its library, 0.8 or later: "
            "pip install 'sparsegrad-rtrl[files]'"
        ) from None


def _check(path: Path, metadata: dict[str, str], kind: str) -> None:
    if metadata.get("format") != f"{FORMAT} {kind}":
        given = metadata.get("format") or "another program's file"
        raise ValueError(f"{path} must be a {kind} of {FORMAT}, got {given}")
    if metadata.get("version") != str(VERSION):
        raise ValueError(
            f"{path} must be of {kind} version {VERSION}, got version "
            f"{metadata.get('version')}: use the {FORMAT} that wrote it"
        )


def _digest(arrays: dict[str, NDArray[Any]], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _os_error(error: Exception, path: Path) -> OSError:
    """Return the library's error as the operating system's own, where its number is told."""
    number = re.search(r"os error (\d+)", str(error))
    if number is None:
        return OSError(f"cannot write {path}: {error}")
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path))
