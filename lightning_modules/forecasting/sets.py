"""Series from files: your own table, and the electricity transformer data sets."""

from __future__ import annotations

from typing import Any, Literal, get_args

import pandas as pd

from dream.errors import ConfigError, DataError, nearest
from lightning_modules.data.catalogue import data_path
from lightning_modules.data.dates import stamps_as
from lightning_modules.data.disk.convert import stored_table
from lightning_modules.data.disk.stored import StoredSeries
from lightning_modules.data.in_memory import InMemory
from lightning_modules.data.long_table import Long, long_form, read_panel
from lightning_modules.data.panel import Panel
from lightning_modules.data.series import Series, check_file, read_table
from lightning_modules.forecasting.data import ForecastingData

LARGE = 1 << 28
"""Bytes of text above which a file stays on disk."""
ETTName = Literal["ETTh1", "ETTh2", "ETTm1"]


class TableData(ForecastingData, InMemory):
    """A CSV or Parquet file with one row per time step; `TableData.of` takes a DataFrame or an array.

    With `id` it is a long table of several series, with one row per time step of each, in any order.

    Args:
        path: The file: .csv or .txt (also .gz), .parquet or .pq. Of several series also a folder of files or
            a pattern such as shops/*.csv: without `id` each file is a series, called as the file is.
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
        id: The column that tells the series of a long table apart; null for a single series, unless the table
            has the columns unique_id, ds and y: those are id, time and, if there are no `targets`, target.
        static: Columns with one value for each series, such as the size of a store, which are read for each
            of its rows; in the table, or in `static_path`.
        static_path: A table with a row for each series: its id, and its static columns; if `static` names
            none, all of its columns of numbers.
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
        id: str | None = None,
        static: list[str] | None = None,
        static_path: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if targets == []:
            raise ConfigError(
                "`targets` must name at least one column, or be null for all; got [].", key="targets"
            )
        roles = {
            "targets": targets,
            "covariates": covariates,
            "known_covariates": known_covariates,
            "static": static,
        }
        named = [name for names in roles.values() for name in names or []]
        for role, names in roles.items():
            for name in names or []:
                if named.count(name) > 1 or name in (time_column, id):
                    raise ConfigError(
                        f"column `{name}` must be used once; it is named more than once among `targets`, "
                        "`covariates`, `known_covariates`, `static`, `time_column` and `id`.",
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
        self.id = id
        self.static = static
        self.static_path = static_path
        self.facts: pd.DataFrame | None = None
        """Table of static columns in memory, in place of the file `static_path`."""

    def read(self) -> Series | StoredSeries | Panel:
        stamps = self.stamps if self.recorded is None else self.recorded.stamps(self.stamps)
        if (long := self._long()) is not None:
            facts = self.static_path if self.facts is None else self.facts
            return read_panel(self.table, long, stamps=stamps, facts=facts)
        others = [*(self.covariates or []), *(self.known_covariates or [])]
        if self.frame is not None:
            return read_table(self.frame, self.time_column, self.targets, others, stamps=stamps)
        path = check_file(self.path)
        plain = path.name.lower().endswith((".csv", ".txt"))
        large = path.stat().st_size > (LARGE if plain else LARGE // 4)
        reader = stored_table if (large if self.mapped is None else self.mapped) else read_table
        return reader(path, self.time_column, self.targets, others, stamps=stamps)

    def _long(self) -> Long | None:
        """The columns of a table of several series; None for one of a single series.

        Raises:
            ConfigError: a setting is for the other kind.
            DataError: there are several, and the checkpoint has learned from one.
        """
        learned = () if self.recorded is None else self.recorded.columns.get("id", ())
        if (found := long_form(self.table, self.id, learned=learned)) is None:
            if self.static or self.static_path or self.facts is not None:
                raise ConfigError(
                    "`static` must be left out for a single series, in which such a column never changes. "
                    "Name the column that tells several series apart as `id`.",
                    key="static",
                )
            return None
        if self.recorded is not None and not learned:
            raise DataError(
                f"{self.path}: a checkpoint that was trained on a single series reads one; this is a table "
                f"of several, told apart by `{found.id}`. Bring the rows of one, or train on several."
            )
        if self.mapped:
            raise ConfigError(
                "`mapped` must be false or null for several series, whose numbers are held in memory; got "
                "true.",
                key="mapped",
            )
        time, targets = self.time_column or found.time, self.targets or found.columns
        others = [*(self.covariates or []), *(self.known_covariates or [])]
        return Long(found.id, time, targets, others, self.static or ())


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
