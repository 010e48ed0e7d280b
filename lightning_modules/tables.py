"""Forecasts as tables, free names for their columns, and tables as text that a spreadsheet runs nothing of.

Shapes: H rows ahead, C targets, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

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


def long_forecast_table(
    parts: Sequence[tuple[str, np.ndarray, np.ndarray | pd.DatetimeIndex]],
    names: Sequence[str],
    levels: Sequence[float],
) -> pd.DataFrame:
    """A table of forecasts of several series, with the same columns whatever the source calls its own.

    Columns: unique_id, ds, of several targets target, then yhat and yhat_q0.1 for the level 0.1.

    Args:
        parts: Id, values (H, C, 1 + Q) and times (H,) of each series, as for `forecast_table`.
        names: Names of the targets.
        levels: Levels of the quantiles; yhat itself is the median.
    """
    suffixes = ["", *(f"_q{level:g}" for level in levels)]
    shown = [k for k, suffix in enumerate(suffixes) if suffix != "_q0.5"]
    ids, each, times = zip(*parts, strict=True)
    values = np.stack(each)  # (S, H, C, 1 + Q)
    stamps = (
        times[0].append(list(times[1:])) if isinstance(times[0], pd.DatetimeIndex) else np.concatenate(times)
    )
    columns: dict[str, Any] = {
        "unique_id": np.repeat(np.array(ids, dtype=object), values.shape[1] * values.shape[2]),
        "ds": stamps.repeat(values.shape[2]),
    }
    if len(names) > 1:
        columns["target"] = np.tile(np.array(names, dtype=object), len(ids) * values.shape[1])
    made = {f"yhat{suffixes[k]}": values[..., k].reshape(-1) for k in shown}
    return pd.DataFrame({**columns, **made})


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
