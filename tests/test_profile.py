"""Structures, exact counts, growth exponents and the roofline behind `sparsegrad profile`."""

import math

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsegrad.cells import GRU, LSTM
from sparsegrad.cells.jacobians import dynamics_pattern, immediate_pattern
from sparsegrad.cells.structure import structure
from sparsegrad.influence.influence import Influence
from sparsegrad.influence.lowering import lower
from sparsegrad.kernels.influence.tables import FIRST_RUN, LENGTH, ROWS, VECTORS
from sparsegrad.kernels.vectors.simd import SLACK
from sparsegrad.methods import BPTT, RFLO, RTRL, UORO, SnAp
from sparsegrad.profiling import cost_model as prediction
from sparsegrad.profiling import profile as profiling
from sparsegrad.profiling import timing
from sparsegrad.profiling.cost_model import PROBES, CostModel, Probe, synthetic
from sparsegrad.profiling.profile import Point, Sweep, exact_counts, profile
from sparsegrad.profiling.report import csv_report, json_report, plain_report
from sparsegrad.profiling.roofline import Roofline
from sparsegrad.profiling.scaling import exponent, fit_growth
from sparsegrad.profiling.timing import random_values, time_call, time_update
from sparsegrad.runs.step_cost import multiply_adds, with_steps
from sparsegrad.symbolic.cost import saturated_counts
from sparsegrad.symbolic.pattern import reach
from sparsegrad.system.quantities import count, duration, percent, size

CELLS = ("rnn", "gru", "lstm")
compiled_only = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="too large for interpreted kernels"
)


def brute_counts(dynamics, immediate, n):
    """Count by dense matrices, straight from the definitions; n None: until nothing changes."""
    edges = dynamics.astype(np.int64)
    reached = immediate.copy()
    sources = edges @ reached
    while n is None or n > 1:
        wider = reached | (sources > 0)
        if (wider == reached).all():
            break
        reached, n = wider, None if n is None else n - 1
        sources = edges @ reached
    return int(reached.sum()), int((sources * reached).sum())


@compiled_only
@pytest.mark.parametrize(
    ("cell", "units", "sparsity", "dynamics_density", "weights", "per_weight"),
    [
        # an independent count of the same nets with one bias per unit and gate; here there are two
        ("rnn", 128, 0.75, 0.250, 5248 + 128, 299),
        ("gru", 128, 0.75, 0.576, 15744 + 3 * 128, 3209),
        ("gru", 512, 0.984375, 0.048, 14592 + 3 * 512, 74.5),
        ("lstm", 128, 0.75, 0.317, 20992 + 4 * 128, 9152),
        ("lstm", 256, 0.9375, 0.103, 19456 + 4 * 256, 1444),
    ],
)
def test_random_cells_have_the_known_densities_and_costs(
    cell, units, sparsity, dynamics_density, weights, per_weight
):
    drawn = structure(cell, units, sparsity)
    assert drawn.weights == weights
    density = drawn.dynamics.nnz / drawn.dynamics.shape[0] ** 2
    assert density == pytest.approx(dynamics_density, rel=0.02)
    _, multiply_adds = exact_counts(drawn, 2)
    assert multiply_adds / drawn.weights == pytest.approx(per_weight, rel=0.04)


@pytest.mark.parametrize("cell", CELLS)
def test_masks_have_exact_counts(cell):
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[cell]
    drawn = structure(cell, units=31, sparsity=0.7, inputs=7)
    assert drawn.recurrent == gates * round(0.3 * 31 * 31)
    assert drawn.weights == drawn.recurrent + gates * (round(0.3 * 31 * 7) + 2 * 31)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.97])
def test_a_mask_is_uniform_and_follows_its_seed(sparsity):
    total = np.zeros((6, 6))
    for seed in range(400):
        total += structure("rnn", 6, sparsity, inputs=0, seed=seed).dynamics.toarray()
    kept = round((1 - sparsity) * 36) / 36
    spread = math.sqrt(max(kept * (1 - kept), 1e-9) / 400)
    assert np.abs(total / 400 - kept).max() < 5 * spread + 1e-9
    once, again = (structure("gru", 40, 0.8, seed=3).dynamics for _ in range(2))
    other = structure("gru", 40, 0.8, seed=4).dynamics
    assert (once != again).nnz == 0
    assert (once != other).nnz > 0


