"""The picture of a comparison of gradients: how good each one is, and what it costs.

matplotlib is imported with this module: import it late.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, FuncFormatter, NullLocator

from sparsegrad.figures.curves import COLOURS, OTHERS
from sparsegrad.figures.style import FAINT, INK, our_style, write_picture

LEAST = 1e-5
"""How far from 1 a cosine is drawn at least: what is nearer, is exact for the eye."""
SHOWN = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)
"""Cosines that may have a tick."""
Place = tuple[float, float]
"""Cost, and distance of the cosine from 1."""


def pareto_front(places: Mapping[str, Place]) -> list[str]:
    """Return who is on the front, from the cheapest on: nobody is cheaper and no worse.

    Parameters
    ----------
    places : mapping of (cost, error)

    Returns
    -------
    list of str

    Examples
    --------
    >>> pareto_front({"a": (1, 0.5), "b": (2, 0.7), "c": (3, 0.1)})
    ['a', 'c']
    """
    front: list[str] = []
    for name in sorted(places, key=places.__getitem__):
        if not front or places[name][1] < places[front[-1]][1]:
            front.append(name)
    return front


def draw_pareto(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw the mean cosine with the exact gradient against the multiply-adds of a step.

    Parameters
    ----------
    rows : sequence of mappings
        As :func:`sparsegrad.runs.alignment.compare_gradients` gives them.
    title : str
    path : Path

    Raises
    ------
    ValueError
        If there are no rows.
    OSError
        If the file cannot be written.
    """
    whole = [row for row in rows if row["tensor"] == "all"]
    if not whole:
        raise ValueError("no step had a gradient to compare")
    places: dict[str, Place] = {}
    for name in dict.fromkeys(row["method"] for row in whole):
        own = [row for row in whole if row["method"] == name]
        error = 1 - float(np.mean([row["cosine"] for row in own]))
        places[name] = own[0]["multiply_adds"], max(error, LEAST)
    front = pareto_front(places)
    with our_style():
        figure = Figure(figsize=(7.6, 4.8), layout="constrained")
        axes = figure.subplots()
        line = [places[name] for name in front]
        axes.plot(*zip(*line, strict=True), color=INK, lw=1.1, zorder=1,
                  drawstyle="steps-post")  # fmt: skip
        others = iter(OTHERS * len(places))
        for name, (cost, error) in places.items():
            colour = COLOURS.get(family(name)) or next(others)
            filled = colour if name in front else "white"
            marker = "o" if "@" in name or name.startswith("bptt:") else "D"
            axes.plot(cost, error, marker, ms=7, mec=colour, mfc=filled, mew=1.5, ls="", zorder=3)
        _dress(axes, list(places.values()))
        figure.draw_without_rendering()  # the axes have their size, which labels go by
        _label(axes, places, front)
        axes.set_xlabel("multiply-adds of a step")
        axes.set_ylabel("cosine with the exact gradient")
        note = "line and filled: Pareto front; circles: windows of T steps (@T), diamonds: none"
        figure.suptitle(f"{title}\n{note}", x=0.01, ha="left", fontsize=9)
        write_picture(figure, path)


def family(name: str) -> str:
    """Return what a method shares its colour with: itself without a window."""
    base = name.partition("@")[0]
    return "bptt" if base.startswith("bptt") else base


def _dress(axes: Axes, places: Sequence[Place]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    costs, errors = zip(*places, strict=True)
    axes.set_xlim(min(costs) / 3, max(costs) * 2.2)
    low, high = max(errors) * 1.5, min(errors) / 1.6
    axes.set_ylim(low, high)  # better is higher
    ticks = [1 - cosine for cosine in SHOWN if high <= 1 - cosine <= low]
    if min(errors) <= LEAST:
        ticks.append(LEAST)
    axes.set_yticks(ticks)
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda error, _: "exact" if error <= LEAST else f"{1 - error:.4g}")
    )
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.grid(True, which="major", color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes: Axes, places: Mapping[str, Place], front: Sequence[str]) -> None:
    """Write each name beside its point, where it covers no point, front or other name."""
    points = {name: axes.transData.transform(place) for name, place in places.items()}
    scale = axes.get_figure().dpi / 72  # type: ignore[union-attr]
    taken = [(x - 6 * scale, y - 6 * scale, x + 6 * scale, y + 6 * scale)
             for x, y in points.values()]  # fmt: skip
    near = 3 * scale
    for (x, y), (then, higher) in pairwise(points[name] for name in front):
        taken += [(x, y - near, then, y + near), (then - near, y, then + near, higher)]
    left, bottom, right, top = axes.bbox.extents
    far = 10 * right
    taken += [(-far, -far, left, far), (right, -far, far, far), (-far, -far, far, bottom),
              (-far, top, far, far)]  # fmt: skip
    for name in sorted(places, key=lambda name: (name not in front, points[name][0])):
        x, y = points[name]
        width, height = 5.8 * scale * len(name), 11 * scale
        ways = [
            (dx * scale, dy * scale)
            for far in (1, 2, 3, 4)
            for dx, dy in ((9, 0), (5, 10 * far), (5, -10 * far), (-9 - width / scale, 0),
                           (-5 - width / scale, 10 * far), (-5 - width / scale, -10 * far))
        ]  # fmt: skip
        boxes = [(x + dx, y + dy - height / 2, x + dx + width, y + dy + height / 2)
                 for dx, dy in ways]  # fmt: skip
        covered = [sum(_overlap(box, other) for other in taken) for box in boxes]
        best = int(np.argmin(covered))
        taken.append(boxes[best])
        dx, dy = ways[best]
        axes.annotate(
            name, places[name], (dx / scale, dy / scale),
            textcoords="offset points", va="center", fontsize=8,
            color=COLOURS.get(family(name), INK), weight="bold" if name in front else "normal",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.7} if abs(dy) > 11 * scale
            else None,
        )  # fmt: skip


def _overlap(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    """Return the area that two boxes share: left, bottom, right, top."""
    wide = min(one[2], two[2]) - max(one[0], two[0])
    high = min(one[3], two[3]) - max(one[1], two[1])
    return max(wide, 0) * max(high, 0)
