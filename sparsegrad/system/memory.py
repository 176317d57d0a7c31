"""What fits: memory is counted before it is allocated; and zeros that begin on a cache line."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import resource
except ImportError:  # not on Windows, which has no such limits
    resource = None  # type: ignore[assignment]

_CGROUP = Path("/sys/fs/cgroup")  # of both versions; inside a container this may be its own
_OWN_CGROUPS = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_OWN_SIZE = Path("/proc/self/statm")

# where a version's groups are mounted, its limit, what is used, and the cache that it may drop
_VERSIONS = {
    2: (".", "memory.max", "memory.current", "inactive_file"),
    1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}

_ALWAYS_THERE = 2**20  # bytes that nobody is asked for


def _first_number(path: Path) -> int | None:
    """First word of a file as a number, or None where there is no such file or number."""
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _meminfo_available() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def _own_groups() -> Iterator[tuple[int, PurePosixPath]]:
    """Version and path of the groups that this process is in, as far as they count memory."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            yield 2, PurePosixPath(path)
        elif "memory" in controllers.split(","):
            yield 1, PurePosixPath(path)
    yield 2, PurePosixPath("/")  # where a container's own group is mounted as the root
    yield 1, PurePosixPath("/")


def _cgroup_available() -> int | None:
    """Bytes left under the least limit of this process's groups and of all above them."""
    left = []
    for version, path in _own_groups():
        mount, limit, used, cache = _VERSIONS[version]
        names = [name for name in path.parts[1:] if name != ".."]
        for depth in range(len(names), -1, -1):
            folder = _CGROUP / mount / Path(*names[:depth])
            most, now = _first_number(folder / limit), _first_number(folder / used)
            if most is None or now is None:
                continue  # "max": no limit here; or no such group, as seen from a container
            try:
                lines = (folder / "memory.stat").read_text().splitlines()
                stat = dict(line.split() for line in lines)
            except (OSError, ValueError):
                stat = {}
            left.append(max(most - now + int(stat.get(cache, 0)), 0))
    return min(left, default=None)


def _address_space_available() -> int | None:
    """Bytes left under the limit of the process itself (``ulimit -v``)."""
    if resource is None:
        return None
    most, pages = resource.getrlimit(resource.RLIMIT_AS)[0], _first_number(_OWN_SIZE)
    if most == resource.RLIM_INFINITY or pages is None:
        return None
    return max(most - pages * resource.getpagesize(), 0)


def available_memory() -> int | None:
    """Bytes that can be allocated now without swapping; None where the system does not say."""
    limits = _meminfo_available(), _cgroup_available(), _address_space_available()
    known = [bytes_ for bytes_ in limits if bytes_ is not None]
    if known:
        return min(known)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def require_memory(needed: int, what: str, bytes_by_n: tuple[int, ...] = ()) -> None:
    """Refuse an allocation that does not fit, before it is made.

    Parameters
    ----------
    needed : int
        Bytes about to be allocated.
    what : str
        What they are for: the subject of the message.
    bytes_by_n : tuple of int
        Bytes that the same thing would need at n = 1, 2, ...; the message names the largest n
        that fits.

    Raises
    ------
    MemoryError
        If `needed` is more than the memory that is available.
    """
    if needed <= _ALWAYS_THERE:
        return  # asking the system takes 2 ms, which a small learner would spend a dozen times
    available = available_memory()
    if available is None or needed <= available:
        return
    fitting = [n for n, size in enumerate(bytes_by_n, start=1) if size <= available]
    if fitting:
        advice = f"the largest n that fits is {fitting[-1]}"
    elif bytes_by_n:
        advice = "no n fits"
    else:
        advice = "use a smaller n or a sparser net"
    raise MemoryError(
        f"{what} must fit in the available memory of {available / 2**30:.3g} GiB, "
        f"got {needed / 2**30:.3g} GiB; {advice}"
    )


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return zeros that begin on a cache line; pages are touched first by whoever writes them."""
    size = math.prod(shape) * dtype.itemsize  # np.prod would wrap
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