def test_shared_gate_masks_leave_dynamics_as_sparse_as_one_gate():
    shared = structure("gru", 128, 0.75, gate_masks="shared").dynamics.nnz
    assert 0.25 * 128**2 <= shared <= 0.25 * 128**2 + 128
    assert structure("gru", 128, 0.75).dynamics.nnz > 2 * shared


def test_lstm_weights_write_the_rows_of_their_gate():
    drawn = structure("lstm", units=9, sparsity=0.5, inputs=4, seed=2)
    columns = drawn.immediate.toarray().T
    assert sorted(set(columns.sum(axis=1))) == [1, 2]
    rows = [tuple(np.flatnonzero(column)) for column in columns]
    assert all(row == (row[0],) or row == (row[0], row[0] + 9) for row in rows)
    # by unit; in a unit those of i, f, g (two rows) before those of o (one)
    assert rows == sorted(rows, key=lambda row: (row[0], -len(row)))
    dynamics = drawn.dynamics.toarray()
    own = np.eye(9, dtype=bool)
    assert (dynamics[:9, 9:] == own).all()
    assert (dynamics[9:, 9:] == own).all()
    assert (dynamics[:9, :9] >= dynamics[9:, :9]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "elman"}, "cell must be one of rnn, gru, lstm, .*, got 'elman'"),
        ({"units": 0}, "units must be between 1 and 2\\*\\*30, got 0"),
        ({"sparsity": 1.0}, "sparsity must be at least 0 and below 1, got 1.0"),
        ({"sparsity": math.nan}, "sparsity must be at least 0 and below 1, got nan"),
        ({"inputs": -1}, "inputs must be at least 0, got -1"),
        ({"gate_masks": "none"}, "gate_masks must be one of independent, shared, got 'none'"),
    ],
)
def test_structure_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        structure(**{"cell": "gru", "units": 8, "sparsity": 0.5, **change})


@settings(max_examples=30, deadline=None)
@given(
    cell=st.sampled_from(CELLS),
    units=st.integers(1, 24),
    sparsity=st.sampled_from([0.0, 0.8, 0.9, 0.95, 0.98]),
    shared=st.booleans(),
    seed=st.integers(0, 99),
)
def test_counts_equal_the_definition(cell, units, sparsity, shared, seed):
    masks = "shared" if shared else "independent"
    drawn = structure(cell, units, sparsity, inputs=2, gate_masks=masks, seed=seed)
    dense = drawn.dynamics.toarray(), drawn.immediate.toarray()
    assert saturated_counts(drawn.dynamics, drawn.immediate) == brute_counts(*dense, None)
    for n in (1, 2, 3):
        assert exact_counts(drawn, n) == brute_counts(*dense, n)


@pytest.mark.parametrize("cell", CELLS)
def test_counting_in_parts_changes_nothing(cell, monkeypatch):
    drawn = structure(cell, units=90, sparsity=0.9)
    whole = reach(drawn.dynamics, drawn.immediate, 2).cost()
    monkeypatch.setattr(profiling, "TRIAL_WEIGHTS", 50)
    monkeypatch.setattr(profiling, "CHUNK_ENTRIES", 300)
    assert exact_counts(drawn, 2) == whole[:2]


@compiled_only
def test_large_structures_are_counted_fast_and_without_their_pattern():
    drawn = structure("rnn", 30_000, 1 - 4 / 30_000, inputs=2)
    entries, multiply_adds = saturated_counts(drawn.dynamics, drawn.immediate)
    assert 0.9 * 30_000 * drawn.weights < entries < 30_000 * drawn.weights
    assert multiply_adds > 3.5 * entries
    assert exact_counts(drawn, 2)[0] < 8 * drawn.weights


def small_sweep(**change):
    return Sweep(
        **{"cells": CELLS, "units": (12, 20), "sparsity": (0.5, 0.9), "n": (1, 2, None), **change}
    )


