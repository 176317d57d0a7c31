"""Vectors of 64 bytes, several side by side, and formulas on them."""
