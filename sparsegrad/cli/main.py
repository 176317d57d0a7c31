"""The command line: `sparsegrad profile`, and the commands of `sparsegrad.cli.train`.

Parsing and the ways out live here; the work is in `sparsegrad.profiling`. Heavy
modules (Numba, rich, matplotlib) are imported by the command that needs them, so that `--help`
answers at once and a missing extra costs a line, not the result.
"""

import argparse
import math
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sparsegrad.cli.train import add_compare, add_train
from sparsegrad.registry import CELLS, listed
from sparsegrad.system.quantities import parse_bytes, parse_number, parse_whole

if TYPE_CHECKING:
    from sparsegrad.profiling.cost_model import CostModel
    from sparsegrad.profiling.profile import Point, Sweep
    from sparsegrad.profiling.scaling import Fit

DISTRIBUTION = "sparsegrad-rtrl"
FAILED, INTERRUPTED = 2, 130
PROFILE_EXAMPLES = """examples:
  sparsegrad profile
  sparsegrad profile --cells rnn gru lstm --units 128 --sparsity 0.75 0.9375 --n 1 2 3
  sparsegrad profile --cells gru --units 100000 --sparsity 0.9999 --n 1 2 rtrl --dry-run
  sparsegrad profile --gate-masks shared --threads 2 --batch 16 --budget 4GiB --out results
  sparsegrad profile --format json | jq '.[] | [.n, .seconds]'
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        _complain(f"{message} (see {self.prog} --help)")
        raise SystemExit(FAILED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process where left out.

    Returns
    -------
    int
        Exit status: 0, 2 after an error (one line on stderr), 130 after Ctrl-C.
    """
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
        status = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # nobody reads any more, as in `| head`; keep the interpreter from complaining on its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, MemoryError, OSError, ModuleNotFoundError) as error:
        _complain(_words_of(error))
        return FAILED
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    return int(status)


def _words_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _complain(message: str) -> None:
    print(f"sparsegrad: {' '.join(message.split())}", file=sys.stderr)


