"""``predictions.csv``: what a run on a table predicted, beside what came."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparsegrad.runs.appended import Appended
from sparsegrad.tasks.stream import Scored

PREDICTIONS = "predictions.csv"
PREDICTED = "_predicted"
"""What follows the name of a target in that of its predictions."""
TAIL = 1 << 17
"""Bytes of the file's end that a picture is drawn from."""


class Predictions:
    """The file, a line per row that was predicted from.

    Parameters
    ----------
    path : Path
    length : int
        As for :class:`Appended`.
    names : sequence of str
        Of the targets.
    horizons : sequence of int
        A target `h` rows ahead has ``+h`` behind its name.

    Raises
    ------
    ValueError, OSError
        As for :class:`Appended`.
    """

    def __init__(
        self, path: Path, length: int, names: Sequence[str], horizons: Sequence[int]
    ) -> None:
        self._file = Appended(path, length)
        self._file.cut()
        if not length:
            aims = [f"{name}+{h}" if h else name for h in horizons for name in names]
            self._write([["row", *(word for aim in aims for word in (aim, aim + PREDICTED))]])

    @property
    def length(self) -> int:
        """Bytes so far."""
        return self._file.length

    def add(self, scored: Scored) -> None:
        """Append rows; a value that is not there is an empty cell.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        steps, batch, horizons, targets = scored.truth.shape
        pairs = np.stack([scored.truth, scored.predicted], axis=-1)
        pairs = pairs.reshape(steps, batch, 2 * horizons * targets)
        self._write(
            [scored.rows[b] + t, *("" if v != v else f"{v:.9g}" for v in pairs[t, b].tolist())]
            for b in range(batch)
            for t in range(steps)
        )

    def sync(self) -> None:
        """Wait until all is on the disk."""
        self._file.sync()

    def _write(self, rows: object) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)  # type: ignore[arg-type]
        self._file.add(text.getvalue().encode())


def read_tail(path: Path, rows: int) -> tuple[list[str], np.ndarray]:
    """Return the header and the last rows of a file, in order; NaN where a cell is empty.

    Parameters
    ----------
    path : Path
    rows : int
        At most so many, one after the other.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with open(path, "rb") as file:
        header = next(csv.reader([file.readline().decode()]))
        begin = file.tell()
        file.seek(0, 2)
        at = max(begin, file.tell() - TAIL)
        file.seek(at)
        lines = file.read().decode().splitlines()[0 if at == begin else 1 :]
    if not lines:
        return header, np.empty((0, len(header)))
    cells = [[float(cell) if cell else np.nan for cell in row] for row in csv.reader(lines)]
    table = np.array(cells)
    last = int(np.argmax(table[:, 0]))
    table = table[: last + 1]
    return header, table[table[:, 0] > table[-1, 0] - rows]
