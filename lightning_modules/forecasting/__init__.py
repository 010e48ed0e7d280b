"""Forecasting: many rows ahead of a table, from a window or a stream of its past.

`module` is the task and `heads` what it draws a forecast with; `patches` is how the past is read. `data` is
what any series gives to it, `table`, `ett` and `drifting_load` are where series come from; `prepared` and
`batches` lie between the two. `backtest` collects a test, with `metrics`, `quantiles` and `plots`."""

from lightning_modules.forecasting.batches import WindowBatch
from lightning_modules.forecasting.data import ForecastingData
from lightning_modules.forecasting.drifting_load import DriftingLoad
from lightning_modules.forecasting.module import ForecastingModule
from lightning_modules.forecasting.sets import ETTData, TableData

__all__ = [
    "DriftingLoad",
    "ETTData",
    "ForecastingData",
    "ForecastingModule",
    "TableData",
    "WindowBatch",
]
