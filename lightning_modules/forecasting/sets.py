"""Series from files: your own table, and the electricity transformer data sets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from dream.errors import ConfigError, DataError, nearest
from lightning_modules.data.catalogue import data_path
from lightning_modules.data.categories import expanded, is_categorical, learn_category
from lightning_modules.data.dates import Stamps, stamps_as
from lightning_modules.data.dialect import dialect_as
from lightning_modules.data.disk.convert import stored_table
from lightning_modules.data.disk.stored import StoredSeries
from lightning_modules.data.in_memory import InMemory
from lightning_modules.data.long_table import Long, long_form, read_panel
from lightning_modules.data.panel import Panel
from lightning_modules.data.series import TEXT, Series, check_file, read_frame, read_table, table_series
from lightning_modules.data.split import split_rows
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

    With `id` it is a long table of several series, with one row per time step of each, in any order.

    Args:
        path: The file: .csv, .txt or .tsv (also .gz, .bz2, .xz, .zst, .zip), .parquet or .feather. Of several
            series also a folder of files or a pattern such as `shops/*.csv`: without `id` each file is a
            series, called as the file is.
        time_column: The column of time stamps; None finds it, and counts rows where there is none.
        targets: Columns to predict; None for all columns of numbers but the time column and the covariates.
        covariates: Columns that are read but not predicted.
        known_covariates: Columns that are read, not predicted, and known for the horizon too, such as prices,
            plans or a weather forecast. `dream predict` reads their future values from the rows after the
            last one with a target.
        categories: Covariates that are read as categories though they hold numbers; those of words are so
            anyway. A word that training never saw is read as the rare ones are, or as the mean of all.
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
        categories: list[str] | None = None,
        mapped: bool | None = None,
        units: dict[str, str] | None = None,
        time_format: str | None = None,
        zone: str | None = None,
        separator: str | None = None,
        decimal: str | None = None,
        thousands: str | None = None,
        encoding: str | None = None,
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
        self._named = list(covariates or []), list(known_covariates or [])
        self.covariates, self.known_covariates = self._named
        for name in categories or []:
            if name not in named or name in (targets or []):
                raise ConfigError(
                    f"`categories` must name `covariates` or `known_covariates`; got `{name}`.",
                    key="categories",
                )
        self.categories_asked = list(categories or [])
        self.mapped = mapped
        self.units = dict(units or {})
        self.time_format = time_format
        self.zone = zone
        self.stamps = stamps_as(time_format, zone)
        self.dialect = dialect_as(separator, decimal, thousands, encoding)
        self.id = id
        self.static = static
        self.static_path = static_path
        self.facts: pd.DataFrame | None = None
        """Table of static columns in memory, in place of the file `static_path`."""

    def read(self) -> Series | StoredSeries | Panel:
        stamps = self.stamps if self.recorded is None else self.recorded.stamps(self.stamps)
        if (long := self._long()) is not None:
            facts = self.static_path if self.facts is None else self.facts
            panel = read_panel(self.table, long, self.known_dialect, stamps, facts)
            self._tell_classes(panel.columns, (each.values for each in panel.series), panel.source)
            return panel
        past, ahead = self._named
        others = [*past, *ahead]
        whole = self._in_blocks(others, stamps) if self._large else self._in_memory(past, ahead, stamps)
        some = (block.values for block in whole.blocks(slice(ROWS)))
        self._tell_classes(whole.columns, some, whole.source)
        return whole

    def _tell_classes(self, columns: tuple[str, ...], rows: Iterable[np.ndarray], source: str) -> None:
        """Log which targets may be classes, by the first of `rows`."""
        if self.recorded is None:
            some, targets = next(iter(rows)), self._roles(columns)["targets"]
            tell_classes(some[:, : len(targets)], targets, source, CLASSES)

    @property
    def _large(self) -> bool:
        """Whether the table stays on disk."""
        if self.frame is not None:
            return False
        path = check_file(self.path)
        plain = path.name.lower().endswith(TEXT)
        large = path.stat().st_size > (LARGE if plain else LARGE // 4)
        return large if self.mapped is None else self.mapped

    def _in_blocks(self, others: list[str], stamps: Stamps) -> StoredSeries:
        if self.categories_asked or (self.recorded is not None and self.recorded.categories):
            raise ConfigError(
                "`mapped` must be false for columns of categories, which are read in memory. Set it, or "
                "leave the columns out.",
                key="mapped",
            )
        return stored_table(self.path, self.time_column, self.targets, others, self.known_dialect, stamps)

    def _in_memory(self, past: list[str], ahead: list[str], stamps: Stamps) -> Series:
        """The series of a table, its columns of words as indicators, see `categories`."""
        frame, path, dialect = read_frame(self.table, self.known_dialect)
        others = [*past, *ahead]
        asked = [name for name in others if name in frame]
        self.categories = {} if self.recorded is None else dict(self.recorded.categories)
        if self.recorded is None:
            chosen = [name for name in asked if name in self.categories_asked or is_categorical(frame[name])]
            if chosen:
                numbers = [name for name in others if name not in chosen]
                plain = table_series(
                    frame.drop(columns=chosen), path, self.time_column, self.targets, numbers, stamps
                )
                channels = len(plain.columns) - len(numbers)
                known = np.flatnonzero(~np.isnan(plain.values[:, :channels]).all(axis=1))
                rows = int(known[-1]) + 1 if ahead and len(known) else len(plain)
                part = split_rows(rows, self.split, plain.time, plain.zone).train
                self.categories = {name: learn_category(frame[name].iloc[part], path) for name in chosen}
        frame, self.covariates = expanded(frame, past, self.categories)
        frame, self.known_covariates = expanded(frame, ahead, self.categories)
        others = [*self.covariates, *self.known_covariates]
        series = table_series(frame, path, self.time_column, self.targets, others, stamps)
        return replace(series, dialect=dialect)

    def _long(self) -> Long | None:
        """The columns of a table of several series; None for one of a single series.

        Raises:
            ConfigError: a setting is for the other kind.
            DataError: there are several, and the checkpoint has learned from one.
        """
        learned = () if self.recorded is None else self.recorded.columns.get("id", ())
        if (found := long_form(self.table, self.id, self.known_dialect, learned)) is None:
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
        if self.categories_asked:
            raise ConfigError(
                "`categories` must be left out for several series, whose covariates are numbers; got "
                f"{', '.join(self.categories_asked)}. Give each category a column of 0 and 1.",
                key="categories",
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

    set_by_name = ("season", "split")

    def __init__(
        self,
        name: Literal["ETTh1", "ETTh2", "ETTm1"] = "ETTh1",
        look_back: int = 96,
        horizon: int = 96,
        **options: Any,
    ) -> None:
        if name not in get_args(ETTName):
            raise ConfigError(
                f"`name` must be ETTh1, ETTh2 or ETTm1; got {name!r}. {nearest(name, get_args(ETTName))} A "
                "file of your own: `--data.path=FILE`, without `name`.",
                key="name",
            )
        day = 96 if name == "ETTm1" else 24
        split: list[int | float | str] = [360 * day, 120 * day, 120 * day]
        super().__init__(look_back=look_back, horizon=horizon, season=day, split=split, **options)
        self.name = name

    def read(self) -> Series:
        return read_table(data_path("ett", f"{self.name}.csv"), "date")
