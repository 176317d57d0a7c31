"""One run: draw, learn, report, save; stopped at any moment, it goes on bit for bit."""

import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsegrad.learning.checkpoint import read_checkpoint, write_checkpoint
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.methods.snap import shareable
from sparsegrad.runs.folder import MARK, REPORT, Folder, Metrics
from sparsegrad.runs.masks import density
from sparsegrad.runs.predictions import Predictions
from sparsegrad.runs.settings import CHANGEABLE, MOVABLE, Settings, completed
from sparsegrad.runs.stop import StopWish
from sparsegrad.runs.watch import Watch
from sparsegrad.system.ranks import Ranks
from sparsegrad.system.schema import anything, number, record, refuse, whole
from sparsegrad.tasks import Pipe, Sequences, Stream, Task

TABLES = Stream, Pipe
FINISHED, INTERRUPTED, DIVERGED = "finished", "interrupted", "diverged"


_EXTRA = record({
    "settings": anything,
    "task": anything,  # looked at by the task
    "progress": record({
        "tokens": whole(), "seconds": number(0), "reported": whole(), "loss": number(),
        "scored": number(0), "metrics": whole(), "predictions": whole(),
    }),
    "last": REPORT,
})  # fmt: skip
"""What a checkpoint of a run holds beside its learner."""


@dataclass
class Progress:
    """How far a run is, and what it has counted since its last report."""

    tokens: int = 0
    seconds: float = 0.0
    reported: int = 0  # tokens at the last report
    loss: float = 0.0  # nats since then
    scored: float = 0.0  # losses since then
    metrics: int = 0  # bytes of metrics.jsonl
    predictions: int = 0  # bytes of predictions.csv


