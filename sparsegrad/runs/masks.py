"""How the masks of a run change: schedules from words, and back."""

import math
from typing import TYPE_CHECKING, Any

from sparsegrad.system.quantities import parse_number

if TYPE_CHECKING:  # as in settings: `--help` must answer at once
    from sparsegrad.learning.rewiring import Pruning, Rewiring

PRUNE = "FINAL, or FINAL:BEGIN:END:EVERY, such as 95% or 95%:0:60k:1k"
REWIRE = "RULE:FRACTION:EVERY, or RULE:FRACTION:EVERY:UNTIL, such as rigl:0.1:1000"
_PART = 0.75
"""Part of a budget after which masks stay, where no step is named."""
_TIMES = 50
"""Prunings within that part."""


def resolved_prune(word: str | None, steps: int | None) -> str | None:
    """Return a schedule of pruning with all its steps: from a budget where it names none.

    Parameters
    ----------
    word : str or None
        As `PRUNE` has it.
    steps : int or None
        Time steps of the budget.

    Raises
    ------
    ValueError
        If it is no such word, or there is no budget of steps.
    """
    if word is None or len(_parts("prune", word, PRUNE, (1, 4))) == 4:
        return word
    end = _end("prune", word, steps, "BEGIN:END:EVERY")
    return f"{word}:0:{end}:{max(1, end // _TIMES)}"


def resolved_rewire(word: str | None, steps: int | None) -> str | None:
    """Return a schedule of rewiring with its last step; as :func:`resolved_prune`."""
    if word is None or len(_parts("rewire", word, REWIRE, (3, 4))) == 4:
        return word
    return f"{word}:{_end('rewire', word, steps, 'UNTIL')}"


def pruning(word: str) -> "Pruning":
    """Return the schedule that a resolved word names.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    from sparsegrad.learning.rewiring import Pruning

    final, *steps = _parts("prune", word, PRUNE, (4,))
    return Pruning(parse_number("prune", final), *(_whole("prune", step) for step in steps))


def rewiring(word: str, seed: int) -> "Rewiring":
    """Return the schedule that a resolved word names, as :func:`pruning`."""
    from sparsegrad.learning.rewiring import Rewiring

    rule, fraction, every, until = _parts("rewire", word, REWIRE, (4,))
    share = parse_number("rewire", fraction)
    return Rewiring(share, _whole("rewire", every), _whole("rewire", until), rule, seed)


def check_masks(prune: str | None, rewire: str | None) -> None:
    """Refuse words that name no schedule, whatever the budget.

    Raises
    ------
    ValueError
        In the words of the schedule itself.
    """
    if prune is not None:
        pruning(str(resolved_prune(prune, 1000)))
    if rewire is not None:
        rewiring(str(resolved_rewire(rewire, 1000)), 0)


def density(cell: Any) -> float:
    """Return which part of a cell's matrices exists."""
    names = [name for name in cell.places if name.endswith(("weight_hh", "weight_ih"))]
    sizes = [math.prod(cell.dense_shape(name)) for name in names]
    return sum(cell.places[name][1].size for name in names) / max(sum(sizes), 1)


def _parts(name: str, word: str, form: str, counts: tuple[int, ...]) -> list[str]:
    parts = word.split(":")
    if len(parts) not in counts or not all(parts):
        raise ValueError(f"{name} must be {form}, got {word!r}")
    return parts


def _end(name: str, word: str, steps: int | None, missing: str) -> int:
    if steps is None:
        raise ValueError(f"{name} must name its steps, {word}:{missing}, where seconds end a run")
    return max(1, int(_PART * steps))


def _whole(name: str, word: str) -> int:
    number = parse_number(name, word)
    if number != int(number):
        raise ValueError(f"{name} must have whole numbers of steps, got {word!r}")
    return int(number)
