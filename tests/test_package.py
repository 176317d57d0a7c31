"""What the package is from outside: its names, what importing it loads, its kernels' rules."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sparsegrad
from sparsegrad.kernels import panels_update
from sparsegrad.kernels.compiler import cache

ROOT = Path(__file__).resolve().parents[1]
KERNELS = sorted((ROOT / "kernels").rglob("*.py"))
compiled = pytest.mark.skipif(
    not hasattr(panels_update, "signatures"), reason="nothing is compiled"
)
LIBRARY = sorted((ROOT / "sparsegrad").rglob("*.py"))


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")


def imports(path):
    """Every module that a file imports, with relative names made absolute within kernels/."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"sparsegrad.kernels.{node.module}" if node.level else node.module


def test_every_public_name_is_there():
    for name in sparsegrad.__all__:
        assert getattr(sparsegrad, name).__name__ == name
    assert set(sparsegrad.__all__) <= set(dir(sparsegrad))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = sparsegrad.nothing


def test_import_loads_nothing_heavy():
    done = run(
        "import sys, sparsegrad; print(sorted({'numba', 'scipy', 'torch'} & {*sys.modules}))"
    )
    assert done.stdout.strip() == "[]"
    # The engine needs numba and no scipy.sparse, which takes a third as long again to import.
    done = run("import sys; from sparsegrad import reach, Influence; print(*sys.modules)")
    assert "numba" in done.stdout.split()
    assert "scipy.sparse" not in done.stdout.split()


def test_kernels_are_no_package_of_their_own():
    done = subprocess.run(
        [sys.executable, "-c", "import kernels"], capture_output=True, text=True, cwd=ROOT
    )
    assert "import these kernels as sparsegrad.kernels" in done.stderr


def test_the_rules_of_kernels_are_asked_of_every_room():
    rooms = {path.parent.name for path in (ROOT / "kernels").glob("*/__init__.py")}
    assert len(rooms) > 5
    assert {path.parent.name for path in KERNELS if path.stem != "__init__"} == rooms


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_kernels_import_numba_and_numpy_alone(path):
    allowed = {"numba", "numpy", "llvmlite", *sys.stdlib_module_names}
    assert KERNELS
    for module in imports(path):
        own = module.startswith("sparsegrad.kernels")
        assert own or module.split(".")[0] in allowed, f"{path.name} imports {module}"


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_kernels_raise_nothing(path):
    """But for the guard of the package, and pointer()'s twin, which stands for a typing error.

    cache.py holds no kernel: Numba calls it while it looks for compiled ones.
    """
    if path.stem == "cache":
        return
    raising = [
        node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise)
    ]
    assert len(raising) <= (path.stem in ("__init__", "simd"))


def test_library_imports_neither_tests_nor_perf():
    for path in LIBRARY:
        for module in imports(path):
            assert module.split(".")[0] not in ("tests", "perf", "oracle", "nets"), path


def test_run_time_needs_numba_numpy_and_scipy_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = sorted(need.split(">")[0] for need in project["dependencies"])
    assert names == ["numba", "numpy", "scipy"]
    assert {"cli", "plot", "torch", "jax", "test", "perf", "all"} <= set(
        project["optional-dependencies"]
    )
    assert not any(need.startswith("torch") for need in project["optional-dependencies"]["test"])


def test_every_package_is_listed():
    """Setuptools installs what pyproject lists, and nothing else."""
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in LIBRARY}
    kernels = {".".join(path.parent.relative_to(ROOT).parts) for path in KERNELS}
    assert listed == there | {f"sparsegrad.{name}" for name in kernels}


def test_a_learner_starts_the_threads_that_its_compiled_loop_may_call():
    """A loop out of Numba's cache does not start them itself, and crashed, on one thread too."""
    done = run(
        "import sparsegrad as s; from numba.np.ufunc import parallel;"
        "part = s.RNN(2, 4), s.Linear(1, 'squared_error'), s.SnAp(2), s.SGD(0.1);"
        "s.OnlineLearner(*part, threads=1);"
        "print(parallel._is_initialized)"
    )
    assert done.stdout.strip() == "True", done.stderr


@pytest.fixture
def read_only_install(tmp_path):
    """Environment of a copy of the package where Numba may write nowhere, as root neither."""
    shutil.copytree(ROOT / "sparsegrad", tmp_path / "lib" / "sparsegrad")
    shutil.copytree(ROOT / "kernels", tmp_path / "lib" / "sparsegrad" / "kernels")
    for old in [*(tmp_path / "lib").rglob("__pycache__")]:
        shutil.rmtree(old)
    for folder in [*(tmp_path / "lib").rglob("*/")]:
        (folder / "__pycache__").touch()  # a file where the folder would be
    nowhere = dict.fromkeys(("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME"), "/dev/null/none")
    return {**os.environ, **nowhere, "PYTHONPATH": str(tmp_path / "lib")}


PROFILE = ["profile", "--units", "8", "--sparsity", "0.5", "--n", "1", "--dry-run"]


@compiled
def test_where_numba_may_write_nowhere_kernels_are_kept_in_a_temporary_folder(
    read_only_install, tmp_path
):
    (tmp_path / "tmp").mkdir()
    environment = {**read_only_install, "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-m", "sparsegrad.cli", *PROFILE]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "gru" in done.stdout
    (folder,) = (tmp_path / "tmp").iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    assert any(folder.rglob("*.nbc"))


def test_a_cache_that_others_may_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_temporary", lambda: tmp_path)
    monkeypatch.setattr(cache, "_LAST", tmp_path / "none")
    folder = cache._folder()
    assert cache._folder() == folder
    folder.chmod(0o770)
    with pytest.raises(OSError, match="may write to none"):
        cache._folder()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="may write to none"):
        cache._folder()


@compiled
def test_where_nobody_may_write_there_is_one_clear_line(read_only_install):
    code = (
        "import tempfile, pathlib, os;"
        "tempfile._candidate_tempdir_list = lambda: ['/dev/null/none'];"
        "pathlib.Path.mkdir = lambda *a, **k: os.mkdir('/dev/null/none');"
        "import sparsegrad.cli.main as c;"
        f"raise SystemExit(c.main({PROFILE!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env=read_only_install
    )
    assert done.returncode == 2
    assert done.stderr.startswith("sparsegrad: sparsegrad needs a folder to keep its compiled")
    assert done.stderr.count("\n") == 1
