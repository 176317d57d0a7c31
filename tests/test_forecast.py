"""Forecasts of a stream: what they may know, their units, what is missing, their scores."""

import json

import numpy as np
import pytest

import sparsegrad
from sparsegrad.tasks import Forecast, Stream
from sparsegrad.tasks.running import Running

ROWS = 60


def table(rows: int = ROWS, columns: int = 2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.standard_normal((rows, columns)), axis=0)
    return 50 + 7 * walk * [1, 100][:columns]


def learner_of(forecast: Forecast, seed: int = 0) -> sparsegrad.OnlineLearner:
    return sparsegrad.OnlineLearner(
        sparsegrad.GRU(forecast.inputs, 5, seed=seed, dtype="float32"),
        sparsegrad.Linear(forecast.outputs, seed=seed),
        sparsegrad.SnAp(1),
        sparsegrad.Adam(0.01),
        batch=forecast.batch,
        threads=1,
    )


SETTINGS = [
    {"horizon": 1},
    {"horizon": 0, "inputs": [1]},
    {"horizon": 3},
    {"horizon": (1, 4)},
    {"horizon": (2, 1), "inputs": [1]},
    {"horizon": 2, "scale": "none"},
    {"horizon": 1, "missing": "hold"},
    {"horizon": (1, 3), "missing": "mask"},
]


def with_gaps(rows: np.ndarray, settings: dict) -> np.ndarray:
    rows = rows.copy()
    if settings.get("missing"):
        rows[np.random.default_rng(1).random(rows.shape) < 0.2] = np.nan
    return rows


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_no_forecast_knows_a_later_row(settings):
    """Whatever comes later, the forecasts up to here are the same to the bit."""
    rows = with_gaps(table(), settings)
    at_zero = settings["horizon"] == 0
    for cut in (7, 30):
        other = rows.copy()
        other[cut:] = 1e3 - 3 * other[cut:]
        if at_zero:  # the target of a row is not known when it is predicted
            other[cut, 1] = rows[cut, 1]
        found = []
        for one in (rows, other):
            forecast = Forecast(2, [0], **settings)
            found.append(forecast.run(learner_of(forecast), one))
        same = cut + at_zero
        np.testing.assert_array_equal(found[0][:same], found[1][:same])
        assert not np.array_equal(found[0][same], found[1][same])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_stream_is_learned_alike_in_rows_in_pieces_and_after_a_pause(settings):
    rows = with_gaps(table(), settings)
    forecasts = [Forecast(2, [0], **settings) for _ in range(3)]
    learners = [learner_of(forecast) for forecast in forecasts]
    whole = forecasts[0].run(learners[0], rows)
    by_row = np.stack([forecasts[1].step(learners[1], row) for row in rows])
    np.testing.assert_array_equal(whole, by_row)
    first = forecasts[2].run(learners[2], rows[:23])
    kept = json.loads(json.dumps(forecasts[2].state(), allow_nan=False))
    other = Forecast(2, [0], **settings)
    other.go_to(kept)
    rest = other.run(learners[2], rows[23:])
    np.testing.assert_array_equal(whole, np.concatenate([first, rest]))
    for forecast in (forecasts[1], other):
        assert forecast.report() == pytest.approx(forecasts[0].report(), rel=1e-12)
    np.testing.assert_array_equal(learners[0].cell.weights, learners[2].cell.weights)


@pytest.mark.parametrize("horizons", [(1,), (1, 3)])
def test_scores_are_those_of_what_was_predicted(horizons):
    """Against sums over the rows, beside the last value and the mean of those before."""
    rows = table(columns=2)
    forecast = Forecast(2, [0, 1], horizon=horizons)
    found = forecast.run(learner_of(forecast), rows)
    scored = len(rows) - max(horizons)
    truth = np.stack([rows[h : h + scored] for h in horizons], axis=1)
    means = np.cumsum(rows, axis=0) / np.arange(1, len(rows) + 1)[:, None]
    models = {
        "": found[:scored],
        "_persistence": rows[:scored, None],
        "_mean": means[:scored, None],
    }
    report = forecast.report()
    for name, model in models.items():
        missed = truth - model
        assert report[f"rmse{name}"] == pytest.approx(np.sqrt((missed**2).mean()))
        assert report[f"mae{name}"] == pytest.approx(np.abs(missed).mean())
        parts = (missed**2).mean(axis=0) / truth.var(axis=0)
        assert report[f"nrmse{name}"] == pytest.approx(np.sqrt(parts.mean()))
        for k, h in enumerate(horizons if len(horizons) > 1 else ()):
            assert report[f"rmse_{h}{name}"] == pytest.approx(np.sqrt((missed[:, k] ** 2).mean()))


