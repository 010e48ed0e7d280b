"""Tables in memory, such as a pandas DataFrame in a notebook, instead of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from dream.errors import DataError
from lightning_modules.data.limits import require_header

NAME = "the table"
"""Name of a table in memory, in messages."""


class InMemory:
    """Base of data modules that read a file or a table in memory."""

    path: str
    frame: pd.DataFrame | None = None
    """The table in memory; None if the file `path` is read."""

    @classmethod
    def of(cls, table: pd.DataFrame | pd.Series | np.ndarray, **settings: Any) -> Self:
        """The data module of a table in memory, with one row per time step.

        Args:
            table: A table whose index, if it holds dates, is the column of time stamps, and is left out
                otherwise. The columns of an array (rows, columns), or (rows,), are called column_1, ...
            **settings: Other arguments of the class.

        Raises:
            DataError: the table is of another type, has no row, or names a column twice.
        """
        data = cls(path=NAME, **settings)  # type: ignore[call-arg] # the class that derives from this
        data.frame = _as_frame(table)
        return data

    @property
    def table(self) -> str | pd.DataFrame:
        """The table in memory, or else the path of the file to read."""
        return self.path if self.frame is None else self.frame


def _as_frame(table: pd.DataFrame | pd.Series | np.ndarray) -> pd.DataFrame:
    if isinstance(table, pd.Series):
        table = table.to_frame(table.name or "column_1")
    elif isinstance(table, np.ndarray) and table.ndim in (1, 2):
        columns = table[:, None] if table.ndim == 1 else table
        table = pd.DataFrame(
            columns, columns=[f"column_{number}" for number in range(1, columns.shape[1] + 1)]
        )
    elif not isinstance(table, pd.DataFrame):
        raise DataError(
            f"`table` must be a DataFrame, a Series or an array (rows, columns); got {type(table).__name__}."
        )
    dates = isinstance(table.index, pd.DatetimeIndex)
    frame = table.rename_axis(index=str(table.index.name or "time")).reset_index(drop=not dates)
    frame.columns = frame.columns.map(str)
    require_header(frame.columns.tolist(), Path(NAME))
    if frame.empty:
        raise DataError(f"{NAME}: there are column names but no rows.")
    return frame
