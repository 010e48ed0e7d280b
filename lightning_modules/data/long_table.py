"""`read_panel`: many series from a long table, in a file or in memory, or from the files of a folder.

A long table has a row for each time step of each series, in any order, and a column of ids that tells the
series apart: unique_id, ds, y and others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dream.errors import DataError, nearest
from lightning_modules.data.dates import UNKNOWN, Stamps, find_formats, require_order, unordered_stamps
from lightning_modules.data.dialect import UNKNOWN as UNKNOWN_DIALECT
from lightning_modules.data.dialect import Dialect
from lightning_modules.data.disk.blocks import file_blocks
from lightning_modules.data.ids import id_texts
from lightning_modules.data.in_memory import NAME
from lightning_modules.data.limits import local
from lightning_modules.data.numbers import number_columns, read_numbers
from lightning_modules.data.panel import Panel, Static, cut, listed
from lightning_modules.data.series import (
    ENDINGS,
    Roles,
    Series,
    check_file,
    find_roles,
    full_dialect,
    read_frame,
    require_same_columns,
    require_values,
    table_dialect,
)
from lightning_modules.data.time_column import unnamed, with_starts
from lightning_modules.data.zones import Written, one_zone

logger = logging.getLogger(__name__)

ID, TIME, TARGET = "unique_id", "ds", "y"
"""Columns of a long table by which it is known as one; forecasts of many series call theirs so."""
BLOCK = 1 << 22
"""Bytes of a file that are read at once. The first ones decide which columns hold numbers."""
_SIGNS = "*?["


class Long(NamedTuple):
    """The columns of a long table that are read, by their role; None and empty ones are found."""

    id: str | None = None
    """The column of ids; None: each file is a series, named as the file is."""
    time: str | None = None
    columns: Sequence[str] | None = None
    covariates: Sequence[str] = ()
    static: Sequence[str] = ()
    """Columns that hold one value for each series."""


def is_many(path: str) -> bool:
    """Whether `path` stands for several files: a folder, or a pattern such as `shops/*.csv`."""
    place = local(path)
    return place.is_dir() or (any(sign in path for sign in _SIGNS) and not place.exists())


def files_of(path: str) -> list[Path]:
    """The files of tables that `path` stands for, a file, a folder or a pattern, in the order of their names.

    Raises:
        DataError: there is none.
    """
    place = local(path)
    if not is_many(path):
        return [check_file(place)]
    home = Path(place.anchor)
    found = place.iterdir() if place.is_dir() else home.glob(str(place.relative_to(home)))
    files = sorted(each for each in found if each.name.lower().endswith(ENDINGS) and each.is_file())
    if not files:
        what = "is a folder, not a file, and holds none" if place.is_dir() else "fits no file"
        raise DataError(f"{path}: {what} ending in {', '.join(ENDINGS)}. Check `path`.")
    return files


def columns_of(table: str | pd.DataFrame, dialect: Dialect = UNKNOWN_DIALECT) -> list[str]:
    """Names of the columns of a table, or of the first of several files."""
    return head_of(table, dialect).columns.tolist()


def head_of(table: str | pd.DataFrame, dialect: Dialect = UNKNOWN_DIALECT) -> pd.DataFrame:
    """The first rows of a table, or of the first of several files; all of one in memory."""
    if isinstance(table, pd.DataFrame):
        return table
    path = files_of(table)[0]
    dialect = table_dialect(path, dialect, quiet=True)
    first = next(file_blocks(path, dialect, 0, 0, 1 << 16), None)
    return pd.DataFrame() if first is None else first.frame


def long_form(
    table: str | pd.DataFrame,
    id: str | None,
    dialect: Dialect = UNKNOWN_DIALECT,
    learned: Sequence[str] = (),
) -> Long | None:
    """How a table holds several series, with the column of time if it is known; None for a single series.

    There are several if `id` is given, in a folder or a pattern of files, in a table with the columns
    unique_id, ds and y, which is logged, and where a checkpoint has learned from several.

    Args:
        table: A path, or a table in memory.
        id: The column of ids, if it is stated.
        dialect: What is known of how it is written.
        learned: The column of ids of a checkpoint; a file without it is a single series then.
    """
    several = id is not None or bool(learned) or (isinstance(table, str) and is_many(table))
    names = columns_of(table, dialect)
    guessed = {ID, TIME, TARGET} <= set(names) and id in (None, ID)
    if not several and not guessed:
        return None
    if guessed and id is None:
        logger.warning(
            "%s: the columns %s, %s and %s are read as many series: `--data.id=%s`.",
            table if isinstance(table, str) else NAME,
            ID,
            TIME,
            TARGET,
            ID,
        )
    name = id or (ID if guessed else None)
    if learned and name not in names:
        name = next((each for each in learned if each in names), None)
    return Long(name, TIME, [TARGET]) if guessed else Long(name)


def read_panel(
    table: str | pd.DataFrame,
    long: Long,
    dialect: Dialect = UNKNOWN_DIALECT,
    stamps: Stamps = UNKNOWN,
    facts: str | pd.DataFrame | None = None,
    name: Path = Path(NAME),
) -> Panel:
    """Read a long table, as `read_table` reads a table of one series, with the same numbers.

    Rows come in any order, and series in that of their ids. Of a file some rows are held as text at a time.

    Args:
        table: A file, a folder or a pattern of files, or a table in memory. Without a column of ids each file
            is a series.
        long: The columns to read.
        dialect: What is known of how it is written; each file of several may be written otherwise.
        stamps: What is known of the time stamps.
        facts: Another table with a row for each series: its id, and its static columns; without `long.static`
            all of its columns of numbers.
        name: The name of a table in memory, for messages.

    Raises:
        DataError: the table cannot be read; names file, series, column and row or time.
    """
    static = () if facts is not None else tuple(long.static)
    reading = _Reading(table, long, dialect, stamps, static, name)
    panel = reading.panel()
    if facts is None:
        return panel
    return Panel(
        panel.ids,
        panel.series,
        _static(facts, long, panel, dialect),
        panel.id_column,
        panel.source,
    )


@dataclass
class _Reading:
    """One pass over all rows, after which they are sorted."""

    table: str | pd.DataFrame
    long: Long
    dialect: Dialect
    stamps: Stamps
    static: tuple[str, ...]
    name: Path
    dialects: dict[Path, Dialect] = field(default_factory=dict)
    """Those of the files that were opened."""

    def parts(self) -> Iterator[tuple[Path, pd.DataFrame]]:
        """All rows, piece by piece, each with the file that it is of."""
        if isinstance(self.table, pd.DataFrame):
            yield self.name, with_starts(self.table)
            return
        texts = [] if self.long.id is None else [self.long.id]
        for path in files_of(self.table):
            if path not in self.dialects:
                first = table_dialect(path, self.dialect)
                self.dialects[path] = full_dialect(path, first, self.dialect)
            for block in file_blocks(path, self.dialects[path], 0, 0, BLOCK, texts):
                yield path, block.frame

    def panel(self) -> Panel:
        roles: Roles | None = None
        names: dict[str, int] = {}
        codes: list[np.ndarray] = []
        rows: list[np.ndarray] = []
        times: list[np.ndarray] = []
        written: list[Written] = []
        stems: dict[str, Path] = {}
        for path, frame in self.parts():
            if self.long.id is None:
                _require_other_file(stems.setdefault(stem(path), path), path)
            ids = self._ids(frame, path)
            rest = frame.drop(
                columns=[*self.static, *_counts(frame), *([self.long.id] if self.long.id else [])]
            )
            if roles is None:
                roles = self._roles(rest, path)
            else:
                self._require_columns(rest, roles, path)
            numbers, found = pd.factorize(ids)
            places = np.array([names.setdefault(name, len(names)) for name in found], dtype=np.int64)
            codes.append(places[numbers])
            rows.append(
                np.stack([read_numbers(frame[n], n, path) for n in (*roles.columns, *self.static)], 1)
            )
            if roles.time is not None:
                time, zone = unordered_stamps(rest[roles.time], roles.formats[0], path, roles.zone)
                times.append(time)
                written.append(zone)
        if roles is None:
            raise DataError(f"{self.table}: there are column names but no rows.")
        source = str(self.name if isinstance(self.table, pd.DataFrame) else self.table)
        values = rows[0] if len(rows) == 1 else np.concatenate(rows)
        del rows
        columns = (*roles.columns, *self.static)
        require_values(~np.isnan(values).all(axis=0), columns, Path(source))
        form = roles.formats[0] if roles.formats else None
        dialect = next(iter(self.dialects.values()), None)
        zone = one_zone(written)
        whole = Series(values, columns, None, source, zone, form, time_column=roles.time, dialect=dialect)
        stamps = np.concatenate(times) if times else None
        return cut(np.concatenate(codes), list(names), stamps, whole, self.long.id or ID, len(self.static))

    def _ids(self, frame: pd.DataFrame, path: Path) -> np.ndarray:
        """(T,) the id of each row, as text."""
        name = self.long.id
        if name is None:
            return np.full(len(frame), stem(path), dtype=object)
        for wanted in (name, *self.static):
            require_column(frame, wanted, path)
        return id_texts(frame[name], path)

    def _roles(self, frame: pd.DataFrame, path: Path) -> Roles:
        """The columns to read, and the format of the time stamps that each series increases by."""
        long = self.long
        roles = find_roles(frame, path, long.time, long.columns, long.covariates, self.stamps)
        formats = roles.formats
        if roles.time is None or len(formats) < 2:
            return roles
        for each, part in self.parts():
            for _, column in part[roles.time].groupby(self._ids(part, each), sort=False):
                if len(formats := find_formats(column, formats)) == 1:
                    return roles._replace(formats=formats)
        require_order(frame[roles.time], formats, path)
        return roles

    def _require_columns(self, frame: pd.DataFrame, roles: Roles, path: Path) -> None:
        """Refuse a later piece that lacks a column, or has one that the first left out."""
        for name in (*roles.columns, *([] if roles.time is None else [roles.time])):
            require_column(frame, name, path)
        if self.long.columns is None:
            require_same_columns(frame, path, roles, self.long.covariates)


def _static(facts: str | pd.DataFrame, long: Long, panel: Panel, dialect: Dialect) -> Static:
    """The static columns in a table with a row for each series."""
    name = panel.id_column
    if isinstance(facts, pd.DataFrame):
        path, frame = Path("the table of static columns"), facts.reset_index(drop=True)
    else:
        frame, path, _ = read_frame(facts, dialect, [name])
    require_column(frame, name, path)
    columns = list(long.static) or number_columns(frame, path, None, [name])
    for column in columns:
        require_column(frame, column, path)
    rows = pd.Series(np.arange(len(frame)), id_texts(frame[name], path))
    if rows.index.has_duplicates:
        raise DataError(
            f"{path}: each series must have one row of static columns; more than one have "
            f"{listed(rows.index[rows.index.duplicated()].unique())}. Keep the one that holds."
        )
    if absent := [each for each in panel.ids if each not in rows.index]:
        raise DataError(
            f"{path}: each series must have a row of static columns; none have {listed(absent)}. Add them."
        )
    values = np.stack([read_numbers(frame[column], column, path) for column in columns], 1)
    values = values[rows.loc[list(panel.ids)].to_numpy()]
    if (bad := np.isnan(values)).any():
        one, place = (int(part) for part in np.argwhere(bad)[0])
        raise DataError(
            f"{path}: static column `{columns[place]}` must hold a value for each series; series "
            f"{panel.ids[one]} has none. Fill it in, or leave the column out of `static`."
        )
    return Static(tuple(columns), values)


def _counts(frame: pd.DataFrame) -> list[str]:
    """Columns of whole numbers without a name: the index of a table, which may begin anew in each series."""
    return [
        name
        for name in frame.columns
        if unnamed(name) and pd.api.types.is_numeric_dtype(frame[name]) and (frame[name] % 1 == 0).all()
    ]


def stem(path: Path) -> str:
    """The name of a file without the ending of its kind."""
    ending = max((end for end in ENDINGS if path.name.lower().endswith(end)), key=len, default="")
    return path.name[: len(path.name) - len(ending)]


def _require_other_file(first: Path, path: Path) -> None:
    if first != path:
        raise DataError(
            f"{path}: each file must be a series of another name; {first} has this one too. Rename one, or "
            "name the column of ids as `id`."
        )


def require_column(frame: pd.DataFrame, name: str, path: Path) -> None:
    """Refuse a table without the column `name`, and name the nearest."""
    if name not in frame:
        raise DataError(f"{path}: no column `{name}`. {nearest(name, map(str, frame.columns))}")
