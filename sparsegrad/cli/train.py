"""The command `sparsegrad train`."""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsegrad.cli.flags import add_command, add_flags, given_settings
from sparsegrad.cli.messages import FAILED, complain, net, tell
from sparsegrad.cli.pictures import drawn
from sparsegrad.runs.settings import Settings
from sparsegrad.system.mpirun import ranks_told

if TYPE_CHECKING:
    from sparsegrad.tasks import Pipe

ROWS = 150
"""Rows of a table that a picture shows."""
EXAMPLES = """examples:
  sparsegrad train copy --method snap:2 --rate 3e-3 --tokens 2M --out runs/copy
  sparsegrad train copy --out runs/copy --resume --tokens 4M
  sparsegrad train chars --text wiki.txt --units 256 --sparsity 98.4% --out runs/wiki
  sparsegrad train chars --crop --steps 128 --update sequence --method bptt --seconds 600
  sparsegrad train stream --data sensors.npy --targets 2 --method snap:1
  sparsegrad train copy --config run.toml --seed 3
  mpirun -n 4 sparsegrad train chars --units 4096 --sparsity 99.6% --method snap:2 --threads 1
  sparsegrad train chars --sparsity 75% --prune 95% --rewire rigl:0.1:1000 --out runs/living
"""


def add_train(commands: Any) -> None:
    """Add `train` to the command line's subparsers."""
    parser = add_command(
        commands,
        train,
        "train a sparse recurrent net online, resumably",
        "Train on the copy task with its curriculum, on the characters of a text, or "
        "on a stream of your own. A folder given by --out holds config.json, metrics.jsonl, "
        "checkpoint.safetensors and the learning curve; a run that was stopped in any way goes on "
        "from there, bit for bit.",
        EXAMPLES,
    )
    add_flags(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the run there")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument(
        "--tensorboard", action="store_true", help="log to --out/tensorboard too, for TensorBoard"
    )


def train(arguments: argparse.Namespace) -> int:
    """Run `train`; return the exit status."""
    given, ranks = given_settings(arguments), _ranks(arguments)
    from sparsegrad.runs.run import DIVERGED, Run
    from sparsegrad.runs.run import INTERRUPTED as STOPPED
    from sparsegrad.runs.stop import StopWish
    from sparsegrad.runs.watch import Watch
    from sparsegrad.tasks import Pipe

    if ranks is not None and ranks.rank > 0:  # the first one speaks and writes for all
        settings = ranks.first(None)
        if isinstance(settings, Exception):
            raise settings
        with StopWish():
            return FAILED if Run(settings, ranks=ranks).train()["status"] == DIVERGED else 0
    settings, folder = _opened(given, arguments, ranks)
    if folder is not None and not folder.locked:
        complain(
            f"no lock in {folder.path}, as its file system has none: start no second run there"
        )
    arriving = settings.data == "-"  # standard output has the predictions then
    log = _event_log(arguments.tensorboard, folder)
    run = Run(settings, folder, lambda settings: Watch(settings, quiet=arriving, log=log), ranks)
    if isinstance(run.task, Pipe):
        run.task.say = _printer(run.task)
    left_out = getattr(run.task, "left_out", [])
    if left_out:
        complain(f"left out, as text that --inputs does not name: {', '.join(left_out)}")
    before = run.progress.tokens
    if arguments.resume and not before:
        complain("stopped before its first checkpoint, so the run begins anew")
    with StopWish() as stop, _written(log, folder):  # the run hands on the signal that ended it
        summary = run.train()
    if folder is not None:
        folder.check()
        drawn(lambda: _draw_run(run, folder.path))
    if summary["status"] == DIVERGED:
        complain(summary["reason"])
        return FAILED
    (tell if arriving else print)(_summary_line(run.settings.task, summary))
    if summary["status"] == STOPPED:
        complain(
            f"interrupted; go on with: sparsegrad train {settings.task} --out {folder.path} "
            "--resume" if folder is not None else "interrupted; nothing was kept: name an --out"
        )  # fmt: skip
        return 128 + (stop.number or 0)  # as a shell counts it
    if 0 < before == summary["tokens"]:
        complain("the budget was spent before; go on with a larger --tokens or --seconds")
    if isinstance(run.task, Pipe) and not run.task.forecast.scored:
        complain("nothing was learned: no row came with its targets")
        return FAILED
    if folder is not None:
        names = sorted(path.name for path in folder.path.iterdir() if path.name[0] != ".")
        tell(f"wrote {folder.path}: {', '.join(names)}")
    return 0


