"""The cells, methods and optimisers: one row each. What serves all of them walks these rows.

A new cell or method is a file of its own and a row here. With that it has its name in
`sparsegrad`, on the command line, in files and in the profile, and every test of
``tests/test_registry.py``. Rows name what they stand for; nothing is imported before `load`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Any


@dataclass(frozen=True)
class Row:
    """What all rows have.

    Parameters
    ----------
    name : str
        On the command line: lower-case letters, digits and hyphens.
    path : str
        Module within sparsegrad, and class: ``cells.gru:GRU``.
    help : str
        What it is, in a few words.

    Raises
    ------
    ValueError
        If the row is not complete.
    """

    name: str
    path: str
    help: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", self.name):
            raise ValueError(f"a row's name must be a lower-case word, got {self.name!r}")
        if not re.fullmatch(r"[a-z_.]+:[A-Za-z]\w*", self.path):
            raise ValueError(
                f"row {self.name!r} must have a path such as 'cells.gru:GRU', got {self.path!r}"
            )
        if not self.help:
            raise ValueError(f"row {self.name!r} must have a help text, got none")

    @property
    def home(self) -> str:
        """The module, within sparsegrad."""
        return self.path.partition(":")[0]

    @property
    def type_name(self) -> str:
        """The class's name."""
        return self.path.partition(":")[2]

    def load(self) -> Any:
        """Return the class.

        Raises
        ------
        ValueError
            If there is no such module or class, or it lacks what such a class must have.
        """
        try:
            found = getattr(import_module(f"sparsegrad.{self.home}"), self.type_name)
        except (ModuleNotFoundError, AttributeError) as error:
            raise ValueError(f"row {self.name!r} must name a class: {error}") from error
        for attribute in self.required:
            if not hasattr(found, attribute):
                raise ValueError(
                    f"row {self.name!r}: {self.path} must have {attribute!r}, got a class without"
                )
        return found

    @property
    def required(self) -> tuple[str, ...]:
        """What the class must have."""
        return ()


@dataclass(frozen=True)
class CellRow(Row):
    """A cell; see :class:`Row`.

    Parameters
    ----------
    torch : str, optional
        Name in ``torch.nn``, without ``Cell``, of the cell with the same arithmetic and arrays.
    """

    torch: str = ""

    @property
    def required(self) -> tuple[str, ...]:
        """A cell has a kind."""
        return "kind", "from_dense"


@dataclass(frozen=True)
class MethodRow(Row):
    """A method; see :class:`Row`.

    Parameters
    ----------
    words : tuple of str
        How it is written: ``bptt``, or ``bptt:T`` with a number.
    number : str, optional
        The argument that the number is for.
    """

    words: tuple[str, ...] = ()
    number: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.words or any(word.partition(":")[0] != self.name for word in self.words):
            raise ValueError(
                f"row {self.name!r} must have words such as {self.name!r} or '{self.name}:N', "
                f"got {self.words}"
            )
        if self.takes(number=True) != bool(self.number):
            raise ValueError(
                f"row {self.name!r} must say which argument the number of {self.words} is for, "
                f"got {self.number!r}"
            )

    @property
    def required(self) -> tuple[str, ...]:
        """A method makes an engine."""
        return ("engine",)

    def takes(self, number: bool) -> bool:
        """Whether the method is written with a number, or without one."""
        return any((":" in word) == number for word in self.words)


