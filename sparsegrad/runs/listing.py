"""Which runs lie below a folder, how far each is, and whether it still runs.

What is there may be anybody's: a file is believed once it bears our mark and says what ours do, and
nothing is written, followed out of the folder or waited for.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sparsegrad.runs.folder import METRICS, bears, is_locked, read_metrics
from sparsegrad.runs.run import DIVERGED, FINISHED, stored_settings
from sparsegrad.system.quantities import aligned
from sparsegrad.system.reading import read_object
from sparsegrad.tasks import Chars, Copy, Stream

DEPTH = 5
"""Folders within folders that are looked into."""
RUNNING, STOPPED, DAMAGED = "running", "stopped", "damaged"
_MEASURES = {"copy": Copy.measure, "chars": Chars.measure, "stream": Stream.measure}


class Listed(NamedTuple):
    """A run, in words.

    Attributes
    ----------
    path : str
        Below the folder that was looked into.
    task, method, tokens, score : str
        ``-`` where it is not known yet.
    state : str
        ``running``, ``finished``, ``stopped``, ``diverged``, or ``damaged`` where a file of the run
        is none.
    """

    path: str
    task: str
    method: str
    tokens: str
    score: str
    state: str


def list_runs(folder: Path) -> list[Listed]:
    """Return the runs below a folder, or of the folder itself, by path.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    OSError
        If it cannot be read; a folder below it that cannot is passed over.
    """
    os.listdir(folder)  # says why not
    return [_listed(path, path.relative_to(folder)) for path in sorted(_folders(folder))]


def _folders(top: Path) -> Iterator[Path]:
    """Yield the folders with a config.json of ours; links are not followed."""
    for path, below, files in os.walk(top):
        found = Path(path)
        if "config.json" in files and bears(found / "config.json"):
            yield found
        if len(found.relative_to(top).parts) >= DEPTH:
            below.clear()


def _listed(path: Path, name: Path) -> Listed:
    try:
        settings = stored_settings(path / "config.json", read_object(path / "config.json") or {})
        lines = read_metrics(path / METRICS)
        summary = read_object(path / "summary.json") or {}
    except (OSError, ValueError, KeyError):
        return Listed(str(name), "-", "-", "-", "-", DAMAGED)
    last: dict[str, Any] = lines[-1] if lines else {}
    tokens = max(last.get("tokens", 0), summary["tokens"] if _counts(summary) else 0)
    measure = _MEASURES.get(settings["task"], "loss")
    # a run that ended was scored as a whole; what is not in its summary stands in the last report
    scores = last | (summary if _ended(summary, last) else {})
    score = next(
        (
            f"{key} {scores[key]:.4g}"
            for key in (f"held_out_{measure}", measure, "loss")
            if isinstance(scores.get(key), int | float)
        ),
        "-",
    )
    return Listed(
        str(name),
        str(settings["task"]),
        str(settings.get("method", "-")),
        f"{tokens:,}" if tokens else "-",
        score,
        _state(path, summary, last),
    )


def _state(path: Path, summary: dict[str, Any], last: dict[str, Any]) -> str:
    """Return how a run is."""
    if is_locked(path):
        return RUNNING
    return str(summary["status"]) if _ended(summary, last) else STOPPED


def _ended(summary: dict[str, Any], last: dict[str, Any]) -> bool:
    """Whether a run ended; a summary from before the last report is of an earlier process."""
    newest = _counts(summary) and summary["tokens"] >= last.get("tokens", 0)
    return newest and summary.get("status") in (FINISHED, DIVERGED)


def _counts(summary: dict[str, Any]) -> bool:
    return type(summary.get("tokens")) is int


def runs_table(rows: list[Listed]) -> str:
    """Return the runs as a table."""
    lines = aligned([("run", *Listed._fields[1:]), *rows], left=True)
    return "".join(f"{line}\n" for line in lines)