class Run:
    """A run, a new one or one that is resumed.

    Parameters
    ----------
    settings : Settings
        Resolved here; see :func:`open_run` for those of a run in a folder.
    folder : Folder, optional
        Where config, metrics and checkpoints go; without it nothing is kept.
    watch : callable, optional
        Makes what shows the run from its settings. Default: nothing is shown.
    ranks : Ranks, optional
        Processes that run it together; the first one alone has a folder and a watch.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Folder | None = None,
        watch: Callable[[Settings], Watch] = lambda settings: Watch(settings, quiet=True),
        ranks: Ranks | None = None,
    ) -> None:
        self.task: Task = settings.make_task()
        self.settings = settings = settings.resolved(self.task)
        if ranks is not None and ranks.size == 1 and not shareable(settings.make_method(0)):
            ranks = None  # alone, any method goes
        self.folder, self._ranks = folder, ranks
        comm = None if ranks is None else ranks.comm
        self.progress = Progress()
        self.last: dict[str, Any] = {}  # the last report
        self._metrics: Metrics | None = None
        self._predictions: Predictions | None = None
        self._before, self._from = 0.0, 0  # seconds and tokens when `train` began
        self._began = self._saved = time.monotonic()
        self._watch = watch(settings)
        self._pruning, self._rewiring = settings.make_schedules()
        self._sequence = settings.update == "sequence" and not settings.method.startswith("bptt")
        saved = folder.checkpoint if folder is not None and folder.checkpoint.exists() else None
        if ranks is not None:
            self._refuse_alone()
            saved = ranks.first(saved)
        if saved is not None:
            self._go_on(saved, comm)
        elif folder is not None and folder.read("checkpoint.json") is not None:
            raise ValueError(
                f"{folder.path} must hold the {folder.checkpoint.name} that its checkpoint.json "
                "tells of, got none: restore it, or begin anew in another folder"
            )
        else:
            self.learner: OnlineLearner = settings.make_learner(self.task, comm)
        if folder is not None:
            # the budget, or the place of a file, may be another one from here on
            progress = self.progress
            self._metrics = Metrics(folder.metrics, progress.metrics, progress.reported)
            if isinstance(self.task, TABLES):
                self._predictions = Predictions(
                    folder.predictions, progress.predictions, self.task.names,
                    self.task.forecast.horizons,
                )  # fmt: skip
            folder.write("config.json", settings.as_dict())

    def train(self) -> dict[str, Any]:
        """Run until the budget is spent, a signal, or divergence; return the summary.

        Ctrl-C and SIGTERM are heard between two draws: the run saves a checkpoint and its summary,
        and only then does the signal what it does without a run, such as raise KeyboardInterrupt.

        Returns
        -------
        dict
            ``status``: finished, diverged, or interrupted by a signal whose handler returned;
            ``tokens``, ``seconds``,
            ``tokens_per_second``, the numbers of the last report, and ``reason`` of a divergence.

        Raises
        ------
        ValueError, OSError
            If the task's data are wrong, or a file cannot be written; the last checkpoint stays.
        """
        reason, compiled = None, False
        self._before, self._began = self.progress.seconds, time.monotonic()
        self._from, self._saved = self.progress.tokens, time.monotonic()
        with StopWish() as stop, self._watch as watch:
            try:
                while not self._decided(self._spent() or stop.asked or self._ended()):
                    self._learn(self._draw())
                    if not compiled:  # not learning: neither clock nor speed counts the first draw
                        self._began, self._from = time.monotonic(), self.progress.tokens
                        compiled = True
                    self._clock()
                    if self._due():
                        self._report()
                    if self._decided(time.monotonic() - self._saved >= self.settings.save):
                        self._save()
                    watch.advance(self.progress.tokens, self.progress.seconds, self._rate())
                self._save()
                status = INTERRUPTED if stop.asked and not self._spent() else FINISHED
                if status == FINISHED and self.progress.scored:
                    self._report(last=True)  # behind the checkpoint: a larger budget forgets it
            except FloatingPointError as error:
                status, reason = DIVERGED, self._diverged(error)
        summary = self._summary(status, reason)
        if stop.number is not None:  # a loop over seeds must end, not go on with the next one
            signal.raise_signal(stop.number)
        return summary

    def _decided(self, what: bool) -> bool:
        """Return what the first rank decides, whose clock and signals are those of the run."""
        return what if self._ranks is None else bool(self._ranks.first(what))

    def _refuse_alone(self) -> None:
        """Refuse what one process can do alone.

        Raises
        ------
        ValueError
            If lines come on standard input, or masks change.
        """
        if isinstance(self.task, Pipe):
            raise ValueError("--data must be a file that every rank can read, got -")
        if self._pruning is not None or self._rewiring is not None:
            raise ValueError(
                "--prune and --rewire must have all of J in one process, got several ranks"
            )

    def _ended(self) -> bool:
        return isinstance(self.task, Pipe) and self.task.ended

    def _draw(self) -> Sequences:
        try:
            return self.task.draw()
        except ValueError:
            if isinstance(self.task, Pipe):  # what came before does not come again
                self._save()
            raise

    def _learn(self, drawn: Sequences) -> None:
        progress, learner = self.progress, self.learner
        steps, batch = drawn.weights.shape
        if self._pruning is not None and steps:
            self._pruning.rewire(learner, steps)
        if self._rewiring is not None and steps:
            self._rewiring.rewire(learner, *drawn)
        if self._sequence:
            learner.update_after(steps)
        task = self.task
        losses = task.learn(learner, drawn) if isinstance(task, TABLES) else learner.run(*drawn)
        loss = float(losses.sum()) * batch
        scored = float(drawn.weights.sum())
        task.hear(loss / max(scored, 1.0))  # without a target nothing is scored
        if self._predictions is not None and isinstance(task, TABLES) and task.scored is not None:
            self._predictions.add(task.scored)
            progress.predictions = self._predictions.length
        progress.tokens += steps * batch
        progress.loss += loss
        progress.scored += scored

    def _spent(self) -> bool:
        tokens, seconds = self.settings.tokens, self.settings.seconds
        return (tokens is not None and self.progress.tokens >= tokens) or (
            seconds is not None and self.progress.seconds >= seconds
        )

    def _clock(self) -> None:
        self.progress.seconds = self._before + time.monotonic() - self._began

    def _rate(self) -> float:
        spent = time.monotonic() - self._began
        return (self.progress.tokens - self._from) / spent if spent > 0 else 0.0

    def _due(self) -> bool:
        """Whether a report is due: at the same tokens whenever a run was stopped."""
        every = self.settings.report or 1
        return self.progress.tokens // every > self.progress.reported // every

    def _report(self, last: bool = False) -> None:
        progress = self.progress
        loss = progress.loss / progress.scored if progress.scored else 0.0
        line = {"tokens": progress.tokens, "loss": loss, "seconds": round(progress.seconds, 3)}
        line |= self.task.report(loss)
        if self._pruning is not None or self._rewiring is not None:
            line["density"] = density(self.learner.cell)
        held_out = self.task.held_out()
        if held_out is not None:
            unseen = float(self.learner.evaluate(*held_out).mean())
            line |= {f"held_out_{k}": v for k, v in self.task.report(unseen).items()}
        self.last = line
        if self._metrics is not None:
            self._metrics.add(line)
            progress.metrics = self._metrics.length
        progress.reported, progress.loss, progress.scored = progress.tokens, 0.0, 0.0
        self._watch.report(line, last)

    def _save(self) -> None:
        """Write a checkpoint that knows how many bytes of the metrics are its own."""
        if self.folder is None and self._ranks is None:
            return
        extra = {
            "settings": _fixed(self.settings),
            "task": self.task.position(),
            "progress": asdict(self.progress),
            "last": self.last,
        }
        checkpoint = self.learner.checkpoint(extra)  # every rank adds its part of J
        self._saved = time.monotonic()
        if self.folder is None or self._metrics is None:
            return
        try:
            self.folder.check()
            self._metrics.sync()
            if self._predictions is not None:
                self._predictions.sync()
            write_checkpoint(self.folder.checkpoint, checkpoint)
            self.folder.write("checkpoint.json", extra)
        except OSError as error:
            raise OSError(
                f"cannot write a checkpoint into {self.folder.path}: {error.strerror or error}; "
                "what was there stays: make room and go on with --resume"
            ) from error
        self._saved = time.monotonic()

    def _go_on(self, path: Path, comm: Any) -> None:
        saved, where = read_checkpoint(path), f"{path}: extra"
        extra = _EXTRA(where, _with_predictions(saved.extra))
        stored = extra["settings"]
        if type(stored) is not dict or completed(stored) != _fixed(self.settings):
            raise ValueError(f"{path} must be of the run in config.json beside it, got another's")
        self.learner = OnlineLearner.from_checkpoint(saved, self.settings.threads or None, comm)
        self.task.go_to(extra["task"], f"{where}.task")
        self.progress = progress = Progress(**extra["progress"])
        if progress.reported > progress.tokens:
            refuse(f"{where}.progress.reported", f"at most {progress.tokens}", progress.reported)
        self.last = extra["last"]

    def _diverged(self, error: FloatingPointError) -> str:
        """Say where and what; the checkpoint on the disk is from before."""
        kept = ""
        if self.folder is not None and self.folder.checkpoint.exists():
            kept = f"; the last good checkpoint stays in {self.folder.path}"
        return (
            f"diverged at step {self.learner.steps}, token {self.progress.tokens}: {error}; "
            f"{_largest(self.learner)}; try a lower --rate or --clip 1{kept}"
        )

    def _summary(self, status: str, reason: str | None) -> dict[str, Any]:
        self._clock()
        tokens, seconds = self.progress.tokens, self.progress.seconds
        whole_run = self.task.forecast.report() if isinstance(self.task, TABLES) else {}
        summary: dict[str, Any] = {"status": status} | self.last | whole_run | {
            "tokens": tokens,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
        }  # fmt: skip
        if reason is not None:
            summary["reason"] = reason
        if self.folder is not None:
            self.folder.write("summary.json", summary)
        return summary


def open_run(given: dict[str, Any], path: Path, resume: bool) -> tuple[Settings, Folder]:
    """Return settings and folder of a run, new or gone on with.

    Parameters
    ----------
    given : dict
        The settings that the user gave, by field.
    path : Path
        The run's folder.
    resume : bool
        Whether to go on with the run that is there.

    Raises
    ------
    ValueError
        If there is a run already, or none to go on with, or one with other settings, or another
        process is writing there.
    """
    if resume and not (path / "config.json").exists():
        raise ValueError(f"--resume must find a run, got none in {path}")
    folder = Folder(path)
    stored = folder.read("config.json")
    if stored is None:
        return Settings(**given), folder
    if not resume:
        raise ValueError(f"{path} holds a run: go on with it by --resume, or name another --out")
    kept = stored_settings(path / "config.json", stored)
    for name, value in given.items():
        if name not in (*CHANGEABLE, *MOVABLE) and kept.get(name) != value:
            raise ValueError(
                f"--resume must keep the settings of the run: {name} is {kept.get(name)} there, "
                f"got {value}"
            )
    return Settings(**{**kept, **given}), folder


def stored_settings(path: Path, stored: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a run's config.json holds, checked.

    Raises
    ------
    ValueError
        If they are none; the message names the file.
    """
    try:
        kept = Settings.read(completed({k: v for k, v in stored.items() if k != MARK}), str(path))
        Settings(**kept)
    except (TypeError, ValueError) as error:
        said = str(error)
        raise ValueError(said if str(path) in said else f"{path}: {said}") from None
    return kept


def _with_predictions(extra: Any) -> Any:
    """Return what a checkpoint holds, also one written before runs kept their predictions."""
    progress = extra.get("progress") if type(extra) is dict else None
    if type(progress) is not dict:
        return extra
    return extra | {"progress": {"predictions": 0} | progress}


def _fixed(settings: Settings) -> dict[str, Any]:
    """Return the settings that a run must keep."""
    return {k: v for k, v in settings.as_dict().items() if k not in (*CHANGEABLE, *MOVABLE)}


def _largest(learner: OnlineLearner) -> str:
    """Name the array in which a divergence shows most."""
    size = {
        name: float(np.abs(array).max(initial=0.0))
        for name, array in learner.checkpoint().tensors().items()
        if array.dtype.kind == "f" and not name.startswith(("optimizer.", "gradient."))
    }
    broken = [name for name, largest in size.items() if not np.isfinite(largest)]
    if broken:
        return f"{broken[0]} is not finite"
    name = max(size, key=lambda name: size[name])
    return f"the largest number, {size[name]:.3g}, is in {name}"
