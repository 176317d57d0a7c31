"""The picture of ranks: how many times as fast as one a step over several is, a line per n.

A row of panels per cell and sparsity, a column per number of units. matplotlib is imported with
this module: import it late.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sparsegrad.figures.style import INK
from sparsegrad.figures.windows import colours_of, draw_grid, dress, lines_of
from sparsegrad.profiling.profile import Point


def draw(points: Sequence[Point], title: str, path: Path) -> None:
    """Draw the steps over ranks of a profile into a PNG file: of a dry run, the parts of J.

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
    timed = any(point.rank_speedup is not None for point in points)
    labels = "ranks", "times as fast as one" if timed else "J of all, over a rank's"
    ideal = Line2D([], [], lw=1, ls=(0, (1, 2)), color=INK, label="as many times as ranks")
    draw_grid(points, title, path, labels, _draw_net, [*lines_of(points), ideal])


def _draw_net(axes: Axes, points: Sequence[Point]) -> None:
    """Draw a net: a line with dots for every n, below what ranks could give at most."""
    ticks = sorted({point.ranks or 1 for point in points})
    axes.plot(ticks, ticks, lw=1, ls=(0, (1, 2)), color=INK, zorder=1)
    for n, colour in colours_of(points):
        own = sorted((p.ranks or 1, y) for p in points if p.n == n and (y := _gain(p)) is not None)
        if own:
            axes.plot(*zip(*own, strict=True), "o-", color=colour, mec="white", ms=5.5, lw=1.7)
    dress(axes, ticks)


def _gain(point: Point) -> float | None:
    if point.rank_speedup is not None or not point.rank_entries:
        return point.rank_speedup
    return point.entries / point.rank_entries