@pytest.mark.parametrize("masks", ["independent", "shared"])
def test_counted_points_equal_reach(masks):
    sweep = small_sweep(batch=3, dtype="float64", gate_masks=masks, inputs=5, seed=7)
    points = list(profile(sweep, None))
    assert len(points) == len(sweep) == 36
    for point in points:
        drawn = structure(point.cell, point.units, point.sparsity, 5, masks, 7)
        order = None if point.n == "rtrl" else point.n
        pattern = reach(drawn.dynamics, drawn.immediate, order)
        cost = pattern.cost(batch=3, dtype="float64")
        assert (point.entries, point.multiply_adds, point.bytes) == tuple(cost)
        weights, state = pattern.shape
        assert point.weights == weights
        assert point.density == cost.entries / 3 / (weights * state)
        assert point.vs_bptt == pytest.approx((3 * weights + cost.multiply_adds) / (9 * weights))
        exact = reach(drawn.dynamics, drawn.immediate, None).cost(batch=3).multiply_adds
        assert point.vs_rtrl == pytest.approx(cost.multiply_adds / exact)
        assert point.seconds is point.gflops is point.roofline_fraction is point.note is None


@pytest.fixture
def quick_model(monkeypatch):
    """A cost model of two probes, for sweeps whose times are not looked at."""
    monkeypatch.setattr(profiling, "POINT_SECONDS", 0.001)
    monkeypatch.setattr(prediction, "PROBES", (Probe(1, 1, 0.02, 1), Probe(4, 3, 0.1, 2)))
    monkeypatch.setattr(prediction, "PROBE_SECONDS", 0.001)
    return CostModel(Roofline("float32"))


def test_measured_points_agree_with_themselves(quick_model):
    sweep = small_sweep(cells=("gru",), units=(12,), n=(2,), batch=2)
    for point in profile(sweep, quick_model):
        assert point.predicted_seconds > 0
        assert 0 < point.seconds_low <= point.seconds <= point.seconds_high
        assert point.gflops == pytest.approx(2e-9 * point.multiply_adds / point.seconds)
        assert point.gbytes_per_second == pytest.approx(2e-9 * point.bytes / point.seconds)
        assert 0 < point.roofline_fraction < 2


def test_points_over_the_budget_are_counted_and_marked(quick_model):
    sweep = small_sweep(cells=("rnn",), units=(20,), sparsity=(0.5,), n=(1, None), budget=8_000)
    fits, over = profile(sweep, quick_model)
    assert fits.bytes <= 8_000 < over.bytes
    assert fits.note is None
    assert fits.seconds > 0
    assert over.note == "over budget"
    assert over.seconds is None


def test_a_point_without_memory_is_marked(quick_model, monkeypatch):
    def refuse(*arguments):
        raise MemoryError("J must fit")

    monkeypatch.setattr(profiling, "time_update", refuse)
    sweep = small_sweep(cells=("rnn",), units=(12,), sparsity=(0.5,), n=(1, 2))
    assert [p.note for p in profile(sweep, quick_model)] == ["out of memory"] * 2


# --------------------------------------------------------------------------------- steps in windows


def test_points_with_windows_count_a_step_of_each():
    """By the definitions, from brute counts of the update; BPTT is three multiply-adds a weight."""
    sweep = small_sweep(cells=("gru", "lstm"), units=(12,), windows=(1, 4, 300), batch=2)
    points = list(profile(sweep, None, with_steps=with_steps))
    assert len(points) == len(sweep) == 2 * 2 * 3 * 3
    assert [p.window for p in points[:3]] == [1, 4, 300]
    for point in points:
        drawn = structure(point.cell, 12, point.sparsity)
        n = None if point.n == "rtrl" else point.n
        entries, update = brute_counts(drawn.dynamics.toarray(), drawn.immediate.toarray(), n)
        if point.window == 1:
            expected = drawn.weights + update + entries
        elif point.n == 1:
            expected = 3 * drawn.weights + entries + (update + entries) / point.window
        else:
            expected = 3 * drawn.weights + update + entries / point.window
        if point.window == 1 or point.vs_rtrl < 1:  # else dense products may cost less
            assert point.step_multiply_adds == pytest.approx(2 * expected, rel=1e-12)
        assert point.step_vs_bptt == point.step_multiply_adds / (2 * 3 * point.weights)
        assert point.step_seconds is point.bptt_seconds is None


