"""The command `sparsegrad compare`."""

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sparsegrad.cli.flags import add_command, add_flags, given_settings, split_words
from sparsegrad.cli.messages import FAILED, INTERRUPTED, complain, net
from sparsegrad.cli.messages import tell as say
from sparsegrad.cli.pages import add_html, check_html, write_html
from sparsegrad.cli.pictures import drawn
from sparsegrad.registry import EVERY, METHOD_WORDS, listed
from sparsegrad.runs.settings import Settings
from sparsegrad.system.processors import usable_processors

EXAMPLES = """examples:
  sparsegrad compare copy --methods snap:1 snap:2 rtrl uoro rflo --rates 1e-3 3e-3 --seeds 0 1 2 \\
      --tokens 1M --out compare/copy
  sparsegrad compare copy --methods snap:1 rflo --out /shared/copy --scheduler node1:8786
  sparsegrad compare copy --passive --methods snap:1 snap:2 uoro rflo --tokens 20k --out passive
  sparsegrad compare copy --passive --units 64 --sparsity 93.75% --tokens 5k --out pareto \\
      --methods rtrl rtrl@8 snap:1 snap:1@4 snap:1@16 snap:2 snap:2@8 uoro uoro@8 bptt:4 bptt:16
"""
SWEPT = ("method", "rate", "seed")


def add_compare(commands: Any) -> None:
    """Add `compare` to the command line's subparsers."""
    parser = add_command(
        commands,
        compare,
        "the same budget for several methods, rates and seeds, side by side",
        "Train with every method, rate and seed in processes side by side; each run "
        "is kept in --out and gone on with when the command is given again. With --passive: "
        "several methods along one trajectory, against the exact gradient.",
        EXAMPLES,
    )
    add = parser.add_argument
    add("--methods", nargs="+", metavar="METHOD", required=True,
        help=f"{listed(METHOD_WORDS)}; {EVERY}")  # fmt: skip
    add("--rates", nargs="+", metavar="R", help=f"learning rates (default: {Settings.rate:g})")
    add("--seeds", nargs="+", metavar="SEED", help="(default: 0 1 2)")
    add("--jobs", metavar="N", help="processes side by side (default: one per processor granted)")
    add(
        "--scheduler",
        metavar="HOST:PORT",
        help="send the runs to a Dask cluster, whose workers have --out under the same path",
    )
    add("--passive", action="store_true", help="compare gradients along one trajectory")
    add("--every", metavar="M", help="passive: steps between samples of the dropped mass "
        "(default: 1, which makes the bound of the bias a true one)")  # fmt: skip
    add_flags(parser, SWEPT)
    add("--method", metavar="METHOD", help="passive: the method that learns (default: rtrl)")
    add("--rate", metavar="R", help=f"passive: its rate (default: {Settings.rate:g})")
    add("--seed", metavar="SEED", help=f"passive: its seed (default: {Settings.seed})")
    add("--out", type=Path, metavar="DIR", required=True, help="keep runs and results there")
    add_html(parser)


def compare(arguments: argparse.Namespace) -> int:
    """Run `compare`; return the exit status."""
    given = given_settings(arguments)
    if given.get("data") == "-":
        raise ValueError("--data must be a file for several runs, got standard input")

    methods = split_words(arguments.methods)
    _check_flags(arguments)
    check_html(arguments.html)
    if arguments.passive:
        return _passive(arguments, given, methods)
    read = {
        name: [
            Settings.read({name: word}, "the command line")[name]
            for word in split_words(getattr(arguments, f"{name}s") or default)
        ]
        for name, default in (
            ("rate", [str(given.get("rate", Settings.rate))]),
            ("seed", ["0", "1", "2"]),
        )
    }
    jobs = _count("jobs", arguments.jobs, usable_processors())
    from sparsegrad.runs.comparison import best_rates, measure_of, plan, results, table
    from sparsegrad.runs.comparison import write_results as write
    from sparsegrad.runs.execution import run_all

    entries = plan(given, methods, read["rate"], read["seed"], arguments.out)
    measure, higher_is_better = measure_of(entries)

    def tell(entry: Any, done: int, total: int) -> None:
        value = next((line.get(measure) for line in entry.metrics[-1:]), None)
        shown = "" if value is None else f"{measure} {value:.4g}"
        say(f"[{done}/{total}] {entry.path.name} {entry.status} {shown}")

    with _executor(arguments.scheduler) as executor:
        if waiting := sum(not entry.done for entry in entries):
            logs = arguments.out / "runs" / "*" / "log.txt"
            where = f"{jobs} at a time" if executor is None else f"on {arguments.scheduler}"
            say(f"{waiting} runs to go, {where}; how far each is: {logs}")
        errors, stopped = run_all(entries, jobs, tell, executor)
    rows = results(entries, measure)
    lines = best_rates(rows, higher_is_better)
    print(table(lines, measure), end="", flush=True)
    written = write(arguments.out, entries, rows, lines, measure)
    written += draw_compared(arguments.out, entries, lines, measure)
    say(f"wrote {', '.join(map(str, written))}")
    paged = _page_of_runs(arguments.html, entries, rows, measure)
    for error in errors:
        complain(error)
    if stopped:
        complain("interrupted; the same command goes on with the runs that are not done")
        return INTERRUPTED
    return FAILED if errors or not paged else 0


