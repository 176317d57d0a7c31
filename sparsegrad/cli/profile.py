"""The command `sparsegrad profile`."""

import argparse
import contextlib
import math
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsegrad.cli.flags import add_command, split_words
from sparsegrad.cli.messages import DISTRIBUTION, FAILED, INTERRUPTED, complain, tell
from sparsegrad.cli.pages import add_html, check_html, write_html
from sparsegrad.cli.pictures import drawn
from sparsegrad.profiling.network import Network
from sparsegrad.registry import CELLS, listed
from sparsegrad.system.bar import Bar
from sparsegrad.system.processors import usable_processors
from sparsegrad.system.quantities import parse_bytes, parse_number, parse_whole

if TYPE_CHECKING:
    from sparsegrad.profiling.cost_model import CostModel
    from sparsegrad.profiling.profile import Point, Sweep
    from sparsegrad.profiling.scaling import Fit

OWN = ("profile.csv", "profile.json", "profile.png", "ranks.png", "windows.png", "run.json")
NETWORK = "100Gbps,2us"
EXAMPLES = """examples:
  sparsegrad profile
  sparsegrad profile --cells rnn gru lstm --units 128 --sparsity 0.75 0.9375 --n 1 2 3
  sparsegrad profile --cells gru --units 100000 --sparsity 0.9999 --n 1 2 rtrl --dry-run
  sparsegrad profile --units 128 --n 1 2 rtrl --window 1,8,64 --out windows
  sparsegrad profile --units 4096 --sparsity 99.6% --ranks 1,2,4,64 --network 100Gbps,2us
  sparsegrad profile --gate-masks shared --threads 2 --batch 16 --budget 4GiB --out results
  sparsegrad profile --format json | jq '.[] | [.n, .seconds]'
"""


def add_profile(commands: Any) -> None:
    """Add `profile` to the command line's subparsers."""
    parser = add_command(
        commands,
        profile,
        "how the cost of SnAp-n grows with n, sparsity and size",
        "Count and time the influence update of SnAp-n over a sweep of random sparse "
        "cells: exact entries, multiply-adds and bytes, warm time, share of this machine's "
        "roofline, growth exponents. Lists are separated by spaces or commas.",
        EXAMPLES,
    )
    add = parser.add_argument
    add("--cells", nargs="+", metavar="CELL", help=f"{listed(CELLS, 'and')} (default: gru)")
    add("--units", nargs="+", metavar="K", help="numbers of units (default: 128 256 512)")
    add("--sparsity", nargs="+", metavar="S",
        help="parts of the weights that do not exist: 0.75 or 75%% "
        "(default: 0.75 0.9375 0.984375)")  # fmt: skip
    add("--n", nargs="+", metavar="N", help="steps of reach, or rtrl (default: 1 2 3 rtrl, with "
        "--ranks 2)")  # fmt: skip
    add("--window", nargs="+", metavar="T",
        help="also a learner's step with an update every T steps, exact inside by BPTT: counts "
        "and time, beside BPTT's")  # fmt: skip
    add("--ranks", nargs="+", metavar="R",
        help="also a step of a learner over so many ranks of MPI, on paper: J, bytes and time of "
        "each")  # fmt: skip
    add("--network", metavar="NET",
        help=f"between ranks: bandwidth and latency (default: {NETWORK})")  # fmt: skip
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
    add_html(parser)
    add("--dry-run", action="store_true", help="exact counts only, for any size")


def _order(word: str) -> int | None:
    return None if word.lower() == "rtrl" else parse_whole("n", word)


def _sweep(arguments: argparse.Namespace) -> "Sweep":
    from sparsegrad.profiling.profile import Sweep
    from sparsegrad.system.memory import available_memory

    free = available_memory()
    budget = free / 2 if free else math.inf
    if arguments.budget:
        budget = parse_bytes("budget", arguments.budget)
    lists: tuple[tuple[str, str, Callable[[str], object]], ...] = (
        ("cells", "cells", str.lower),
        ("units", "units", lambda word: parse_whole("units", word)),
        ("sparsity", "sparsity", lambda word: parse_number("sparsity", word)),
        ("n", "n", _order),
        ("windows", "window", lambda word: parse_whole("window", word)),
        ("ranks", "ranks", lambda word: parse_whole("ranks", word)),
    )
    chosen = {
        name: tuple(dict.fromkeys(convert(word) for word in split_words(getattr(arguments, flag))))
        for name, flag, convert in lists
        if getattr(arguments, flag) is not None
    }
    for name, flag in (("windows", "window"), ("ranks", "ranks")):
        if chosen.get(name) == ():
            raise ValueError(f"{flag} must name at least one value, got none")
    if arguments.ranks is None and arguments.network is not None:
        raise ValueError(f"--network must come with --ranks, got {arguments.network} alone")
    if "ranks" in chosen:
        chosen.setdefault("n", (2,))
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


