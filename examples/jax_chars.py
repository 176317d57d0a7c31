"""The character model of torch_chars.py in JAX, with optax and a readout of Equinox, as one scan.

The gradient of each step is taken inside the scan's body, so that J is held once and updated in
place. Any module that is a tree of arrays goes beside `params` in the tuple that is differentiated.
"""

import equinox
import jax
import jax.numpy as jnp
import optax

import sparsegrad
from sparsegrad.interop.jax import SnapStep

TEXT = "the cat sat on the mat; the rat sat on the cat. "


def main(steps: int = 1500, streams: int = 4) -> tuple[float, float]:
    """Train; return the mean loss of the first and of the last fifty characters, in nats."""
    letters = sorted(set(TEXT))
    codes = jnp.array([letters.index(letter) for letter in TEXT])
    snap_step = SnapStep(sparsegrad.GRU(len(letters), 64, sparsity=0.75, seed=0), n=2)
    optimizer = optax.adam(3e-3)
    readout = equinox.nn.Linear(64, len(letters), key=jax.random.key(0))
    trained = (snap_step.params(), readout)

    def loss(trained, carry, here, after):
        params, readout = trained
        carry, h = snap_step(params, carry, jax.nn.one_hot(here, len(letters)))
        logits = jax.vmap(readout)(h)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, after)
        return losses.mean(), carry

    def body(held, t):
        trained, memory, carry = held
        at = jnp.arange(streams) * 11 + t
        here, after = codes[at % len(TEXT)], codes[(at + 1) % len(TEXT)]
        (value, carry), grads = jax.value_and_grad(loss, has_aux=True)(trained, carry, here, after)
        updates, memory = optimizer.update(grads, memory)
        return (optax.apply_updates(trained, updates), memory, carry), value

    held = trained, optimizer.init(trained), snap_step.carry(streams)
    run = jax.jit(lambda held: jax.lax.scan(body, held, jnp.arange(steps))[1])
    losses = run(held)
    return float(losses[:50].mean()), float(losses[-50:].mean())


if __name__ == "__main__":
    print("loss {:.3f} -> {:.3f} nats a character".format(*main()))
