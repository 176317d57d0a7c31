"""Time windows: exact inside, influence before, beside an update at every step and beside BPTT.

    rtrl     a step of RTRL() over one of RTRL(window=T): how many times as fast
    snap     a step of SnAp(2) with an update every 16 steps over one of SnAp(2, window=16)
    bptt     a step of SnAp(1, window=8) over one of BPTT(8): what the influence adds

Contestants of a comparison take turns in one process on one thread; the ratio is that of their
medians. Prints JSON lines.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from typing import Any

from step import ONE_THREAD, learner, stream, take_turns
from workloads import PAPER_AT_2, PRODUCTS, Product

from sparsegrad.cells import GRU, LSTM, RNN, Cell
from sparsegrad.methods import BPTT, RTRL, SnAp

CELLS = {"rnn": RNN, "gru": GRU, "lstm": LSTM}
RTRL_NETS = ((128, 0.75), (256, 0.9375), (512, 0.984375))
BPTT_NETS = tuple((cell, batch) for cell in (RNN, GRU, LSTM) for batch in (1, 16))


def faster_rtrl(
    nets: tuple[tuple[int, float], ...], windows: tuple[int, ...], rounds: int
) -> Iterator[dict[str, Any]]:
    for units, sparsity in nets:
        cell = GRU(32, units, sparsity=sparsity)
        stepwise = learner(cell, RTRL(), 1)
        xs, targets = stream(cell, 1, max(windows))
        few = xs[:2], targets[:2]
        contestants = {0: (lambda s=stepwise, d=few: s.run(*d))}
        for window in windows:
            windowed = learner(cell, RTRL(window=window), 1)
            data = xs[:window], targets[:window]
            contestants[window] = lambda w=windowed, d=data: w.run(*d)
        seconds = take_turns(contestants, rounds)
        for window in windows:
            yield {
                "what": "RTRL() over RTRL(window=T)",
                "net": f"GRU {units} @ {sparsity:.2%}",
                "window": window,
                "step_us": seconds[window] / window * 1e6,
                "stepwise_us": seconds[0] / 2 * 1e6,
                "ratio": seconds[0] / 2 / (seconds[window] / window),
            }


def faster_snap(products: list[Product], window: int, rounds: int) -> Iterator[dict[str, Any]]:
    ratios = []
    for product in products:
        cell: Cell = CELLS[product.cell](product.inputs, product.units, sparsity=product.sparsity)
        xs, targets = stream(cell, 1, window)
        stepwise = learner(cell, SnAp(2), 1, update_every=window)
        windowed = learner(cell, SnAp(2, window=window), 1)
        seconds = take_turns(
            {
                "steps": lambda s=stepwise, x=xs, y=targets: s.run(x, y),
                "window": lambda w=windowed, x=xs, y=targets: w.run(x, y),
            },
            rounds,
        )
        ratios.append(seconds["steps"] / seconds["window"])
        yield {
            "what": f"SnAp(2) over SnAp(2, window={window})",
            "net": product.name,
            "step_us": seconds["window"] / window * 1e6,
            "ratio": ratios[-1],
        }
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    yield {"what": f"SnAp(2) over SnAp(2, window={window})", "net": "geometric mean", "ratio": mean}


def beside_bptt(
    nets: tuple[tuple[type[Cell], int], ...], units: int, window: int, rounds: int
) -> Iterator[dict[str, Any]]:
    for kind, batch in nets:
        cell: Cell = kind(32, units, sparsity=0.75)
        xs, targets = stream(cell, batch, 8 * window)
        ours, theirs = (
            learner(cell, SnAp(1, window=window), batch),
            learner(cell, BPTT(window), batch),
        )
        seconds = take_turns(
            {
                "window": lambda w=ours, x=xs, y=targets: w.run(x, y),
                "bptt": lambda b=theirs, x=xs, y=targets: b.run(x, y),
            },
            rounds,
        )
        yield {
            "what": f"SnAp(1, window={window}) over BPTT({window})",
            "net": f"{kind.__name__} {units} @ 75%, batch {batch}",
            "step_us": seconds["window"] / (8 * window) * 1e6,
            "ratio": seconds["window"] / seconds["bptt"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="small nets, one round: does it run?")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=("rtrl", "snap", "bptt"), help="one part of it")
    parser.add_argument("--large", action="store_true", help="2 GiB of J too")
    options = parser.parse_args()
    if not ONE_THREAD.items() <= os.environ.items():  # read when the libraries load
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    toy, rounds = options.toy, 1 if options.toy else options.rounds
    products = [product.toy() for product in PAPER_AT_2[:1]] if toy else list(PAPER_AT_2)
    if options.large:
        products.append(PRODUCTS["gru-2gib-n2"])
    parts = {
        "rtrl": faster_rtrl(
            ((12, 0.5),) if toy else RTRL_NETS, (2, 4) if toy else (16, 64), rounds
        ),
        "snap": faster_snap(products, 3 if toy else 16, rounds),
        "bptt": beside_bptt(BPTT_NETS[:2] if toy else BPTT_NETS, 12 if toy else 128, 8, rounds),
    }
    for name, lines in parts.items():
        if options.only in (None, name):
            for line in lines:
                json.dump(line, sys.stdout)
                print(flush=True)


if __name__ == "__main__":
    main()