def test_units_are_of_what_was_seen():
    """Inputs in deviations so far; the change ahead in root mean squares of changes so far."""
    rows = table()
    task = Forecast(2, [1])
    steps, drawn = task.take(rows[:, None])
    for t in (1, 5, 40):
        seen = rows[: t + 1]
        np.testing.assert_allclose(
            drawn.xs[t, 0], (rows[t] - seen.mean(0)) / seen.std(0), rtol=1e-5, atol=1e-6
        )
        root = np.sqrt((np.diff(seen[:, 1]) ** 2).mean())
        wanted = np.clip((rows[t + 1, 1] - rows[t, 1]) / root, -10, 10)
        np.testing.assert_allclose(drawn.targets[t, 0, 0], wanted, rtol=1e-5)
    assert drawn.weights[:, 0].tolist() == [0] + [1] * (ROWS - 2)  # no change was seen at first
    outputs = np.zeros((ROWS - 1, 1, 1), "f4")
    np.testing.assert_array_equal(
        task.in_units(steps.part(0, ROWS - 1), outputs)[:, 0, 0, 0], rows[:-1, 1]
    )
    by_others = Forecast(2, [1], [0], horizon=0)
    drawn = by_others.take(rows[:, None])[1]
    seen = rows[:20, 1]  # of the rows before
    np.testing.assert_allclose(
        drawn.targets[20, 0, 0], (rows[20, 1] - seen.mean()) / seen.std(), rtol=1e-5
    )


def test_running_means_are_the_same_in_parts():
    rng = np.random.default_rng(0)
    rows = 1e6 + rng.standard_normal((300, 3)) * [1, 1e-3, 1e5]
    rows[rng.random(rows.shape) < 0.1] = np.nan
    whole, parts = Running(3), Running(3)
    one = whole.update(rows)
    two = [parts.update(part) for part in np.split(rows, [1, 2, 50, 299])]
    for k in range(3):
        np.testing.assert_array_equal(one[k], np.concatenate([part[k] for part in two]))
    np.testing.assert_allclose(one[1][-1], np.nanmean(rows, axis=0), rtol=1e-12)
    np.testing.assert_allclose(one[2][-1], np.nanstd(rows, axis=0), rtol=1e-9)
    again = Running(3)
    again.go_to(json.loads(json.dumps(whole.state())), "there")
    for k in range(3):
        np.testing.assert_array_equal(again.update(rows)[k], whole.update(rows)[k])


def test_a_missing_input_is_held_or_left_out_and_a_step_without_its_target_is_followed():
    rows = np.array([[1.0, 10], [2, 20], [np.nan, 30], [4, np.nan], [5, 50]])
    for missing, gap in (("hold", 2.0), ("mask", 0.0)):
        forecast = Forecast(2, [1], [0], horizon=0, scale="none", missing=missing)
        learner = learner_of(forecast)
        steps, drawn = forecast.take(rows[:, None])
        assert drawn.xs[:, 0, 0].tolist() == [1, 2, gap, 4, 5]
        assert drawn.weights[:, 0].tolist() == [1, 1, 1, 0, 1]
        forecast.learn(learner, steps, drawn)
        assert learner.steps == 5
        other = learner_of(forecast)
        xs, targets = drawn.xs, drawn.targets
        other.run(xs[:3], targets[:3])
        other.follow(xs[3:4])
        other.run(xs[4:], targets[4:])
        np.testing.assert_array_equal(learner.cell.weights, other.cell.weights)
    with pytest.raises(ValueError, match="rows must be whole, got NaN"):
        Forecast(2, [1]).step(None, rows[2])


