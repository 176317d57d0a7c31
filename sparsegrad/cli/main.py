"""The command line: `sparsegrad COMMAND`.

Parsing and the ways out live here, each command in a file of its own, the work in the library.
Heavy modules (Numba, rich, matplotlib) are imported by the command that needs them, so that
`--help` answers at once and a missing extra costs a line, not the result.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from sparsegrad.cli.compare import add_compare
from sparsegrad.cli.completion import add_completion
from sparsegrad.cli.info import add_info
from sparsegrad.cli.messages import DISTRIBUTION, FAILED, INTERRUPTED, complain, words_of
from sparsegrad.cli.plan import add_plan
from sparsegrad.cli.predict import add_predict
from sparsegrad.cli.profile import add_profile
from sparsegrad.cli.runs import add_runs
from sparsegrad.cli.sample import add_sample
from sparsegrad.cli.streams import close_streams, open_streams
from sparsegrad.cli.train import add_train, train
from sparsegrad.cli.warm import add_warm
from sparsegrad.system.mpirun import ranks_told


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message} (see {self.prog} --help)")
        raise SystemExit(FAILED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process where left out.

    Returns
    -------
    int
        Exit status: 0, 2 after an error (one line on stderr), 130 after Ctrl-C.
    """
    open_streams()
    try:
        return _run(argv)
    finally:
        close_streams()


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
        for name, value in vars(arguments).items():
            if value == []:  # of `--name=--`, which argparse takes for no value at all
                parser.error(f"argument --{name.replace('_', '-')}: expected an argument")
        if ranks_told()[1] > 1 and arguments.run is not train:
            raise ValueError(
                "mpirun must start `sparsegrad train`: start other commands without it"
            )
        status = arguments.run(arguments)
        sys.stdout.flush()
    except (ValueError, MemoryError, OSError, ModuleNotFoundError) as error:
        if isinstance(error, BrokenPipeError):
            return 0  # nobody reads any more, as in `| head`
        _fail(words_of(error))
        return FAILED
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    return int(status)


def _fail(line: str) -> None:
    """Say what is wrong, of several ranks once, and leave none of them waiting for this one."""
    rank, size = ranks_told()
    if rank == 0:
        complain(line)
    if size > 1 and "mpi4py.MPI" in sys.modules:
        from sparsegrad.system.ranks import started

        ranks = started()
        if ranks is not None and not ranks.all_leave():
            if rank > 0:
                complain(f"rank {rank}: {line}")
            ranks.abort()


def _parser() -> _Parser:
    parser = _Parser(
        prog="sparsegrad",
        description="Real-time recurrent learning on sparse networks.",
        epilog="sparsegrad COMMAND --help shows a command's options and examples",
    )
    parser.add_argument(
        "--version", action="version", version=f"sparsegrad {version(DISTRIBUTION)}"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (add_profile, add_plan, add_train, add_compare, add_predict, add_sample, add_runs,
                add_warm, add_info):  # fmt: skip
        add(commands)
    add_completion(parser)
    return parser
