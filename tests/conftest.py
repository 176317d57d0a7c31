"""What every test stands on: its own Numba cache, fixed seeds, few examples."""

import hashlib
import importlib.util
import os
import tempfile
import zlib
from pathlib import Path

import hypothesis
import numpy as np
import pytest


def kernel_folders():
    """Where the kernels lie that a test may run: the checkout's and the installed package's."""
    folders = {Path(__file__).resolve().parents[1] / "kernels"}
    spec = importlib.util.find_spec("sparsegrad")  # finds, does not import
    if spec is not None and spec.origin is not None:
        folders.add(Path(spec.origin).resolve().parent / "kernels")
    return folders


def cache_folder(folders):
    """Folder of compiled kernels that no other source and no other mode of Numba shares.

    Numba keys a kernel on its own file, so an edit in a kernel that it calls goes unseen; and it
    ignores NUMBA_BOUNDSCHECK, so that a warm cache would check nothing.
    """
    key = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        key.update(path.name.encode() + b"\0" + path.read_bytes())
    default = Path(tempfile.gettempdir()) / f"sparsegrad-tests-{os.environ.get('USER', 'any')}"
    root = Path(os.environ.get("SPARSEGRAD_TEST_CACHE", default))
    checked = os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0")
    return root / (key.hexdigest()[:16] + ("-checked" if checked else ""))


os.environ["NUMBA_CACHE_DIR"] = str(cache_folder(kernel_folders()))  # before anything imports numba
os.environ["PYTHONFAULTHANDLER"] = "1"  # a child process that crashes prints where

# What stands above the kernels runs compiled only: interpreted or bounds-checked it would take
# most of the time and reach no kernel that the other files do not.
ABOVE_THE_KERNELS = [
    "fuzz/test_checkpoints.py",
    "fuzz/test_folders.py",
    "test_allocations.py",
    "test_answers.py",
    "test_c.py",
    "test_checkpoint.py",
    "test_cli.py",
    "test_compare.py",
    "test_docs.py",
    "test_edges.py",
    "test_events.py",
    "test_examples.py",
    "test_execution.py",
    "test_files.py",
    "test_forecast.py",
    "test_guard_pages.py",
    "test_host_cells.py",
    "test_house.py",
    "test_html.py",
    "test_io.py",
    "test_jax.py",
    "test_jax_window.py",
    "test_listing.py",
    "test_losses.py",
    "test_masks.py",
    "test_memory.py",
    "test_onnx.py",
    "test_package.py",
    "test_perf_smoke.py",
    "test_pipe.py",
    "test_processes.py",
    "test_processors.py",
    "test_promises.py",
    "test_public_paths.py",
    "test_ranks.py",
    "test_published.py",
    "test_rank_cost.py",
    "test_registry.py",
    "test_river.py",
    "test_site.py",
    "test_rewire.py",
    "test_rewiring.py",
    "test_rl_examples.py",
    "test_tables.py",
    "test_tasks.py",
    "test_torch.py",
    "test_torch_habits.py",
    "test_torch_hosts.py",
    "test_torch_options.py",
    "test_torch_own.py",
    "test_torch_rewire.py",
    "test_torch_state.py",
    "test_torch_window.py",
    "test_train.py",
]

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
CHECKED = os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0")
collect_ignore = ABOVE_THE_KERNELS if INTERPRETED or CHECKED else []


def pytest_collection_modifyitems(config, items):
    """Interpreted or bounds-checked, leave out single precision, and what is marked as compiled.

    No place in an array depends on its precision, nor on which thread comes to it; and long runs
    come to the same lines again.
    """
    if not (INTERPRETED or CHECKED):
        return

    def again(item):
        given = item.callspec.params.values() if hasattr(item, "callspec") else ()
        single = any(isinstance(value, str) and value == "float32" for value in given)
        return single or item.get_closest_marker("compiled") is not None

    config.hook.pytest_deselected(items=[item for item in items if again(item)])
    items[:] = [item for item in items if not again(item)]


hypothesis.settings.register_profile(
    "sparsegrad",
    deadline=None,  # the first example of a kernel compiles it
    derandomize=True,
    max_examples=8 if INTERPRETED else 25,
)
hypothesis.settings.load_profile("sparsegrad")


@pytest.fixture
def rng(request):
    """Random numbers of the test's own, the same in every run and in any order of tests."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def scarce(monkeypatch):
    """Let the system say how many bytes it has; and be asked about the smallest need."""

    def leave(bytes_):
        monkeypatch.setattr("sparsegrad.system.memory._ALWAYS_THERE", 0)
        monkeypatch.setattr("sparsegrad.system.memory.available_memory", lambda: bytes_)

    return leave
