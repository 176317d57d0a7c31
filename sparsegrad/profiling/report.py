"""The profile as text: a table for people, JSON and CSV for programs, files for later."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sparsegrad.profiling.profile import POINT_KEYS, Point
from sparsegrad.profiling.scaling import Fit
from sparsegrad.system.atomic import write_whole
from sparsegrad.system.quantities import aligned, count, duration, percent, ratio, share, size

if TYPE_CHECKING:
    from rich.console import Console

LEGEND_COUNTED = (
    "entries: numbers kept in J; density: of J on the weights that exist",
    "xBPTT: multiply-adds of forward and update beside sparse BPTT's three per weight; "
    "xRTRL: of the update beside exact RTRL's on the same weights",
)
LEGEND_TIMED = (
    "time: of one update of J, warm, median; GB/s: J read once and written once",
    "predicted: by counts and this machine's rates, which probes found",
    "roof: least time on this machine at its multiply-add peak, or at its bandwidth for a J of "
    "that size, over the time",
)
LEGEND_WINDOWS = (
    "a step of a learner, the mean over a window of T steps; the update of J alone is in the files",
    "mult-adds, time: of forward, backward inside the window, J through it, and its contraction",
    "BPTT: a step of BPTT with as long a window; xBPTT: over its three multiply-adds per weight; "
    "xtime: over its time",
)

LEGEND_RANKS = (
    "a step of a learner over ranks, on paper: J of the rank that has most of it; all of the "
    "gradient but its own part comes to each rank",
    "update: of its J, by counts and this machine's rates; alone: forward, D, I, optimiser, the "
    "same on every rank, measured; x1: times as fast as one rank",
)


class Column(NamedTuple):
    """A column of the table."""

    heading: str
    text: Callable[[Point], str]
    timed: bool = False  # left out where nothing was to be run
    spare: int = 0  # a terminal too narrow for all drops the column with the highest one first


def _time(point: Point) -> str:
    if point.seconds is None:
        return (point.note or "-").replace(" ", "-")
    return duration(point.seconds)


def _predicted(point: Point) -> str:
    return "-" if point.predicted_seconds is None else duration(point.predicted_seconds)


def _step_time(point: Point) -> str:
    if point.step_seconds is None:
        return (point.note or "-").replace(" ", "-")
    return duration(point.step_seconds)


def _bptt_time(point: Point) -> str:
    return "-" if point.bptt_seconds is None else duration(point.bptt_seconds)


def _step_count(point: Point) -> str:
    return "-" if point.step_multiply_adds is None else count(point.step_multiply_adds)


def _update_time(point: Point) -> str:
    if point.rank_seconds is None:
        return "-"
    return duration(point.rank_seconds - (point.alone_seconds or 0) - (point.exchange_seconds or 0))


def _rank_time(point: Point) -> str:
    return (point.note or "-") if point.rank_seconds is None else duration(point.rank_seconds)


def _known(value: float | None, text: Callable[[float], str]) -> str:
    return "-" if value is None else text(value)


def _quartiles(point: Point) -> str:
    if point.seconds is None or point.seconds_low is None or point.seconds_high is None:
        return "-"
    down, up = (100 * (q / point.seconds - 1) for q in (point.seconds_low, point.seconds_high))
    return f"{down:+.0f}{up:+.0f}%"


NET = (
    Column("cell", lambda p: p.cell),
    Column("units", lambda p: str(p.units)),
    Column("sparsity", lambda p: percent(p.sparsity)),
)
COLUMNS = (
    Column("n", lambda p: str(p.n)),
    Column("weights", lambda p: count(p.weights), spare=6),
    Column("entries", lambda p: count(p.entries)),
    Column("density", lambda p: share(p.density), spare=3),
    Column("mult-adds", lambda p: count(p.multiply_adds)),
    Column("bytes", lambda p: size(p.bytes), spare=7),
    Column("time", _time, timed=True),
    Column("quartiles", _quartiles, timed=True, spare=5),
    Column("predicted", _predicted, timed=True, spare=4),
    Column("GFLOP/s", lambda p: ratio(p.gflops), timed=True, spare=2),
    Column("GB/s", lambda p: ratio(p.gbytes_per_second), timed=True, spare=1),
    Column("roof", lambda p: share(p.roofline_fraction), timed=True),
    Column("xBPTT", lambda p: ratio(p.vs_bptt)),
    Column("xRTRL", lambda p: ratio(p.vs_rtrl)),
)
STEP_COLUMNS = (
    Column("n", lambda p: str(p.n)),
    Column("T", lambda p: str(p.window)),
    Column("weights", lambda p: count(p.weights), spare=2),
    Column("entries", lambda p: count(p.entries), spare=1),
    Column("mult-adds", _step_count),
    Column("xBPTT", lambda p: ratio(p.step_vs_bptt)),
    Column("time", _step_time, timed=True),
    Column("BPTT", _bptt_time, timed=True),
    Column("xtime", lambda p: ratio(p.step_time_vs_bptt), timed=True),
)
RANK_COLUMNS = (
    Column("n", lambda p: str(p.n)),
    Column("ranks", lambda p: str(p.ranks)),
    Column("J", lambda p: _known(p.rank_bytes, size)),
    Column("of all", lambda p: share(p.rank_entries and p.rank_entries / p.entries), spare=2),
    Column("exchanged", lambda p: _known(p.exchanged_bytes, size)),
    Column("in", lambda p: _known(p.exchange_seconds, duration)),
    Column("update", _update_time, timed=True, spare=1),
    Column("alone", lambda p: _known(p.alone_seconds, duration), timed=True, spare=3),
    Column("step", _rank_time, timed=True),
    Column("x1", lambda p: ratio(p.rank_speedup), timed=True),
)
FIT_HEADINGS = ("cell", "against", "n", "points", "time", "exact count", "paper's law")


def plain_report(points: Sequence[Point], fits: Sequence[Fit], title: str) -> str:
    """Return the tables as plain text, every column of every point on one line of its own.

    Parameters
    ----------
    points : sequence of Point
    fits : sequence of Fit
    title : str

    Returns
    -------
    str
    """
    shown = _relevant(points, [*NET, *_columns(points)])
    rows = [[column.heading for column in shown]]
    rows += [[column.text(point).replace(" ", "") for column in shown] for point in points]
    parts = [title, "", *aligned(rows), "", *_legend(points)]
    if fits:
        headings = [heading.replace(" ", "-") for heading in FIT_HEADINGS]
        parts += ["", "growth exponents", "", *aligned([headings, *map(_fit_row, fits)])]
    return "\n".join(parts) + "\n"


def rich_report(
    console: "Console", points: Sequence[Point], fits: Sequence[Fit], title: str
) -> None:
    """Print the tables on a terminal; a narrow one gets the columns that matter most.

    Parameters
    ----------
    console : rich.console.Console
    points : sequence of Point
    fits : sequence of Fit
    title : str
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def table() -> Table:
        return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)

    net = Column("net", lambda p: f"{p.cell} {p.units} @ {percent(p.sparsity)}")
    shown = _fitting(points, _relevant(points, [net, *_columns(points)]), console.width)
    main = table()
    main.add_column("net", style="bold", no_wrap=True)
    for column in shown[1:]:
        main.add_column(column.heading, justify="right", no_wrap=True)
    previous = ""
    for point in points:
        first = net.text(point)
        if previous not in ("", first):
            main.add_section()
        cells = [Text(column.text(point), style=_style(column, point)) for column in shown[1:]]
        main.add_row("" if first == previous else first, *cells)
        previous = first
    console.print(Text(title, style="bold"))
    console.print(main)
    for line in _legend(points):
        console.print(Text(line, style="dim"))
    if fits:
        growth = table()
        for i, heading in enumerate(FIT_HEADINGS):
            growth.add_column(heading, justify="left" if i < 2 else "right")
        for fit in fits:
            growth.add_row(*_fit_row(fit))
        console.print(Text("\ngrowth exponents", style="bold"))
        console.print(growth)


