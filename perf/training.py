"""Whole steps of learning on a stream: ours, and backpropagation through time in other frameworks.

    snap-1   SnAp-1 on the sparse net: forward, traces, gradient, and an update after the window
    bptt     our own sparse BPTT over the window, and an update
    jax      value and gradient of the dense net over the window, under jit; the products with the
             input and the readout are taken out of the scan
    torch    forward and backward of eager torch.nn.RNN or GRU over the window, dense

All on one thread, on nets of the same size with random weights. The dense ones do not update.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from contestant import Contestant
from workloads import Training

Stream = tuple[np.ndarray, np.ndarray]


def stream(workload: Training) -> Stream:
    """Draw inputs, (window, batch, inputs), and classes, (window, batch)."""
    rng = np.random.default_rng(0)
    shape = workload.window, workload.batch
    xs = rng.standard_normal((*shape, workload.inputs)).astype(np.float32)
    return xs, rng.integers(0, workload.outputs, shape)


def ours(name: str, workload: Training, data: Stream) -> tuple[Callable[[], object], int]:
    import sparsegrad as s

    cells: dict[str, Any] = {"rnn": s.RNN, "gru": s.GRU}
    cell = cells[workload.cell](workload.inputs, workload.units, sparsity=workload.sparsity)
    readout = s.Linear(workload.outputs, "cross_entropy")
    window = workload.window
    options = {"update_every": window} if name == "snap-1" else {}
    method = s.SnAp(1) if name == "snap-1" else s.BPTT(window)
    learner = s.OnlineLearner(
        cell, readout, method, s.SGD(1e-5), batch=workload.batch, threads=1, **options
    )
    return lambda: learner.run(*data), cell.weights.size


def in_torch(name: str, workload: Training, data: Stream) -> tuple[Callable[[], object], int]:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    kind = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU}[workload.cell]
    net = kind(workload.inputs, workload.units)
    readout = torch.nn.Linear(workload.units, workload.outputs)
    xs, targets = torch.from_numpy(data[0]), torch.from_numpy(data[1]).reshape(-1)

    def step() -> None:
        net.zero_grad()
        readout.zero_grad()
        logits = readout(net(xs)[0]).reshape(-1, workload.outputs)
        torch.nn.functional.cross_entropy(logits, targets, reduction="sum").backward()

    return step, sum(tensor.numel() for tensor in net.parameters())


def in_jax(name: str, workload: Training, data: Stream) -> tuple[Callable[[], object], int]:
    import jax
    import jax.numpy as jnp

    units, gates = workload.units, {"rnn": 1, "gru": 3}[workload.cell]
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)

    net = (
        draw(workload.inputs, gates * units), draw(units, gates * units),
        jnp.zeros(gates * units), jnp.zeros(gates * units),
    )  # fmt: skip
    readout = draw(units, workload.outputs)
    xs, targets = jnp.asarray(data[0]), jnp.asarray(data[1])

    def rnn(h: Any, a: Any, b: Any) -> Any:
        return jnp.tanh(a + b)

    def gru(h: Any, a: Any, b: Any) -> Any:
        r = jax.nn.sigmoid(a[:, :units] + b[:, :units])
        z = jax.nn.sigmoid(a[:, units : 2 * units] + b[:, units : 2 * units])
        n = jnp.tanh(a[:, 2 * units :] + r * b[:, 2 * units :])
        return n + z * (h - n)

    cell = {"rnn": rnn, "gru": gru}[workload.cell]

    def loss(parameters: Any) -> Any:
        (w_ih, w_hh, b_ih, b_hh), out = parameters

        def step(h: Any, a: Any) -> Any:
            h = cell(h, a, h @ w_hh + b_hh)
            return h, h

        start = jnp.zeros((workload.batch, units))
        _, hs = jax.lax.scan(step, start, xs @ w_ih + b_ih)
        scores = jax.nn.log_softmax(hs @ out)
        return -jnp.take_along_axis(scores, targets[..., None], -1).mean(1).sum()

    gradient = jax.jit(jax.value_and_grad(loss))
    weights = sum(int(array.size) for array in net)
    return lambda: jax.block_until_ready(gradient((net, readout))), weights


MAKERS = {"snap-1": ours, "bptt": ours, "jax": in_jax, "torch": in_torch}


def contestant(name: str, workload: Training, limit: float) -> Contestant:
    """Prepare one for a workload."""
    step, weights = MAKERS[name](name, workload, stream(workload))
    return Contestant(step, steps=workload.window, about={"weights": weights})