@pytest.mark.parametrize(("units", "sparsity"), [(24, 0.3), (24, 0.9), (9, 0.5)])
@pytest.mark.parametrize("window", [2, 16, 200])
def test_dense_products_are_counted_where_the_engine_takes_them(units, sparsity, window):
    cell = GRU(3, units, sparsity=sparsity)
    block = RTRL(window=window).engine(cell, 1, 1)._data.block
    pattern = reach(dynamics_pattern(cell)[0], immediate_pattern(cell), None)
    entries, update, _ = pattern.cost()
    by_steps = 3 * cell.weights.size + update + entries / window
    found = multiply_adds(RTRL(window=window), cell)
    if block is None:
        assert found == pytest.approx(by_steps)
        return
    steps, program = block.psi.shape[0] - 1, lower(pattern)
    work = steps * cell.units * pattern.dynamics_indices.size  # Ψ
    for p in range(len(program.panels) - 1):
        rows, width = program.panels[p, ROWS], SLACK * program.panels[p, VECTORS]
        runs = program.runs[program.panels[p, FIRST_RUN] : program.panels[p + 1, FIRST_RUN]]
        work += rows * rows * width + steps * rows * runs[:, LENGTH].sum()
    assert found == pytest.approx(3 * cell.weights.size + work / steps + entries / window)
    assert found < 2 * by_steps


def test_steps_of_methods_without_a_pattern_are_counted():
    gru, lstm = GRU(3, 8, sparsity=0.5), LSTM(3, 8, sparsity=0.5)
    for cell in (gru, lstm):
        p, recurrent = cell.weights.size, int(cell.masks()["weight_hh"].sum())
        assert multiply_adds(BPTT(), cell) == multiply_adds(BPTT(5), cell) == 3 * p
        assert multiply_adds(BPTT(5, update_every=1), cell) == 15 * p
        assert multiply_adds(UORO(), cell) == 7 * p + recurrent
        assert multiply_adds(UORO(window=4), cell) == 8 * p + recurrent + p / 4
    p = gru.weights.size  # an entry and its leak for each weight
    assert multiply_adds(RFLO(), gru) == multiply_adds(SnAp(1), gru) == 3 * p
    assert multiply_adds(RFLO(window=4), gru) == 4 * p + 2 * p / 4
    p = lstm.weights.size  # c and what h has of it; of the output gate's weights h alone
    output = int(sum(mask.reshape(4, 8, -1)[3].sum() for mask in lstm.masks().values()))
    entries, leaks = 2 * (p - output) + output, 2 * (p - output)
    assert multiply_adds(RFLO(), lstm) == p + entries + leaks


@compiled_only
def test_steps_are_timed_beside_bptts(quick_model):
    sweep = small_sweep(cells=("rnn",), units=(12,), sparsity=(0.5,), n=(1, None), windows=(1, 3))
    points = list(profile(sweep, quick_model, with_steps=with_steps))
    assert len(points) == 4
    for point in points:
        assert point.step_time_vs_bptt == point.step_seconds / point.bptt_seconds > 0
    assert points[0].seconds == points[1].seconds  # the update of J knows no window


def test_a_window_whose_history_does_not_fit_is_marked(quick_model):
    sweep = small_sweep(cells=("rnn",), units=(12,), sparsity=(0.5,), n=(1,), windows=(10**9, 2))
    point, fits = profile(sweep, quick_model, with_steps=with_steps)
    assert point.note == "out of memory"
    assert point.step_seconds is None
    assert point.step_multiply_adds > 0
    assert fits.note is None
    assert fits.step_seconds > 0


# ----------------------------------------------------------------------------------- the cost model


