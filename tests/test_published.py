"""The tables of others: small forms of each, on stand-ins for the data."""

import json
from pathlib import Path

import numba
import numpy as np
import pytest
from scipy.io import savemat

import sparsegrad

PERF = Path(__file__).parent.parent / "perf"
# a regular install without the repository has no perf/; interpreted kernels are no benchmark
pytestmark = [
    pytest.mark.skipif(not PERF.is_dir(), reason="perf/ is not here"),
    pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="too slow interpreted"),
]
SNAP_1 = ["--only", "SnAp-1"]


@pytest.fixture
def published(monkeypatch):
    monkeypatch.syspath_prepend(str(PERF))
    import published

    return published


@pytest.fixture
def folder(tmp_path):
    """Stand-ins for the data: as many numbers, other ones."""
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    (data / "markers").mkdir(parents=True)
    for name, points in (("sunspot.txt", 3329), ("laser.txt", 1000)):
        np.savetxt(data / name, np.sin(np.arange(points) / 9) + 0.1 * rng.standard_normal(points))
    for number in range(1, 10):
        t, phase = np.arange(720) / 6, rng.random((9, 1))
        savemat(data / "markers" / f"seq{number}.mat", {"org_data": np.sin(t + 6 * phase) + phase})
    return data


def cut_off(path):
    path.write_bytes(path.read_bytes()[:5000])


