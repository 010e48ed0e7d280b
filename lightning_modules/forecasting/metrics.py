"""Metrics of forecasts: those that torchmetrics lacks, and the set that every forecasting table shows.

Shapes: N windows, C targets, Q quantile levels; `...` any axes before them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection


def pinball(quantiles: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """Pinball loss (..., Q) of `quantiles` (..., Q) at `levels` (Q,), given the `target` (...).

    ``max(q d, (q - 1) d)``, ``d = y - forecast``, in the target's unit. Its expectation is least at the
    quantile of level q. Source: Koenker and Bassett, Regression quantiles, 1978."""
    below = target.unsqueeze(-1) - quantiles
    return torch.maximum(levels * below, (levels - 1) * below)


def crps(quantiles: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """Continuous ranked probability score (...), approximated by twice the mean pinball loss over `levels`.

    ``CRPS(F, y) = 2 int_0^1 pinball_q(F^-1(q), y) dq``: the mean over Q levels approximates the integral,
    closely if they are many and spread evenly over (0, 1). In the target's unit; for the median alone it is
    the absolute error. Source: Gneiting and Ranjan, Comparing density forecasts using threshold- and
    quantile-weighted scoring rules, 2011."""
    return 2 * pinball(quantiles, target, levels).mean(-1)


class MeanAbsoluteScaledError(Metric):
    """MASE: mean absolute error of each target, relative to the seasonal-naive error on the training rows.

    ``MASE = mean_c( mean |y_c - yhat_c| / scale_c )``, ``scale_c = mean_t |y_c,t - y_c,t-season|`` over the
    training rows. Below 1: better than the seasonal-naive forecast, one season ahead, of the training rows.
    Source: Hyndman and Koehler, Another look at measures of forecast accuracy, 2006.

    Args:
        scale: (C,) the denominator of each target; `ForecastingData.mase_scale`.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    scale: Tensor
    absolute_error: Tensor
    count: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.add_state("absolute_error", torch.zeros(scale.shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(scale.shape, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add forecasts (..., C) of `target` (..., C), leaving out NaN in `target`."""
        known = ~target.isnan()
        errors = torch.where(known, preds - target, 0.0).abs().flatten(0, -2)
        self.absolute_error += errors.sum(0, dtype=torch.float64)
        self.count += known.flatten(0, -2).sum(0)

    def compute(self) -> Tensor:
        """MASE over all forecasts so far, (); targets without any known value are left out."""
        return (self.absolute_error / self.count / self.scale)[self.count > 0].mean().float()


class QuantileMetrics(Metric):
    """CRPS on the standardised scale (see `crps`), and coverage.

    Coverage is the share of values within the outermost quantiles. That of a calibrated forecast is
    ``levels[-1] - levels[0]``.

    Args:
        levels: (Q,) in increasing order.
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
        """Add forecasts (..., Q) of `target` (...), leaving out NaN in `target`."""
        valid = ~target.isnan()
        quantiles, target = quantiles[valid], target[valid]
        self.score += crps(quantiles, target, self.levels).sum(dtype=torch.float64)
        self.covered += ((quantiles[..., 0] <= target) & (target <= quantiles[..., -1])).sum()
        self.count += target.numel()

    def compute(self) -> dict[str, Tensor]:
        """`crps` and `coverage` over all forecasts so far."""
        return {"crps": (self.score / self.count).float(), "coverage": (self.covered / self.count).float()}


class ForecastMetrics(Metric):
    """Metrics of a forecasting table: standardised MSE, MAE and MASE, then MSE and MAE in measurement units.

    Quantile forecasts have CRPS and coverage, too.

    Args:
        scaler_scale: (C,) size of one standardised unit of each target, in its measurement unit.
        mase_scale: (C,) see `MeanAbsoluteScaledError`.
        levels: Levels of the quantile forecasts, increasing; see `QuantileMetrics`. Empty without quantiles.
    """

    full_state_update = False
    units: Tensor

    def __init__(self, scaler_scale: Tensor, mase_scale: Tensor, levels: Sequence[float] = ()) -> None:
        super().__init__()
        self.register_buffer("units", scaler_scale)
        self.standardised = MetricCollection({"mse": MeanSquaredError(), "mae": MeanAbsoluteError()})
        self.mase = MeanAbsoluteScaledError(mase_scale)
        self.own = MetricCollection({"mse_data": MeanSquaredError(), "mae_data": MeanAbsoluteError()})
        for part in (self.standardised, self.own):
            part.set_dtype(torch.float64)  # the square of a legal error can be beyond float32
        self.quantiles = QuantileMetrics(levels) if levels else None

    def update(self, preds: Tensor, target: Tensor, quantiles: Tensor | None = None) -> None:
        """Add standardised forecasts (N, horizon, C), and quantile forecasts (N, horizon, C, Q), of `target`.

        NaN in `target` is left out."""
        valid = ~target.isnan()
        if valid.any():
            units = self.units.expand_as(target)[valid]
            forecast, truth = preds[valid].double(), target[valid].double()
            self.mase.update(preds, target)
            self.standardised.update(forecast, truth)
            self.own.update(forecast * units, truth * units)
            if self.quantiles is not None and quantiles is not None:
                self.quantiles.update(quantiles, target)

    def compute(self) -> dict[str, Tensor]:
        """Value of each metric, by name."""
        values = {**self.standardised.compute(), "mase": self.mase.compute(), **self.own.compute()}
        listed: dict[str, Tensor] = {k: values[k] for k in ("mse", "mae", "mase", "mse_data", "mae_data")}
        return listed if self.quantiles is None else {**listed, **self.quantiles.compute()}

    def reset(self) -> None:
        """Forget all forecasts."""
        super().reset()
        for part in (self.standardised, self.mase, self.own, self.quantiles):
            if part is not None:
                part.reset()
