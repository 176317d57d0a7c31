"""Real-time recurrent learning on sparse networks: SnAp-n and exact RTRL on fixed patterns.

Names are imported when they are first used: `import sparsegrad` itself takes no time, and who
needs the engine alone does not wait for the cells and methods.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparsegrad.registry import CELLS, METHODS, OPTIMIZERS

if TYPE_CHECKING:
    from sparsegrad.cells import (
        ALIF,
        GRU,
        LIF,
        LRU,
        LSTM,
        LTC,
        RNN,
        Cell,
        CellKind,
        CfC,
        IndRNN,
        LeakyRNN,
        Map,
        MinGRU,
        PeepholeLSTM,
        Stack,
        check_cell,
    )  # fmt: skip
    from sparsegrad.influence.influence import Influence
    from sparsegrad.learning.learner import OnlineLearner
    from sparsegrad.learning.optimizers import SGD, Adam, AdamW, RMSprop
    from sparsegrad.learning.readout import MLP, Linear
    from sparsegrad.learning.rewiring import Pruning, Rewiring
    from sparsegrad.methods import BPTT, RFLO, RTRL, UORO, SnAp
    from sparsegrad.symbolic.pattern import ReachPattern, reach

_HOMES = {
    "cells": ("Cell", "CellKind", "Map", "Stack", "check_cell"),
    "influence.influence": ("Influence",),
    "learning.learner": ("OnlineLearner",),
    "symbolic.pattern": ("ReachPattern", "reach"),
    "learning.readout": ("MLP", "Linear"),
    "learning.rewiring": ("Pruning", "Rewiring"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_HOME |= {row.type_name: row.home for rows in (CELLS, METHODS, OPTIMIZERS) for row in rows.values()}

__version__ = "0.1.0"
__all__ = [
    "ALIF",
    "BPTT",
    "GRU",
    "LIF",
    "LRU",
    "LSTM",
    "LTC",
    "MLP",
    "RFLO",
    "RNN",
    "RTRL",
    "SGD",
    "UORO",
    "Adam",
    "AdamW",
    "Cell",
    "CellKind",
    "CfC",
    "IndRNN",
    "Influence",
    "LeakyRNN",
    "Linear",
    "Map",
    "MinGRU",
    "OnlineLearner",
    "PeepholeLSTM",
    "Pruning",
    "RMSprop",
    "ReachPattern",
    "Rewiring",
    "SnAp",
    "Stack",
    "check_cell",
    "reach",
]
__all__ += [name for name in _HOME if name not in __all__]


def __getattr__(name: str) -> Any:
    if name == "kernels":
        return import_module("sparsegrad.kernels")
    if name not in _HOME:
        raise AttributeError(f"module 'sparsegrad' has no attribute {name!r}")
    value = getattr(import_module(f"sparsegrad.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
