"""Series from files: your own table, and the electricity transformer data sets."""

from __future__ import annotations

from typing import Any, Literal, get_args

from dream.errors import ConfigError, nearest
from lightning_modules.data.catalogue import data_path
from lightning_modules.data.dates import stamps_as
from lightning_modules.data.dialect import dialect_as
from lightning_modules.data.disk.convert import stored_table
from lightning_modules.data.disk.stored import StoredSeries
from lightning_modules.data.in_memory import InMemory
from lightning_modules.data.series import TEXT, Series, check_file, read_table
from lightning_modules.data.truth import tell_classes
from lightning_modules.forecasting.data import ForecastingData

LARGE = 1 << 28
"""Bytes of text above which a file stays on disk."""
ROWS = 1 << 14
"""First rows in which targets are looked at that may be classes."""
CLASSES = (
    "If one is of classes, `dream fit -c online_csv --data.task=classification --data.targets=[NAME]` "
    "predicts them."
)
ETTName = Literal["ETTh1", "ETTh2", "ETTm1"]


class TableData(ForecastingData, InMemory):
    """A CSV or Parquet file with one row per time step; `TableData.of` takes a DataFrame or an array.

    Args:
        path: The file: .csv, .txt or .tsv (also .gz, .bz2, .xz, .zst or .zip), .parquet or .pq.
        time_column: The column of time stamps; None finds it, and counts rows where there is none.
        targets: Columns to predict; None for all columns of numbers but the time column and the covariates.
        covariates: Columns that are read but not predicted.
        known_covariates: Columns that are read, not predicted, and known for the horizon too, such as prices,
            plans or a weather forecast. `dream predict` reads their future values from the rows after the
            last one with a target.
        mapped: Keep the data on disk: the file is converted once, into the cache (DREAM_CACHE), and read by
            memory map. null: if it has more than 256 MiB, or 64 MiB compressed (.gz, Parquet).
        units: Measurement unit of columns, by name, such as {load: MW}. A checkpoint keeps them, and refuses
            a file for which other ones are given.
        time_format: How time stamps are written, such as %d.%m.%Y %H:%M, ISO8601, or unix s (ms, us, ns);
            null finds out. A run remembers what was found or given, and reads later files so if they can be.
        zone: The place whose local time calendar and results show, such as Europe/Berlin, and in which time
            stamps without an offset are written; null: as the stamps say.
    """

    def __init__(
        self,
        path: str,
        time_column: str | None = None,
        targets: list[str] | None = None,
        covariates: list[str] | None = None,
        known_covariates: list[str] | None = None,
        mapped: bool | None = None,
        units: dict[str, str] | None = None,
        time_format: str | None = None,
        zone: str | None = None,
        separator: str | None = None,
        decimal: str | None = None,
        thousands: str | None = None,
        encoding: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if targets == []:
            raise ConfigError(
                "`targets` must name at least one column, or be null for all; got [].", key="targets"
            )
        roles = {"targets": targets, "covariates": covariates, "known_covariates": known_covariates}
        named = [name for names in roles.values() for name in names or []]
        for role, names in roles.items():
            for name in names or []:
                if named.count(name) > 1 or name == time_column:
                    raise ConfigError(
                        f"column `{name}` must be used once; it is named more than once among `targets`, "
                        "`covariates`, `known_covariates` and `time_column`.",
                        key=role,
                    )
        if mapped not in (None, True, False):
            raise ConfigError(f"`mapped` must be true, false or null; got {mapped!r}.", key="mapped")
        self.path = path
        self.time_column = time_column
        self.targets = targets
        self.covariates = covariates
        self.known_covariates = known_covariates
        self.mapped = mapped
        self.units = dict(units or {})
        self.time_format = time_format
        self.zone = zone
        self.stamps = stamps_as(time_format, zone)
        self.dialect = dialect_as(separator, decimal, thousands, encoding)

    def read(self) -> Series | StoredSeries:
        others = [*(self.covariates or []), *(self.known_covariates or [])]
        stamps = self.stamps if self.recorded is None else self.recorded.stamps(self.stamps)
        asked = (self.time_column, self.targets, others, self.known_dialect, stamps)
        whole = self._read(*asked)
        if self.recorded is None:
            some = next(iter(whole.blocks(slice(ROWS))))
            channels = len(whole.columns) - len(others)
            tell_classes(some.values[:, :channels], whole.columns[:channels], whole.source, CLASSES)
        return whole

    def _read(self, *asked: Any) -> Series | StoredSeries:
        if self.frame is not None:
            return read_table(self.frame, *asked)
        path = check_file(self.path)
        plain = path.name.lower().endswith(TEXT)
        large = path.stat().st_size > (LARGE if plain else LARGE // 4)
        reader = stored_table if (large if self.mapped is None else self.mapped) else read_table
        return reader(path, *asked)


class ETTData(ForecastingData):
    """ETTh1, ETTh2 (hourly) or ETTm1 (every 15 minutes) in the standard long-horizon protocol.

    All 7 columns are predicted from all 7. The first 20 months of 30 days are cut into 12 for training, 4 for
    validation and 4 for test; the rest of the file is not used. Published results use `look_back` 96 and
    `horizon` 96, 192, 336 or 720.

    Args:
        name: One of the three files.
        look_back: Rows of the past in a window.
        horizon: Rows of the future to forecast.
    """

    def __init__(
        self,
        name: Literal["ETTh1", "ETTh2", "ETTm1"] = "ETTh1",
        look_back: int = 96,
        horizon: int = 96,
        **options: Any,
    ) -> None:
        if name not in get_args(ETTName):
            raise ConfigError(
                f"`name` must be ETTh1, ETTh2 or ETTm1; got {name!r}. {nearest(name, get_args(ETTName))}",
                key="name",
            )
        day = 96 if name == "ETTm1" else 24
        split: list[int | float | str] = [360 * day, 120 * day, 120 * day]
        super().__init__(look_back=look_back, horizon=horizon, season=day, split=split, **options)
        self.name = name

    def read(self) -> Series:
        return read_table(data_path("ett", f"{self.name}.csv"), "date")
