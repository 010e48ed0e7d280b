"""`Trust`: how far forecasts are shrunk towards the present level, from how well they did so far.

Shapes: M rows, H rows ahead, C targets.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

RECORD = 20.0  # rows without gain that the record is taken to start with


class Trust:
    """Shrinks forecasts towards the present level where their record does not support them.

    For each target and row ahead, with p the forecast change and y the change that came, in units of the
    head, and discount g for each row of age k: ``N = sum g^k p y``, ``D = sum g^k p^2``, ``n = sum g^k``,
    ``V = sum g^2k (p y - p^2 / 2)^2``, and for h rows ahead

        ``a = clip((N - sqrt(h V)) / (D (1 + 20 / n)), 0, 1)``

    N / D is the least-squares factor between "nothing changes" and the forecast. It is lowered by one
    standard error of the forecast's gain so far (forecasts h rows ahead overlap in h rows), and as if 20 more
    rows had shown no gain. Where forecasts have not been better than repeating the level, a is 0.

    Args:
        horizon: H.
        targets: C.
        discount: g in (0, 1).
        device: Device of the record.
    """

    def __init__(
        self, horizon: int, targets: int, discount: float, device: torch.device | None = None
    ) -> None:
        self.discount = discount
        self.agreement = torch.zeros(horizon, targets, dtype=torch.float64, device=device)
        self.size = torch.zeros_like(self.agreement)
        self.spread = torch.zeros_like(self.agreement)
        self.ahead = torch.arange(1, horizon + 1, dtype=torch.float64, device=device).unsqueeze(1)
        self.count = torch.zeros((), dtype=torch.float64, device=device)

    def factor(self) -> Tensor:
        """The factor a for each row ahead and target, (H, C)."""
        size = self.size * (1 + RECORD / self.count)
        sure = self.agreement - (self.ahead * self.spread).sqrt()
        return torch.where(size > 0, sure / size, 0.0).clamp(0, 1)

    def add(self, forecast: Tensor, came: Tensor) -> None:
        """Enter forecast changes (M, H, C), oldest first, and the changes that came."""
        ages = torch.arange(len(forecast) - 1, -1, -1, dtype=torch.float64, device=forecast.device)
        weight, faded = (self.discount**ages).view(-1, 1, 1), self.discount ** len(forecast)
        agreement, size = forecast * came, forecast * forecast
        self.agreement = faded * self.agreement + (weight * agreement).sum(0)
        self.size = faded * self.size + (weight * size).sum(0)
        self.spread = faded**2 * self.spread + (weight**2 * (agreement - size / 2).square()).sum(0)
        self.count = faded * self.count + weight.sum()

    def tensors(self) -> dict[str, Tensor]:
        """The record, by name."""
        return {"agreement": self.agreement, "size": self.size, "spread": self.spread, "count": self.count}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
        self.agreement = tensors["agreement"]
        self.size = tensors["size"]
        self.spread = tensors["spread"]
        self.count = tensors["count"]
