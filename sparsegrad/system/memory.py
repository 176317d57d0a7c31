"""What fits: memory is counted before it is allocated."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")  # of both versions; inside a container this is its own
_MEMINFO = Path("/proc/meminfo")


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


def _cgroup_available() -> int | None:
    """Bytes left under the container's limit, the page cache that it may drop included."""
    for folder, limit, used, cache in (
        (_CGROUP, "memory.max", "memory.current", "inactive_file"),
        (
            _CGROUP / "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        most = _first_number(folder / limit)
        now = _first_number(folder / used)
        if most is None or now is None:
            continue  # "max": no limit here
        try:
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            stat = {}
        return max(most - now + int(stat.get(cache, 0)), 0)
    return None


def available_memory() -> int | None:
    """Bytes that can be allocated now without swapping; None where the system does not say."""
    known = [bytes_ for bytes_ in (_meminfo_available(), _cgroup_available()) if bytes_ is not None]
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
