"""Tasks on DREAM layers as LightningModules, with their data modules, callbacks and logs."""

from lightning_modules.anomaly import AnomalyModule
from lightning_modules.forecasting import ForecastingModule

__all__ = ["AnomalyModule", "ForecastingModule"]
