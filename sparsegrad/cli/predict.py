"""The command `sparsegrad predict`."""

import argparse
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sparsegrad.cli.flags import add_command
from sparsegrad.cli.messages import tell

EXAMPLES = """examples:
  sparsegrad train stream --data sensors.csv --targets 1 --out runs/sensors
  sparsegrad predict runs/sensors --data today.csv --out predictions.csv
"""


def add_predict(commands: Any) -> None:
    """Add `predict` to the command line's subparsers."""
    parser = add_command(
        commands,
        predict,
        "what a run on a stream predicts for a table",
        "Write the predictions of a run of `train stream` for the rows of a table, "
        "which begins a sequence; nothing is learned. Where the table has the targets too, or the "
        "run predicts the next row, the error stands on the last line of stderr.",
        EXAMPLES,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--data", type=Path, metavar="FILE", required=True, help="as train takes it"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="CSV; default: standard output")


def predict(arguments: argparse.Namespace) -> int:
    """Run `predict`; return the exit status."""
    import numpy as np

    from sparsegrad.runs.answers import predict_table
    from sparsegrad.system.atomic import replacing

    squares = count = rows = 0
    out = arguments.out
    with nullcontext() if out is None else replacing(out) as new:
        file = sys.stdout if new is None else new.open("w", newline="")
        try:
            for found, wanted in predict_table(arguments.folder, arguments.data):
                if not rows:
                    print(*(f"prediction_{k}" for k in range(found.shape[1])), sep=",", file=file)
                for row in found.tolist():
                    print(*row, sep=",", file=file)
                if wanted is not None:
                    missed = found - wanted
                    missed = missed[~np.isnan(missed)]
                    squares, count = squares + (missed**2).sum(), count + missed.size
                rows += len(found)
        finally:
            if new is not None:
                file.close()
    error = f", rmse {math.sqrt(squares / count):.4g}" if count else ""
    tell(f"{rows:,} rows predicted{error}" + (f"; wrote {out}" if out is not None else ""))
    return 0
