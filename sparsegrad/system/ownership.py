"""Who may change an object that kernels work on: nobody from outside, one thread at a time."""

import threading
from typing import Any


class SetOnce:
    """An object whose public attributes are set when it is built, and stay.

    Kernels trust them: one that was replaced could send them past the end of an array.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name in vars(self):
            kind = type(self).__name__
            raise AttributeError(f"{name} of a {kind} must stay as it is: build another {kind}")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} of a {type(self).__name__} must stay")


def refuse_second(turn: threading.Lock, what: str) -> None:
    """Refuse a call while another thread is in one; who holds `turn` is the one that is in.

    Call it before ``with turn:``, which no signal can leave locked. Of two threads that come at
    the very same time, the later one waits for its turn.

    Raises
    ------
    RuntimeError
        If the turn is taken.
    """
    if turn.locked():
        raise RuntimeError(
            f"the {what} must be used by one thread at a time, got a second call while it is busy; "
            "give each thread its own"
        )
