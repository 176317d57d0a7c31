"""The numeric phase: the influence matrix J on a pattern."""

from sparsegrad.influence.influence import Influence

__all__ = ["Influence"]
