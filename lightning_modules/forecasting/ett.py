"""The electricity transformer data sets in the standard long-horizon protocol."""

from __future__ import annotations

from typing import Any, Literal, get_args

from dream.errors import ConfigError, nearest
from lightning_modules.data.catalogue import data_path
from lightning_modules.data.series import Series, read_table
from lightning_modules.forecasting.data import ForecastingData

Name = Literal["ETTh1", "ETTh2", "ETTm1"]


class ETTData(ForecastingData):
    """ETTh1, ETTh2 (hourly) or ETTm1 (every 15 minutes): all 7 columns predicted from all 7.

    The first 20 months of 30 days are cut into 12 for training, 4 for validation and 4 for test; the rest of
    the file is not used. Published results use `look_back` 96 and `horizon` 96, 192, 336 or 720.

    Args:
        name: Which of the three files.
        look_back: Rows of the past that a window holds.
        horizon: Rows of the future to forecast.
    """

    def __init__(
        self,
        name: Literal["ETTh1", "ETTh2", "ETTm1"] = "ETTh1",
        look_back: int = 96,
        horizon: int = 96,
        **options: Any,
    ) -> None:
        if name not in get_args(Name):
            raise ConfigError(
                f"`name` must be ETTh1, ETTh2 or ETTm1; got {name!r}. {nearest(name, get_args(Name))}",
                key="name",
            )
        day = 96 if name == "ETTm1" else 24
        split: list[int | float | str] = [360 * day, 120 * day, 120 * day]
        super().__init__(look_back=look_back, horizon=horizon, season=day, split=split, **options)
        self.name = name

    def read(self) -> Series:
        return read_table(data_path("ett", f"{self.name}.csv"), "date")
