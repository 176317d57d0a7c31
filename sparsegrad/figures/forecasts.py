"""The picture of a run on a table: what came, what was predicted, and the error as it went.

matplotlib is imported with this module: import it late.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from sparsegrad.figures.curves import OTHERS, TOKENS, dress
from sparsegrad.figures.style import INK, our_style, write_picture

OURS = "#0072b2"
BASELINES = {"_persistence": "last value", "_mean": "running mean"}
MOST_PANELS = 3
"""Targets that are drawn."""


def draw_forecasts(
    header: Sequence[str],
    rows: NDArray[Any],
    lines: Sequence[Mapping[str, Any]],
    title: str,
    path: Path,
) -> None:
    """Draw the last rows of a table with their predictions, and the running error beside baselines.

    Parameters
    ----------
    header : sequence of str
        ``row``, then pairs of what came and what was predicted, ``x+5`` five rows ahead.
    rows : float array, (rows, columns of the header)
    lines : sequence of mappings
        The reports of the run.
    title : str
    path : Path

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    pairs = range(1, min(len(header), 1 + 2 * MOST_PANELS), 2)
    with our_style():
        figure = Figure(figsize=(7.2, 2.2 + 1.7 * len(pairs)), layout="constrained")
        panels = figure.subplots(len(pairs) + 1, 1, squeeze=False)[:, 0]
        for axes, pair in zip(panels[:-1], pairs, strict=True):
            ahead = header[pair].rpartition("+")[2]
            at = rows[:, 0] + (int(ahead) if ahead.isdigit() and "+" in header[pair] else 0)
            axes.plot(at, rows[:, pair], color=INK, lw=1.3, label="what came")
            axes.plot(at, rows[:, pair + 1], color=OURS, lw=1.3, label="predicted")
            axes.set_ylabel(header[pair])
            axes.margins(x=0.01)
            dress(axes)
        panels[-2].set_xlabel("row")
        error, seen = panels[-1], [line for line in lines if "rmse_mean" in line]
        tokens = [line["tokens"] for line in seen]
        colours = dict(zip(BASELINES, OTHERS, strict=False))
        for key, name in (BASELINES | {"": "predicted"}).items():
            values = [line[f"rmse{key}"] for line in seen]
            error.plot(tokens, values, color=colours.get(key, OURS), lw=1.5, label=name)
        if any(value > 0 for line in seen for value in (line["rmse"], line["rmse_mean"])):
            error.set_yscale("log")
            low, high = error.get_ylim()
            plain = StrMethodFormatter("{x:g}")
            error.yaxis.set_major_formatter(plain)
            # within a decade there may be no power of ten; beyond one their names would touch
            error.yaxis.set_minor_formatter(plain if high < 10 * low else NullFormatter())
        error.set_xlabel("tokens")
        error.set_ylabel("error (rmse)")
        error.xaxis.set_major_formatter(TOKENS)
        dress(error)
        for axes in (panels[0], error):
            axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1),
                        borderaxespad=0.1)  # fmt: skip
        figure.suptitle(title, x=0.01, ha="left", fontsize=9)
        write_picture(figure, path)
