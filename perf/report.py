"""Draw and tabulate what `run.py` wrote: `python perf/report.py A.json [B.json]`.

Prints Markdown: a table of the masked product, how many times as long as our panels each peer takes
with the geometric means over the paper's nine nets, and a table for every other section. With two
files both are measured against themselves: a table of B's times over A's and of how the ratios to
the peers changed, which do not depend on how busy or fast the machine was.

Writes a picture beside the last file (or to --out): time against entries of J, the part of the
machine's roofline that is reached on each workload, and the ratios to the peers.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from workloads import SETS

from sparsegrad.system.quantities import count, duration, percent, ratio

Line = dict[str, Any]
OURS, TWO = "panels", "panels-2"
NAMES = {
    OURS: "sparsegrad", TWO: "two threads", "csr": "plain csr", "scipy": "scipy",
    "graphblas": "GraphBLAS", "numpy": "NumPy, dense", "jax": "JAX, dense",
}  # fmt: skip
COLOURS = {
    OURS: "#c2255c", "csr": "#e8890c", "scipy": "#1c7ed6", "graphblas": "#0b8f6a",
    "numpy": "#8b6fc9", "jax": "#5c6670",
}  # fmt: skip
TRAINERS = {
    "snap-1": "SnAp-1", "bptt": "sparse BPTT", "jax": "JAX BPTT, dense",
    "torch": "torch BPTT, dense",
}  # fmt: skip
MARKERS = {"rnn": "o", "gru": "s", "lstm": "^"}
INK, FAINT = "#2b2b33", "#dcdce3"


class Run:
    """One file of `run.py`."""

    def __init__(self, path: Path) -> None:
        try:
            whole = json.loads(path.read_text())
            self.lines: list[Line] = dict(whole).pop("lines")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"{path} must be a file of perf/run.py, got {error!r}") from None
        self.about: Line = whole
        self.path = path
        self.products: dict[str, dict[str, Line]] = {}
        for line in self.lines:
            if line.get("section") == "product":
                self.products.setdefault(line["workload"], {})[line["method"]] = line
        self.products = {name: by for name, by in self.products.items() if "seconds" in by[OURS]}

    @property
    def title(self) -> str:
        """Machine, commit and time in a line."""
        about = self.about
        return f"{about['cpu']}, {about['cpus']} CPUs, commit {about['commit']}, {about['time']}"

    def methods(self) -> list[str]:
        """Contestants with a time on at least one workload."""
        return [
            m for m in NAMES if any("seconds" in by.get(m, {}) for by in self.products.values())
        ]

    def ratio(self, workload: str, method: str) -> float | None:
        """Return how many times our time a method takes."""
        number = self.products.get(workload, {}).get(method, {}).get("ratio")
        return None if number is None else float(number)

    def mean_ratio(self, method: str) -> float | None:
        """Geometric mean of a method's ratios over the paper's nine, or None if one is missing."""
        return _geometric_mean(self.ratio(name, method) for name in SETS["paper"])

    def mean_roofline(self) -> float | None:
        """Geometric mean of our part of the roofline over the paper's nine."""
        return _geometric_mean(
            self.products.get(name, {}).get(OURS, {}).get("roofline_fraction")
            for name in SETS["paper"]
        )


def _geometric_mean(numbers: Iterable[float | None]) -> float | None:
    logs = [None if number is None else math.log(number) for number in numbers]
    return None if None in logs or not logs else math.exp(sum(logs) / len(logs))


def net(line: Line) -> str:
    """Return a workload as a person would call it: GRU 128 @ 75%, n = 2."""
    text = f"{line['cell'].upper()} {line['units']} @ {percent(line['sparsity'])}, n = {line['n']}"
    if line["gate_masks"] != "independent":
        text += f", {line['gate_masks']} masks"
    return text if line["dtype"] == "float32" else f"{text}, {line['dtype']}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; all columns but the first are numbers, on the right."""
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ruler, *rows])


def _times(number: float | None) -> str:
    if number is None:
        return "–"
    return f"{float(f'{number:.3g}'):,.0f}x" if number >= 99.95 else f"{ratio(number)}x"


def _percent(number: float | None) -> str:
    return "–" if number is None else f"{100 * number:.0f}%"


def product_table(run: Run) -> str:
    """Return our time, our part of the roofline, and what the others take in multiples of it."""
    peers = [method for method in run.methods() if method not in (OURS, TWO)]
    two = TWO in run.methods()
    head = [
        "net",
        "entries of J",
        "multiply-adds",
        "time",
        "of roofline",
        *(NAMES[p] for p in peers),
    ]
    rows = []
    for name, by in run.products.items():
        ours = by[OURS]
        row = [
            net(ours), count(ours["entries"]), count(ours["multiply_adds"]),
            duration(ours["seconds"]), _percent(ours["roofline_fraction"]),
            *(_times(run.ratio(name, peer)) for peer in peers),
        ]  # fmt: skip
        if two:
            slower = run.ratio(name, TWO)
            row.append(_times(None if slower is None else 1 / slower))
        rows.append(row)
    if run.mean_ratio(OURS) is not None:
        gain = run.mean_ratio(TWO)
        rows.append(
            ["**geometric mean of the nine**", "", "", "", _percent(run.mean_roofline()),
             *(_times(run.mean_ratio(peer)) for peer in peers),
             *([_times(None if gain is None else 1 / gain)] if two else [])]
        )  # fmt: skip
    return markdown([*head, "two threads"] if two else head, rows)