def profile(arguments: argparse.Namespace) -> int:
    """Run `profile`; return the exit status."""
    sweep = _sweep(arguments)
    network = Network.read(arguments.network or NETWORK)
    check_html(arguments.html)
    from sparsegrad.runs.folder import claim

    if arguments.out is not None:
        with contextlib.suppress(OSError):  # told at the end: the result can be read without
            claim(arguments.out, ("run.json",), OWN)
    from sparsegrad.profiling.cost_model import CostModel
    from sparsegrad.profiling.profile import profile as measure
    from sparsegrad.profiling.report import csv_report, json_report
    from sparsegrad.profiling.roofline import Roofline
    from sparsegrad.profiling.scaling import fit_growth

    model: CostModel | None = None
    points: list[Point] = []
    stopped: KeyboardInterrupt | MemoryError | None = None
    with Bar(sys.stderr, len(sweep), 24, counted=True) as bar:
        try:
            if not arguments.dry_run:
                bar.show("measuring this machine")
                model = CostModel(Roofline(sweep.dtype, sweep.threads), sweep.seed)
            told = lambda text: bar.show(text, len(points))  # noqa: E731
            for point in measure(sweep, model, told, _steps(sweep, model, network)):
                points.append(point)
        except (KeyboardInterrupt, MemoryError) as reason:
            stopped = reason
    if isinstance(stopped, MemoryError) and not points:
        raise stopped
    fits = fit_growth(_updates(points))
    title = _title(sweep, model, arguments.network)
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
            complain(f"{why}; stopped after {len(points)} of {len(sweep)} points")
        if arguments.out is not None and points:
            status = _write(arguments.out, sweep, model, points, fits, title) or status
        if not _write_page(arguments.html, points, title):
            status = status or FAILED
    return status


def _steps(sweep: "Sweep", model: "CostModel | None", network: Network) -> Any:
    """Return what adds a learner's step to a point: in windows, over ranks, or neither."""
    if sweep.ranks:
        from sparsegrad.runs.rank_cost import with_ranks

        return lambda sweep, drawn, point, _: with_ranks(sweep, drawn, point, network, model)
    if not sweep.windows:
        return None
    from sparsegrad.runs.step_cost import with_steps

    return with_steps


def _write_page(path: Path | None, points: "list[Point]", title: str) -> bool:
    rows = [point.as_dict() for point in points]
    net = "cell", "units", "sparsity"
    plots: list[tuple[Any, ...]] = [
        ("entries", "multiply_adds", net),
        ("multiply_adds", "seconds", net),
    ]
    if any(point.window for point in points):
        plots.append(("window", "step_vs_bptt", (*net, "n")))
    if any(point.ranks for point in points):
        plots.append(("ranks", "rank_speedup", (*net, "n")))
    shown = [
        (rows, x, y, line, (True, True)) for x, y, line in plots if any(one[y] for one in rows)
    ]
    return write_html(path, title, rows, shown, (*net, "n"))


def _updates(points: "list[Point]") -> "list[Point]":
    """Return a point for each update of J: neither windows nor ranks make other ones of it."""
    first = [(point.window, point.ranks) for point in points[:1]]
    return [point for point in points if (point.window, point.ranks) in first]


def _title(sweep: "Sweep", model: "CostModel | None", network: str | None) -> str:
    what = "SnAp-n influence update"
    if sweep.windows or sweep.ranks:
        what = f"SnAp-n step {'in windows' if sweep.windows else 'over ranks'}"
    settings = [
        what, *([f"network {network or NETWORK}"] if sweep.ranks else []),
        sweep.dtype, f"batch {sweep.batch}",
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
            complain(f"no rich, so a plain table: pip install '{DISTRIBUTION}[cli]'")
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
    from sparsegrad.runs.folder import claim

    run: dict[str, object] = {
        "sparsegrad": version(DISTRIBUTION),
        **{name: version(name) for name in ("numba", "numpy", "scipy")},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "cpus_granted": usable_processors(),
        "multiply_adds_per_second": None if model is None else model.roofline.peak,
        "prices": None if model is None else model.prices,
        "sweep": {**vars(sweep), "n": ["rtrl" if n is None else n for n in sweep.n]},
    }
    try:
        claim(folder, ("run.json",), OWN)
        written = write_data(folder, points, fits, run)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        complain(f"cannot write to --out {folder}: {why}; the result is above")
        return FAILED

    def draw() -> None:
        from sparsegrad.figures.profile import draw as draw_profile

        draw_profile(_updates(points), title, sweep.batch, folder / "profile.png")

    def draw_steps() -> None:
        from sparsegrad.figures.windows import draw as draw_windows

        draw_windows(points, title, folder / "windows.png")

    def draw_over_ranks() -> None:
        from sparsegrad.figures.ranks import draw as draw_ranks

        draw_ranks(points, title, folder / "ranks.png")

    written += [folder / "profile.png"] if drawn(draw) else []
    written += [folder / "windows.png"] if sweep.windows and drawn(draw_steps) else []
    written += [folder / "ranks.png"] if sweep.ranks and drawn(draw_over_ranks) else []
    tell(f"wrote {', '.join(str(path) for path in written)}")
    return 0
