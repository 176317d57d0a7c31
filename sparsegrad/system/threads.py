"""Numba's threads: whether this process has them, and who may use them at a time."""

import contextlib
import os
import threading

import numba

_started = False  # by this process, or by the one that it was forked from
_lost = False  # in a fork: the threads of the parent are not there
_PARALLEL = threading.Lock()


def start_threads() -> int:
    """Start Numba's threads and return their number.

    A loop out of Numba's cache would not start them, and crash.
    """
    global _started
    _started = True
    return numba.get_num_threads()


def _in_child() -> None:
    global _lost, _PARALLEL
    _lost, _PARALLEL = _started, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def parallel_turn(threads: int) -> contextlib.AbstractContextManager[object]:
    """Return what a call that uses so many threads must hold meanwhile.

    Numba's own scheduler ("workqueue", where neither TBB nor OpenMP is there) kills the process
    when two callers meet: they take turns. After a fork the threads are gone, and would be waited
    for without end.

    Raises
    ------
    RuntimeError
        If more than one thread is wanted in a fork of a process that had started them.
    """
    if threads == 1:
        return _NOBODY
    if _lost:
        raise RuntimeError(
            f"threads must be 1 in a process forked from one that had started Numba's, got "
            f"{threads}: pass threads=1, or start processes by multiprocessing's 'spawn'"
        )
    try:
        layer = numba.threading_layer()
    except ValueError:  # not chosen before the first parallel call
        layer = "workqueue"
    return _PARALLEL if layer == "workqueue" else _NOBODY


_NOBODY = contextlib.nullcontext()
