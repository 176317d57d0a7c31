"""The command `sparsegrad plan`."""

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any

from sparsegrad.cli.flags import add_command, split_words
from sparsegrad.registry import CELLS, listed
from sparsegrad.system.bar import Bar
from sparsegrad.system.quantities import (
    aligned,
    count,
    duration,
    parse_bytes,
    parse_number,
    parse_whole,
    percent,
    size,
)

if TYPE_CHECKING:
    from sparsegrad.profiling.plan import Choice

EXAMPLES = """examples:
  sparsegrad plan --memory 8GiB --milliseconds 5 --units 1024
  sparsegrad plan --memory 2GiB --units 4096 --sparsity 99% 99.6% --n 1 2 3 --batch 4
  sparsegrad plan --milliseconds 0.5 --cell lstm --units 256 --n 2
"""
HEAD = ("sparsity", "n", "weights", "entries", "J", "update", "fits")


def add_plan(commands: Any) -> None:
    """Add `plan` to the command line's subparsers."""
    parser = add_command(
        commands,
        plan,
        "which n, sparsity or budget of J fits into memory and time",
        "Say which n, sparsity or budget of J stays within some memory and some time "
        "per update: entries are counted exactly, times are predicted for this machine and are "
        "those of the update of J alone. Where SnAp-n does not fit, the part of its entries that "
        "does is told, for SnAp(n, memory=…).",
        EXAMPLES,
    )
    add = parser.add_argument
    add(
        "--memory", metavar="BYTES", help="that J may take, as 8GiB (default: half of what is free)"
    )
    add("--milliseconds", metavar="MS", help="that an update of J may take (default: any)")
    add("--units", required=True, metavar="K", help="number of units")
    add("--cell", default="gru", metavar="CELL", help=f"{listed(CELLS)} (default: gru)")
    add("--sparsity", nargs="+", metavar="S",
        help="parts of the weights that do not exist "
        "(default: 75%% 87.5%% 93.75%% 96.9%% 98.4%% 99.2%% 99.6%%)")  # fmt: skip
    add("--n", nargs="+", metavar="N", help="steps of reach, or rtrl (default: 1 2 3 rtrl)")
    add("--gate-masks", default="independent", metavar="HOW",
        help="independent or shared (default: independent)")  # fmt: skip
    add("--inputs", default="32", metavar="W", help="width of the input (default: 32)")
    add("--batch", default="1", metavar="B", help="sequences, each with its own J (default: 1)")
    add("--dtype", default="float32", metavar="T", help="float32 or float64 (default: float32)")
    add("--threads", default="1", metavar="T", help="threads of an update (default: 1)")
    add("--seed", default="0", metavar="SEED", help="of masks (default: 0)")


def plan(arguments: argparse.Namespace) -> int:
    """Run `plan`; return the exit status."""
    from sparsegrad.profiling.profile import Sweep
    from sparsegrad.system.memory import available_memory

    memory, seconds = (available_memory() or math.inf) / 2, math.inf
    if arguments.memory is not None:
        memory = parse_bytes("memory", arguments.memory)
    if arguments.milliseconds is not None:
        seconds = parse_number("milliseconds", arguments.milliseconds) / 1e3
        if not seconds > 0:
            raise ValueError(f"milliseconds must be above 0, got {arguments.milliseconds}")
    sparsity = split_words(arguments.sparsity or []) or [
        "0.75", "0.875", "0.9375", "0.96875", "0.984375", "0.9921875", "0.99609375",
    ]  # fmt: skip
    words = split_words(arguments.n or []) or ["1", "2", "3", "rtrl"]
    sweep = Sweep(
        cells=(arguments.cell.lower(),),
        units=(parse_whole("units", arguments.units),),
        sparsity=tuple(parse_number("sparsity", word) for word in sparsity),
        n=tuple(None if word.lower() == "rtrl" else parse_whole("n", word) for word in words),
        gate_masks=arguments.gate_masks,
        inputs=parse_whole("inputs", arguments.inputs),
        batch=parse_whole("batch", arguments.batch),
        dtype=arguments.dtype,
        threads=parse_whole("threads", arguments.threads),
        seed=parse_whole("seed", arguments.seed),
        budget=memory,
    )
    from sparsegrad.profiling.cost_model import CostModel
    from sparsegrad.profiling.plan import plan as find
    from sparsegrad.profiling.roofline import Roofline

    choices: list[Choice] = []
    with Bar(sys.stderr, len(sweep), 24, counted=True) as bar:
        bar.show("measuring this machine")
        model = CostModel(Roofline(sweep.dtype, sweep.threads), sweep.seed)
        for choice in find(sweep, seconds, model, lambda text: bar.show(text, len(choices))):
            choices.append(choice)
    limit = f"{size(memory)} of J" + (f", {duration(seconds)} per update" if seconds < 1e9 else "")
    print(f"{sweep.cells[0]} {sweep.units[0]}, batch {sweep.batch}, {sweep.dtype}: {limit}")
    for line in aligned([HEAD, *map(_row, choices)]) + _answers(choices):
        print(line)
    return 0


def _row(choice: "Choice") -> tuple[str, ...]:
    kept = "no"
    if choice.fits:
        kept = "yes"
    elif choice.kept is not None:
        kept = f"{100 * choice.kept / choice.entries:.3g}% of it"
    return (
        percent(choice.sparsity), str(choice.n), count(choice.weights), count(choice.entries),
        size(choice.bytes), "-" if choice.seconds is None else duration(choice.seconds), kept,
    )  # fmt: skip


def _answers(choices: "list[Choice]") -> list[str]:
    """Say of each n the densest net that fits."""
    lines = []
    for n in dict.fromkeys(choice.n for choice in choices):
        fits = [choice for choice in choices if choice.n == n and choice.fits]
        name = n if n == "rtrl" else f"snap:{n}"
        if fits:
            best = min(fits, key=lambda choice: choice.sparsity)
            lines.append(f"{name} fits from a sparsity of {percent(best.sparsity)} on")
        else:
            lines.append(f"{name} fits at none of these sparsities")
    return lines
