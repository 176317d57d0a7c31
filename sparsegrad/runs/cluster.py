"""A Dask cluster as an executor of `concurrent.futures`."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import Any

CONNECT = 10.0
"""Seconds in which a scheduler must answer, at first and whenever it was out of reach."""
GLANCE = 0.5


class _Cluster(Executor):
    """Dask's own executor, whose futures fail once the scheduler is gone: alone they wait on."""

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._executor = client, client.get_executor(pure=False)
        self._gone = ConnectionError(f"the scheduler {address} is gone")
        self._futures: list[Future[Any]] = []
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def submit(self, call: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        """Send a call to the cluster."""
        if self._client.status != "running":
            raise self._gone
        future: Future[Any] = self._executor.submit(call, *given, **named)
        self._futures.append(future)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Watch no more."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(GLANCE):
            if self._client.status in ("closing", "closed"):
                for future in self._futures:
                    with suppress(InvalidStateError):  # done
                        future.set_exception(self._gone)
                return


@contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """Connect to a Dask cluster.

    Parameters
    ----------
    address : str
        HOST:PORT of its scheduler.

    Yields
    ------
    Executor

    Raises
    ------
    ModuleNotFoundError
        If `distributed` is not installed.
    ValueError
        If nobody answers there.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ModuleNotFoundError(
            "--scheduler needs Dask's distributed: pip install 'sparsegrad-rtrl[dask]'",
            name="distributed",
        ) from None
    for name in ("distributed", "distributed.client", "tornado"):  # their news come as errors too
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=CONNECT)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"--scheduler must be HOST:PORT of a Dask scheduler that runs, got {address}: "
            f"{' '.join(str(error).split())}"
        ) from None
    with client, _Cluster(client, address) as executor:
        yield executor