_CELLS = (
    CellRow("rnn", "cells.rnn:RNN", "the vanilla cell", torch="RNN"),
    CellRow("gru", "cells.gru:GRU", "gated, in CuDNN's form", torch="GRU"),
    CellRow("lstm", "cells.lstm:LSTM", "long short-term memory", torch="LSTM"),
    CellRow("leaky-rnn", "cells.leaky_rnn:LeakyRNN", "the vanilla cell with a leak"),
    CellRow("indrnn", "cells.ind_rnn:IndRNN", "each unit reads itself alone"),
    CellRow("mingru", "cells.min_gru:MinGRU", "gates that read the input alone"),
    CellRow("ltc", "cells.ltc:LTC", "liquid time constants"),
    CellRow("cfc", "cells.cfc:CfC", "closed-form continuous time"),
    CellRow("peephole-lstm", "cells.peephole_lstm:PeepholeLSTM", "gates that see the memory"),
    CellRow("lif", "cells.lif:LIF", "leaky integrate-and-fire, spiking"),
    CellRow("alif", "cells.alif:ALIF", "spiking, with an adaptive threshold"),
    CellRow("lru", "cells.lru:LRU", "linear, complex and diagonal"),
)
_OPTIMIZERS = (
    Row("sgd", "learning.optimizers:SGD", "gradient descent, with momentum"),
    Row("adam", "learning.optimizers:Adam", "Adam"),
    Row("adamw", "learning.optimizers:AdamW", "Adam with decoupled decay of the weights"),
    Row("rmsprop", "learning.optimizers:RMSprop", "RMSprop, with momentum"),
)
_METHODS = (
    MethodRow("snap", "methods.snap:SnAp", "SnAp-n", words=("snap:N",), number="n"),
    MethodRow("rtrl", "methods.snap:RTRL", "exact, forward in time", words=("rtrl",)),
    MethodRow(
        "bptt", "methods.bptt:BPTT", "exact, backward over sequences or windows of T steps",
        words=("bptt", "bptt:T"), number="window",
    ),
    MethodRow("uoro", "methods.uoro:UORO", "an unbiased estimate of rank one", words=("uoro",)),
    MethodRow("rflo", "methods.rflo:RFLO", "the unit's own leak alone", words=("rflo",)),
)  # fmt: skip


def _by_name(rows: tuple[Any, ...]) -> dict[str, Any]:
    found = {row.name: row for row in rows}
    if len(found) != len(rows):
        raise ValueError(f"rows must have names of their own, got {[row.name for row in rows]}")
    return found


CELLS: dict[str, CellRow] = _by_name(_CELLS)
METHODS: dict[str, MethodRow] = _by_name(_METHODS)
OPTIMIZERS: dict[str, Row] = _by_name(_OPTIMIZERS)
EVERY = "windows of T steps as snap:N@T or rtrl@T, rolling as bptt:T@1"
"""What may stand behind a method's word."""
METHOD_WORDS = tuple(word for row in METHODS.values() for word in row.words)


def type_of(rows: dict[str, Any], type_name: str) -> Any:
    """Return the class of a name among rows, or None where no row has it."""
    return next((row.load() for row in rows.values() if row.type_name == type_name), None)


def parse_method(word: str, seed: int) -> Any:
    """Return the method that a word such as ``snap:2`` or ``snap:1@8`` names.

    Parameters
    ----------
    word : str
        As :data:`METHOD_WORDS` has them. ``@T`` after it is for an update every T steps: by windows
        of T steps where the method has them beside its number; ``bptt:T@1`` is rolling BPTT.
    seed : int
        Of its random numbers, if it draws any.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    match = re.fullmatch(r"([a-z0-9-]+)(?::(\d+))?(?:@(\d+))?", word.lower())
    row = METHODS.get(match[1]) if match else None
    if match is None or row is None or not row.takes(number=match[2] is not None):
        raise ValueError(
            f"method must be one of {', '.join(METHOD_WORDS)}, or with {EVERY}, got {word!r}"
        )
    kind = row.load()
    takes = signature(kind).parameters
    given = {} if match[2] is None else {row.number: int(match[2])}
    if match[3] is not None:
        argument = "update_every" if row.number == "window" else "window"
        if argument not in takes or (argument == "update_every" and match[2] is None):
            raise ValueError(f"method {row.name} takes no @T, got {word!r}; write {row.words[-1]}")
        given[argument] = int(match[3])
    if "seed" in takes:
        given["seed"] = seed
    return kind(**given)


def listed(words: Iterable[str], last: str = "or") -> str:
    """Return words as a sentence has them: ``rnn, gru or lstm``."""
    words = list(words)
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))