def training_table(run: Run) -> str:
    """Return the time of a step of learning, over that of the first contestant, and per weight."""
    nets: dict[str, dict[str, Line]] = {}
    for line in run.lines:
        if line["section"] == "training" and "seconds" in line:
            nets.setdefault(line["workload"], {})[line["method"]] = line
    methods = [m for m in TRAINERS if any(m in by for by in nets.values())]
    head = [
        "net, a step of learning (ratio, per weight and stream)",
        *(TRAINERS[method] for method in methods),
    ]
    rows = []
    for by in nets.values():
        one = next(iter(by.values()))
        title = f"{one['cell'].upper()} {one['units']} @ {percent(one['sparsity'])}"
        cells = [
            f"{duration(by[m]['seconds'])} ({_times(by[m]['ratio'])}, "
            f"{by[m]['nanoseconds_per_weight']:.3g} ns)"
            if m in by
            else "–"
            for m in methods
        ]
        rows.append([f"{title}, batch {one['batch']}", *cells])
    return markdown(head, rows) if rows else ""


def section_tables(run: Run, old: Run | None) -> Iterator[str]:
    """Yield a table for every group of lines with the same keys, outside of the product."""
    groups: dict[tuple[str, ...], list[Line]] = {}
    for line in run.lines:
        if line["section"] not in ("product", "training") or "skipped" in line:
            groups.setdefault((line["section"], *line), []).append(line)
    before = {_identity(line): line for line in (old.lines if old is not None else [])}
    for (section, *keys), lines in groups.items():
        # Who did not take part is named with the reason alone.
        absent = {"method", "skipped"} <= set(keys)
        wanted = ("workload", "method", "skipped") if absent else keys
        columns = [key for key in keys if key in wanted and key != "section"]
        rows = [
            [_cell(line[column], before.get(_identity(line), {}).get(column)) for column in columns]
            for line in lines
        ]
        yield f"## {section}\n\n" + markdown([name.replace("_", " ") for name in columns], rows)


def _identity(line: Line) -> str:
    """Return what a line was measured of: all that is no measurement."""
    return json.dumps({key: x for key, x in line.items() if not isinstance(x, float)})


def _cell(value: object, before: object) -> str:
    changed = isinstance(value, float) and isinstance(before, float)
    return f"{_plain(before)} → {_plain(value)}" if changed else _plain(value)


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "–" if value is None else str(value)


def comparison_table(old: Run, new: Run) -> str:
    """Return the new times over the old ones, and the new ratios to the peers over the old."""
    common = [m for m in new.methods() if m in old.methods()]
    peers = [method for method in common if method not in (OURS, TWO)]
    head = ["net", "time: old", "new", "new / old", *(f"{NAMES[peer]}: ratio" for peer in peers)]
    rows = []
    for name, by in new.products.items():
        if name not in old.products:
            continue
        before, after = (r.products[name][OURS]["seconds"] for r in (old, new))
        changes = []
        for peer in peers:
            pair = old.ratio(name, peer), new.ratio(name, peer)
            known = pair[0] is not None and pair[1] is not None
            changes.append(f"{_times(pair[0])} → {_times(pair[1])}" if known else "–")
        rows.append(
            [net(by[OURS]), duration(before), duration(after), f"{after / before:.2f}", *changes]
        )
    return markdown(head, rows)


