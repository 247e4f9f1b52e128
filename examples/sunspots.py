"""Forecast a series with an LSTM, beside the forecasts that need no model: the last value, and that of a season ago.

    python examples/sunspots.py [--library torch] [--csv FILE --season 12] [--picture sunspots.png]

The series is the yearly number of sunspots from 1700 to 2008, which `pip install statsmodels` brings along, or the last column
of a CSV file, a value in each row. The last quarter is to test on: each of its values is forecast from those before it. Then
the LSTM goes on by itself from the end of the training part, on its own forecasts. The two libraries run the same lines
below; the one difference is `compiled`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from two_libraries import compiled, library_called

from deepcore.errors import ArgumentError, DataError, DeepcoreError, MissingDependencyError
from deepcore.io import read_samples

WIDTH, BATCH, RATE = 32, 64, 5e-3


# -- the series -------------------------------------------------------------------------------------------
def sunspots() -> tuple[np.ndarray, np.ndarray]:
    """Years 1700 … 2008, and the mean number of sunspots in each."""
    try:
        from statsmodels.datasets import sunspots as data
    except ImportError:
        raise MissingDependencyError(
            "the numbers of sunspots come with statsmodels", fix="pip install statsmodels, or --csv FILE"
        ) from None
    table = data.load_pandas().data
    return table["YEAR"].to_numpy(np.float64), table["SUNACTIVITY"].to_numpy(np.float64)


def read_series(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers, and the last column of a CSV file."""
    values = read_samples(path)[:, -1].astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{path} has values that are not finite", fix="fill in missing values")
    return np.arange(len(values), dtype=np.float64), values


def windows(series: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Each `length` values in a row (N, length, 1), and the value that follows (N, 1)."""
    parts = np.lib.stride_tricks.sliding_window_view(series.astype(np.float32), length + 1)
    return parts[:, :-1, None].copy(), parts[:, -1:].copy()


# -- the network ------------------------------------------------------------------------------------------
def network(library):
    """Values (N, L, 1) to the change from the last of them to the next, (N, 1)."""
    nn = library.nn

    class Forecaster(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(1, WIDTH, batch_first=True)
            self.out = nn.Linear(WIDTH, 1)

        def forward(self, x):
            return x[:, -1] + self.out(self.lstm(x)[0][:, -1])

    return Forecaster()


def train(library, model, x, y, steps: int) -> None:
    """Adam on the squared error of random batches, at a rate that falls to 0."""
    optimizer = library.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    schedule = library.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def step(x, y):
        optimizer.zero_grad()
        loss = library.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    step = compiled(library, step)
    rng = np.random.default_rng(0)
    start, losses = time.perf_counter(), []
    for i in range(1, steps + 1):
        chosen = rng.integers(len(x), size=min(BATCH, len(x)))
        losses.append(step(library.from_numpy(x[chosen]), library.from_numpy(y[chosen])).item())
        schedule.step()
        if i % 50 == 0 or i == steps:
            print(f"{time.perf_counter() - start:5.1f} s  step {i:5}  loss {np.mean(losses):.4f}", flush=True)
            losses = []


def forecast(library, model, x: np.ndarray) -> np.ndarray:
    """The value after each window (N, length, 1)."""
    model.eval()
    with library.no_grad():
        return model(library.from_numpy(x)).numpy()[:, 0]


def go_on(library, model, window: np.ndarray, count: int) -> np.ndarray:
    """`count` values after a window (length,), each forecast from the window and the forecasts before it."""
    values = list(window.astype(np.float32))
    for _ in range(count):
        values.append(forecast(library, model, np.array(values[-len(window) :], np.float32)[None, :, None])[0])
    return np.array(values[len(window) :])


def save_picture(path: Path, times, values, begin: int, ahead, alone) -> bool:
    """The series, the forecasts of each next value and those without further values; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no picture: pip install matplotlib")
        return False
    figure = Figure(figsize=(10, 4), layout="tight")
    axes = figure.subplots()
    axes.plot(times, values, color="0.6", label="measured")
    axes.plot(times[begin:], ahead, label="LSTM, from all values before")
    axes.plot(times[begin : begin + len(alone)], alone, "--", label="LSTM, from the training part alone")
    axes.axvline(times[begin], color="0.8")
    axes.legend(loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return True


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """The root of the mean squared error of each forecast of the test values."""
    parser = argparse.ArgumentParser(description="A series forecast by an LSTM.")
    parser.add_argument("--library", choices=["deepcore", "torch"], default="deepcore")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="a series of your own (default: sunspots)")
    parser.add_argument("--season", type=int, default=11, help="values in a season (default 11, years of sunspots)")
    parser.add_argument("--steps", type=int, default=200, help="how long to train (default 200)")
    parser.add_argument("--picture", type=Path, help="where to save it (default runs/sunspots-LIBRARY.png)")
    options = parser.parse_args(arguments)
    for name in ("season", "steps"):
        if getattr(options, name) < 1:
            raise ArgumentError(f"--{name} is at least 1", received=str(getattr(options, name)))
    library = library_called(options.library)
    times, values = sunspots() if options.csv is None else read_series(options.csv)
    length, begin = 2 * options.season, len(values) - len(values) // 4
    if begin <= length + 1 or begin == len(values):
        raise DataError(
            f"the series has {len(values)} values, too few for seasons of {options.season}",
            expected=f"at least {max(4, (length + 2) * 4 // 3 + 1)}",
            fix="--season with fewer values",
        )

    mean, deviation = values[:begin].mean(), values[:begin].std() or 1.0
    x, y = windows((values - mean) / deviation, length)
    library.manual_seed(0)
    model = network(library)
    first = begin - length  # the window whose next value is the first to test on
    print(f"{options.library}: {begin} values to train on, {len(values) - begin} to test on, windows of {length}")
    train(library, model, x[:first], y[:first], options.steps)

    ahead = forecast(library, model, x[first:]) * deviation + mean
    alone = go_on(library, model, x[first, :, 0], 2 * options.season)[: len(values) - begin] * deviation + mean
    forecasts = {
        "LSTM": ahead,
        "last value": values[begin - 1 : -1],
        "value of a season ago": values[begin - options.season : -options.season],
    }
    errors = {name: float(np.sqrt(np.mean((f - values[begin:]) ** 2))) for name, f in forecasts.items()}
    print("root mean squared error: " + ", ".join(f"{name} {error:.2f}" for name, error in errors.items()))
    picture = options.picture or Path("runs") / f"sunspots-{options.library}.png"
    if save_picture(picture, times, values, begin, ahead, alone):
        print(f"picture: {picture}")
    return errors


if __name__ == "__main__":
    try:
        main()
    except DeepcoreError as problem:
        sys.exit(str(problem))