def _opened(given: dict[str, Any], arguments: argparse.Namespace, ranks: Any) -> tuple[Any, Any]:
    """Return settings and folder of the run, and tell the other ranks, which wait for it."""
    from sparsegrad.runs.run import open_run

    told: Any = None
    try:
        if arguments.out is not None:
            settings, folder = open_run(given, arguments.out, arguments.resume)
        elif arguments.resume:
            raise ValueError("--resume must come with --out DIR, the folder of the run")
        else:
            settings, folder = Settings(**given), None
        told = settings
    except Exception as error:
        told = error
        raise
    finally:
        if ranks is not None:
            ranks.first(told)
    return settings, folder


def _ranks(arguments: argparse.Namespace) -> Any:
    """Return the ranks that mpirun started, if it did, all of them with the same flags."""
    if ranks_told()[1] == 0:
        return None
    from sparsegrad.system.ranks import started

    ranks = started()
    if ranks is not None:
        given = {name: str(value) for name, value in vars(arguments).items() if name != "run"}
        ranks.agree({f"flag --{name}": value for name, value in given.items()})
    return ranks


def _printer(task: "Pipe") -> Callable[[Sequence[str]], None]:
    """Return what prints lines of CSV as they come, and ends the run where nobody reads them."""

    def say(words: Sequence[str]) -> None:
        try:
            csv.writer(sys.stdout, lineterminator="\n").writerow(words)
            sys.stdout.flush()
        except BrokenPipeError:
            task.ended = True

    return say


def _event_log(wanted: bool, folder: Any) -> Any:
    """Return TensorBoard's log, where it is wanted."""
    if not wanted:
        return None
    if folder is None:
        raise ValueError("--tensorboard must come with --out DIR, where the log goes")
    from sparsegrad.runs.events import EventLog

    return EventLog(folder.path)


@contextmanager
def _written(log: Any, folder: Any) -> Iterator[None]:
    """Begin a log with the reports that are there, and close it."""
    if log is None:
        yield
        return
    from sparsegrad.runs.folder import read_metrics

    log.begin(read_metrics(folder.metrics))
    try:
        yield
    finally:
        log.close()
        if log.error:
            complain(f"TensorBoard's log ended: {log.error}; metrics.jsonl has all reports")


def _summary_line(task: str, summary: dict[str, Any]) -> str:
    from sparsegrad.runs.watch import words

    numbers = ", ".join(words(summary)) or "no report yet"
    return (
        f"{task} {summary['status']}: {summary['tokens']:,} tokens in {summary['seconds']:.1f} s, "
        f"{summary['tokens_per_second']:,.0f} tokens/s; {numbers}"
    )


def _draw_run(run: Any, path: Path) -> None:
    from sparsegrad.figures.curves import draw_curves
    from sparsegrad.runs.folder import read_metrics

    lines = read_metrics(path / "metrics.jsonl")
    settings, measure = run.settings, run.task.measure
    title = f"{net(settings)}, {settings.method}, {settings.optimizer} {settings.rate:g}"
    if settings.task == "stream":
        from sparsegrad.figures.forecasts import draw_forecasts
        from sparsegrad.runs.predictions import PREDICTIONS, read_tail

        draw_forecasts(*read_tail(path / PREDICTIONS, ROWS), lines, title, path / "curve.png")
        return
    curves = {}
    for name in (measure, f"held_out_{measure}"):
        seen = [line for line in lines if name in line]
        if seen:
            label = settings.method if name == measure else "held out"
            curves[label] = [([x["tokens"] for x in seen], [x[name] for x in seen])]
    seen = [line for line in lines if "density" in line]
    masks = ([line["tokens"] for line in seen], [line["density"] for line in seen])
    draw_curves(curves, measure, title, path / "curve.png", masks if seen else None)
