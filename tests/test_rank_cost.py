"""`sparsegrad profile --ranks`: what a step over ranks costs, on paper."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from command_line import run

from sparsegrad.methods.sharing import MOST_PARTS
from sparsegrad.profiling.cost_model import COUNTED
from sparsegrad.profiling.network import Network
from sparsegrad.profiling.profile import MOST_RANKS, Sweep, profile
from sparsegrad.profiling.report import plain_report, where_it_pays
from sparsegrad.runs.rank_cost import with_ranks

NET = ["profile", "--units", "64", "--sparsity", "90%", "--inputs", "3"]
SLOW = Network(1e6, 1e-3)


class Prices:
    """A cost model of a machine that takes a nanosecond an entry of J, and no time else."""

    def count(self, pattern, batch=1):
        return np.full(len(COUNTED), float(batch * pattern.nnz))

    def price(self, counts, threads=1):
        return 1e-9 * counts[0]

    def seconds(self, pattern, batch=1, threads=1):
        return self.price(self.count(pattern, batch))


@pytest.mark.parametrize(
    ("words", "bandwidth", "latency"),
    [
        ("100Gbps,2us", 12.5e9, 2e-6),
        ("12.5 GB/s, 0.5 ms", 12.5e9, 5e-4),
        ("1e3 Mbit/s,500ns", 125e6, 5e-7),
        ("8bps,1s", 1.0, 1.0),
    ],
)
def test_a_network_is_read(words, bandwidth, latency):
    assert Network.read(words) == pytest.approx((bandwidth, latency))


def test_a_gradient_takes_the_time_of_the_algorithm_that_mpich_takes():
    net = Network(1e9, 1e-6)
    for ranks, total, messages in (
        (1, 1000, 0), (2, 1000, 1), (8, 1000, 3), (6, 1000, 3), (8, 2**20, 7), (6, 2**17, 5),
        (8, 2**17, 3),
    ):  # fmt: skip
        arriving = total * (ranks - 1) / ranks
        assert net.gather_bytes(ranks, total) == arriving
        expected = messages * 1e-6 + arriving / 1e9
        assert net.gather_seconds(ranks, total) == pytest.approx(expected)


def test_a_dry_run_counts_every_part(capsys, tmp_path):
    flags = ["--n", "2", "rtrl", "--ranks", "1,2", "8", "64", "--dry-run", "--format", "json"]
    status, out, _ = run(capsys, *NET, *flags, "--out", tmp_path / "out")
    assert status == 0
    points = json.loads(out)
    assert [(p["n"], p["ranks"]) for p in points] == [
        (n, ranks) for n in (2, "rtrl") for ranks in (1, 2, 8, 64)
    ]
    for point in points:
        if point["ranks"] == 64:
            assert point["note"] == "16 parts"  # of four units
            assert point["rank_entries"] is None
            continue
        held, all_, ranks = point["rank_entries"], point["entries"], point["ranks"]
        assert all_ / ranks <= held < 1.5 * all_ / ranks
        assert point["rank_bytes"] == 4 * held
        assert point["exchanged_bytes"] == 4 * point["weights"] * (ranks - 1) / ranks
        assert point["rank_seconds"] is None
    assert points[0]["rank_entries"] == points[0]["entries"]
    assert (tmp_path / "out" / "ranks.png").read_bytes().startswith(b"\x89PNG")


def test_steps_get_shorter_until_the_network_takes_longer():
    sweep = Sweep(units=(64,), sparsity=(0.9,), n=(2,), inputs=3, ranks=(1, 2, 4, 8, 16))
    model = Prices()
    points = list(
        profile(sweep, None, with_steps=lambda *given: with_ranks(*given[:3], SLOW, model))
    )
    one = points[0]
    for point in points:
        update = point.rank_seconds - point.alone_seconds - point.exchange_seconds
        assert update == pytest.approx(1e-9 * point.rank_entries, rel=0.2)  # most work, most of J
        assert point.rank_speedup == pytest.approx(one.rank_seconds / point.rank_seconds)
    assert 0 < one.alone_seconds < 0.1
    fast = [replace(p, rank_speedup=float(p.ranks)) for p in points]
    slow = [replace(p, rank_speedup=1 / p.ranks) for p in points]
    some = [replace(p, rank_speedup=math.sin(p.ranks / 3) + 1) for p in points]
    for given, text in (
        (fast, "snap:2 on gru 64 @ 90%: still pays at 16 ranks, 16.0 times as fast as one"),
        (slow, "does not pay, one rank is the fastest; 16 ranks: 0.062"),
        (some, "stops paying at 4 ranks, 1.97 times as fast as one; 16 ranks: 0.19"),
    ):
        (line,) = where_it_pays(given)
        assert text in line
        assert line in plain_report(given, [], "title")


def test_as_many_ranks_may_be_asked_for_as_there_are_parts_at_most():
    assert MOST_RANKS == MOST_PARTS


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ranks", "0"], "ranks must be between 1 and 256, got 0"),
        (["--ranks", "1024"], "ranks must be between 1 and 256, got 1024"),
        (["--ranks", "two"], "ranks must be a whole number, got 'two'"),
        (["--ranks", ","], "ranks must name at least one value, got none"),
        (["--ranks", "2", "--n", "1"], "n must be from 2 on, or rtrl, with ranks, got 1"),
        (["--ranks", "2", "--window", "8"], "window must be left out with ranks"),
        (["--network", "1Gbps,2us"], "--network must come with --ranks"),
        *(
            (["--ranks", "2", "--network", word], "network must be a bandwidth and a latency")
            for word in ("fast", "1Gbps", "0Gbps,2us", "1Gbps,0us", "1Gbps,-2us", "1..Gbps,2us",
                         "1Gbps,2", "nanGbps,2us")
        ),
    ],
)  # fmt: skip
def test_bad_flags_are_a_line(capsys, flags, message):
    status, out, err = run(capsys, *NET, "--dry-run", *flags)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
