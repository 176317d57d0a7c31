"""Masks and memory from the outside: runs whose masks change, SnAp(memory=), `sparsegrad plan`."""

import json

import numpy as np
import pytest

from sparsegrad import GRU, SGD, Linear, OnlineLearner, SnAp
from sparsegrad.cells.jacobians import dynamics_alone, immediate_pattern
from sparsegrad.cells.structure import structure
from sparsegrad.cli.main import main
from sparsegrad.learning.checkpoint import read_checkpoint
from sparsegrad.profiling.plan import plan
from sparsegrad.profiling.profile import Sweep
from sparsegrad.runs.folder import Folder, read_metrics
from sparsegrad.runs.masks import pruning, resolved_prune, resolved_rewire, rewiring
from sparsegrad.runs.run import Run
from sparsegrad.runs.settings import Settings
from sparsegrad.symbolic.pattern import reach

SETTINGS = {
    "task": "chars", "units": 16, "sparsity": 0.5, "method": "snap:1", "steps": 16, "batch": 2,
    "prune": "90%:0:300:50", "rewire": "rigl:0.2:40:250", "report": 200, "rate": 0.01,
}  # fmt: skip


def trained(folder, tokens):
    run = Run(Settings(**SETTINGS, tokens=tokens), folder)
    run.train()
    return run


def test_a_run_whose_masks_change_goes_on_bit_for_bit(tmp_path):
    whole, folder = trained(Folder(tmp_path / "whole"), 800), Folder(tmp_path / "parts")
    for tokens in (96, 250, 500, 800):  # between two changes, and right before one
        parts = trained(folder, tokens)
    one, other = (
        read_checkpoint(tmp_path / name / "checkpoint.safetensors").tensors()
        for name in ("whole", "parts")
    )
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)
    for run in (whole, parts):
        for mask in run.learner.cell.masks().values():
            if mask.ndim == 2:
                assert abs(mask.mean() - 0.1) <= 0.5 / mask.size
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    kept = ("tokens", "loss", "density")
    assert [[line[k] for k in kept] for line in lines[0]] == [
        [line[k] for k in kept] for line in lines[1]
    ]
    density = [line["density"] for line in lines[0]]
    assert density == sorted(density, reverse=True)
    assert density[0] > 0.2
    assert abs(density[-1] - 0.1) < 0.01


def test_train_draws_density_beside_the_loss(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    from sparsegrad.figures import curves

    drawn = []
    monkeypatch.setattr(curves, "write_picture", lambda figure, path: drawn.append(figure))
    flags = [f"--{k}={v}" for k, v in SETTINGS.items() if k != "task"]
    out = tmp_path / "run"
    assert main(["train", "chars", *flags, "--tokens=600", f"--out={out}"]) == 0
    assert "density 10" in capsys.readouterr().out
    config = json.loads((out / "config.json").read_text("utf-8"))
    assert (config["prune"], config["rewire"]) == ("90%:0:300:50", "rigl:0.2:40:250")
    loss, density = drawn[0].axes
    assert density.get_ylabel() == "weights that exist"
    tokens, values = density.lines[0].get_data()
    assert [tokens[0], tokens[-1]] == [loss.lines[0].get_xdata()[0], 608]
    assert values[0] > values[-1] > 0


def test_words_without_steps_get_them_from_the_budget():
    assert resolved_prune("95%", 4000) == "95%:0:3000:60"
    assert resolved_rewire("rigl:0.1:1k", 4000) == "rigl:0.1:1k:3000"
    assert resolved_prune(None, 4000) is resolved_rewire(None, None) is None
    prune, rewire = pruning("95%:10:2k:60"), rewiring("set:10%:1k:3000", 7)
    assert (prune.final, prune.begin, prune.end, prune.every) == (0.95, 10, 2000, 60)
    assert (rewire.fraction, rewire.every, rewire.until, rewire.rule) == (0.1, 1000, 3000, "set")
    assert rewire.seed == 7
    task = Settings("copy", prune="95%", rewire="set:0.1:10", tokens=32_000).resolved(object())
    assert (task.prune, task.rewire) == ("95%:0:1500:30", "set:0.1:10:1500")
    with pytest.raises(ValueError, match=r"prune must name its steps, 95%:BEGIN:END:EVERY"):
        Settings("copy", prune="95%", seconds=3.0).resolved(object())


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"prune": "95%:1000"}, "prune must be FINAL, or FINAL:BEGIN:END:EVERY, .*got '95%:1000'"),
        ({"prune": "most"}, "prune must be a number such as"),
        ({"prune": "100%"}, r"final must lie in \(0, 1\), got 1"),
        ({"prune": "95%:9:9:1"}, "end must be at least 10, got 9"),
        ({"prune": "95%:0:9.5:1"}, "prune must have whole numbers of steps, got '9.5'"),
        ({"rewire": "rigl:0.1"}, "rewire must be RULE:FRACTION:EVERY, .*got 'rigl:0.1'"),
        ({"rewire": "rigel:0.1:10"}, "rule must be one of set, rigl, got 'rigel'"),
        ({"rewire": "set:0.1:0"}, "every must be at least 1, got 0"),
    ],
)
def test_words_that_name_no_schedule_are_refused(given, text):
    with pytest.raises(ValueError, match=text):
        Settings("copy", **given)


