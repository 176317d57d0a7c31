"""Is temporal credit free? The claim of arXiv 2603.28750, on four tasks.

The claim: the immediate derivative alone (J := I, nothing of what a weight did before this step)
with RMSprop matches or exceeds full RTRL. J := I is BPTT(window=1). Every method has an update at
every step and the same tokens; each optimiser its best rate of a grid, chosen by another seed.

    sine       eight streams; a constant input, the target a sum of three sines, 100 steps long (the
               periodic output of Murray 2019); error over variance
    lorenz     eight streams; the next value of the Lorenz series of the five series
    recall:d   eight streams; each step brings a random ±1, the target is that of d steps ago; 1 is
               what knowing nothing gives
    copy       GRU 64 @ 93.75%, batch 16, the paper's curriculum: L at the end

The first three run on a tanh RNN of 64 units, 87.5% of W absent. An error is that of the last
tenth.
"""

import itertools
from pathlib import Path

import numpy as np

import sparsegrad
from sparsegrad.tasks.copy import Copy

from . import series
from .records import Records, Setting, mean_and_spread, row

BATCH, UNITS, STEPS, TOKENS = 8, 64, 6_000, 100_000
PERIOD = 100
CHOOSE = (100,)  # seeds
TASKS = ("sine", "lorenz", "recall:5", "copy", "recall:20", "recall:50")
METHODS = {
    "J := I": sparsegrad.BPTT(1),
    "SnAp-1": sparsegrad.SnAp(1),
    "SnAp-2": sparsegrad.SnAp(2),
    "RTRL": sparsegrad.RTRL(),
}
OPTIMIZERS = {"SGD": sparsegrad.SGD, "Adam": sparsegrad.Adam, "RMSprop": sparsegrad.RMSprop}
RATES = {
    "SGD": (0.03, 0.1, 0.3), "Adam": (1e-3, 3e-3, 1e-2),
    "RMSprop": (1e-3, 3e-3, 1e-2),
}  # fmt: skip
CLIP = 1.0  # of the gradient, for all alike: SGD diverges at its better rates without


def stream(task: str, seed: int, steps: int) -> tuple[np.ndarray, ...]:
    """Return inputs, targets, weights and resets of a task other than copy."""
    weights, resets = np.ones((steps, BATCH), np.float32), np.zeros((steps, BATCH), bool)
    resets[0] = True
    if task == "lorenz":
        xs, targets, resets = series.stream("Lorenz", seed, Path(), steps)
    elif task == "sine":
        t = np.arange(steps) % PERIOD
        xs = np.ones((steps, BATCH, 1))
        wave = sum(np.sin(2 * np.pi * k * (t + 1) / PERIOD) / k for k in (1, 2, 4))
        targets = np.repeat(wave[:, None, None], BATCH, axis=1)
        resets[::PERIOD] = True
    else:
        delay = int(task.partition(":")[2])
        bits = np.random.default_rng([seed, 2]).choice([-1.0, 1.0], (steps + delay, BATCH, 1))
        xs, targets = bits[delay:], bits[:-delay]
        weights[:delay] = 0
    return xs.astype(np.float32), targets.astype(np.float32), weights, resets


def learner(setting: Setting, copying: bool) -> sparsegrad.OnlineLearner:
    units, seed = setting["units"], setting["seed"]
    cell = (
        sparsegrad.GRU(Copy.inputs, units, sparsity=0.9375, seed=seed)
        if copying
        else sparsegrad.RNN(1, units, sparsity=0.875, input_sparsity=0.0, seed=seed)
    )
    loss = Copy.loss if copying else "squared_error"
    optimizer = OPTIMIZERS[setting["optimizer"]](setting["rate"], clip=CLIP)
    return sparsegrad.OnlineLearner(
        cell, sparsegrad.Linear(1, loss=loss, seed=seed + 1), METHODS[setting["method"]],
        optimizer, batch=2 * BATCH if copying else BATCH, threads=1,
        update_every=None if setting["method"] == "J := I" else 1,
    )  # fmt: skip


def run_one(setting: Setting) -> Setting:
    """Return L for copy, else the error of the last tenth over the targets' variance."""
    task, copying = setting["task"], setting["task"] == "copy"
    owner = learner(setting, copying)
    try:
        if copying:
            strings, left = Copy(owner.batch, seed=setting["seed"]), setting["tokens"]
            while left > 0:
                drawn = strings.draw()
                losses = owner.run(*drawn)
                scored = drawn.weights.mean(axis=1)
                strings.hear(float((losses).sum() / scored.sum()))
                left -= drawn.weights.size
            return {"score": float(strings.length)}
        xs, targets, weights, resets = stream(task, setting["seed"], setting["steps"])
        losses = owner.run(xs, targets, weights, resets)
        last = len(losses) // 10
        return {"score": float(2 * losses[-last:].mean() / targets[-last:].var())}
    except FloatingPointError as error:
        return {"score": 0.0 if copying else float("inf"), "diverged": str(error)}


def run(records: Records, folder: Path | None, seeds: int, only: list[str], toy: bool) -> None:
    """Choose each one's rate by a seed of its own, then run it with others; needs no data."""
    unknown = [name for name in only if name not in TASKS]
    if unknown:
        raise ValueError(f"--only must name tasks of {list(TASKS)}, got {unknown[0]!r}")
    size = (
        {"units": 8, "steps": 300, "tokens": 400}
        if toy
        else {"units": UNITS, "steps": STEPS, "tokens": TOKENS}
    )
    for task, method, optimizer in itertools.product(only or TASKS, METHODS, OPTIMIZERS):
        here = {"task": task, "method": method, "optimizer": optimizer, **size}
        for rate, seed in itertools.product(
            RATES[optimizer][:1] if toy else RATES[optimizer], CHOOSE
        ):
            setting = {**here, "rate": rate, "seed": seed}
            records.once(setting, run_one, setting)
        rate = best_rate(records, here)
        for seed in range(seeds):
            setting = {**here, "rate": rate, "seed": seed}
            records.once(setting, run_one, setting)


def best_rate(records: Records, here: Setting) -> float:
    """Return the rate with the best mean over the seeds that choose."""
    found: dict[float, list[float]] = {}
    for line in records.where(**here):
        if line["setting"]["seed"] >= CHOOSE[0]:
            found.setdefault(line["setting"]["rate"], []).append(line["score"])
    best = max if here["task"] == "copy" else min
    return best(found, key=lambda rate: float(np.mean(found[rate])))


def table(records: Records) -> None:
    """Print a row per task and optimiser: each method at its best rate."""
    print(row(["task", "optimiser", *METHODS, "seeds"]))
    print(row(["---"] * (len(METHODS) + 3)))
    for task, optimizer in itertools.product(TASKS, OPTIMIZERS):
        cells, seeds = [], 0
        for method in METHODS:
            here = {"task": task, "method": method, "optimizer": optimizer}
            found = [f for f in records.where(**here) if f["setting"]["seed"] < CHOOSE[0]]
            seeds = len({line["setting"]["seed"] for line in found})
            digits = 1 if task == "copy" else 3
            at = f" at {found[0]['setting']['rate']:g}" if found else ""
            cells.append(mean_and_spread((f["score"] for f in found), digits) + at)
        if seeds:
            print(row([task, optimizer, *cells, seeds]))
