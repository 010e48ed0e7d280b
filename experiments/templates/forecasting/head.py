"""A head of one's own: it draws a forecast as a level, a slope and waves, instead of choosing every row
freely."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_modules import ForecastingModule

WAVES = 4  # of a season, of half a season, of a third, ...


class Waves(nn.Module):
    """``forecast_h = a + b h / H + sum_k c_k sin(2 pi k h / season) + d_k cos(2 pi k h / season)``, h = 1 to
    H rows ahead.

    A linear map of the features gives a, b, c and d. The forecast is smooth, and there is less to learn than
    with a value for each row."""

    shapes: Tensor

    def __init__(self, features: int, horizon: int, season: int, outputs: int) -> None:
        super().__init__()
        ahead = torch.arange(1.0, horizon + 1)
        angles = [2 * math.pi * k * ahead / season for k in range(1, WAVES + 1)]
        shapes = [torch.ones(horizon), ahead / horizon, *map(torch.sin, angles), *map(torch.cos, angles)]
        self.register_buffer("shapes", torch.stack(shapes))  # (shapes, H)
        self.outputs = outputs
        self.weights = nn.Linear(features, len(shapes) * outputs)

    def forward(self, features: Tensor) -> Tensor:
        """(rows, origins, H outputs) from `features` (rows, origins, features)."""
        weights = self.weights(features).unflatten(-1, (-1, self.outputs))
        return torch.einsum("sh,...so->...ho", self.shapes, weights).flatten(-2)


class MyForecaster(ForecastingModule):
    """The forecasting model with this head; all its settings are those of `ForecastingModule`."""

    def make_head(self, features: int, outputs: int) -> nn.Module:
        """See `ForecastingModule.make_head`."""
        return Waves(features, self.shape.horizon, self.shape.season, outputs)
