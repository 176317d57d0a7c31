"""Where compiled kernels are kept on a machine where Numba finds no place for them.

Numba keeps them in NUMBA_CACHE_DIR, beside their source or in the user's own cache folder, and
refuses to define a cached function where it may write to none of these: a read-only install of a
user without a home, as in many containers. Then a temporary folder of the user's own serves.

A file of the cache that a full disk or a killed process cut short would end every later start in an
error of pickle: it is dropped, and what it held compiled anew.
"""

import os
import stat
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import IndexDataCacheFile
from numba.misc.appdirs import AppDirs

_LAST = Path("/dev/shm")  # in memory; containers with read-only disks have it too


def _ensure_place() -> None:
    """Let Numba keep kernels in a temporary folder if it may write nowhere else."""
    try:
        numba.njit(cache=True)(_folder)  # defines it, which looks for a place; compiles nothing
    except RuntimeError:
        numba.config.CACHE_DIR = str(_folder())  # type: ignore[attr-defined]


def folder_for(name: str) -> Path:
    """Return a folder of that name for kernels: in Numba's cache, where the user or we chose one.

    Otherwise it is in the user's own cache folder, or a temporary one.
    """
    chosen = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    if chosen:
        folder = Path(chosen) / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    own = Path(AppDirs(appname="numba", appauthor=False).user_cache_dir) / name
    if _is_safe(own, parents=True):
        return own
    last = _folder() / name
    last.mkdir(mode=0o700, exist_ok=True)
    return last


def _folder() -> Path:
    """Return a temporary folder that nobody else may write to."""
    user = str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    for parent in (_temporary(), _LAST):
        folder = parent / f"sparsegrad-numba-{user}"
        if _is_safe(folder):
            return folder
    raise OSError(
        "sparsegrad needs a folder to keep its compiled kernels in, and may write to none; "
        "set NUMBA_CACHE_DIR to one that is writable"
    )


def _is_safe(folder: Path, parents: bool = False) -> bool:
    """Make a folder; tell if nobody else may write to it: what is read from it is run."""
    try:
        folder.mkdir(mode=0o700, parents=parents, exist_ok=True)
        about = folder.lstat()
    except OSError:
        return False
    own = not hasattr(os, "getuid") or about.st_uid == os.getuid()
    shared = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return bool(stat.S_ISDIR(about.st_mode) and own and not shared and os.access(folder, os.W_OK))


def _temporary() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:  # none is writable
        return _LAST


class _Forgiving:
    """Numba's two ways to read a file of its cache, for files that may be damaged.

    They take the places of Numba's own: a damaged file of any function means the same.
    """

    load_index = IndexDataCacheFile._load_index
    load_data = IndexDataCacheFile._load_data

    @staticmethod
    def drop(path: str) -> None:
        warnings.warn(
            f"{path} is cut short or damaged: dropped, what it held is compiled anew", stacklevel=2
        )
        Path(path).unlink(missing_ok=True)

    @classmethod
    def index(cls, file: Any) -> Any:
        try:
            return cls.load_index(file)
        except OSError:
            raise
        except Exception:  # pickle raises what it likes at bytes that are none of its own
            cls.drop(file._index_path)
            return {}

    @classmethod
    def data(cls, file: Any, name: str) -> Any:
        try:
            return cls.load_data(file, name)
        except OSError:
            raise
        except Exception:
            path = file._data_path(name)
            cls.drop(path)
            raise FileNotFoundError(path) from None  # which Numba takes for: not there yet


_ITS_OWN: Any = IndexDataCacheFile  # a type checker wants no method replaced
_ITS_OWN._load_index = lambda file: _Forgiving.index(file)
_ITS_OWN._load_data = lambda file, name: _Forgiving.data(file, name)
_ensure_place()
