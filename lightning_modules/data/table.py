"""Forecasting data from a CSV or Parquet file of one's own."""

from __future__ import annotations

from typing import Any

from dream.errors import ConfigError
from lightning_modules.data.series import Series, read_table
from lightning_modules.data.windows import ForecastingData


class TableData(ForecastingData):
    """A CSV or Parquet file with one row per time step.

    Args:
        path: The file: .csv or .txt (also .gz), .parquet or .pq.
        time_column: The column of time stamps; None finds it, and counts rows where there is none.
        targets: Columns to predict; None for all columns of numbers but the time column and the covariates.
        covariates: Columns that are read but not predicted.
    """

    def __init__(
        self,
        path: str,
        time_column: str | None = None,
        targets: list[str] | None = None,
        covariates: list[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if targets == []:
            raise ConfigError("`targets` must name at least one column, or be null for all; got [].", key="targets")
        named = [*(targets or []), *(covariates or [])]
        for name in named:
            if named.count(name) > 1 or name == time_column:
                raise ConfigError(
                    f"column `{name}` must be used once; it is named more than once among `targets`, `covariates` "
                    "and `time_column`.",
                    key="covariates" if name in (covariates or []) else "targets",
                )
        self.path, self.time_column, self.targets, self.covariates = path, time_column, targets, covariates

    def read(self) -> Series:
        return read_table(self.path, self.time_column, self.targets, self.covariates or [])
