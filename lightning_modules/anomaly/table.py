"""A CSV or Parquet file of one's own as a stream, with or without a column that says where its anomalies
are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from dream.errors import ConfigError, DataError
from lightning_modules.anomaly.data import AnomalyData, AnomalyStream
from lightning_modules.data.in_memory import InMemory
from lightning_modules.data.series import Series, fill_missing, read_table


class AnomalyTable(AnomalyData, InMemory):
    """A CSV or Parquet file with one row per time step; `AnomalyTable.of` takes a DataFrame or an array.

    Args:
        path: The file: .csv or .txt (also .gz), .parquet or .pq.
        time_column: The column of time stamps; None finds it, and counts rows where there is none.
        columns: Columns to watch; None for all columns of numbers but the time column and the label.
        label_column: Column that is 0 for a normal and 1 for an anomalous row, used for metrics only; None
            without labels.
        separator: What stands between the values of a line of text.
        training: The part at the start to learn what is normal from: a share below 1, or a number of rows.
        missing: What to do about missing values: stop with an error, or carry the last known value forward.
    """

    def __init__(
        self,
        path: str,
        time_column: str | None = None,
        columns: list[str] | None = None,
        label_column: str | None = None,
        separator: str = ",",
        training: float = 0.2,
        missing: Literal["error", "ffill"] = "error",
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
        if len(separator) != 1:
            raise ConfigError(
                f"`separator` must be one character such as ';'; got {separator!r}.", key="separator"
            )
        if missing not in ("error", "ffill"):
            raise ConfigError(f"`missing` must be `error` or `ffill`; got {missing!r}.", key="missing")
        self.path, self.time_column, self.watched, self.label_column = (
            path,
            time_column,
            columns,
            label_column,
        )
        self.separator, self.training, self.missing = separator, training, missing

    def read(self) -> list[AnomalyStream]:
        label = [] if self.label_column is None else [self.label_column]
        table = read_table(self.table, self.time_column, self.watched, label, self.separator)
        count = len(table.values)
        training = int(self.training * count) if self.training < 1 else int(self.training)
        return [labelled_stream(Path(self.path).name, table, bool(label), training, self.missing)]


def labelled_stream(
    name: str, table: Series, labelled: bool, training: int, missing: Literal["error", "ffill"] = "error"
) -> AnomalyStream:
    """The stream `name` in `table`, whose last column, if it is `labelled`, says where the anomalies are.

    Raises:
        DataError: a label that is neither 0 nor 1, or values that are missing.
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
        table = Series(table.values[:, :-1], table.columns[:-1], table.time, table.source)
    table = fill_missing(table, missing)
    return AnomalyStream(name, table.values, table.columns, training, label, table.time)
