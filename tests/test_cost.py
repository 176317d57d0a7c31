import os

import hypothesis
import numpy as np
import oracle
import pytest
import scipy.sparse as sp
from hypothesis import strategies as st
from nets import nets, random_sparse, ring

from sparsegrad.symbolic.cost import saturated_counts
from sparsegrad.symbolic.pattern import reach
from sparsegrad.system import memory

INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


@hypothesis.given(net=nets(), n=st.sampled_from([1, 2, 3, None]), batch=st.integers(1, 5))
def test_cost_is_counted_exactly(net, n, batch):
    kept = oracle.reach(*net, n)
    for dtype, itemsize in (("float32", 4), (np.float64, 8)):
        assert reach(*net, n=n).cost(batch, dtype) == (
            batch * kept.sum(),
            batch * oracle.multiply_adds(net[0], kept),
            batch * kept.sum() * itemsize,
        )


@hypothesis.given(net=nets())
def test_saturated_counts_are_those_of_the_saturated_pattern(net):
    assert saturated_counts(*net) == reach(*net, n=None).cost()[:2]


def test_saturated_counts_of_a_net_whose_saturated_pattern_nobody_could_store(scarce, rng):
    units = 200 if INTERPRETED else 20_000
    sources = sp.csr_array(
        (np.ones(4 * units), rng.integers(0, units, 4 * units), np.arange(0, 4 * units + 1, 4)),
        shape=(units, units),
    )
    ring_of_all = sp.csr_array(
        (np.ones(units), (np.arange(units) + 1) % units, np.arange(units + 1)),
        shape=(units, units),
    )
    net = sources + ring_of_all
    scarce(0)
    assert saturated_counts(net, sp.eye_array(units)) == (units**2, units * net.nnz)


def gated(rng, units, sparsity, gates):
    """D and I of a net with one random mask per matrix, 32 masked inputs and dense biases."""
    dynamics = np.zeros((units, units), bool)
    owners = [np.tile(np.arange(units), gates)]  # of the biases
    for _ in range(gates):
        for inputs in (units, 32):
            mask = np.zeros(units * inputs, bool)
            mask[rng.permutation(mask.size)[: round(mask.size * (1 - sparsity))]] = True
            mask = mask.reshape(units, inputs)
            owners.append(np.nonzero(mask)[0])
            if inputs == units:
                dynamics |= mask
    if gates > 1:
        dynamics |= np.eye(units, dtype=bool)  # a gated unit feeds itself
    owner = np.concatenate(owners)
    immediate = sp.csc_array(
        (np.ones(owner.size), owner, np.arange(owner.size + 1)), shape=(units, owner.size)
    )
    return dynamics, immediate


@pytest.mark.skipif(INTERPRETED, reason="half a million links, one by one")
@pytest.mark.parametrize(
    ("gates", "weights", "per_weight", "rtrl"),
    [(1, 1408, [0.07, 13.0, 239], 1024), (3, 4224, [1, 137, 2931], 3002)],
)
def test_counts_are_those_of_the_published_cost_table(gates, weights, per_weight, rtrl, rng):
    """RNN and GRU, 128 units, 93.75% sparse: multiply-adds per weight at n = 1, 2, 3 and RTRL.

    The reference was counted on other random masks; at n = 1 it is 8 entries on D's diagonal.
    """
    net = gated(rng, 128, 0.9375, gates)
    for n, expected in zip((1, 2, 3), per_weight, strict=True):
        pattern = reach(*net, n=n)
        assert pattern.shape == (weights, 128)
        tolerance = 0.5 if expected < 0.1 else 0.05
        assert pattern.cost().multiply_adds / weights == pytest.approx(expected, rel=tolerance)
    assert saturated_counts(*net)[1] / weights == pytest.approx(rtrl, rel=0.02)


@pytest.mark.parametrize(
    ("batch", "dtype", "error", "text"),
    [
        (0, "float32", ValueError, "batch must be at least 1, got 0"),
        (1.5, "float32", TypeError, "batch must be an integer of at least 1, got 1.5"),
        (True, "float32", TypeError, "batch must be an integer"),
        (1, "float16", TypeError, "dtype must be float32 or float64, got float16"),
    ],
)
def test_bad_batch_and_dtype_are_refused(batch, dtype, error, text):
    with pytest.raises(error, match=text):
        reach(*ring(3)).cost(batch, dtype)


def test_available_memory_is_the_least_of_what_the_system_says(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:    7 kB\n")
    assert memory.available_memory() == 7 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000\n")
    assert memory.available_memory() == 7 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.available_memory() == 2000
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500\n")
    assert memory.available_memory() == 2500


def test_available_memory_without_proc_or_cgroup(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PAGE_SIZE": 10, "SC_AVPHYS_PAGES": 4}.get)
    with pytest.raises(MemoryError, match=r"J must fit.*use a smaller n or a sparser net"):
        memory.require_memory(2**21, "J")
    monkeypatch.delattr(memory.os, "sysconf")
    assert memory.available_memory() is None
    memory.require_memory(2**62, "J")  # nobody knows: let the system say


def test_the_message_names_the_largest_n_that_fits(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 3 * 2**30)
    memory.require_memory(3 * 2**30, "J")
    with pytest.raises(MemoryError) as raised:
        memory.require_memory(2**33, "J", (2**30, 2**31, 2**33))
    assert str(raised.value) == (
        "J must fit in the available memory of 3 GiB, got 8 GiB; the largest n that fits is 2"
    )


def test_a_large_net_is_counted_without_overflow(rng):
    net = random_sparse(rng, 30, 3, 2)
    pattern = reach(*net)
    assert pattern.cost(batch=10**15).bytes == 4 * 10**15 * pattern.nnz