def _style(column: Column, point: Point) -> str:
    if column.heading == "roof" and point.roofline_fraction is not None:
        return "green" if point.roofline_fraction >= 0.5 else ""
    if column.heading == "time" and point.note is not None:
        return "yellow"
    if column.heading == "xRTRL" and point.n != "rtrl" and point.vs_rtrl == 1:
        return "green"  # saturated: SnAp-n is exact RTRL here
    return "dim" if column.text(point) == "-" else ""


def _tried(points: Sequence[Point]) -> bool:
    return any(point.seconds is not None or point.note is not None for point in points)


def _columns(points: Sequence[Point]) -> tuple[Column, ...]:
    """Return those of the update of J, or of a learner's step with windows or over ranks."""
    if any(point.ranks is not None for point in points):
        return RANK_COLUMNS
    return STEP_COLUMNS if any(point.window is not None for point in points) else COLUMNS


def _legend(points: Sequence[Point]) -> tuple[str, ...]:
    if _columns(points) is RANK_COLUMNS:
        shown = 2 if any(point.rank_seconds for point in points) else 1
        return (*LEGEND_RANKS[:shown], *where_it_pays(points))
    if _columns(points) is STEP_COLUMNS:
        return LEGEND_WINDOWS
    return LEGEND_COUNTED + (LEGEND_TIMED if _tried(points) else ())


