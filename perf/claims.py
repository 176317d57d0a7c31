"""The paper's claims on this machine: a yes or no for each, from at least three seeds.

    1  copy, online: SnAp-1 reaches clearly longer strings than UORO and RFLO
    2  copy, sparse GRU, online: SnAp-2 above SnAp-1 and close to RTRL; RTRL and SnAp-2 learn faster
       in tokens than full BPTT; BPTT cut to one step stays at the trivial level
    3  copy, updates at the end of sequences: the order is that of bias
    4  characters: BPTT <= SnAp-1 well below UORO; sparse, SnAp-2 in between; wider and sparser at
       an equal number of weights is no worse
    5  memory is flat over a stream of ten million steps
    6  shared gate masks reach at least the length of independent ones in equal time

Every run is one of `sparsegrad compare`, kept under --out and gone on with when the command is
given again. Prints a line per claim as it is decided; writes claims.json. A "no" says what was
measured: whether the budget was too small for a claim shows in the runs' learning curves.

Rates are swept for each method, and the best one counts. "Clearly" means that every seed of the
one is above every seed of the other; "close" and "no worse", within a tenth.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsegrad.compare import (
    best_rates,
    measure_of,
    plan,
    results,
    run_all,
    table,
    write_results,
)
from sparsegrad.whole import write_whole

CLOSE = 0.9
TRIVIAL = 0.5
"""Part of SnAp-1's length that BPTT over one step must stay below."""
STREAM_STEPS = 10_000_000
GROWTH = 1 << 20
"""Bytes that memory may grow by over a stream: the allocator's own noise."""
Line = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What all claims share."""

    out: Path
    tokens: int
    seconds: float
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    jobs: int
    toy: bool


@dataclass(frozen=True)
class Verdict:
    """One statement, decided."""

    claim: int
    statement: str
    holds: bool
    measured: dict[str, Any]


def compared(
    options: Options, name: str, methods: Sequence[str], given: dict[str, Any]
) -> dict[str, Line]:
    """Run a comparison; return each method's line at its best rate."""
    budget = {"tokens": options.tokens} if "seconds" not in given else {}
    small = {"units": 8, "batch": 2, "steps": 16} if options.toy else {}
    folder = options.out / name
    folder.mkdir(parents=True, exist_ok=True)
    entries = plan(budget | given | small, methods, options.rates, options.seeds, folder)
    measure, higher = measure_of(entries)
    errors, stopped = run_all(entries, options.jobs, lambda entry, done, total: print(
        f"{name} [{done}/{total}] {entry.path.name}", file=sys.stderr, flush=True))  # fmt: skip
    if stopped:
        raise KeyboardInterrupt
    if errors:
        raise SystemExit("\n".join(errors))
    rows = results(entries, measure)
    lines = best_rates(rows, higher)
    write_results(folder, entries, rows, lines, measure)
    print(f"\n{name}\n{table(lines, measure)}", flush=True)
    return {line["method"]: line for line in lines}


def shown(lines: dict[str, Line]) -> dict[str, Any]:
    keys = ("mean", "low", "high", "rate", "diverged", "tokens_per_second")
    return {name: {key: line[key] for key in keys} for name, line in lines.items()}


def clearly_above(one: Line, other: Line) -> bool:
    return bool(one["low"] > other["high"])


def copy(sparsity: float, **more: Any) -> dict[str, Any]:
    return {"task": "copy", "cell": "gru", "units": 64, "sparsity": sparsity} | more


def claim_1(options: Options) -> list[Verdict]:
    lines = compared(options, "claim-1", ["snap:1", "uoro", "rflo"], copy(0.75))
    return [
        Verdict(1, f"copy online: SnAp-1 clearly longer than {other.upper()}",
                clearly_above(lines["snap:1"], lines[other]), shown(lines))
        for other in ("uoro", "rflo")
    ]  # fmt: skip


def claim_2(options: Options) -> list[Verdict]:
    verdicts = []
    for sparsity in (0.75, 0.9375):
        net = f"copy online, GRU-64 @ {100 * sparsity:g}%"
        methods = ["snap:1", "snap:2", "rtrl", "bptt", "bptt:1"]
        lines = compared(options, f"claim-2-{100 * sparsity:g}", methods, copy(sparsity))
        mean = {name: line["mean"] for name, line in lines.items()}
        for statement, holds in (
            ("SnAp-2 above SnAp-1", mean["snap:2"] > mean["snap:1"]),
            ("SnAp-2 close to RTRL", mean["snap:2"] >= CLOSE * mean["rtrl"]),
            ("RTRL learns faster in tokens than full BPTT", mean["rtrl"] > mean["bptt"]),
            ("SnAp-2 learns faster in tokens than full BPTT", mean["snap:2"] > mean["bptt"]),
            ("BPTT over one step stays at the trivial level",
             mean["bptt:1"] <= TRIVIAL * mean["snap:1"]),
        ):  # fmt: skip
            verdicts.append(Verdict(2, f"{net}: {statement}", bool(holds), shown(lines)))
    return verdicts