def _executor(scheduler: str | None) -> Any:
    """Return a context with the cluster of a scheduler, or with None."""
    if scheduler is None:
        return nullcontext()
    from sparsegrad.runs.cluster import cluster

    return cluster(scheduler)


def _page_of_runs(
    path: Path | None, entries: Any, rows: list[dict[str, Any]], measure: str
) -> bool:
    """Write a page of runs: their reports drawn, a row for each."""
    swept = ("method", "rate", "seed")
    reports = [
        {name: getattr(entry.settings, name) for name in swept} | line
        for entry in entries
        for line in entry.metrics
    ]
    plot = reports, "tokens", measure, swept
    return write_html(path, net(entries[0].settings), rows, [plot], swept)


def _check_flags(arguments: argparse.Namespace) -> None:
    """Refuse a flag that would be ignored, rather than let the user believe in it."""
    passive = {"method": "--methods", "rate": "--rates", "seed": "--seeds", "every": ""}
    sweeping = {"rates": "--rate", "seeds": "--seed", "jobs": "", "scheduler": ""}
    if arguments.scheduler is not None and arguments.jobs is not None:
        raise ValueError(
            "--jobs goes without --scheduler: its cluster decides how many run at once"
        )
    for name, instead in (sweeping if arguments.passive else passive).items():
        if getattr(arguments, name) is not None:
            goes = "without" if arguments.passive else "with"
            hint = f"; name {instead} instead" if instead else ""
            raise ValueError(f"--{name} goes {goes} --passive{hint}")


def draw_compared(folder: Path, entries: Any, lines: Any, measure: str) -> list[Path]:
    """Draw compare.png, each method at its best rate; return its path, where it can be drawn."""
    from sparsegrad.runs.comparison import curve

    curves = {
        f"{line['method']}, rate {line['rate']:g}": [
            curve(entry, measure)
            for entry in entries
            if (entry.settings.method, entry.settings.rate) == (line["method"], line["rate"])
        ]
        for line in lines
    }
    settings = entries[0].settings
    updates = "online" if settings.update == "step" else "updates at the end of sequences"
    if settings.update == "step" and any(line["method"] == "bptt" for line in lines):
        updates += " (bptt: an update per sequence)"
    seeds = "one seed" if (n := lines[0]["runs"]) == 1 else f"{n} seeds: mean, lowest and highest"
    title = f"{net(settings)}, {updates}\n{seeds}; each method at its best rate"

    def draw() -> None:
        from sparsegrad.figures.curves import draw_curves

        draw_curves(curves, measure, title, folder / "compare.png")

    return [folder / "compare.png"] if drawn(draw) else []


def _passive(arguments: argparse.Namespace, given: dict[str, Any], methods: list[str]) -> int:
    from sparsegrad.runs.alignment import OWN, compare_gradients, passive_table, write_passive
    from sparsegrad.runs.folder import claim

    settings = Settings(**{"method": "rtrl", "tokens": 20_000, "threads": 1, **given})
    every = _count("every", arguments.every, 1)
    claim(arguments.out, ("passive.json",), OWN)
    try:
        rows = compare_gradients(settings, methods, every)
    except FloatingPointError as error:
        complain(f"the run diverged: {error}")
        return FAILED
    print(passive_table(rows), end="", flush=True)
    written = write_passive(arguments.out, settings, rows)
    picture = arguments.out / "passive.png"

    def draw() -> None:
        from sparsegrad.figures.curves import draw_alignment

        draw_alignment(rows, f"{net(settings)}, along a run of {settings.method}", picture)

    pareto = arguments.out / "pareto.png"

    def draw_costs() -> None:
        from sparsegrad.figures.pareto import draw_pareto

        draw_pareto(rows, f"{net(settings)}, along a run of {settings.method}", pareto)

    written += [path for path, how in ((picture, draw), (pareto, draw_costs)) if drawn(how)]
    say(f"wrote {', '.join(map(str, written))}")
    whole = [row for row in rows if row["tensor"] == "all"]
    title, line = f"{net(settings)}, along a run of {settings.method}", ("method",)
    plots = [
        (rows, "tokens", "cosine", ("method", "tensor")),
        (whole, "multiply_adds", "cosine", line, (True, False)),
    ]
    return 0 if write_html(arguments.html, title, rows, plots, ("method", "tensor")) else FAILED


def _count(name: str, word: str | None, default: int) -> int:
    if word is None:
        return default
    if not word.isdigit() or int(word) < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {word!r}")
    return int(word)
