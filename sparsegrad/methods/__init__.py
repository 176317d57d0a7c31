"""Learning methods: how the gradient of an online loss is found."""

from sparsegrad.methods.bptt import BPTT
from sparsegrad.methods.engine import Engine, Layout, Method, Outcome
from sparsegrad.methods.rflo import RFLO
from sparsegrad.methods.snap import RTRL, SnAp
from sparsegrad.methods.uoro import UORO

__all__ = ["BPTT", "RFLO", "RTRL", "UORO", "Engine", "Layout", "Method", "Outcome", "SnAp"]
