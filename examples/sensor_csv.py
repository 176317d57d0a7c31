"""Forecast a sensor from a CSV file, one hour and six hours ahead, learning row by row.

The file is as a logger writes it: semicolons, decimal commas, a date, gaps. Every forecast is made
before what it tells of came; the error stands beside those of the last value and the mean so far.
"""

import math
import random
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import sparsegrad
from sparsegrad.tasks import Stream


def write_table(path: Path, hours: int) -> None:
    """Write hours of a room's temperature: a day's course, a heating that goes on and off."""
    draw = random.Random(0)
    inside, heating = 18.0, 0
    lines = ["time;outside;heating;inside"]
    for hour in range(hours):
        at = datetime(2024, 1, 1) + timedelta(hours=hour)
        outside = 4 + 6 * math.sin(2 * math.pi * (hour - 9) / 24) + draw.gauss(0, 0.3)
        heating = 1 if inside < 18 else 0 if inside > 21 else heating
        inside += 0.06 * (outside - inside) + 2.2 * heating + draw.gauss(0, 0.1)
        cells = [f"{outside:.2f}", str(heating), "" if draw.random() < 0.02 else f"{inside:.2f}"]
        lines.append(";".join([f"{at:%Y-%m-%d %H:%M}", *(c.replace(".", ",") for c in cells)]))
    path.write_text("\n".join(lines) + "\n", "utf-8")


def main(hours: int = 4000) -> tuple[float, float]:
    """Return the errors (RMSE) of the last value and of the forecasts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sensors.csv"
        write_table(path, hours)
        task = Stream(path, "inside", horizon="1,6", scale="online", missing="hold")
        learner = sparsegrad.OnlineLearner(
            sparsegrad.GRU(task.inputs, 32, sparsity=0.5, input_sparsity=0),
            sparsegrad.Linear(task.outputs),
            sparsegrad.SnAp(1),
            sparsegrad.Adam(3e-3),
        )
        done = 0
        while done < task.tokens:
            drawn = task.draw()
            task.learn(learner, drawn)
            done += len(drawn.xs)
        report = task.forecast.report()
    for hour in (1, 6):
        errors = [report[f"rmse_{hour}{of}"] for of in ("", "_persistence", "_mean")]
        told = "rmse {:.3f}, of the last value {:.3f}, of the mean {:.3f}".format(*errors)
        print(f"{hour} h ahead: {told}")
    return report["rmse_persistence"], report["rmse"]


if __name__ == "__main__":
    main(20_000)
