"""What fits: every limit that the system sets on this process is seen."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsegrad.system import memory

GIB = 2**30


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A system of files of ours: `system(own, {group: (limit, used, cache)})`."""
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text(f"MemFree: 1 kB\nMemAvailable: {64 * GIB // 1024} kB\n")

    def build(own: str, groups: dict[str, tuple[Any, int, int]], version: int = 2) -> None:
        mount, limit, used, cache = memory._VERSIONS[version]
        (tmp_path / "own").write_text(own)
        for name, numbers in groups.items():
            folder = tmp_path / "cgroup" / mount / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / limit).write_text(f"{numbers[0]}\n")
            (folder / used).write_text(f"{numbers[1]}\n")
            (folder / "memory.stat").write_text(f"anon 5\n{cache} {numbers[2]}\n")

    return build


@pytest.mark.parametrize(
    ("own", "groups", "expected"),
    [
        ("0::/\n", {".": (2 * GIB, GIB, 5)}, GIB + 5),
        ("0::/job/step\n", {"job": (2 * GIB, GIB, 0), "job/step": ("max", GIB, 0)}, GIB),
        ("0::/job/step\n", {"job": (9 * GIB, GIB, 0), "job/step": (3 * GIB, GIB, 0)}, 2 * GIB),
        ("0::/job/step\n", {".": (GIB, 0, 0), "job": (9 * GIB, GIB, 0)}, GIB),
        ("0::/host/docker/x\n", {".": (GIB, 0, 0)}, GIB),  # a container's group seen as the root
        ("0::/../../other\n", {".": (GIB, 0, 0)}, GIB),
        ("0::/job\n", {"job": (GIB, 3 * GIB, 0)}, 0),
        ("0::/job\n", {"job": ("max", GIB, 0)}, 64 * GIB),
        ("nonsense\n", {"job": (GIB, 0, 0)}, 64 * GIB),
        ("", {}, 64 * GIB),
    ],
)
def test_the_least_limit_on_the_way_up_counts(
    system: Any, own: str, groups: dict[str, Any], expected: int
) -> None:
    system(own, groups)
    assert memory.available_memory() == expected


def test_the_first_version_and_both_together(system: Any) -> None:
    own = "5:cpu,cpuacct:/x\n4:memory:/slurm/job_7\n0::/user\n"
    system(own, {"slurm/job_7": (2 * GIB, GIB, 1), "slurm": (2**63 - 4096, GIB, 0)}, version=1)
    assert memory.available_memory() == GIB + 1
    system(own, {"user": (GIB, GIB // 2, 0)})
    assert memory.available_memory() == GIB // 2


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no such limit here")
def test_a_limit_on_addresses_is_seen() -> None:
    """`ulimit -v` ends in the MemoryError that names what would fit, not in one of malloc."""
    code = (
        "import resource\n"
        "from sparsegrad.system.memory import available_memory, require_memory\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 2**28, resource.RLIM_INFINITY))\n"
        "assert available_memory() <= 2**28\n"
        "require_memory(2**29, 'J')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert "MemoryError: J must fit in the available memory of 0.2" in run.stderr
