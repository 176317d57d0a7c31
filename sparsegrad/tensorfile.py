"""Named arrays in one file, in the safetensors format: written whole or not at all, checked.

    8 bytes, length of the header | the header, JSON | the arrays, little-endian, one after another

The format is simple enough to be written without its library, and without a second copy of the
arrays; any program that reads safetensors reads these files. The header's ``__metadata__`` holds
what the arrays alone do not say, as JSON, and a SHA-256 of that and of all arrays.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

FORMAT = "sparsegrad checkpoint"
VERSION = 1
_DTYPES = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U64": "<u8", "BOOL": "|b1"}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # bytes; the library's own limit


def write_tensors(path: Path, tensors: dict[str, NDArray[Any]], about: dict[str, Any]) -> None:
    """Write arrays and what is to be known of them into one file, whole or not at all.

    Parameters
    ----------
    path : Path
        Replaced only once the new file is complete and on the disk.
    tensors : dict of arrays
        Of float32, float64, int32, int64, uint64 or bool.
    about : dict
        Whatever JSON can hold.

    Raises
    ------
    OSError
        If the file cannot be written; a file that was there before is untouched.
    """
    arrays = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    text = json.dumps(about, sort_keys=True)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "about": text,
        "sha256": _digest(arrays, text),
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, start + array.nbytes],
        }
        start += array.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)  # the arrays begin on a multiple of eight bytes
    with _Replacement(path) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for array in arrays.values():
            file.write(_bytes(array))


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read a file of :func:`write_tensors`, and check every bit of it.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of arrays
        The arrays by name.
    dict
        What was said about them.

    Raises
    ------
    ValueError
        If the file is foreign, of another version, cut short or damaged.
    OSError
        If it cannot be read.
    """
    with open(path, "rb") as file:
        header = _header(path, file)
        metadata = header.pop("__metadata__", None)
        if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
            raise ValueError(f"{path} must be a checkpoint of sparsegrad, got another program's")
        if metadata.get("version") != str(VERSION):
            raise ValueError(
                f"{path} must be of checkpoint version {VERSION}, got version "
                f"{metadata.get('version')}: use the sparsegrad that wrote it"
            )
        arrays = _arrays(path, file, header)
    if metadata.get("sha256") != _digest(arrays, str(metadata.get("about"))):
        raise ValueError(f"{path} is damaged: its checksum does not fit its content")
    return arrays, json.loads(metadata["about"])


def _header(path: Path, file: BinaryIO) -> dict[str, Any]:
    foreign = f"{path} must be a checkpoint of sparsegrad, got another kind of file"
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > _LONGEST_HEADER:
        raise ValueError(foreign)
    if size < 8 + length:
        raise ValueError(f"{path} is cut short, or another kind of file than a checkpoint")
    try:
        header = json.loads(file.read(length))
    except ValueError:  # neither UTF-8 nor JSON
        raise ValueError(foreign) from None
    if not isinstance(header, dict):
        raise ValueError(foreign)
    return header


def _arrays(path: Path, file: BinaryIO, header: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Read the arrays, which must fill the rest of the file exactly, in the header's order."""
    damaged = f"{path} is damaged: its header does not describe its content"
    start = file.tell()
    left = os.fstat(file.fileno()).st_size - start
    arrays, at = {}, 0
    for name, entry in header.items():
        try:
            dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
            begin, end = entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise ValueError(damaged) from None
        if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
            raise ValueError(damaged)
        count = 1
        for n in shape:
            count *= n
        if begin != at or end - begin != count * dtype.itemsize:
            raise ValueError(damaged)
        if end > left:
            raise ValueError(f"{path} is cut short: {start + end} bytes or more were written")
        arrays[name] = np.fromfile(file, dtype, count).reshape(shape)
        at = end
    if at != left:
        raise ValueError(damaged)
    return arrays


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _digest(arrays: dict[str, NDArray[Any]], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(_bytes(array))
    return digest.hexdigest()


class _Replacement:
    """A file that takes another's place when it is complete and on the disk, or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> BinaryIO:
        descriptor, self._name = tempfile.mkstemp(
            dir=self._path.parent, prefix=f".{self._path.name}."
        )
        self._file = os.fdopen(descriptor, "wb")
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            try:
                if kind is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
            finally:
                self._file.close()
            if kind is None:
                mask = os.umask(0)  # a temporary file is private; the result should not be
                os.umask(mask)
                os.chmod(self._name, 0o666 & ~mask)
                os.replace(self._name, self._path)
        finally:
            Path(self._name).unlink(missing_ok=True)
