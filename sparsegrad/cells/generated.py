"""Kernels that are written by the library: kept in files, so that Numba keeps their machine code.

A file is named by a hash of what stands in it and of the kernels that it calls, so that it never
changes: it is written once, whole, by whoever comes first, and Numba's cache, which looks at the
age of a file, holds what any process compiled. The text that runs is the one in memory.
"""

import hashlib
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

import sparsegrad.kernels
from sparsegrad.kernels.compiler.cache import folder_for
from sparsegrad.kernels.compiler.pointers import INTERPRETED

_FOLDER = "sparsegrad-cells"


@cache
def module_of(text: str) -> ModuleType:
    """Return the module of a kernel's text, the same one for the same text.

    Raises
    ------
    OSError
        If there is no folder to write to.
    """
    key = hashlib.sha256(_version().encode() + text.encode()).hexdigest()[:24]
    name = f"sparsegrad_cell_{key}"
    path = f"<{name}>" if INTERPRETED else str(_kept(folder_for(_FOLDER), f"{name}.py", text))
    module = ModuleType(name)
    module.__file__ = path
    code = compile(text, path, "exec")
    sys.modules[name] = module  # where Numba's cached code looks for its globals
    exec(code, module.__dict__)
    return module


@cache
def _version() -> str:
    """Hash the kernels that a generated one may call: Numba's cache does not look at them."""
    key = hashlib.sha256()
    root = Path(str(sparsegrad.kernels.__file__)).parent
    for room in ("cells", "compiler", "vectors"):
        for path in sorted((root / room).glob("*.py")):
            key.update(path.name.encode() + b"\0" + path.read_bytes())
    return key.hexdigest()


def _kept(folder: Path, name: str, text: str) -> Path:
    """Return the path of a file that holds `text`, written if it is not there."""
    path, data = folder / name, text.encode()
    if _holds(path, data):
        return path
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        try:
            os.link(temporary, path)  # the first one stays: its age is in Numba's cache
        except OSError:  # there is one already, or the disk knows no links
            if not _holds(path, data):
                os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False
