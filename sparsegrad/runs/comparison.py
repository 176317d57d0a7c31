"""The same budget for several methods, rates and seeds, side by side: their runs and results.

Every run has a folder of its own. Where a comparison was stopped, the same command does the runs
that are left, and resumes those that were under way; `sparsegrad.runs.execution` runs them.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsegrad.runs.folder import FILES, METRICS, claim, marked, read_metrics
from sparsegrad.runs.run import DIVERGED, FINISHED
from sparsegrad.runs.settings import CHANGEABLE, Settings, completed
from sparsegrad.system.atomic import write_whole
from sparsegrad.system.quantities import aligned
from sparsegrad.system.reading import read_object
from sparsegrad.system.schema import number, whole, word

KEYS = (
    "method", "rate", "seed", "status", "tokens", "seconds", "tokens_per_second", "loss", "value",
)  # fmt: skip

LOG = "log.txt"
UNFINISHED = "unfinished"
DONE = (FINISHED, DIVERGED)
"""Runs that count; what failed or was stopped is no number."""
OWN = ("compare.csv", "compare.json", "compare.png", "runs")
_SUMMARY = {"status": word(), "tokens": whole(), "seconds": number(0)}


@dataclass(frozen=True)
class Entry:
    """One run of a comparison."""

    settings: Settings
    path: Path

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The reports within the budget: a run that had a larger one is cut there."""
        lines = read_metrics(self.path / METRICS)
        if not self.cut:
            return lines
        tokens, seconds = self.settings.tokens, self.settings.seconds
        return [
            line
            for line in lines
            if (tokens is None or line["tokens"] <= tokens)
            and (seconds is None or line["seconds"] <= seconds)
        ]

    @property
    def summary(self) -> dict[str, Any]:
        """What the last process left behind, if it came to its end.

        Raises
        ------
        ValueError
            If the file is none of a run.
        """
        path = self.path / "summary.json"
        summary = read_object(path) or {}
        for name, rule in _SUMMARY.items() if summary else ():
            rule(f"{path}: {name}", summary.get(name))
        return summary

    @property
    def cut(self) -> bool:
        """Whether the run was made with a larger budget, and went past this one."""
        had = read_object(self.path / "config.json") or {}
        budget = {"tokens": self.settings.tokens, "seconds": self.settings.seconds}
        larger = any(
            type(had.get(name)) in (int, float) and most is not None and had[name] > most
            for name, most in budget.items()
        )
        return larger and self._spent

    @property
    def status(self) -> str:
        """Whether the run finished or diverged within the budget, or how it ended before."""
        status = str(self.summary.get("status", UNFINISHED))
        if self.cut or (status == FINISHED and self._spent):
            return FINISHED
        return UNFINISHED if status == FINISHED else status

    @property
    def done(self) -> bool:
        """Whether the budget is spent, or the run diverged, as it would again."""
        return self.status in DONE

    @property
    def _spent(self) -> bool:
        summary, tokens, seconds = self.summary, self.settings.tokens, self.settings.seconds
        return bool(summary) and (
            (tokens is not None and summary["tokens"] >= tokens)
            or (seconds is not None and summary["seconds"] >= seconds)
        )


