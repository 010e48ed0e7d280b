"""`Series`: rows of several columns in time order; reading them, filling gaps, and scaling.

Shapes: T rows, D columns. Rows are counted from 0 everywhere, messages included.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet as parquet
import torch

from dream import memory
from dream.errors import DataError, nearest, shown
from lightning_modules.data import feather
from lightning_modules.data.dates import UNKNOWN, Stamps, require_order, time_stamps
from lightning_modules.data.dialect import (
    EXCEL,
    PLAIN,
    Dialect,
    find_dialect,
    frame_dialect,
    in_plain_numbers,
    open_text,
    with_encoding,
)
from lightning_modules.data.dialect import (
    UNKNOWN as UNKNOWN_DIALECT,
)
from lightning_modules.data.fingerprint import Fingerprint, content_sum
from lightning_modules.data.ids import repeated_by
from lightning_modules.data.in_memory import NAME
from lightning_modules.data.limits import (
    distinct,
    local,
    require_header,
    require_printable,
    require_proportion,
    require_unpacked,
    tell_repeated,
)
from lightning_modules.data.numbers import number_columns, read_numbers, require_real
from lightning_modules.data.packed import DAMAGED, PACKED
from lightning_modules.data.time_column import find_time_column, with_starts
from lightning_modules.data.zones import Written, one_zone

logger = logging.getLogger(__name__)

Missing = Literal["error", "ffill", "mask", "model"]
Values = TypeVar("Values", np.ndarray, torch.Tensor)

PARQUET = (".parquet", ".pq", *feather.ENDINGS)
TEXT = (".csv", ".txt", ".tsv")
ENDINGS = (*TEXT, *(text + packed for text in TEXT for packed in PACKED), ".zip", *PARQUET)
"""Endings of names of tables."""


@dataclass(frozen=True, eq=False)
class Series:
    """Rows in time order."""

    values: np.ndarray
    """float64 (T, D), in the source's units; NaN where a value is missing."""
    columns: tuple[str, ...]
    time: np.ndarray | None
    """datetime64[ns] (T,), strictly increasing, in UTC if there is a zone; None if rows only have numbers."""
    source: str
    """The file or generator, for messages."""
    zone: str | None = None
    """The zone in which time stamps are shown, see `zones`; None for those without one."""
    form: str | None = None
    """The format of the time stamps as they were read, one of `dates.find_formats`."""
    time_column: str | None = None
    """Name of the column of time stamps in the source."""
    dialect: Dialect | None = None
    """How the table was written; None for a generator's."""

    def __len__(self) -> int:
        return len(self.values)

    def head(self, rows: int) -> Series:
        """The first rows."""
        return self._part(slice(rows))

    def ordered(self, columns: Sequence[str]) -> Series:
        """The same columns in this order."""
        places = [self.columns.index(name) for name in columns]
        return replace(self, values=self.values[:, places], columns=tuple(columns))

    def _part(self, rows: slice) -> Series:
        return replace(self, values=self.values[rows], time=None if self.time is None else self.time[rows])

    @property
    def fingerprint(self) -> Fingerprint:
        """Checksums of the content, see `TaskData.fingerprint`."""
        return {
            "rows": content_sum(len(self)),
            "columns": content_sum(self.columns),
            "time": content_sum(self.time),
            "values": content_sum(self.values),
        }

    def blocks(self, rows: slice) -> Iterator[Series]:
        """Pieces of these rows; a series in memory is a single one."""
        yield self._part(rows)


class Roles(NamedTuple):
    """The columns of a file that are read, by their role."""

    time: str | None
    """The column of time stamps."""
    columns: tuple[str, ...]
    """The columns of numbers, covariates last."""
    formats: tuple[str | None, ...]
    """Formats of the time stamps, from `find_formats`. The first is used; there are more where no row tells
    which is meant."""
    zone: str | None = None
    """The zone that is stated for them."""