@pytest.mark.parametrize("probe", [PROBES[0], PROBES[5], PROBES[6], PROBES[12], PROBES[-3]])
def test_probes_are_what_they_say(probe):
    pattern = synthetic(probe)
    assert pattern.shape[0] == probe.panels * probe.columns
    assert (np.diff(pattern.reach_indptr) == probe.rows).all()
    assert (np.diff(pattern.immediate_indptr) == probe.written).all()
    program = lower(pattern)
    assert program.runs[program.runs[:, 0] >= 0, 3].sum() == pattern.immediate_indices.size
    assert pattern.weights_per_supernode.tolist() == [probe.columns] * probe.panels
    full = pattern.edges_per_supernode.mean() / probe.rows**2
    assert full == pytest.approx(probe.full, rel=0.1, abs=0.02)


class FlatRoofline:
    """A machine of one bandwidth, known to the byte."""

    dtype, threads = np.dtype(np.float32), 1

    def bandwidth(self, working_set):
        return 2e10


@compiled_only
def test_prices_that_are_there_are_found(monkeypatch, rng):
    """On a machine whose times follow the counts, every net's time is predicted."""
    monkeypatch.setattr(prediction, "PROBES", PROBES[:-2])  # without the large ones
    true = rng.uniform(0.5, 2, len(prediction.COUNTED)) * 1e-9
    true[:2] = 4e-6, 0.7
    monkeypatch.setattr(
        CostModel, "_time", lambda own, p, threads: own._things(own.count(p)) @ true
    )
    model = CostModel(FlatRoofline())
    for cell, units, sparsity, n in [
        ("rnn", 64, 0.9, 1),
        ("gru", 64, 0.8, 2),
        ("lstm", 99, 0.9, 3),
    ]:
        drawn = structure(cell, units, sparsity)
        pattern = reach(drawn.dynamics, drawn.immediate, n)
        expected = model._things(model.count(pattern)) @ true
        assert model.seconds(pattern) == pytest.approx(expected, rel=0.02)
        call = model.prices["call"]
        assert model.seconds(pattern, batch=3) - call == pytest.approx(
            3 * (model.seconds(pattern) - call)
        )


@compiled_only
def test_measured_times_are_near_the_predicted_ones():
    """Within a factor of three: other processes may have the cores while tests run."""
    model = CostModel(Roofline("float32"))
    assert min(model.prices.values()) >= 0
    ratios = []
    for units, sparsity, n in [(64, 0.5, 1), (64, 0.5, 2), (128, 0.9, 2), (256, 0.98, 2)]:
        drawn = structure("gru", units, sparsity)
        influence = Influence(reach(drawn.dynamics, drawn.immediate, n), threads=1)
        ratios.append(model.seconds(influence.pattern) / time_update(influence, 0.02).median)
    assert 1 / 3 < np.median(ratios) < 3, ratios


@compiled_only
def test_more_threads_are_predicted_to_gain(monkeypatch):
    monkeypatch.setattr(prediction, "PROBES", PROBES[:8])
    monkeypatch.setattr(CostModel, "_time", lambda own, p, threads: 1e-3 / threads**0.5)
    two = FlatRoofline()
    two.threads = 4
    model = CostModel(two)
    pattern = synthetic(PROBES[0])
    assert model.gain == pytest.approx(2)
    call = model.prices["call"]
    assert model.seconds(pattern, threads=4) - call == pytest.approx(
        (model.seconds(pattern) - call) / 2
    )


@pytest.mark.parametrize("batch", [1, 3])
def test_random_values_keep_the_influence_bounded(batch):
    drawn = structure("gru", 20, 0.5)
    pattern = reach(drawn.dynamics, drawn.immediate, 2)
    dynamics, immediate = random_values(pattern, batch, "float32", seed=1)
    assert dynamics.dtype == immediate.dtype == np.float32
    assert dynamics.shape == (batch, pattern.dynamics_indices.size)
    assert immediate.shape == (batch, pattern.immediate_indices.size)
    sums = np.add.reduceat(np.abs(dynamics), pattern.dynamics_indptr[:-1], axis=1)
    assert sums.max() <= 0.9


def test_time_call_reports_ordered_quartiles():
    taken = time_call(lambda: sum(range(1000)), seconds=0.002)
    assert 0 < taken.low <= taken.median <= taken.high
    assert taken.samples >= timing.LEAST_SAMPLES


