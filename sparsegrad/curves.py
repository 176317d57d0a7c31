"""Pictures of runs: learning curves, and how far estimates of the gradient are from the exact one.

matplotlib is imported here and only here: import this module late.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sparsegrad.picture import FAINT, STYLE
from sparsegrad.whole import write_whole

NAMES = {
    "length": "longest string L",
    "bits_per_character": "bits per character",
    "held_out_bits_per_character": "bits per character, held out",
    "rmse": "one-step-ahead error (rmse)",
}
DASHES = ("-", "--", "-.", ":")
"""RFLO and SnAp-1 can lie on one another."""
Curve = tuple[Sequence[float], Sequence[float]]
"""Tokens, and the measure at them."""


def draw_curves(
    curves: Mapping[str, Sequence[Curve]], measure: str, title: str, path: Path
) -> None:
    """Draw learning curves into a PNG file, whole: a line per name, a band over its seeds.

    Parameters
    ----------
    curves : mapping of lists of curves
        The seeds of each method.
    measure : str
        Key of the reports.
    title : str
    path : Path

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.subplots()
        for colour, (name, seeds) in zip(_colours(len(curves)), curves.items(), strict=True):
            tokens, values = _on_one_grid([seed for seed in seeds if len(seed[0])])
            if not tokens.size:
                continue
            step = "steps-post" if measure == "length" else "default"
            axes.plot(tokens, values.mean(0), color=colour, lw=1.8, label=name, drawstyle=step)
            if len(values) > 1:
                axes.fill_between(
                    tokens, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0,
                    step="post" if measure == "length" else None,
                )  # fmt: skip
        axes.set_xlabel("tokens")
        axes.set_ylabel(NAMES.get(measure, measure))
        _dress(axes)
        if any(len(seeds) for seeds in curves.values()):
            axes.legend(frameon=False)
        axes.set_title(title, fontsize=9, loc="left", wrap=True)
        _write(figure, path)


def draw_alignment(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw cosine and ratio of norms against the exact gradient over time, and by tensor.

    Parameters
    ----------
    rows : sequence of mappings
        As :func:`sparsegrad.passive.compare_gradients` gives them.
    title : str
    path : Path

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        over_time, norms, by_tensor = figure.subplots(1, 3)
        for place, (colour, method) in enumerate(zip(_colours(len(methods)), methods, strict=True)):
            whole = [r for r in rows if (r["method"], r["tensor"]) == (method, "all")]
            tokens = [row["tokens"] for row in whole]
            look = {"color": colour, "lw": 1.6, "ls": DASHES[place % len(DASHES)]}
            over_time.plot(tokens, [r["cosine"] for r in whole], label=method, **look)
            norms.plot(tokens, [r["norm_ratio"] for r in whole], **look)
            tensors = sorted({row["tensor"] for row in rows} - {"all"})
            means = [
                np.mean([r["cosine"] for r in rows if (r["method"], r["tensor"]) == (method, t)])
                for t in tensors
            ]
            width = 0.8 / len(methods)
            by_tensor.bar(np.arange(len(tensors)) + width * place, means, width, color=colour)
            by_tensor.set_xticks(np.arange(len(tensors)) + 0.4 - width / 2, tensors)
        over_time.set_ylabel("cosine with the exact gradient")
        norms.set_ylabel("norm / exact norm")
        norms.set_yscale("log")
        by_tensor.set_ylabel("mean cosine")
        for axes in (over_time, norms):
            axes.set_xlabel("tokens")
            _dress(axes)
        _dress(by_tensor)
        figure.legend(loc="outside lower center", frameon=False, ncols=len(methods))
        figure.suptitle(title, fontsize=9)
        _write(figure, path)


def _colours(count: int) -> list[tuple[float, ...]]:
    return [tuple(shade) for shade in mpl.colormaps["viridis"](np.linspace(0.05, 0.85, count))]


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


def _dress(axes: Axes) -> None:
    axes.grid(True, color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _write(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, dpi=160, format="png")
    write_whole(path, picture.getvalue())
