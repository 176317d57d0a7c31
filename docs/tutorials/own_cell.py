"""
A cell of your own
==================

A cell is a list of sparse linear maps a_g = W_g h + U_g x + b_g and one compiled elementwise
function with its partial derivatives. Everything else (forward, Jacobians, every method, masks,
batches) follows from them.
"""

# %%
# A leaky integrator, h' = (1 - z) h + z tanh(a), with a learnt rate z. Arrays come as (components,
# units) and (maps, units); the function writes the new state and each partial derivative.

import numba
import numpy as np

import sparsegrad


@numba.njit
def leaky(state, pre, new_state, d_state, d_pre):
    """Write the state after a step, and its partial derivatives."""
    for u in range(state.shape[1]):
        a = np.tanh(pre[0, u])
        z = 1 / (1 + np.exp(-pre[1, u]))
        new_state[0, u] = (1 - z) * state[0, u] + z * a
        d_state[0, 0, u] = 1 - z  # ∂h'/∂h
        d_pre[0, 0, u] = z * (1 - a * a)  # ∂h'/∂a_0
        d_pre[0, 1, u] = (a - state[0, u]) * z * (1 - z)  # ∂h'/∂a_1


# %%
# The first map reads h and x and has a bias; the second has a bias alone, one rate per unit.


class Leaky(sparsegrad.Cell):
    """A leaky integrator with a learnt rate."""

    kind = sparsegrad.CellKind(
        update=leaky,
        maps=(sparsegrad.Map(), sparsegrad.Map(h=False, x=False, initial_bias=-2.0)),
    )


# %%
# A wrong partial learns, only badly; so have them compared with finite differences. The message
# names the partial that is wrong.

sparsegrad.check_cell(Leaky.kind)


@numba.njit
def wrong(state, pre, new_state, d_state, d_pre):
    """Forget the minus of ∂h'/∂h."""
    leaky(state, pre, new_state, d_state, d_pre)
    d_state[0, 0] = -d_state[0, 0]


try:
    sparsegrad.check_cell(sparsegrad.CellKind(update=wrong, maps=Leaky.kind.maps))
except ValueError as error:
    print(error)

# %%
# Any method, any readout, any optimiser.

learner = sparsegrad.OnlineLearner(
    Leaky(inputs=3, units=20, sparsity=0.8),
    sparsegrad.Linear(1, loss="squared_error"),
    sparsegrad.RTRL(),
    sparsegrad.SGD(0.01),
)
xs = np.random.default_rng(0).normal(size=(2000, 1, 3)).astype(np.float32)
losses = learner.run(xs, np.cumsum(xs[..., :1], axis=0) % 1)
print(losses[:100].mean(), "->", losses[-100:].mean())

# %%
# In a file of its own, decorate the function with ``numba.njit(cache=True)``: it is then compiled
# once, and learners of this cell start at once in the next process.
