"""Quantities as people write them: counts, bytes, seconds, shares; to words and from words."""

import math
import re
import reprlib
from collections.abc import Sequence

_PARTS = {"%": 100.0, "k": 1e-3, "M": 1e-6, "G": 1e-9}
_BYTES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def count(number: float) -> str:
    """Return a count in at most five characters: 999, 15.7k, 1.18M, 52.9G."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if number < 999.5:
            return f"{number:.0f}" if unit == "" else f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}E"


def size(number: float) -> str:
    """Return bytes in binary units: 61 KiB, 4.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1023.5:
            return f"{number:.0f} {unit}" if unit == "B" else f"{_three(number)} {unit}"
        number /= 1024
    return f"{_three(number)} PiB"


def duration(seconds: float) -> str:
    """Return seconds in the unit that fits: 85.1 us, 1.06 ms, 2.31 s."""
    for unit, scale in (("ns", 1e9), ("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{_three(seconds * scale)} {unit}"
    return f"{_three(seconds)} s"


def ratio(number: float | None) -> str:
    """Return a ratio: 0.0059, 0.73, 25.2, 2065."""
    if number is None:
        return "-"
    return count(number) if number >= 99.95 else f"{number:.2g}" if number < 0.1 else _two(number)


def share(part: float | None) -> str:
    """Return a part of a whole: 52%, 1.6%."""
    if part is None:
        return "-"
    return f"{100 * part:.0f}%" if part >= 0.0995 else f"{100 * part:.2g}%"


def percent(sparsity: float) -> str:
    """Return a sparsity as people write it: 75%, 98.44%, 99.9996%, never 100%."""
    digits = 4
    while float(text := f"{100 * sparsity:.{digits}g}") == 100:
        digits += 1
    return f"{text}%"


def parse_number(name: str, word: str) -> float:
    """Return the number that a word means: 0.5, 1e-3, 75%, 200k, 10M.

    Parameters
    ----------
    name : str
        Of the setting, for the message.
    word : str

    Raises
    ------
    ValueError
        If it means none, or one that is not finite.
    """
    parts = _PARTS.get(word[-1:], 0.0)
    try:
        number = float(word[:-1]) / parts if parts else float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"{name} must be a number such as 0.001, 75% or 10M, got {reprlib.repr(word)}"
        )
    return number


def parse_whole(name: str, word: str) -> int:
    """Return the whole number that a word means.

    Raises
    ------
    ValueError
        If it means none.
    """
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"{name} must be a whole number, got {word!r}") from None


def parse_bytes(name: str, word: str) -> float:
    """Return the bytes that a word means: 16GiB, 500 MB, 1e9.

    Raises
    ------
    ValueError
        If it means none.
    """
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?) *([kmgt]?)(i?)b?", word.strip().lower())
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    if match is None or math.isnan(number):
        raise ValueError(f"{name} must be a number of bytes such as 16GiB or 500MB, got {word!r}")
    return number * (1024 if match[3] else 1000) ** _BYTES[match[2]]


def _three(number: float) -> str:
    """Three digits, never in exponential form."""
    return f"{number:.{0 if number >= 99.95 else 1 if number >= 9.995 else 2}f}"


def _two(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.1f}"


def aligned(rows: Sequence[Sequence[str]], left: bool = False) -> list[str]:
    """Return the rows of a table as lines, its columns two blanks apart, aligned at their right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pad = str.ljust if left else str.rjust
    return ["  ".join(map(pad, row, widths)).rstrip() for row in rows]
