"""Pictures of runs: learning curves, and how far estimates of the gradient are from the exact one.

matplotlib is imported with this module: import it late.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from sparsegrad.figures.style import FAINT, INK, our_style, write_picture

NAMES = {
    "length": "longest string L",
    "bits_per_character": "bits per character",
    "held_out_bits_per_character": "bits per character, held out",
    "rmse": "one-step-ahead error (rmse)",
}
COLOURS = {
    "rtrl": INK,
    "snap:3": "#004d80",
    "snap:2": "#0072b2",
    "snap:1": "#56b4e9",
    "bptt": "#d55e00",
    "uoro": "#cc79a7",
    "rflo": "#009e73",
}
"""One colour per method in every picture: those of Okabe and Ito, which nobody confuses."""
OTHERS = ("#e69f00", "#8c6d46", "#7f7f99", "#b3a100")
DASHES = ("-", "--", "-.", ":")
"""RFLO and SnAp-1 can lie on one another."""
TOKENS = EngFormatter(sep=" ")
Curve = tuple[Sequence[float], Sequence[float]]
"""Tokens, and the measure at them."""


def draw_curves(
    curves: Mapping[str, Sequence[Curve]],
    measure: str,
    title: str,
    path: Path,
    density: Curve | None = None,
) -> None:
    """Draw learning curves into a PNG file, whole: a line per name, a band over its seeds.

    Parameters
    ----------
    curves : mapping of lists of curves
        The seeds of each method. What follows a comma in a name is written small.
    measure : str
        Key of the reports.
    title : str
    path : Path
    density : curve, optional
        The part of the weights that exists, drawn below.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with our_style():
        figure = Figure(figsize=(7.2, 4.3), layout="constrained")
        axes = figure.subplots() if density is None else _above(figure, density)
        step = measure == "length"
        ends = []
        for (name, seeds), colour in zip(curves.items(), _colours(list(curves)), strict=True):
            tokens, values = _on_one_grid([seed for seed in seeds if len(seed[0])])
            if not tokens.size:
                continue
            mean = values.mean(0)
            look = "steps-post" if step else "default"
            axes.plot(tokens, mean, color=colour, lw=1.8, drawstyle=look)
            if len(values) > 1:
                axes.fill_between(
                    tokens, values.min(0), values.max(0), color=colour, alpha=0.14, lw=0,
                    step="post" if step else None,
                )  # fmt: skip
            ends.append((float(tokens[-1]), float(mean[-1]), name, colour))
        figure.axes[-1].set_xlabel("tokens")
        axes.set_ylabel(NAMES.get(measure, measure))
        axes.xaxis.set_major_formatter(TOKENS)
        if step:
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        dress(axes)
        axes.margins(x=0.01)
        _name_lines(axes, ends)
        figure.suptitle(title, x=0.01, ha="left", fontsize=9)
        write_picture(figure, path)


def _above(figure: Figure, density: Curve) -> Axes:
    """Draw the density of weights below, and return the axes above it."""
    axes, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    below.plot(*density, color=INK, lw=1.4, drawstyle="steps-post")
    below.set_ylabel("weights that exist")
    below.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.set_ylim(bottom=0)
    dress(below)
    return axes


