"""Streams from files: your own table, and two public benchmarks."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pandas as pd

from dream.errors import ConfigError, DataError
from lightning_modules.anomaly.data import LEAST_TRAINING, AnomalyData, AnomalyStream
from lightning_modules.anomaly.nab_score import probation
from lightning_modules.data.catalogue import data_path, dataset
from lightning_modules.data.dates import stamps_as
from lightning_modules.data.dialect import Dialect, dialect_as
from lightning_modules.data.frequency import tell_uneven
from lightning_modules.data.in_memory import InMemory
from lightning_modules.data.long_table import ID, Long, columns_of, long_form, read_panel
from lightning_modules.data.panel import Panel, listed
from lightning_modules.data.series import (
    Missing,
    Series,
    carry_forward,
    fill_missing,
    read_frame,
    read_table,
    report_missing,
    table_series,
)
from lightning_modules.data.truth import is_truth, require_no_truth

logger = logging.getLogger(__name__)

SKAB_SENSORS = (
    "Accelerometer1RMS",
    "Accelerometer2RMS",
    "Current",
    "Pressure",
    "Temperature",
    "Thermocouple",
    "Voltage",
    "Volume Flow RateRMS",
)
SKAB_GROUPS = ("valve1/", "valve2/", "other/")
SKAB_TRAINING = 400


class AnomalyTable(AnomalyData, InMemory):
    """A CSV or Parquet file with one row per time step; `AnomalyTable.of` takes a DataFrame or an array.

    With `id` it is a long table of several series, with one row per time step of each, in any order. Each is
    a stream with a state, a training part and a threshold of its own.

    Args:
        path: The file: .csv, .txt or .tsv (also .gz, .bz2, .xz, .zst, .zip), .parquet or .feather. Of several
            series also a folder of files or a pattern such as `pumps/*.csv`: without `id` each file is a
            series, called as the file is.
        time_column: The column of time stamps; None finds it, and counts rows where there is none.
        columns: Columns to watch; None for all columns of numbers but the time column and the label.
        label_column: Column that is 0 for a normal and 1 for an anomalous row, used for metrics only; None
            without labels.
        training: Part at the start from which to learn what is normal: a share below 1, or a number of rows.
        missing: Treatment of missing values: stop with an error (`error`), carry the last known value forward
            (`ffill`), or leave them out (`model`): DREAM reads them as not observed, scales and tails do not
            move, and a row without any value scores 0. A rival core reads the last known level.
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
            has the columns unique_id, ds and y: those are id, time and, without `columns`, what is watched.
    """

    def __init__(
        self,
        path: str,
        time_column: str | None = None,
        columns: list[str] | None = None,
        label_column: str | None = None,
        separator: str | None = None,
        training: float = 0.2,
        missing: Literal["error", "ffill", "model"] = "error",
        units: dict[str, str] | None = None,
        time_format: str | None = None,
        zone: str | None = None,
        decimal: str | None = None,
        thousands: str | None = None,
        encoding: str | None = None,
        id: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not training > 0 or (training > 1 and not float(training).is_integer()):
            raise ConfigError(
                f"`training` must be a share above 0 and below 1, or a number of rows; got {training!r}.",
                key="training",
            )
        if label_column is not None and label_column in (columns or []):
            raise ConfigError(
                f"`label_column` must not be one of the columns to watch; {label_column!r} is both.",
                key="label_column",
            )
        if missing not in ("error", "ffill", "model"):
            raise ConfigError(f"`missing` must be error, ffill or model; got {missing!r}.", key="missing")
        self.path = path
        self.time_column = time_column
        self.watched = columns
        self.label_column = label_column
        self.training = training
        self.missing = missing
        self.units = dict(units or {})
        self.time_format = time_format
        self.zone = zone
        self.stamps = stamps_as(time_format, zone)
        self.dialect = dialect_as(separator, decimal, thousands, encoding)
        self.id = id

    def read(self) -> list[AnomalyStream]:
        stamps = self.stamps if self.recorded is None else self.recorded.stamps(self.stamps)
        learned = () if self.recorded is None else self.recorded.columns.get("id", ())
        known = self.known_dialect
        if (long := long_form(self.table, self.id, known, learned)) is not None:
            label = self._label(columns_of(self.table, known))
            self.id_column = long.id or ID
            time, watched = self.time_column or long.time, self.watched or long.columns
            panel = read_panel(self.table, Long(long.id, time, watched, label), known, stamps)
            if watched is None:
                self._require_no_truth(panel.columns, [one.values for one in panel.series], label)
            return self._streams_of(panel, bool(label))
        frame, path, dialect = read_frame(self.table, known)
        label = self._label(frame.columns.tolist())
        table = table_series(frame, path, self.time_column, self.watched, label, stamps)
        table = replace(table, dialect=dialect)
        if self.watched is None:
            self._require_no_truth(table.columns, [table.values], label)
        training = self._training_rows(len(table))
        if training > self._asked(len(table)):
            logger.warning(
                "%s: `training` gives %d rows; the first %d, which are needed, say what is normal.",
                table.source,
                self._asked(len(table)),
                training,
            )
        tell_uneven(table.time, table.zone, table.source)
        return [labelled_stream(Path(self.path).name, table, bool(label), training, self.missing)]

    def _require_no_truth(
        self, columns: Sequence[str], values: Sequence[np.ndarray], label: Sequence[str]
    ) -> None:
        """See `require_no_truth`, but for the label and what a run that is followed watches."""
        learned = () if self.recorded is None else self.recorded.columns["columns"]
        named = [name for name in columns if is_truth(name) and name not in (*label, *learned)]
        if named:
            places = [columns.index(name) for name in named]
            rows = np.concatenate([each[:, places] for each in values])
            require_no_truth(rows, named, [name for name in columns if name not in label], Path(self.path))

    def _streams_of(self, panel: Panel, labelled: bool) -> list[AnomalyStream]:
        """A stream for each series that is long enough."""
        gaps = np.sum([np.isnan(each.values).sum(0) for each in panel.series], 0)
        report_missing(gaps, panel.columns, panel.source, self.missing)
        found, short = [], []
        for name, series in zip(panel.ids, panel.series, strict=True):
            training = self._training_rows(len(series))
            if not LEAST_TRAINING <= training < len(series):
                short.append(name)
                continue
            if self.missing == "ffill":
                series = replace(series, values=carry_forward(series.values))
            found.append(labelled_stream(name, series, labelled, training, self.missing))
        if not found:
            raise DataError(
                f"{panel.source}: a series must have a training part of at least {LEAST_TRAINING} rows, and "
                f"some to score; none of {len(panel)} has. Change `training`, or bring more rows."
            )
        if short:
            logger.warning(
                "%s: %d of %d series are left out, in which `training` does not give %d rows and leave some "
                "to score: %s.",
                panel.source,
                len(short),
                len(panel),
                LEAST_TRAINING,
                listed(short),
            )
        return found

    def _asked(self, rows: int) -> int:
        """Rows of the training part of a stream that `training` asks for."""
        return int(self.training * rows) if self.training < 1 else int(self.training)

    def _training_rows(self, rows: int) -> int:
        """Rows of the training part; with a checkpoint as many as are needed, if a share gives fewer."""
        known = self.recorded is not None and not self.places
        asked = self._asked(rows)
        return LEAST_TRAINING if known and self.training < 1 and asked < LEAST_TRAINING < rows else asked

    def _label(self, columns: Sequence[str]) -> list[str]:
        """The column of labels, if there is one, as there must be in training."""
        if self.label_column is None:
            return []
        if self.recorded is None or self.label_column in columns:
            return [self.label_column]  # or refused by name
        logger.warning("%s: there is no column `%s`; read without labels.", self.path, self.label_column)
        return []


class NABData(AnomalyData):
    """The Numenta Anomaly Benchmark, version 1.1: 58 independent streams of one column, 116 labelled windows.

    As in the benchmark's protocol, the training part of each file is its probation. Time stamps are as
    recorded: a few repeat or step back, so they are only shown.

    Args:
        groups: Groups of files to read, such as `realTweets`; all if not given, as in published scores.
    """

    set_by_name = ("training",)

    def __init__(self, groups: list[str] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.groups = groups

    @property
    def nab(self) -> bool:
        return True

    def read(self) -> list[AnomalyStream]:
        labels = data_path("nab", "labels/combined_windows.json")
        windows: dict[str, list[tuple[str, str]]] = json.loads(labels.read_text())
        groups = sorted({name.partition("/")[0] for name in windows})
        if unknown := set(self.groups or []) - set(groups):
            raise ConfigError(
                f"`groups` must name groups of NAB: {', '.join(groups)}; got {', '.join(sorted(unknown))}.",
                key="groups",
            )
        names = [name for name in sorted(windows) if name.partition("/")[0] in (self.groups or groups)]
        streams = []
        for name in names:
            table = pd.read_csv(data_path("nab", f"data/{name}"))
            time = pd.to_datetime(table["timestamp"]).to_numpy("datetime64[ns]")
            label = np.zeros(len(time), dtype=bool)
            for first, last in windows[name]:
                label |= (time >= np.datetime64(first)) & (time <= np.datetime64(last))
            values = table[["value"]].to_numpy(np.float64)
            streams.append(AnomalyStream(name, values, ("value",), probation(len(values)), label, time))
        return streams


class SKABData(AnomalyData):
    """The Skoltech Anomaly Benchmark, version 0.9: 34 labelled experiments on a water circuit, 8 sensors.

    As on its leaderboard, the first 400 rows of each file are the training part and the others the test. Its
    outlier task ranks by `f1`, `far` and `mar` over the test rows of all files together.
    """

    set_by_name = ("training",)

    def read(self) -> list[AnomalyStream]:
        files = [PurePosixPath(file) for file in dataset("skab").files if file.startswith(SKAB_GROUPS)]
        streams = []
        for file in sorted(files, key=lambda file: (file.parent.name, int(file.stem))):
            table = read_table(
                data_path("skab", str(file)), "datetime", SKAB_SENSORS, ["anomaly"], Dialect(";")
            )
            streams.append(labelled_stream(str(file), table, True, SKAB_TRAINING))
        return streams


def labelled_stream(
    name: str, table: Series, labelled: bool, training: int, missing: Missing = "error"
) -> AnomalyStream:
    """Stream `name` from `table`, whose last column holds the labels if it is `labelled`.

    Raises:
        DataError: a label is neither 0 nor 1, or values are missing.
    """
    label = None
    if labelled:
        marks = table.values[:, -1]
        if (wrong := ~np.isin(marks, (0, 1))).any():
            row = int(wrong.argmax())
            raise DataError(
                f"{table.source}: label column `{table.columns[-1]}` must be 0 or 1; row {row} holds "
                f"{marks[row]:g}."
            )
        label = marks == 1
        table = replace(table, values=table.values[:, :-1], columns=table.columns[:-1])
    table = fill_missing(table, missing)
    stream = AnomalyStream(name, table.values, table.columns, training, label, table.time)
    return replace(
        stream, zone=table.zone, form=table.form, time_column=table.time_column, dialect=table.dialect
    )
