"""A table on standard input, and what a run on a table leaves: predictions, scores, a picture."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsegrad.cli.main import main
from sparsegrad.learning.checkpoint import read_checkpoint
from sparsegrad.runs.predictions import read_tail
from sparsegrad.tasks import Pipe

NET = ["--units", "5", "--sparsity", "0", "--method", "snap:1", "--rate", "0.01"]


def table(rows: int = 60) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 20 + np.cumsum(rng.standard_normal((rows, 2)), axis=0)


def written(rows: np.ndarray, names: str = "x;y\n") -> str:
    return names + "".join(";".join(f"{v:.17g}" for v in row) + "\n" for row in rows)


def piped(monkeypatch: pytest.MonkeyPatch, path: Path, text: str, *arguments: Any) -> int:
    path.write_text(text)
    with open(path) as file:
        monkeypatch.setattr(sys, "stdin", file)
        return main(["train", "stream", "--data", "-", *NET, *map(str, arguments)])


def weights(folder: Path) -> np.ndarray:
    return read_checkpoint(folder / "checkpoint.safetensors").cell.weights


@pytest.mark.parametrize(
    "given", [["--horizon", "1"], ["--horizon", "1,3"], ["--targets", "y"]], ids=str
)
def test_rows_that_arrive_are_learned_as_those_of_a_file(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The same weights, predictions and scores; what is said is what is scored later."""
    text = written(table())
    (tmp_path / "data.csv").write_text(text)
    file = ["train", "stream", "--data", str(tmp_path / "data.csv"), *NET, *given]
    assert main([*file, "--out", str(tmp_path / "file")]) == 0
    capsys.readouterr()
    assert piped(monkeypatch, tmp_path / "in", text, *given, "--out", tmp_path / "pipe") == 0
    said = list(csv.reader(capsys.readouterr().out.splitlines()))
    np.testing.assert_array_equal(weights(tmp_path / "file"), weights(tmp_path / "pipe"))
    one, two = ((tmp_path / n / "predictions.csv").read_text() for n in ("file", "pipe"))
    assert one == two
    kept = list(csv.reader(one.splitlines()))
    assert said[0] == kept[0][1::2]
    assert len(said) == 1 + 60
    for row, line in zip(kept[1:], said[1:], strict=False):
        assert row[2::2] == line
    summaries = [json.loads((tmp_path / n / "summary.json").read_text()) for n in ("file", "pipe")]
    for name in ("rmse", "rmse_persistence", "rmse_mean", "mae", "nrmse"):
        assert summaries[0][name] == pytest.approx(summaries[1][name], rel=1e-12)


def test_a_run_goes_on_with_the_rows_that_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    rows, given = table(), ["--horizon", "2"]
    for name, parts in (("whole", [rows]), ("parts", [rows[:25], rows[25:]])):
        out = ["--out", tmp_path / name]
        for k, part in enumerate(parts):
            resume = ["--resume"] if k else []
            text = written(part)
            assert piped(monkeypatch, tmp_path / "in", text, *given, *out, *resume) == 0
    np.testing.assert_array_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    one, two = ((tmp_path / n / "predictions.csv").read_text() for n in ("whole", "parts"))
    assert one == two
    assert piped(monkeypatch, tmp_path / "in", "a;b\n1;2\n", "--out", tmp_path / "parts",
                 "--resume") == 2  # fmt: skip
    assert "must be those of the run" in capsys.readouterr().err


REFUSED = {
    "": "must hold rows of numbers, got none",
    "x;y\n": "must hold rows of numbers, got none",
    "x;y\n1;2\n2;3\n3\n4;5\n": "row 2 of standard input must have 2 cells as those before, got 1",
    "x;y\n1;2\n2;3\n3": "got 1: it ended in mid-row",
    "x;y\n1;2\n2;3\n3;4;5\n": "row 2 of standard input must have 2 cells as those before, got 3",
    "x;y\n1;2\n2;3\nx;4\n": "row 2 of standard input must be numbers, got 'x' in column 'x'",
    "x;y\n1;2\n2;3\n3;inf\n": "row 2 of standard input: rows must hold numbers",
    "x;y\n1;2\n2;3\n3;\n": "row 2 of standard input: rows must be whole, got NaN",
    "x;y\n1;2\n2;3\n3;1,234\n": "row 2 of standard input must be numbers, got '1,234'",
    "x;y\n1;2\n2;3\n3;\xff\n": "row 2 of standard input must be numbers",
}


