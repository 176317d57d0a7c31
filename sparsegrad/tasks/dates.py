"""Dates as numbers that a net can read: where in the day, the week and the year they stand."""

import math
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from sparsegrad.tasks.parsing import is_missing

YEAR = 365.2425
"""Days."""


def encoded(cells: Sequence[str], where: str) -> NDArray[np.float64]:
    """Return sine and cosine of each date's place in the day, the week and the year.

    Parameters
    ----------
    cells : sequence of str
        ISO 8601: ``2024-05-31``, ``2024-05-31 13:00``; the clock that is written counts, whatever
        the zone.
    where : str
        For the message.

    Returns
    -------
    float64 array, (len(cells), 6)
        NaN where a date is missing.

    Raises
    ------
    ValueError
        If a cell is no date.
    """
    turns = np.empty((len(cells), 3))
    for row, cell in enumerate(cells):
        if is_missing(cell):
            turns[row] = math.nan
            continue
        try:
            at = datetime.fromisoformat(cell.strip())
        except ValueError:
            raise ValueError(
                f"{where} must be numbers, or dates as 2024-05-31 13:00, got {cell.strip()!r} in "
                f"row {row}"
            ) from None
        day = (at.hour + (at.minute + at.second / 60) / 60) / 24
        turns[row] = day, (at.weekday() + day) / 7, (at.timetuple().tm_yday - 1 + day) / YEAR
    angles = 2 * np.pi * turns
    return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(len(cells), 6)
