"""Draw the site's own pictures into docs/pictures: `python docs/draw.py [DIR]`.

Nothing in them is made up: patterns and reach are those of `sparsegrad.reach` on the net that is
drawn, times are those of perf/history.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import sparsegrad

HERE = Path(__file__).resolve().parent
INK, FAINT, BLANK = "#333333", "#c8c8c8", "#f2f2f2"
STEPS = ("#0f4c81", "#3f8fc5", "#a6cee8")  # reached at n = 1, 2, 3: a scale, dark to light
EDGES = ((0, 1), (0, 3), (1, 2), (2, 4), (3, 5), (4, 6), (5, 6), (5, 7), (6, 0), (7, 3))
"""Who hears whom in the net that is drawn: (from, into). Each unit keeps a part of itself too."""
UNITS, INPUTS = 8, 2
STYLE = {"font.size": 10, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK,
         "ytick.color": INK, "axes.edgecolor": FAINT, "mathtext.fontset": "cm"}  # fmt: skip
Pattern = NDArray[np.bool_]


def patterns() -> tuple[Pattern, Pattern, list[Pattern]]:
    """Return D, I and what SnAp-n keeps of J for n = 1, 2, 3: rows are units."""
    dynamics = np.eye(UNITS, dtype=bool)
    for source, target in EDGES:
        dynamics[target, source] = True
    fan_in = dynamics.sum(axis=1) - 1 + INPUTS  # the weights into each unit
    immediate = np.repeat(np.eye(UNITS, dtype=bool), fan_in, axis=1)
    kept = [
        sparsegrad.reach(dynamics, immediate, n=n).to_scipy().toarray().T.astype(bool)
        for n in (1, 2, 3)
    ]
    return dynamics, immediate, kept


def draw_reach() -> Figure:
    """Draw the units that one weight, the one from 7 into 3, reaches within n = 1, 2, 3 steps."""
    _, immediate, kept = patterns()
    weight = int(np.flatnonzero(immediate[3])[0])
    angle = np.pi / 2 - 2 * np.pi * np.arange(UNITS) / UNITS
    place = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    figure = Figure(figsize=(9.6, 3.3), layout="constrained")
    for n, axes in enumerate(figure.subplots(1, 3), start=1):
        for source, target in EDGES:
            chosen = (source, target) == (7, 3)
            axes.annotate("", place[target], place[source], arrowprops={
                "arrowstyle": "-|>", "shrinkA": 13, "shrinkB": 13, "mutation_scale": 13,
                "color": "#c0392b" if chosen else FAINT, "lw": 2.4 if chosen else 1.2,
                "connectionstyle": "arc3,rad=0.08"})  # fmt: skip
        reached = kept[n - 1][:, weight]
        first = [next((m for m in range(n) if kept[m][u, weight]), None) for u in range(UNITS)]
        for unit, m in enumerate(first):
            axes.plot(*place[unit], "o", ms=24, mec=INK, mew=0.8,
                      color=BLANK if m is None else STEPS[m])  # fmt: skip
            axes.text(*place[unit], str(unit), ha="center", va="center",
                      color="white" if m is not None and m < 2 else INK)  # fmt: skip
        axes.text(-0.3, 0.42, "$w$", color="#c0392b", fontsize=15)
        axes.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
        axes.axis("off")
        units = "unit" if reached.sum() == 1 else "units"
        axes.set_title(f"n = {n}: {reached.sum()} {units}", fontsize=11)
    return figure


def draw_matrices() -> Figure:
    """Draw J = P ∘ (I + D J) of the same net, J's entries in the colour of the n that adds them."""
    dynamics, immediate, kept = patterns()
    weights = immediate.shape[1]
    when = np.full(immediate.shape, 3)
    for n in (2, 1, 0):
        when[kept[n]] = n
    figure = Figure(figsize=(9.6, 2.1), layout="constrained")
    parts = figure.subplots(1, 4, width_ratios=[weights, weights, UNITS, weights])
    scale = mpl.colors.ListedColormap([*STEPS, BLANK])
    plain = mpl.colors.ListedColormap([BLANK, "#6b6b6b"])
    influence = "$J_{t}$"
    for axes, matrix, title in (
        (parts[0], when, influence),
        (parts[1], immediate, "$= P \\circ (\\; I_t$"),
        (parts[2], dynamics, "$+\\; D_t$"),
        (parts[3], when, "$J_{t-1}\\;)$"),
    ):
        of_influence = matrix is when
        axes.imshow(matrix, cmap=scale if of_influence else plain, aspect="equal", vmin=0,
                    vmax=3 if of_influence else 1)  # fmt: skip
        axes.set_xticks(np.arange(-0.5, matrix.shape[1]), minor=True)
        axes.set_yticks(np.arange(-0.5, UNITS), minor=True)
        axes.grid(which="minor", color="white", lw=1)
        axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
        axes.spines[:].set_visible(False)
        if matrix.shape[1] == weights:
            for edge in np.flatnonzero(np.diff(immediate.argmax(axis=0))):
                axes.axvline(edge + 0.5, color=INK, lw=0.6)
        axes.set_title(title, fontsize=13)
        axes.set_xlabel("units" if matrix is dynamics else "weights")
    parts[0].set_ylabel("units")
    marks = [mpl.patches.Patch(color=STEPS[n], label=f"kept from n = {n + 1} on") for n in range(3)]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_history(folder: Path = HERE.parent / "perf" / "history") -> Figure:
    """Draw how many times as long plain CSR and scipy take, on each net, a mark per release."""
    runs = {}
    for path in sorted(folder.glob("*.json"), key=lambda p: [int(x) for x in p.stem.split(".")]):
        lines = json.loads(path.read_text())["lines"]
        runs[path.stem] = [x for x in lines if x["section"] == "product" and x.get("ratio")]
    nets = list(dict.fromkeys(line["workload"] for run in runs.values() for line in run))
    figure = Figure(figsize=(9.6, 0.9 + 0.32 * len(nets)), layout="constrained")
    axes: Any = figure.subplots()
    for row in range(len(nets)):
        axes.axhline(row, color=BLANK, zorder=0)
    for peer, name, colour in (("csr", "plain CSR", STEPS[1]), ("scipy", "scipy", "#d55e00")):
        for (release, run), marker in zip(runs.items(), "osD^vP*X", strict=False):
            points = [(x["ratio"], nets.index(x["workload"])) for x in run if x["method"] == peer]
            axes.plot(*zip(*points, strict=True), marker, color=colour, ms=7,
                      label=f"{name}, {release}")  # fmt: skip
            for ratio, row in points:
                axes.annotate(f"{ratio:,.0f}x", (ratio, row), (8, 0), va="center", fontsize=8,
                              textcoords="offset points")  # fmt: skip
    axes.set_yticks(range(len(nets)), nets)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(10, None)
    axes.margins(x=0.12)
    axes.set_xlabel("time over ours, one influence update, float32, one thread")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside upper right", ncols=2)
    return figure


PICTURES = {"reach": draw_reach, "matrices": draw_matrices, "history": draw_history}


def main(folder: Path = HERE / "pictures") -> None:
    """Draw all of them."""
    folder.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, draw in PICTURES.items():
            figure = draw()
            figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
            figure.savefig(folder / f"{name}.png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
