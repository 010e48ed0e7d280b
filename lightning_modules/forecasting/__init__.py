"""Forecasting: many rows ahead of a table, from a window or a stream of its past.

The task is `module`; it reads the past in `patches` and forecasts with one of the `heads`. Series come from
`sets` (your own table, public data) or `drifting_load` (generated); `prepared` fills and standardises them,
`batches` cuts them, and `data` puts it all together. `backtest` collects a test, for `metrics` and
`plots`. `systems` forecasts driven systems, each sequence a new one."""

from lightning_modules.forecasting.batches import WindowBatch
from lightning_modules.forecasting.data import ForecastingData, ForecastingShape
from lightning_modules.forecasting.drifting_load import DriftingLoad
from lightning_modules.forecasting.module import ForecastingModule, ForecastingSettings
from lightning_modules.forecasting.sets import ETTData, TableData

__all__ = [
    "DriftingLoad",
    "ETTData",
    "ForecastingData",
    "ForecastingModule",
    "ForecastingSettings",
    "ForecastingShape",
    "TableData",
    "WindowBatch",
]
