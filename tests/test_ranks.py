"""Learners over ranks of MPI: the same bits for any number of them, one line for what is wrong.

Every start of mpirun has a time limit: a hang is a failure. What it starts is `ranked.py`, or the
command itself.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sparsegrad
from sparsegrad.runs.rank_cost import count_parts, shares

MPIRUN = Path(sys.executable).with_name("mpirun")
MPIRUN = str(MPIRUN) if MPIRUN.exists() else shutil.which("mpirun")
pytest.importorskip("mpi4py", reason="mpi4py is not installed")
if MPIRUN is None:
    pytest.skip("no mpirun to start ranks with", allow_module_level=True)
RANKED = Path(__file__).with_name("ranked.py")
TRAIN = (
    "train copy --units 16 --sparsity 50% --method snap:2 --batch 1 --threads 1 --seed 3".split()
)


def start(ranks, *arguments):
    command = [MPIRUN, "-n", str(ranks), sys.executable, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def ended(process, seconds=120):
    """What a process wrote, once it has ended; one that hangs is killed with all its ranks."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def ranked(ranks, case, *arguments):
    status, out, err = ended(start(ranks, str(RANKED), case, *map(str, arguments)))
    assert status == 0, err
    return [json.loads(line) for line in out.splitlines()]


def train(ranks, *arguments, seconds=120):
    return ended(start(ranks, "-m", "sparsegrad", *TRAIN, *map(str, arguments)), seconds)


