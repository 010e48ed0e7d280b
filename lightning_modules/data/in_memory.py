"""Tables in memory, such as a pandas DataFrame in a notebook, instead of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from dream.errors import DataError
from lightning_modules.data.dialect import UNKNOWN, Dialect
from lightning_modules.data.frames import as_pandas, kind_of
from lightning_modules.data.limits import distinct, require_header, tell_repeated
from lightning_modules.data.time_column import find_time_column, with_starts

NAME = "the table"
"""Name of a table in memory, in messages."""


class InMemory:
    """Base of data modules that read a file or a table in memory."""

    path: str
    frame: pd.DataFrame | None = None
    """The table in memory; None if the file `path` is read."""
    kind: str = "pandas"
    """The library of the table in memory, in whose tables predictions are answered."""
    dialect: Dialect = UNKNOWN
    """Stated facts of how the table is written."""
    recorded: Any
    """See `TaskData.recorded`."""

    @classmethod
    def of(cls, table: Any, **settings: Any) -> Self:
        """The data module of a table in memory, with one row per time step.

        Args:
            table: A table of pandas, polars or pyarrow, or of another library that narwhals knows, or an
                array. An index of pandas, if it holds dates or Unix time, is the column of time stamps,
                and is left out otherwise. The columns of an array (rows, columns), or (rows,), are called
                column_1, ...
            **settings: Other arguments of the class.

        Raises:
            DataError: the table is of another type, has no row, or has several levels of its index.
        """
        data = cls(path=NAME, **settings)  # type: ignore[call-arg] # the class that derives from this
        data.kind = kind_of(table)
        data.frame = _as_frame(as_pandas(table))
        return data

    @property
    def table(self) -> str | pd.DataFrame:
        """The table in memory, or else the path of the file to read."""
        return self.path if self.frame is None else self.frame

    @property
    def known_dialect(self) -> Dialect:
        """Stated facts of how the table is written, and those of a run that is followed."""
        found: Dialect = self.dialect if self.recorded is None else self.recorded.dialect_of(self.dialect)
        return found


def _as_frame(table: pd.DataFrame | pd.Series | np.ndarray) -> pd.DataFrame:
    if isinstance(table, pd.Series):
        table = table.to_frame(table.name or "column_1")
    elif isinstance(table, np.ndarray) and table.dtype.names is not None and table.ndim == 1:
        table = pd.DataFrame(table)
    elif isinstance(table, np.ndarray) and table.dtype.names is None and table.ndim in (1, 2):
        columns = table[:, None] if table.ndim == 1 else table
        table = pd.DataFrame(
            columns, columns=[f"column_{number}" for number in range(1, columns.shape[1] + 1)]
        )
    elif not isinstance(table, pd.DataFrame):
        raise DataError(
            f"`table` must be a DataFrame, a Series or an array (rows, columns); got {type(table).__name__}."
        )
    index = _index(table.index)
    frame = table.reset_index(drop=True)
    frame.columns = frame.columns.map(str)
    if (name := find_time_column(index, Path(NAME))) is not None:
        frame.insert(0, name or "time", index[name].array, allow_duplicates=True)
    names = frame.columns.tolist()
    require_header(names, Path(NAME))
    tell_repeated(names, Path(NAME))
    frame.columns = distinct(names)
    if frame.empty:
        raise DataError(f"{NAME}: there are column names but no rows.")
    return with_starts(frame)


def _index(index: pd.Index) -> pd.DataFrame:
    """An index as a table of one column."""
    if isinstance(index, pd.MultiIndex):
        names = ", ".join(str(name) for name in index.names)
        raise DataError(
            f"{NAME}: the index must have one level, that of the time; it has {index.nlevels} ({names}). "
            "Make columns of the levels with reset_index(), and name the one that tells several series apart "
            "as `id`."
        )
    return with_starts(pd.DataFrame({str(index.name or ""): index.array}))