def where_it_pays(points: Sequence[Point]) -> list[str]:
    """Say in a line for each net and n up to how many ranks a step gets shorter."""
    lines = []
    for key in dict.fromkeys((p.cell, p.units, p.sparsity, p.n) for p in points):
        own = [p for p in points if (p.cell, p.units, p.sparsity, p.n) == key]
        timed = sorted((p for p in own if p.rank_speedup), key=lambda p: p.ranks or 0)
        if not timed:
            continue
        best, last = max(timed, key=lambda p: p.rank_speedup or 0), timed[-1]
        name = "rtrl" if key[3] == "rtrl" else f"snap:{key[3]}"
        text = f"{name} on {key[0]} {key[1]} @ {percent(key[2])}: "
        if best.ranks == 1:
            text += "does not pay, one rank is the fastest"
        else:
            what = "still pays" if best is last else "stops paying"
            text += f"{what} at {best.ranks} ranks, {ratio(best.rank_speedup)} times as fast as one"
        if best is not last:
            text += f"; {last.ranks} ranks: {ratio(last.rank_speedup)}"
        lines.append(text)
    return lines


def _relevant(points: Sequence[Point], columns: Sequence[Column]) -> list[Column]:
    return [column for column in columns if _tried(points) or not column.timed]


def _fitting(points: Sequence[Point], columns: list[Column], width: int) -> list[Column]:
    """Drop columns that can be spared until the rest fits, with two blanks between columns."""
    needed = {
        column.heading: max(map(len, [column.heading, *map(column.text, points)])) + 2
        for column in columns
    }
    while sum(needed[column.heading] for column in columns) > width:
        last = max(columns, key=lambda column: column.spare)
        if last.spare == 0:
            break
        columns = [column for column in columns if column is not last]
    return columns


def _fit_row(fit: Fit) -> list[str]:
    powers = ["-" if x is None else f"{x:.2f}" for x in (fit.time, fit.counted)]
    law = "-" if fit.law is None else f"{fit.law:g}"
    return [fit.cell, fit.against, str(fit.n), str(fit.points), *powers, law]


def json_report(points: Sequence[Point]) -> str:
    """Return the points as a JSON list of objects with the keys `POINT_KEYS`."""
    rows = ",\n".join(json.dumps(point.as_dict(), allow_nan=False) for point in points)
    return f"[\n{rows}\n]\n" if points else "[]\n"


def csv_report(points: Sequence[Point]) -> str:
    """Return the points as CSV with a heading; what was not run is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, POINT_KEYS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(point.as_dict() for point in points)
    return text.getvalue()


def write_data(
    folder: Path, points: Sequence[Point], fits: Sequence[Fit], run: dict[str, object]
) -> list[Path]:
    """Write profile.json, profile.csv and run.json (options, machine, fits), each whole.

    Parameters
    ----------
    folder : Path
        Made where it does not exist.
    points : sequence of Point
    fits : sequence of Fit
    run : dict
        What was run and where.

    Returns
    -------
    list of Path

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = json.dumps({**run, "fits": [fit.as_dict() for fit in fits]}, indent=2) + "\n"
    texts = {
        "profile.json": json_report(points),
        "profile.csv": csv_report(points),
        "run.json": about,
    }
    for name, text in texts.items():
        write_whole(folder / name, text.encode())
    return [folder / name for name in texts]
