"""SnAp-n in PyTorch: recurrent modules that learn online, and the same for a cell of your own.

What a cell of your own needs is imported when it is first used: it wants rustworkx as well.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparsegrad.interop.torch.cells import SnApCell, SnApGRU, SnApLSTM, SnApRNN

if TYPE_CHECKING:
    from sparsegrad.interop.torch.own_cell import SnApModule
    from sparsegrad.interop.torch.probing import Patterns, probe

__all__ = ["Patterns", "SnApCell", "SnApGRU", "SnApLSTM", "SnApModule", "SnApRNN", "probe"]

_LATER = {"Patterns": "probing", "SnApModule": "own_cell", "probe": "probing"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'sparsegrad.interop.torch' has no attribute {name!r}")
    return getattr(import_module(f"sparsegrad.interop.torch.{_LATER[name]}"), name)