def test_exponent_of_a_power_law():
    x = [1.0, 3.0, 10.0, 50.0]
    assert exponent(x, [7 * v**2.5 for v in x]) == pytest.approx(2.5)
    # groups have factors of their own, which do not tilt the slope
    y = [5 * v**1.5 for v in x] + [900 * v**1.5 for v in x[2:]]
    assert exponent(x + x[2:], y, ["a"] * 4 + ["b"] * 2) == pytest.approx(1.5)
    assert exponent(x + x[2:], y) != pytest.approx(1.5, abs=0.1)
    assert exponent([2.0, 2.0], [1.0, 9.0]) is None
    assert exponent([1.0, 2.0], [1.0, 9.0], ["a", "b"]) is None


def synthetic_points():
    for units in (100, 200, 400):
        for sparsity in (0.5, 0.75):
            for n in (1, 2, 3):
                work = round(1e3 * units**3 * (1 - sparsity) ** 2 * n**4)
                yield Point("rnn", units, sparsity, n, units, work, 1.0, work, 4 * work,
                            seconds=1e-9 * work**0.9)  # fmt: skip


def test_growth_fits_recover_synthetic_laws():
    fits = {(fit.against, fit.n): fit for fit in fit_growth(list(synthetic_points()))}
    for n, law in ((1, 2), (2, 4), (3, None)):
        assert fits["units", n].counted == pytest.approx(3)
        assert fits["units", n].time == pytest.approx(2.7)
        assert fits["units", n].law == law
        assert fits["density", n].counted == pytest.approx(2)
    assert fits["n", "all"].counted == pytest.approx(4)
    assert fits["multiply-adds", "all"].time == pytest.approx(0.9)
    assert fits["density", 1].law == 1
    assert fits["density", 2].law == 3


def test_one_point_has_no_exponents():
    assert fit_growth(list(synthetic_points())[:1]) == []


def test_exact_rtrl_grows_as_the_paper_says():
    sweep = Sweep(("rnn",), (200, 400), (0.75, 0.875), n=(None,), inputs=0)
    fits = {fit.against: fit for fit in fit_growth(list(profile(sweep, None)))}
    assert fits["units"].law == 4
    assert fits["units"].counted == pytest.approx(4, abs=0.05)
    assert fits["density"].law == 2  # the d² law
    assert fits["density"].counted == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("threads", [1, 2])
def test_roofline_is_the_slower_of_its_two_roofs(threads):
    roofline = Roofline("float64", threads)
    bandwidth = roofline.bandwidth(4096)
    assert roofline.peak > 0
    assert bandwidth > 0
    assert roofline.bandwidth(4096) == bandwidth  # measured once
    assert roofline.seconds(roofline.peak, 0, 4096) == pytest.approx(1)
    assert roofline.seconds(0, bandwidth, 4096) == pytest.approx(1)
    assert roofline.seconds(roofline.peak, 3 * bandwidth, 4096) == pytest.approx(3)


def test_roofline_refuses_no_threads():
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        Roofline(threads=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (count(999), "999"),
        (count(1_234_567), "1.23M"),
        (count(999_700), "1M"),
        (size(1023), "1023 B"),
        (size(4.5 * 2**20), "4.50 MiB"),
        (size(2**40), "1.00 TiB"),
        (duration(8.51e-5), "85.1 us"),
        (duration(0.9996), "1.00 s"),
        (duration(1.06e-3), "1.06 ms"),
    ],
)
def test_numbers_are_short(text, expected):
    assert text == expected


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [
        (0.75, "75%"),
        (0.984375, "98.44%"),
        (0.0, "0%"),
        (0.99999, "99.999%"),
        (1 - 4e-6, "99.9996%"),
    ],
)
def test_a_sparse_net_is_never_shown_as_empty(sparsity, expected):
    assert percent(sparsity) == expected


def test_reports_of_no_points_are_well_formed():
    assert json_report([]) == "[]\n"
    assert csv_report([]).count("\n") == 1
    assert plain_report([], [], "nothing").startswith("nothing")
