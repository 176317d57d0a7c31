"""`train --tensorboard`: TensorBoard reads what metrics.jsonl holds, once."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsegrad.cli.main import main
from sparsegrad.runs.events import EventLog

pytest.importorskip("tensorboard", reason="tensorboard is not installed")
TRAIN = ["train", "copy", "--units", "8", "--method", "snap:1", "--batch", "2", "--report", "500"]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard's own reader finds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    return {
        tag: [(one.step, one.value) for one in read.Scalars(tag)] for tag in read.Tags()["scalars"]
    }


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_log_is_that_of_the_metrics_after_going_on_too(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    for more in (["--tokens", "3k"], ["--tokens", "6k", "--resume"]):
        assert main([*TRAIN, *more, "--out", str(out), "--tensorboard"]) == 0
        found = scalars(out)
        assert {"loss", "length"} <= {*found}
        for tag, values in found.items():
            wanted = [(line["tokens"], line[tag]) for line in lines(out) if tag in line]
            assert [step for step, _ in values] == [step for step, _ in wanted]
            assert [x for _, x in values] == pytest.approx([x for _, x in wanted], rel=1e-6)
        assert len([*(out / "tensorboard").iterdir()]) == 1
    assert capsys.readouterr().err.count("TensorBoard") == 0


def test_a_log_that_cannot_be_written_ends_and_the_run_goes_on(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    assert main([*TRAIN, "--tokens", "1k", "--out", str(out)]) == 0
    (out / "tensorboard").write_bytes(b"a file of that name")
    assert main([*TRAIN, "--tokens", "2k", "--out", str(out), "--resume", "--tensorboard"]) == 0
    assert "TensorBoard's log ended: File exists; metrics.jsonl has" in capsys.readouterr().err
    assert (out / "tensorboard").read_bytes() == b"a file of that name"
    assert len(lines(out)) >= 4


def test_it_must_have_a_folder(capsys: Any) -> None:
    assert main([*TRAIN, "--tokens", "1k", "--tensorboard"]) == 2
    assert capsys.readouterr().err == (
        "sparsegrad: --tensorboard must come with --out DIR, where the log goes\n"
    )


def test_without_tensorboard_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(ModuleNotFoundError, match=r"sparsegrad-rtrl\[tensorboard\]"):
        EventLog(tmp_path)
