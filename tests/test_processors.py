"""How many processors a comparison may take: what is granted, not what is there."""

import os
import subprocess
import sys

import pytest

from sparsegrad.system import processors
from sparsegrad.system.processors import usable_processors


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """A machine of 96 processors without any limit."""
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 96, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(96)))
    monkeypatch.setattr(processors, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(processors, "_OWN", tmp_path / "own")


def groups(tmp_path, own, files):
    """Write control groups: the lines of /proc/self/cgroup, and files below /sys/fs/cgroup."""
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_without_a_limit_all_are_taken():
    assert usable_processors() == 96


def test_the_set_that_is_granted_counts(monkeypatch):
    monkeypatch.delattr(os, "process_cpu_count")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 7})
    assert usable_processors() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_processors() == 1


@pytest.mark.parametrize(("word", "count"), [("4", 4), ("200", 96), ("0", 96), ("", 96), ("x", 96)])
def test_numbas_own_limit_counts(monkeypatch, word, count):
    monkeypatch.setenv("NUMBA_NUM_THREADS", word)
    assert usable_processors() == count


@pytest.mark.parametrize(
    ("own", "files", "count"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/job/step\n", {"job/cpu.max": "200000 100000", "job/step/cpu.max": "max 100000"}, 2),
        ("0::/job/step\n", {"job/cpu.max": "max 100000", "job/step/cpu.max": "50000 100000"}, 1),
        ("0::/../other\n", {"cpu.max": "max 100000"}, 96),
        ("4:cpu,cpuacct:/job\n", {"cpu/job/cpu.cfs_quota_us": "400000\n",
                                  "cpu/job/cpu.cfs_period_us": "100000\n"}, 4),
        ("4:memory:/job\n", {"cpu/job/cpu.cfs_quota_us": "400000\n",
                             "cpu/job/cpu.cfs_period_us": "100000\n"}, 96),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 96),
        ("garbage", {"cpu.max": "many\n"}, 96),
        ("0::/\n", {"cpu.max": "100000 0\n"}, 96),
    ],
)  # fmt: skip
def test_quotas_of_control_groups_count(tmp_path, own, files, count):
    groups(tmp_path, own, files)
    assert usable_processors() == count


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_a_process_on_one_processor_says_one():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from sparsegrad.system.processors import usable_processors; print(usable_processors())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
