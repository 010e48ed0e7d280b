"""Streams from files: your own table, and public sets in their published online protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from dream.errors import ConfigError, DataError, nearest
from lightning_modules.data.catalogue import data_path
from lightning_modules.data.categories import Category, expanded, learn_category
from lightning_modules.data.dates import Stamps, stamps_as
from lightning_modules.data.dialect import Dialect, dialect_as
from lightning_modules.data.in_memory import NAME, InMemory
from lightning_modules.data.long_table import (
    ID,
    Long,
    files_of,
    head_of,
    long_form,
    read_panel,
    require_column,
    stem,
)
from lightning_modules.data.numbers import number_columns
from lightning_modules.data.series import Series, read_frame, read_table, table_series
from lightning_modules.data.time_column import find_time_column
from lightning_modules.data.truth import tell_classes
from lightning_modules.online.data import OnlineData
from lightning_modules.online.stream import OnlineStream, check_truth, part_rows
from lightning_modules.stream.settings import Task

Name = Literal["ETTh1", "ETTh2", "ETTm1", "WTH", "exchange", "elec2"]
Asked = Literal["auto", "forecasting", "regression", "classification"]


_DECIDES = (
    "`--data.targets=[NAME] --data.task=classification` predicts one as classes; "
    "`--data.task=forecasting` says that they are numbers."
)


class Protocol(NamedTuple):
    """A public set: its file, and how its stream is cut."""

    dataset: str
    file: str
    warm_up: int | float
    validation: int | float
    rows: int | None
    season: int


_MONTH = 30 * 24
PROTOCOLS = {
    "ETTh1": Protocol("ett", "ETTh1.csv", 4 * _MONTH, _MONTH, 20 * _MONTH, 24),
    "ETTh2": Protocol("ett", "ETTh2.csv", 4 * _MONTH, _MONTH, 20 * _MONTH, 24),
    "ETTm1": Protocol("ett", "ETTm1.csv", 16 * _MONTH, 4 * _MONTH, 80 * _MONTH, 96),
    "WTH": Protocol("wth", "WTH.csv", 0.2, 0.05, None, 24),
    "exchange": Protocol("exchange_rate", "exchange_rate.txt", 0.2, 0.05, None, 1),
    "elec2": Protocol("elec2", "electricity.csv", 0, 0, None, 48),
}


class PublicStream(OnlineData):
    """A public set in the leak-free online protocol of FSNet and OneNet, or Elec2 over all of its rows.

    ETT: 4 months of 30 days to train on, 1 to validate, 15 as the stream; WTH and exchange: 20, 5 and 75 %;
    Elec2 (classification): every row is scored, from the first.

    Args:
        name: Name of the set.
        horizon: Rows ahead to forecast; published results use 1, 24 and 48.
    """

    set_by_name = ("warm_up", "validation", "rows", "season")

    @classmethod
    def kept_for_own_files(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        protocol = PROTOCOLS.get(str(given.get("name", "ETTh2")), PROTOCOLS["ETTh2"])
        parts = {"warm_up": protocol.warm_up, "validation": protocol.validation}
        return {name: part for name, part in parts.items() if part < 1}  # others are rows of this set

    def __init__(
        self,
        name: Literal["ETTh1", "ETTh2", "ETTm1", "WTH", "exchange", "elec2"] = "ETTh2",
        horizon: int = 1,
        **options: Any,
    ) -> None:
        if name not in PROTOCOLS:
            names = get_args(Name)
            known = f"{', '.join(names[:-1])} or {names[-1]}"
            raise ConfigError(
                f"`name` must be {known}; got {name!r}. {nearest(name, names)} A file of your own: "
                "`--data.path=FILE`, without `name`.",
                key="name",
            )
        protocol = PROTOCOLS[name]
        super().__init__(
            horizon=horizon,
            warm_up=protocol.warm_up,
            validation=protocol.validation,
            rows=protocol.rows,
            season=protocol.season,
            **options,
        )
        self.protocol = protocol

    def read(self) -> OnlineStream:
        protocol = self.protocol
        path = data_path(protocol.dataset, protocol.file)
        if protocol.dataset == "exchange_rate":
            values = pd.read_csv(path, header=None).to_numpy(dtype=np.float64)
            names = tuple(f"currency_{number}" for number in range(1, values.shape[1] + 1))
            return OnlineStream(Series(values, names, None, str(path)), "forecasting", names)
        if protocol.dataset == "elec2":
            frame = pd.read_csv(path)
            truth, classes = pd.factorize(frame.pop("class"), sort=True)
            series = Series(frame.to_numpy(dtype=np.float64), tuple(frame.columns), None, str(path))
            return OnlineStream(series, "classification", tuple(classes), truth.astype(np.int64))
        series = read_table(path, "date")
        return OnlineStream(series, "forecasting", series.columns)


class TableStream(OnlineData, InMemory):
    """A CSV or Parquet file with one row per time step; `TableStream.of` takes a DataFrame or an array.

    All columns of numbers are read, for regression and classification all but the targets.

    With `id` it is a long table of several series, with one row per time step of each, in any order. Each is
    a stream with a state, a head, parts and scales of its own, and one core is trained on all.

    Args:
        path: The file: .csv, .txt or .tsv (also .gz, .bz2, .xz, .zst or .zip), .parquet or .feather. Of
            several series also a folder of files or a pattern such as `pumps/*.csv`: without `id` each file
            is a series, called as the file is.
        targets: Columns to predict; null for all columns of numbers, which are then forecast.
        task: `forecasting`: the next `horizon` rows of the targets, from all columns; `regression` and
            `classification`: the target of a row from its other columns; `auto`: classification if the only
            target column holds words or truth values, else forecasting.
        time_column: The column of time stamps; null finds it, and counts rows where there is none.
        categories: Columns to read besides as categories, such as those of words, which are left out else.
            They are learnt from the warm-up part; what it does not hold is read as the mean of what it does.
        units: Measurement unit of columns, by name, such as {load: MW}. A checkpoint keeps them, and refuses
            a file for which other ones are given.
        time_format: How time stamps are written, such as %d.%m.%Y %H:%M, ISO8601, or unix s (ms, us, ns);
            null finds out. A run remembers what was found or given, and reads later files so if they can be.
        zone: The place whose local time results show, such as Europe/Berlin, and in which time stamps without
            an offset are written; null: as the stamps say.
        separator: Sign between the values of a line of text; null finds it. So are `decimal` (. or ,),
            `thousands` (. , a space or an apostrophe; '' for none) and `encoding` (such as cp1252).
        decimal: Decimal sign of numbers.
        thousands: Sign between groups of three digits.
        encoding: Encoding of a file of text. A run remembers all four, for files that do not show others.
        id: The column that tells the series of a long table apart; null for a single series, unless the table
            has the columns unique_id, ds and y: those are id, time and, without `targets`, what is forecast.
    """

    def __init__(
        self,
        path: str,
        targets: list[str] | None = None,
        task: Literal["auto", "forecasting", "regression", "classification"] = "auto",
        time_column: str | None = None,
        categories: list[str] | None = None,
        units: dict[str, str] | None = None,
        time_format: str | None = None,
        zone: str | None = None,
        separator: str | None = None,
        decimal: str | None = None,
        thousands: str | None = None,
        encoding: str | None = None,
        id: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if task not in get_args(Asked):
            raise ConfigError(f"`task` must be {', '.join(get_args(Asked))}; got {task!r}.", key="task")
        if targets is not None and (not targets or len(set(targets)) < len(targets)):
            raise ConfigError(
                f"`targets` must name columns, each once, or be null for all; got {targets}.", key="targets"
            )
        if task in ("regression", "classification") and targets is None:
            raise ConfigError(
                f"`targets` must name the column to predict for {task}; got null.", key="targets"
            )
        if task == "classification" and targets is not None and len(targets) != 1:
            raise ConfigError(
                f"`targets` must name one column for classification; got {targets}.", key="targets"
            )
        self.path = path
        self.targets = targets
        self.asked = task
        for name in categories or []:
            if name in (targets or []) or name == time_column:
                raise ConfigError(
                    f"`categories` must name columns that are only read; `{name}` is another.",
                    key="categories",
                )
        self.categories_asked = list(categories or [])
        self.time_column = time_column
        self.units = dict(units or {})
        self.time_format = time_format
        self.zone = zone
        self.stamps = stamps_as(time_format, zone)
        self.dialect = dialect_as(separator, decimal, thousands, encoding)
        self.id = id

    def read_many(self) -> dict[str, OnlineStream]:
        learned = () if self.recorded is None else self.recorded.columns.get("id", ())
        long = long_form(self.table, self.id, self.known_dialect, learned)
        if long is None:
            return {}
        if self.recorded is not None and not learned:
            raise DataError(
                f"{self.path}: a checkpoint that was trained on a single series reads one; this is a table "
                f"of several, told apart by `{long.id or 'their files'}`. Bring the rows of one, or train on "
                "several."
            )
        if self.categories_asked:
            raise ConfigError(
                "`categories` must be left out for several series, whose inputs are numbers; got "
                f"{', '.join(self.categories_asked)}. Give each category a column of 0 and 1.",
                key="categories",
            )
        self.id_column = long.id or ID
        head, path = head_of(self.table, self.known_dialect), Path(self.path)
        targets = self.targets or (None if long.columns is None else list(long.columns))
        for name in targets or []:
            require_column(head, name, path)
        task = "forecasting" if targets is None else self._task_of(head, targets)
        stamps = self.stamps if self.recorded is None else self.recorded.stamps(self.stamps)
        time, others = self.time_column or long.time, []
        if self.targets is not None:  # else what is guessed or all columns are targets
            rest = head.drop(columns=[*self.targets, *([long.id] if long.id in head else [])])
            time = time or find_time_column(rest, path, form=stamps.form)
            others = number_columns(rest, path, time)
        self._require_inputs(task, targets, others)
        if task == "forecasting":
            long = Long(long.id, time, targets, others)
            panel = read_panel(self.table, long, self.known_dialect, stamps)
            names = tuple(targets or panel.columns)
            streams = [OnlineStream(each, "forecasting", names) for each in panel.series]
            if self.asked == "auto" and self.recorded is None:
                rows = np.concatenate([each.values[:, : len(names)] for each in panel.series])
                tell_classes(rows, names, panel.source, _DECIDES)
            return dict(zip(panel.ids, streams, strict=True))
        assert targets is not None
        classes: tuple[str, ...] = ()
        if task == "regression":
            long = Long(long.id, time, others, targets)
            panel = read_panel(self.table, long, self.known_dialect, stamps)
        else:
            table, classes, dialect = self._with_numbers(long.id, targets[0])
            panel = read_panel(table, Long(self.id_column, time, others, targets), stamps=stamps)
            panel = replace(panel, series=tuple(replace(each, dialect=dialect) for each in panel.series))
        streams = [self._supervised(each, len(others), targets, classes) for each in panel.series]
        return dict(zip(panel.ids, streams, strict=True))

    def _supervised(
        self, series: Series, inputs: int, targets: list[str], classes: tuple[str, ...]
    ) -> OnlineStream:
        """One of several series whose first columns are `inputs`, and the others targets or class numbers."""
        truth, source = series.values[:, inputs:], series.source.replace(NAME, self.path, 1)
        read = replace(
            series, values=series.values[:, :inputs], columns=series.columns[:inputs], source=source
        )
        if classes:
            return OnlineStream(read, "classification", classes, truth[:, 0].astype(np.int64))
        if self.missing != "model":
            check_truth(truth, source, targets[0])
        return OnlineStream(read, "regression", tuple(targets), truth)

    def _with_numbers(self, id: str | None, target: str) -> tuple[pd.DataFrame, tuple[str, ...], Dialect]:
        """The table of several series with the numbers of classes in place of their names, the names, and how
        the first file is written."""
        parts, dialects = [], []
        for table in [self.table] if isinstance(self.table, pd.DataFrame) else files_of(self.table):
            frame, path, dialect = read_frame(table, self.known_dialect, [] if id is None else [id])
            dialects.append(dialect)
            if id is None:
                frame = frame.assign(**{ID: stem(path)})
            require_column(frame, target, path)
            parts.append(frame)
        whole = pd.concat(parts, ignore_index=True)
        truth, classes = self._classes(whole[target])
        return whole.assign(**{target: truth}), classes, dialects[0]

    def read(self) -> OnlineStream:
        stamps = self.stamps if self.recorded is None else self.recorded.stamps(self.stamps)
        frame, path, dialect = read_frame(self.table, self.known_dialect)
        targets = self.targets
        self.categories = self._categories(frame, path)
        if self.categories:
            if targets is None:
                rest = frame.drop(columns=[*self.categories])
                targets = number_columns(rest, path, self.time_column or find_time_column(rest, path))
            frame, _ = expanded(frame, [*self.categories], self.categories)
        stream = self._stream(frame, path, stamps, targets)
        if self.asked == "auto" and self.recorded is None and stream.task == "forecasting":
            values, names = stream.series.values[:, : len(stream.targets)], stream.targets
            tell_classes(
                values,
                names,
                str(path),
                _DECIDES,
            )
        return replace(stream, series=replace(stream.series, dialect=dialect))

    def _categories(self, frame: pd.DataFrame, path: Path) -> dict[str, Category]:
        """The columns that are read as categories, by the rows of the warm-up or as a run learnt them."""
        names = [*self.recorded.categories] if self.recorded is not None else self.categories_asked
        for name in names:
            if name not in frame:
                raise DataError(f"{path}: no column `{name}`. {nearest(name, map(str, frame.columns))}")
        if self.recorded is not None:
            return dict(self.recorded.categories)
        warm_up = part_rows(self.warm_up, len(frame))
        if names and warm_up == 0:
            raise ConfigError(
                "`categories` are learnt from the warm-up part; `warm_up` is 0. Set it, or leave them out.",
                key="categories",
            )
        return {name: learn_category(frame[name].iloc[:warm_up], path) for name in names}

    def _stream(
        self, frame: pd.DataFrame, path: Path, stamps: Stamps, targets: list[str] | None
    ) -> OnlineStream:
        if targets is None:
            series = table_series(frame, path, self.time_column, stamps=stamps)
            return OnlineStream(series, "forecasting", series.columns)
        for name in targets:
            require_column(frame, name, Path(self.path))
        asked = self._task_of(frame, targets)
        read = frame.drop(columns=targets)
        time_column = self.time_column or find_time_column(read, path, form=stamps.form)
        others = number_columns(read, path, time_column)
        if asked == "forecasting":
            series = table_series(frame, path, time_column, targets, others, stamps)
            return OnlineStream(series, "forecasting", tuple(targets))
        self._require_inputs(asked, targets, others)
        inputs = table_series(read, path, time_column, others, stamps=stamps)
        if asked == "regression":
            truth = table_series(frame, path, time_column, targets, stamps=stamps).values
            if self.missing != "model":
                check_truth(truth, str(self.path), targets[0])
            return OnlineStream(inputs, "regression", tuple(targets), truth)
        truth, classes = self._classes(frame[targets[0]])
        return OnlineStream(inputs, "classification", classes, truth)

    def _task_of(self, frame: pd.DataFrame, targets: list[str]) -> Task:
        """The task, which the checkpoint or the kind of the targets decides if it is not stated."""
        if self.asked != "auto":
            return self.asked
        if self.recorded is not None:
            known: Task = self.recorded.settings["task"]
            return known
        types = pd.api.types
        dtypes = [frame[name].dtype for name in targets]
        numeric = all(types.is_numeric_dtype(dtype) and not types.is_bool_dtype(dtype) for dtype in dtypes)
        return "classification" if len(targets) == 1 and not numeric else "forecasting"

    def _require_inputs(self, task: Task, targets: list[str] | None, others: list[str]) -> None:
        if task != "forecasting" and targets and not others:
            raise DataError(
                f"{self.path}: {task} needs a column of numbers besides `{targets[0]}`; there is none."
            )

    def _classes(self, label: pd.Series) -> tuple[np.ndarray, tuple[str, ...]]:
        """Class number of each row (T,), and the names of the classes."""
        if label.isna().any():
            row = int(label.isna().to_numpy().argmax())
            raise DataError(
                f"{self.path}: column `{label.name}` must hold a class in every row; row {row} has none."
            )
        truth, classes = pd.factorize(label, sort=True)
        found = truth.astype(np.int64), tuple(map(str, classes))
        if self.recorded is not None:  # any number of the classes that the checkpoint knows
            return found
        if len(classes) < 2:
            raise DataError(
                f"{self.path}: column `{label.name}` must hold at least two classes; got {list(classes)}."
            )
        if len(classes) > len(label) / 2:
            raise DataError(
                f"{self.path}: column `{label.name}` must hold classes that come again; {len(classes)} "
                f"differ in {len(label)} rows. Name another of `targets`, or set `task` to regression for "
                "numbers."
            )
        return found