def read_table(
    path: str | Path | pd.DataFrame,
    time_column: str | None = None,
    columns: Sequence[str] | None = None,
    covariates: Sequence[str] = (),
    dialect: Dialect = UNKNOWN_DIALECT,
    stamps: Stamps = UNKNOWN,
) -> Series:
    """Read a file of text (.csv, .txt, .tsv, also packed), of Parquet (.parquet, .pq), or a table in memory.

    A row is a time step. Time stamps are all in ISO 8601, of any precision, or all in the format of the
    first; or they are Unix time in s, ms, us or ns, or digits such as 20240131. Year, month and day come in
    the order that fits all rows; if several do, with the day first where a dot follows it, and else in the
    one by which the steps are even. Stamps with a zone are converted to UTC, and shown in their zone.

    Args:
        path: The file or the table in memory.
        time_column: The column of time stamps. If None, the only column of dates, or else the only one of
            numbers that are dates and whose name says so; without one rows only have numbers.
        columns: Columns to read; if None, all others in which some value is a number, but no index: an
            unnamed column, or one called `index`, `id` or `row`, that counts the rows.
        covariates: Columns to read besides, which come last.
        dialect: What is known of how it is written.
        stamps: What is known of the time stamps.

    Raises:
        DataError: the table cannot be read; names file, column and row.
    """
    frame, source, dialect = read_frame(path, dialect)
    return replace(table_series(frame, source, time_column, columns, covariates, stamps), dialect=dialect)


def table_series(
    frame: pd.DataFrame,
    path: Path,
    time_column: str | None = None,
    columns: Sequence[str] | None = None,
    covariates: Sequence[str] = (),
    stamps: Stamps = UNKNOWN,
) -> Series:
    """As `read_table`, of a table that was read from `path`."""
    roles = find_roles(frame, path, time_column, columns, covariates, stamps)
    if roles.time is not None:
        require_order(frame[roles.time], roles.formats, path)
    try:
        series, written = to_series(frame, roles, path)
    except DataError:
        if roles.time is not None and (name := repeated_by(frame, roles.time)) is not None:
            raise DataError(
                f"{path}: time column `{roles.time}` has times that repeat, as of several series, which "
                f"column `{name}` tells apart. Name it: `--data.id={name}`."
            ) from None
        raise
    series = replace(series, zone=one_zone([written]))
    require_values(~np.isnan(series.values).all(axis=0), series.columns, path)
    return series


def find_roles(
    frame: pd.DataFrame,
    path: Path,
    time_column: str | None,
    columns: Sequence[str] | None,
    covariates: Sequence[str],
    stamps: Stamps,
) -> Roles:
    """The columns of a table that `read_table` reads, decided by its rows."""
    require_printable(frame.columns.tolist(), path)
    for name in frame.columns if columns is None else ():
        require_real(frame[name], name, path)
    if time_column is None:
        time_column = find_time_column(frame, path, [*(columns or ()), *covariates], stamps.form)
    else:
        _require(frame, [time_column], path)
    if columns is None:
        columns = number_columns(frame, path, time_column, covariates)
        if not columns:
            raise DataError(f"{path}: no column to predict holds numbers. Found: {', '.join(frame.columns)}.")
    columns = [*columns, *covariates]
    _require(frame, columns, path)
    formats = () if time_column is None else stamps.formats(frame[time_column])
    counted = formats[0] if formats and stamps.form is None else None
    if counted is not None and counted.startswith("unix "):
        logger.warning("%s: column `%s` is read as Unix time in %s.", path, time_column, counted[5:])
    return Roles(time_column, tuple(columns), formats, stamps.zone)


def to_series(
    frame: pd.DataFrame, roles: Roles, path: Path, before: np.datetime64 | None = None
) -> tuple[Series, Written]:
    """Rows of a table, or of a part of one after the time stamp `before`, and the zone that they are written
    in.

    The index numbers the rows.
    """
    time, written, form = None, None, None
    if roles.time is not None:
        form = roles.formats[0]
        time, written = time_stamps(frame[roles.time], form, path, before, roles.zone)
    values = np.stack([read_numbers(frame[name], name, path) for name in roles.columns], axis=1)
    return Series(values, roles.columns, time, str(path), None, form, roles.time), written


def require_values(known: np.ndarray, columns: Sequence[str], path: Path) -> None:
    """Refuse columns without a single value, where `known` (D,) is False."""
    for name, some in zip(columns, known.tolist(), strict=True):
        if not some:
            raise DataError(f"{path}: column `{name}` holds no value at all. Leave it out.")


def check_file(path: str | Path) -> Path:
    """Return `path` if a table can lie there.

    Raises:
        DataError: there is no file, it is empty, or its type is unknown.
    """
    path = local(path)
    if not path.name.lower().endswith(ENDINGS):
        raise DataError(
            f"{path}: expected a file ending in {', '.join(TEXT + PARQUET)}, those of text also packed: "
            f"{', '.join(PACKED)}."
        )
    if not path.is_file():
        raise DataError(
            f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}. Check `path`."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    return path


