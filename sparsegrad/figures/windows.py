"""The picture of windows: a learner's step over BPTT's, against the window, one line per n.

A row of panels per cell and sparsity, a column per number of units. matplotlib is imported with
this module: import it late.
"""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from sparsegrad.figures.curves import COLOURS, OTHERS
from sparsegrad.figures.style import FAINT, INK, our_style, write_picture
from sparsegrad.profiling.profile import Point
from sparsegrad.system.quantities import percent


def draw(points: Sequence[Point], title: str, path: Path) -> None:
    """Draw the steps of a profile with windows into a PNG file.

    Parameters
    ----------
    points : sequence of Point
        At least one.
    title : str
    path : Path
        Replaced once the picture is whole.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    labels = "window T", "step, times BPTT's"
    draw_grid(points, title, path, labels, _draw_net, _legend(points))


def draw_grid(
    points: Sequence[Point],
    title: str,
    path: Path,
    labels: tuple[str, str],
    draw_net: Callable[[Axes, Sequence[Point]], None],
    handles: Sequence[Line2D],
) -> None:
    """Draw a panel for each net, and one legend; `labels` are those of its axes.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    rows = list(dict.fromkeys((point.cell, point.sparsity) for point in points))
    units = sorted({point.units for point in points})
    with our_style():
        figure = Figure(
            figsize=(1.6 + 2.7 * len(units), 1.4 + 2.2 * len(rows)), layout="constrained"
        )
        grid = figure.subplots(len(rows), len(units), squeeze=False, sharey="row", sharex=True)
        for (cell, sparsity), line in zip(rows, grid, strict=True):
            for width, axes in zip(units, line, strict=True):
                net = cell, sparsity, width
                own = [p for p in points if (p.cell, p.sparsity, p.units) == net]
                draw_net(axes, own)
                axes.set_title(
                    f"{cell.upper()}, {width} @ {percent(sparsity)}", fontsize=9, loc="left"
                )
            line[0].set_ylabel(labels[1])
        for axes in grid[-1]:
            axes.set_xlabel(labels[0])
        figure.legend(handles=handles, loc="outside lower center", frameon=False,
                      ncols=max(1, min(len(handles), 2 * len(units))))  # fmt: skip
        figure.suptitle(textwrap.fill(title, int(13 * figure.get_figwidth())), fontsize=10)
        write_picture(figure, path)


def _draw_net(axes: Axes, points: Sequence[Point]) -> None:
    """Draw a net: a line of counts and dots of times for every n."""
    axes.axhline(1, color=COLOURS["bptt"], lw=1.2, zorder=1)
    for n, colour in colours_of(points):
        own = [p for p in points if p.n == n]
        counted = sorted((p.window or 1, p.step_vs_bptt) for p in own if p.step_vs_bptt is not None)
        timed = sorted(
            (p.window or 1, p.step_time_vs_bptt) for p in own if p.step_time_vs_bptt is not None
        )
        if counted:
            axes.plot(*zip(*counted, strict=True), "-", color=colour, lw=1.7)
        if timed:
            axes.plot(*zip(*timed, strict=True), "o", color=colour, mec="white", mew=0.6, ms=5.5)
    dress(axes, sorted({point.window or 1 for point in points}))


def dress(axes: Axes, ticks: Sequence[int]) -> None:
    """Make both axes logarithmic, with these ticks alone below."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{tick}" for tick in ticks])
    axes.grid(True, which="major", color=FAINT, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.08)


def colours_of(points: Sequence[Point]) -> list[tuple[int | str, str]]:
    """Return each n of the points and its colour."""
    others = iter(OTHERS * len(points))
    orders = dict.fromkeys(point.n for point in points)
    names = {n: "rtrl" if n == "rtrl" else f"snap:{n}" for n in orders}
    return [(n, COLOURS.get(name) or next(others)) for n, name in names.items()]


def _legend(points: Sequence[Point]) -> list[Line2D]:
    lines = lines_of(points)
    lines.append(Line2D([], [], lw=1.2, color=COLOURS["bptt"], label="BPTT"))
    if any(point.step_time_vs_bptt is not None for point in points):
        lines.append(Line2D([], [], ls="", marker="o", color=INK, label="measured time"))
        lines.append(Line2D([], [], lw=1.7, color=INK, label="counted multiply-adds"))
    return lines


def lines_of(points: Sequence[Point]) -> list[Line2D]:
    """Return the entries of a legend for each n."""
    return [
        Line2D([], [], lw=1.7, color=colour, label="RTRL" if n == "rtrl" else f"SnAp-{n}")
        for n, colour in colours_of(points)
    ]
