"""The paper's claims on this machine: a yes or no for each, from at least three seeds.

    1  copy, online: SnAp-1 reaches clearly longer strings than UORO and RFLO
    2  copy, sparse GRU, online: SnAp-2 above SnAp-1 and close to RTRL; RTRL and SnAp-2 learn faster
       in tokens than full BPTT; BPTT cut to one step stays at the trivial level
    3  copy, updates at the end of sequences: the order is that of bias
    4  characters: BPTT <= SnAp-1 well below UORO; sparse, SnAp-2 in between; wider and sparser at
       an equal number of weights is no worse
    5  memory is flat over a stream of ten million steps
    6  shared gate masks reach at least the length of independent ones in equal time
    7  windows, which the paper has not: SnAp-1 with windows copies longer than BPTT over the same
       ones and than SnAp-1 alone, in equal tokens; and in equal time, which copies longest?

Every run is one of `sparsegrad compare`, kept under --out and gone on with when the command is
given again. Prints a table and draws a picture per comparison, a line per claim as it is decided;
writes claims.json. A "no" says what was measured: whether the budget was too small for a claim
shows in the runs' learning curves.

All methods of a comparison get the same budget. Rates are swept, half a decade apart, for each
method around its best in a short run with another seed (100), and the best one counts; the means
at all of them are shown. "Clearly" means that every seed of the one is above every seed of the
other; "close", within a tenth of a length; "no worse", within a hundredth of the bits per
character. The trivial level is what the same net reaches with its core frozen as it was
initialised, by its readout alone; one symbol more still counts as trivial.
"""

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np

from sparsegrad import GRU, Adam, OnlineLearner
from sparsegrad.cli.compare import draw_compared
from sparsegrad.kernels.cells.elementwise import gru
from sparsegrad.runs.comparison import (
    best_rates,
    measure_of,
    plan,
    results,
    table,
    write_results,
)
from sparsegrad.runs.execution import run_all
from sparsegrad.runs.run import Run
from sparsegrad.runs.settings import Settings
from sparsegrad.system.atomic import write_whole

CLOSE, NO_WORSE = 0.9, 1.01
MODEST = 3e-3
"""About the largest rate of the paper's sweeps; BPTT gains from larger ones."""
STREAM_STEPS = 10_000_000
GROWTH = 1 << 20
"""Bytes that memory may grow by over a stream: the allocator's own noise."""
Line = dict[str, Any]
Rates = Mapping[str, Sequence[float]]
"""Of each method."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What all claims share."""

    out: Path
    scale: float
    seeds: tuple[int, ...]
    jobs: int
    toy: bool


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One statement, decided."""

    claim: int
    statement: str
    holds: bool
    measured: dict[str, Any]


def compared(options: Options, name: str, rates: Rates, given: dict[str, Any]) -> dict[str, Line]:
    """Run a comparison; return each method's line at its best rate."""
    given = sized(options, given)
    if options.toy:
        rates = {method: swept[:1] for method, swept in rates.items()}
    folder = options.out / name
    folder.mkdir(parents=True, exist_ok=True)
    entries = [
        entry
        for method, swept in rates.items()
        for entry in plan(given, [method], swept, options.seeds, folder)
    ]
    measure, higher = measure_of(entries)
    errors, stopped = run_all(entries, options.jobs, lambda entry, done, total: print(
        f"{name} [{done}/{total}] {entry.path.name}", file=sys.stderr, flush=True))  # fmt: skip
    if stopped:
        raise SystemExit("interrupted; the same command goes on with what is not done")
    if errors:
        raise SystemExit("\n".join(errors))
    rows = results(entries, measure)
    lines = best_rates(rows, higher)
    write_results(folder, entries, rows, lines, measure)
    draw_compared(folder, entries, lines, measure)
    print(f"\n{name}\n{table(lines, measure)}", flush=True)
    for line in lines:
        method = line["method"]
        line["budget"] = {key: given[key] for key in ("tokens", "seconds") if key in given}
        line["means"] = {}
        for rate in sorted(rates[method]):
            own = [row for row in rows if (row["method"], row["rate"]) == (method, rate)]
            line["means"][rate] = best_rates(own, higher)[0]["mean"]
        print(f"  {method} at " + ", ".join(f"{k:g}: {v:.3f}" for k, v in line["means"].items()))
    return {line["method"]: line for line in lines}


