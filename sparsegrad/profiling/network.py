"""What lies between ranks: how long a gradient takes to each of them.

`MPI_Allgatherv` of N bytes over r ranks brings (r - 1) / r of them into each one, in

    ⌈log₂ r⌉ latencies   by recursive doubling or Bruck's algorithm, of short gradients,
    (r - 1) latencies    around a ring, of long ones,

as MPICH does it: Thakur, Rabenseifner and Gropp, "Optimization of collective communication
operations in MPICH", 2005. That the links are not shared is taken for granted.
"""

import math
import re
from typing import NamedTuple

_BITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
DOUBLING = 512 * 2**10
"""Bytes from which on a power of two of ranks gathers around a ring."""
BRUCK = 80 * 2**10
"""The same for other numbers of ranks."""


class Network(NamedTuple):
    """Links between ranks.

    Attributes
    ----------
    bandwidth : float
        Bytes per second into a rank.
    latency : float
        Seconds of a message without content.
    """

    bandwidth: float
    latency: float

    @classmethod
    def read(cls, words: str) -> "Network":
        """Return what words such as 100Gbps,2us mean: bits or bytes (GB/s) per second, a time.

        Raises
        ------
        ValueError
            If they mean none, or nothing above 0.
        """
        number = r"([0-9.]+(?:e[+-]?[0-9]+)?) *"
        match = re.fullmatch(
            rf"{number}([kmgt]?)(bps|bit/s|b/s) *, *{number}(ns|us|µs|ms|s)", words.strip(), re.I
        )
        try:
            bandwidth, latency = (float(match[k]) for k in (1, 4)) if match else (0.0, 0.0)
        except ValueError:
            bandwidth = latency = 0.0
        if match is None or not (bandwidth > 0 and latency > 0):
            raise ValueError(
                "network must be a bandwidth and a latency above 0, such as 100Gbps,2us or "
                f"12GB/s,0.5us, got {words!r}"
            )
        bits = 8 if match[3] in ("B/s", "b/s") else 1
        return cls(
            bandwidth * _BITS[match[2].lower()] * bits / 8, latency * _SECONDS[match[5].lower()]
        )

    def gather_bytes(self, ranks: int, total: int) -> float:
        """Return the bytes that come into a rank while all take `total` from each other."""
        return total * (ranks - 1) / ranks

    def gather_seconds(self, ranks: int, total: int) -> float:
        """Return the seconds of `MPI_Allgatherv` of `total` bytes."""
        ring = total >= (DOUBLING if ranks & (ranks - 1) == 0 else BRUCK)
        messages = ranks - 1 if ring else math.ceil(math.log2(ranks))
        return messages * self.latency + self.gather_bytes(ranks, total) / self.bandwidth