def read_frame(
    path: str | Path | pd.DataFrame, dialect: Dialect = UNKNOWN_DIALECT, texts: Collection[str] = ()
) -> tuple[pd.DataFrame, Path, Dialect]:
    """Read all columns of a file or of a table in memory, numbers in whatever notation as numbers.

    The columns `texts` are read as they are written.

    Returns:
        The table, its name for messages, and how it is written.

    Raises:
        DataError: it cannot be read.
    """
    if isinstance(path, pd.DataFrame):
        frame, source = with_starts(path.set_axis(distinct(path.columns.map(str)), axis=1)), Path(NAME)
    else:
        source = check_file(path)
        if not source.name.lower().endswith(PARQUET):
            return _read_text(source, dialect, texts)
        with readable(source), open_parquet(source) as file:
            tell_repeated(file.schema_arrow.names, source)
            frame = parse_parquet(file.read(), source)
    require_rows(frame, source)
    dialect = frame_dialect(frame, source, dialect)
    return in_plain_numbers(frame, dialect, texts), source, dialect


def _read_text(path: Path, stated: Dialect, texts: Collection[str]) -> tuple[pd.DataFrame, Path, Dialect]:
    with readable(path):
        dialect = find_dialect(path, stated)
        try:
            frame = _parsed(path, dialect, texts)
        except UnicodeDecodeError:
            if (other := with_encoding(path, dialect, stated)) == dialect:
                raise
            dialect, frame = other, _parsed(path, other, texts)
    require_rows(frame, path)
    return frame, path, dialect


def _parsed(path: Path, dialect: Dialect, texts: Collection[str]) -> pd.DataFrame:
    with open_text(path, str(dialect.encoding)) as (text, _):
        return parse_text(text, path, dialect, texts)


def table_dialect(path: Path, stated: Dialect = UNKNOWN_DIALECT, quiet: bool = False) -> Dialect:
    """How a file is written that is read in blocks, by its first rows; logged as in `find_dialect`."""
    with readable(path):
        if not path.name.lower().endswith(PARQUET):
            return find_dialect(path, stated, quiet)
        with open_parquet(path, memory_map=True) as file:
            tell_repeated(file.schema_arrow.names, path)
            for batch in file.iter_batches(batch_size=1000):
                return frame_dialect(parse_parquet(pyarrow.Table.from_batches([batch]), path), path, stated)
    return PLAIN


def full_dialect(path: Path, dialect: Dialect, stated: Dialect) -> Dialect:
    """The dialect of a file of which `table_dialect` told the first, by all of its letters."""
    if path.name.lower().endswith(PARQUET):
        return dialect
    with readable(path):
        return with_encoding(path, dialect, stated)


def read_texts(path: Path) -> pd.DataFrame:
    """The table in a file of text, all of it texts: no word of it stands for a gap or is a number.

    Raises:
        DataError: it cannot be read.
    """
    stated = Dialect(decimal=".", thousands="")
    with readable(path):
        dialect = with_encoding(path, find_dialect(path, stated), stated)
        with open_text(path, str(dialect.encoding)) as (text, _):
            skipped = 1 if EXCEL.match(text.read(32)) else 0
            text.seek(0)
            options = dict(sep=dialect.separator, skiprows=skipped, dtype=str, keep_default_na=False)
            return pd.read_csv(text, **options).fillna("")  # type: ignore[call-overload]


def require_rows(frame: pd.DataFrame, path: Path) -> None:
    """Refuse a table without a row."""
    if frame.empty:
        raise DataError(f"{path}: there are column names but no rows.")


@contextmanager
def readable(path: Path, first: int = 0) -> Iterator[None]:
    """Turn errors of reading `path` into a DataError; reading starts at row `first`."""
    try:
        yield
    except MemoryError as error:
        raise _too_large(path) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: no text in {error.encoding} ({error.reason} at byte {error.start}). State another "
            "`data.encoding`, or save it as UTF-8."
        ) from error
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path}: the file is empty.") from error
    except (ValueError, OSError, EOFError, *DAMAGED, pd.errors.ParserWarning) as error:
        if memory.exhausted(error):
            raise _too_large(path) from error
        reason = str(error).strip().splitlines()[0]
        counted = f" (lines counted from row {first})" if first else ""
        raise DataError(
            f"{path}: cannot be read, it is damaged or of another format: {reason}{counted}"
        ) from error


def _too_large(path: Path) -> DataError:
    return DataError(
        f"{path}: does not fit into memory; {memory.there_is()}. With `mapped: true` a forecaster's table "
        "stays on disk; else read fewer rows or columns, or find more memory."
    )


