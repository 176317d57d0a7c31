"""Comparisons: methods side by side, and gradients along one trajectory."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numba
import numpy as np
import pytest
from command_line import run

from sparsegrad.learning.chunk import check_chunk
from sparsegrad.methods import RTRL, SnAp
from sparsegrad.registry import parse_method
from sparsegrad.runs.alignment import Follower, compare_gradients
from sparsegrad.runs.comparison import best_rates, curve, results, table
from sparsegrad.runs.comparison import plan as plan_runs
from sparsegrad.runs.execution import _reason, run_all
from sparsegrad.runs.folder import Folder
from sparsegrad.runs.run import Run
from sparsegrad.runs.settings import Settings
from sparsegrad.runs.step_cost import multiply_adds

compiled_only = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="too slow interpreted")
NET = ["--units", "8", "--sparsity", "50%", "--batch", "2"]
TINY = {"units": 8, "sparsity": 0.5, "batch": 2}


@compiled_only
def test_methods_rates_and_seeds_side_by_side(tmp_path, capsys):
    arguments = ["compare", "copy", *NET, "--methods", "rtrl,rflo", "--rates", "1e-2", "1e-6",
                 "--seeds", 0, 1, "--tokens", 1500, "--out", tmp_path]  # fmt: skip
    status, out, err = run(capsys, *arguments)
    assert status == 0
    heading, best, *_ = out.splitlines()
    assert heading.split()[:3] == ["method", "best", "rate"]
    assert best.split()[1] == "0.01"  # at 1e-6 nothing is learned
    with open(tmp_path / "compare.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["rate"], row["seed"]) for row in rows] == [
        (method, rate, seed)
        for method in ("rtrl", "rflo")
        for rate in ("0.01", "1e-06")
        for seed in ("0", "1")
    ]
    assert all(row["status"] == "finished" and int(row["tokens"]) >= 1500 for row in rows)
    content = json.loads((tmp_path / "compare.json").read_text())
    assert content["measure"] == "length"
    assert len(content["curves"]) == 8
    assert [line["runs"] for line in content["best"]] == [2, 2]
    assert (tmp_path / "compare.png").read_bytes()[:4] == b"\x89PNG"
    assert "[8/8]" in err

    stamps = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("runs/*/metrics.jsonl"))]
    again = run(capsys, *arguments)
    assert again[0] == 0
    assert again[1] == out  # nothing is run twice
    assert stamps == [
        path.stat().st_mtime_ns for path in sorted(tmp_path.glob("runs/*/metrics.jsonl"))
    ]
    status, _, err = run(capsys, *arguments, "--units", 9)
    assert status == 2
    assert "must hold runs of these settings: units is 8" in err


@compiled_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_comparison_that_was_stopped_goes_on(tmp_path, number):
    command = [sys.executable, "-m", "sparsegrad.cli", "compare", "copy", *NET, "--methods", "rflo",
               "--seeds", "0", "1", "--jobs", "1", "--tokens", "20k", "--report", "100",
               "--out", str(tmp_path)]  # fmt: skip
    first = tmp_path / "runs" / "rflo_rate-0.001_seed-0"
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (first / "metrics.jsonl").exists() or not (first / "metrics.jsonl").stat().st_size:
        time.sleep(0.01)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    if number == signal.SIGINT:
        assert child.returncode == 130, err
        assert "the same command goes on" in err
    for _ in range(3000):  # a run whose parent was killed ends by itself
        if "interrupted; go on" in (first / "log.txt").read_text():
            break
        time.sleep(0.01)
    stopped = json.loads((first / "summary.json").read_text())
    assert stopped["status"] == "interrupted"
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    tokens = [line["tokens"] for line in lines]
    assert tokens == sorted(set(tokens))
    assert tokens[-1] >= 20_000


def test_the_best_rate_is_chosen_over_the_seeds():
    def row(rate, seed, value, status="finished"):
        return {"method": "a", "rate": rate, "seed": seed, "value": value, "status": status,
                "tokens": 5, "tokens_per_second": 10.0}  # fmt: skip

    rows = [row(1, 0, 3.0), row(1, 1, 5.0), row(2, 0, 9.0), row(2, 1, 1.0, "diverged")]
    (higher,) = best_rates(rows, higher_is_better=True)
    assert (higher["rate"], higher["mean"], higher["diverged"]) == (2, 5.0, 1)
    (lower,) = best_rates(rows, higher_is_better=False)
    assert (lower["rate"], lower["mean"], lower["low"], lower["high"]) == (1, 4.0, 3.0, 5.0)
    assert lower["std"] == pytest.approx(np.sqrt(2))


def test_what_cannot_be_compared_is_said_in_a_line(tmp_path, capsys):
    for arguments, message in (
        (["--methods", "snip"], "method must be one of"),
        (["--methods", "rflo", "--rates", "x"], "rate must be a number"),
        (["--methods", "rflo", "--seed", "1"], "--seed goes with --passive"),
        (["--methods", "rflo", "--jobs", "0"], "jobs must be a whole number"),
        (["--methods", "bptt", "--passive"], "must have methods that go forward in time"),
        (["--methods", "rflo", "--every", "2"], "--every goes with --passive"),
        (["--methods", "rflo", "--passive", "--seeds", "1"], "--seeds goes without --passive; nam"),
        ([], "required: --methods"),
    ):
        status, _, err = run(capsys, "compare", "copy", *arguments, "--out", tmp_path)
        assert status == 2
        assert message in err
        assert err.count("\n") == 1


def test_a_run_that_another_process_holds_is_told_and_the_others_run(tmp_path, capsys):
    arguments = ["compare", "copy", *NET, "--methods", "rflo", "--seeds", 0, 1, "--tokens", 100,
                 "--out", tmp_path]  # fmt: skip
    busy = tmp_path / "runs" / "rflo_rate-0.001_seed-0"
    plan_runs({"task": "copy", **TINY, "tokens": 100}, ["rflo"], [0.001], [0, 1], tmp_path)
    held = Folder(busy)
    (busy / "log.txt").write_text("64 tokens\n")
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert "2 runs to go" in err
    assert f"sparsegrad: {busy.name}: another run is writing into {busy}" in err
    assert not (busy / "summary.json").exists()
    del held
    status, out, err = run(capsys, *arguments)
    assert status == 0
    assert "1 runs to go" in err
    assert out.splitlines()[1].split()[-3] == "2"  # both are in the table


def test_why_a_run_failed(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("64 tokens\nsparsegrad: no space\n128 tokens\n")
    ended = {code: subprocess.Popen(["sh", "-c", code]) for code in ("exit 2", "kill -9 $$")}
    for child in ended.values():
        child.wait()
    assert _reason(ended["exit 2"], log) == "no space"
    assert _reason(ended["kill -9 $$"], log) == "ended by SIGKILL"


def test_a_run_without_reports_has_a_row(tmp_path):
    entries = plan_runs({"task": "copy", **TINY}, ["rflo"], [0.1], [0], tmp_path)
    (row,) = results(entries, "length")
    assert (row["status"], row["tokens"], row["value"]) == ("unfinished", 0, None)
    (line,) = best_rates([row], higher_is_better=False)
    assert (line["runs"], line["mean"]) == (0, np.inf)


# what counts


def made(tmp_path, tokens, **more):
    """A comparison of two runs, run in this process."""
    entries = plan_runs(
        {"task": "copy", **TINY, **more, **tokens}, ["rflo"], [0.1], [0, 1], tmp_path
    )
    for entry in entries:
        if not entry.done:
            Run(entry.settings, Folder(entry.path)).train()
    return entries


def test_runs_of_a_larger_budget_are_cut_at_the_one_that_is_asked_for(tmp_path):
    made(tmp_path, {"tokens": 600}, report=30)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    entries = made(tmp_path, {"tokens": 200}, report=30)
    assert all(entry.done for entry in entries)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    rows = results(entries, "length")
    for row, entry in zip(rows, entries, strict=True):
        assert (row["status"], row["value"] is not None) == ("finished", True)
        assert 170 <= row["tokens"] <= 200
        assert row["tokens"] == curve(entry, "length")[0][-1]
    (line,) = best_rates(rows, higher_is_better=True)
    assert line["tokens"][1] <= 200
    assert "tokens" in table([line], "length").splitlines()[0].split()
    whole = made(tmp_path, {"tokens": 600}, report=30)
    assert all(row["tokens"] >= 600 for row in results(whole, "length"))
    more = made(tmp_path, {"tokens": 700}, report=30)  # gone on with
    assert all(row["tokens"] >= 700 for row in results(more, "length"))


def test_a_budget_before_the_first_report_or_of_another_kind_is_refused(tmp_path):
    made(tmp_path, {"tokens": 600}, report=300)
    with pytest.raises(ValueError, match="must hold runs with a report within the budget"):
        made(tmp_path, {"tokens": 100}, report=300)
    with pytest.raises(ValueError, match="must hold runs with a budget of the same kind: tokens"):
        made(tmp_path, {"seconds": 1.0}, report=300)


def test_a_run_that_diverged_past_the_budget_had_not_within_it(tmp_path):
    (entry, _) = made(tmp_path, {"tokens": 600}, report=30)
    summary = entry.summary | {"status": "diverged", "reason": "…"}
    (entry.path / "summary.json").write_text(json.dumps(summary))
    (early, _) = plan_runs({"task": "copy", **TINY, "tokens": 200, "report": 30}, ["rflo"], [0.1],
                           [0, 1], tmp_path)  # fmt: skip
    assert early.status == "finished"
    assert entry.done


def test_a_failed_run_is_no_number_in_the_table():
    def row(method, status, value, seed=0):
        return {"method": method, "rate": 1, "seed": seed, "value": value, "status": status,
                "tokens": 5, "tokens_per_second": None}  # fmt: skip

    for higher in (True, False):
        rows = [row("good", "finished", 0.5), row("good", "unfinished", 9.0, 1),
                row("failed", "unfinished", None), row("stopped", "interrupted", 7.0)]  # fmt: skip
        lines = best_rates(rows, higher)
        assert lines[0]["method"] == "good"
        good, *bad = table(lines, "x").splitlines()[1:]
        assert good.split()[2] == "0.500"
        assert good.split()[-3] == "1"
        for text in bad:
            assert text.split()[2:] == ["-"] * 5 + ["0", "0", "-"]


@compiled_only
def test_code_in_the_current_folder_is_not_run(tmp_path):
    here, out = tmp_path / "here", tmp_path / "out"
    here.mkdir()
    for name in ("json.py", "numpy.py", "signal.py"):
        (here / name).write_text("raise SystemExit('code of the current folder was run')\n")
    (here / "sparsegrad").mkdir()  # as in a clone
    (here / "sparsegrad" / "__init__.py").write_text("raise SystemExit('a clone was imported')\n")
    entries = plan_runs({"task": "copy", **TINY, "tokens": 60}, ["rflo"], [0.1], [0], out)
    old = os.getcwd()
    os.chdir(here)
    try:
        errors, stopped = run_all(entries, 1, lambda *told: None)
    finally:
        os.chdir(old)
    assert (errors, stopped) == ([], False)
    assert entries[0].done


def test_nothing_to_compare_is_said_in_a_line(tmp_path, capsys):
    for arguments in (
        ["--methods", ""], ["--methods", ","], ["--methods", "rflo", "--rates", ","],
        ["--methods", "rflo", "--seeds", ""], ["--methods", "", "--passive"],
    ):  # fmt: skip
        status, _, err = run(capsys, "compare", "copy", *arguments, "--out", tmp_path / "new")
        assert status == 2
        assert "must name at least one value, got none" in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("lie", ['{"status": 3}', '{"status": "finished"}', "[]", "{", "{}"])
def test_a_summary_that_lies_names_its_file(tmp_path, lie):
    (entry, _) = made(tmp_path, {"tokens": 60})
    path = entry.path / "summary.json"
    path.write_text(lie)
    if lie == "{}":
        assert not entry.done
        return
    with pytest.raises(ValueError, match=str(path)):
        results([entry], "length")


def test_a_comparison_goes_into_no_folder_of_another_program(tmp_path):
    for name in ("compare.csv", "runs/events.out", "runs/rflo_rate-0.1_seed-0/config.json",
                 "runs/rflo_rate-0.1_seed-0/log.txt", "thesis.tex"):  # fmt: skip
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text('{"model": 1}')
        with pytest.raises(ValueError, match="must be empty or hold what sparsegrad wrote"):
            made(folder, {"tokens": 60})
        assert [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()] == [
            name
        ]


# along one trajectory


def passive(methods, cell="gru", **more):
    settings = {**TINY, "tokens": 120, "dtype": "float64", "report": 60, "cell": cell, **more}
    return compare_gradients(Settings("copy", **{"method": "rtrl", **settings}), methods)


def whole(rows, method, key):
    return [row[key] for row in rows if (row["method"], row["tensor"]) == (method, "all")]


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_estimates_are_as_far_from_exact_as_they_must_be(cell):
    rows = passive(["rtrl", "snap:1", "snap:9", "uoro", "rflo"], cell)
    assert whole(rows, "rtrl", "cosine") == pytest.approx([1, 1])
    assert whole(rows, "snap:9", "cosine") == pytest.approx([1, 1])  # saturated
    assert whole(rows, "snap:9", "norm_ratio") == pytest.approx([1, 1])
    assert whole(rows, "snap:9", "dropped_mass") == pytest.approx([0, 0], abs=1e-12)
    assert all(0.3 < cosine < 0.9999 for cosine in whole(rows, "snap:1", "cosine"))
    assert np.mean(whole(rows, "uoro", "cosine")) < np.mean(whole(rows, "snap:1", "cosine"))
    assert np.mean(whole(rows, "snap:1", "dropped_mass")) > 1e-3
    assert {row["tensor"] for row in rows} >= {"all", "weight_hh", "weight_ih", "bias_hh"}


def test_followers_change_nothing():
    settings = Settings("copy", **TINY, tokens=100, method="snap:1", dtype="float64")
    alone = passive(["rtrl"], method="snap:1")
    beside = passive(["snap:2", "rflo", "rtrl", "uoro"], method="snap:1")
    assert settings.make_task().length == 1
    assert whole(alone, "rtrl", "steps") == whole(beside, "rtrl", "steps")
    again = passive(["snap:2"], method="snap:1")
    assert whole(again, "snap:2", "cosine") == whole(beside, "snap:2", "cosine")


@pytest.mark.parametrize(("cell", "n"), [("gru", 1), ("lstm", 2), ("rnn", 2)])
def test_the_bound_holds_at_every_step(cell, n):
    settings = Settings("copy", **{**TINY, "sparsity": 0.8}, cell=cell, dtype="float64", rate=0.03)
    task = settings.make_task()
    task.length = 6
    learner = settings.make_learner(task)
    exact, follower = Follower(learner, RTRL(), 1), Follower(learner, SnAp(n), 1)
    tight = 0
    for _ in range(3):
        drawn = task.draw()
        for t in range(len(drawn.xs)):
            one = tuple(array[t : t + 1] for array in drawn)
            chunk = check_chunk(learner.cell, learner.readout, learner.batch, *one)
            exact.step(chunk)
            follower.step(chunk)
            error = exact._influence() - follower._influence()
            size = float(np.linalg.norm(error.data))
            assert size <= follower.bound * (1 + 1e-9) + 1e-12
            tight += 0 < follower.bound < 3 * size
            learner.run(*one)
    assert tight > 0  # and it is no bound of a million


@compiled_only  # NumPy would warn of the overflow
def test_a_trajectory_that_diverges_is_said_in_a_line(tmp_path, capsys):
    np.save(tmp_path / "data.npy", np.full((100, 2), 100, "float32"))
    status, _, err = run(
        capsys, "compare", "stream", "--passive", "--data", tmp_path / "data.npy", "--methods",
        "rflo", "--method", "rflo", "--optimizer", "sgd", "--rate", "1e9", "--units", 4,
        "--sparsity", 0, "--scale", "none", "--out", tmp_path / "out",
    )  # fmt: skip
    assert status == 2
    assert "the run diverged: " in err
    assert err.count("\n") == 1


def test_gradients_of_windows_are_compared_window_by_window():
    """Windows of exact RTRL are exact along frozen weights; those of SnAp-1 lie above its parts."""
    names = ["rtrl@2", "snap:1", "snap:1@2", "bptt:2", "bptt:2@1", "bptt:40@1"]
    rows = passive(names, rate=1e-30)
    mean = {
        name: np.mean([r["cosine"] for r in rows if (r["method"], r["tensor"]) == (name, "all")])
        for name in names
    }
    assert mean["bptt:40@1"] > 1 - 1e-9  # it rolls over all of a sequence
    assert 0.5 < mean["bptt:2@1"] < mean["bptt:40@1"]
    assert mean["rtrl@2"] > 1 - 1e-9
    assert max(mean["snap:1"], mean["bptt:2"]) < mean["snap:1@2"]


@compiled_only
def test_passive_leaves_its_files(tmp_path, capsys):
    status, out, _ = run(capsys, "compare", "copy", "--passive", *NET, "--methods", "snap:1,uoro",
                         "--tokens", 200, "--every", 2, "--out", tmp_path)  # fmt: skip
    assert status == 0
    assert out.splitlines()[0].split()[:2] == ["method", "cosine"]
    assert out.splitlines()[0].split()[-1] == "multiply-adds"
    found = {"passive.csv", "passive.json", "passive.png", "pareto.png"}
    assert found <= set(os.listdir(tmp_path))
    rows = json.loads((tmp_path / "passive.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"snap:1", "uoro"}


def test_every_method_has_its_cost():
    names = ["snap:1", "snap:1@4", "uoro@4", "rflo", "bptt:4", "rtrl@4"]
    rows, settings = passive(names), Settings("copy", **TINY, method="rtrl")
    learner = settings.make_learner(settings.make_task())
    for name in names:
        expected = multiply_adds(parse_method(name, 1), learner.cell)
        assert set(whole(rows, name, "multiply_adds")) == {expected}
    assert all("multiply_adds" not in row for row in rows if row["tensor"] != "all")


def test_the_front_is_nobody_cheaper_and_no_worse():
    pytest.importorskip("matplotlib")
    from sparsegrad.figures.pareto import pareto_front

    places = {"a": (1, 0.5), "b": (2, 0.7), "c": (3, 0.1), "d": (3, 0.2), "e": (9, 0.1)}
    assert pareto_front(places) == ["a", "c"]
    assert pareto_front({"twin": (1, 0.5), "other": (1, 0.5)}) == ["twin"]
    rng = np.random.default_rng(0)
    many = {str(k): tuple(rng.random(2)) for k in range(60)}
    front = pareto_front(many)
    for name, (cost, error) in many.items():
        better = [o for o, (c, e) in many.items() if c <= cost and e <= error and o != name]
        assert (name in front) == (not better)


def test_names_in_the_picture_cover_neither_points_nor_each_other(tmp_path, monkeypatch):
    """As drawn: boxes of the text itself, beside the points of a crowded picture."""
    pytest.importorskip("matplotlib")
    from sparsegrad.figures import pareto

    costs = {"snap:1": 7e3, "rflo": 7e3, "bptt:4": 7e3, "bptt:16": 7e3, "bptt:64": 7e3,
             "snap:1@4": 11e3, "snap:1@16": 10e3, "rflo@8": 10e3, "snap:2": 1.4e5,
             "snap:2@16": 1.2e5, "rtrl": 2e6, "rtrl@64": 4e5}  # fmt: skip
    cosines = [0.84, 0.838, 0.9, 0.97, 0.986, 0.964, 0.99, 0.977, 0.963, 0.997, 1.0, 1.0]
    rows = [
        {"method": name, "tensor": "all", "cosine": cosine, "multiply_adds": cost}
        for (name, cost), cosine in zip(costs.items(), cosines, strict=True)
    ]
    kept = []
    monkeypatch.setattr(pareto, "write_picture", lambda figure, path: kept.append(figure))
    pareto.draw_pareto(rows, "a net", tmp_path / "pareto.png")
    (figure,) = kept
    figure.draw_without_rendering()
    axes = figure.axes[0]
    texts = [text for text in axes.texts if text.get_text() in costs]
    assert len(texts) == len(costs)
    boxes = [text.get_window_extent() for text in texts]
    for box, other in itertools.combinations(boxes, 2):
        assert not box.overlaps(other)
    for line in axes.lines[1:]:
        at = axes.transData.transform(line.get_xydata()[0])
        assert not any(box.contains(*at) for box in boxes)
    for box in boxes:
        assert axes.bbox.x0 <= box.x0
        assert box.x1 <= axes.bbox.x1


# the paper's claims


CLAIMS = Path(__file__).parent.parent / "perf" / "claims.py"


def reached(task, measure, method, rate, **more):
    """Return what three seeds reach."""
    return [
        Run(Settings(task, seed=seed, method=method, rate=rate, **more)).train()[measure]
        for seed in range(3)
    ]


def copied(method, rate, **more):
    net = {"units": 16, "sparsity": 0.75, "tokens": 60_000} | more
    return reached("copy", "length", method, rate, **net)


@compiled_only
def test_online_the_less_biased_gradient_copies_longer_strings():
    exact, diagonal = copied("rtrl", 0.01), copied("snap:1", 0.01)
    random, immediate = copied("uoro", 0.003), copied("bptt:1", 0.01)
    assert np.mean(exact) >= np.mean(diagonal) + 0.5
    assert np.mean(copied("snap:2", 0.01)) >= np.mean(diagonal) + 0.5
    assert min(diagonal) > max(random)
    assert min(diagonal) > max(immediate)


@compiled_only
def test_with_an_update_per_sequence_rtrl_is_bptt():
    net = {"update": "sequence", "dtype": "float64", "tokens": 20_000}
    lengths = copied("bptt", 0.02, **net)
    assert lengths == copied("rtrl", 0.02, **net)
    assert min(lengths) > 2  # they learn


@compiled_only
def test_with_an_update_per_sequence_the_order_is_that_of_bias():
    lengths = [
        np.mean(copied(method, 0.02, update="sequence", tokens=100_000))
        for method in ("rtrl", "snap:2", "snap:1", "uoro")
    ]
    assert all(one >= other + 0.5 for one, other in itertools.pairwise(lengths))


def bits(method, **more):
    net = {"cell": "rnn", "units": 32, "sparsity": 0.9, "crop": True, "steps": 32, "batch": 4,
           "update": "sequence", "tokens": 200_000, "report": 200_000} | more  # fmt: skip
    return reached("chars", "held_out_bits_per_character", method, 0.01, **net)


@compiled_only
def test_on_characters_snap_2_is_between_snap_1_and_bptt():
    full, two, one, random = map(bits, ("bptt", "snap:2", "snap:1", "uoro"))
    assert np.mean(full) <= 1.01 * np.mean(two)
    assert np.mean(two) <= np.mean(one) - 0.02
    assert max(one) < min(random) - 0.1


@compiled_only
def test_wider_and_sparser_at_as_many_weights_is_no_worse():
    net = {"cell": "gru", "tokens": 100_000}
    dense = bits("bptt", units=32, sparsity=0, **net)
    wide = bits("bptt", units=64, sparsity=0.75, input_sparsity=0.5, **net)
    assert np.mean(wide) <= 1.01 * np.mean(dense)


@compiled_only
def test_shared_gate_masks_copy_as_long_a_string_for_a_fraction_of_the_work():
    net = {"units": 64, "sparsity": 0.75}
    masks = ("independent", "shared")
    independent, shared = (
        Run(Settings("copy", gate_masks=how, **net)).learner._engine.pattern.cost().multiply_adds
        for how in masks
    )
    assert 3 * shared < independent
    apart, together = (np.mean(copied("snap:2", 0.01, gate_masks=how)) for how in masks)
    assert together >= 0.9 * apart


@compiled_only
@pytest.mark.skipif(not CLAIMS.is_file(), reason="perf/ is not here")
def test_claims_run_at_toy_size(tmp_path):
    def claims(*numbers):
        return subprocess.run(
            [sys.executable, CLAIMS, *numbers, "--toy", "--scale", "1e-3", "--seeds", "0",
             "--out", tmp_path],
            capture_output=True, text=True,
        )  # fmt: skip

    done = claims("2", "5")
    assert done.returncode == 0, done.stderr
    decided = [line for line in done.stdout.splitlines() if line[:3] in ("yes", "no ")]
    assert [line.split()[1] for line in decided] == ["2"] * 14 + ["5"]
    assert claims("6", "7").returncode == 0
    content = json.loads((tmp_path / "claims.json").read_text())
    assert [row["claim"] for row in content["claims"]] == [2] * 14 + [5, 6] + [7] * 5
    assert next(row["holds"] for row in content["claims"] if row["claim"] == 5)
    assert all(isinstance(row["holds"], bool) for row in content["claims"])
    reasons = claims("--why")
    assert reasons.returncode == 0, reasons.stderr
    assert "leak fixed at 0.9" in reasons.stdout
    assert "an update every 4" in reasons.stdout
    assert "J made anew" in reasons.stdout
    assert "agreement of the gradients" in reasons.stdout
    refused = claims("8")
    assert refused.returncode == 2
    assert "claims must lie in" in refused.stderr


def test_names_of_lines_do_not_touch():
    pytest.importorskip("matplotlib")
    from sparsegrad.figures.curves import _apart

    places = [0.5, 0.1, 0.52, 0.5, 0.9]
    moved = _apart(places, 0.05)
    assert np.diff(sorted(moved)).min() >= 0.05 - 1e-12
    assert np.argsort(moved, kind="stable").tolist() == np.argsort(places, kind="stable").tolist()
    assert [moved[1], moved[4]] == pytest.approx([0.1, 0.9])  # the free ones stay
    assert np.mean(moved) == pytest.approx(np.mean(places))
    assert _apart([], 0.05) == []
