"""Signals that ask a run to stop, heard where it can save first."""

import os
import signal
import threading
from types import FrameType
from typing import Any

PARENT = "SPARSEGRAD_PARENT"
"""Variable with the process that a run is made for, and must not outlive."""


class StopWish:
    """Ctrl-C and SIGTERM as a wish that is heard between two draws; a second one is not kept.

    A run of `compare` also ends when that is gone, killed perhaps; else it would hold its folder.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._old: dict[int, Any] = {}
        self._parent = int(os.environ.get(PARENT, 0))

    @property
    def asked(self) -> bool:
        """Whether a signal came, or the process that this one runs for is gone."""
        if self.number is None and self._parent not in (0, os.getppid()):
            self.number = signal.SIGTERM
        return self.number is not None

    def __enter__(self) -> "StopWish":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
