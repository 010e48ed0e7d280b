"""`Trust`: how far forecasts are shrunk towards the present level, from how well they did so far.

Shapes: M rows, H rows ahead, C targets.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
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
    """

    def __init__(self, horizon: int, targets: int, discount: float) -> None:
        self.discount = discount
        self.agreement = np.zeros((horizon, targets))
        self.size = np.zeros_like(self.agreement)
        self.spread = np.zeros_like(self.agreement)
        self.ahead = np.arange(1.0, horizon + 1)[:, None]
        self.count = 0.0

    def factor(self) -> np.ndarray:
        """The factor a for each row ahead and target, (H, C)."""
        if self.count == 0:
            return np.zeros_like(self.size)
        size = self.size * (1 + RECORD / self.count)
        sure = self.agreement - np.sqrt(self.ahead * self.spread)
        return np.clip(np.divide(sure, size, out=np.zeros_like(size), where=size > 0), 0, 1)

    def add(self, forecast: np.ndarray, came: np.ndarray) -> None:
        """Enter forecast changes (M, H, C), oldest first, and the changes that came."""
        weight = self.discount ** np.arange(len(forecast) - 1.0, -1, -1)[:, None, None]
        faded = self.discount ** len(forecast)
        agreement, size = forecast * came, forecast * forecast
        self.agreement = faded * self.agreement + (weight * agreement).sum(0)
        self.size = faded * self.size + (weight * size).sum(0)
        self.spread = faded**2 * self.spread + (weight**2 * (agreement - size / 2) ** 2).sum(0)
        self.count = faded * self.count + float(weight.sum())

    def tensors(self) -> dict[str, Tensor]:
        """The record, by name."""
        arrays = {"agreement": self.agreement, "size": self.size, "spread": self.spread}
        count = torch.tensor(self.count, dtype=torch.float64)
        return {name: torch.from_numpy(array) for name, array in arrays.items()} | {"count": count}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
        self.agreement, self.size, self.spread = (
            tensors[name].cpu().numpy() for name in ("agreement", "size", "spread")
        )
        self.count = float(tensors["count"])
