"""Small tables of labelled sequences that the tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lightning_modules.classification import LabelledTable


def table(sequences: int = 16, least: int = 3, most: int = 9) -> pd.DataFrame:
    """Sequences of two columns, of which those called `high` are higher in x; their people alternate."""
    random = np.random.default_rng(0)
    parts = []
    for number in range(sequences):
        steps = int(random.integers(least, most + 1))
        high = number % 2
        parts.append(
            pd.DataFrame(
                {
                    "unique_id": f"s{number}",
                    "x": 10 + 3 * high + random.standard_normal(steps),
                    "y": random.standard_normal(steps),
                    "who": f"p{number // 4}",
                    "label": "high" if high else "low",
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def data_of(frame: pd.DataFrame | None = None, **options: Any) -> LabelledTable:
    """`table` as data, in batches of 4."""
    return LabelledTable.of(table() if frame is None else frame, **{"batch_size": 4} | options)
