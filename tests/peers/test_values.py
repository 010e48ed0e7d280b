"""Metrics, stamps and forecasts against values that other projects made, see ``peers/values.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lightning_modules.data.frequency import Clock, find_frequency, following
from lightning_modules.forecasting.metrics import pinball
from lightning_modules.naive import repeat_last, seasonal_naive

SEASON, HORIZON = 7, 10


def read(peer: str) -> Any:
    return json.loads((Path(__file__).parent / f"{peer}.json").read_text())


def series(peer: str, name: str, key: str = "table") -> pd.DataFrame:
    table = pd.DataFrame(read(peer)[key])
    return table[table.unique_id == name]


def train(name: str) -> torch.Tensor:
    return torch.tensor(series("statsforecast", name).y.to_numpy()[None, :-HORIZON, None])


@pytest.mark.parametrize("name", ["north", "south", "west"])
def test_forecasts_without_training(name: str) -> None:
    made = pd.DataFrame(read("statsforecast")["values"]["forecasts"])
    made = made[made.unique_id == name]
    np.testing.assert_array_equal(seasonal_naive(train(name), HORIZON, SEASON).flatten(), made.SeasonalNaive)
    np.testing.assert_array_equal(repeat_last(train(name), HORIZON).flatten(), made.Naive)


@pytest.mark.parametrize("frequency", ["ME", "MS", "QS", "W-MON", "B", "h", "15min", "28D"])
def test_stamps_ahead(frequency: str) -> None:
    stamps = read("statsforecast")["values"]["stamps"][frequency]
    past = np.array(stamps["past"], dtype="datetime64[ns]")
    found = find_frequency(past)
    assert found is not None
    ahead = following(past[-1], 6, Clock(found))
    np.testing.assert_array_equal(ahead, np.array(stamps["ahead"], dtype="datetime64[ns]"))


def test_pinball_losses() -> None:
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    values = read("darts")["values"]
    every = []
    for name in values:
        judged = series("darts", name, "forecasts that were judged")
        three = torch.tensor(judged[["low", "yhat", "high"]].to_numpy())
        losses = pinball(three, torch.tensor(judged.y.to_numpy()), levels)
        theirs = [values[name][f"pinball_{level}"] for level in (0.1, 0.5, 0.9)]
        np.testing.assert_allclose(losses.mean(0), theirs, rtol=1e-12)
        every.append(losses)
    expected = read("neuralforecast")["values"]["pinball"]
    np.testing.assert_allclose(torch.cat(every).mean(), expected, rtol=1e-12)