def rows(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def test_the_table_of_the_five_series(published, folder, tmp_path, capsys):
    words = ["series", "--data", str(folder), "--out", str(tmp_path), "--toy", "--seeds", "2"]
    published.main([*words, *SNAP_1])
    head, _, ours, theirs = rows(capsys.readouterr().out)
    assert head[1:6] == ["sunspots", "laser", "Mackey-Glass", "Hénon", "Lorenz"]
    assert ours[0] == "SnAp-1"
    assert all(" ± " in cell for cell in ours[1:6])
    assert ours[-1] == "2"
    assert theirs[1:6] == [".144", ".021", ".005", ".005", ".002"]


def test_the_table_of_the_markers(published, folder, tmp_path, capsys):
    words = ["markers", "--data", str(folder), "--out", str(tmp_path), "--toy", "--seeds", "1"]
    published.main([*words, "--only", "SnAp-1", "SnAp-1, late"])
    head, _, ours, late, *baselines = rows(capsys.readouterr().out)
    assert head[1] == "0.4 s"
    assert ours[3:4] + ours[5:6] == [".157", "1.52"]
    assert late[0] == "SnAp-1, late"
    assert [line[0] for line in baselines] == ["persistence", "linear regression"]
    assert float(baselines[1][1]) < 1e-3  # sines are their own sums: a regression finds them


def test_the_table_of_free_credit(published, tmp_path, capsys):
    words = ["credit", "--out", str(tmp_path), "--toy", "--seeds", "1"]
    published.main([*words, "--only", "sine", "recall:5", "copy"])
    lines = rows(capsys.readouterr().out)[2:]
    assert [line[:2] for line in lines] == [
        [task, optimizer]
        for task in ("sine", "recall:5", "copy")
        for optimizer in ("SGD", "Adam", "RMSprop")
    ]
    assert all(" at " in cell for line in lines for cell in line[2:6])


def test_a_finished_run_is_not_run_again(published, folder, tmp_path, capsys, monkeypatch):
    words = ["series", "--data", str(folder), "--out", str(tmp_path), "--toy", "--seeds", "1"]
    published.main([*words, *SNAP_1])
    first = capsys.readouterr().out
    path = tmp_path / "series.jsonl"
    assert len(path.read_text().splitlines()) == 5
    with path.open("a") as file:
        file.write('{"setting": {"ser')  # cut off by an interruption
    ran = []
    monkeypatch.setattr(published.series, "run_one", lambda *given: ran.append(given) or {})
    published.main([*words, *SNAP_1])
    assert ran == []
    assert capsys.readouterr().out == first
    assert [json.loads(line)["setting"]["seed"] for line in path.read_text().splitlines()] == [
        0
    ] * 5


@pytest.mark.parametrize(
    ("table", "spoil", "says"),
    [
        ("series", lambda data: (data / "laser.txt").unlink(), "laser.txt, 1000 numbers (Santa Fe"),
        ("series", lambda data: (data / "sunspot.txt").write_text("1 2"), "got 2 numbers"),
        ("series", lambda data: (data / "sunspot.txt").write_text("a,b"), "no list of numbers"),
        ("markers", lambda data: (data / "markers/seq9.mat").unlink(), "no such file"),
        ("markers", lambda data: (data / "markers/seq3.mat").write_text("no"), "another file"),
        ("markers", lambda data: cut_off(data / "markers/seq3.mat"), "another file"),
        (
            "markers",
            lambda data: savemat(data / "markers/seq3.mat", {"other": np.zeros(3)}),
            "another file ('org_data')",
        ),
        (
            "markers",
            lambda data: savemat(data / "markers/seq3.mat", {"org_data": np.zeros((3, 800))}),
            "of shape (3, 800)",
        ),
    ],
)
def test_other_data_are_refused_in_a_line(published, folder, tmp_path, table, spoil, says):
    spoil(folder)
    with pytest.raises(SystemExit) as refused:
        published.main([table, "--data", str(folder), "--out", str(tmp_path), "--toy"])
    text = str(refused.value)
    assert text.startswith("published.py: --data must hold")
    assert says in text
    assert "\n" not in text
    assert not list(tmp_path.glob("*.jsonl"))


@pytest.mark.parametrize("table", ["series", "markers", "credit"])
def test_an_unknown_method_is_named(published, folder, tmp_path, table):
    with pytest.raises(SystemExit, match=r"--only must name .* got 'SnAp-9'"):
        published.main([table, "--data", str(folder), "--out", str(tmp_path), "--only", "SnAp-9"])


def test_the_fixed_leak_is_the_publications_rflo(published):
    """Its gradient is δ ∘ S with S ← 0.9 S + (1 - h²) [h; x; 1], dense in NumPy."""
    rng = np.random.default_rng(1)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    w, u, b, out = draw(4, 4), draw(4, 2), draw(4), draw(1, 4)
    cell = published.series.FixedLeak.from_dense(weight_hh=w, weight_ih=u, bias_ih=b)
    readout = sparsegrad.Linear(1, weight=out, bias=np.zeros(1, np.float32))
    learner = sparsegrad.OnlineLearner(cell, readout, sparsegrad.RFLO(), sparsegrad.SGD(0.1))
    xs, targets = draw(6, 1, 2), draw(6, 1, 1)
    grads = learner.gradient(xs, targets)[1]
    h, trace, expected = np.zeros(4), np.zeros((4, 7)), np.zeros((4, 7))
    for x, target in zip(xs[:, 0], targets[:, 0], strict=True):
        source = np.concatenate([h, x, [1.0]])
        h = np.tanh(w @ h + u @ x + b)
        trace = 0.9 * trace + np.outer(1 - h**2, source)
        expected += ((out @ h - target) @ out)[:, None] * trace
    found = np.column_stack([grads["weight_hh"], grads["weight_ih"], grads["bias_ih"]])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_streams_of_the_series(published, folder):
    for name in published.series.SERIES:
        xs, targets, resets = published.series.stream(name, 3, folder, 3500)
        assert xs.shape == targets.shape == (3500, 8, 1)
        same = 999 if name == "laser" else 2999 if name == "sunspots" else 3499
        assert np.array_equal(xs[1 : same + 1], targets[:same])
        assert resets.all(axis=1).nonzero()[0][:4].tolist() == [0, 200, 400, 600]
        assert abs(xs.mean()) < 0.3
        assert 0.7 < xs.std() < 1.3


def test_late_targets_are_not_known_before_their_frame(published, folder):
    markers = published.markers
    positions = markers.sequence(folder, 1)[:400]
    other = positions.copy()
    other[350:] += 5  # nobody can know before
    way, frames, horizon = markers.METHODS["SnAp-1, late"], 3, 6
    predicted = [
        markers.predict(way, markers.Task(seen, frames, horizon), 6, 0.05, 0)[0]
        for seen in (positions, other)
    ]
    first = 350 - (frames - 1)  # the first step that sees frame 350
    assert np.array_equal(predicted[0][:first], predicted[1][:first])
    assert not np.allclose(predicted[0][first:], predicted[1][first:])
    soon = markers.METHODS["SnAp-1"]  # as published: h frames too early
    early = [
        markers.predict(soon, markers.Task(seen, frames, horizon), 6, 0.05, 0)[0]
        for seen in (positions, other)
    ]
    assert not np.allclose(early[0][:first], early[1][:first])


def test_the_error_of_the_markers(published, folder):
    markers = published.markers
    positions = markers.sequence(folder, 2)
    task = markers.Task(positions, 4, 7)
    truth = task.scaled[task.target_frames]
    assert len(task.xs) == len(truth)
    assert np.allclose(task.xs[:, 3::4], task.scaled[task.target_frames - 7])  # the last frame
    assert task.error(truth, 600, 720) < 1e-12
    test = task.target_frames >= 600
    mean = np.broadcast_to(truth[test].mean(axis=0), truth.shape)
    assert task.error(mean, 600, 720) == pytest.approx(1)
