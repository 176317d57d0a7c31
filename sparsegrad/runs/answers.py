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
from sparsegrad.tasks import Chars
from sparsegrad.tasks.stream import open_table, read_rows

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


def predict_table(
    path: Path, data: Path
) -> Iterator[tuple[NDArray[np.floating], NDArray[np.floating] | None]]:
    """Predict a table row by row, from a state of 0 on, without learning.

    Parameters
    ----------
    path : Path
        Folder of a run of ``stream``.
    data : Path
        A table with the columns that the run had, or with those of its inputs alone.

    Yields
    ------
    float array, (rows, outputs)
        What is predicted at each row: its targets, or the next row where the run has none.
    float array, (rows, outputs), or None
        What was to be predicted, where the table has it; of the last row it may be missing.

    Raises
    ------
    OSError, ValueError
        If run or table cannot be read, or do not go together.
    """
    settings, saved = read_run(path, "stream")
    learner = reader(saved, settings.threads or None)
    inputs, outputs = learner.cell.inputs, learner.readout.outputs
    table = open_table(data)
    rows, columns = table.shape
    with_targets = settings.targets > 0 and columns == inputs + outputs
    if columns != inputs and not with_targets:
        both = f" or {inputs + outputs}, with the targets" if settings.targets else ""
        raise ValueError(
            f"{data} must have the {inputs} input columns of the run{both}, got {columns}"
        )
    ahead = 0 if settings.targets else 1
    for start in range(0, rows, ROWS):
        count = min(ROWS, rows - start)
        read = read_rows(table, data, start, min(count + ahead, rows - start), learner.cell.dtype)
        found = learner.follow(np.ascontiguousarray(read[:count, :inputs]))
        wanted = read[:, inputs:] if with_targets else None if settings.targets else read[1:]
        yield found, wanted


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