def sized(options: Options, given: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the budget scaled, or of a size that shows nothing."""
    budget = {
        key: kind(given[key] * options.scale)
        for key, kind in (("tokens", int), ("seconds", float))
        if key in given
    }
    small = {"units": 8, "batch": 2, "steps": 16} if options.toy else {}
    return given | budget | small


def shown(lines: dict[str, Line]) -> dict[str, Any]:
    keys = ("mean", "low", "high", "rate", "means", "diverged", "budget", "tokens_per_second")
    return {name: {key: line[key] for key in keys} for name, line in lines.items()}


def clearly_above(one: Line, other: Line) -> bool:
    return bool(one["low"] > other["high"])


def copy(units: int, sparsity: float, tokens: float, **more: Any) -> dict[str, Any]:
    net = {"cell": "gru", "units": units, "sparsity": sparsity}
    return {"task": "copy", "tokens": tokens} | net | more


LOW, MIDDLE, HIGH = (1e-3, 3e-3), (3e-3, 1e-2), (3e-3, 1e-2, 2e-2)
ONLINE: dict[tuple[int, float], tuple[float, Rates]] = {
    (64, 0.9375): (1e6, {
        "snap:1": (*LOW, 1e-2), "snap:2": (*LOW, 1e-2), "rtrl": MIDDLE, "bptt": HIGH,
        "bptt:1": LOW, "uoro": LOW, "rflo": LOW,
    }),
    (64, 0.75): (3e5, {
        "snap:1": MIDDLE, "snap:2": MIDDLE, "rtrl": MIDDLE, "bptt": HIGH, "bptt:1": (3e-3,),
    }),
}  # fmt: skip
"""Tokens and rates by units and sparsity, of what claims 1 and 2 share."""


def online(options: Options, units: int, sparsity: float) -> dict[str, Line]:
    tokens, rates = ONLINE[units, sparsity]
    name = f"copy-{units}-{100 * sparsity:g}"
    return compared(options, name, rates, copy(units, sparsity, tokens))


def claim_1(options: Options) -> list[Verdict]:
    dense = compared(options, "copy-dense", {"snap:1": LOW, "uoro": LOW, "rflo": LOW},
                     copy(32, 0.0, 3e5))  # fmt: skip
    return [
        Verdict(1, f"copy online, {net}: SnAp-1 clearly longer than {other.upper()}",
                clearly_above(lines["snap:1"], lines[other]), shown(lines))
        for net, lines in (
            ("GRU-64 @ 93.75%", online(options, 64, 0.9375)), ("dense GRU-32", dense)
        )
        for other in ("uoro", "rflo")
    ]  # fmt: skip


class Frozen(GRU):
    """A GRU whose partials are never read: the gradient of its core is zero."""

    kind = dataclasses.replace(GRU.kind, map_partials=())


FIXED = 0.9


@numba.njit(cache=True)
def gru_with_fixed_leak(state, pre, new_state, d_state, d_pre):  # type: ignore[no-untyped-def]
    """Step as a GRU does, but say that ∂h'/∂h of a unit by itself were constant."""
    gru(state, pre, new_state, d_state, d_pre)
    d_state[:] = FIXED


class FixedLeak(GRU):
    """A GRU whose influence RFLO lets decay at one rate: J <- 0.9 J + I, whatever the gates do."""

    kind = dataclasses.replace(GRU.kind, update=gru_with_fixed_leak)


def lengths_with(
    options: Options, given: dict[str, Any], cell: type[GRU] = GRU, **changed: Any
) -> list[float]:
    """Return the length that each seed reaches with another kind of cell, or learner."""
    lengths = []
    for seed in options.seeds:
        run = Run(Settings(**sized(options, given), seed=seed))
        old = run.learner
        same = {"optimizer": old.optimizer, "batch": old.batch, "threads": 1}
        run.learner = OnlineLearner(
            cell.from_dense(**old.cell.to_dense(), masks=old.cell.masks()),
            old.readout, old.method, **(same | changed),
        )  # fmt: skip
        lengths.append(run.train()["length"])
    return lengths


def claim_2(options: Options) -> list[Verdict]:
    verdicts = []
    for (units, sparsity), (tokens, _) in ONLINE.items():
        net = f"copy online, GRU-{units} @ {100 * sparsity:g}%"
        lines = online(options, units, sparsity)
        mean = {name: line["mean"] for name, line in lines.items()}
        modest = lines["bptt"]["means"][MODEST]
        alone = copy(units, sparsity, tokens, method="bptt:1", rate=MODEST)
        trivial = statistics.mean(lengths_with(options, alone, Frozen))
        measured = shown(lines) | {"frozen core": {"mean": trivial, "rate": MODEST}}
        for statement, holds in (
            ("SnAp-2 above SnAp-1", mean["snap:2"] > mean["snap:1"]),
            ("SnAp-2 close to RTRL", mean["snap:2"] >= CLOSE * mean["rtrl"]),
            ("RTRL learns faster in tokens than full BPTT", mean["rtrl"] > mean["bptt"]),
            (f"RTRL the same, BPTT at rate {MODEST:g}", mean["rtrl"] > modest),
            ("SnAp-2 learns faster in tokens than full BPTT", mean["snap:2"] > mean["bptt"]),
            (f"SnAp-2 the same, BPTT at rate {MODEST:g}", mean["snap:2"] > modest),
            ("BPTT over one step stays at the trivial level", mean["bptt:1"] <= trivial + 1),
        ):
            verdicts.append(Verdict(2, f"{net}: {statement}", bool(holds), measured))
    return verdicts


def claim_3(options: Options) -> list[Verdict]:
    rates = (1e-2, 2e-2)
    order = ["bptt", "rtrl", "snap:3", "snap:2", "snap:1", "uoro"]
    lines = compared(options, "copy-sequence", dict.fromkeys(order, rates),
                     copy(32, 0.9375, 3e5, update="sequence"))  # fmt: skip
    mean = [lines[name]["mean"] for name in order]
    falling = all(a >= CLOSE * b for a, b in itertools.pairwise(mean))
    equal = CLOSE <= mean[0] / mean[1] <= 1 / CLOSE
    statement = "copy, GRU-32 @ 93.75%, updates per sequence:"
    return [
        Verdict(3, f"{statement} no method above a less biased one", falling, shown(lines)),
        Verdict(3, f"{statement} BPTT = RTRL", bool(equal), shown(lines)),
        Verdict(3, f"{statement} SnAp-1 above UORO", mean[4] > mean[5], shown(lines)),
    ]


def claim_4(options: Options) -> list[Verdict]:
    shared = {"task": "chars", "cell": "gru", "crop": True, "steps": 64, "batch": 4,
              "update": "sequence", "tokens": 1e5, "report": 10_000}  # fmt: skip
    # what SnAp-1 leaves out shows late: after 1e5 tokens all three methods are equal
    sparse = compared(options, "chars-sparse",
                      dict.fromkeys(["bptt", "snap:2", "snap:1"], (1e-2, 2e-2)),
                      shared | {"units": 128, "sparsity": 0.9375, "tokens": 1e6})  # fmt: skip
    rates = (3e-3, 1e-2, 2e-2)
    dense = compared(options, "chars-dense", dict.fromkeys(["bptt", "snap:1", "uoro"], rates),
                     shared | {"units": 64, "sparsity": 0.0})  # fmt: skip
    # as many weights: 3 · 64² recurrent ones and 3 · 64 per byte of the input
    wide = {
        units: compared(
            options, f"chars-wide-{units}", {"bptt": rates},
            shared | {"units": units, "sparsity": sparsity, "input_sparsity": 1 - 64 / units},
        )["bptt"]
        for units, sparsity in ((128, 0.75), (256, 0.9375))
    }  # fmt: skip
    widths = shown({"64": dense["bptt"]} | {str(units): line for units, line in wide.items()})
    one, two, full = (sparse[name] for name in ("snap:1", "snap:2", "bptt"))
    net = "characters, GRU-128 @ 93.75%:"
    return [
        Verdict(4, "characters, dense GRU-64: BPTT no worse than SnAp-1",
                dense["bptt"]["mean"] <= NO_WORSE * dense["snap:1"]["mean"], shown(dense)),
        Verdict(4, "characters, dense GRU-64: SnAp-1 clearly below UORO",
                clearly_above(dense["uoro"], dense["snap:1"]), shown(dense)),
        Verdict(4, f"{net} SnAp-2 clearly below SnAp-1", clearly_above(one, two), shown(sparse)),
        Verdict(4, f"{net} BPTT no worse than SnAp-2",
                full["mean"] <= NO_WORSE * two["mean"], shown(sparse)),
        *(
            Verdict(4, f"characters, equal weights: GRU-{units} no worse than dense GRU-64",
                    line["mean"] <= NO_WORSE * dense["bptt"]["mean"], widths)
            for units, line in wide.items()
        ),
    ]  # fmt: skip


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from sparsegrad import GRU, Adam, Linear, OnlineLearner, SnAp
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
steps, part = int(sys.argv[1]), int(sys.argv[2])
learner = OnlineLearner(GRU(2, 8, sparsity=0.5), Linear(1), SnAp(2), Adam(1e-3))
rng = np.random.default_rng(0)
xs = rng.standard_normal((part, 1, 2)).astype("float32")
targets = xs[:, :, :1].copy()
for _ in range(2):
    learner.run(xs, targets)
first = resident()
for _ in range(steps // part):
    learner.run(xs, targets)
print(first, resident(), learner.steps)
"""


def claim_5(options: Options) -> list[Verdict]:
    steps = 2 * GROWTH if options.toy else STREAM_STEPS  # a byte a step would show
    done = subprocess.run(
        [sys.executable, "-P", "-c", MEMORY, str(steps), str(steps // 100)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, last, made = map(int, done.stdout.split())
    measured = {"bytes_at_start": first, "bytes_at_end": last, "steps": made}
    statement = f"memory is flat over a stream of {steps:,} steps"
    return [Verdict(5, statement, last - first <= GROWTH, measured)]


def claim_6(options: Options) -> list[Verdict]:
    given = {"task": "copy", "cell": "gru", "units": 64, "sparsity": 0.75, "seconds": 20}
    lines = {
        masks: compared(
            options, f"copy-{masks}", {"snap:2": (3e-3,)}, given | {"gate_masks": masks}
        )["snap:2"]
        for masks in ("independent", "shared")
    }
    holds = lines["shared"]["mean"] >= lines["independent"]["mean"]
    statement = "shared gate masks reach at least the length of independent ones in equal time"
    return [Verdict(6, statement, holds, shown(lines))]


WINDOWS = (4, 8)
IN_TIME: Rates = {
    "snap:1": MIDDLE, "snap:1@4": MIDDLE, "snap:1@8": MIDDLE, "snap:1@16": MIDDLE,
    "snap:2": MIDDLE, "snap:2@8": MIDDLE, "rtrl@16": MIDDLE, "bptt:4": MIDDLE, "bptt:8": MIDDLE,
    "bptt:16": MIDDLE, "bptt": HIGH,
}  # fmt: skip


def claim_7(options: Options) -> list[Verdict]:
    net = "copy, GRU-64 @ 93.75%"
    words = ["snap:1", *(word for T in WINDOWS for word in (f"bptt:{T}", f"snap:1@{T}"))]
    lines = compared(options, "copy-windows", dict.fromkeys(words, (MODEST,)),
                     copy(64, 0.9375, 2.25e6))  # fmt: skip
    verdicts = [
        Verdict(7, f"{net}: SnAp-1 with windows of {T} longer than {name}",
                lines[f"snap:1@{T}"]["mean"] > lines[word]["mean"], shown(lines))
        for T in WINDOWS
        for name, word in ((f"BPTT over {T} steps", f"bptt:{T}"), ("without", "snap:1"))
    ]  # fmt: skip
    rates = {word: IN_TIME[word] for word in words} if options.toy else IN_TIME
    given = {"task": "copy", "cell": "gru", "units": 64, "sparsity": 0.9375, "seconds": 60}
    lines = compared(options, "copy-windows-time", rates, given)
    longest = max(lines.values(), key=lambda line: line["mean"])
    statement = f"{net}, equal time: one with windows and an influence copies longest"
    measured = {"longest": longest["method"]} | shown(lines)
    return [*verdicts, Verdict(7, statement, "@" in longest["method"], measured)]


WHY_TOKENS = 3e5
WHY_RATES: Rates = {"rtrl": (3e-3, 5e-3, 1e-2), "bptt": (3e-3, 1e-2, 2e-2, 3e-2)}


def lengths_without_staleness(options: Options, given: dict[str, Any]) -> list[float]:
    """Return the length that each seed reaches online, each gradient exact at the weights of now.

    At every step BPTT goes from that step's loss alone back to the start of its sequence: what
    RTRL gives, but for what J still holds of the weights of earlier steps.
    """
    lengths = []
    for seed in options.seeds:
        run = Run(Settings(**sized(options, given), method="bptt", seed=seed))
        while run.progress.tokens < (run.settings.tokens or 0):
            drawn = run.task.draw()
            loss = 0.0
            for end in range(1, len(drawn.xs) + 1):
                xs, targets, weights, resets = (array[:end] for array in drawn)
                last = np.zeros_like(weights)
                last[-1] = weights[-1]
                loss += float(run.learner.run(xs, targets, last, resets).sum())
            run.task.hear(loss * run.learner.batch / drawn.weights.sum())
            run.progress.tokens += drawn.weights.size
        lengths.append(run.task.report(0.0)["length"])
    return lengths


def agreement(options: Options, given: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Return how far the gradients of a sequence's steps agree, once a net has learned for a while.

    |Σ_t g_t|² over Σ_t |g_t|², the mean over 20 sequences, for each seed; g_t is the gradient of
    one scored step's loss. Without any agreement it is 1; were all equal, it would be the number of
    these steps, which comes second, a mean for each seed as well.
    """
    ratios, numbers = [], []
    for seed in options.seeds:
        run = Run(Settings(**sized(options, given), seed=seed))
        run.train()
        found, scored = [], []
        for _ in range(20):
            drawn, grads = run.task.draw(), []
            for t in np.flatnonzero(drawn.weights.any(axis=1)):
                alone = np.zeros_like(drawn.weights)
                alone[t] = drawn.weights[t]
                _, grad = run.learner.gradient(drawn.xs, drawn.targets, alone)
                grads.append(np.concatenate([
                    values.ravel() for name, values in grad.items() if "readout" not in name
                ]))  # fmt: skip
            found.append(np.square(np.sum(grads, 0)).sum() / np.square(grads).sum())
            scored.append(len(grads))
        ratios.append(float(np.mean(found)))
        numbers.append(float(np.mean(scored)))
    return ratios, numbers


def why(options: Options) -> None:
    """Print what lies behind the answers on RFLO, BPTT over one step, SnAp-2 and RTRL, and BPTT."""
    tokens = ONLINE[64, 0.9375][0]

    def show(name: str, lengths: list[float]) -> None:
        print(f"{name}: {statistics.mean(lengths):.3f}, {lengths}", flush=True)

    for rate in LOW:
        given = copy(64, 0.9375, tokens, method="rflo", rate=rate)
        show(f"rflo, leak fixed at {FIXED:g}, {tokens:g} tokens, rate {rate:g}",
             lengths_with(options, given, FixedLeak))  # fmt: skip
    given = copy(64, 0.75, WHY_TOKENS, method="bptt:1", rate=MODEST, hidden=64)
    show("frozen core, a hidden layer of 64 in its readout, GRU-64 @ 75%",
         lengths_with(options, given, Frozen))  # fmt: skip
    compared(options, "copy-why-reach", {"snap:3": MIDDLE}, copy(64, 0.9375, tokens))
    compared(options, "copy-why", WHY_RATES, copy(64, 0.9375, WHY_TOKENS))
    for rate in HIGH:
        given = copy(64, 0.9375, WHY_TOKENS, rate=rate)
        show(f"  as rtrl, J made anew from its sequence's start at every step, rate {rate:g}",
             lengths_without_staleness(options, given))  # fmt: skip
    given = copy(64, 0.9375, WHY_TOKENS, method="rtrl", rate=MODEST)
    show("  rtrl, beta1 0.99, beta2 0.9999, rate 0.003",
         lengths_with(options, given, optimizer=Adam(MODEST, 0.99, 0.9999)))  # fmt: skip
    for every, rate in ((4, MODEST), (4, 2 * MODEST), (16, MODEST), (16, 4 * MODEST)):
        given = copy(64, 0.9375, WHY_TOKENS, method="rtrl", rate=rate)
        show(f"  rtrl, an update every {every} steps, rate {rate:g}",
             lengths_with(options, given, update_every=every))  # fmt: skip
    for batch in (16, 128):  # as many updates with either, half of those above
        given = copy(64, 0.9375, WHY_TOKENS * batch / 32, method="bptt", rate=1e-2, batch=batch)
        ratios, numbers = agreement(options, given)
        show(f"  agreement of the gradients of a sequence's steps, batch {batch}", ratios)
        show("    where equal ones would have", numbers)


CLAIMS: dict[int, Callable[[Options], list[Verdict]]] = {
    1: claim_1, 2: claim_2, 3: claim_3, 4: claim_4, 5: claim_5, 6: claim_6, 7: claim_7,
}  # fmt: skip
IMPORTANT_FIRST = [2, 1, 3, 4, 7, 6, 5]


def parse() -> tuple[list[int], bool, Options]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("claims", nargs="*", type=int, metavar="CLAIM",
        help="(default: all, the most important first)")  # fmt: skip
    add("--scale", type=float, default=1.0, help="factor of all budgets (default: 1)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(default: 0 1 2)")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="(default: one per core)")
    add("--out", type=Path, required=True, help="keep runs and results there")
    add("--toy", action="store_true", help="run it all at a size that shows nothing")
    add("--why", action="store_true",
        help="instead of claims: what lies behind four answers of 1 and 2")  # fmt: skip
    given = parser.parse_args()
    if unknown := set(given.claims) - set(CLAIMS):
        parser.error(f"claims must lie in {sorted(CLAIMS)}, got {sorted(unknown)}")
    if len(given.seeds) < 3 and not given.toy:
        parser.error(f"a claim must have at least 3 seeds, got {len(given.seeds)}")
    options = Options(given.out, given.scale, tuple(given.seeds), given.jobs, given.toy)
    return given.claims or IMPORTANT_FIRST, given.why, options


def main() -> None:
    claims, reasons, options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if reasons:
        return why(options)
    path = options.out / "claims.json"
    kept = json.loads(path.read_bytes())["claims"] if path.exists() else []
    for number in claims:
        verdicts = CLAIMS[number](options)
        kept = [row for row in kept if row["claim"] != number]
        for verdict in verdicts:
            print(f"{'yes' if verdict.holds else 'no ':3}  {verdict.claim}  {verdict.statement}",
                  flush=True)  # fmt: skip
            kept.append(vars(verdict) | {"seeds": len(options.seeds)})
        content = {"toy": options.toy, "claims": sorted(kept, key=lambda row: row["claim"])}
        write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