def draw(run: Run, path: Path, old: Run | None = None) -> None:
    """Draw the product's three panels; the older run's values stand behind as hollow marks."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {
        "font.size": 9, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK,
        "xtick.color": INK, "ytick.color": INK,
    }  # fmt: skip
    with mpl.rc_context(style):
        height = 2.2 + 0.27 * max(8, len(run.products))
        figure = Figure(figsize=(14, height), layout="constrained")
        time, roofline, ratios = figure.subplots(1, 3, width_ratios=[1.25, 0.8, 1])
        _draw_time(time, run)
        _draw_roofline(roofline, run, old)
        _draw_ratios(ratios, run, old)
        for axes in (time, roofline, ratios):
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axisbelow(True)
        figure.suptitle(f"Influence update J ← P ∘ (D J + I). {run.title}", fontsize=9.5)
        figure.savefig(path, dpi=160)


def _draw_time(axes: Any, run: Run) -> None:
    from matplotlib.lines import Line2D

    methods = [method for method in run.methods() if method in COLOURS]
    for method in methods:
        for cell, marker in MARKERS.items():
            points = [
                (by[method]["entries"], by[method]["seconds"])
                for by in run.products.values()
                if "seconds" in by.get(method, {}) and by[method]["cell"] == cell
            ]
            if points:
                axes.plot(*zip(*points, strict=True), marker, color=COLOURS[method], ms=5.5,
                          mec="white", mew=0.5, zorder=4 if method == OURS else 3)  # fmt: skip
    least = sorted(
        (by[OURS]["entries"], by[OURS]["roofline_fraction"] * by[OURS]["seconds"])
        for by in run.products.values()
    )
    axes.plot(*zip(*least, strict=True), "_", color=INK, ms=11, mew=1.4, zorder=5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(True, which="major", color=FAINT, lw=0.6)
    axes.set_xlabel("entries of J")
    axes.set_ylabel("seconds per step")
    axes.set_title("time against entries of J", fontsize=10, loc="left")
    cells = [
        cell for cell in MARKERS if any(by[OURS]["cell"] == cell for by in run.products.values())
    ]
    handles = [
        *(Line2D([], [], ls="", marker="o", color=COLOURS[m], label=NAMES[m]) for m in methods),
        Line2D([], [], ls="", marker="_", color=INK, ms=11, mew=1.4, label="least on this machine"),
        *(Line2D([], [], ls="", marker=MARKERS[c], color=INK, mfc="none", label=c.upper())
          for c in cells),
    ]  # fmt: skip
    axes.legend(handles=handles, frameon=False, fontsize=8, loc="upper left", ncols=2,
                handletextpad=0.2, columnspacing=1)  # fmt: skip


def _rows(axes: Any, run: Run, labels: bool) -> list[str]:
    """Give each workload a row, the first one on top."""
    names = list(run.products)
    shown = [net(run.products[name][OURS]) for name in names] if labels else [""] * len(names)
    axes.set_yticks(range(len(names)), shown)
    axes.set_ylim(len(names) - 0.4, -0.8)
    axes.tick_params(axis="y", length=0)
    return names


def _draw_roofline(axes: Any, run: Run, old: Run | None) -> None:
    names = _rows(axes, run, labels=True)
    parts = [100 * run.products[name][OURS]["roofline_fraction"] for name in names]
    axes.barh(range(len(names)), parts, height=0.62, color=COLOURS[OURS])
    for row, part in enumerate(parts):
        axes.text(part + 1.5, row, f"{part:.0f}%", va="center", fontsize=8)
    if old is not None:
        before = [
            (100 * old.products[name][OURS]["roofline_fraction"], row)
            for row, name in enumerate(names)
            if name in old.products
        ]
        axes.plot(*zip(*before, strict=True), "D", color=INK, mfc="none", ms=5)
    mean = run.mean_roofline()
    if mean is not None:
        axes.axvline(100 * mean, color=INK, lw=0.8, ls=(0, (4, 3)), zorder=0)
        axes.annotate(f" geometric mean of the nine: {100 * mean:.0f}%", (100 * mean, -0.78),
                      fontsize=8, va="top")  # fmt: skip
    axes.set_xlim(0, max(100, *(part + 12 for part in parts)))
    axes.grid(True, axis="x", color=FAINT, lw=0.6)
    axes.set_xlabel("% of the roofline")
    axes.set_title("part of the roofline", fontsize=10, loc="left")


def _draw_ratios(axes: Any, run: Run, old: Run | None) -> None:
    names = _rows(axes, run, labels=False)
    for row in range(len(names)):
        axes.axhline(row, color=FAINT, lw=0.6, zorder=0)
    for method in run.methods():
        if method not in COLOURS or method == OURS:
            continue
        style: dict[str, Any] = {"ls": "", "marker": "o", "color": COLOURS[method], "ms": 6}
        points = [(r, i) for i, name in enumerate(names) if (r := run.ratio(name, method))]
        axes.plot(*zip(*points, strict=True), **style, mec="white", mew=0.5, label=NAMES[method])
        before = [] if old is None else [
            (r, i) for i, name in enumerate(names) if (r := old.ratio(name, method))
        ]  # fmt: skip
        if before:
            axes.plot(*zip(*before, strict=True), **style, mfc="none", zorder=1)
    axes.axvline(1, color=COLOURS[OURS], lw=1.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.grid(True, axis="x", which="major", color=FAINT, lw=0.6)
    axes.set_xlabel("time over ours")
    axes.set_title("how many times as long the others take", fontsize=10, loc="left")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="A.json [B.json]")
    parser.add_argument(
        "--out", type=Path, metavar="PNG", help="the picture (beside the last file)"
    )
    options = parser.parse_args()
    if len(options.files) > 2:
        parser.error(f"one file or two, got {len(options.files)}")
    *olds, run = (Run(path) for path in options.files)
    old = olds[0] if olds else None
    print(f"{run.title}\n\n    python perf/run.py {' '.join(run.about['command'])}\n")
    parts = [product_table(run)] if run.products else []
    if old is not None:
        parts.append(f"Before: {old.title}")
        parts += [comparison_table(old, run)] if run.products else []
    parts += [training_table(run), *section_tables(run, old)]
    print("\n\n".join(part for part in parts if part))
    if run.products:
        path = options.out or run.path.with_suffix(".png")
        try:
            draw(run, path, old)
        except ImportError as error:
            print(f"no picture: {error}", file=sys.stderr)
        else:
            print(f"wrote {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
