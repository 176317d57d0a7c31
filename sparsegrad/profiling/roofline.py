"""The roofline of this machine: the least time that a step of given work could take on it.

    least seconds = max(multiply-adds / peak, bytes / bandwidth(working set))

`peak` is the rate of fused multiply-adds out of registers, `bandwidth` that of the sweep
x ← a x + b in place over an array of the working set's size, counting each byte once as read and
once as written. Both are measured when asked for, with the threads that the step has.

The bytes of an influence update are counted as 2 × entries × itemsize: J read once and written
once. The reading of I and D is not counted, so no step is flattered: SnAp-1, whose I is as large
as its J, can reach two thirds at most when memory limits it.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sparsegrad.kernels.profiling import roofline as probes

PROBE_LIMIT = 256 * 2**20
"""Working sets are probed up to this many bytes: beyond the last cache the rate is flat."""

PROBE_SECONDS = 0.004
PROBE_REPEATS = 5
VECTOR_BYTES = 64


class Roofline:
    """Measured ceilings of this machine, for one dtype and a number of threads.

    Parameters
    ----------
    dtype : str
        "float32" or "float64".
    threads : int
        How many threads work at once, each on its own part of the array.

    Attributes
    ----------
    peak : float
        Multiply-adds per second, over all threads.

    Raises
    ------
    ValueError
        If `threads` is below 1.
    """

    def __init__(self, dtype: str = "float32", threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.dtype = np.dtype(dtype)
        self.threads = threads
        lanes = VECTOR_BYTES // self.dtype.itemsize
        # fixed point 1 from any start: values stay normal however often the probes run
        self._factors = np.repeat(np.array([0.5, 0.5], self.dtype), lanes)
        self._bandwidths: dict[int, float] = {}
        self.peak = max(
            self._chain_rate(probes.multiply_add_short, probes.SHORT_CHAINS * lanes),
            self._chain_rate(probes.multiply_add_long, probes.LONG_CHAINS * lanes),
        )

    def bandwidth(self, working_set: float) -> float:
        """Measure, once per size, the read-modify-write rate over a working set.

        Parameters
        ----------
        working_set : float
            Bytes of the arrays that a step walks over, all threads together.

        Returns
        -------
        float
            Bytes per second, read and written ones both counted.
        """
        chunk = probes.SWEEP_VECTORS * VECTOR_BYTES
        part = max(1, round(min(working_set, PROBE_LIMIT) / self.threads / chunk)) * chunk
        if part not in self._bandwidths:
            values = [np.ones(part // self.dtype.itemsize, self.dtype) for _ in self._workers()]
            calls = [partial(_run, probes.sweep, self._factors, own) for own in values]
            self._bandwidths[part] = self._best_rate(calls) * 2 * part * self.threads
        return self._bandwidths[part]

    def seconds(self, multiply_adds: float, bytes_moved: float, working_set: float) -> float:
        """Return the least time of a step.

        Parameters
        ----------
        multiply_adds, bytes_moved : float
            Work of the step; bytes read plus bytes written.
        working_set : float
            Size in bytes of what the step walks over.

        Returns
        -------
        float
            Seconds.
        """
        return max(multiply_adds / self.peak, bytes_moved / self.bandwidth(working_set))

    def _workers(self) -> range:
        return range(self.threads)

    def _chain_rate(self, kernel: Callable[..., None], width: int) -> float:
        chains = [np.ones(width, self.dtype) for _ in self._workers()]
        calls = [partial(_run, kernel, self._factors, own) for own in chains]
        return self._best_rate(calls) * width * self.threads

    def _best_rate(self, calls: Sequence[Callable[[int], None]]) -> float:
        """Return the highest number of repeats per second, all `calls` running at once."""
        with ThreadPoolExecutor(len(calls)) as pool:

            def run(repeats: int) -> float:
                start = time.perf_counter()
                if len(calls) == 1:
                    calls[0](repeats)
                else:
                    list(pool.map(lambda call: call(repeats), calls))
                return time.perf_counter() - start

            run(1)  # compiles, and touches the pages
            repeats = 1
            while (seconds := run(repeats)) < PROBE_SECONDS:
                repeats *= max(2, min(100, int(PROBE_SECONDS / max(seconds, 1e-7))))
            again = PROBE_REPEATS if seconds < 10 * PROBE_SECONDS else 2
            return repeats / min(seconds, *(run(repeats) for _ in range(again)))


def _run(
    kernel: Callable[..., None],
    factors: NDArray[np.floating],
    values: NDArray[np.floating],
    repeats: int,
) -> None:
    kernel(repeats, factors, values)
