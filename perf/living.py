"""What do living masks, budgets and bfloat16 buy? Bits per character against bytes of J and time.

    python perf/living.py --text shakespeare.txt --out OUT                all of it, an hour
    python perf/living.py --text shakespeare.txt --out OUT --only SET --tokens 150000
    python perf/living.py --out OUT --print --picture living.png          what has been run

A GRU learns the characters of a text online, an update at every step, 4 rows side by side, Adam
at one rate for all. Nets have equally many weights, those of the readout counted; the dense one has
fewer units for that. Finished runs stand in OUT, a line of JSON each, and are not run again.

Bits are those of 64k characters of the held-out end. Bytes are those of J's entries for one row, at
the end of a run. Time is processor time of one thread for a character of one row, rewiring and all.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from replications.records import Records, Setting, mean_and_spread, row

import sparsegrad
from sparsegrad.tasks.chars import Chars

BATCH, STEPS, RATE = 4, 64, 3e-3
UNITS, SPARSITY, DENSE_UNITS = 128, 0.95, 35
FRACTION, EVERY = 0.3, 500
TOKENS = 400_000
READ = 1 << 16  # held-out characters


class Contestant(NamedTuple):
    """Who learns: its method, by the bytes of a full J, and how its masks change."""

    method: str
    rule: str | None = None
    part: float | None = None
    storage: str | None = None
    dense: bool = False


CONTESTANTS = {
    "fixed masks": Contestant("snap:2"),
    "RigL": Contestant("snap:2", "rigl"),
    "SET": Contestant("snap:2", "set"),
    "bfloat16": Contestant("snap:2", storage="bfloat16"),
    "budget 1/2": Contestant("snap:2", part=1 / 2),
    "budget 1/4": Contestant("snap:2", part=1 / 4),
    "SnAp-1": Contestant("snap:1"),
    "SnAp-1, RigL": Contestant("snap:1", "rigl"),
    "dense, RTRL": Contestant("rtrl", dense=True),
}


def learner(setting: Setting, text: Chars) -> sparsegrad.OnlineLearner:
    """Return a contestant's learner at its beginning."""
    who, seed = CONTESTANTS[setting["who"]], setting["seed"]
    sizes = {"sparsity": 0.0} if who.dense else {"sparsity": SPARSITY}
    units = setting["dense_units" if who.dense else "units"]
    cell = sparsegrad.GRU(text.inputs, units, seed=seed, **sizes)
    method = {
        "snap:1": sparsegrad.SnAp(1), "snap:2": sparsegrad.SnAp(2, storage=who.storage),
        "rtrl": sparsegrad.RTRL(),
    }[who.method]  # fmt: skip

    def made(method: sparsegrad.SnAp | sparsegrad.RTRL) -> sparsegrad.OnlineLearner:
        return sparsegrad.OnlineLearner(
            cell, sparsegrad.Linear(text.outputs, "cross_entropy", seed=seed + 1), method,
            sparsegrad.Adam(RATE), batch=BATCH, threads=1,
        )  # fmt: skip

    if who.part is None:
        return made(method)
    full = made(method).pattern
    assert full is not None
    memory = int(who.part * sparsegrad.Influence(full, BATCH).nbytes)
    return made(sparsegrad.SnAp(2, memory=memory))


def learn(setting: Setting, path: Path) -> Setting:
    """Return the numbers of one run."""
    text = Chars(path, BATCH, STEPS)
    owner, rule = learner(setting, text), CONTESTANTS[setting["who"]].rule
    until = int(0.75 * setting["tokens"] / BATCH)
    rewiring = rule and sparsegrad.Rewiring(
        FRACTION, setting["every"], until, rule, seed=setting["seed"]
    )
    begin, read = time.process_time(), 0
    while read < setting["tokens"]:
        drawn = text.draw()
        if rewiring:
            rewiring.rewire(owner, *drawn)
        owner.run(*drawn)
        read += STEPS * BATCH
    taken = time.process_time() - begin
    pattern, weights = owner.pattern, owner.cell.weights.size
    entries = weights if pattern is None else pattern.nnz  # SnAp-1 has a trace per weight
    each = 2 if CONTESTANTS[setting["who"]].storage else 4
    return {
        "bits": held_out(owner, text, path) / math.log(2),
        "microseconds": 1e6 * taken / read,
        "bytes": each * entries,
        "weights": weights + owner.parameters()["readout.weight"].size + text.outputs,
    }


def held_out(owner: sparsegrad.OnlineLearner, text: Chars, path: Path) -> float:
    """Return the mean loss over the beginning of the last tenth, in equal parts."""
    whole = path.read_bytes()
    code = text.encode(whole[int(0.9 * len(whole)) :][: READ + 1])
    each = (code.size - 1) // BATCH
    rows = code[: each * BATCH].reshape(BATCH, each).T
    targets = code[1 : each * BATCH + 1].reshape(BATCH, each).T.copy()
    return float(owner.evaluate(np.eye(text.inputs, dtype=np.float32)[rows], targets).mean())


