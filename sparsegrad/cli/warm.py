"""The command `sparsegrad warm`."""

import argparse
from typing import Any

from sparsegrad.cli.flags import add_command, add_flags, given_settings
from sparsegrad.cli.messages import net

EXAMPLES = """examples:
  sparsegrad warm copy --method snap:2
  sparsegrad warm stream --data sensors.csv --cell lstm --method rtrl
"""


def add_warm(commands: Any) -> None:
    """Add `warm` to the command line's subparsers."""
    parser = add_command(
        commands,
        warm,
        "compile the kernels that a run needs, before it starts",
        "Take the flags of `train` and compile what it would: a few steps are learned, "
        "evaluated and predicted, nothing of them is kept. The kernels stay on the disk, where "
        "`sparsegrad info` says, until sparsegrad, Numba or the CPU is another one.",
        EXAMPLES,
    )
    add_flags(parser)


def warm(arguments: argparse.Namespace) -> int:
    """Run `warm`; return the exit status."""
    given = given_settings(arguments)
    from sparsegrad.runs.settings import Settings
    from sparsegrad.runs.warm import warm as warm_run
    from sparsegrad.system.machine import kernel_cache

    settings = Settings(**given)
    done = warm_run(settings)
    what = f"{done.compiled} kernels compiled" if done.compiled else "nothing to compile"
    print(
        f"{net(settings)}, {settings.method}: {what}, {done.seconds:.1f} s; "
        f"kept in {kernel_cache()[0]}"
    )
    return 0