def _parser() -> _Parser:
    parser = _Parser(
        prog="sparsegrad",
        description="Real-time recurrent learning on sparse networks.",
        epilog="sparsegrad COMMAND --help shows a command's options and examples",
    )
    parser.add_argument(
        "--version", action="version", version=f"sparsegrad {version(DISTRIBUTION)}"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (_add_profile, add_train, add_compare):
        add(commands)
    return parser


def _add_profile(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parser = commands.add_parser(
        "profile",
        help="how the cost of SnAp-n grows with n, sparsity and size",
        description="Count and time the influence update of SnAp-n over a sweep of random sparse "
        "cells: exact entries, multiply-adds and bytes, warm time, share of this machine's "
        "roofline, growth exponents. Lists are separated by spaces or commas.",
        epilog=PROFILE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--cells", nargs="+", metavar="CELL", help=f"{listed(CELLS, 'and')} (default: gru)")
    add("--units", nargs="+", metavar="K", help="numbers of units (default: 128 256 512)")
    add("--sparsity", nargs="+", metavar="S",
        help="parts of the weights that do not exist: 0.75 or 75%% "
        "(default: 0.75 0.9375 0.984375)")  # fmt: skip
    add("--n", nargs="+", metavar="N", help="steps of reach, or rtrl (default: 1 2 3 rtrl)")
    add("--gate-masks", default="independent", metavar="HOW",
        help="independent (a mask for each gate) or shared (default: independent)")  # fmt: skip
    add("--inputs", default="32", metavar="W", help="width of the input (default: 32)")
    add("--batch", default="1", metavar="B", help="sequences, each with its own J (default: 1)")
    add("--dtype", default="float32", metavar="T", help="float32 or float64 (default: float32)")
    add("--threads", default="1", metavar="T", help="threads of an update (default: 1)")
    add("--seed", default="0", metavar="SEED", help="of masks and values (default: 0)")
    add("--budget", metavar="BYTES",
        help="count but do not run what needs more for J, as 16GiB "
        "(default: half of the memory that is free)")  # fmt: skip
    add("--format", default="table", choices=("table", "json", "csv"), help="(default: table)")
    add("--out", type=Path, metavar="DIR", help="write data and a picture there too")
    add("--dry-run", action="store_true", help="exact counts only, for any size")
    parser.set_defaults(run=_profile)


def _words(values: Sequence[str]) -> list[str]:
    return [word for value in values for word in value.split(",") if word]


def _order(word: str) -> int | None:
    return None if word.lower() == "rtrl" else parse_whole("n", word)


def _sweep(arguments: argparse.Namespace) -> "Sweep":
    from sparsegrad.profiling.profile import Sweep
    from sparsegrad.system.memory import available_memory

    free = available_memory()
    budget = free / 2 if free else math.inf
    if arguments.budget:
        budget = parse_bytes("budget", arguments.budget)
    lists: tuple[tuple[str, Callable[[str], object]], ...] = (
        ("cells", str.lower),
        ("units", lambda word: parse_whole("units", word)),
        ("sparsity", lambda word: parse_number("sparsity", word)),
        ("n", _order),
    )
    chosen = {
        name: tuple(dict.fromkeys(convert(word) for word in _words(getattr(arguments, name))))
        for name, convert in lists
        if getattr(arguments, name) is not None
    }
    return Sweep(
        **chosen,  # type: ignore[arg-type]
        gate_masks=arguments.gate_masks,
        inputs=parse_whole("inputs", arguments.inputs),
        batch=parse_whole("batch", arguments.batch),
        dtype=arguments.dtype,
        threads=parse_whole("threads", arguments.threads),
        seed=parse_whole("seed", arguments.seed),
        budget=budget,
    )


def _profile(arguments: argparse.Namespace) -> int:
    sweep = _sweep(arguments)
    from sparsegrad.profiling.cost_model import CostModel
    from sparsegrad.profiling.profile import profile
    from sparsegrad.profiling.report import csv_report, json_report
    from sparsegrad.profiling.roofline import Roofline
    from sparsegrad.profiling.scaling import fit_growth

    model: CostModel | None = None
    points: list[Point] = []
    stopped: KeyboardInterrupt | MemoryError | None = None
    with _Progress(len(sweep)) as progress:
        try:
            if not arguments.dry_run:
                progress.announce("measuring this machine")
                model = CostModel(Roofline(sweep.dtype, sweep.threads), sweep.seed)
            for point in profile(sweep, model, progress.announce):
                points.append(point)
                progress.advance()
        except (KeyboardInterrupt, MemoryError) as reason:
            stopped = reason
    if isinstance(stopped, MemoryError) and not points:
        raise stopped
    fits = fit_growth(points)
    title = _title(sweep, model)
    status = 0 if stopped is None else FAILED if isinstance(stopped, MemoryError) else INTERRUPTED
    try:
        if arguments.format == "table":
            _print_tables(points, fits, title)
        else:
            sys.stdout.write((json_report if arguments.format == "json" else csv_report)(points))
        sys.stdout.flush()
    finally:  # neither does a closed pipe lose the files, nor an unwritable folder the print
        if stopped is not None:
            why = str(stopped) or "interrupted"
            _complain(f"{why}; stopped after {len(points)} of {len(sweep)} points")
        if arguments.out is not None and points:
            status = _write(arguments.out, sweep, model, points, fits, title) or status
    return status


class _Progress:
    """A progress bar on stderr where that is a terminal and rich is there; else nothing."""

    def __init__(self, total: int) -> None:
        self._bar = None
        if not sys.stderr.isatty():
            return
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        except ImportError:
            return  # said once, with the table
        self._bar = Progress(
            BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.description}"),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> "_Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def announce(self, text: str) -> None:
        """Say what comes next."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)

    def advance(self) -> None:
        """Count one point as done."""
        if self._bar is not None:
            self._bar.advance(self._task)


def _title(sweep: "Sweep", model: "CostModel | None") -> str:
    settings = [
        "SnAp-n influence update", sweep.dtype, f"batch {sweep.batch}",
        f"{sweep.threads} thread{'s' if sweep.threads > 1 else ''}",
        f"{sweep.gate_masks} gate masks", f"{sweep.inputs} inputs",
    ]  # fmt: skip
    if model is not None:
        settings.append(f"machine peak {2e-9 * model.roofline.peak:.0f} GFLOP/s")
    return ", ".join(settings)


def _print_tables(points: "list[Point]", fits: "list[Fit]", title: str) -> None:
    from sparsegrad.profiling.report import plain_report, rich_report

    if sys.stdout.isatty():
        try:
            from rich.console import Console
        except ImportError:
            _complain(f"no rich, so a plain table: pip install '{DISTRIBUTION}[cli]'")
        else:
            rich_report(Console(), points, fits, title)
            return
    sys.stdout.write(plain_report(points, fits, title))


def _write(
    folder: Path,
    sweep: "Sweep",
    model: "CostModel | None",
    points: "list[Point]",
    fits: "list[Fit]",
    title: str,
) -> int:
    """Write data and picture; what fails is told in a line, and the result is printed already."""
    from sparsegrad.profiling.report import write_data

    run: dict[str, object] = {
        "sparsegrad": version(DISTRIBUTION),
        **{name: version(name) for name in ("numba", "numpy", "scipy")},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "multiply_adds_per_second": None if model is None else model.roofline.peak,
        "prices": None if model is None else model.prices,
        "sweep": {**vars(sweep), "n": ["rtrl" if n is None else n for n in sweep.n]},
    }
    try:
        written = write_data(folder, points, fits, run)
        try:
            from sparsegrad.figures.profile import draw
        except ImportError:
            _complain(f"no matplotlib, so no picture: pip install '{DISTRIBUTION}[plot]'")
        else:
            draw(points, title, sweep.batch, folder / "profile.png")
            written.append(folder / "profile.png")
    except OSError as error:
        _complain(f"cannot write to --out {folder}: {error.strerror or error}; the result is above")
        return FAILED
    print(f"wrote {', '.join(str(path) for path in written)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
