"""Shell completion: `sparsegrad --print-completion bash`, a script that the shell then keeps.

    eval "$(sparsegrad --print-completion bash)"      # in ~/.bashrc; zsh and tcsh alike

What a word may be follows from the metavar of its argument.
"""

import argparse
from collections.abc import Iterator
from typing import Any, NoReturn

from sparsegrad.registry import CELLS, METHOD_WORDS, OPTIMIZERS
from sparsegrad.runs.settings import TASKS

SHELLS = ("bash", "zsh", "tcsh")
WORDS = {
    "TASK": TASKS,
    "CELL": tuple(CELLS),
    "METHOD": tuple(word[: word.find(":") + 1] or word for word in METHOD_WORDS),  # snap: rtrl …
    "OPT": tuple(OPTIMIZERS),
    "HOW": ("independent", "shared"),
    "MISSING": ("refuse", "hold", "mask"),
    "SCALE": ("online", "none"),
    "MARK": ("point", "comma"),
    "WHEN": ("step", "sequence"),
}
FILES = {
    "FILE": {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"},
    "DIR": {"bash": "_shtab_compgen_dirs", "zsh": "_files -/", "tcsh": "d"},
}


class PrintCompletion(argparse.Action):
    """Print the completion script of a shell, and end."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> NoReturn:
        """Print it; `values` is the shell's name."""
        try:
            import shtab
        except ImportError:
            parser.error("shell completion needs shtab: pip install 'sparsegrad-rtrl[cli]'")
        for action in _actions(parser):
            if action.metavar in WORDS:
                # choices that only the script sees: the library itself takes lists and capitals
                action.choices = WORDS[str(action.metavar)]
            elif action.metavar in FILES:
                action.complete = FILES[str(action.metavar)]  # type: ignore[attr-defined]
        print(shtab.complete(parser, values))
        parser.exit()


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Add ``--print-completion`` to a parser whose commands are all there."""
    parser.add_argument(
        "--print-completion", action=PrintCompletion, choices=SHELLS, help="completion for a shell"
    )


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
