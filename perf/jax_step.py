"""Time a step of SnapStep in JAX: the crossing's overhead, and whole training against the learner.

    crossing    value and gradient of a step on a net of four units inside one jitted scan, less
                the same of a plain matrix product, in µs
    training    a step of GRU 256 @ 93.75%, n = 2, batch 16, with SGD, in one jitted scan, over a
                step of our own learner on the same net

Contestants take turns in one process, one thread; medians. Prints JSON lines.
"""

import argparse
import json
import os

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import jax
import jax.numpy as jnp
import numpy as np
from step import take_turns

import sparsegrad
from sparsegrad.interop.jax import SnapStep


def crossing(rounds: int, steps: int) -> dict[str, object]:
    step = SnapStep(sparsegrad.GRU(2, 4, sparsity=0.5, seed=0))
    params, x = step.params(), jnp.ones((1, 2))
    weight = jnp.ones((2, 4))

    def ours_loss(params, carry):
        carry, h = step(params, carry, x)
        return h.sum(), carry

    def plain_loss(weight, h):
        h = x @ weight + 0.5 * h
        return h.sum(), h

    def body(loss, trained):
        def one(carry, _):
            (value, carry), grads = jax.value_and_grad(loss, has_aux=True)(trained, carry)
            return carry, (value, jax.tree.map(jnp.sum, grads))

        return jax.jit(lambda carry: jax.lax.scan(one, carry, None, length=steps)[1])

    ours, plain = body(ours_loss, params), body(plain_loss, weight)
    start, zero = step.carry(1), jnp.zeros((1, 4))
    seconds = take_turns(
        {
            "ours": lambda: jax.block_until_ready(ours(start)),
            "plain": lambda: jax.block_until_ready(plain(zero)),
        },
        rounds,
    )
    microseconds = {name: 1e6 * value / steps for name, value in seconds.items()}
    overhead = microseconds["ours"] - microseconds["plain"]
    return {"comparison": "crossing", "microseconds": overhead, **microseconds}


def training(units: int, sparsity: float, batch: int, rounds: int) -> dict[str, object]:
    steps, outputs = 8, 8
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((steps, batch, 32)).astype("float32")
    targets = rng.integers(0, outputs, (steps, batch))
    cell = sparsegrad.GRU(32, units, sparsity=sparsity, seed=0)
    step = SnapStep(cell)
    trained = step.params(), jnp.zeros((units, outputs))

    def loss(trained, carry, x, target):
        carry, h = step(trained[0], carry, x)
        logits = jax.nn.log_softmax(h @ trained[1])
        return -jnp.take_along_axis(logits, target[:, None], 1).mean(), carry

    def body(held, xt):
        trained, carry = held
        grads, carry = jax.grad(loss, has_aux=True)(trained, carry, *xt)
        return (jax.tree.map(lambda p, g: p - 1e-5 * g, trained, grads), carry), None

    run = jax.jit(lambda held: jax.lax.scan(body, held, (xs, targets))[0], donate_argnums=0)
    held = [run((trained, step.carry(batch)))]

    def in_jax() -> None:
        held[0] = jax.block_until_ready(run(held[0]))

    learner = sparsegrad.OnlineLearner(
        cell, sparsegrad.Linear(outputs, "cross_entropy"), sparsegrad.SnAp(2),
        sparsegrad.SGD(1e-5), batch=batch, threads=1,
    )  # fmt: skip
    seconds = take_turns({"jax": in_jax, "learner": lambda: learner.run(xs, targets)}, rounds)
    return {
        "comparison": "training", "units": units, "sparsity": sparsity, "batch": batch,
        "ratio": seconds["jax"] / seconds["learner"],
        **{name: value / steps for name, value in seconds.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="sizes for a smoke test")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    print(json.dumps(crossing(args.rounds, 5 if args.toy else 500)), flush=True)
    net = (12, 0.5, 2) if args.toy else (256, 0.9375, 16)
    print(json.dumps(training(*net, args.rounds)), flush=True)


if __name__ == "__main__":
    main()
