"""
A cell of your own
==================

A cell is a list of sparse linear maps a_g = W_g h + U_g x + b_g and one formula for a unit: the new
state from the old one and from what the maps give. Its partial derivatives are derived. Everything
else (forward, Jacobians, every method, masks, batches) follows from them.
"""

# %%
# A leaky integrator, h' = (1 - z) h + z tanh(a), with a learnt rate z. The first map reads h and x
# and has a bias; the second has a bias alone, one rate per unit.

import numba
import numpy as np

import sparsegrad
from sparsegrad.cells.functions import sigmoid, tanh


def leaky(h, a, b):
    """Return the new state from the old one and from what each map gives."""
    z = sigmoid(b)
    return (1 - z) * h + z * tanh(a)


class Leaky(sparsegrad.Cell):
    """A leaky integrator with a learnt rate."""

    kind = sparsegrad.CellKind.from_function(
        leaky, maps=(sparsegrad.Map(), sparsegrad.Map(h=False, x=False, initial_bias=-2.0))
    )


# %%
# Any method, any readout, any optimiser.


def learn(cell):
    """Learn to add up the input, and print how that goes."""
    readout = sparsegrad.Linear(1, loss="squared_error")
    learner = sparsegrad.OnlineLearner(cell, readout, sparsegrad.RTRL(), sparsegrad.SGD(0.01))
    xs = np.random.default_rng(0).normal(size=(2000, 1, 3)).astype(np.float32)
    losses = learner.run(xs, np.cumsum(xs[..., :1], axis=0) % 1)
    print(losses[:100].mean(), "->", losses[-100:].mean())


learn(Leaky(inputs=3, units=20, sparsity=0.8))

# %%
# A formula computes with numbers, ``+ - * / **`` and the functions of
# :mod:`sparsegrad.cells.functions` (NumPy's own of the same names serve too). It may not branch on
# a value, since it is run once, on symbols: the line that does so is named, and ``where`` chooses
# in its place.


def clipped(h, a):
    """Branch on a value."""
    return a if a > 0 else 0.1 * h


try:
    sparsegrad.CellKind.from_function(clipped)
except TypeError as error:
    print(error)

# %%
# A cell of several state numbers takes them first and returns them in the same order; the maps read
# the first. ``stop(x)`` lets no gradient through, ``spike(x, surrogate)`` is 1 above 0 with a slope
# of your own: a neuron of two lines.

from sparsegrad.cells.functions import relu, spike, stop


def neuron(z, v, a):
    """Spike, membrane, input; a spike takes 0.6 off."""
    new_v = 0.95 * v + a - 0.6 * stop(z)
    return spike(new_v - 0.6, 0.5 * relu(1 - abs(new_v / 0.6 - 1))), new_v


sparsegrad.check_cell(sparsegrad.CellKind.from_function(neuron))

# %%
# By hand
# -------
#
# An update may be written by hand too, where an operation is missing. Arrays come as (components,
# units) and (maps, units); it writes the new state and each partial derivative.


@numba.njit
def by_hand(state, pre, new_state, d_state, d_pre):
    """Write the state after a step, and its partial derivatives."""
    for u in range(state.shape[1]):
        a = np.tanh(pre[0, u])
        z = 1 / (1 + np.exp(-pre[1, u]))
        new_state[0, u] = (1 - z) * state[0, u] + z * a
        d_state[0, 0, u] = 1 - z  # ∂h'/∂h
        d_pre[0, 0, u] = z * (1 - a * a)  # ∂h'/∂a_0
        d_pre[0, 1, u] = (a - state[0, u]) * z * (1 - z)  # ∂h'/∂a_1


# %%
# A wrong partial learns, only badly; so have them compared with finite differences, and the new
# state with the formula. The message names the partial that is wrong.

maps = Leaky.kind.maps
sparsegrad.check_cell(sparsegrad.CellKind(update=by_hand, maps=maps), formula=leaky)


@numba.njit
def wrong(state, pre, new_state, d_state, d_pre):
    """Forget the minus of ∂h'/∂h."""
    by_hand(state, pre, new_state, d_state, d_pre)
    d_state[0, 0] = -d_state[0, 0]


try:
    sparsegrad.check_cell(sparsegrad.CellKind(update=wrong, maps=maps))
except ValueError as error:
    print(error)

# %%
# In a file of its own, decorate such a function with ``numba.njit(cache=True)``: it is then
# compiled once. The code of a formula is kept in Numba's cache folder in any case.
