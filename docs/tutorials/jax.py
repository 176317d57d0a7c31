"""
JAX
===

J rides in the carry, and ``jax.grad`` of a step's loss is the online gradient. The kernels are
reached through XLA's foreign function interface, on the CPU.
"""

# %%
# ``SnapStep`` takes the structure and the initial weights from a cell. Its parameters are a dict of
# arrays, to be put beside those of any other layer.

import jax
import jax.numpy as jnp

import sparsegrad
from sparsegrad.interop.jax import SnapStep

snap_step = SnapStep(sparsegrad.GRU(3, 32, sparsity=0.75, seed=0), n=2)
params = {
    "cell": snap_step.params(),
    "readout": jax.random.normal(jax.random.key(0), (32, 3)) / 32**0.5,
}

# %%
# The loss of one step. The carry comes back beside it, with state and J of after the step.


def loss(params, carry, x, target):
    """Return the loss of one step and the carry after it."""
    carry, h = snap_step(params["cell"], carry, x)
    return jnp.mean((h @ params["readout"] - target) ** 2), carry


# %%
# The gradient is taken inside the scan's body: J is then held once and updated in place. Plain
# gradient descent here; any optimiser of optax goes in its place.


def body(held, x):
    """Make one step of learning."""
    params, carry, before = held
    (value, carry), grads = jax.value_and_grad(loss, has_aux=True)(params, carry, x, before)
    params = jax.tree.map(lambda w, g: w - 0.1 * g, params, grads)
    return (params, carry, x), value


xs = jax.random.normal(jax.random.key(1), (2000, 4, 3))  # (time, batch, inputs)
held = params, snap_step.carry(batch=4), xs[0]
(params, carry, _), losses = jax.jit(lambda held: jax.lax.scan(body, held, xs))(held)
print(f"{losses[:100].mean():.3f} -> {losses[-100:].mean():.3f}")

# %%
# Where a sequence begins, zero its part of the carry; ``dense`` shows weights or gradients in
# PyTorch's shapes.

carry = snap_step.reset(carry, jnp.array([True, False, False, False]))
print({name: array.shape for name, array in snap_step.dense(params["cell"]).items()})
