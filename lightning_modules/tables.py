"""Forecasts as tables, and names of columns that are free.

Shapes: H rows ahead, C targets, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd


def free(name: str, taken: Collection[str]) -> str:
    """`name`, or with as many underscores after it as it takes to be none of the columns `taken`."""
    while name in taken:
        name += "_"
    return name


def forecast_table(
    values: np.ndarray, times: np.ndarray, names: Sequence[str], levels: Sequence[float]
) -> pd.DataFrame:
    """A row for each row ahead: its time, and a column for each target.

    Args:
        values: (H, C, 1 + Q) point forecasts, then quantiles.
        times: (H,)
        names: Of the targets.
        levels: Of the quantiles; TARGET_q0.1 is the column of level 0.1, TARGET itself the median.
    """
    suffixes = ["", *(f"_q{level:g}" for level in levels)]
    shown = [k for k, suffix in enumerate(suffixes) if suffix != "_q0.5"]
    columns = {f"{name}{suffixes[k]}": values[:, c, k] for c, name in enumerate(names) for k in shown}
    return pd.DataFrame({free("time", columns): times, **columns})
