"""The commands `sparsegrad train` and `sparsegrad compare`: their flags, and what they print."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

FAILED, INTERRUPTED = 2, 130
TRAIN_EXAMPLES = """examples:
  sparsegrad train copy --method snap:2 --rate 3e-3 --tokens 2M --out runs/copy
  sparsegrad train copy --out runs/copy --resume --tokens 4M
  sparsegrad train chars --text wiki.txt --units 256 --sparsity 98.4% --out runs/wiki
  sparsegrad train chars --crop --steps 128 --update sequence --method bptt --seconds 600
  sparsegrad train stream --data sensors.npy --targets 2 --method snap:1
  sparsegrad train copy --config run.toml --seed 3
"""
COMPARE_EXAMPLES = """examples:
  sparsegrad compare copy --methods snap:1 snap:2 rtrl uoro rflo --rates 1e-3 3e-3 --seeds 0 1 2 \\
      --tokens 1M --out compare/copy
  sparsegrad compare copy --passive --methods snap:1 snap:2 uoro rflo --tokens 20k --out passive
"""
FLAGS = (
    ("text", "FILE", "chars: a text (default: Python's own help topics)"),
    ("data", "FILE", "stream: a table, .npy or CSV, a row per time step"),
    ("targets", "N", "stream: the last N columns are targets; 0: the next row is (default: 1)"),
    ("steps", "T", "chars, stream: time steps of a draw, or of a crop (default: 128)"),
    ("cell", "CELL", "rnn, gru or lstm (default: gru)"),
    ("units", "K", "number of units (default: 64)"),
    ("sparsity", "S", "part of the weights that do not exist: 0.9375 or 93.75%% (the default)"),
    ("input-sparsity", "S", "the same for the input weights (default: as --sparsity)"),
    ("gate-masks", "HOW", "independent or shared (default: independent)"),
    ("hidden", "H", "width of a hidden layer of the readout (default: 0, none)"),
    ("dtype", "T", "float32 or float64 (default: float32)"),
    ("method", "METHOD", "snap:N, rtrl, bptt, bptt:T, uoro or rflo (default: snap:2)"),
    ("update", "WHEN", "step: the weights change after every step; or sequence (default: step)"),
    ("optimizer", "OPT", "sgd, adam or adamw (default: adam)"),
    ("rate", "R", "learning rate (default: 0.001)"),
    ("clip", "C", "largest norm of a gradient (default: 0, any)"),
    ("batch", "B", "sequences side by side (default: 16; stream: 1)"),
    ("tokens", "N", "budget, in steps of a sequence: 200k, 10M (default: 1M; stream: one pass)"),
    ("seconds", "S", "budget, in seconds"),
    ("report", "N", "tokens from report to report (default: a hundredth of the budget)"),
    ("save", "S", "seconds from checkpoint to checkpoint (default: 30)"),
    ("seed", "SEED", "of masks, weights, task and method (default: 0)"),
    ("threads", "T", "threads of a step, 0 for all; changes no number (default: 1)"),
)
NO_PICTURE = "no matplotlib, so no picture: pip install 'sparsegrad-rtrl[plot]'"
SWEPT = ("method", "rate", "seed")


def _complain(message: str) -> None:
    print(f"sparsegrad: {' '.join(message.split())}", file=sys.stderr)


def add_train(commands: Any) -> None:
    """Add `train` to the command line's subparsers."""
    parser = commands.add_parser(
        "train",
        help="train a sparse recurrent net online, resumably",
        description="Train on the copy task with its curriculum, on the characters of a text, or "
        "on a stream of your own. A folder given by --out holds config.json, metrics.jsonl, "
        "checkpoint.safetensors and the learning curve; a run that was stopped in any way goes on "
        "from there, bit for bit.",
        epilog=TRAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_flags(parser, ())
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the run there")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.set_defaults(run=train)


def add_compare(commands: Any) -> None:
    """Add `compare` to the command line's subparsers."""
    parser = commands.add_parser(
        "compare",
        help="the same budget for several methods, rates and seeds, side by side",
        description="Train with every method, rate and seed in processes side by side; each run "
        "is kept in --out and gone on with when the command is given again. With --passive: "
        "several methods along one trajectory, against the exact gradient.",
        epilog=COMPARE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--methods", nargs="+", metavar="METHOD", required=True)
    add("--rates", nargs="+", metavar="R", help="learning rates (default: 0.001)")
    add("--seeds", nargs="+", metavar="SEED", help="(default: 0 1 2)")
    add("--jobs", metavar="N", help="processes side by side (default: one per core)")
    add("--passive", action="store_true", help="compare gradients along one trajectory")
    add("--every", metavar="M", help="passive: steps between samples of the dropped mass "
        "(default: 1, which makes the bound of the bias a true one)")  # fmt: skip
    _add_flags(parser, SWEPT)
    add("--method", metavar="METHOD", help="passive: the method that learns (default: rtrl)")
    add("--rate", metavar="R", help="passive: its rate (default: 0.001)")
    add("--seed", metavar="SEED", help="passive: its seed (default: 0)")
    add("--out", type=Path, metavar="DIR", required=True, help="keep runs and results there")
    parser.set_defaults(run=compare)


def _add_flags(parser: argparse.ArgumentParser, without: tuple[str, ...]) -> None:
    parser.add_argument("task", metavar="TASK", help="copy, chars or stream")
    for name, metavar, text in FLAGS:
        if name not in without:
            parser.add_argument(f"--{name}", metavar=metavar, help=text)
    parser.add_argument("--crop", action="store_true", default=None, help="chars: random crops")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML; flags win")


def given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of a file and of the flags, which win.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read, or a setting is wrong.
    """
    from sparsegrad.runs.settings import Settings

    names = [name.replace("-", "_") for name, _, _ in FLAGS] + ["task", "crop"]
    flags = {name: getattr(arguments, name, None) for name in names}
    given = {} if arguments.config is None else Settings.from_toml(arguments.config)
    return given | Settings.read(
        {name: value for name, value in flags.items() if value is not None}, "the command line"
    )


def train(arguments: argparse.Namespace) -> int:
    """Run `train`; return the exit status."""
    given = given_settings(arguments)
    from sparsegrad.runs.run import DIVERGED, Run, StopWish, open_run
    from sparsegrad.runs.run import INTERRUPTED as STOPPED
    from sparsegrad.runs.settings import Settings
    from sparsegrad.runs.watch import Watch

    if arguments.out is not None:
        settings, folder = open_run(given, arguments.out, arguments.resume)
    elif arguments.resume:
        raise ValueError("--resume must come with --out DIR, the folder of the run")
    else:
        settings, folder = Settings(**given), None
    run = Run(settings, folder, Watch)
    before = run.progress.tokens
    if arguments.resume and not before:
        _complain("stopped before its first checkpoint, so the run begins anew")
    with StopWish() as stop:  # the run hands on to it the signal that ended it
        summary = run.train()
    if folder is not None:
        _draw_run(run, folder.path)
    if summary["status"] == DIVERGED:
        _complain(summary["reason"])
        return FAILED
    print(_summary_line(run.settings.task, summary))
    if summary["status"] == STOPPED:
        _complain(
            f"interrupted; go on with: sparsegrad train {settings.task} --out {folder.path} "
            "--resume" if folder is not None else "interrupted; nothing was kept: name an --out"
        )  # fmt: skip
        return 128 + (stop.number or 0)  # as a shell counts it
    if 0 < before == summary["tokens"]:
        _complain("the budget was spent before; go on with a larger --tokens or --seconds")
    if folder is not None:
        names = sorted(path.name for path in folder.path.iterdir() if path.name[0] != ".")
        print(f"wrote {folder.path}: {', '.join(names)}", file=sys.stderr)
    return 0


def _summary_line(task: str, summary: dict[str, Any]) -> str:
    from sparsegrad.runs.watch import words

    numbers = ", ".join(words(summary)) or "no report yet"
    return (
        f"{task} {summary['status']}: {summary['tokens']:,} tokens in {summary['seconds']:.1f} s, "
        f"{summary['tokens_per_second']:,.0f} tokens/s; {numbers}"
    )


def _draw_run(run: Any, path: Path) -> None:
    from sparsegrad.runs.folder import read_metrics

    lines = read_metrics(path / "metrics.jsonl")
    try:
        from sparsegrad.figures.curves import draw_curves
    except ImportError:
        _complain(NO_PICTURE)
        return
    settings, measure = run.settings, run.task.measure
    curves = {}
    for name in (measure, f"held_out_{measure}"):
        seen = [line for line in lines if name in line]
        if seen:
            label = settings.method if name == measure else "held out"
            curves[label] = [([x["tokens"] for x in seen], [x[name] for x in seen])]
    title = f"{_net(settings)}, {settings.method}, {settings.optimizer} {settings.rate:g}"
    draw_curves(curves, measure, title, path / "curve.png")


def compare(arguments: argparse.Namespace) -> int:
    """Run `compare`; return the exit status."""
    given = given_settings(arguments)
    from sparsegrad.runs.settings import Settings

    methods = _listed(arguments.methods)
    _check_flags(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.passive:
        return _passive(arguments, given, methods)
    read = {
        name: [
            Settings.read({name: word}, "the command line")[name]
            for word in _listed(getattr(arguments, f"{name}s") or default)
        ]
        for name, default in (
            ("rate", [str(given.get("rate", 0.001))]),
            ("seed", ["0", "1", "2"]),
        )
    }
    jobs = _count("jobs", arguments.jobs, os.cpu_count() or 1)
    from sparsegrad.runs.comparison import best_rates, measure_of, plan, results, run_all, table
    from sparsegrad.runs.comparison import write_results as write

    entries = plan(given, methods, read["rate"], read["seed"], arguments.out)
    measure, higher_is_better = measure_of(entries)

    def tell(entry: Any, done: int, total: int) -> None:
        value = next((line.get(measure) for line in entry.metrics[-1:]), None)
        shown = "" if value is None else f"{measure} {value:.4g}"
        print(f"[{done}/{total}] {entry.path.name} {entry.summary.get('status', 'failed')} {shown}",
              file=sys.stderr, flush=True)  # fmt: skip

    if waiting := sum(not entry.done for entry in entries):
        logs = arguments.out / "runs" / "*" / "log.txt"
        print(f"{waiting} runs to go, {jobs} at a time; how far each is: {logs}",
              file=sys.stderr, flush=True)  # fmt: skip
    errors, stopped = run_all(entries, jobs, tell)
    rows = results(entries, measure)
    lines = best_rates(rows, higher_is_better)
    print(table(lines, measure), end="", flush=True)
    written = write(arguments.out, entries, rows, lines, measure)
    written += draw_compared(arguments.out, entries, lines, measure)
    print(f"wrote {', '.join(map(str, written))}", file=sys.stderr)
    for error in errors:
        _complain(error)
    if stopped:
        _complain("interrupted; the same command goes on with the runs that are not done")
        return INTERRUPTED
    return FAILED if errors else 0


def _check_flags(arguments: argparse.Namespace) -> None:
    """Refuse a flag that would be ignored, rather than let the user believe in it."""
    passive = {"method": "--methods", "rate": "--rates", "seed": "--seeds", "every": ""}
    sweeping = {"rates": "--rate", "seeds": "--seed", "jobs": ""}
    for name, instead in (sweeping if arguments.passive else passive).items():
        if getattr(arguments, name) is not None:
            goes = "without" if arguments.passive else "with"
            hint = f"; name {instead} instead" if instead else ""
            raise ValueError(f"--{name} goes {goes} --passive{hint}")


def draw_compared(folder: Path, entries: Any, lines: Any, measure: str) -> list[Path]:
    """Draw compare.png, each method at its best rate; return its path, where it can be drawn."""
    from sparsegrad.runs.comparison import curve

    try:
        from sparsegrad.figures.curves import draw_curves
    except ImportError:
        _complain(NO_PICTURE)
        return []
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
    title = f"{_net(settings)}, {updates}\n{seeds}; each method at its best rate"
    draw_curves(curves, measure, title, folder / "compare.png")
    return [folder / "compare.png"]


def _passive(arguments: argparse.Namespace, given: dict[str, Any], methods: list[str]) -> int:
    from sparsegrad.runs.alignment import compare_gradients, passive_table, write_passive
    from sparsegrad.runs.settings import Settings

    settings = Settings(**{"method": "rtrl", "tokens": 20_000, "threads": 1, **given})
    every = _count("every", arguments.every, 1)
    try:
        rows = compare_gradients(settings, methods, every)
    except FloatingPointError as error:
        _complain(f"the run diverged: {error}")
        return FAILED
    print(passive_table(rows), end="", flush=True)
    written = write_passive(arguments.out, settings, rows)
    try:
        from sparsegrad.figures.curves import draw_alignment
    except ImportError:
        _complain(NO_PICTURE)
    else:
        title = f"{_net(settings)}, along a run of {settings.method}"
        draw_alignment(rows, title, arguments.out / "passive.png")
        written.append(arguments.out / "passive.png")
    print(f"wrote {', '.join(map(str, written))}", file=sys.stderr)
    return 0


def _net(settings: Any) -> str:
    return (
        f"{settings.task}, {settings.cell.upper()}, {settings.units} units "
        f"@ {100 * settings.sparsity:.4g}%, batch {settings.batch}"
    )


def _listed(words: list[str]) -> list[str]:
    return [word for item in words for word in item.split(",") if word]


def _count(name: str, word: str | None, default: int) -> int:
    if word is None:
        return default
    if not word.isdigit() or int(word) < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {word!r}")
    return int(word)
