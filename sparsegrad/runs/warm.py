"""Compile all that a run needs, before it starts: a few steps of it, of which nothing is kept."""

import time
from typing import NamedTuple

from sparsegrad.runs.settings import Settings
from sparsegrad.system.compiling import compiling
from sparsegrad.tasks import Sequences

STEPS = 4
"""Steps that are learned from."""


class Warmed(NamedTuple):
    """What it took.

    Attributes
    ----------
    compiled : int
        Functions that were compiled; the others were kept from before.
    seconds : float
        Of all, with what was loaded.
    """

    compiled: int
    seconds: float


def warm(settings: Settings) -> Warmed:
    """Draw from a task, learn and evaluate a few steps, and predict one: what `Run` calls.

    Parameters
    ----------
    settings : Settings
        Of the run that will come; the pattern of its net is built, as large as it is.

    Raises
    ------
    ValueError, OSError, MemoryError
        As the run would.
    """
    before, start = compiling.count, time.perf_counter()
    task = settings.make_task()
    learner = settings.make_learner(task)
    drawn = _few(task.draw())
    learner.run(*drawn)
    if (held_out := task.held_out()) is not None:
        learner.evaluate(*_few(held_out))
    learner.follow(drawn.xs)
    learner.predict(drawn.xs)
    return Warmed(compiling.count - before, time.perf_counter() - start)


def _few(drawn: Sequences) -> Sequences:
    return Sequences(*(array[:STEPS] for array in drawn))
