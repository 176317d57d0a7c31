"""Next-step prediction of five series: the table of a 2026 repository on sketched RTRL.

A dense tanh RNN of 64 units, a linear readout, Adam at 0.001, an update at every one of 15,000
steps, eight streams; state and influence begin anew every 200 steps. The figure of merit is the
mean squared error of the last 200 steps; the series have variance 1. On a dense net two steps
reach everything: SnAp-2 and above are RTRL.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sparsegrad
from sparsegrad.cells.functions import stop, tanh

from .records import Records, Setting, mean_and_spread, row

BATCH, UNITS, STEPS, RESET, FIRST, LAST = 8, 64, 15_000, 200, 64, 200
SOURCES = {
    "sunspot.txt": (3329, "monthly mean sunspot numbers, WDC-SILSO, Royal Observatory of Belgium"),
    "laser.txt": (1000, "Santa Fe time series competition, data set A"),
}
PUBLISHED: dict[str, tuple[float, ...]] = {
    "RTRL": (0.145, 0.020, 0.018, 0.005, 0.005),
    "SnAp-1": (0.144, 0.021, 0.005, 0.005, 0.002),
    "RFLO, leak 0.9": (0.154, 0.276, 0.057, 0.070, 0.044),
    "UORO": (0.212, 0.415, 0.050, 0.658, 0.043),
}


class FixedLeak(sparsegrad.Cell):
    """The vanilla cell with a partial ∂h'/∂h of 0.9 that it does not have.

    Under RFLO() its traces are the publication's S ← 0.9 S + I.
    """

    kind = sparsegrad.CellKind.from_function(lambda h, a: tanh(a) + 0.9 * (h - stop(h)))


Method = tuple[type[sparsegrad.Cell], Callable[[int], Any]]
METHODS: dict[str, Method] = {
    "SnAp-1": (sparsegrad.RNN, lambda seed: sparsegrad.SnAp(1)),
    "UORO": (sparsegrad.RNN, lambda seed: sparsegrad.UORO(seed)),
    "RFLO": (sparsegrad.RNN, lambda seed: sparsegrad.RFLO()),
    "RFLO, leak 0.9": (FixedLeak, lambda seed: sparsegrad.RFLO()),
    "BPTT(8), an update every step": (
        sparsegrad.RNN,
        lambda seed: sparsegrad.BPTT(8, update_every=1),
    ),
    "BPTT(8)": (sparsegrad.RNN, lambda seed: sparsegrad.BPTT(8)),
    "SnAp-1@8": (sparsegrad.RNN, lambda seed: sparsegrad.SnAp(1, window=8)),
    "RTRL@8": (sparsegrad.RNN, lambda seed: sparsegrad.RTRL(window=8)),
    "RTRL": (sparsegrad.RNN, lambda seed: sparsegrad.RTRL()),
}


def check(folder: Path) -> None:
    """Refuse a folder that does not hold the two measured series."""
    for name, (points, source) in SOURCES.items():
        path = folder / name
        found = "no such file"
        if path.is_file():
            try:
                found = f"{np.loadtxt(path).size} numbers"
            except ValueError:
                found = "a file that is no list of numbers"
        if found != f"{points} numbers":
            raise ValueError(
                f"--data must hold {name}, {points} numbers ({source}), got {found} in {folder}"
            )


def henon(rng: np.random.Generator, folder: Path, length: int) -> NDArray[np.float64]:
    x, y = 0.1 + 0.01 * np.arange(BATCH), np.zeros(BATCH)
    out = np.empty((length, BATCH))
    for t in range(length):
        out[t] = x
        x, y = 1 - 1.4 * x * x + y, 0.3 * x
    return out


def mackey_glass(rng: np.random.Generator, folder: Path, length: int) -> NDArray[np.float64]:
    delay = 17
    out = np.empty((length + delay, BATCH))
    out[:delay] = 1.2 + 0.2 * rng.random((delay, BATCH))
    for t in range(delay, length + delay):
        past = out[t - delay]
        out[t] = out[t - 1] + 0.2 * past / (1 + past**10) - 0.1 * out[t - 1]
    return out[delay:]


def lorenz(rng: np.random.Generator, folder: Path, length: int) -> NDArray[np.float64]:
    x, y, z = 1 + 0.1 * rng.standard_normal((3, BATCH))
    out = np.empty((length, BATCH))
    for i in range(2 * length + 100):
        x, y, z = (
            x + 0.01 * 10 * (y - x),
            y + 0.01 * (x * (28 - z) - y),
            z + 0.01 * (x * y - 8 / 3 * z),
        )
        if i >= 100 and i % 2 == 0:
            out[(i - 100) // 2] = x
    return out


def measured(name: str) -> Callable[[np.random.Generator, Path, int], NDArray[np.float64]]:
    def read(rng: np.random.Generator, folder: Path, length: int) -> NDArray[np.float64]:
        values = np.loadtxt(folder / name)
        begins = rng.integers(values.size) + np.arange(BATCH) * (values.size // BATCH)
        return values[(begins + np.arange(length)[:, None]) % values.size]

    return read


# Length of each, and the points whose mean and deviation scale it: of the measured ones the first
# 2,000 at most, of the others all.
SERIES = {
    "sunspots": (measured("sunspot.txt"), 3000, True),
    "laser": (measured("laser.txt"), 1000, True),
    "Mackey-Glass": (mackey_glass, 20_000, False),
    "Hénon": (henon, 20_000, False),
    "Lorenz": (lorenz, 20_000, False),
}


def stream(
    name: str, seed: int, folder: Path, steps: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Return inputs, targets and resets of `steps` steps: they begin at point 64 and go round."""
    make, length, causal = SERIES[name]
    values = make(np.random.default_rng(seed), folder, length + 1 + FIRST)
    known = values[FIRST : FIRST + min(2000, length)] if causal else values
    values = ((values - known.mean(axis=0)) / known.std(axis=0, ddof=1)).astype(np.float32)
    at = FIRST + np.arange(steps) % length
    resets = np.repeat(((at - FIRST) % RESET == 0)[:, None], BATCH, axis=1)
    return values[at][..., None], values[at + 1][..., None], resets


