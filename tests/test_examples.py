"""Every example runs and learns; the compiled loop holds no Python object."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
# a regular install without the repository has no examples/
pytestmark = [
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples/ is not here"),
    pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="too slow interpreted"),
]
LEARNING = {
    "torch_chars": (["torch"], 0.6),
    "jax_chars": (["jax", "optax", "equinox"], 0.6),
    "torch_stream": (["torch"], 0.5),
    "numba_loop": ([], 0.5),
    "sensor_csv": ([], 0.7),
    "endless": ([], 0.7),
    "river_flow": (["river"], 1.0),
    "text": ([], 0.8),
    "two_layers": ([], 0.5),
}


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.mark.parametrize("name", LEARNING)
def test_the_example_learns(name, example):
    needed, part = LEARNING[name]
    for module in needed:
        pytest.importorskip(module, reason=f"{module} is not installed")
    before, after = example(name).main()
    assert np.isfinite([before, after]).all()
    assert after < part * before


def test_the_compiled_loop_needs_no_interpreter(example):
    loop = example("numba_loop")
    loop.main(600)
    assert loop.train.nopython_signatures
    code = next(iter(loop.train.inspect_llvm().values()))
    body = code[: code.index("define", code.index("define") + 1)]  # the loop, not its wrapper
    assert "PyObject_Call" not in body


def test_every_example_is_tested():
    there = {path.stem for path in EXAMPLES.glob("*.py")}
    elsewhere = {"stream", "actor_critic", "streaming_ac"}  # test_c.py, test_rl_examples.py
    assert there == {*LEARNING, *elsewhere}


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_the_overhead_scripts_run(framework):
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    script = EXAMPLES.parent / "perf" / f"{framework}_step.py"
    done = subprocess.run(
        [sys.executable, str(script), "--toy", "--rounds", "2"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    crossing, training = map(json.loads, done.stdout.splitlines())
    assert crossing["comparison"] == "crossing"
    assert training["ratio"] > 0
