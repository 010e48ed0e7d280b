"""`Panel`: many series with the same columns, each with an id, from one long table or several files.

Shapes: S series, T rows, D columns, K static columns.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dream.errors import DataError
from lightning_modules.data.fingerprint import Fingerprint, content_sum
from lightning_modules.data.frequency import zoned
from lightning_modules.data.series import Series

NAMED = 5
"""Series that a message names; of the others it tells the number."""


@dataclass(frozen=True, eq=False)
class Static:
    """Columns with one value for each series, such as the size of a store."""

    columns: tuple[str, ...]
    values: np.ndarray
    """float64 (S, K), in the order of the panel's ids."""

    def ordered(self, columns: Sequence[str]) -> Static:
        """The same columns in this order."""
        return Static(tuple(columns), self.values[:, [self.columns.index(name) for name in columns]])


@dataclass(frozen=True, eq=False)
class Panel:
    """Many series, each with its own rows in time order, in the order of their ids."""

    ids: tuple[str, ...]
    """(S,) names of the series, all different."""
    series: tuple[Series, ...]
    """(S,) with the same columns, and of the same zone and form."""
    static: Static
    id_column: str
    """Name of the column of ids in the source."""
    source: str
    """The file, folder or table, for messages."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the D columns."""
        return self.series[0].columns

    def ordered(self, columns: Sequence[str]) -> Panel:
        """The same columns in this order."""
        return replace(self, series=tuple(each.ordered(columns) for each in self.series))

    @property
    def fingerprint(self) -> Fingerprint:
        """Checksums of the content, see `TaskData.fingerprint`."""
        return {
            "rows": content_sum([len(each) for each in self.series]),
            "columns": content_sum(self.columns, self.static.columns),
            "series": content_sum(self.ids),
            "time": content_sum([each.time for each in self.series]),
            "values": content_sum([each.values for each in self.series], self.static.values),
        }


def listed(ids: Collection[str]) -> str:
    """Ids for a message: the first of them, and how many more there are."""
    some = list(ids)[:NAMED]
    more = len(ids) - len(some)
    return ", ".join(some) + (f" and {more} more" if more else "")


def cut(
    codes: np.ndarray, ids: Sequence[str], time: np.ndarray | None, whole: Series, id_column: str, static: int
) -> Panel:
    """The panel of rows in any order.

    Args:
        codes: (T,) number of each row's series in `ids`.
        ids: Names of the series, each of which has a row.
        time: (T,) time stamps; None where the rows of a series are in their order.
        whole: The rows; of their columns the last ones are static. `source` names them all.
        id_column: Name of the column of ids.
        static: K.

    Raises:
        DataError: a series holds a stamp twice, or more or less than one value of a static column.
    """
    place = np.empty(len(ids), dtype=np.int64)
    place[order := _in_order(ids)] = np.arange(len(ids))
    codes, ids = place[codes], [ids[k] for k in order]
    rows = np.lexsort((codes,) if time is None else (time, codes))
    if (np.diff(rows) != 1).any():
        codes, whole = codes[rows], replace(whole, values=whole.values[rows])
        time = None if time is None else time[rows]
    borders = np.searchsorted(codes, np.arange(len(ids) + 1))
    if time is not None:
        _require_once(codes, ids, time, whole)
    values, width = whole.values, len(whole.columns) - static
    facts = _constant(values[:, width:], borders, ids, whole.columns[width:], whole.source)
    series = tuple(
        replace(
            whole,
            values=values[first:stop, :width],
            columns=whole.columns[:width],
            time=None if time is None else time[first:stop],
            source=f"{whole.source}, series {name}",
        )
        for name, first, stop in zip(ids, borders[:-1].tolist(), borders[1:].tolist(), strict=True)
    )
    return Panel(tuple(ids), series, Static(whole.columns[width:], facts), id_column, whole.source)


def _in_order(ids: Sequence[str]) -> list[int]:
    """Places of `ids` in their order: as numbers, if they all are, and else as texts."""
    whole = all(name.isdecimal() and name.isascii() for name in ids)
    return sorted(range(len(ids)), key=lambda k: (int(ids[k]), ids[k]) if whole else ids[k])


def _require_once(codes: np.ndarray, ids: Sequence[str], time: np.ndarray, whole: Series) -> None:
    again = np.flatnonzero((np.diff(codes) == 0) & (np.diff(time) == np.timedelta64(0)))
    if not len(again):
        return
    name, stamp = ids[codes[again[0]]], zoned(time[again[:1]], whole.zone)[0]
    raise DataError(
        f"{whole.source}: a series must hold each time once; series {name} holds {stamp.isoformat()} more "
        f"than once ({len(again)} such rows in all). If several series have this id, make it of more "
        "columns; if not, combine such rows, by their sum or mean."
    )


def _constant(
    values: np.ndarray, borders: np.ndarray, ids: Sequence[str], columns: Sequence[str], source: str
) -> np.ndarray:
    """The one value (S, K) that each series has in static columns, of which `values` (T, K) has every row."""
    if not columns:
        return np.empty((len(ids), 0))
    low, high = (each.reduceat(values, borders[:-1]) for each in (np.fmin, np.fmax))
    for bad, what in ((np.isnan(low), "no value"), (low != high, "several values")):
        if bad.any():
            one, column = (int(part) for part in np.argwhere(bad)[0])
            found = "" if np.isnan(low[one, column]) else f", {low[one, column]:g} and {high[one, column]:g}"
            raise DataError(
                f"{source}: static column `{columns[column]}` must hold one value for each series; series "
                f"{ids[one]} has {what}{found}. Fill it in, or name it among the `covariates`."
            )
    return low