def learner(method: str, seed: int, units: int = UNITS) -> sparsegrad.OnlineLearner:
    """Draw the net as torch would have: everything uniform in ±1/√units, the cell's bias 0."""
    cell, make = METHODS[method]
    rng, bound = np.random.default_rng([seed, 1]), 1 / np.sqrt(units)

    def draw(*shape: int) -> NDArray[np.float32]:
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    arrays = {
        "weight_hh": draw(units, units),
        "weight_ih": draw(units, 1),
        "bias_ih": np.zeros(units, np.float32),
    }
    if cell is sparsegrad.RNN:
        arrays["bias_hh"] = np.zeros(units, np.float32)
    masks = {name: np.full(array.shape, name != "bias_hh") for name, array in arrays.items()}
    readout = sparsegrad.Linear(1, weight=draw(1, units), bias=draw(1))
    return sparsegrad.OnlineLearner(
        cell.from_dense(**arrays, masks=masks), readout, make(seed), sparsegrad.Adam(1e-3),
        batch=BATCH, threads=1,
    )  # fmt: skip


def run_one(setting: Setting, folder: Path) -> Setting:
    """Return the error of the last 200 steps and the time of a step."""
    xs, targets, resets = stream(setting["series"], setting["seed"], folder, setting["steps"])
    owner = learner(setting["method"], setting["seed"], setting["units"])
    before = time.process_time()
    try:
        losses = owner.run(xs, targets, None, resets)
    except FloatingPointError as error:
        return {"error": float("inf"), "diverged": str(error)}
    seconds = time.process_time() - before
    return {"error": float(2 * losses[-LAST:].mean()), "microseconds": 1e6 * seconds / len(xs)}


def run(records: Records, folder: Path, seeds: int, only: list[str], toy: bool) -> None:
    """Run all methods on all series, seed by seed."""
    check(folder)
    size = {"units": 8, "steps": 400} if toy else {"units": UNITS, "steps": STEPS}
    for seed in range(seeds):
        for method in only or METHODS:
            if method not in METHODS:
                raise ValueError(f"--only must name methods of {list(METHODS)}, got {method!r}")
            for name in SERIES:
                setting = {"series": name, "method": method, "seed": seed, **size}
                records.once(setting, run_one, setting, folder)


def table(records: Records) -> None:
    """Print ours beside theirs."""
    print(row(["NMSE", *SERIES, "µs per step", "seeds"]))
    print(row(["---"] * (len(SERIES) + 3)))
    for method in METHODS:
        found = list(records.where(method=method))
        if not found:
            continue
        errors = [
            mean_and_spread(f["error"] for f in found if f["setting"]["series"] == name)
            for name in SERIES
        ]
        spent = np.median([line["microseconds"] for line in found if "microseconds" in line])
        seeds = {line["setting"]["seed"] for line in found}
        print(row([method, *errors, f"{spent:.0f}", len(seeds)]))
        if method in PUBLISHED:
            print(
                row(["*published*", *(f"{v:.3f}".lstrip("0") for v in PUBLISHED[method]), "", 10])
            )
