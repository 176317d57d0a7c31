"""Runs of a comparison by executors: pools here, a cluster of Dask, workers and schedulers lost."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from command_line import run

import sparsegrad
from sparsegrad.runs import execution
from sparsegrad.runs.comparison import plan
from sparsegrad.runs.execution import WORKERS, run_all, train_there

TINY = {"task": "copy", "units": 8, "sparsity": 0.5, "batch": 2, "report": 100}
NET = ["--units", "8", "--sparsity", "50%", "--batch", "2", "--report", "100"]


def planned(folder, tokens, seeds=(0,)):
    return plan(TINY | {"tokens": tokens}, ["rflo"], [1e-3], seeds, folder)


def quietly(*told):
    """Say nothing."""


def learned(entry):
    path = entry.path / "checkpoint.safetensors"
    return sparsegrad.OnlineLearner.load(path).checkpoint().tensors()


def same(one, other):
    ours, theirs = learned(one), learned(other)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_a_pool_of_processes_runs_what_threads_do(tmp_path):
    here, there = (planned(tmp_path / name, 800, (0, 1)) for name in ("here", "there"))
    told = []
    assert run_all(here, 2, quietly) == ([], False)
    with ProcessPoolExecutor(2) as pool:
        tell = lambda entry, done, of: told.append((entry.status, done, of))  # noqa: E731
        assert run_all(there, 1, tell, pool) == ([], False)
    assert told == [("finished", 1, 2), ("finished", 2, 2)]
    for pair in zip(here, there, strict=True):
        same(*pair)


class Losing(Executor):
    """Loses its first calls, as a pool does whose worker is killed."""

    def __init__(self, losses):
        self.losses, self.calls, self.threads = losses, 0, ThreadPoolExecutor(1)

    def submit(self, *call):
        self.calls += 1
        if self.calls > self.losses:
            return self.threads.submit(*call)
        lost = Future()
        lost.set_exception(OSError("the worker\nis gone"))
        return lost


def test_a_run_whose_worker_is_lost_goes_to_another_one_but_not_for_ever(tmp_path):
    (entry,) = planned(tmp_path, 200)
    executor = Losing(WORKERS)
    (why,), _ = run_all([entry], 1, quietly, executor)
    assert (executor.calls, why) == (WORKERS, f"{entry.path.name}: OSError: the worker is gone")
    assert run_all([entry], 1, quietly, Losing(WORKERS - 1)) == ([], False)
    assert entry.done


def test_an_executor_that_takes_nothing_costs_a_line(tmp_path):
    entries = planned(tmp_path, 200, (0, 1))
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    (line,), stopped = run_all(entries, 1, quietly, pool)
    assert line.startswith("2 runs found no worker, RuntimeError: cannot schedule new futures")
    assert line.endswith("the same command goes on with them")
    assert not stopped


def test_a_worker_without_the_folder_says_so(tmp_path):
    assert "must be a folder on every worker" in train_there(tmp_path / "no", ["copy"], tmp_path)


def test_an_error_of_the_caller_ends_the_runs(tmp_path):
    entries = planned(tmp_path, 10**9, (0, 1))

    class AtOnceError(RuntimeError):
        pass

    def fail(self, stopped):
        while not (entries[0].path / "log.txt").exists():
            time.sleep(0.01)
        raise AtOnceError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution._Runs, "ended", fail)
        with pytest.raises(AtOnceError):
            run_all(entries, 2, quietly)
    assert not (tmp_path / "runs" / ".stop").exists()
    assert not any(entry.done for entry in entries)


# a cluster


@pytest.fixture
def cluster():
    """A scheduler with two workers, processes of their own: its address, and their ids."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=100
    ) as workers:
        yield workers


SCHEDULER = """
import sys, time
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        time.sleep(300)
"""


def until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_worker_s_run_goes_on_elsewhere_bit_for_bit(tmp_path, cluster):
    tokens = "60k"
    flags = [*NET, "--methods", "rflo", "--seeds", "0", "--tokens", tokens, "--save", "0.1"]
    command = [sys.executable, "-m", "sparsegrad.cli", "compare", "copy", *flags, "--out",
               str(tmp_path / "far"), "--scheduler", cluster.scheduler_address]  # fmt: skip
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "far" / "runs" / "rflo_rate-0.001_seed-0"
    until((folder / "checkpoint.safetensors").exists)
    busy = [worker for worker in cluster.scheduler.workers.values() if worker.processing]
    (pid,) = cluster.scheduler_comm and [cluster.workers[worker.name].pid for worker in busy]
    os.kill(pid, signal.SIGKILL)
    out, err = child.communicate(timeout=100)
    assert child.returncode == 0, err
    assert "1/1" in err
    assert out
    (far,), (near,) = (planned(tmp_path / name, 60_000) for name in ("far", "near"))
    assert run_all([near], 1, quietly) == ([], False)
    same(far, near)
    logged = (folder / "log.txt").read_text()
    assert "interrupted" in logged  # the process that the killed worker left saved and ended
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    tokens = [json.loads(line)["tokens"] for line in lines]
    assert tokens == sorted(set(tokens))


def test_a_scheduler_that_goes_away_costs_a_line(tmp_path):
    pytest.importorskip("distributed", reason="distributed is not installed")
    script = tmp_path / "scheduler.py"
    script.write_text(SCHEDULER)
    scheduler = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    address = scheduler.stdout.readline().strip()
    command = [sys.executable, "-m", "sparsegrad.cli", "compare", "copy", *NET, "--methods", "rflo",
               "--seeds", "0", "1", "--tokens", "100M", "--out", str(tmp_path / "out"),
               "--scheduler", address]  # fmt: skip
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "out" / "runs" / "rflo_rate-0.001_seed-0" / "metrics.jsonl"
    try:
        until(lambda: metrics.exists() and metrics.stat().st_size)
    finally:
        os.killpg(scheduler.pid, signal.SIGKILL)
        scheduler.communicate()
    _, err = child.communicate(timeout=60)
    assert child.returncode == 2, err
    (line,) = (line for line in err.splitlines() if line.startswith("sparsegrad: "))
    assert line.startswith("sparsegrad: 2 runs found no worker, ConnectionError: the scheduler")
    assert "interrupted" in (metrics.parent / "log.txt").read_text()  # by its worker, or without it


def test_what_is_wrong_with_a_scheduler_is_said_in_a_line(tmp_path, capsys, monkeypatch):
    flags = [*NET, "--methods", "rflo", "--tokens", "100", "--out", tmp_path]
    for more, message in (
        (["--scheduler", "node:1", "--jobs", "2"], "--jobs goes without --scheduler"),
        (["--scheduler", "node:1", "--passive"], "--scheduler goes without --passive"),
    ):
        status, _, err = run(capsys, "compare", "copy", *flags, *more)
        assert (status, err.count("\n")) == (2, 1)
        assert message in err
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "distributed", None)
        status, _, err = run(capsys, "compare", "copy", *flags, "--scheduler", "node:1")
        assert status == 2
        assert err.endswith("distributed: pip install 'sparsegrad-rtrl[dask]'\n")
    pytest.importorskip("distributed", reason="distributed is not installed")
    monkeypatch.setattr("sparsegrad.runs.cluster.CONNECT", 1.0)
    for address in ("127.0.0.1:9", "nowhere", "127.0.0.1:x"):
        status, _, err = run(capsys, "compare", "copy", *flags, "--scheduler", address)
        assert (status, err.count("\n")) == (2, 1)
        assert f"must be HOST:PORT of a Dask scheduler that runs, got {address}" in err
