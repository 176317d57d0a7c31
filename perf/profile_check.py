"""Check the profile: are predicted times near, and do times grow as the multiply-adds do.

    predicted  predicted over measured seconds at every point of the default sweep, and of the
               paper's nine nets at n = 1, 2, 3: the part within 30%, and the furthest point
    growth     exponent of time against multiply-adds at 93.75% sparse, SnAp-2, over sizes that
               span three decades of multiply-adds: from small nets on, whose rows are short, and
               from nets on whose J has some MB

One thread, float32. Prints JSON lines.
"""

import argparse
import json
import math

from sparsegrad.profiling import profile as profiling
from sparsegrad.profiling.cost_model import CostModel
from sparsegrad.profiling.profile import Point, Sweep, profile
from sparsegrad.profiling.roofline import Roofline
from sparsegrad.profiling.scaling import exponent
from sparsegrad.system.quantities import percent

PAPER = ((128, 0.75), (256, 0.9375), (512, 0.984375))
GROWTH = (
    ("gru", (128, 181, 256, 362, 512, 724)),
    ("rnn", (256, 362, 512, 724, 1024, 1448)),
    ("gru", (256, 362, 512, 724, 1024, 1448, 2048)),
    ("rnn", (512, 724, 1024, 1448, 2048, 2896, 4096)),
)


def predicted(what: str, points: list[Point]) -> dict[str, object]:
    """Compare predictions with times."""
    ratios = {point: point.predicted_seconds / point.seconds for point in points}
    near = [ratio for ratio in ratios.values() if 0.7 <= ratio <= 1.3]
    worst = max(ratios, key=lambda point: abs(math.log(ratios[point])))
    return {
        "what": "predicted", "sweep": what, "points": len(points), "within_30%": len(near),
        "furthest": ratios[worst],
        "at": f"{worst.cell} {worst.units} @ {percent(worst.sparsity)}, n = {worst.n}",
    }  # fmt: skip


def growth(cell: str, points: list[Point]) -> dict[str, object]:
    """Fit time against multiply-adds."""
    work, seconds = [p.multiply_adds for p in points], [p.seconds for p in points]
    return {
        "what": "growth",
        "net": f"{cell} @ {percent(points[0].sparsity)}, n = 2",
        "units": [points[0].units, points[-1].units],
        "decades": math.log10(max(work) / min(work)), "exponent": exponent(work, seconds),
        "exponent_predicted": exponent(work, [p.predicted_seconds for p in points]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="small nets: does it run?")
    options = parser.parse_args()
    sizes, pairs, sweep = GROWTH, PAPER, Sweep()
    if options.toy:
        sizes, pairs = (("rnn", (20, 30)),), ((12, 0.5),)
        sweep = Sweep(units=(12, 16), sparsity=(0.5,))
        profiling.POINT_SECONDS = 0.001
    model = CostModel(Roofline("float32"))
    print(json.dumps(predicted("default", list(profile(sweep, model)))), flush=True)
    nets = [Sweep(("rnn", "gru", "lstm"), (u,), (s,), (1, 2, 3)) for u, s in pairs]
    points = [point for net in nets for point in profile(net, model)]
    print(json.dumps(predicted("the paper's nets", points)), flush=True)
    for cell, units in sizes:
        own = list(profile(Sweep((cell,), units, (0.9375,), (2,)), model))
        print(json.dumps(growth(cell, own)), flush=True)


if __name__ == "__main__":
    main()
