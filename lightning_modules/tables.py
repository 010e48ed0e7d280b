"""Forecasts as tables, free names for their columns, and tables as text that a spreadsheet runs nothing of.

Shapes: H rows ahead, C targets, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from dream.formulas import escaped


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV without its index; texts in cells and names of columns are `escaped`."""
    shown = table.set_axis([escaped(name) for name in table.columns], axis=1)
    for place, kind in enumerate(table.dtypes):
        if not (pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_datetime64_any_dtype(kind)):
            shown.isetitem(place, [escaped(value) for value in table.iloc[:, place]])
    return shown.to_csv(index=False)


def free(name: str, taken: Collection[str]) -> str:
    """`name`, with as many underscores appended as it takes to differ from the columns `taken`."""
    while name in taken:
        name += "_"
    return name


def forecast_table(
    values: np.ndarray, times: np.ndarray | pd.DatetimeIndex, names: Sequence[str], levels: Sequence[float]
) -> pd.DataFrame:
    """A table of one forecast: a line for each row ahead, with its time, and a column for each target.

    Args:
        values: (H, C, 1 + Q) point forecasts, then quantiles.
        times: (H,) times of the rows ahead.
        names: Names of the targets.
        levels: Levels of the quantiles; column TARGET_q0.1 has level 0.1, TARGET itself is the median.
    """
    suffixes = ["", *(f"_q{level:g}" for level in levels)]
    shown = [k for k, suffix in enumerate(suffixes) if suffix != "_q0.5"]
    columns = {f"{name}{suffixes[k]}": values[:, c, k] for c, name in enumerate(names) for k in shown}
    return pd.DataFrame({free("time", columns): times, **columns})
