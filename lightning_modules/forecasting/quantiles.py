"""Quantile forecasts: their loss, and the metrics that judge them.

Shapes: Q quantile levels, C targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


def pinball(quantiles: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """Pinball loss (..., Q) of `quantiles` (..., Q) at `levels` (Q,), where `target` (...) came.

    ``max(q d, (q - 1) d)``, ``d = y - forecast``, in the target's unit; least, in expectation, at the
    quantile of level q. Source: Koenker and Bassett, Regression quantiles, 1978."""
    below = target.unsqueeze(-1) - quantiles
    return torch.maximum(levels * below, (levels - 1) * below)


def crps(quantiles: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """Continuous ranked probability score (...), approximated by twice the mean pinball loss over `levels`.

    ``CRPS(F, y) = 2 int_0^1 pinball_q(F^-1(q), y) dq``: the mean over Q levels stands for the integral,
    closely when they are many and spread evenly over (0, 1). In the target's unit; the median alone gives the
    absolute error. Source: Gneiting and Ranjan, Comparing density forecasts using threshold- and
    quantile-weighted scoring rules, 2011."""
    return 2 * pinball(quantiles, target, levels).mean(-1)


class QuantileMetrics(Metric):
    """CRPS on the standardised scale (see `crps`), and coverage: the share of truth within the outermost
    quantiles.

    A forecast that knows its uncertainty covers ``levels[-1] - levels[0]``.

    Args:
        levels: (Q,) increasing.
    """

    full_state_update = False
    levels: Tensor
    score: Tensor
    covered: Tensor
    count: Tensor

    def __init__(self, levels: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels))
        for name in ("score", "covered", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, quantiles: Tensor, target: Tensor) -> None:
        """Add forecasts (..., Q) of `target` (...); NaN in `target` is left out."""
        valid = ~target.isnan()
        quantiles, target = quantiles[valid], target[valid]
        self.score += crps(quantiles, target, self.levels).sum(dtype=torch.float64)
        self.covered += ((quantiles[..., 0] <= target) & (target <= quantiles[..., -1])).sum()
        self.count += target.numel()

    def compute(self) -> dict[str, Tensor]:
        """`crps` and `coverage`."""
        return {"crps": (self.score / self.count).float(), "coverage": (self.covered / self.count).float()}
