"""A torch cell of the user's own; its home is `sparsegrad.interop.torch`."""

from sparsegrad.interop.torch.own_cell import SnApModule
from sparsegrad.interop.torch.probing import Patterns, probe

__all__ = ["Patterns", "SnApModule", "probe"]
