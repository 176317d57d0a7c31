"""A result as one page: a plot with hover, a table that sorts, choices that filter both.

The page holds all that it needs, scripts too, and asks nobody for anything: it can be mailed, and
opened from the disk. Bokeh is imported with this module: import it late.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bokeh.embed import file_html
from bokeh.layouts import column, row
from bokeh.models import (
    BooleanFilter,
    CDSView,
    ColumnDataSource,
    CustomJS,
    DataTable,
    Div,
    HoverTool,
    MultiChoice,
    ScientificFormatter,
    StringFormatter,
    TableColumn,
)
from bokeh.palettes import Category10
from bokeh.plotting import figure
from bokeh.resources import INLINE

from sparsegrad.figures.style import INK
from sparsegrad.system.atomic import write_whole

FILTER = """
for (let k = 0; k < sources.length; k++) {
  const data = sources[k].data;
  filters[k].booleans = Array.from({length: sources[k].get_length()}, (_, i) =>
    choices.every(c => c.value.length == 0 || c.value.includes(data[c.name][i])));
}
"""
"""A row is shown where each choice is empty or names its value."""


class Plot(NamedTuple):
    """What is drawn of rows: dots of two columns, in lines.

    Attributes
    ----------
    rows : sequence of mapping
        A dot each, where both columns have a number.
    x, y : str
        Columns.
    line : tuple of str
        Columns whose values name the line of a dot.
    log : tuple of bool
        Whether x and y go by powers of ten; what is not above 0 is left out then.
    """

    rows: Sequence[Mapping[str, Any]]
    x: str
    y: str
    line: tuple[str, ...]
    log: tuple[bool, bool] = (False, False)


def write_page(
    path: Path,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    plots: Sequence[Plot],
    choices: tuple[str, ...],
) -> None:
    """Write an HTML file, whole.

    Parameters
    ----------
    path : Path
        Replaced once the page is whole.
    title : str
    rows : sequence of mapping
        Of the table: at least one; their keys are its columns.
    plots : sequence of Plot
    choices : tuple of str
        Columns to choose by; rows of table and plots have them all.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    sources: list[ColumnDataSource] = []
    filters: list[BooleanFilter] = []

    def viewed(data: dict[str, list[Any]], like: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        named = {f"_{name}": [str(one[name]) for one in like] for name in choices}
        sources.append(ColumnDataSource(data | named))
        filters.append(BooleanFilter())
        return {"source": sources[-1], "view": CDSView(filter=filters[-1])}

    shown = [_plot(plot, viewed) for plot in plots]
    columns = _known(rows)
    table = DataTable(
        columns=[_table_column(name, rows) for name in columns],
        **viewed({name: [one.get(name) for one in rows] for name in columns}, rows),
        sizing_mode="stretch_width", height=420, index_position=None, reorderable=False,
    )  # fmt: skip
    boxes = [
        MultiChoice(
            title=name, name=f"_{name}", placeholder="all", width=220,
            options=list(dict.fromkeys(str(one[name]) for one in rows)),
        )
        for name in choices
    ]  # fmt: skip
    change = CustomJS(args={"sources": sources, "filters": filters, "choices": boxes}, code=FILTER)
    for box in boxes:
        box.js_on_change("value", change)
    heading = Div(text=f"<h1 style='font-size:1.2em'>{_escaped(title)}</h1>")
    page = column(heading, row(*boxes), *shown, table, sizing_mode="stretch_width")
    write_whole(path, file_html(page, INLINE, title).encode())


def _plot(plot: Plot, viewed: Any) -> Any:
    """Draw a plot; its dots answer to the pointer with all that their rows hold."""
    rows = [one for one in plot.rows if _drawable(one, plot)]
    lines: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for one in rows:
        lines.setdefault(tuple(str(one[name]) for name in plot.line), []).append(one)
    palette = Category10[10]
    colours = {name: palette[k % len(palette)] for k, name in enumerate(lines)}
    axes = figure(
        height=380, sizing_mode="stretch_width", tools="pan,box_zoom,wheel_zoom,reset,save",
        x_axis_type="log" if plot.log[0] else "linear",
        y_axis_type="log" if plot.log[1] else "linear",
        x_axis_label=plot.x.replace("_", " "), y_axis_label=plot.y.replace("_", " "),
    )  # fmt: skip
    axes.toolbar.logo = None
    axes.axis.axis_label_text_color = INK
    ends = {
        "xs": [[one[plot.x] for one in some] for some in lines.values()],
        "ys": [[one[plot.y] for one in some] for some in lines.values()],
        "colour": [colours[name] for name in lines],
        "line": [" ".join(name) for name in lines],
    }
    firsts = [some[0] for some in lines.values()]
    legend: dict[str, Any] = {"legend_field": "line"} if len(lines) <= len(palette) else {}
    axes.multi_line(
        "xs", "ys", line_color="colour", line_width=1.6, **legend, **viewed(ends, firsts)
    )
    if legend:
        axes.legend.title = " ".join(plot.line)
        axes.add_layout(axes.legend[0], "right")
    keys = _known(rows)
    dots = {name: [one.get(name) for one in rows] for name in keys}
    dots["colour"] = [colours[tuple(str(one[name]) for name in plot.line)] for one in rows]
    drawn = axes.scatter(
        plot.x, plot.y, size=8, color="colour", line_color="white", **viewed(dots, rows)
    )
    axes.add_tools(HoverTool(renderers=[drawn], tooltips=[(name, f"@{{{name}}}") for name in keys]))
    return axes


def _known(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns that say something of a row at least."""
    names = dict.fromkeys(name for one in rows for name in one)
    return [name for name in names if any(one.get(name) is not None for one in rows)]


def _drawable(one: Mapping[str, Any], plot: Plot) -> bool:
    """Return whether a row has both numbers, above 0 where the axis goes by powers of ten."""
    values = one.get(plot.x), one.get(plot.y)
    return all(
        isinstance(value, int | float) and (value > 0 or not log)
        for value, log in zip(values, plot.log, strict=True)
    )


def _table_column(name: str, rows: Sequence[Mapping[str, Any]]) -> TableColumn:
    """Return a column; what is not known is blank."""
    values = [one.get(name) for one in rows]
    if any(isinstance(value, float) for value in values):
        formatter: Any = ScientificFormatter(
            precision=3, power_limit_high=6, power_limit_low=-3, null_format=""
        )
    else:
        formatter = StringFormatter(null_format="")
    return TableColumn(field=name, title=name, formatter=formatter)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
