"""Standard streams as they come: closed, full, read by nobody, of a small alphabet."""

import contextlib
import io
import os
import sys


def open_streams() -> None:
    """Put something in the place of standard streams that were closed, as by ``>&-``.

    A file that is opened later would get their numbers, and what is printed would end up in it.
    What a stream's encoding lacks is written as an escape.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def close_streams() -> None:
    """Write out what is left, so that the interpreter has nothing to complain about on its exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
        except ValueError:  # closed by whoever called
            continue
