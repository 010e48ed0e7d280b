"""A multivariate series: reading it, filling its gaps, cutting it in time order, scaling it.

Shapes: T rows, D columns. Rows are counted from 0 everywhere, messages included.
"""

from __future__ import annotations

import logging
import math
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import torch

from dream.errors import ConfigError, DataError, nearest
from dream.numerics import largest

logger = logging.getLogger(__name__)

Values = TypeVar("Values", np.ndarray, torch.Tensor)

LARGEST = largest(torch.float32)  # a value whose square is finite in the dtype that layers compute in
FARTHEST = 1e15  # training deviations from the mean: sums of squares over a batch stay finite in float32

_PARQUET = (".parquet", ".pq")
_TEXT = (".csv", ".txt", ".csv.gz", ".txt.gz")


@dataclass(frozen=True, eq=False)
class Series:
    """Rows in time order."""

    values: np.ndarray
    """float64 (T, D), in the source's units; NaN where a value is missing."""
    columns: tuple[str, ...]
    time: np.ndarray | None
    """datetime64[ns] (T,), strictly increasing; None where rows have only their number."""
    source: str
    """The file or generator, for messages."""


def read_table(
    path: str | Path,
    time_column: str | None = None,
    columns: Sequence[str] | None = None,
    covariates: Sequence[str] = (),
    separator: str = ",",
) -> Series:
    """Reads a CSV (.csv, .txt, also .gz) or Parquet (.parquet, .pq) file with one row per time step.

    Without `time_column`, the Parquet file's first date column or else the file's first column gives the time stamps
    if it holds dates; otherwise rows have only their number. Time stamps with a zone are converted to UTC. Without
    `columns`, every other column is read except those in which no value is a number. `covariates` come last. `separator`
    stands between the values of a line of text.
    """
    path = Path(path).expanduser()
    frame = read_frame(path, separator)
    if time_column is None:
        time_column = find_time_column(frame)
    else:
        _require(frame, [time_column], path)
    time = None if time_column is None else _time_stamps(frame[time_column], time_column, path)
    if columns is None:
        columns = number_columns(frame, path, [time_column, *covariates])
        if not columns:
            raise DataError(f"{path}: no column to predict holds numbers. Found: {', '.join(frame.columns)}.")
    columns = [*columns, *covariates]
    _require(frame, columns, path)
    values = np.stack([_numbers(frame[name], name, path) for name in columns], axis=1)
    return Series(values, tuple(columns), time, str(path))


def read_frame(path: Path, separator: str = ",") -> pd.DataFrame:
    """The table in a file, as it is; its messages name the file."""
    name = path.name.lower()
    if not name.endswith(_PARQUET + _TEXT):
        raise DataError(f"{path}: expected a file ending in {', '.join(_TEXT + _PARQUET)}.")
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}. Check `path`.")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    try:
        if name.endswith(_PARQUET):
            with parquet.ParquetFile(path) as file:
                table = file.read()
            header, frame = table.column_names, table.to_pandas(ignore_metadata=True)
        else:
            header = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False)
            header = header.iloc[0].tolist()
            if len(header) == 1 and (used := next((sign for sign in ",;\t|" if sign in header[0]), None)):
                wanted = "commas" if separator == "," else repr(separator)
                raise DataError(
                    f"{path}: values must be separated by {wanted}; the first line uses {used!r}. Save it as CSV; "
                    "AnomalyTable also takes `--data.separator`."
                )
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header
                frame = pd.read_csv(path, sep=separator, low_memory=False, index_col=False)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8.") from error
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path}: the file is empty.") from error
    except (ValueError, OSError, EOFError, zlib.error, pd.errors.ParserWarning) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: cannot be read, it is damaged or of another format: {reason}") from error
    if repeated := sorted({column for column in header if header.count(column) > 1}):
        raise DataError(f"{path}: column names must differ; more than once: {', '.join(repeated)}.")
    if pd.to_numeric(pd.Series(header), errors="coerce").notna().all():
        raise DataError(f"{path}: the first line must name the columns; it holds numbers: {', '.join(header[:4])}.")
    if frame.empty:
        raise DataError(f"{path}: there are column names but no rows.")
    return frame


def number_columns(frame: pd.DataFrame, path: str | Path, without: Sequence[str | None]) -> list[str]:
    """Every column but `without` and those in which no value is a number, which are logged."""
    others = [name for name in frame.columns if name not in without]
    nameless = [name for name in others if name.startswith("Unnamed: ") and frame[name].isna().all()]  # a comma too many
    others = [name for name in others if name not in nameless]
    found = [name for name in others if frame[name].isna().all() or _to_numbers(frame[name]).notna().any()]
    if left_out := [name for name in others if name not in found]:
        logger.warning("%s: columns without a single number are left out: %s.", path, ", ".join(left_out))
    return found


