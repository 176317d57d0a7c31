"""What a trained run answers: predictions of a table, a text that goes on; it stays as it is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.learning.checkpoint import Checkpoint, read_checkpoint
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import SGD
from sparsegrad.methods import BPTT
from sparsegrad.runs.folder import CHECKPOINT
from sparsegrad.runs.run import stored_settings
from sparsegrad.runs.settings import Settings
from sparsegrad.system.reading import read_object
from sparsegrad.system.schema import listed, maybe, record, whole, word
from sparsegrad.tasks import Chars, Forecast
from sparsegrad.tasks.stream import parse_horizon
from sparsegrad.tasks.table import Table, open_table, read_rows, refuse_missing

ROWS = 4096
"""Rows of a table that are predicted at a time."""


def read_run(path: Path, task: str) -> tuple[Settings, Checkpoint]:
    """Return the settings of a run in a folder and its last checkpoint; nothing is locked.

    Parameters
    ----------
    path : Path
        The run's folder.
    task : str
        That it must be of.

    Raises
    ------
    ValueError
        If there is no run, or one of another task, or one that has not learned yet.
    OSError
        If a file cannot be read.
    """
    stored = read_object(path / "config.json")
    if stored is None:
        raise ValueError(f"{path} must be the folder of a run, got none there: see train --out")
    settings = Settings(**stored_settings(path / "config.json", stored))
    if settings.task != task:
        raise ValueError(f"{path} must hold a run of {task}, got one of {settings.task}")
    if not (path / CHECKPOINT).exists():
        raise ValueError(f"{path} must hold a checkpoint, got none yet: let it train first")
    return settings, read_checkpoint(path / CHECKPOINT)


def reader(saved: Checkpoint, threads: int | None) -> OnlineLearner:
    """Return the net of a checkpoint at the start of one sequence, with nothing to learn by."""
    return OnlineLearner(saved.cell, saved.readout, BPTT(1), SGD(0.0), threads=threads)


def predict_table(path: Path, data: Path) -> Iterator[tuple[NDArray[Any], NDArray[Any] | None]]:
    """Predict a table row by row, from a state of 0 on, without learning.

    Parameters
    ----------
    path : Path
        Folder of a run of ``stream``.
    data : Path
        A table with the columns that the run had, or with those of its inputs alone: by their names
        where both have names.

    Yields
    ------
    float array, (rows, outputs)
        What is predicted at each row, by horizon and then by target, in the table's units.
    float array, (rows, outputs), or None
        What was to be predicted, where the table has targets; NaN where it has no such row.

    Raises
    ------
    OSError, ValueError
        If run or table cannot be read, or do not go together.
    """
    settings, saved = read_run(path, "stream")
    learner = reader(saved, settings.threads or None)
    table, dtype = open_table(data, settings.decimal), learner.cell.dtype
    horizons = parse_horizon(settings.horizon, settings.targets)
    told = saved.extra.get("task") if isinstance(saved.extra, dict) else None
    told = told if isinstance(told, dict) else {}
    had = told.get("columns") or _counted(settings, learner)
    had = _HAD(f"{path / CHECKPOINT}: columns", had)
    inputs, targets = _places(table, had)
    forecast = _forecast(settings, table, inputs, had)
    if (forecast.inputs, forecast.outputs) != (learner.cell.inputs, learner.readout.outputs):
        raise ValueError(f"{data} must have the columns of the run in {path}, got others")
    if told.get("forecast") is not None:
        forecast.go_by(told["forecast"], f"{path / CHECKPOINT}: forecast")
    for start in range(0, table.shape[0], ROWS):
        count = min(ROWS, table.shape[0] - start)
        rows = read_rows(table, start, count, inputs, dtype)
        if settings.missing == "refuse":
            refuse_missing(table, start, rows, inputs, dtype)
        unseen = np.full((count, forecast.columns - rows.shape[1]), np.nan)
        both = np.concatenate([rows, unseen], axis=1)[:, None]
        steps = forecast.take(both, learning=False)[0].part(-count)
        outputs = learner.follow(np.ascontiguousarray(steps.xs))
        found = forecast.in_units(steps, outputs).reshape(count, -1)
        wanted = None if targets is None else _ahead(table, start, count, targets, horizons, dtype)
        yield (found if settings.scale == "online" else outputs[:, 0]), wanted


_PLACES = listed(whole(0, 2**31))
_HAD = record({"names": maybe(listed(word())), "inputs": _PLACES, "targets": _PLACES,
               "of": whole(1, 2**31)})  # fmt: skip
"""The columns of the table that a run learned from."""


def _counted(settings: Settings, learner: OnlineLearner) -> dict[str, Any]:
    """Return the columns of a run that did not keep them: the inputs, then the targets."""
    inputs, outputs = learner.cell.inputs, learner.readout.outputs
    ahead = settings.targets == "0"
    targets = range(inputs) if ahead else range(inputs, inputs + outputs)
    of = inputs + (0 if ahead else outputs)
    return {"names": None, "inputs": [*range(inputs)], "targets": [*targets], "of": of}


def _places(table: Table, had: dict[str, Any]) -> tuple[list[int], list[int] | None]:
    """Return where a table has the inputs of a run, and where its targets if it has them."""
    inputs, targets, columns = had["inputs"], had["targets"], table.shape[1]
    if had["names"] is not None and table.names is not None:
        at = {name: place for place, name in enumerate(table.names)}
        wanted = [had["names"][column] for column in inputs]
        missing = [name for name in wanted if name not in at]
        if missing:
            raise ValueError(
                f"{table.path} must have the input columns of the run, got none of the name "
                f"{missing[0]!r}; it has {', '.join(map(repr, table.names[:20]))}"
            )
        aims = [at.get(had["names"][column], -1) for column in targets]
        return [at[name] for name in wanted], None if -1 in aims else aims
    if columns == had["of"]:
        return list(inputs), list(targets)
    others = [column for column in targets if column not in inputs]
    if columns != len(inputs):
        both = f" or {had['of']}, with the targets" if others else ""
        raise ValueError(
            f"{table.path} must have the {len(inputs)} input columns of the run{both}, "
            f"got {columns}"
        )
    aims = [inputs.index(column) if column in inputs else -1 for column in targets]
    return [*range(columns)], None if -1 in aims else aims


def _forecast(settings: Settings, table: Table, inputs: list[int], had: dict[str, Any]) -> Forecast:
    """Return a forecast of one stream: a row is the inputs, then the targets that are none."""
    starts = np.cumsum([0] + [table.width(column) for column in inputs]).tolist()
    others = [column for column in had["targets"] if column not in had["inputs"]]
    at = {column: starts[k] for k, column in enumerate(had["inputs"])}
    at |= {column: starts[-1] + k for k, column in enumerate(others)}
    return Forecast(
        starts[-1] + len(others),
        [at[column] for column in had["targets"]],
        range(starts[-1]),
        parse_horizon(settings.horizon, settings.targets),
        settings.scale,
        "hold" if settings.missing == "hold" else "mask",  # what is not there is looked for before
        dtype=settings.dtype,
    )


def _ahead(
    table: Table,
    start: int,
    count: int,
    targets: list[int],
    horizons: tuple[int, ...],
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Return the targets of some rows, (count, outputs); NaN behind the end of the table."""
    rows = table.shape[0]
    found = np.full((count + max(horizons), len(targets)), np.nan)
    there = min(len(found), rows - start)
    found[:there] = read_rows(table, start, there, targets, dtype)
    ahead = np.stack([found[h : h + count] for h in horizons], axis=1)
    return ahead.reshape(count, -1)


def sample_text(path: Path, prompt: bytes, length: int, temperature: float, seed: int) -> bytes:
    """Go on with a text, character by character.

    Parameters
    ----------
    path : Path
        Folder of a run of ``chars``; its text must still be there.
    prompt : bytes
        What the text begins with.
    length : int
        Characters to draw.
    temperature : float
        As in `OnlineLearner.generate`.
    seed : int
        Of the draws.

    Returns
    -------
    bytes
        What follows the prompt.

    Raises
    ------
    OSError, ValueError
        If the run cannot be read, or is of another text, or the prompt has characters that the
        text has not.
    """
    settings, saved = read_run(path, "chars")
    task: Any = settings.make_task()
    learner = reader(saved, settings.threads or None)
    told = saved.extra.get("task", {}) if isinstance(saved.extra, dict) else {}
    if not isinstance(task, Chars) or told.get("fingerprint") != task.fingerprint:
        raise ValueError(f"{path} must be of the text that it names, got other content there")
    if not prompt:
        raise ValueError("--prompt must have a character at least, got none")
    drawn = learner.generate(task.encode(prompt), length, temperature, seed)
    return task.decode(drawn)
