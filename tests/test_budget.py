"""Budgets: which entries of J are kept where not all may be."""

import hypothesis
import numpy as np
import oracle
import pytest
import scipy.sparse as sp
from hypothesis import strategies as st
from nets import nets, ring

from sparsegrad.symbolic.pattern import reach


def kept(pattern):
    return pattern.to_scipy().toarray().T


def by_the_rule(dynamics, immediate, n, budget, rank=None):
    """Places one after another, (hops, -paths, weight, unit), a whole supernode's at a time."""
    links, seeds = np.asarray(dynamics) != 0, np.asarray(immediate) != 0
    units, weights = seeds.shape
    most = units + 1 if n is None else n
    factor = links * (1.0 if rank is None else np.abs(rank))
    columns = oracle.supernodes(seeds)
    first = [columns.index(group) for group in range(max(columns) + 1)]
    places = []
    for group, weight in enumerate(first):
        seen = seeds[:, weight].copy()
        paths, last = seen.astype(float), seen
        places += [(0, 0.0, weight, unit, group) for unit in np.flatnonzero(seen)]
        for hop in range(1, most):
            new = (links @ last) & ~seen
            paths = np.where(new, factor @ paths, 0)
            places += [(hop, -paths[unit], weight, unit, group) for unit in np.flatnonzero(new)]
            seen, last = seen | new, new
            if not new.any():
                break
    result = np.zeros((units, weights), bool)
    spent = 0
    for hop, _, _, unit, group in sorted(places):
        cost = columns.count(group)
        if hop and spent + cost > budget:
            break
        spent += cost
        result[unit, np.array(columns) == group] = True
    return result


@pytest.mark.parametrize("n", [1, 2, 3, 4, None])
@hypothesis.given(net=nets(), part=st.floats(0, 1.2), ranked=st.booleans())
def test_a_budget_keeps_what_the_rule_ranks_highest(net, n, part, ranked):
    least, whole = reach(*net, n=1), reach(*net, n=n)
    budget = max(1, int(least.nnz + part * (whole.nnz - least.nnz)))
    rank = None
    if ranked:  # powers of two: sums over paths are exact in any order
        size = whole.dynamics_indices.size
        values = 2.0 ** np.random.default_rng(size).integers(-3, 4, size) * -1
        rank = sp.csr_array(
            (values, whole.dynamics_indices, whole.dynamics_indptr), shape=(whole.shape[1],) * 2
        )
    pattern = reach(*net, n=n, budget=budget, rank=rank)
    dense = None if rank is None else rank.toarray()
    links = whole.dynamics_indptr, whole.dynamics_indices
    dynamics = sp.csr_array(
        (np.ones(links[1].size), links[1], links[0]), shape=(whole.shape[1],) * 2
    )
    wanted = by_the_rule(dynamics.toarray(), kept(least), n, budget, dense)
    np.testing.assert_array_equal(kept(pattern), wanted)
    assert pattern.nnz == wanted.sum() <= budget
    assert pattern.supernode.tolist() == oracle.supernodes(wanted)
    assert pattern.entries_by_n[-1] == pattern.nnz
    assert pattern.saturated == (whole.saturated and pattern.nnz == whole.nnz)


def test_a_larger_budget_keeps_all_of_a_smaller_one():
    rng = np.random.default_rng(0)
    net = rng.random((16, 16)) < 0.12, np.eye(16, dtype=bool).repeat(3, axis=1)
    least, most = reach(*net, n=1), reach(*net, n=4)
    before = kept(least)
    for budget in range(least.nnz, most.nnz + 1):
        now = kept(reach(*net, n=4, budget=budget))
        assert (now | before == now).all()
        assert budget - 3 < now.sum() <= budget or now.sum() == most.nnz
        before = now
    np.testing.assert_array_equal(before, kept(most))
    np.testing.assert_array_equal(kept(reach(*net, n=4, budget=least.nnz)), kept(least))


def test_what_does_not_fit_a_budget_is_refused():
    net = ring(6)
    with pytest.raises(
        ValueError, match="budget must be at least 6 entries, those of SnAp-1, got 5"
    ):
        reach(*net, n=3, budget=5)
    with pytest.raises(TypeError, match="budget must be an integer"):
        reach(*net, n=3, budget=7.5)
    with pytest.raises(ValueError, match="rank must come with a budget"):
        reach(*net, n=3, rank=np.ones(6))
    with pytest.raises(ValueError, match=r"rank must have shape \(6,\)"):
        reach(*net, n=3, budget=7, rank=np.ones(5))
    with pytest.raises(ValueError, match="rank must be finite"):
        reach(*net, n=3, budget=7, rank=np.full(6, np.nan))
    with pytest.raises(ValueError, match="without own"):
        reach(*net, n=3, budget=7, rank=np.ones(6), own=np.eye(6))
