"""What the commands say on stderr, and the statuses they end with."""

import contextlib
import sys
from typing import Any

from sparsegrad.system.quantities import percent

DISTRIBUTION = "sparsegrad-rtrl"
FAILED, INTERRUPTED = 2, 130
NO_PICTURE = f"no matplotlib, so no picture: pip install '{DISTRIBUTION}[plot]'"


def complain(message: str) -> None:
    """Say in one line on stderr what is wrong."""
    tell(f"sparsegrad: {' '.join(message.split())}")


def tell(text: str) -> None:
    """Say a line on stderr; where that is closed or full the command goes on without."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def words_of(error: Exception) -> str:
    """Return what an error says, in one line."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno is not None:  # all else names its file
        return f"cannot write to stdout: {error.strerror}"
    return str(error) or type(error).__name__


def net(settings: Any) -> str:
    """Return the task and the net of a run, for a title."""
    layers = "" if settings.layers == 1 else f"{settings.layers} layers of "
    return (
        f"{settings.task}, {settings.cell.upper()}, {layers}{settings.units} units "
        f"@ {percent(settings.sparsity)}, batch {settings.batch}"
    )
