"""Every example runs and learns; the compiled loop holds no Python object."""

import importlib
import json
import subprocess
import sys
from importlib.util import find_spec
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
    # test_c.py, test_rl_examples.py, below
    elsewhere = {"stream", "actor_critic", "streaming_ac", "connectome"}
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


@pytest.fixture(scope="module")
def connectome():
    if find_spec("flyvis") is None:
        pytest.skip("flyvis is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        return importlib.import_module("connectome")


def test_the_fly_s_eye_is_laid_out_as_published(connectome):
    small = connectome.optic_lobe(2)[0]
    net, receptors, seen = connectome.optic_lobe(15)
    assert (net.units, net.sources.size) == (45669, 1357269)
    assert np.bincount(net.targets).max() == 160
    assert receptors.size == 8 * 721
    assert np.bincount(seen).tolist() == [8] * 721
    for one in (small, net):
        edge = one.names.index("R1 0 0"), one.names.index("L1 0 0")
        (at,) = np.flatnonzero((one.sources == edge[0]) & (one.targets == edge[1]))
        assert one.weights[at] < 0  # histamine inhibits
        total = np.bincount(one.targets, abs(one.weights))
        np.testing.assert_allclose(total[total > 0], 1)


def test_an_edge_reaches_every_column_from_its_side(connectome):
    rng = np.random.default_rng(0)
    u, v = connectome.columns(3).T
    across = [u + v / 2, v, -u - v / 2, -v]
    for _ in range(20):
        seen, direction = connectome.moving_edge(rng, 3)
        at = (seen != 0).argmax(axis=0)  # when each column is passed
        passed = (seen != 0).any(axis=0)
        assert np.corrcoef(at[passed], across[direction][passed])[0, 1] > 0.9


def test_the_fly_learns_which_way_an_edge_moves(connectome):
    curves = connectome.main(extent=2, sequences=200)
    for curve in curves.values():
        assert curve[0] < 0.5
        assert curve[-1] > 0.8
