"""Timing an influence update, warm, on values under which J stays bounded."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsegrad.influence.influence import Influence
from sparsegrad.symbolic.pattern import ReachPattern

LEAST_SAMPLES = 5
SLOW_SECONDS = 1.0
SAMPLE_SECONDS = 0.002


class Timing(NamedTuple):
    """Seconds of one call, warm: the median over the samples and its quartiles."""

    median: float
    low: float
    high: float
    samples: int


def time_update(influence: Influence, seconds: float, seed: int = 0) -> Timing:
    """Time `Influence.update` on random values.

    Parameters
    ----------
    influence : Influence
        Changed by it.
    seconds : float
        How long to go on, as in `time_call`.
    seed : int
        Of the values.

    Returns
    -------
    Timing
        Of one step, for the whole batch.
    """
    dynamics_data, immediate_data = random_values(
        influence.pattern, influence.batch, influence.dtype.name, seed
    )
    return time_call(lambda: influence.update(dynamics_data, immediate_data), seconds)


def random_values(
    pattern: ReachPattern, batch: int, dtype: str, seed: int = 0
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Draw values for D and I under which J stays bounded.

    Parameters
    ----------
    pattern : ReachPattern
        Whose D and I.
    batch, seed : int
    dtype : str
        "float32" or "float64".

    Returns
    -------
    dynamics_data, immediate_data : float array, (batch, nnz)
        Every row of |D| sums to 0.9 at most.
    """
    rng = np.random.default_rng(seed)
    most = max(1, int(np.diff(pattern.dynamics_indptr).max()))
    sizes = len(pattern.dynamics_indices), len(pattern.immediate_indices)
    dynamics_data, immediate_data = (
        rng.uniform(-1, 1, (batch, size)).astype(dtype) for size in sizes
    )
    return (dynamics_data * np.dtype(dtype).type(0.9 / most)), immediate_data


def time_call(call: Callable[[], object], seconds: float) -> Timing:
    """Time a call, warm.

    Parameters
    ----------
    call : callable
        Called again and again; short calls are timed many at a time.
    seconds : float
        How long to go on, at least `LEAST_SAMPLES` samples, or two where those would take longer
        than `SLOW_SECONDS`.

    Returns
    -------
    Timing
        Per call.
    """
    call()  # compiles, and touches all memory
    start = time.perf_counter()
    call()
    samples = [time.perf_counter() - start]
    calls = round(SAMPLE_SECONDS / max(samples[0], 1e-7))
    if calls > 1:
        samples = []  # one short call alone is mostly the clock
    calls, spent = max(1, calls), sum(samples)
    while spent < seconds or len(samples) < (LEAST_SAMPLES if spent < SLOW_SECONDS else 2):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        took = time.perf_counter() - start
        samples.append(took / calls)
        spent += took
    low, median, high = np.percentile(samples, [25, 50, 75]).tolist()
    return Timing(median, low, high, len(samples))
