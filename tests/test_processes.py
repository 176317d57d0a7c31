"""Processes, threads and files of compiled code: what holds where Numba alone does not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = """
import threading
import numpy as np
import sparsegrad.influence.program as program
from sparsegrad import Influence, reach
program._SHARE = 1
net, into = np.ones((40, 40)), np.tile(np.eye(40), 24)
D, I = np.full(1600, 0.01), np.ones(960)
def make():
    J = Influence(reach(net, into, 2), dtype="float64", threads=2)
    assert J.threads == 2
    return J
def work(J):
    for _ in range(500):
        J.update(D, I)
"""


def python(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=False,
        env=os.environ | environment,
    )  # fmt: skip


def test_two_callers_take_turns_at_numbas_own_scheduler() -> None:
    """It kills the process when they meet ("Concurrent access has been detected")."""
    code = SHARED + (
        "several = [make() for _ in range(3)]\n"
        "threads = [threading.Thread(target=work, args=(J,)) for J in several]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "assert all((J.panels == several[0].panels).all() for J in several)\n"
        "print('all done')\n"
    )
    run = python(code, NUMBA_THREADING_LAYER="workqueue", NUMBA_NUM_THREADS="2")
    assert run.stdout == "all done\n", run.stdout + run.stderr
    assert run.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_a_fork_is_told_that_the_threads_are_not_there() -> None:
    """It would wait for them without end; one thread works."""
    code = SHARED + (
        "import os\n"
        "J = make(); J.update(D, I)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    try:\n"
        "        J.update(D, I)\n"
        "    except RuntimeError as error:\n"
        "        print(error, flush=True)\n"
        "    one = Influence(J.pattern, dtype='float64', threads=1)\n"
        "    one.update(D, I)\n"
        "    print('one thread works', flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
        "J.update(D, I)\n"
        "print('so does the parent')\n"
    )
    run = python(code, NUMBA_NUM_THREADS="2")
    lines = run.stdout.splitlines()
    assert len(lines) == 3, run.stdout + run.stderr
    assert "threads must be 1 in a process forked" in lines[0]
    assert lines[1:] == ["one thread works", "so does the parent"]


POOL = """
import multiprocessing
import numpy as np
import sparsegrad

def learned(seed):
    cell = sparsegrad.RNN(2, 8, sparsity=0.5, seed=seed)
    method, optimizer = sparsegrad.SnAp(1), sparsegrad.SGD(0.1)
    learner = sparsegrad.OnlineLearner(
        cell, sparsegrad.Linear(1, "squared_error"), method, optimizer, threads=1
    )
    rng = np.random.default_rng(seed)
    return learner.run(rng.standard_normal((20, 2)).astype("float32"), np.ones((20, 1), "float32"))

if __name__ == "__main__":
    here = [learned(seed) for seed in range(3)]
    with multiprocessing.get_context(START).Pool(2) as pool:
        there = pool.map(learned, range(3))
    print(np.array_equal(here, there))
"""


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_a_pool_of_processes_learns_what_one_does(tmp_path, start) -> None:
    """Without threads a fork is as good as a process of its own, after steps too."""
    script = tmp_path / "pool.py"
    script.write_text(POOL.replace("START", repr(start)))
    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.stdout == "True\n", run.stdout + run.stderr


FINITE = (
    "import numpy as np\n"
    "from sparsegrad.kernels.vectors.finite import all_finite\n"
    "print(all_finite(np.ones(3)), all_finite(np.array([np.nan])))\n"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one compiled kernel."""
    folder = tmp_path_factory.mktemp("numba")
    run = python(FINITE, NUMBA_CACHE_DIR=str(folder))
    assert run.stdout == "True False\n", run.stderr
    return folder


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("kept", [0, 0.5, -1])
def test_a_damaged_file_of_the_cache_is_compiled_anew(
    suffix: str, kept: float, cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "numba"
    shutil.copytree(cache, folder)
    files = list(folder.rglob(f"*{suffix}"))
    assert files
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[: int(len(whole) * kept)] if kept >= 0 else b"?" * len(whole))
    run = python(FINITE, NUMBA_CACHE_DIR=str(folder))
    assert run.stdout == "True False\n", run.stderr
    told = [line for line in run.stderr.splitlines() if "UserWarning" in line]
    assert len(told) == len(files)
    assert "cut short or damaged: dropped" in told[0]
    if kept == 0.5:
        again = python(FINITE, NUMBA_CACHE_DIR=str(folder))
        assert (again.stdout, again.stderr) == ("True False\n", "")
