"""Every example runs and learns; the compiled loop holds no Python object."""

import importlib
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
    assert there == {*LEARNING, "stream"}  # stream: test_c.py