def said(err):
    return [line for line in err.splitlines() if line.startswith("sparsegrad:")]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A folder of checkpoints, and what 2, 4 and 1 ranks say, each loading what the last saved."""
    folder = tmp_path_factory.mktemp("ranks")
    said = ranked(2, "bits", folder), ranked(4, "bits", folder, 2), ranked(1, "bits", folder, 4)
    return folder, said


def test_any_number_of_ranks_learns_the_same_bits_and_keeps_its_part_of_J(learned):
    folder, (two, four, one) = learned
    for method in ("snap:2", "rtrl"):
        each = {tuple(rank[method]) for rank in (*one, *two, *four)}
        assert len(each) == 1
        _, _, went_on, loaded = each.pop()
        assert went_on == loaded
        whole = one[0][f"entries {method}"]
        for ranks in (two, four):
            kept = [rank[f"entries {method}"] for rank in ranks]
            assert sum(kept) == whole
            assert max(kept) < 1.5 * whole / len(ranks)
        alone = sparsegrad.OnlineLearner.load(folder / f"{method}-4")
        assert alone.pattern.nnz == whole


def test_the_profile_counts_what_ranks_hold(learned):
    cell = sparsegrad.GRU(3, 24, sparsity=0.8, seed=1)
    for name, n in (("snap:2", 2), ("rtrl", None)):
        counts, works = count_parts(cell, n)
        for said in learned[1]:
            held = [rank[f"entries {name}"] for rank in said]
            assert shares(counts, works, len(said))[:, 0].tolist() == held


def test_ranks_learn_what_one_process_does(learned):
    rng = np.random.default_rng(0)
    xs, ys = (rng.normal(size=(34, 1, width)).astype(np.float32) for width in (3, 2))
    for name, method in (("snap:2", sparsegrad.SnAp(2)), ("rtrl", sparsegrad.RTRL())):
        learner = sparsegrad.OnlineLearner(
            sparsegrad.GRU(3, 24, sparsity=0.8, seed=1), sparsegrad.Linear(2), method,
            sparsegrad.Adam(1e-2), threads=1,
        )  # fmt: skip
        learner.run(xs, ys)
        shared = sparsegrad.OnlineLearner.load(learned[0] / f"{name}-2")
        np.testing.assert_allclose(shared.cell.weights, learner.cell.weights, rtol=2e-4, atol=2e-5)
        ours, theirs = (one.checkpoint().arrays for one in (learner, shared))
        for key in ("method.influence.0", "state", "optimizer.first"):
            np.testing.assert_allclose(theirs[key], ours[key], rtol=1e-3, atol=1e-4)


SAID = {
    "seed": r"all ranks must have the same masks, got \w+ on rank 1 and \w+ on rank 0",
    "rate": r"same settings, got .*rate=0.02.* on rank 1",
    "mask": r"same cell, got .* on rank 1",
    "units": r"same cell, got GRU\(3, 25",
    "data": r"same data of a call",
    "parts": r"ranks must be at most 1, one for each part of 4 units, got 2",
    "snap:1": r"method must be SnAp\(n\) from n = 2 on or RTRL\(\)",
    "window": r"without window, memory and storage",
    "bptt": r"got BPTT\(",
    "comm": r"comm must be an intracommunicator of mpi4py .*, got 7",
    "rewire": r"rewire must have all of J in one process",
    "pickle": r"a learner must have all of J in one process to be copied",
    "save": r"/nowhere/learner",
}


def test_what_is_not_alike_is_refused_on_every_rank_and_nothing_is_lost():
    first, second = ranked(2, "refused")
    for name, message in SAID.items():
        assert re.search(message, first[name]), first[name]
        assert first[name] == second[name]
    assert "arguments of a call must go well on every rank, rank 1 says: xs must" in first["shape"]
    assert second["shape"].startswith("xs must have shape")
    assert first["after"] == second["after"]


def test_an_influence_that_grows_on_one_rank_stops_all_of_them():
    both = ranked(2, "grown")
    assert both[0] == both[1]
    assert "is about to overflow at step 0" in both[0]


def test_a_killed_rank_ends_the_others_and_the_run_goes_on_bit_for_bit(tmp_path):
    kept = ("--out", tmp_path / "killed", "--save", "0.2")
    process = start(2, "-m", "sparsegrad", *TRAIN, *map(str, kept), "--tokens", "100M")
    saved = tmp_path / "killed" / "checkpoint.json"
    deadline = time.monotonic() + 100
    while not (saved.exists() and json.loads(saved.read_text())["progress"]["tokens"] > 0):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-f", str(tmp_path / "killed")], capture_output=True)
    ranks = [int(pid) for pid in children.stdout.split() if int(pid) != process.pid]
    os.kill(max(ranks), signal.SIGKILL)
    killed = time.monotonic()
    status, out, err = ended(process, 30)
    assert time.monotonic() - killed < 10
    assert status != 0
    assert str(max(ranks)) in out + err  # mpirun names the process
    tokens = json.loads(saved.read_text())["progress"]["tokens"] + 200
    status, _, err = train(1, "--out", tmp_path / "killed", "--resume", "--tokens", tokens)
    assert status == 0, err
    status, _, err = train(2, "--out", tmp_path / "whole", "--tokens", tokens)
    assert status == 0, err
    one, two = (tmp_path / name / "checkpoint.safetensors" for name in ("killed", "whole"))
    ours, theirs = (
        sparsegrad.OnlineLearner.load(path).checkpoint().tensors() for path in (one, two)
    )
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_the_command_says_one_line_and_no_rank_waits(tmp_path):
    one, other = (
        ["-n", "1", sys.executable, "-m", "sparsegrad", *TRAIN, "--tokens", tokens]
        for tokens in ("100", "200")
    )
    command = [MPIRUN, *one, ":", *other]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode
    (line,) = said(found.stderr)
    assert line.endswith("the same flag --tokens, got 200 on rank 1 and 100 on rank 0")
    (tmp_path / "stranger").write_text("")
    for flags, line in (
        (["--out", tmp_path], "must be empty"),
        (["--prune", "90%"], "--prune and --rewire must have all of J"),
        (["--method", "bptt"], "method must be SnAp"),
        (["--units", "4"], "ranks must be at most 1"),
    ):
        status, _, err = train(2, "--tokens", "100", *flags, seconds=60)
        assert status
        assert len(said(err)) == 1
        assert line in err
    status, _, err = ended(start(2, "-m", "sparsegrad", "info"), 60)
    assert status
    assert said(err) == [
        "sparsegrad: mpirun must start `sparsegrad train`: start other commands without it"
    ]


def test_a_rank_that_fails_alone_ends_the_others():
    begin = time.monotonic()
    status, _, err = ended(start(2, str(RANKED), "alone", *TRAIN, "--tokens", "1M"), 60)
    assert status
    assert said(err)[0] == "sparsegrad: rank 1: no room here"
    assert time.monotonic() - begin < 40


def test_without_mpi_there_is_one_line():
    code = (
        "import sys; sys.modules['mpi4py'] = None; from sparsegrad.cli.main import main; "
        f"sys.exit(main({[*TRAIN, '--tokens', '100']!r}))"
    )
    for rank, lines in (("0", 1), ("1", 0)):
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
            env=os.environ | {"PMI_RANK": rank, "PMI_SIZE": "2"},
        )  # fmt: skip
        assert found.returncode == 2
        assert len(found.stderr.splitlines()) == lines
        assert ("pip install 'sparsegrad-rtrl[mpi]'" in found.stderr) == (lines == 1)
