"""Tables of other libraries than pandas, such as polars and pyarrow: taken by narwhals, answered in kind."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from dream.errors import DataError


def as_pandas(table: Any) -> Any:
    """A table or column of another library as pandas has it; anything else as it is.

    Raises:
        DataError: it names a column twice.
    """
    found = _known(table)
    if isinstance(found, nw.LazyFrame):
        found = found.collect()
    try:
        return table if found is None else found.to_pandas()
    except nw.exceptions.DuplicateError:
        raise DataError("the table must hold each column once. Rename the second.") from None


def kind_of(table: Any) -> str:
    """The library of a table, for `in_kind`: polars, pyarrow, or pandas for any other."""
    found = _known(table)
    if found is None:
        return "pandas"
    kind = found.implementation
    return "polars" if kind.is_polars() else "pyarrow" if kind.is_pyarrow() else "pandas"


def in_kind(table: pd.DataFrame, kind: str) -> Any:
    """A table of pandas as one of the library `kind`, see `kind_of`."""
    if kind not in ("polars", "pyarrow"):
        return table
    frame = nw.from_native(table.reset_index(drop=True))
    return frame.to_polars() if kind == "polars" else frame.to_arrow()


def _known(table: Any) -> Any:
    """A table or column of another library than pandas and NumPy by narwhals; None for anything else."""
    if table is None or isinstance(table, pd.DataFrame | pd.Series | np.ndarray | list | tuple | dict):
        return None
    found = nw.from_native(table, pass_through=True, allow_series=True)
    return found if isinstance(found, nw.DataFrame | nw.LazyFrame | nw.Series) else None
