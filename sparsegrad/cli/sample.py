"""The command `sparsegrad sample`."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from sparsegrad.cli.flags import add_command
from sparsegrad.system.quantities import parse_number, parse_whole

EXAMPLES = """examples:
  sparsegrad train chars --text wiki.txt --out runs/wiki
  sparsegrad sample runs/wiki --prompt "The " --length 400 --temperature 0.7
"""


def add_sample(commands: Any) -> None:
    """Add `sample` to the command line's subparsers."""
    parser = add_command(
        commands,
        sample,
        "a text that goes on as a run on characters learned it",
        "Print a prompt and what a run of `train chars` makes of it, character by "
        "character; nothing is learned. The run's text must still be where it was.",
        EXAMPLES,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the run")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="how the text begins")
    parser.add_argument("--length", metavar="N", default="200", help="characters (default: 200)")
    parser.add_argument(
        "--temperature", metavar="T", default="1", help="0: the likeliest (default: 1)"
    )
    parser.add_argument("--seed", metavar="SEED", default="0", help="of the draws (default: 0)")


def sample(arguments: argparse.Namespace) -> int:
    """Run `sample`; return the exit status."""
    from sparsegrad.runs.answers import sample_text

    prompt = os.fsencode(arguments.prompt)
    drawn = sample_text(
        arguments.folder,
        prompt,
        parse_whole("--length", arguments.length),
        parse_number("--temperature", arguments.temperature),
        parse_whole("--seed", arguments.seed),
    )
    print((prompt + drawn).decode(errors="replace"), file=sys.stdout)
    return 0
