"""Forecast a stream that never ends, from a Python generator: a row is learned as it comes."""

import math
import random
from collections.abc import Iterator
from itertools import islice

import sparsegrad
from sparsegrad.tasks import Forecast


def machine() -> Iterator[list[float]]:
    """Yield load and temperature of a machine for ever; now and then the sensor says nothing."""
    draw, load, heat = random.Random(1), 0.0, 300.0
    for step in range(1 << 62):
        load = 40 + 30 * math.sin(step / 11) + draw.gauss(0, 1)
        heat += 0.1 * (280 + load - heat) + draw.gauss(0, 0.1)
        yield [load, math.nan if draw.random() < 0.01 else heat]


def main(rows: int = 3000) -> tuple[float, float]:
    """Return the errors (RMSE) of the last value and of the forecasts."""
    forecast = Forecast(columns=2, targets=[1], horizon=1, missing="hold")
    learner = sparsegrad.OnlineLearner(
        sparsegrad.GRU(forecast.inputs, 32, sparsity=0.5, input_sparsity=0),
        sparsegrad.Linear(forecast.outputs),
        sparsegrad.SnAp(1),
        sparsegrad.Adam(3e-3),
    )
    for row in islice(machine(), rows):  # without islice it goes on for ever
        ahead = forecast.step(learner, row)  # the temperature of the next row, in its own units
    report = forecast.report()
    print(f"next: {ahead[0, 0]:.1f}; rmse {report['rmse']:.3f}, of the last value "
          f"{report['rmse_persistence']:.3f}")  # fmt: skip
    return report["rmse_persistence"], report["rmse"]


if __name__ == "__main__":
    main(20_000)