def _require(frame: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    for name in columns:
        if name not in frame:
            raise DataError(f"{path}: no column `{name}`. {nearest(name, map(str, frame.columns))}")


def _parse_dates(column: pd.Series) -> pd.Series:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pandas warns when it falls back to its slower parser
        return pd.to_datetime(column, errors="coerce", utc=True).dt.tz_localize(None)


def find_time_column(frame: pd.DataFrame) -> str | None:
    """The first column of dates, or else the first column if most of its values can be read as dates."""
    dated = [name for name in frame.columns if pd.api.types.is_datetime64_any_dtype(frame[name])]
    first: str = [*dated, frame.columns[0]][0]
    numeric = pd.api.types.is_numeric_dtype(frame[first])
    return None if numeric or _parse_dates(frame[first]).notna().mean() <= 0.5 else first


def _time_stamps(column: pd.Series, name: str, path: Path) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(column):
        raise DataError(
            f"{path}: time column `{name}` must hold dates such as 2016-07-01 00:00; it holds numbers "
            f"such as {column.iloc[0]}. Leave `time_column` out to count rows instead."
        )
    parsed = _parse_dates(column)
    if parsed.isna().any():
        row = int(parsed.isna().to_numpy().argmax())
        raise DataError(
            f"{path}: time column `{name}` must hold dates such as 2016-07-01 00:00; row {row} holds {column.iloc[row]!r}."
        )
    time = parsed.to_numpy(dtype="datetime64[ns]")
    step = np.diff(time)
    if (step <= np.timedelta64(0)).any():
        row = int((step <= np.timedelta64(0)).argmax()) + 1
        what = "repeats the one before" if time[row] == time[row - 1] else f"is earlier than {column.iloc[row - 1]} before"
        raise DataError(
            f"{path}: time column `{name}` must increase from row to row; row {row} ({column.iloc[row]}) {what}. "
            "Sort the rows and remove duplicates."
        )
    return time


def _to_numbers(column: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column):
        return column
    return pd.to_numeric(column.astype(str).where(column.notna()), errors="coerce")


def _numbers(column: pd.Series, name: str, path: Path) -> np.ndarray:
    converted = _to_numbers(column)
    if (bad := (converted.isna() & column.notna()).to_numpy()).any():
        row = int(bad.argmax())
        raise DataError(
            f"{path}: column `{name}` must hold numbers; row {row} holds {column.iloc[row]!r} ({int(bad.sum())} such "
            "values). Repair the value, empty the cell if it is missing, or leave the column out."
        )
    values = converted.to_numpy(dtype=np.float64, na_value=np.nan)
    if (bad := np.abs(values) > LARGEST).any():
        row = int(bad.argmax())
        raise DataError(
            f"{path}: column `{name}` must be finite and at most {LARGEST:.1e} in size, so that squares are finite in "
            f"float32; row {row} holds {values[row]:g} ({int(bad.sum())} such values). Repair or scale it."
        )
    if np.isnan(values).all():
        raise DataError(f"{path}: column `{name}` holds no value at all. Leave it out.")
    return values


def fill_missing(series: Series, policy: Literal["error", "ffill", "mask"], before: np.ndarray | None = None) -> Series:
    """Refuses missing values (`error`), or carries each column's last known value forward (`ffill`, `mask`).

    Carrying forward uses the past only. A gap at the very start of a column has no past: it takes the column's value of
    `before` (D,), or without it the first known value, the one exception.

    Raises:
        DataError: values are missing and the policy is `error`.
    """
    counts = np.isnan(series.values).sum(axis=0)
    if not counts.any():
        return series
    listed = ", ".join(f"{name} {count}" for name, count in zip(series.columns, counts, strict=True) if count)
    if policy == "error":
        raise DataError(
            f"{series.source}: values are missing ({listed}). Carry the last known value forward with "
            "`--data.missing=ffill`, show a forecaster what is missing with `--data.missing=mask`, or fill them in the "
            "source."
        )
    if policy == "ffill":
        logger.warning("%s: missing values take the last known value of their column: %s.", series.source, listed)
    filled = pd.DataFrame(series.values).ffill()
    filled = filled.bfill() if before is None else filled.fillna(pd.Series(before))
    return replace(series, values=filled.to_numpy(dtype=np.float64))


class Split(NamedTuple):
    """The rows of each part, in time order and without overlap."""

    train: slice
    val: slice
    test: slice


def split_rows(count: int, split: Sequence[int | float | str], time: np.ndarray | None = None) -> Split:
    """Cuts `count` rows into training, validation and test part, in this order.

    `split` is one of: three fractions whose sum is at most 1; three row counts whose sum is at most `count`; two or
    three ISO dates, each the first moment that no longer belongs to training, validation and (if given) test.
    """
    kinds = {type(part) for part in split}
    if kinds <= {str, date, datetime} and len(split) in (2, 3):
        borders = _date_borders([str(part) for part in split], count, time)
    elif kinds == {int} and len(split) == 3:
        borders = _count_borders([int(part) for part in split], count)
    elif kinds == {float} and len(split) == 3:
        borders = _fraction_borders([float(part) for part in split], count)
    else:
        raise _refused(split, "three fractions such as [0.7, 0.1, 0.2], three row counts, or two to three dates, not mixed")
    parts = Split(*(slice(start, stop) for start, stop in zip([0, *borders], borders, strict=False)))
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if part.stop <= part.start:
            raise _refused(split, f"at least one row in each part; the {name} part of these {count} rows is empty")
    return parts


def _refused(split: Sequence[int | float | str], expected: str) -> ConfigError:
    return ConfigError(f"`split` must be {expected}; got {list(split)}.", key="split")


def _fraction_borders(split: list[float], count: int) -> list[int]:
    total = sum(split)
    if not all(part > 0 for part in split) or total > 1 + 1e-9:
        raise _refused(split, f"three positive fractions with a sum of at most 1 (here {total:g})")
    # Training and test are rounded down and validation takes the rest: the convention of published protocols.
    train, test, end = (math.floor(part * count + 1e-6) for part in (split[0], split[2], min(total, 1)))
    return [train, end - test, end]


def _count_borders(split: list[int], count: int) -> list[int]:
    if min(split) < 1 or sum(split) > count:
        raise _refused(split, f"three positive row counts with a sum of at most the {count} rows there are")
    return [split[0], split[0] + split[1], sum(split)]


def _date_borders(split: list[str], count: int, time: np.ndarray | None) -> list[int]:
    if time is None:
        raise _refused(split, "fractions or row counts for data without time stamps (or name its `time_column`)")
    try:
        dates = pd.to_datetime(split, utc=True, format="ISO8601").tz_localize(None).to_numpy("datetime64[ns]")
    except ValueError as error:
        raise _refused(split, "ISO dates such as 2017-07-01") from error
    if (np.diff(dates) <= np.timedelta64(0)).any():
        raise _refused(split, "dates in increasing order: end of training, end of validation, end of test")
    borders = np.searchsorted(time, dates).tolist()
    return borders if len(borders) == 3 else [*borders, count]


@dataclass(frozen=True, eq=False)
class Scaler:
    """Standardises columns: z = (y - mean) / scale, where scale is the population standard deviation."""

    mean: np.ndarray
    """float64 (D,), in each column's unit."""
    scale: np.ndarray
    """float64 (D,), in each column's unit; 1 for a constant column."""

    @classmethod
    def fit(cls, rows: np.ndarray, columns: Sequence[str]) -> Scaler:
        """Takes mean and scale from the values in `rows` (T, D), which must be training rows only; NaN is no value.

        Raises:
            DataError: a column holds no value at all in `rows`.
        """
        if (empty := np.isnan(rows).all(axis=0)).any():
            names = ", ".join(name for name, none in zip(columns, empty.tolist(), strict=True) if none)
            raise DataError(f"columns without a value in the training rows: {names}. Leave them out or lengthen that part.")
        low = np.nanmin(rows, axis=0)
        constant = low == np.nanmax(rows, axis=0)
        mean = np.where(constant, low, np.nanmean(rows, axis=0, dtype=np.float64)).astype(np.float64)
        scale = np.where(constant, 1.0, np.nanstd(rows, axis=0, dtype=np.float64))
        scale = np.where(scale > 0, scale, 1.0)  # a deviation whose square vanishes
        if constant.any():
            names = ", ".join(name for name, same in zip(columns, constant, strict=True) if same)
            logger.warning("Columns that never change in the training rows are only centred (scale 1): %s.", names)
        return cls(mean, scale)

    def transform(self, values: Values, columns: slice | Sequence[int] = slice(None)) -> Values:
        """Standardises the last axis; `columns` says which of the D columns it holds."""
        mean, scale = self._like(values, columns)
        return (values - mean) / scale

    def standardise(
        self, values: np.ndarray, names: Sequence[str], source: str, columns: slice = slice(None), first: int = 0
    ) -> np.ndarray:
        """`transform` of the rows from number `first` of `source`, whose columns have these names.

        Raises:
            DataError: naming the first value that is out of all proportion to the training rows.
        """
        with np.errstate(over="ignore"):
            result = self.transform(values, columns)
        if (bad := np.abs(result) > FARTHEST).any():
            row, column = (int(part) for part in np.argwhere(bad)[0])
            raise DataError(
                f"{source}: column `{names[column]}` must lie within {FARTHEST:g} deviations of its mean in the training "
                f"rows (here {self.scale[columns][column]:.3g}); row {first + row} holds {values[row, column]:g}. Repair "
                "it, leave the column out or lengthen the training part."
            )
        return result

    def inverse(self, values: Values, columns: slice | Sequence[int] = slice(None)) -> Values:
        """Back to the source's units; `columns` says which of the D columns the last axis holds."""
        mean, scale = self._like(values, columns)
        return values * scale + mean

    def _like(self, values: Values, columns: slice | Sequence[int]) -> tuple[Any, Any]:
        mean, scale = self.mean[columns], self.scale[columns]
        if values.shape[-1:] != mean.shape:
            raise DataError(f"the last axis must hold {len(mean)} columns; got shape {tuple(values.shape)}.")
        if isinstance(values, torch.Tensor):
            return values.new_tensor(mean), values.new_tensor(scale)
        return mean.astype(values.dtype), scale.astype(values.dtype)
