"""`--html FILE`: a result as one page, by Bokeh."""

import argparse
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sparsegrad.cli.messages import DISTRIBUTION, complain, tell, words_of


def add_html(parser: argparse.ArgumentParser) -> None:
    """Add ``--html`` to a command."""
    parser.add_argument(
        "--html", type=Path, metavar="FILE",
        help="write the result there as one page too: hover, sort, filter; needs no network",
    )  # fmt: skip


def check_html(path: Path | None) -> None:
    """Refuse now what could not be written after the work is done.

    Raises
    ------
    ModuleNotFoundError, ValueError
        If Bokeh is not installed, or the file cannot be one.
    """
    if path is None:
        return
    if find_spec("bokeh") is None:
        raise ModuleNotFoundError(
            f"--html needs Bokeh, which is not installed: pip install '{DISTRIBUTION}[html]'"
        )
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"--html must be a file in a folder that is there, got {path}")


def write_html(
    path: Path | None,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    plots: Sequence[tuple[Any, ...]],
    choices: tuple[str, ...],
) -> bool:
    """Write the page, where one is wanted; return whether all is well. What is not, is told.

    Parameters
    ----------
    path : Path or None
    title, rows, choices
        As `sparsegrad.figures.page.write_page` takes them.
    plots : sequence of tuple
        The fields of its `Plot`, in their order.
    """
    if path is None or not rows:
        return True
    from sparsegrad.figures.page import Plot, write_page

    try:
        write_page(path, title, rows, [Plot(*fields) for fields in plots], choices)
    except OSError as error:
        complain(f"cannot write --html {path}: {words_of(error)}; the result is above")
        return False
    tell(f"wrote {path}")
    return True