def _name_lines(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each line's name behind its end, moved apart where two would touch."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    at = _apart([(y - low) / (high - low) for _, y, _, _ in ends], 0.05)
    for place, (x, y, name, colour) in zip(at, ends, strict=True):
        method, _, detail = name.partition(",")
        axes.annotate(
            method, (x, y), (1.03, place), textcoords=axes.transAxes, va="center", color=colour,
            weight="bold", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.6,
                        "shrinkA": 1, "shrinkB": 0},
        )  # fmt: skip
        if detail:
            axes.annotate(
                detail.strip(), (1.03, place), (42, 0), xycoords=axes.transAxes,
                textcoords="offset points", va="center", fontsize=7, annotation_clip=False,
            )  # fmt: skip


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Return places in the same order that are at least `gap` apart, moved as little as need be."""
    if not places:
        return []
    order = np.argsort(places, kind="stable")
    rank = np.arange(len(places)) * gap
    wanted = np.asarray(places, float)[order] - rank
    # the nearest sequence that never falls: pool neighbours that would, and give them their mean
    pools: list[list[float]] = []
    for value in wanted:
        pools.append([value])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    moved = np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools]) + rank
    result = np.empty(len(places))
    result[order] = moved
    return list(result)


def draw_alignment(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw how gradients differ from the exact one: over time, by tensor, and SnAp-n's own bound.

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
    if not rows:
        raise ValueError("no step had a gradient to compare")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    tensors = sorted({row["tensor"] for row in rows} - {"all"})
    with our_style():
        figure = Figure(figsize=(9.2, 6.2), layout="constrained")
        (cosines, norms), (by_tensor, biases) = figure.subplots(2, 2)
        width = 0.8 / len(methods)
        for place, (colour, method) in enumerate(zip(_colours(methods), methods, strict=True)):
            own = [row for row in rows if row["method"] == method]
            whole = [row for row in own if row["tensor"] == "all"]
            look = {"color": colour, "lw": 1.5, "ls": DASHES[place % len(DASHES)]}
            tokens = [row["tokens"] for row in whole]
            cosines.plot(tokens, [row["cosine"] for row in whole], label=method, **look)
            norms.plot(tokens, [row["norm_ratio"] for row in whole], **look)
            means = [np.mean([r["cosine"] for r in own if r["tensor"] == t]) for t in tensors]
            by_tensor.bar(np.arange(len(tensors)) + width * place, means, width * 0.9, color=colour)
            bounded = [row for row in whole if "bias_bound" in row]
            tokens = [row["tokens"] for row in bounded]
            for key, line in (("bias_bound", "-"), ("dropped_mass", ":")):
                biases.plot(tokens, [row[key] for row in bounded], color=colour, lw=1.5, ls=line)
        by_tensor.set_xticks(np.arange(len(tensors)) + 0.4 - width / 2, tensors)
        norms.axhline(1, color=INK, lw=0.8, zorder=1)
        for axes, heading in (
            (cosines, "cosine with the exact gradient"),
            (norms, "norm, as a part of the exact one's"),
            (by_tensor, "mean cosine, by tensor"),
            (biases, "SnAp-n: bound of the bias (—), dropped per step (···),\n"
                     "as parts of the norm of J"),
        ):  # fmt: skip
            axes.set_title(heading, fontsize=9, loc="left")
            dress(axes)
            if axes is not by_tensor:
                axes.set_xlabel("tokens")
                axes.xaxis.set_major_formatter(TOKENS)
        norms.set_yscale("log")
        if any("bias_bound" in row for row in rows):
            biases.set_yscale("log")
        else:
            biases.set_axis_off()
        figure.legend(loc="outside lower center", frameon=False, ncols=len(methods), handlelength=3)
        figure.suptitle(title, x=0.01, ha="left", fontsize=9)
        write_picture(figure, path)


def _colours(names: Sequence[str]) -> list[str]:
    """Return a method's own colour, or one of the others in turn."""
    others = iter(OTHERS * len(names))
    return [COLOURS.get(name.partition(",")[0]) or next(others) for name in names]


def _on_one_grid(seeds: Sequence[Curve]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return common tokens, and the last value of each curve at or before them."""
    if not seeds:
        return np.empty(0), np.empty((0, 0))
    start = max(seed[0][0] for seed in seeds)
    tokens = np.unique(np.concatenate([np.asarray(seed[0]) for seed in seeds]))
    tokens = tokens[tokens >= start]
    values = [
        np.asarray(seed[1])[np.searchsorted(seed[0], tokens, side="right") - 1] for seed in seeds
    ]
    return tokens, np.array(values)


def dress(axes: Axes) -> None:
    """Give axes the look of all our pictures."""
    axes.grid(True, color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
