"""A stream in river's way: predict each example, then learn from it. Needs river, fetches nothing.

The flow of water in a pipe, hour by hour (river's own data set): how much will it change? The net
sees what it has learned from last, the change before, and no other feature; river scales it.

    python examples/river_flow.py
"""

from river import datasets, metrics, preprocessing

from sparsegrad.interop.river import RecurrentRegressor


def main() -> tuple[float, float]:
    """Go through the stream once; return the mean error of persistence, and ours."""
    model = preprocessing.TargetStandardScaler(RecurrentRegressor(units=16, rate=0.003))
    ours, persistence = metrics.MAE(), metrics.MAE()
    last = None
    for _, flow in datasets.WaterFlow():
        if last is not None:
            guess = last + model.predict_one({})
            model.learn_one({}, flow - last)
            ours.update(flow, guess)
            persistence.update(flow, last)
        last = flow
    return persistence.get(), ours.get()


if __name__ == "__main__":
    before, after = main()
    print(f"mean absolute error: {after:.3f} l/s, of the last value as a guess {before:.3f} l/s")