def test_pruning_past_what_exists_is_one_line_of_train(capsys):
    assert main(["train", "copy", "--sparsity=95%", "--prune=90%", "--tokens=100"]) == 2
    assert "final must be above what is absent already" in capsys.readouterr().err


class Fixed:
    """A cost model of a nanosecond per entry."""

    def seconds(self, pattern, batch, threads):
        return 1e-9 * batch * pattern.nnz


def test_a_plan_counts_exactly_and_finds_the_budget_that_fits():
    sweep = Sweep(units=(40,), sparsity=(0.5, 0.9), n=(1, 2, None), inputs=3, batch=2,
                  budget=300_000)  # fmt: skip
    choices = list(plan(sweep, 20e-6, Fixed()))
    assert len(choices) == 6
    for choice in choices:
        drawn = structure("gru", 40, choice.sparsity, 3)
        n = None if choice.n == "rtrl" else choice.n
        pattern = reach(drawn.dynamics, drawn.immediate, n)
        assert choice.entries == 2 * pattern.nnz
        assert choice.weights == drawn.weights
        assert choice.fits == (choice.bytes <= 300_000 and 2 * pattern.nnz <= 20_000)
        if choice.fits:
            assert choice.kept is None
        elif choice.kept is not None:
            assert 2 * drawn.weights <= choice.kept <= 20_000
            assert choice.kept > 12_000  # most of what is allowed
    fits = {(choice.sparsity, choice.n): choice.fits for choice in choices}
    assert fits[0.5, 1]
    assert not fits[0.5, 2]
    assert fits[0.9, 2]
    assert any(choice.kept for choice in choices)


def test_plan_on_the_command_line(capsys, monkeypatch):
    monkeypatch.setattr("sparsegrad.profiling.cost_model.CostModel", lambda roofline, seed: Fixed())
    monkeypatch.setattr("sparsegrad.profiling.roofline.Roofline", lambda dtype, threads: None)
    words = ["--memory=64KiB", "--milliseconds=1", "--units=24", "--sparsity=50%,90%", "--n=1,2"]
    assert main(["plan", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "gru 24, batch 1, float32: 64.0 KiB of J, 1.00 ms per update"
    assert lines[1].split() == ["sparsity", "n", "weights", "entries", "J", "update", "fits"]
    assert [line.split()[:2] for line in lines[2:6]] == [
        ["50%", "1"], ["50%", "2"], ["90%", "1"], ["90%", "2"],
    ]  # fmt: skip
    assert lines[2].endswith("yes")
    assert lines[3].endswith("% of it")
    assert lines[6:] == [
        "snap:1 fits from a sparsity of 50% on",
        "snap:2 fits from a sparsity of 90% on",
    ]
    for words, text in (
        (["--memory=much", "--units=24"], "memory must be a number of bytes"),
        (["--milliseconds=0", "--units=24"], "milliseconds must be above 0"),
        (["--units=0"], "units must be between 1"),
        (["--units=24", "--cell=gur"], "cells must be of"),
    ):
        assert main(["plan", *words]) == 2
        assert text in capsys.readouterr().err


def entries_of(pattern):
    return pattern.to_scipy().toarray().T


@pytest.mark.parametrize("batch", [1, 3])
def test_a_method_keeps_within_its_memory(batch):
    def cell():
        return GRU(3, 24, sparsity=0.9, seed=1)

    def engine(n, memory=None):
        return SnAp(n, memory=memory).engine(cell(), batch, 1)

    least, most = engine(1, 2**30).influence, engine(3).influence
    before = entries_of(least.pattern)
    for part in (0, 0.1, 0.3, 0.6, 0.9, 1):
        memory = int(least.nbytes + part * (most.nbytes - least.nbytes))
        influence = engine(3, memory).influence
        assert influence.nbytes <= memory
        now = entries_of(influence.pattern)
        assert (now | before == now).all()
        before = now
    np.testing.assert_array_equal(before, entries_of(most.pattern))
    assert least.nbytes < 0.7 * most.nbytes
    with pytest.raises(
        ValueError, match=r"memory must be at least .* which SnAp-1 needs, got 1000 B"
    ):
        engine(3, 1000)


def test_memory_is_bytes_or_words(tmp_path):
    assert SnAp(2, memory="2GiB").memory == SnAp(2, memory=2**31).memory == 2**31
    with pytest.raises(ValueError, match="memory must be a number of bytes"):
        SnAp(2, memory="much")
    with pytest.raises(TypeError, match="memory must be an integer"):
        SnAp(2, memory=2.5)
    learner = OnlineLearner(
        GRU(3, 24, sparsity=0.9, seed=1), Linear(2), SnAp(3, memory="24 KiB"), SGD(0.1)
    )
    rng = np.random.default_rng(0)
    xs, ys = (rng.standard_normal((9, 1, size)).astype("float32") for size in (3, 2))
    learner.run(xs, ys)
    assert learner.pattern.nnz < reach(
        dynamics_alone(learner.cell), immediate_pattern(learner.cell), 3
    ).nnz  # fmt: skip
    learner.save(tmp_path / "one")
    resumed = OnlineLearner.load(tmp_path / "one")
    assert resumed.method == learner.method
    np.testing.assert_array_equal(resumed.run(xs, ys), learner.run(xs, ys))
    learner.rewire({"weight_hh": np.random.default_rng(1).random((72, 24)) < 0.2})
    learner.run(xs, ys)
    assert learner._engine.influence.nbytes <= 24 * 1024
