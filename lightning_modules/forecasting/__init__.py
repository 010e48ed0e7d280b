"""Forecasting: many rows ahead of a table, from a window or a stream of its past.

The task is `module`; it reads the past in `patches` and forecasts with one of the `heads`. Series come from
`sets` (your own table, public data) or `drifting_load` (generated). `source` holds them, each a `member`;
`scaled` and `prepared` fill and standardise them, `batches` cuts them, `data` puts it all together, and
`facts` tells of it. `backtest` collects a test, for `metrics` and
`plots`. `systems` forecasts driven systems, each sequence a new one."""

from lightning_modules.forecasting.batches import WindowBatch
from lightning_modules.forecasting.data import ForecastingData
from lightning_modules.forecasting.drifting_load import DriftingLoad
from lightning_modules.forecasting.module import ForecastingModule, ForecastingSettings
from lightning_modules.forecasting.sets import ETTData, TableData
from lightning_modules.forecasting.source import ForecastingShape

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
