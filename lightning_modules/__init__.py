"""Tasks on DREAM layers as LightningModules, with their data modules, callbacks and logs."""

from lightning_modules.forecasting import ForecastingModule
from lightning_modules.online import OnlineModule

__all__ = ["ForecastingModule", "OnlineModule"]