@contextmanager
def open_parquet(path: Path, **options: Any) -> Iterator[Any]:
    """Open a Parquet or Feather file.

    Raises:
        DataError: it unpacks to far more than its size.
    """
    if path.name.lower().endswith(feather.ENDINGS):
        with pyarrow.memory_map(str(path)) as source:
            yield feather.FeatherFile(path, source)
        return
    with parquet.ParquetFile(path, **options) as file:
        facts = file.metadata
        groups = [facts.row_group(k) for k in range(facts.num_row_groups)]
        parts = [group.column(k) for group in groups for k in range(group.num_columns)]
        stored = sum(part.total_uncompressed_size for part in parts)
        # values that repeat are stored once
        require_unpacked(max(8 * facts.num_rows * facts.num_columns, stored), path)
        yield file


def parse_parquet(table: pyarrow.Table, path: Path) -> pd.DataFrame:
    """Rows of a Parquet file, all or some of them."""
    require_header(table.column_names, path)
    return with_starts(table.rename_columns(distinct(table.column_names)).to_pandas(ignore_metadata=True))


def parse_text(source: BinaryIO, path: Path, dialect: Dialect, texts: Collection[str] = ()) -> pd.DataFrame:
    """Rows of text in UTF-8 from `source`, whose first line names the columns; `path` is for messages.

    The columns `texts` are read as they are written: an id 007 is no number.
    """
    told = EXCEL.match(source.read(32))
    source.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header
        try:
            frame = pd.read_csv(
                source,
                sep=dialect.separator,
                decimal=dialect.decimal or ".",
                skiprows=1 if told else 0,
                low_memory=False,
                index_col=False,
                dtype=dict.fromkeys(texts, str),
            )
        except pd.errors.ParserWarning as error:
            source.seek(0)
            names = pd.read_csv(source, sep=dialect.separator, skiprows=1 if told else 0, nrows=0).columns
            raise DataError(
                f"{path}: cannot be read: rows must have a value for each of the {len(names)} names in the "
                f"first line ({shown(names[0])}, ...); some have more. Delete lines before the names, "
                "write numbers as 1234.5, quote texts that hold the separator, or state it as "
                "`data.separator`."
            ) from error
    frame.columns = [" ".join(name.split()) if "\n" in name else name for name in frame.columns]
    return in_plain_numbers(frame, dialect, texts)


def require_same_columns(frame: pd.DataFrame, path: Path, roles: Roles, covariates: Sequence[str]) -> None:
    """Refuse a later part of a table in which columns hold numbers that the first part left out."""
    left_out = frame.drop(columns=[name for name in roles.columns if name not in covariates])
    for name in number_columns(left_out, path, roles.time, covariates, quiet=True):
        if (known := frame[name].notna().to_numpy()).any():
            place = int(known.argmax())
            raise DataError(
                f"{path}: column `{name}` must hold numbers from the first row to the last, or nowhere; it "
                f"is left out before row {frame.index[0]}, and row {frame.index[place]} holds "
                f"{shown(frame[name].iat[place])}. Name the columns to read as `targets` (or `columns`)."
            )


