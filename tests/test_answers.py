"""`sparsegrad predict` and `sparsegrad sample`: what a trained run answers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsegrad.cli.main import main
from sparsegrad.runs.answers import ROWS, read_run, reader

NAMES = "data", "wide", "nan", "none"
TRAIN = ["--units", "8", "--sparsity", "0", "--method", "snap:1", "--rate", "0.01"]


def table(rows: int) -> np.ndarray:
    t = np.arange(rows)
    return np.stack([np.sin(t / 7), np.cos(t / 5), np.sin(t / 7 + 0.4)], axis=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a target column, one that predicts the next row, one of text, one too young."""
    folder = tmp_path_factory.mktemp("runs")
    np.savetxt(folder / "data.csv", table(1500), delimiter=",", header="x,y,z", comments="")
    (folder / "text").write_bytes(b"abcdefgh" * 200)
    stream = ["train", "stream", "--data", str(folder / "data.csv"), *TRAIN, "--scale", "none"]
    assert main([*stream, "--targets", "1", "--out", str(folder / "columns")]) == 0
    assert main([*stream, "--targets", "0", "--batch", "2", "--out", str(folder / "rows")]) == 0
    chars = ["train", "chars", "--text", str(folder / "text"), *TRAIN, "--tokens", "20k"]
    assert main([*chars, "--batch", "4", "--out", str(folder / "chars")]) == 0
    (folder / "young").mkdir()
    (folder / "young" / "config.json").write_bytes((folder / "chars" / "config.json").read_bytes())
    return folder


@pytest.mark.parametrize("targets", [0, 1])
def test_predictions_of_a_table_are_the_learners(
    runs: Path, targets: int, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces or at once; the error is that of the file that was written."""
    monkeypatch.setattr("sparsegrad.runs.answers.ROWS", 100)
    run, data = runs / ("columns" if targets else "rows"), table(250).astype(np.float32)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    np.save(tmp_path / "new.npy", data)
    out = tmp_path / "predictions.csv"
    assert main(["predict", str(run), "--data", str(tmp_path / "new.npy"), "--out", str(out)]) == 0
    found = np.loadtxt(out, delimiter=",", skiprows=1, ndmin=2)
    learner = reader(read_run(run, "stream")[1], None)
    expected = learner.predict(data[:, : learner.cell.inputs])
    np.testing.assert_array_equal(found.astype(np.float32), expected)
    wanted = data[:, 2:] if targets else data[1:]
    error = np.sqrt(((expected[: len(wanted)] - wanted).astype(float) ** 2).mean())
    assert error < 0.9 * np.sqrt((wanted**2).mean()), "it has learned something"
    assert f"250 rows predicted, rmse {error:.4g}; wrote {out}" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert ROWS > 100


def test_inputs_alone_are_predicted_on_standard_output(
    runs: Path, tmp_path: Path, capsys: Any
) -> None:
    np.savetxt(tmp_path / "in.csv", table(5)[:, :2], delimiter=",")
    assert main(["predict", str(runs / "columns"), "--data", str(tmp_path / "in.csv")]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "prediction_0"
    assert np.isfinite([float(line) for line in out.splitlines()[1:]]).all()
    assert err == "5 rows predicted\n"


def test_a_text_goes_on_as_it_was_learned(runs: Path, capsys: Any) -> None:
    given = ["sample", str(runs / "chars"), "--prompt", "abcdefghabc"]
    assert main([*given, "--length", "13", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == "abcdefghabc" + "defghabcdefgh" + "\n"
    drawn = []
    for seed in ("1", "1", "2"):
        assert main([*given, "--length", "60", "--temperature", "3", "--seed", seed]) == 0
        drawn.append(capsys.readouterr().out)
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0].strip()) <= set("abcdefgh")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["predict", "columns"], "--data"),
        (["predict", "none", "--data", "data.csv"], "must be the folder of a run, got none"),
        (["predict", "chars", "--data", "data.csv"], "must hold a run of stream, got one of chars"),
        (["predict", "columns", "--data", "none.csv"], "No such file"),
        (["predict", "columns", "--data", "wide.csv"], "2 input columns of the run or 3, with the"),
        (["predict", "rows", "--data", "wide.csv"], "3 input columns of the run, got 4"),
        (
            ["predict", "columns", "--data", "nan.csv"],
            "must be finite in float32, got nan in row 1",
        ),
        (["sample", "columns", "--prompt", "a"], "must hold a run of chars, got one of stream"),
        (["sample", "young", "--prompt", "a"], "must hold a checkpoint, got none yet"),
        (["sample", "chars", "--prompt", ""], "--prompt must have a character at least"),
        (["sample", "chars", "--prompt", "ax"], "characters must be of those that"),
        (["sample", "chars", "--prompt", "a", "--length", "0"], "steps must be at least 1"),
        (["sample", "chars", "--prompt", "a", "--length", "1.5"], "--length must be a whole"),
        (["sample", "chars", "--prompt", "a", "--temperature", "-1"], "temperature must be finite"),
        (["sample", "chars", "--prompt", "a", "--seed", "-1"], "seed must be at least 0|--seed"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_a_line(
    runs: Path, command: list[str], words: str, tmp_path: Path, capsys: Any
) -> None:
    np.savetxt(runs / "wide.csv", np.ones((4, 4)), delimiter=",")
    np.savetxt(runs / "nan.csv", [[1, 2], [np.nan, 1]], delimiter=",")
    named = {"columns", "rows", "chars", "young", "none", *(f"{n}.csv" for n in NAMES)}
    found = [str(runs / word) if word in named else word for word in command[1:]]
    out = tmp_path / "out.csv"
    kept = ["--out", str(out)] if command[0] == "predict" else []
    try:
        status = main([command[0], *found, *kept])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert any(part in err for part in words.split("|")), err
    assert not out.exists()


def test_a_text_that_changed_is_refused(runs: Path, tmp_path: Path, capsys: Any) -> None:
    text = (runs / "text").read_bytes()
    (runs / "text").write_bytes(text[::-1])
    try:
        assert main(["sample", str(runs / "chars"), "--prompt", "a"]) == 2
    finally:
        (runs / "text").write_bytes(text)
    assert "must be of the text that it names" in capsys.readouterr().err


def test_predictions_end_quietly_where_nobody_reads(runs: Path) -> None:
    command = (
        f"{sys.executable} -m sparsegrad predict {runs / 'columns'} --data {runs / 'data.csv'}"
    )
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 1"], capture_output=True, text=True, check=False
    )
    assert done.stdout == "prediction_0\n"
    assert "Traceback" not in done.stderr
