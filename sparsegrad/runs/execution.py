"""The runs of a comparison, each a `sparsegrad train` in a process of its own, here or elsewhere.

An executor of `concurrent.futures` says where: threads of this process, each of which waits for one
run, or what a cluster offers. Its workers need sparsegrad, and the folder of the comparison under
the same path. A run whose worker is lost is given to the executor again, and goes on from its
checkpoint; one that failed by itself would fail again, and is not.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sparsegrad.runs.comparison import LOG, Entry
from sparsegrad.runs.folder import is_locked
from sparsegrad.runs.stop import PARENT, StopWish

STOP = ".stop"
"""A file beside the folders of the runs: all of them shall save and end."""
WORKERS = 4
"""Workers that a run may take, one after the other is lost, before it counts as failed."""
LEFT = 120.0
"""Seconds to wait for a process that a lost worker has left in a folder; it ends by itself."""
GLANCE = 0.05


class Lost(NamedTuple):
    """What an executor says of a run that did not come to an end of its own."""

    why: str


def run_all(
    entries: Sequence[Entry],
    jobs: int,
    tell: Callable[[Entry, int, int], None],
    executor: Executor | None = None,
) -> tuple[list[str], bool]:
    """Run what is not done.

    Parameters
    ----------
    entries : sequence of Entry
        Of one comparison.
    jobs : int
        Processes side by side, where no executor decides.
    tell : callable
        Called with an entry whenever one is done, with the number done and of all.
    executor : Executor, optional
        What starts the runs, as many at a time as it has workers: a ``ProcessPoolExecutor``, or
        Dask's ``client.get_executor(pure=False)``. It is not shut down. Default: threads here.

    Returns
    -------
    list of str
        Why each run that failed did.
    bool
        Whether Ctrl-C ended it; every run has saved its checkpoint.
    """
    waiting = [entry for entry in entries if not entry.done]
    if not waiting:
        return [], False
    done = len(entries) - len(waiting)
    stopping = waiting[0].path.absolute().parent / STOP
    with StopWish() as stop, _workers(jobs, executor, stopping) as workers:
        runs = _Runs(waiting, workers, 0.0 if executor is None else LEFT)
        while runs.going:
            if stop.asked:
                stopping.touch()
                runs.cancel()
            else:
                runs.start()
            for entry in runs.ended(stop.asked):
                done += 1
                tell(entry, done, len(entries))
    if runs.gone:
        stopping.touch()  # what a worker still does is to be gone on with: it shall save and end
    return runs.errors, stop.asked


class _Runs:
    """The runs that an executor has and those that it has not, and why some failed."""

    def __init__(self, waiting: Sequence[Entry], workers: Executor, left: float) -> None:
        self._waiting, self._workers, self._left = deque(waiting), workers, left
        self._running: dict[Future[str | None], Entry] = {}
        self._taken: Counter[Path] = Counter()
        self.errors: list[str] = []
        self.gone = False

    @property
    def going(self) -> bool:
        """Whether there is anything left to do or to wait for."""
        return bool(self._running or self._waiting)

    def start(self) -> None:
        """Give the executor what waits; one that is gone costs a line."""
        while self._waiting:
            entry = self._waiting[0]
            try:
                future = self._workers.submit(train_there, *_call(entry), self._left)
            except Exception as error:  # a pool that broke or was shut down, a cluster that is gone
                self.errors.append(
                    f"{len(self._waiting)} runs found no worker, {_in_a_line(error)}: the same "
                    "command goes on with them"
                )
                self._waiting.clear()
                self.gone = True
                return
            self._running[future] = self._waiting.popleft()
            self._taken[entry.path] += 1

    def cancel(self) -> None:
        """Leave what has not begun."""
        self._waiting.clear()
        self._running = {
            future: entry for future, entry in self._running.items() if not future.cancel()
        }

    def ended(self, stopped: bool) -> Iterator[Entry]:
        """Yield the runs that ended by now; those whose worker was lost wait again."""
        for future in futures.wait(self._running, GLANCE, futures.FIRST_COMPLETED).done:
            entry = self._running.pop(future)
            failure = _failure(future)
            again = isinstance(failure, Lost) and self._taken[entry.path] < WORKERS
            if again and not stopped and not entry.done:
                self._waiting.append(entry)
                continue
            if failure is not None and not stopped and not entry.done:
                why = failure.why if isinstance(failure, Lost) else failure
                self.errors.append(f"{entry.path.name}: {why}")
            yield entry


def train_there(path: Path, arguments: Sequence[str], here: Path, left: float = 0.0) -> str | None:
    """Run `sparsegrad train` in a folder to its end: what a worker does.

    Parameters
    ----------
    path : Path
        Folder of the run.
    arguments : sequence of str
        Of the command.
    here : Path
        The current folder of the comparison, from which files are named.
    left : float
        Seconds to wait for another process that still writes there.

    Returns
    -------
    str or None
        Why it failed, or None.
    """
    if not path.is_dir():
        return f"{path} must be a folder on every worker, {socket.gethostname()} has none there"
    limit = time.monotonic() + left
    while is_locked(path) and time.monotonic() < limit:
        time.sleep(GLANCE)
    # -P: a json.py in the current folder is no part of this program
    command = [sys.executable, "-P", "-m", "sparsegrad.cli", "train", *arguments]
    with open(path / LOG, "ab") as log:
        # in a session of its own: Ctrl-C reaches it through the comparison, once
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            cwd=here if here.is_dir() else path,
            env={**os.environ, "MPLBACKEND": "agg", PARENT: str(os.getpid())},
        )  # fmt: skip
    while child.poll() is None:
        if (path.parent / STOP).exists():
            child.send_signal(signal.SIGINT)  # it saves, and says so in its log
            child.wait()
        time.sleep(GLANCE)
    return _reason(child, path / LOG) if child.returncode else None


def _call(entry: Entry) -> tuple[Path, list[str], Path]:
    path = entry.path.absolute()
    arguments = [entry.settings.task, "--out", str(path), "--resume"]
    for name in ("tokens", "seconds"):
        value = getattr(entry.settings, name)
        if value is not None:
            arguments += [f"--{name}", repr(value)]
    return path, arguments, Path.cwd()


@contextmanager
def _workers(jobs: int, executor: Executor | None, stopping: Path) -> Iterator[Executor]:
    """Give the executor, or threads; no file that stops runs is there before nor after."""
    stopping.unlink(missing_ok=True)
    workers = futures.ThreadPoolExecutor(jobs) if executor is None else executor
    try:
        yield workers
    except BaseException:
        with contextlib.suppress(OSError):
            stopping.touch()
        raise
    finally:
        if executor is None:
            workers.shutdown(cancel_futures=True)
            stopping.unlink(missing_ok=True)
    stopping.unlink(missing_ok=True)


def _failure(future: "Future[str | None]") -> str | Lost | None:
    """Return why a run failed by itself, or how its worker was lost, or None."""
    try:
        return future.result(0)
    except futures.CancelledError:
        return Lost("its worker is gone")
    except Exception as error:
        return Lost(_in_a_line(error))


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _reason(child: "subprocess.Popen[bytes]", log: Path) -> str:
    """Return why a run failed; its log may end with the lines of one that still runs there."""
    if child.returncode < 0:
        return f"ended by {signal.Signals(-child.returncode).name}"
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if re.match(r"sparsegrad: |\w*(Error|Exception)\b", line)]
    return (errors or lines or ["no word"])[-1].removeprefix("sparsegrad: ")
