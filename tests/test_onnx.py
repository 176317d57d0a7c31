"""A step in ONNX, run by onnxruntime: against our own step and torch's."""

import sys

import numpy as np
import pytest

from sparsegrad import GRU, LSTM, RNN
from sparsegrad.interop.onnx import step_model, write_step


def numbers(shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


CELLS = [
    lambda **o: GRU(4, 9, **o),
    lambda **o: LSTM(4, 9, **o),
    lambda **o: RNN(4, 9, **o),
    lambda **o: RNN(4, 9, nonlinearity="relu", **o),
]


@pytest.mark.parametrize("make", CELLS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_step_in_onnx_is_torchs(make, bias, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    cell = make(sparsity=0.5, seed=1)
    options = {"nonlinearity": "relu"} if "relu" in cell.kind.update.__name__ else {}
    name = type(cell).__name__
    theirs = getattr(torch.nn, name + "Cell")(4, 9, bias, **options)
    with torch.no_grad():
        for key, values in cell.to_dense().items():
            if key.startswith("weight"):
                getattr(theirs, key).copy_(torch.from_numpy(values))
        dense = {key: p.numpy() for key, p in theirs.named_parameters()}
    again = type(cell).from_dense(**dense, **options)
    write_step(tmp_path / "cell.onnx", again)
    session = runtime.InferenceSession(tmp_path / "cell.onnx", providers=["CPUExecutionProvider"])
    state = [numbers((3, 9), seed) for seed in (1, 2)][: cell.kind.components]
    for t in range(4):
        x = numbers((3, 4), 10 + t)
        given = dict(zip("hc", state, strict=False))
        found = session.run(None, {"x": x, **given})
        pair = [torch.from_numpy(s) for s in state]
        with torch.no_grad():
            expected = theirs(torch.from_numpy(x), tuple(pair) if len(pair) > 1 else pair[0])
        expected = expected if isinstance(expected, tuple) else (expected,)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=2e-6, atol=2e-6)
        state = found


def test_what_is_no_cell_is_refused():
    pytest.importorskip("onnx", reason="onnx is not installed")
    with pytest.raises(TypeError, match="cell must be a GRU, LSTM or RNN of sparsegrad"):
        step_model("GRU")


def test_without_onnx_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'needs onnx.*pip install "sparsegrad-rtrl\[onnx\]"'):
        step_model(GRU(3, 4))