def plan(
    given: dict[str, Any],
    methods: Sequence[str],
    rates: Sequence[float],
    seeds: Sequence[int],
    folder: Path,
) -> list[Entry]:
    """Return the runs of a comparison, each with its folder and its settings in it.

    Parameters
    ----------
    given : dict
        Settings that all runs share.
    methods, rates, seeds : sequences
        One run for each of their combinations.
    folder : Path
        Made where it does not exist.

    Raises
    ------
    ValueError
        If a setting is wrong, nothing is to be compared, or `folder` is another program's or holds
        runs with other settings.
    OSError
        If a file cannot be read or written.
    """
    for name, some in (("methods", methods), ("rates", rates), ("seeds", seeds)):
        if not some:
            raise ValueError(f"{name} must name at least one value, got none")
    claim(folder, ("compare.json", "runs/*/config.json"), OWN)
    entries = []
    for method in dict.fromkeys(methods):
        for rate in dict.fromkeys(rates):
            for seed in dict.fromkeys(seeds):
                own = {"method": method, "rate": rate, "seed": seed}
                settings = Settings(**{"threads": 1, **given, **own})
                name = f"{method.replace(':', '-')}_rate-{rate:g}_seed-{seed}"
                entries.append(Entry(settings, folder / "runs" / name))
    task = entries[0].settings.make_task()  # says now what is wrong with a file
    entries = [Entry(entry.settings.resolved(task), entry.path) for entry in entries]
    for entry in entries:
        _prepare(entry)
    return entries


def _prepare(entry: Entry) -> None:
    """Make the folder of a run, or look whether the run that is there is the one that is wanted."""
    claim(entry.path, ("config.json",), (*FILES, METRICS, LOG))
    wanted, path = entry.settings.as_dict(), entry.path / "config.json"
    found = read_object(path)
    if found is None:
        write_whole(path, (json.dumps(marked(wanted), indent=2) + "\n").encode())
        return
    stored = completed(found)
    for name in wanted:
        # reports are further apart where the budget was larger; the old distance stays
        if name not in (*CHANGEABLE, "report") and stored.get(name) != wanted[name]:
            raise ValueError(
                f"--out must hold runs of these settings: {name} is {stored.get(name)} in "
                f"{entry.path}, got {wanted[name]}"
            )
    for name in ("tokens", "seconds"):
        if (stored.get(name) is None) != (wanted[name] is None):
            raise ValueError(
                f"--out must hold runs with a budget of the same kind: {name} is "
                f"{stored.get(name)} in {entry.path}, got {wanted[name]}; name another folder"
            )
    if entry.cut and not entry.metrics:
        raise ValueError(
            f"--out must hold runs with a report within the budget, but {entry.path} was made with "
            "a larger one and has none so early; name another folder"
        )


def results(entries: Sequence[Entry], measure: str) -> list[dict[str, Any]]:
    """Return one row per run, with the keys `KEYS`; `value` is the measure at its end.

    Parameters
    ----------
    entries : sequence of Entry
    measure : str
        As :func:`measure_of` gives it.
    """
    rows = []
    for entry in entries:
        last: dict[str, Any] = next(iter(entry.metrics[-1:]), {})
        seconds = last.get("seconds")
        rows.append({
            "method": entry.settings.method,
            "rate": entry.settings.rate,
            "seed": entry.settings.seed,
            "status": entry.status,
            "tokens": last.get("tokens", 0),
            "seconds": seconds,
            "tokens_per_second": round(last["tokens"] / seconds, 1) if seconds else None,
            "loss": last.get("loss"),
            "value": last.get(measure),
        })  # fmt: skip
    return rows


def measure_of(entries: Sequence[Entry]) -> tuple[str, bool]:
    """Return the key of the reports by which runs are compared, and whether higher is better."""
    task = entries[0].settings.make_task()
    held_out = task.held_out() is not None
    return f"held_out_{task.measure}" if held_out else task.measure, task.higher_is_better


def best_rates(rows: Sequence[dict[str, Any]], higher_is_better: bool) -> list[dict[str, Any]]:
    """Return one line per method: its best rate, and mean and spread over the seeds at it.

    A run that diverged counts with what it had reached where higher is better, else as infinite.
    One that failed or was stopped before its budget was spent does not count.

    Parameters
    ----------
    rows : sequence of dict
        Of :func:`results`.
    higher_is_better : bool

    Returns
    -------
    list of dict
        ``method``, ``rate``, ``mean``, ``std``, ``low``, ``high``, ``tokens`` (least and most),
        ``runs`` that count, ``diverged``, ``tokens_per_second``; best method first. Without a run
        that counts the numbers are the worst there are.
    """
    lines = []
    sign = 1.0 if higher_is_better else -1.0
    for method in dict.fromkeys(row["method"] for row in rows):
        at_rates = []
        for rate in dict.fromkeys(row["rate"] for row in rows):
            some = [row for row in rows if (row["method"], row["rate"]) == (method, rate)]
            if some:
                at_rates.append(_line(method, rate, some, higher_is_better))
        lines.append(max(at_rates, key=lambda line: sign * line["mean"]))
    return sorted(lines, key=lambda line: -sign * line["mean"])


