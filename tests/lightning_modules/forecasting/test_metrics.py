"""MASE by hand, the set of metrics on both scales, and the forecasts that need no training."""

from __future__ import annotations

import pytest
import torch

from dream import ConfigError
from lightning_modules.forecasting.metrics import ForecastMetrics
from lightning_modules.naive import repeat_last, seasonal_naive
from lightning_modules.online.metrics import prequential_metrics


def mase(scale: torch.Tensor, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    metrics = ForecastMetrics(torch.ones_like(scale), scale)
    metrics.update(preds, target)
    return metrics.compute()["mase"]


def test_mase_by_hand() -> None:
    preds = torch.tensor([[[1.0, 2.0], [3.0, 2.0]], [[1.0, 2.0], [3.0, 2.0]]])
    found = mase(torch.tensor([1.0, 4.0]), preds, torch.zeros(2, 2, 2))
    assert found == pytest.approx((2.0 / 1.0 + 2.0 / 4.0) / 2)


def test_metrics_of_batches_are_those_of_all_rows_together() -> None:
    preds, target, scale = torch.randn(10, 3, 2), torch.randn(10, 3, 2), torch.tensor([0.5, 2.0])
    whole, parts = (ForecastMetrics(torch.ones(2), scale) for _ in range(2))
    whole.update(preds, target)
    for rows in (slice(0, 7), slice(7, 10)):
        parts.update(preds[rows], target[rows])
    torch.testing.assert_close(parts.compute(), whole.compute())
    expected = ((preds - target).abs().mean((0, 1)) / scale).mean()
    torch.testing.assert_close(whole.compute()["mase"].float(), expected)


def test_each_series_has_its_own_and_the_table_their_mean() -> None:
    """Ten forecasts of one series count as much as one of another; a series without a season has no MASE."""
    preds, target, series = (
        torch.randn(13, 3, 2),
        torch.randn(13, 3, 2),
        torch.tensor([0] * 10 + [2] + [1] * 2),
    )
    units, scale = torch.rand(4, 2) + 0.5, torch.rand(4, 2) + 0.5
    scale[1] = torch.nan
    quantiles = preds.unsqueeze(-1) + torch.tensor([-1.0, 0.0, 1.0])
    metrics = ForecastMetrics(units, scale, [0.1, 0.5, 0.9])
    metrics.update(preds, target, quantiles, series)
    found, alone = metrics.by_series(), {}
    for number in range(3):
        here = series == number
        one = ForecastMetrics(units[number], scale[number], [0.1, 0.5, 0.9])
        one.update(preds[here], target[here], quantiles[here])
        alone[number] = one.compute()
        for name, value in found.items():
            torch.testing.assert_close(value[number], alone[number][name], equal_nan=True)
    assert found["mse"][3].isnan()
    assert found["mase"][1].isnan()
    for name, value in metrics.compute().items():
        numbers = (0, 2) if name == "mase" else (0, 1, 2)
        torch.testing.assert_close(value, torch.stack([alone[k][name] for k in numbers]).mean())


def test_both_scales() -> None:
    metrics = ForecastMetrics(torch.tensor([10.0, 1.0]), torch.ones(2))
    metrics.update(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 2.0]]]))
    values = {name: float(value) for name, value in metrics.compute().items()}
    assert values == pytest.approx({"mse": 2.5, "mae": 1.5, "mase": 1.5, "mse_data": 52.0, "mae_data": 6.0})
    metrics.reset()
    metrics.update(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))
    assert not any(metrics.compute().values())


def test_forecasts_that_are_no_numbers_do_not_score_better() -> None:
    preds, target = torch.full((10, 1, 2), 3.0), torch.ones(10, 1, 2)
    preds[:9, 0, 0], target[5:, 0, 1] = torch.nan, torch.nan
    assert mase(torch.ones(2), preds, target).isnan()
    # the second target is not known there
    assert mase(torch.ones(2), preds[9:], target[9:]) == pytest.approx(2.0)


def test_squares_beyond_float32_are_finite() -> None:
    metrics = ForecastMetrics(torch.tensor([1.8e19]), torch.ones(1))
    metrics.update(torch.full((2, 3, 1), 3.0), torch.zeros(2, 3, 1))
    assert float(metrics.compute()["mse_data"]) == pytest.approx((3 * 1.8e19) ** 2)
    online = prequential_metrics(None)
    online.update(torch.full((3, 1, 1), 3e19), torch.zeros(3, 1, 1).double())
    assert float(online.compute()["mse"]) == pytest.approx(9e38)


def test_naive_forecasts() -> None:
    past = torch.arange(12.0).view(2, 6, 1)
    assert repeat_last(past, 3)[..., 0].tolist() == [[5, 5, 5], [11, 11, 11]]
    assert seasonal_naive(past, 5, 3)[..., 0].tolist() == [[3, 4, 5, 3, 4], [9, 10, 11, 9, 10]]


def test_a_season_longer_than_the_past_is_refused() -> None:
    with pytest.raises(ConfigError, match="`season` must not be longer than the look-back of 6 rows; got 7"):
        seasonal_naive(torch.zeros(1, 6, 1), 2, 7)
