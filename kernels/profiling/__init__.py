"""Probes of the machine: its peak of multiply-adds and its bandwidth."""