def _line(
    method: str, rate: float, rows: Sequence[dict[str, Any]], higher_is_better: bool
) -> dict[str, Any]:
    worst = float("-inf" if higher_is_better else "inf")
    rows = [row for row in rows if row["status"] in DONE]
    lost = [row["status"] == DIVERGED for row in rows]
    values = [
        worst if row["value"] is None or (gone and not higher_is_better) else float(row["value"])
        for row, gone in zip(rows, lost, strict=True)
    ] or [worst]
    finite = all(map(np.isfinite, values))
    tokens = [row["tokens"] for row in rows] or [0]
    speeds = [row["tokens_per_second"] or 0 for row in rows] or [0]
    return {
        "method": method,
        "rate": rate,
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 and finite else 0.0,
        "low": min(values),
        "high": max(values),
        "tokens": [min(tokens), max(tokens)],
        "runs": len(rows),
        "diverged": sum(lost),
        "tokens_per_second": float(np.median(speeds)),
    }


def table(lines: Sequence[dict[str, Any]], measure: str) -> str:
    """Return the lines of :func:`best_rates` as a table; without a run that counts, no numbers."""
    heading = ["method", "best rate", f"{measure}: mean", "±", "lowest", "highest", "tokens",
               "runs", "diverged", "tokens/s"]  # fmt: skip
    rows = [heading]
    for line in lines:
        numbers = [f"{line[key]:.3f}" for key in ("mean", "std", "low", "high")]
        numbers.append(" to ".join(f"{tokens:,}" for tokens in dict.fromkeys(line["tokens"])))
        speed = f"{line['tokens_per_second']:,.0f}"
        if not line["runs"]:
            numbers, speed = ["-"] * len(numbers), "-"
        rows.append([line["method"], f"{line['rate']:g}", *numbers, str(line["runs"]),
                     str(line["diverged"]), speed])  # fmt: skip
    return "".join(f"{line}\n" for line in aligned(rows))


def write_results(
    folder: Path,
    entries: Sequence[Entry],
    rows: Sequence[dict[str, Any]],
    lines: Sequence[dict[str, Any]],
    measure: str,
) -> list[Path]:
    """Write compare.csv, a row per run, and compare.json, with the curves; each whole.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, KEYS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    shared = {k: v for k, v in entries[0].settings.as_dict().items() if k not in KEYS}
    curves = [
        {key: getattr(entry.settings, key) for key in ("method", "rate", "seed")}
        | {"tokens": tokens, measure: values}
        for entry in entries
        for tokens, values in [curve(entry, measure)]
    ]
    content = marked({
        "settings": shared | {"tokens": entries[0].settings.tokens},
        "measure": measure,
        "best": [{k: _finite(v) for k, v in line.items()} for line in lines],
        "runs": list(rows),
        "curves": curves,
    })  # fmt: skip
    write_whole(folder / "compare.csv", text.getvalue().encode())
    write_whole(folder / "compare.json", (json.dumps(content) + "\n").encode())
    return [folder / "compare.csv", folder / "compare.json"]


def curve(entry: Entry, measure: str) -> tuple[list[float], list[float]]:
    """Return tokens and measure of a run's reports."""
    seen = [line for line in entry.metrics if measure in line]
    return [line["tokens"] for line in seen], [line[measure] for line in seen]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
