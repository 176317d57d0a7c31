"""Where markers on a breathing chest will be: the tables of Pohl and others 2022 and 2025 at 10 Hz.

Nine coordinates are predicted h frames ahead from the last k frames of all of them, by a tanh RNN
and a linear readout; SGD with the gradient clipped to norm 2 makes an update at every frame. Rate,
k and the number of units are chosen on frames 300 to 600 by one run, everything after is the test.
nRMSE is the root of the squared error over that of the mean, in the original units, over all
markers.

The weights learn from a target when the prediction is made, as they do in the publication; where a
method's name says "late", when that frame has come, h frames later.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

import sparsegrad

from .records import Records, Setting, mean_and_spread, row

COORDINATES, KNOWN, FITTED, TEST = 9, 300, 540, 600  # frames
CHOOSE = 1000  # seed
HORIZONS = (1, 7, 14, 20)
SOURCE = (
    "seq1.mat … seq9.mat, variable org_data of 9 rows and more than 700 columns, in it or in its "
    "folder markers (Krilavicius and others 2015, as handed on by Pohl and others 2022, arXiv "
    "2106.01100)"
)
PUBLISHED = {  # nRMSE and ms per step, Pohl and others 2025
    "RTRL, 30 units": (0.195, 10.1), "UORO": (0.166, 2.05), "SnAp-1": (0.157, 1.52),
    "linear regression": (None, None),
}  # fmt: skip

Array = NDArray[Any]


@dataclass(frozen=True)
class Grid:
    """What is chosen from."""

    rates: tuple[float, ...] = (0.005, 0.01, 0.02, 0.05, 0.1)
    sizes: tuple[tuple[int, int], ...] = ((12, 30), (12, 90), (36, 30), (36, 90))  # k, units

    def __iter__(self) -> Iterator[Setting]:
        for rate, (frames, units) in itertools.product(self.rates, self.sizes):
            yield {"rate": rate, "frames": frames, "units": units}


@dataclass(frozen=True)
class Way:
    """A method, on which net, when it gets its targets, how long its gradient may be."""

    method: Callable[[int], Any]
    sparsity: float = 0.0
    late: bool = False
    clip: float = 2.0
    grid: Grid = Grid()


SMALL = Grid((0.02, 0.05, 0.1), ((12, 30),))
WIDE = Grid((0.02, 0.05, 0.1), ((12, 90),))
LATE = Grid((0.005, 0.02, 0.05), ((12, 90),))
HIGH = Grid((0.05, 0.1, 0.2))
TOY = Grid((0.02,), ((3, 6),))
METHODS = {
    "SnAp-1": Way(lambda seed: sparsegrad.SnAp(1)),
    "SnAp-1, clipped to 100": Way(lambda seed: sparsegrad.SnAp(1), clip=100.0),
    "UORO": Way(lambda seed: sparsegrad.UORO(seed), grid=HIGH),
    "RFLO": Way(lambda seed: sparsegrad.RFLO()),
    "BPTT(10)": Way(lambda seed: sparsegrad.BPTT(10)),
    "SnAp-1@10": Way(lambda seed: sparsegrad.SnAp(1, window=10)),
    "SnAp-1, 30 units": Way(lambda seed: sparsegrad.SnAp(1), grid=SMALL),
    "BPTT(10) every step, 30 units": Way(
        lambda seed: sparsegrad.BPTT(10, update_every=1), grid=SMALL
    ),
    "RTRL, 30 units": Way(lambda seed: sparsegrad.RTRL(), grid=SMALL),
    "SnAp-1 @ 90%": Way(lambda seed: sparsegrad.SnAp(1), sparsity=0.9, grid=WIDE),
    "SnAp-2 @ 90%": Way(lambda seed: sparsegrad.SnAp(2), sparsity=0.9, grid=WIDE),
    "SnAp-3 @ 90%": Way(lambda seed: sparsegrad.SnAp(3), sparsity=0.9, grid=WIDE),
    "RTRL @ 90%": Way(lambda seed: sparsegrad.RTRL(), sparsity=0.9, grid=WIDE),
    "SnAp-1, late": Way(lambda seed: sparsegrad.SnAp(1), late=True, grid=LATE),
}


def check(folder: Path) -> None:
    """Refuse a folder that does not hold the nine sequences."""
    for number in range(1, 10):
        try:
            shape = np.shape(sequence(folder, number))
        except FileNotFoundError:
            shape = "no such file"
        except Exception as error:  # a foreign file can fail in any way
            shape = f"another file ({str(error).splitlines()[0]})"
        if not (isinstance(shape, tuple) and len(shape) == 2 and shape[0] > 700):
            raise ValueError(
                f"--data must hold {SOURCE}, got {shape} for seq{number}.mat in {folder}"
            )


@cache
def sequence(folder: Path, number: int) -> Array:
    """Return the positions, (frames, 9)."""
    name = f"seq{number}.mat"
    path = folder / "markers" / name
    path = path if path.is_file() else folder / name
    if not path.is_file():
        raise FileNotFoundError(path)
    positions = np.asarray(loadmat(path)["org_data"], np.float64).T
    if positions.ndim != 2 or positions.shape[1] != COORDINATES:
        raise ValueError(f"org_data of shape {positions.T.shape}")
    return positions


@dataclass(frozen=True)
class Task:
    """Inputs and targets of a sequence.

    Parameters
    ----------
    positions : float64 array, (frames, 9)
    frames, horizon : int
        Frames seen at once; how far ahead.
    """

    positions: Array
    frames: int
    horizon: int

    @property
    def scaled(self) -> Array:
        """Positions by the mean and deviation of the first 300 frames."""
        known = self.positions[:KNOWN]
        return (self.positions - known.mean(axis=0)) / known.std(axis=0)

    @property
    def xs(self) -> Array:
        """The last frames at each step, (steps, frames * 9); a step for each frame it ends with."""
        seen = np.lib.stride_tricks.sliding_window_view(self.scaled, self.frames, axis=0)
        return seen.reshape(len(seen), -1)[: -self.horizon]

    @property
    def target_frames(self) -> Array:
        """Which frame each step predicts."""
        return np.arange(self.frames - 1 + self.horizon, len(self.positions))

    def error(self, predicted: Array, first: int, last: int) -> float:
        """Return the nRMSE of the scaled predictions over frames `first` to `last`."""
        known = self.positions[:KNOWN]
        at = self.target_frames
        chosen = (at >= first) & (at < last)
        truth = self.positions[at[chosen]]
        guess = predicted[chosen] * known.std(axis=0) + known.mean(axis=0)
        return float(
            np.sqrt(((guess - truth) ** 2).sum() / ((truth - truth.mean(axis=0)) ** 2).sum())
        )


def learner(way: Way, inputs: int, units: int, rate: float, seed: int) -> sparsegrad.OnlineLearner:
    """Draw the net: all weights from N(0, 0.02²), at 90% a tenth of W and a quarter of U."""
    rng = np.random.default_rng([seed, units, inputs])
    share = 0.25 if way.sparsity else 1.0

    def mask(shape: tuple[int, int], density: float) -> Array:
        kept = np.zeros(shape, bool)
        kept.flat[rng.choice(kept.size, round(density * kept.size), replace=False)] = True
        return kept

    masks = {
        "weight_hh": mask((units, units), 1 - way.sparsity),
        "weight_ih": mask((units, inputs), share),
        "bias_ih": np.ones(units, bool),
        "bias_hh": np.zeros(units, bool),
    }
    arrays = {
        name: (0.02 * rng.standard_normal(kept.shape) * kept).astype(np.float32)
        for name, kept in masks.items()
    }
    weight = (0.02 * rng.standard_normal((COORDINATES, units))).astype(np.float32)
    return sparsegrad.OnlineLearner(
        sparsegrad.RNN.from_dense(**arrays, masks=masks),
        sparsegrad.Linear(COORDINATES, weight=weight), way.method(seed),
        sparsegrad.SGD(rate, clip=way.clip), threads=1,
    )  # fmt: skip


def predict(way: Way, task: Task, units: int, rate: float, seed: int) -> tuple[Array, float]:
    """Return what is predicted at each step, and the seconds of a step.

    Late, the pair that ends with today's frame is learned first; from the state behind it the net
    runs over the frames since, without learning, to today's prediction.
    """
    xs = task.xs.astype(np.float32)
    targets = task.scaled[task.target_frames].astype(np.float32)
    owner = learner(way, xs.shape[1], units, rate, seed)
    before = time.process_time()
    if way.late:
        h, predicted = task.horizon, np.zeros_like(targets)
        for t in range(len(xs)):
            if t >= h:
                owner.step(xs[t - h], targets[t - h])
            predicted[t] = owner.predict(xs[max(t - h + 1, 0) : t + 1])[-1]
    else:
        predicted = owner.run(xs, targets, outputs=True)[1]
    return predicted, (time.process_time() - before) / len(xs)


def choose(way: Way, positions: Array, horizon: int, grid: Grid) -> Setting:
    """Return the rate, frames and units with the least error on frames 300 to 600."""
    best: Setting = {"chosen": None, "choice_error": float("inf")}
    for point in grid:
        task = Task(positions[:TEST], point["frames"], horizon)
        try:
            guess, _ = predict(way, task, point["units"], point["rate"], CHOOSE)
        except FloatingPointError:
            continue
        found = task.error(guess, KNOWN, TEST)
        if found < best["choice_error"]:
            best = {"chosen": point, "choice_error": found}
    return best


def test(way: Way, positions: Array, horizon: int, seed: int, point: Setting | None) -> Setting:
    """Return the error after frame 600 and the time of a step."""
    if point is None:
        return {"error": float("inf"), "diverged": "every setting"}
    task = Task(positions, point["frames"], horizon)
    try:
        guess, seconds = predict(way, task, point["units"], point["rate"], seed)
    except FloatingPointError as error:
        return {"error": float("inf"), "diverged": str(error)}
    found = task.error(guess, TEST, len(positions))
    return {"error": found, "milliseconds": 1e3 * seconds, **point}


def persistence(positions: Array, horizon: int) -> Setting:
    """Predict the last frame."""
    task = Task(positions, 1, horizon)
    return {"error": task.error(task.xs, TEST, len(positions))}


def linear_regression(positions: Array, horizon: int) -> Setting:
    """Fit least squares to the first 540 frames; how many frames it sees, on 300 to 600."""

    def fitted(task: Task, until: int) -> Array:
        xs = np.column_stack([task.xs, np.ones(len(task.xs))])
        known = task.target_frames < until
        ys = task.scaled[task.target_frames[known]]
        return xs @ np.linalg.lstsq(xs[known], ys, rcond=None)[0]

    def choice(frames: int) -> float:
        task = Task(positions[:TEST], frames, horizon)
        return task.error(fitted(task, KNOWN), KNOWN, TEST)

    frames = min((3, 6, 12, 18, 24), key=choice)
    task = Task(positions, frames, horizon)
    return {"error": task.error(fitted(task, FITTED), TEST, len(positions)), "frames": frames}


BASELINES = {"persistence": persistence, "linear regression": linear_regression}


def run(records: Records, folder: Path, seeds: int, only: list[str], toy: bool) -> None:
    """Run the baselines, then all methods, sequence by sequence and horizon by horizon."""
    check(folder)
    unknown = [name for name in only if name not in METHODS]
    if unknown:
        raise ValueError(f"--only must name methods of {list(METHODS)}, got {unknown[0]!r}")
    places = [(1, 4)] if toy else list(itertools.product(range(1, 10), HORIZONS))
    for (name, baseline), (number, horizon) in itertools.product(BASELINES.items(), places):
        here: Setting = {"method": name, "sequence": number, "horizon": horizon, "toy": toy}
        test_setting = {"part": "test", **here, "seed": 0}
        records.once(test_setting, baseline, sequence(folder, number), horizon)
    for name, (number, horizon) in itertools.product(only or METHODS, places):
        way, positions = METHODS[name], sequence(folder, number)
        grid = TOY if toy else way.grid
        here = {"method": name, "sequence": number, "horizon": horizon, "toy": toy}
        records.once({"part": "choice", **here}, choose, way, positions, horizon, grid)
        (found,) = records.where(part="choice", **here)
        for seed in range(seeds):
            setting = {"part": "test", **here, "seed": seed}
            records.once(setting, test, way, positions, horizon, seed, found["chosen"])


def table(records: Records) -> None:
    """Print ours beside theirs: means over sequences and runs, by horizon and over all."""
    horizons = sorted({line["setting"]["horizon"] for line in records.where(part="test")})
    heads = [*(f"{h / 10:g} s" for h in horizons), "mean", "published", "ms", "published ms"]
    print(row(["nRMSE", *heads, "runs, diverged"]))
    print(row(["---"] * (len(heads) + 2)))
    for name in (*METHODS, *BASELINES):
        found = list(records.where(part="test", method=name))
        if not found:
            continue
        by_horizon = [
            mean_and_spread([np.mean(_errors(f for f in found if f["setting"]["horizon"] == h))])
            for h in horizons
        ]
        seeds = sorted({line["setting"]["seed"] for line in found})
        means = [np.mean(_errors(f for f in found if f["setting"]["seed"] == s)) for s in seeds]
        error, spent = PUBLISHED.get(name, (None, None))
        times = [line["milliseconds"] for line in found if "milliseconds" in line]
        diverged = sum("diverged" in line for line in found)
        print(row([
            name, *by_horizon, mean_and_spread(means), f"{error:.3f}"[1:] if error else "",
            f"{np.median(times):.3f}" if times else "", spent or "", f"{len(found)}, {diverged}",
        ]))  # fmt: skip


def _errors(lines: Iterator[Setting]) -> list[float]:
    return [line["error"] for line in lines if np.isfinite(line["error"])] or [np.nan]
