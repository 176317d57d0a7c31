"""TensorBoard's log of a run, beside ``metrics.jsonl`` and with the same numbers.

    tensorboard --logdir runs

It follows from the metrics: a run that goes on writes it anew from those that it keeps, so that no
report stands there twice, or of steps that a crash has undone.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"
"""Within the folder of the run."""
OWN = "events.out.tfevents.*"


class EventLog:
    """A log of reports; a disk that is full ends it, and not the run.

    Parameters
    ----------
    path : Path
        Folder of the run.

    Attributes
    ----------
    error : str
        Why the log has ended; "" while it goes on.

    Raises
    ------
    ModuleNotFoundError
        If TensorBoard is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise ModuleNotFoundError(
                "--tensorboard needs TensorBoard, which is not installed: "
                "pip install 'sparsegrad-rtrl[tensorboard]'"
            ) from None
        self._path, self.error = path / FOLDER, ""
        self._event, self._summary, self._open = Event, Summary, EventFileWriter
        self._writer: Any = None
        self._began = time.time()

    def begin(self, lines: Sequence[dict[str, Any]]) -> None:
        """Write the log anew with the reports that there are."""
        try:
            self._path.mkdir(exist_ok=True)
            for old in self._path.glob(OWN):
                old.unlink()
            self._writer = self._open(str(self._path))
        except OSError as error:
            self._end(error)
        self._began = time.time() - (lines[-1]["seconds"] if lines else 0)
        for line in lines:
            self.add(line, flush=False)
        self._flush()

    def add(self, line: dict[str, Any], flush: bool = True) -> None:
        """Write a report: a scalar for each of its numbers, at its tokens."""
        if self.error or self._writer is None:
            return
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in line.items()
            if name not in ("tokens", "seconds")
        ]
        event = self._event(
            wall_time=self._began + line["seconds"], step=line["tokens"],
            summary=self._summary(value=values),
        )  # fmt: skip
        try:
            self._writer.add_event(event)
        except OSError as error:
            self._end(error)
        if flush:
            self._flush()

    def close(self) -> None:
        """Write out what is left."""
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError as error:
            self._end(error)

    def _flush(self) -> None:
        try:
            if self._writer is not None and not self.error:
                self._writer.flush()
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> None:
        self.error = self.error or error.strerror or str(error)
