"""Heads of a forecaster: from features of the past to forecasts of the rows ahead.

Shapes: N windows or streams, M samples of the layer's batch (a multiple of N), K origins, F features, H
horizon."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PatchHead(nn.Module):
    """Decoder of the horizon, patch by patch: one map for all patches, which also reads the patch's position.

    ``patch_i = dropout(tanh(s F + p_i)) E + e``, with s the features of the origin and p_i learned. It has
    far fewer weights than a linear map to the whole horizon, and overfits a long one less. Source: the
    parallel decoding of Lin et al., SegRNN, 2023, here with a plain layer in place of a recurrent step.

    Args:
        features: Width of s.
        width: Width of the hidden layer.
        horizon: H; the last patch is cut off there.
        patch: Rows in a patch.
        outputs: Values to forecast in a row.
        dropout: Share of the hidden layer dropped in training.
    """

    def __init__(
        self, features: int, width: int, horizon: int, patch: int, outputs: int, dropout: float
    ) -> None:
        super().__init__()
        self.horizon = horizon
        self.outputs = outputs
        self.state = nn.Linear(features, width)
        self.position = nn.Parameter(0.02 * torch.randn(-(-horizon // patch), width))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, patch * outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Forecasts (M, K, H outputs) from `features` (M, K, F)."""
        hidden = torch.tanh(self.state(features).unsqueeze(2) + self.position)
        values: Tensor = self.out(self.dropout(hidden)).flatten(2)
        return values[..., : self.horizon * self.outputs]


class KnownEffect(nn.Module):
    """Effect of known covariates on the forecast of their row.

    ``effect = tanh(s F + k G + g) E + e``, with s the features of the origin and k the known covariates of
    the row ahead. E and e start at zero: at first nothing is added.

    Args:
        features: Width of s.
        known: Number of known covariates.
        outputs: Values to forecast in a row.
        width: Width of the hidden layer.
    """

    def __init__(self, features: int, known: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.state = nn.Linear(features, width, bias=False)
        self.ahead = nn.Linear(known, width)
        self.out = nn.Linear(width, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, known: Tensor) -> Tensor:
        """Effects (M, K, H, outputs) from `features` (M, K, F) and `known` (N, K, H, known covariates)."""
        ahead = self.ahead(known).repeat_interleave(len(features) // len(known), 0)
        effect: Tensor = self.out(torch.tanh(self.state(features).unsqueeze(2) + ahead))
        return effect
