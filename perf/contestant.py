"""What a process of `worker.py` holds: one way to do a workload's step."""

from collections.abc import Callable
from dataclasses import dataclass, field

from scipy import sparse


class DoesNotFitError(Exception):
    """Why a contestant does not take part."""


@dataclass
class Contestant:
    """One way to do a workload's step."""

    step: Callable[[], object]
    result: Callable[[], sparse.csr_array] | None = None
    """What one call from the start makes, to be compared with the others'; None: not compared."""
    steps: int = 1
    """Time steps in one call."""
    about: dict[str, object] = field(default_factory=dict)
    """What it costs, in numbers that need no clock."""
