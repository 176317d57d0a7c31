"""Exact costs from patterns alone: entries of J, multiply-adds of a step, bytes; and what fits.

For a pattern with reach R(w) of weight w,

    entries       = Σ_w |R(w)|                                    numbers of J that are kept
    multiply-adds = Σ_w |{(i, m) : D[i, m] ≠ 0, i and m in R(w)}|    of D·J, per step
    bytes         = entries · itemsize

each times the batch. Adding I to J is not counted: it is one addition per entry of I.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

if TYPE_CHECKING:
    from sparsegrad.pattern import ReachPattern


class Cost(NamedTuple):
    """What one influence matrix costs, for a whole batch.

    Attributes
    ----------
    entries : int
        Numbers of J that are kept.
    multiply_adds : int
        Multiply-adds of D·J in one step.
    bytes : int
        Bytes of those entries, without padding or structure.
    """

    entries: int
    multiply_adds: int
    bytes: int


def price(entries: int, multiply_adds: int, batch: int, dtype: DTypeLike) -> Cost:
    """Cost of a batch of J, each with so many entries and multiply-adds."""
    itemsize = np.dtype(dtype).itemsize
    if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
    if isinstance(batch, bool) or not isinstance(batch, int | np.integer):
        raise TypeError(f"batch must be an integer >= 1, got {batch!r}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}; pass the number of sequences")
    batch = int(batch)
    return Cost(batch * entries, batch * multiply_adds, batch * entries * itemsize)


def bptt_multiply_adds(pattern: "ReachPattern", batch: int = 1) -> int:
    """Multiply-adds per step of BPTT on the same sparse net: three per weight.

    One for the forward pass, one for the error that flows back, one for the weight's gradient.
    """
    return 3 * pattern.shape[0] * batch


def dense_rtrl_multiply_adds(pattern: "ReachPattern", batch: int = 1) -> int:
    """Multiply-adds per step of RTRL with D and J stored dense: units² · weights."""
    weights, units = pattern.shape
    return units * units * weights * batch


def _first_number(path: Path) -> int | None:
    """First word of a file as a number, or None where there is no such file or number."""
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _meminfo_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def _cgroup_available() -> int | None:
    """Bytes left under the container's limit, the page cache that it may drop included."""
    root = Path("/sys/fs/cgroup")
    for folder, limit, used, cache in (
        (root, "memory.max", "memory.current", "inactive_file"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
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
