"""Our estimators for river beside deep-river's rolling ones, on streams that river brings along.

    python perf/river_streams.py            # needs river and deep-river; fetches nothing

Each example is predicted and then learned, with the same features for all: scaled, and the last
target among them. A GRU of 32 units and Adam for both, at each one's best rate of three; the error
is the mean over three seeds, the time the median over all examples of prediction and learning
together, the contestants in turns, example by example. deep-river's run a window of the last ten
examples again for every one. Persistence predicts the last target.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from river import datasets, metrics, preprocessing

UNITS, WINDOW = 32, 10
RATES = (1e-3, 3e-3, 1e-2)
STREAMS: dict[str, Any] = {
    "WaterFlow": datasets.WaterFlow,
    "TrumpApproval": datasets.TrumpApproval,
    "Phishing": datasets.Phishing,
}


def examples(name: str, most: int) -> Iterator[tuple[dict[str, float], Any]]:
    """Yield the examples of a stream, with numbers alone and the last target among the features."""
    last: float = 0.0
    for x, y in STREAMS[name]().take(most):
        yield {k: float(v) for k, v in x.items() if isinstance(v, int | float)} | {"last": last}, y
        last = float(y)


def ours(classes: bool, features: int, rate: float, seed: int) -> Any:
    from sparsegrad.interop.river import RecurrentClassifier, RecurrentRegressor

    kind = RecurrentClassifier if classes else RecurrentRegressor
    return kind(units=UNITS, rate=rate, seed=seed, autoregressive=False)


def deep_river(classes: bool, features: int, rate: float, seed: int) -> Any:
    import torch
    from deep_river.classification import RollingClassifier
    from deep_river.regression import RollingRegressor

    torch.set_num_threads(1)
    torch.manual_seed(seed)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = torch.nn.GRU(features, UNITS)
            self.head = torch.nn.Linear(UNITS, 2 if classes else 1)

        def forward(self, x: Any) -> Any:
            return self.head(self.gru(x)[0][-1])

    kind, loss = (RollingClassifier, "cross_entropy") if classes else (RollingRegressor, "mse")
    return kind(
        Net(), loss_fn=loss, optimizer_fn="adam", lr=rate, window_size=WINDOW, seed=seed,
        is_feature_incremental=False,
    )  # fmt: skip


def pipeline(model: Any, classes: bool) -> Any:
    scaled = model if classes else preprocessing.TargetStandardScaler(model)
    return preprocessing.StandardScaler() | scaled


CONTESTANTS: dict[str, Callable[..., Any]] = {"sparsegrad, SnAp-1": ours, "deep-river": deep_river}


def run(name: str, rate: float, seed: int, most: int) -> dict[str, tuple[float, list[float]]]:
    """Return each contestant's error and its seconds per example."""
    stream = list(examples(name, most))
    classes = isinstance(stream[0][1], bool)
    models = {
        who: pipeline(make(classes, len(stream[0][0]), rate, seed), classes)
        for who, make in CONTESTANTS.items()
    }
    measures = {who: metrics.Accuracy() if classes else metrics.MAE() for who in models}
    seconds: dict[str, list[float]] = {who: [] for who in models}
    for k, (x, y) in enumerate(stream):
        for who, model in models.items():
            before = time.perf_counter()
            guess = model.predict_one(x) if k else None
            model.learn_one(x, y)
            seconds[who].append(time.perf_counter() - before)
            if guess is not None:
                measures[who].update(y, guess)
    errors = {who: 1 - m.get() if classes else m.get() for who, m in measures.items()}
    return {who: (errors[who], seconds[who]) for who in models}


def persistence(name: str, most: int) -> float:
    """Return the error of predicting the last target."""
    stream = list(examples(name, most))[1:]
    return float(np.mean([abs(float(y) - x["last"]) for x, y in stream]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=10_000, help="examples of a stream")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    arguments = parser.parse_args()
    print("| stream | model | error | rate | µs per example |\n|---|---|---|---|---|")
    for name in STREAMS:
        found = {
            rate: [run(name, rate, seed, arguments.most) for seed in range(arguments.seeds)]
            for rate in arguments.rates
        }
        for who in CONTESTANTS:
            mean = {rate: np.mean([one[who][0] for one in runs]) for rate, runs in found.items()}
            best = min(mean, key=lambda rate: mean[rate])
            spent = 1e6 * np.median([s for one in found[best] for s in one[who][1]])
            print(f"| {name} | {who} | {mean[best]:.4g} | {best:g} | {spent:.0f} |")
        print(f"| {name} | persistence | {persistence(name, arguments.most):.4g} | | |", flush=True)


if __name__ == "__main__":
    main()
