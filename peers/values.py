"""Values of other projects that ours have to equal, each from an environment of its own.

``make peers-NAME`` runs ``python peers/values.py NAME tests/peers/NAME.json`` with the packages of
``peers/NAME.txt``. The tests of every environment read that file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SEASON, HORIZON = 7, 10
LENGTHS = {"north": 60, "south": 45, "west": 53}
LEVELS = (0.1, 0.5, 0.9)
FREQUENCIES = ("ME", "MS", "QS", "W-MON", "B", "h", "15min", "28D")


def sales() -> pd.DataFrame:
    """Three shops of unequal lengths and starts in the long form, `unique_id, ds, y`."""
    random = np.random.default_rng(0)
    parts = []
    for k, (name, length) in enumerate(LENGTHS.items()):
        week = 5 * np.sin(2 * np.pi * np.arange(length) / SEASON)
        y = np.round(50 + 10 * k + week + random.normal(size=length).cumsum(), 3)
        ds = pd.date_range("2026-01-01", periods=length, freq="D") + pd.Timedelta(days=3 * k)
        parts.append(pd.DataFrame({"unique_id": name, "ds": ds, "y": y}))
    return pd.concat(parts, ignore_index=True)


def parts(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows before the last `HORIZON` of each series, and these."""
    last = table.groupby("unique_id").cumcount(ascending=False) < HORIZON
    return table[~last], table[last]


def columns(table: pd.DataFrame) -> dict[str, list[Any]]:
    """Columns as JSON holds them."""
    return {name: list(table[name].astype(str) if name == "ds" else table[name]) for name in table}


def forecasts(table: pd.DataFrame) -> pd.DataFrame:
    """The held out rows with a forecast that repeats the last season, and quantiles 2 and 3 beside it."""
    train, test = parts(table)
    last = {name: one.y.to_numpy()[-SEASON:] for name, one in train.groupby("unique_id")}
    step = test.groupby("unique_id").cumcount()
    yhat = np.array([last[name][k % SEASON] for name, k in zip(test.unique_id, step, strict=True)])
    return test.assign(yhat=yhat, low=yhat - 2, high=yhat + 3)


def statsforecast() -> dict[str, Any]:
    """Forecasts that need no training with their stamps, and metrics of each series."""
    from statsforecast import StatsForecast
    from statsforecast.models import Naive, SeasonalNaive
    from utilsforecast.losses import mae, mase, mse

    train, test = parts(sales())
    naive = [SeasonalNaive(SEASON), Naive()]
    made = StatsForecast(naive, freq="D").forecast(df=train, h=HORIZON).sort_values(["unique_id", "ds"])
    joined = test.merge(made, on=["unique_id", "ds"])
    stamps = {}
    for frequency in FREQUENCIES:
        ds = pd.date_range("2026-01-02 00:00", periods=20, freq=frequency)
        one = pd.DataFrame({"unique_id": "a", "ds": ds, "y": np.arange(20.0)})
        ahead = StatsForecast([Naive()], freq=frequency).forecast(df=one, h=6)
        stamps[frequency] = {"past": list(ds.astype(str)), "ahead": list(ahead.ds.astype(str))}
    metrics = {
        "mase": mase(joined, ["SeasonalNaive", "Naive"], SEASON, train),
        "mae": mae(joined, ["SeasonalNaive", "Naive"]),
        "mse": mse(joined, ["SeasonalNaive", "Naive"]),
    }
    return {
        "forecasts": columns(joined.drop(columns="y")),
        "metrics": {name: columns(one) for name, one in metrics.items()},
        "stamps": stamps,
    }


def darts() -> dict[str, Any]:
    """MASE and pinball losses of each series."""
    from darts import TimeSeries
    from darts.metrics import mase, ql

    found: dict[str, dict[str, float]] = {}
    train = dict(iter(parts(sales())[0].groupby("unique_id")))
    for name, one in forecasts(sales()).groupby("unique_id"):
        past, actual = (TimeSeries.from_dataframe(rows, "ds", "y") for rows in (train[name], one))
        expected = TimeSeries.from_dataframe(one, "ds", "yhat")
        three = np.stack([one.low, one.yhat, one.high], axis=1)
        names = [f"y_q{level:.3f}" for level in LEVELS]
        quantiles = TimeSeries.from_times_and_values(actual.time_index, three, columns=names)
        losses = [
            float(np.mean(ql(actual, quantiles, q=level))) / 2 for level in LEVELS
        ]  # theirs is twice ours
        found[str(name)] = {
            "mase": float(mase(actual, expected, past, m=SEASON)),
            **{f"pinball_{level}": loss for level, loss in zip(LEVELS, losses, strict=True)},
        }
    return found


def sktime() -> dict[str, Any]:
    """MASE of each series, and where a test in windows begins."""
    from sktime.performance_metrics.forecasting import mean_absolute_scaled_error
    from sktime.split import SlidingWindowSplitter

    train = {name: one.y.to_numpy() for name, one in parts(sales())[0].groupby("unique_id")}
    errors = {
        str(name): float(
            mean_absolute_scaled_error(one.y.to_numpy(), one.yhat.to_numpy(), y_train=train[name], sp=SEASON)
        )
        for name, one in forecasts(sales()).groupby("unique_id")
    }
    splitter = SlidingWindowSplitter(fh=np.arange(1, HORIZON + 1), window_length=20, step_length=4)
    windows = [[int(test[0]), int(test[-1])] for _, test in splitter.split(np.zeros(LENGTHS["north"]))]
    return {"mase": errors, "first and last row of each window": windows}


def neuralforecast() -> dict[str, Any]:
    """Losses of quantile forecasts over all series."""
    from neuralforecast.losses.numpy import mae, mase, mqloss

    made, train = forecasts(sales()), parts(sales())[0]
    y, yhat = made.y.to_numpy(), made.yhat.to_numpy()
    three = np.stack([made.low, made.yhat, made.high], axis=1)
    errors = {
        str(name): float(
            mase(one.y.to_numpy(), one.yhat.to_numpy(), train.y[train.unique_id == name].to_numpy(), SEASON)
        )
        for name, one in made.groupby("unique_id")
    }
    return {"mae": float(mae(y, yhat)), "pinball": float(mqloss(y, three, np.array(LEVELS))), "mase": errors}


PEERS: dict[str, Callable[[], dict[str, Any]]] = {
    one.__name__: one for one in (statsforecast, darts, sktime, neuralforecast)
}


def main(name: str, file: str) -> None:
    """Write the values of the peer `name` as JSON."""
    made = {
        "command": f"make peers-{name}",
        "versions": {package: version(package) for package in (name, "numpy", "pandas")},
        "table": columns(sales()),
        "forecasts that were judged": columns(forecasts(sales())),
        "values": PEERS[name](),
    }
    Path(file).write_text(json.dumps(made, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
