"""The picture of a profile: log-log cost against n, one line per sparsity.

One row of panels per cell for multiply-adds and, where steps were timed, one for seconds; one
column per number of units. matplotlib is imported with this module: import it late.
"""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from sparsegrad.figures.style import FAINT, INK, our_style, write_picture
from sparsegrad.profiling.profile import Point
from sparsegrad.system.quantities import percent

BEYOND = 1.6
"""Exact RTRL stands this factor to the right of the largest n."""

Value = Callable[[Point], float | None]


def draw(points: Sequence[Point], title: str, batch: int, path: Path) -> None:
    """Draw a profile into a PNG file.

    Parameters
    ----------
    points : sequence of Point
        At least one.
    title : str
    batch : int
        Of the sweep.
    path : Path
        Replaced once the picture is whole.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    cells = list(dict.fromkeys(point.cell for point in points))
    units = sorted({point.units for point in points})
    quantities: list[tuple[str, Value]] = [("multiply-adds", lambda p: p.multiply_adds or None)]
    if any(point.seconds is not None for point in points):
        quantities.append(("seconds", lambda p: p.seconds))
    rows = [(cell, *quantity) for cell in cells for quantity in quantities]
    with our_style():
        figure = Figure(
            figsize=(1.6 + 2.7 * len(units), 1.2 + 2.4 * len(rows)), layout="constrained"
        )
        grid = figure.subplots(len(rows), len(units), squeeze=False, sharey="row", sharex=True)
        for (cell, name, value), line in zip(rows, grid, strict=True):
            for width, axes in zip(units, line, strict=True):
                own = [p for p in points if p.cell == cell and p.units == width]
                for sparsity, colour in _colours(points):
                    some = [p for p in own if p.sparsity == sparsity]
                    _curve(axes, some, value, colour, _exact_at(points))
                    if name == "seconds":
                        _ticks(axes, some, colour, _exact_at(points))
                    if name == "multiply-adds" and some:
                        bptt = 3 * batch * some[0].weights
                        axes.axhline(bptt, color=colour, lw=1, ls=(0, (1, 2)), zorder=1)
                axes.set_title(f"{cell.upper()}, {width} units", fontsize=9, loc="left")
                _dress(axes, points)
            line[0].set_ylabel(f"{name} per step")
        for axes in grid[-1]:
            axes.set_xlabel("n of SnAp-n")
        handles = _legend(points)
        figure.legend(handles=handles, loc="outside lower center", frameon=False,
                      ncols=max(1, min(len(handles), 2 * len(units))))  # fmt: skip
        letters = int(13 * figure.get_figwidth())  # as many as stand in a line at this size
        figure.suptitle(textwrap.fill(title, letters), fontsize=10)
        write_picture(figure, path)


def _colours(points: Sequence[Point]) -> list[tuple[float, tuple[float, ...]]]:
    levels = sorted({point.sparsity for point in points})
    shades = mpl.colormaps["viridis"](np.linspace(0.05, 0.8, len(levels)))
    return [(level, tuple(shade)) for level, shade in zip(levels, shades, strict=True)]


def _finite(points: Sequence[Point]) -> list[float]:
    return sorted({float(point.n) for point in points if point.n != "rtrl"})


def _exact_at(points: Sequence[Point]) -> float:
    return BEYOND * max(_finite(points), default=1.0)


def _curve(
    axes: Axes,
    points: Sequence[Point],
    value: Value,
    colour: tuple[float, ...],
    exact_at: float,
) -> None:
    """Draw one sparsity: dots along n, a diamond for exact RTRL."""
    curve = sorted((float(p.n), y) for p in points if p.n != "rtrl" and (y := value(p)))
    exact = [(exact_at, y) for p in points if p.n == "rtrl" and (y := value(p))]
    if curve and exact:
        axes.plot(*zip(curve[-1], exact[0], strict=True), ":", color=colour, lw=1.3, zorder=2)
    if curve:
        axes.plot(*zip(*curve, strict=True), "o-", color=colour, mec="white", mew=0.6, ms=5, lw=1.7)
    if exact:
        axes.plot(*zip(*exact, strict=True), "D", color=colour, mec="white", mew=0.6, ms=5.5)


def _ticks(axes: Axes, points: Sequence[Point], colour: tuple[float, ...], exact_at: float) -> None:
    """Mark the predicted seconds with a dash, which lies behind a dot where both agree."""
    marks = [
        (exact_at if p.n == "rtrl" else float(p.n), p.predicted_seconds)
        for p in points
        if p.predicted_seconds is not None
    ]
    if marks:
        axes.plot(*zip(*marks, strict=True), "_", color=colour, ms=14, mew=1.6, zorder=1)


def _dress(axes: Axes, points: Sequence[Point]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks, labels = _finite(points), [f"{n:g}" for n in _finite(points)]
    if any(point.n == "rtrl" for point in points):
        ticks, labels = [*ticks, _exact_at(points)], [*labels, "RTRL"]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(labels)
    axes.grid(True, which="major", color=FAINT, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.08)


def _legend(points: Sequence[Point]) -> list[Line2D]:
    lines = [
        Line2D([], [], marker="o", color=colour, label=f"{percent(sparsity)} sparse")
        for sparsity, colour in _colours(points)
    ]
    if any(point.n == "rtrl" for point in points):
        lines.append(Line2D([], [], marker="D", ls=":", color=INK, label="exact RTRL"))
    if any(point.predicted_seconds is not None for point in points):
        lines.append(
            Line2D([], [], ls="", marker="_", ms=14, mew=1.6, color=INK, label="predicted seconds")
        )
    lines.append(Line2D([], [], lw=1, ls=(0, (1, 2)), color=INK, label="sparse BPTT (counted)"))
    return lines
