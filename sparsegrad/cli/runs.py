"""The command `sparsegrad runs`."""

import argparse
from pathlib import Path
from typing import Any

from sparsegrad.cli.flags import add_command
from sparsegrad.cli.messages import tell

EXAMPLES = """examples:
  sparsegrad runs runs
  sparsegrad runs compare/copy
"""


def add_runs(commands: Any) -> None:
    """Add `runs` to the command line's subparsers."""
    parser = add_command(
        commands,
        runs,
        "the runs below a folder: method, tokens, score, state",
        "List the runs in a folder and in those below it. running: a process holds "
        "its lock; stopped: `train --resume` goes on with it; damaged: a file of it is none.",
        EXAMPLES,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to look")


def runs(arguments: argparse.Namespace) -> int:
    """Run `runs`; return the exit status."""
    from sparsegrad.runs.listing import list_runs, runs_table

    found = list_runs(arguments.folder)
    if found:
        print(runs_table(found), end="")
    else:
        tell(f"no runs in {arguments.folder}")
    return 0
