"""How many processors this process may use, which on a shared machine are few of those there."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_processors() -> int:
    """Return how many processors this process may use, at least 1.

    The least of what the system grants (the set that ``taskset`` and batch systems give), the
    quota of the control groups around this process (containers), and ``NUMBA_NUM_THREADS``.
    """
    limits = [_granted(), _quota(), _asked()]
    return max(1, min(limit for limit in limits if limit is not None))


def _granted() -> int:
    if hasattr(os, "process_cpu_count"):  # Python 3.13; knows -X cpu_count too
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _asked() -> int | None:
    word = os.environ.get("NUMBA_NUM_THREADS", "")
    return int(word) if word.isdecimal() and int(word) > 0 else None


def _quota() -> int | None:
    """Return the least quota of the control groups from this process's own up, rounded up."""
    quotas = [
        quota
        for folder in _groups()
        for quota in (_ratio(folder, "cpu.max"), _ratio(folder, "cpu.cfs_quota_us",
                                                        "cpu.cfs_period_us"))
        if quota is not None
    ]  # fmt: skip
    return min(quotas, default=None)


def _groups() -> list[Path]:
    """Return the folders of this process's control groups, of both versions, and all above."""
    try:
        lines = _OWN.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    folders = [_CGROUP, _CGROUP / "cpu"]
    for line in lines:
        _, controllers, way = [*line.split(":", 2), "", ""][:3]
        root = _CGROUP if not controllers else _CGROUP / "cpu"
        if controllers and "cpu" not in controllers.split(","):
            continue
        own = root / way.strip("/")
        folders += [own, *(above for above in own.parents if above.is_relative_to(root))]
    return list(dict.fromkeys(folders))


def _ratio(folder: Path, *names: str) -> int | None:
    """Return quota by period, rounded up; None for "max", -1 or no file."""
    try:
        quota, period = " ".join((folder / name).read_text() for name in names).split()[:2]
        if int(quota) <= 0:
            return None
        return -(-int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None
