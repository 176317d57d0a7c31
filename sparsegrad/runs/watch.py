"""What a run shows while it runs: a live bar on a terminal, now and then a line in a pipe."""

import sys
import time
from typing import Any

from sparsegrad.runs.events import EventLog
from sparsegrad.runs.settings import Settings
from sparsegrad.system.bar import Bar

BAR = 8
"""Characters of the bar."""
PAUSE = 2.0
"""Seconds between lines, at least."""


class Watch:
    """The bar or the lines of one run, on stdout.

    Parameters
    ----------
    settings : Settings
        With the budget.
    quiet : bool
        Show nothing.
    log : EventLog, optional
        Gets every report.
    """

    def __init__(
        self, settings: Settings, quiet: bool = False, log: EventLog | None = None
    ) -> None:
        self._log = log
        self._tokens, self._seconds = settings.tokens, settings.seconds
        self._quiet = quiet
        self._line: dict[str, Any] = {}
        self._said = 0.0
        self._bar: Bar | None = None
        if not quiet and (bar := Bar(sys.stdout, 1.0, BAR)).shown:
            self._bar = bar
            bar.show("compiling")

    def __enter__(self) -> "Watch":
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.__exit__()

    def advance(self, tokens: int, seconds: float, rate: float) -> None:
        """Show how far the run is, and how fast, in tokens per second."""
        if self._bar is None:
            return
        done = self._done(tokens, seconds)
        left = _clock(self._left(tokens, seconds, rate)) if rate > 0 else "?"
        shown = [f"{left} left", f"{rate:,.0f} tokens/s", *words(self._line), f"{tokens:,} tokens"]
        while len(shown) > 1 and len("  ".join(shown)) > self._bar.room:
            shown.pop()
        self._bar.show("  ".join(shown), done)

    def report(self, line: dict[str, Any], last: bool = False) -> None:
        """Show a report; in a pipe not more often than is of use."""
        self._line = line
        if self._log is not None:
            self._log.add(line)
        now = time.monotonic()
        if self._bar is None and not self._quiet and (last or now - self._said >= PAUSE):
            self._said = now
            head = f"{line['tokens']:,} tokens  {line['seconds']:.0f} s"
            try:
                print("  ".join([head, *words(line)]), flush=True)
            except OSError:  # nobody reads any more, as in `| head`, or the disk is full
                self._quiet = True  # of lines; the run goes on

    def _done(self, tokens: int, seconds: float) -> float:
        by_tokens = tokens / self._tokens if self._tokens else 0.0
        by_seconds = seconds / self._seconds if self._seconds else 0.0
        return min(max(by_tokens, by_seconds), 1.0)

    def _left(self, tokens: int, seconds: float, rate: float) -> float:
        left = []
        if self._tokens:
            left.append((self._tokens - tokens) / rate)
        if self._seconds:
            left.append(self._seconds - seconds)
        return max(min(left), 0.0)


def words(line: dict[str, Any]) -> list[str]:
    """Return the numbers of a report as words, in one order."""
    known = {
        "loss": "loss {:.4g}",
        "length": "L {:.0f}",
        "bits_per_bit": "{:.3f} bits/bit",
        "bits_per_character": "{:.3f} bits/char",
        "held_out_bits_per_character": "held out {:.3f}",
        "rmse": "rmse {:.4g}",
        "rmse_persistence": "persistence {:.4g}",
        "rmse_mean": "running mean {:.4g}",
        "density": "density {:.2%}",
    }
    return [text.format(line[name]) for name, text in known.items() if name in line]


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
