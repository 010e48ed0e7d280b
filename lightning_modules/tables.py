"""Forecasts as tables, and free names for their columns.

Shapes: H rows ahead, C targets, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd


def free(name: str, taken: Collection[str]) -> str:
    """`name`, with as many underscores appended as it takes to differ from the columns `taken`."""
    while name in taken:
        name += "_"
    return name


def forecast_table(
    values: np.ndarray, times: np.ndarray, names: Sequence[str], levels: Sequence[float]
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
