"""Says on a terminal that kernels are being compiled, how many are done, and for how long.

A first call of a kind may take half a minute; kept on the disk, it does once. Numba tells of each
function that it compiles and not of those that it loads. How many are still to come nobody knows:
the types of one are found while its caller is compiled.
"""

import sys
import time
from collections.abc import Callable

from numba.core import event

OURS = "sparsegrad"


class Compiling(event.Listener):
    """Counts what is compiled of this package in this process.

    Attributes
    ----------
    count : int
        Functions compiled.
    seconds : float
        Time that it took.
    show : callable
        Given a line while something is compiled, and "" once nothing is; by default it puts the
        line on stderr where that is a terminal, and takes it away again.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self.count, self.seconds, self.show = 0, 0.0, show
        self._depth, self._since, self._before = 0, 0.0, 0

    def on_start(self, event: event.Event) -> None:
        """Hear that a function begins; those that it calls begin and end within it."""
        if self._is_ours(event):
            if not self._depth:
                self._since, self._before = time.perf_counter(), self.count
            self._depth += 1
            self._say()

    def on_end(self, event: event.Event) -> None:
        """Hear that a function is done."""
        if self._is_ours(event) and self._depth:
            self._depth, self.count = self._depth - 1, self.count + 1
            self._say()
            if not self._depth:
                self.seconds += time.perf_counter() - self._since
                self.show("")

    def _is_ours(self, event: event.Event) -> bool:
        function = getattr(event.data.get("dispatcher"), "py_func", None)
        return str(getattr(function, "__module__", "")).partition(".")[0] == OURS

    def _say(self) -> None:
        done, passed = self.count - self._before, time.perf_counter() - self._since
        self.show(f"compiling kernels, once: {done} done, {passed:.0f} s")


def on_terminal(text: str) -> None:
    """Show a line on stderr in the place of the last one; nothing where stderr is no terminal."""
    stream = sys.stderr
    try:
        if stream is not None and stream.isatty():
            stream.write(f"\r\x1b[K{text}")
            stream.flush()
    except (OSError, ValueError):  # gone, or closed: nobody reads it
        return


compiling = Compiling(on_terminal)
event.register("numba:compile", compiling)