def claim_3(options: Options) -> list[Verdict]:
    order = ["bptt", "rtrl", "snap:3", "snap:2", "snap:1", "uoro"]
    lines = compared(options, "claim-3", order, copy(0.9375, update="sequence"))
    mean = [lines[name]["mean"] for name in order]
    falling = all(a >= CLOSE * b for a, b in itertools.pairwise(mean))
    equal = CLOSE <= mean[0] / mean[1] <= 1 / CLOSE
    above = clearly_above(lines["snap:1"], lines["uoro"])
    statement = "copy, updates per sequence:"
    return [
        Verdict(3, f"{statement} no method above a less biased one", falling, shown(lines)),
        Verdict(3, f"{statement} BPTT = RTRL", bool(equal), shown(lines)),
        Verdict(3, f"{statement} SnAp-1 clearly above UORO", above, shown(lines)),
    ]


def claim_4(options: Options) -> list[Verdict]:
    shared = {"task": "chars", "cell": "gru", "crop": True, "update": "sequence"}
    dense = compared(options, "claim-4-dense", ["bptt", "snap:1", "uoro"],
                     shared | {"units": 64, "sparsity": 0.0})  # fmt: skip
    sparse = compared(options, "claim-4-sparse", ["bptt", "snap:2", "snap:1"],
                      shared | {"units": 128, "sparsity": 0.9375})  # fmt: skip
    # recurrent weights: 3 · 64² at each; the input's grow, so they stay dense and few
    wide = {
        units: compared(options, f"claim-4-wide-{units}", ["bptt"],
                        shared | {"units": units, "sparsity": sparsity})["bptt"]
        for units, sparsity in ((64, 0.0), (128, 0.75), (256, 0.9375))
    }  # fmt: skip
    bits = {name: line["mean"] for name, line in sparse.items()}
    widths = {str(units): line for units, line in wide.items()}
    return [
        Verdict(4, "characters, dense: BPTT no worse than SnAp-1",
                dense["bptt"]["mean"] <= dense["snap:1"]["mean"], shown(dense)),
        Verdict(4, "characters, dense: SnAp-1 clearly below UORO",
                clearly_above(dense["uoro"], dense["snap:1"]), shown(dense)),
        Verdict(4, "characters, sparse: SnAp-2 between SnAp-1 and BPTT",
                bits["bptt"] <= bits["snap:2"] <= bits["snap:1"], shown(sparse)),
        Verdict(4, "characters: wider and sparser is no worse",
                CLOSE * min(wide[128]["mean"], wide[256]["mean"]) <= wide[64]["mean"],
                shown(widths)),
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
    steps = 20_000 if options.toy else STREAM_STEPS
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(steps), str(steps // 100)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, last, made = map(int, done.stdout.split())
    measured = {"bytes_at_start": first, "bytes_at_end": last, "steps": made}
    statement = f"memory is flat over a stream of {steps:,} steps"
    return [Verdict(5, statement, last - first <= GROWTH, measured)]


def claim_6(options: Options) -> list[Verdict]:
    lines = {
        masks: compared(options, f"claim-6-{masks}", ["snap:2"],
                        copy(0.9375, gate_masks=masks, seconds=options.seconds))["snap:2"]
        for masks in ("independent", "shared")
    }  # fmt: skip
    holds = lines["shared"]["mean"] >= lines["independent"]["mean"]
    statement = "shared gate masks reach at least the length of independent ones in equal time"
    return [Verdict(6, statement, holds, shown(lines))]


CLAIMS: dict[int, Callable[[Options], list[Verdict]]] = {
    1: claim_1, 2: claim_2, 3: claim_3, 4: claim_4, 5: claim_5, 6: claim_6,
}  # fmt: skip


def parse() -> tuple[list[int], Options]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("claims", nargs="*", type=int, metavar="CLAIM", help="(default: all)")
    add("--tokens", type=float, default=1e6, help="of each run (default: 1e6)")
    add("--seconds", type=float, default=300, help="of each run of claim 6 (default: 300)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(default: 0 1 2)")
    add("--rates", nargs="+", type=float, default=[1e-3, 3e-3, 1e-2])
    add("--jobs", type=int, default=os.cpu_count() or 1, help="(default: one per core)")
    add("--out", type=Path, required=True, help="keep runs and results there")
    add("--toy", action="store_true", help="run it all at a size that shows nothing")
    given = parser.parse_args()
    if unknown := set(given.claims) - set(CLAIMS):
        parser.error(f"claims must lie in {sorted(CLAIMS)}, got {sorted(unknown)}")
    if len(given.seeds) < 3 and not given.toy:
        parser.error(f"a claim must have at least 3 seeds, got {len(given.seeds)}")
    options = Options(given.out, int(given.tokens), given.seconds, tuple(given.seeds),
                      tuple(given.rates), given.jobs, given.toy)  # fmt: skip
    return given.claims or list(CLAIMS), options


def main() -> None:
    claims, options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "claims.json"
    kept = json.loads(path.read_bytes())["claims"] if path.exists() else []
    for number in claims:
        verdicts = CLAIMS[number](options)
        kept = [row for row in kept if row["claim"] != number]
        for verdict in verdicts:
            print(f"{'yes' if verdict.holds else 'no ':3}  {verdict.claim}  {verdict.statement}",
                  flush=True)  # fmt: skip
            kept.append(vars(verdict) | {
                "seeds": len(options.seeds), "tokens": options.tokens, "rates": options.rates,
            })  # fmt: skip
        content = {"toy": options.toy, "claims": sorted(kept, key=lambda row: row["claim"])}
        write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
