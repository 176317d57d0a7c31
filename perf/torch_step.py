"""Time a step of SnApGRU in PyTorch: the crossing's overhead, and against `learner.run`.

    crossing    forward and backward of a step on a net of four units, less the same of a layer of
                torch's own of that size (torch.nn.Linear) and less the kernels' own time, in µs;
                before each step the gradients are dropped, as an optimiser's zero_grad does. Beside
                it the same beyond a bare matrix product (no module, one parameter), and what a step
                takes with an autograd function that does nothing (its overhead is the floor of any
                module in Python) and with torch.nn.GRUCell, whose backward pass ends at the step
    training    an online step (forward, backward, SGD) of GRU 256 @ 93.75%, n = 2, batch 16, over
                a step of our own learner on the same net

Contestants take turns in one process, one thread; medians. Prints JSON lines. With --memory STEPS
it trains online for so many steps instead, some without a backward pass, some over two steps, with
sequences that end, and says how this process's memory has grown since a tenth of them.
"""

import argparse
import gc
import json
import time
from pathlib import Path

import numpy as np
import torch
from step import take_turns

import sparsegrad
from sparsegrad.interop.torch import SnApGRU
from sparsegrad.kernels.interop.embed import host_influence_step, host_step


class Nothing(torch.autograd.Function):
    """What every autograd function costs: one output, and a gradient for each parameter."""

    @staticmethod
    def forward(ctx, h, *parameters):
        """Return h."""
        ctx.sizes = [p.numel() for p in parameters]
        return h.clone()

    @staticmethod
    def backward(ctx, grad):
        """Return zeros."""
        return None, *torch.zeros(sum(ctx.sizes)).split_with_sizes(ctx.sizes)


def crossing(rounds: int, steps: int = 200) -> dict[str, object]:
    cell = SnApGRU(2, 4, sparsity=0.5, seed=0)
    x, weight = torch.randn(1, 2), torch.randn(4, 2, requires_grad=True)
    cell(x).sum().backward()
    state, parameters = torch.zeros(1, 4), list(cell.parameters())
    linear, theirs = torch.nn.Linear(2, 4), torch.nn.GRUCell(2, 4)
    linear_parameters, their_parameters = list(linear.parameters()), list(theirs.parameters())
    window, link, host = cell._window, cell._link, cell._link.host

    def drop(parameters: list[torch.Tensor]) -> None:
        for parameter in parameters:
            parameter.grad = None

    def ours() -> None:
        h = None
        for _ in range(steps):
            drop(parameters)
            h = cell(x, h)
            h.sum().backward()

    def layer() -> None:
        for _ in range(steps):
            drop(linear_parameters)
            linear(x).sum().backward()

    def product() -> None:
        for _ in range(steps):
            drop([weight])
            (x @ weight.T).sum().backward()

    def nothing() -> None:
        for _ in range(steps):
            drop(parameters)
            Nothing.apply(state, *parameters).sum().backward()

    def gru_cell() -> None:
        h = state
        for _ in range(steps):
            drop(their_parameters)
            h = theirs(x, h.detach())
            h.sum().backward()

    def kernels() -> None:
        step, told, starts = window.open(1, True, False)
        new_state, at = np.empty((1, 1, 4), np.float32), (x.data_ptr(), *[state.data_ptr()] * 2)
        signal, grad = np.ones((1, 4), np.float32), np.zeros(window.order.size, np.float32)
        d_pre, influence, last = host.spare_d_pre, window._influence, window.last
        data = step.dynamics_data, step.immediate_data
        for _ in range(steps):
            host_step(host.words, link.parts, at, 2, told, starts, last, new_state, d_pre, *data)
            host_influence_step(
                window._words, *data, True, signal, influence._panels, window.order, grad,
                window._step_grad, influence._scratch,
            )  # fmt: skip
        window.discard(step)

    contestants = {f.__name__: f for f in (ours, layer, product, kernels, nothing, gru_cell)}
    seconds = take_turns(contestants, rounds)
    us = {name: 1e6 * value / steps for name, value in seconds.items()}
    beyond = us["ours"] - us["kernels"]
    return {
        "comparison": "crossing", "microseconds": beyond - us["layer"],
        "beyond_product": beyond - us["product"], "floor": us["nothing"] - us["layer"], **us,
    }  # fmt: skip


def training(units: int, sparsity: float, batch: int, rounds: int) -> dict[str, object]:
    steps, outputs = 8, 8
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((steps, batch, 32)).astype("float32")
    targets = rng.integers(0, outputs, (steps, batch))
    cell = SnApGRU(32, units, sparsity=sparsity, seed=0)
    readout = torch.nn.Linear(units, outputs)
    optimizer = torch.optim.SGD([*cell.parameters(), *readout.parameters()], lr=1e-5)
    tensors, labels = torch.from_numpy(xs), torch.from_numpy(targets)
    state = [None]

    def in_torch() -> None:
        for x, target in zip(tensors, labels, strict=True):
            state[0] = cell(x, state[0])
            loss = torch.nn.functional.cross_entropy(readout(state[0]), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    learner = sparsegrad.OnlineLearner(
        sparsegrad.GRU(32, units, sparsity=sparsity, seed=0),
        sparsegrad.Linear(outputs, "cross_entropy"), sparsegrad.SnAp(2), sparsegrad.SGD(1e-5),
        batch=batch, threads=1,
    )  # fmt: skip
    seconds = take_turns({"torch": in_torch, "learner": lambda: learner.run(xs, targets)}, rounds)
    return {
        "comparison": "training", "units": units, "sparsity": sparsity, "batch": batch,
        "ratio": seconds["torch"] / seconds["learner"],
        **{name: value / steps for name, value in seconds.items()},
    }  # fmt: skip


def memory(steps: int) -> dict[str, object]:
    torch.manual_seed(0)
    cell = SnApGRU(8, 16, sparsity=0.5, seed=0)
    readout = torch.nn.Linear(16, 8)
    optimizer = torch.optim.SGD([*cell.parameters(), *readout.parameters()], lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    h, bytes_at, objects_at, start = None, {}, {}, time.perf_counter()
    for t in range(1, steps + 1):
        if t in (steps // 10, steps):
            gc.collect()
            objects_at[t], bytes_at[t] = len(gc.get_objects()), resident_bytes()
        if t % 1000 == 0:
            h = None
        x = torch.randn(2, 8, generator=generator)
        h = cell(x, h)
        if t % 7 == 0:  # no loss at this step
            continue
        if t % 50 == 0:
            cell.reset(0)
            h = h * torch.tensor([[0.0], [1.0]])
        if t % 10 == 0:  # one backward pass for two steps
            h = cell(x, h)
        loss = torch.nn.functional.mse_loss(readout(h), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {
        "comparison": "memory", "steps": steps, "seconds": time.perf_counter() - start,
        "bytes": bytes_at[steps], "growth": bytes_at[steps] - bytes_at[steps // 10],
        "objects_growth": objects_at[steps] - objects_at[steps // 10], "loss": loss.item(),
    }  # fmt: skip


def resident_bytes() -> int:
    """Return this process's memory as Linux tells it."""
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="sizes for a smoke test")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--memory", type=int, metavar="STEPS", help="train for so many instead")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory:
        print(json.dumps(memory(args.memory)))
        return
    print(json.dumps(crossing(args.rounds, 5 if args.toy else 200)), flush=True)
    net = (12, 0.5, 2) if args.toy else (256, 0.9375, 16)
    print(json.dumps(training(*net, args.rounds)), flush=True)


if __name__ == "__main__":
    main()