def test_a_constant_and_a_jump_do_no_harm():
    rows = np.full((80, 1), 3.0)
    rows[40:] = 1e6
    forecast = Forecast(1, [0])
    found = forecast.run(learner_of(forecast), rows)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:40], 3)  # persistence, as nothing else was seen
    with np.errstate(all="raise"):
        assert forecast.report()["rmse"] > 0


def test_streams_side_by_side_have_one_scale():
    """Rows of both, in their order, are what was seen."""
    rows = np.stack([table(seed=1), table(seed=2) + 300], axis=1)
    forecast = Forecast(2, [0], batch=2)
    drawn = forecast.take(rows)[1]
    seen = rows[:21].reshape(-1, 2)
    np.testing.assert_allclose(
        drawn.xs[20], (rows[20] - seen.mean(0)) / seen.std(0), rtol=1e-5, atol=1e-6
    )
    found = forecast.run(learner_of(forecast), rows)
    assert found.shape == (ROWS, 2, 1, 1)


def test_a_stream_of_a_file_is_a_forecast_of_its_rows(tmp_path):
    """Draw by draw, from its middle too: the same weights and scores as row by row."""
    rows = table()
    np.save(tmp_path / "data.npy", rows)
    settings = {"targets": "0,", "horizon": "1,3", "scale": "online", "dtype": "float32"}
    task = Stream(tmp_path / "data.npy", steps=10, **settings)
    learner = learner_of(task.forecast)
    half = None
    for draw in range(6):
        task.learn(learner, task.draw())
        if draw == 2:
            half = json.loads(json.dumps(task.position(), allow_nan=False))
            other = Stream(tmp_path / "data.npy", steps=10, **settings)
            other.go_to(half)
            assert other.position() == half
    forecast = Forecast(2, [0], horizon=(1, 3))
    alone = learner_of(forecast)
    forecast.run(alone, rows)
    np.testing.assert_array_equal(alone.cell.weights, learner.cell.weights)
    assert task.forecast.report() == pytest.approx(forecast.report(), rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"targets": [2]}, "targets must be at most 1"),
        ({"targets": []}, "one at least"),
        ({"targets": [0, 0]}, "each once"),
        ({"targets": [0], "inputs": [0], "horizon": 0}, "leave out the targets of their own row"),
        ({"targets": [0], "horizon": -1}, "horizon must be at least 0"),
        ({"targets": [0], "horizon": ()}, "horizon must be numbers of rows"),
        ({"targets": [0], "scale": "offline"}, "scale must be one of online, none"),
        ({"targets": [0], "missing": "drop"}, "missing must be one of refuse, hold, mask"),
    ],
)
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Forecast(2, **settings)


@pytest.mark.parametrize(
    "row", [[1.0], [[1.0, 2.0], [3.0, 4.0]], [1.0, np.inf], [1e200, 1.0], [np.nan, 1.0]]
)
def test_a_row_that_is_refused_changes_nothing(row):
    forecast = Forecast(2, [0])
    learner = learner_of(forecast)
    for good in table()[:5]:
        forecast.step(learner, good)
    before = forecast.state()
    with pytest.raises(ValueError, match="rows must"):
        forecast.step(learner, row)
    assert forecast.state() == before


@pytest.mark.parametrize("targets", [0, 1])
def test_a_stream_that_was_cut_before_there_were_forecasts_goes_on(tmp_path, targets):
    """Its position told no more than the row and the file."""
    np.save(tmp_path / "data.npy", table().astype("f4"))
    one, two = (Stream(tmp_path / "data.npy", targets, steps=7) for _ in range(2))
    one.draw()
    two.go_to({name: one.position()[name] for name in ("at", "fingerprint")})
    for _ in range(12):  # around the end, too
        for a, b in zip(one.draw(), two.draw(), strict=True):
            np.testing.assert_array_equal(a, b)
