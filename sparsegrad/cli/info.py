"""The command `sparsegrad info`."""

import argparse
import sys
from typing import Any


def add_info(commands: Any) -> None:
    """Add `info` to the command line's subparsers."""
    parser = commands.add_parser(
        "info",
        help="versions, CPU, vectors, threads and cache: what a report of a fault needs",
        description="Print what a report of a fault needs to know of this machine.",
    )
    parser.set_defaults(run=info)


def info(arguments: argparse.Namespace) -> int:
    """Run `info`; return the exit status."""
    from sparsegrad.system.machine import describe_machine

    lines = describe_machine()
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
        except ImportError:
            pass  # the plain lines say as much
        else:
            table = Table.grid(padding=(0, 2))
            for name, text in lines.items():
                table.add_row(f"[bold]{name}", text)
            Console(highlight=False).print(table)
            return 0
    width = max(map(len, lines))
    for name, text in lines.items():
        print(f"{name:{width}}  {text}")
    return 0