def _require(frame: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    for name in columns:
        if name not in frame:
            raise DataError(f"{path}: no column `{name}`. {nearest(name, map(str, frame.columns))}")


def fill_missing(series: Series, policy: Missing, before: np.ndarray | None = None) -> Series:
    """Refuse missing values (`error`), leave them (`model`), or carry each column's last known value forward
    (`ffill`, `mask`).

    Carrying forward uses the past only. A gap at the very start of a column has no past: it takes the
    column's value of `before` (D,), or without it, as the one exception, the first known value.

    Raises:
        DataError: values are missing and the policy is `error`.
    """
    counts = np.isnan(series.values).sum(axis=0)
    report_missing(counts, series.columns, series.source, policy)
    if policy == "model" or not counts.any():
        return series
    return replace(series, values=carry_forward(series.values, before))


def report_missing(counts: np.ndarray, columns: Sequence[str], source: str, policy: Missing) -> None:
    """Refuse missing values, of which each column has `counts` (D,), or warn that they are filled."""
    if not counts.any() or policy in ("mask", "model"):
        return
    listed = ", ".join(f"{name} {count}" for name, count in zip(columns, counts, strict=True) if count)
    if policy == "error":
        raise DataError(
            f"{source}: values are missing ({listed}). Carry the last known value forward with "
            "`--data.missing=ffill`, show a forecaster what is missing with `--data.missing=mask`, have "
            "DREAM read it as not observed with `--data.missing=model`, or fill them in the source."
        )
    logger.warning("%s: missing values take the last known value of their column: %s.", source, listed)


def carry_forward(values: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
    """`values` (T, D) with each NaN replaced by the last known value of its column; see `fill_missing`."""
    filled = pd.DataFrame(values).ffill()
    filled = filled.bfill() if before is None else filled.fillna(pd.Series(before))
    return filled.to_numpy(dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Scaler:
    """Standardises columns: z = (y - mean) / scale, where scale is the population standard deviation."""

    mean: np.ndarray
    """float64 (D,), in each column's unit."""
    scale: np.ndarray
    """float64 (D,), in each column's unit; 1 for a constant column."""

    @classmethod
    def fit(cls, rows: np.ndarray, columns: Sequence[str]) -> Scaler:
        """Compute mean and scale of `rows` (T, D), which must be training rows; NaN is left out.

        Raises:
            DataError: a column holds no value in `rows`.
        """
        return cls.fit_blocks(lambda: [rows], columns)

    @classmethod
    def fit_blocks(
        cls,
        blocks: Callable[[], Iterable[np.ndarray]],
        columns: Sequence[str],
        pooled: Scaler | None = None,
        quiet: bool = False,
    ) -> Scaler:
        """As `fit`, from rows that come block by block; `blocks` is called twice.

        A column that holds no value is scaled as `pooled` does. Unless `quiet`, constant ones are logged.
        """
        width = len(columns)
        count, total = np.zeros(width), np.zeros(width)
        low, high = np.full(width, np.inf), np.full(width, -np.inf)
        for rows in blocks():
            count += (~np.isnan(rows)).sum(axis=0)
            total += np.nansum(rows, axis=0, dtype=np.float64)
            low, high = np.fmin(low, np.fmin.reduce(rows)), np.fmax(high, np.fmax.reduce(rows))
        if (empty := count == 0).any() and pooled is None:
            names = ", ".join(name for name, none in zip(columns, empty.tolist(), strict=True) if none)
            raise DataError(
                f"columns without a value in the training rows: {names}. Leave them out or lengthen that "
                "part."
            )
        constant = low == high
        mean = np.where(constant, low, total / np.maximum(count, 1))
        squares = sum((np.nansum(np.square(rows - mean), axis=0) for rows in blocks()), np.zeros(width))
        scale = np.where(constant, 1.0, np.sqrt(squares / np.maximum(count, 1)))
        scale = np.where(scale > 0, scale, 1.0)  # a deviation whose square vanishes
        if pooled is not None:
            mean, scale = np.where(empty, pooled.mean, mean), np.where(empty, pooled.scale, scale)
        if constant.any() and not quiet:
            names = ", ".join(name for name, same in zip(columns, constant, strict=True) if same)
            logger.warning(
                "Columns that never change in the training rows are only centred (scale 1): %s.", names
            )
        return cls(mean, scale)

    def transform(self, values: Values, columns: slice | Sequence[int] = slice(None)) -> Values:
        """Standardise the last axis, which holds `columns` of the D columns."""
        mean, scale = self._like(values, columns)
        return (values - mean) / scale

    def standardise(
        self,
        values: np.ndarray,
        names: Sequence[str],
        source: str,
        columns: slice = slice(None),
        first: int = 0,
    ) -> np.ndarray:
        """As `transform`, for rows from number `first` of `source`, whose columns have these names.

        Raises:
            DataError: a value is out of all proportion to the training rows.
        """
        with np.errstate(over="ignore"):
            result = self.transform(values, columns)
        require_proportion(result, values, names, self.scale[columns], source, first)
        return result

    def inverse(self, values: Values, columns: slice | Sequence[int] = slice(None)) -> Values:
        """Convert the last axis, which holds `columns` of the D columns, back to the source's units."""
        mean, scale = self._like(values, columns)
        return values * scale + mean

    def _like(self, values: Values, columns: slice | Sequence[int]) -> tuple[Any, Any]:
        mean, scale = self.mean[columns], self.scale[columns]
        if values.shape[-1:] != mean.shape:
            raise DataError(f"the last axis must hold {len(mean)} columns; got shape {tuple(values.shape)}.")
        if isinstance(values, torch.Tensor):
            return values.new_tensor(mean), values.new_tensor(scale)
        return mean.astype(values.dtype), scale.astype(values.dtype)
