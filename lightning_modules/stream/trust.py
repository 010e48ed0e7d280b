"""`Trust`: how far forecasts are believed, from how well they did so far.

Shapes: M rows, H rows ahead, C targets.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

RECORD = 20.0  # rows of forecasts of the usual size that the record so far must outweigh


class Trust:
    """Shrinks forecasts towards the present level, for each target and row ahead, by what would have been best so far.

    With p the forecast change and y the change that came, in units of the head, and discount g for each row:
    ``a = clip(sum g^age p y / (sum g^age p^2 (1 + 20 / n)), 0, 1)`` with ``n = sum g^age``: the least-squares factor between
    "nothing changes" and the forecast, held back as if 20 rows had shown nothing. Where forecasts have been no better than
    repeating the level, a falls to 0.

    Args:
        horizon: H.
        targets: C.
        discount: g in (0, 1).
        device: Where to keep the record.
    """

    def __init__(self, horizon: int, targets: int, discount: float, device: torch.device | None = None) -> None:
        self.discount = discount
        self.agreement = torch.zeros(horizon, targets, dtype=torch.float64, device=device)
        self.size = torch.zeros_like(self.agreement)
        self.count = torch.zeros((), dtype=torch.float64, device=device)

    def factor(self) -> Tensor:
        """a for each row ahead and target, (H, C)."""
        size = self.size * (1 + RECORD / self.count)
        return torch.where(size > 0, self.agreement / size, 0.0).clamp(0, 1)

    def add(self, said: Tensor, came: Tensor) -> None:
        """Enter forecast changes (M, H, C), oldest first, and what came."""
        ages = torch.arange(len(said) - 1, -1, -1, dtype=torch.float64, device=said.device)
        weight, faded = (self.discount**ages).view(-1, 1, 1), self.discount ** len(said)
        self.agreement = faded * self.agreement + (weight * said * came).sum(0)
        self.size = faded * self.size + (weight * said * said).sum(0)
        self.count = faded * self.count + weight.sum()

    def tensors(self) -> dict[str, Tensor]:
        """The record, by name."""
        return {"agreement": self.agreement, "size": self.size, "count": self.count}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        self.agreement, self.size, self.count = tensors["agreement"], tensors["size"], tensors["count"]