@pytest.mark.parametrize("text", REFUSED, ids=ascii)
def test_a_row_that_is_none_ends_the_run_in_a_line_and_loses_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "run"
    assert piped(monkeypatch, tmp_path / "in", text, "--horizon", 1, "--out", out) == 2
    err = capsys.readouterr().err
    assert REFUSED[text] in err
    assert err.count("\n") == 1
    if "2;3" in text:  # two rows came before: one step is learned
        kept = json.loads((out / "checkpoint.json").read_text())
        assert kept["task"]["rows"] == 2
        assert kept["progress"]["tokens"] == 1


def test_without_any_target_nothing_is_learned_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    text = "x;y\n" + "1;\n2;\n3;\n"
    assert piped(monkeypatch, tmp_path / "in", text, "--missing", "mask", "--targets", "y") == 2
    assert "no row came with its targets" in capsys.readouterr().err


def test_a_pipe_says_the_prediction_before_the_next_row_comes() -> None:
    read, write = os.pipe()
    os.write(write, b"x y\n1 2\n2 4\n3 ")
    task = Pipe("0", horizon="1", descriptor=read)
    drawn = [task.draw() for _ in range(3)]
    assert [len(d.xs) for d in drawn] == [0, 1, 0]  # the third row is not whole yet
    os.write(write, b"6\n")
    assert task.draw().targets[0, 0].tolist() == [3, 6]
    assert not task.ended
    os.close(write)
    task.draw()
    assert task.ended
    os.close(read)


def test_a_reader_that_goes_ends_the_run_quietly() -> None:
    rows = "".join(f"{k},{k * k % 7}\\n" for k in range(300))
    command = (
        f"printf '{rows}' | {sys.executable} -m sparsegrad train stream --data - {' '.join(NET)}"
        " | head -n 1"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == "column_1\n"
    assert "Traceback" not in done.stderr


def test_predictions_stand_beside_what_came_and_are_whole_after_a_pause(
    tmp_path: Path, capsys: Any
) -> None:
    rows = table(90)
    np.save(tmp_path / "data.npy", rows)
    given = ["train", "stream", "--data", str(tmp_path / "data.npy"), *NET, "--steps", "7",
             "--horizon", "1,2", "--targets", "0,1"]  # fmt: skip
    assert main([*given, "--out", str(tmp_path / "whole")]) == 0
    assert main([*given, "--out", str(tmp_path / "parts"), "--tokens", "30"]) == 0
    with open(tmp_path / "parts" / "predictions.csv", "a") as file:
        file.write("what a killed run wrote after its checkpoint\n")
    again = ["train", "stream", "--out", str(tmp_path / "parts"), "--resume", "--tokens", "88"]
    assert main(again) == 0
    whole, parts = (tmp_path / name / "predictions.csv" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    header, found = read_tail(whole, 1000)
    assert header[1::2] == ["column_0+1", "column_1+1", "column_0+2", "column_1+2"]
    np.testing.assert_allclose(found[:, 1:5:2], rows[1:89], rtol=1e-8)
    np.testing.assert_allclose(found[:, 5::2], rows[2:90], rtol=1e-8)
    missed = found[:, 1::2] - found[:, 2::2]
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["rmse"] == pytest.approx(np.sqrt((missed**2).mean()), rel=1e-6)
    text = (tmp_path / "whole" / "metrics.jsonl").read_text()
    lines = [json.loads(one) for one in text.splitlines()]
    assert {"rmse", "mae_mean", "nrmse_persistence", "rmse_2"} <= lines[-1].keys()
    assert (tmp_path / "whole" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()


def test_several_streams_are_kept_each_by_its_rows(tmp_path: Path) -> None:
    rows = table(41)
    np.save(tmp_path / "data.npy", rows)
    assert main(["train", "stream", "--data", str(tmp_path / "data.npy"), *NET, "--batch", "2",
                 "--targets", "0", "--out", str(tmp_path / "run")]) == 0  # fmt: skip
    found = np.loadtxt(tmp_path / "run" / "predictions.csv", delimiter=",", skiprows=1)
    assert found[:, 0].tolist() == [*range(40)]
    np.testing.assert_allclose(found[:, 1::2], rows[1:], rtol=1e-8)
