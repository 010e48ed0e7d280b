"""Metrics of forecasts: those that torchmetrics lacks, and the set that every forecasting table shows.

Shapes: N windows, S series, C targets, Q quantile levels; `...` any axes before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torchmetrics import Metric


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


class ForecastMetrics(Metric):
    """Metrics of a forecasting table: standardised MSE, MAE and MASE, then MSE and MAE in measurement units.

    Quantile forecasts have CRPS and coverage, too. Of several series each metric is the mean over the series;
    `by_series` has those of each.

    ``MASE = mean_c( mean |y_c - yhat_c| / scale_c )``, ``scale_c = mean_t |y_c,t - y_c,t-season|`` over the
    training rows of a series. Below 1: better than the seasonal-naive forecast, one season ahead, of the
    training rows. Source: Hyndman and Koehler, Another look at measures of forecast accuracy, 2006. Coverage
    is the share of values within the outermost quantiles; that of a calibrated forecast is ``levels[-1] -
    levels[0]``.

    Args:
        scaler_scale: (S, C) size of one standardised unit of each target, in its measurement unit; or (C,).
        mase_scale: (S, C) denominators of MASE, `ForecastingData.season_errors`; NaN where there is none.
        levels: Levels of the quantile forecasts, increasing. Empty without quantiles.
    """

    is_differentiable = False
    full_state_update = False
    units: Tensor
    mase_scale: Tensor
    levels: Tensor
    sums: Tensor
    count: Tensor
    absolute: Tensor
    known: Tensor

    def __init__(self, scaler_scale: Tensor, mase_scale: Tensor, levels: Sequence[float] = ()) -> None:
        super().__init__()
        self.register_buffer("units", torch.atleast_2d(scaler_scale).double())
        self.register_buffer("mase_scale", torch.atleast_2d(mase_scale).double())
        self.register_buffer("levels", torch.tensor(list(levels)))
        self.names = ("mse", "mae", "mse_data", "mae_data", *(("crps", "coverage") if len(levels) else ()))
        series, targets = self.units.shape
        # float64: the square of a legal error can be beyond float32
        zeros = partial(torch.zeros, dtype=torch.float64)
        self.add_state("sums", zeros(series, len(self.names)), dist_reduce_fx="sum")
        self.add_state("count", zeros(series), dist_reduce_fx="sum")
        self.add_state("absolute", zeros(series, targets), dist_reduce_fx="sum")
        self.add_state("known", zeros(series, targets), dist_reduce_fx="sum")

    def update(
        self, preds: Tensor, target: Tensor, quantiles: Tensor | None = None, series: Tensor | None = None
    ) -> None:
        """Add standardised forecasts (N, horizon, C), and quantile forecasts (N, horizon, C, Q), of `target`.

        NaN in `target` is left out.

        Args:
            preds, target, quantiles: See above.
            series: (N,) number of the series of each; the first if not given.
        """
        valid = ~target.isnan()
        numbers = target.new_zeros(len(target), dtype=torch.long) if series is None else series
        error = torch.where(valid, preds.double() - target.double(), 0.0)
        own = error * self.units[numbers].unsqueeze(1)
        terms = [error.square(), error.abs(), own.square(), own.abs()]
        if len(self.levels) and quantiles is not None:
            covered = (quantiles[..., 0] <= target) & (target <= quantiles[..., -1])
            score = crps(quantiles.double(), target.double(), self.levels.double())
            terms += [torch.where(valid, score, 0.0), covered.double()]
        sums = torch.stack([term.flatten(1).sum(1) for term in terms], 1)
        if sums.shape[1] == self.sums.shape[1]:
            self.sums.index_add_(0, numbers, sums)
        else:
            self.sums[:, : sums.shape[1]].index_add_(0, numbers, sums)
        self.count.index_add_(0, numbers, valid.flatten(1).sum(1).double())
        self.absolute.index_add_(0, numbers, error.abs().sum(1))
        self.known.index_add_(0, numbers, valid.sum(1).double())

    def by_series(self) -> dict[str, Tensor]:
        """(S,) value of each metric of each series, by name; NaN where nothing of the series was forecast."""
        values = dict(zip(self.names, (self.sums / self.count.unsqueeze(1)).unbind(1), strict=True))
        scaled = self.absolute / self.known / self.mase_scale
        values["mase"] = _mean(scaled, self._has_mase, 1)
        listed = ("mse", "mae", "mase", "mse_data", "mae_data", "crps", "coverage")
        return {name: values[name] for name in listed if name in values}

    @property
    def _has_mase(self) -> Tensor:
        """(S, C) whether a target has a known value, and a denominator."""
        return (self.known > 0) & ~self.mase_scale.isnan()

    def compute(self) -> dict[str, Tensor]:
        """Mean of each metric over the series that were forecast; of MASE over those that have one."""
        forecast, with_mase = self.count > 0, self._has_mase.any(1)
        return {
            name: _mean(value, with_mase if name == "mase" else forecast, 0)
            for name, value in self.by_series().items()
        }


def _mean(values: Tensor, counted: Tensor, dim: int) -> Tensor:
    """Mean over an axis of the values that are `counted`; a NaN among those stays."""
    return torch.where(counted, values, 0.0).sum(dim) / counted.sum(dim)
