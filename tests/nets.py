"""Small directed nets for tests: patterns of D (units, units) and I (units, weights), boolean."""

import numpy as np
from hypothesis import strategies as st


def ring(units):
    """0 → 1 → … → 0, one weight into each unit: D[i, i - 1] and I[i, i]."""
    return np.roll(np.eye(units, dtype=bool), 1, axis=0), np.eye(units, dtype=bool)


def parallel_paths(paths):
    """Lead unit 0 → `paths` units → one last unit, with one weight that writes unit 0."""
    dynamics = np.zeros((paths + 2, paths + 2), bool)
    dynamics[1:-1, 0] = True
    dynamics[-1, 1:-1] = True
    immediate = np.zeros((paths + 2, 1), bool)
    immediate[0] = True
    return dynamics, immediate


def random_sparse(rng, units, sources, weights_per_unit):
    """Draw `sources` random inputs to each unit, and weights that write one unit each."""
    dynamics = np.zeros((units, units), bool)
    dynamics[np.arange(units)[:, None], rng.integers(0, units, (units, sources))] = True
    immediate = np.zeros((units, units * weights_per_unit), bool)
    immediate[np.arange(units * weights_per_unit) % units, np.arange(immediate.shape[1])] = True
    return dynamics, immediate


@st.composite
def nets(draw, max_units=8, max_weights=14):
    """Any net: hubs, self-loops, units without links, weights that reach nothing, islands."""
    units = draw(st.integers(1, max_units))
    weights = draw(st.integers(1, max_weights))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dynamics = rng.random((units, units)) < draw(st.sampled_from([0, 0.1, 0.2, 0.4, 1]))
    immediate = rng.random((units, weights)) < draw(st.sampled_from([0.05, 0.2, 0.5]))
    some_unit = st.integers(0, units - 1)
    for change in draw(st.sets(st.sampled_from(["ring", "loops", "islands", "one each"]))):
        if change == "ring":
            dynamics |= ring(units)[0]
        elif change == "loops":
            dynamics |= np.eye(units, dtype=bool)
        elif change == "islands":
            cut = draw(some_unit)
            dynamics[cut:, :cut] = dynamics[:cut, cut:] = False
        else:  # weights of one unit, like those of a net
            immediate[:] = False
            immediate[rng.integers(0, units, weights), np.arange(weights)] = True
    for change in draw(st.sets(st.sampled_from(["source", "sink", "no row", "no column", "idle"]))):
        if change == "source":
            dynamics[:, draw(some_unit)] = True
        elif change == "sink":
            dynamics[draw(some_unit)] = True
        elif change == "no row":
            dynamics[draw(some_unit)] = False
        elif change == "no column":
            dynamics[:, draw(some_unit)] = False
        else:
            immediate[:, draw(st.integers(0, weights - 1))] = False
    return dynamics, immediate
