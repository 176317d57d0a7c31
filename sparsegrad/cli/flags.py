"""The flags that decide a run: those of `train`, and of `compare` for all of its runs."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from sparsegrad.registry import CELLS, EVERY, METHOD_WORDS, OPTIMIZERS, listed
from sparsegrad.runs.settings import Settings

FLAGS = (
    ("text", "FILE", "chars: a text; default: Python's own help topics"),
    ("data", "FILE", "stream: a table, a row per time step: CSV and its kin, .gz, Parquet, .npy"),
    ("inputs", "COLUMNS", "stream: names or numbers; default: all, of the same row no target"),
    ("targets", "COLUMNS", "stream: names or numbers; N: the last N; 0: all of the next row"),
    ("horizon", "H", "stream: rows that targets are ahead: 1,5,10; default: 0, with targets 0: 1"),
    ("missing", "MISSING", "stream: refuse, hold (the last value), or mask (leave out)"),
    ("scale", "SCALE", "stream: online (running mean and deviation), or none"),
    ("decimal", "MARK", "stream: point or comma; default: found by the numbers"),
    ("steps", "T", "chars, stream: time steps of a draw, or of a crop"),
    ("cell", "CELL", listed(CELLS)),
    ("units", "K", "number of units"),
    ("layers", "L", "cells on top of each other; snap:N crosses them from N = L on, snap:1 not"),
    ("sparsity", "S", "part of the weights that do not exist: 0.75 or 75%%"),
    ("input-sparsity", "S", "the same for the input weights; default: as --sparsity, for stream 0"),
    ("gate-masks", "HOW", "independent or shared"),
    ("hidden", "H", "width of a hidden layer of the readout; 0: none"),
    ("dtype", "T", "float32 or float64"),
    ("method", "METHOD", f"{listed(METHOD_WORDS)}; {EVERY}"),
    ("storage", "T", "bfloat16 or float16: J of snap:N and rtrl in half the memory"),
    ("update", "WHEN", "step: the weights change after every step; or sequence"),
    ("optimizer", "OPT", listed(OPTIMIZERS)),
    ("rate", "R", "learning rate"),
    ("clip", "C", "largest norm of a gradient; 0: any"),
    ("batch", "B", "sequences side by side; default: 16, for stream 1"),
    ("tokens", "N", "budget, in steps of a sequence: 200k, 10M; default: 1M, for stream one pass"),
    ("seconds", "S", "budget, in seconds"),
    ("report", "N", "tokens from report to report; default: a hundredth of the budget"),
    ("save", "S", "seconds from checkpoint to checkpoint"),
    ("prune", "S", "magnitude pruning to this sparsity, or S:BEGIN:END:EVERY in steps"),
    (
        "rewire",
        "HOW",
        "set or rigl, as rigl:0.1:1000: a tenth of the weights moves every 1000 steps",
    ),
    ("seed", "SEED", "of masks, weights, task and method"),
    ("threads", "T", "threads of a step, 0 for all; changes no number"),
)


def add_command(
    commands: Any,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str,
    examples: str,
) -> argparse.ArgumentParser:
    """Add a command under the name of the function that runs it, its examples as they stand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        run.__name__,
        help=summary,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_flags(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """Add the task and the flags of a run to a command, each with its default."""
    parser.add_argument("task", metavar="TASK", help="copy, chars or stream")
    defaults = {field.name: field.default for field in fields(Settings)}
    for name, metavar, text in FLAGS:
        if name not in without:
            default = defaults[name.replace("-", "_")]
            told = "" if default is None else f" (default: {_shown(default)})"
            parser.add_argument(f"--{name}", metavar=metavar, help=text + told)
    parser.add_argument("--crop", action="store_true", default=None, help="chars: random crops")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML; flags win")


def given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of a file and of the flags, which win.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read, or a setting is wrong.
    """
    names = [name.replace("-", "_") for name, _, _ in FLAGS] + ["task", "crop"]
    flags = {name: getattr(arguments, name, None) for name in names}
    given = {} if arguments.config is None else Settings.from_toml(arguments.config)
    return given | Settings.read(
        {name: value for name, value in flags.items() if value is not None}, "the command line"
    )


def split_words(values: list[str]) -> list[str]:
    """Return the words of a list that blanks or commas separate."""
    return [word for value in values for word in value.split(",") if word]


def _shown(default: Any) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)
