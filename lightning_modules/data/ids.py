"""Ids of series: the column of a long table that tells which series a row is of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dream.errors import DataError
from lightning_modules.data.time_column import is_text

_SHARED = 0.1
"""Share of rows whose time came before, from which on a table is taken to be one of several series."""


def id_texts(column: pd.Series, path: Path) -> np.ndarray:
    """The ids in a column as texts (T,): of whole numbers their digits.

    Raises:
        DataError: a row has none.
    """
    empty = column.isna().to_numpy()
    texts = column
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        texts = column.astype("Int64")
    texts = texts.astype(str)
    if is_text(column):
        texts = texts.str.strip()
    if (empty := empty | (texts == "").to_numpy()).any():
        place = int(empty.argmax())
        raise DataError(
            f"{path}: column `{column.name}` must tell the series of each row; row {column.index[place]} has "
            f"no id ({int(empty.sum())} such rows). Give each row the id of its series."
        )
    return texts.to_numpy(dtype=object)


def repeated_by(frame: pd.DataFrame, time: str) -> str | None:
    """The column that tells the series of a long table apart, where time stamps repeat; None if none does."""
    if frame[time].duplicated().mean() < _SHARED:
        return None
    for name in frame.columns:
        column = frame[name]
        few = is_text(column) or pd.api.types.is_integer_dtype(column)
        if name == time or not few or column.value_counts().min() < 2:
            continue
        if not frame[[name, time]].duplicated().any():
            return str(name)
    return None