def run(records: Records, path: Path, options: argparse.Namespace) -> None:
    """Run what is not in the records, seed by seed."""
    size = (
        {"units": 16, "dense_units": 6, "tokens": 3 * STEPS * BATCH, "every": STEPS}
        if options.toy
        else {"units": UNITS, "dense_units": DENSE_UNITS, "tokens": options.tokens, "every": EVERY}
    )
    for seed in range(options.seeds):
        for who in options.only or CONTESTANTS:
            setting = {"who": who, "seed": seed, **size}
            if any(records.where(**setting)):
                continue
            if not options.toy:  # what is compiled now is not compiled on the clock
                learn({**setting, "tokens": 3 * STEPS * BATCH, "every": STEPS}, path)
            records.once(setting, learn, setting, path)
            print(records.lines[-1], flush=True)


def groups(records: Records) -> Iterator[tuple[str, dict[int, Setting]]]:
    """Yield each contestant that has been run, and its runs by seed."""
    for who in CONTESTANTS:
        runs = {line["setting"]["seed"]: line for line in records.where(who=who)}
        if runs:
            yield who, runs


def table(records: Records) -> None:
    """Print a row for each contestant, and whether living masks beat those that stay."""
    print(row(["", "weights", "J of a row", "µs a character", "bits a character", "seeds"]))
    print(row(["---", *["---:"] * 5]))
    found = dict(groups(records))
    for who, runs in found.items():
        lines = runs.values()
        mean = {
            name: np.mean([line[name] for line in lines])
            for name in ("weights", "bytes", "microseconds")
        }
        print(row([
            who, f"{mean['weights']:,.0f}", f"{mean['bytes'] / 1024:,.0f} KiB",
            f"{mean['microseconds']:.1f}", mean_and_spread(line["bits"] for line in lines),
            len(lines),
        ]))  # fmt: skip
    print()
    for who, against in (
        ("RigL", "fixed masks"), ("SET", "fixed masks"), ("SnAp-1, RigL", "SnAp-1"),
        ("bfloat16", "fixed masks"), ("budget 1/2", "fixed masks"), ("budget 1/4", "fixed masks"),
    ):  # fmt: skip
        both = found.get(who, {}).keys() & found.get(against, {}).keys()
        gains = [found[against][seed]["bits"] - found[who][seed]["bits"] for seed in sorted(both)]
        if gains:
            said = "yes" if min(gains) > 0 else "no" if max(gains) <= 0 else "not with every seed"
            each = ", ".join(f"{gain:+.3f}" for gain in gains)
            print(f"{who} ahead of {against}: {said}; bits gained, seed by seed: {each}")


def draw(records: Records, path: Path) -> None:
    """Draw bits against bytes of J, and against time: means, and all seeds' range."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    from sparsegrad.figures.style import FAINT, our_style, write_picture

    with our_style():
        figure = Figure(figsize=(9.6, 3.8), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, of, title in zip(
            panels, ("bytes", "microseconds"), ("KiB of J, one row", "µs a character"), strict=True
        ):
            for number, (who, runs) in enumerate(groups(records)):
                bits = np.array([line["bits"] for line in runs.values()])
                at = np.mean([line[of] for line in runs.values()]) / (1024 if of == "bytes" else 1)
                reach = [[bits.mean() - bits.min()], [bits.max() - bits.mean()]]
                axes.errorbar(
                    at, bits.mean(), reach, fmt="osD^vP*Xd"[number % 9], color=f"C{number % 10}",
                    ms=7, lw=1.2, label=who,
                )  # fmt: skip
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel(title)
            axes.grid(True, color=FAINT, lw=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("bits per held-out character")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, loc="outside right center")
        write_picture(figure, path)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, help="a text to learn from")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="characters of a run")
    parser.add_argument("--only", nargs="+", default=[], choices=CONTESTANTS)
    parser.add_argument("--picture", type=Path, help="draw what has been run")
    parser.add_argument("--toy", action="store_true", help="all of it, as small as it can be")
    parser.add_argument("--print", action="store_true", dest="printed", help="run nothing")
    options = parser.parse_args(words)
    records = Records(options.out / "living.jsonl")
    if not options.printed:
        if options.text is None:
            parser.error("--text must name a text to learn from")
        try:
            run(records, options.text, options)
        except (OSError, ValueError) as error:
            sys.exit(f"living.py: {error}")
    table(records)
    if options.picture is not None:
        draw(records, options.picture)


if __name__ == "__main__":
    main()
