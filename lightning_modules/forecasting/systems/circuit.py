"""A real Wiener-Hammerstein system: an electronic circuit."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dream.errors import DataError
from lightning_modules.data.catalogue import data_path
from lightning_modules.data.series import readable

COLUMNS = ("uBenchMark", "yBenchMark")
DRIVEN = slice(6_000, 100_000)
"""Rows of the estimation part of the benchmark in which the circuit is driven: scales come from them."""
TESTED = slice(101_000, 184_000)
"""Rows of its test part, without the first 1,000, likewise."""


def circuit() -> tuple[np.ndarray, np.ndarray]:
    """Input and output (T,) of the test part, each of mean 0 and variance 1 in the estimation part.

    A filter, a diode circuit that clips on one side, and a filter, at 51.2 kHz. Source: Schoukens, Suykens
    and Ljung, Wiener-Hammerstein benchmark, SYSID 2009.

    Raises:
        DataError: the file is not there, or not that of the benchmark.
    """
    path = data_path("wiener_hammerstein", "WienerHammerBenchmark.csv")
    with readable(path):
        frame = pd.read_csv(path, usecols=list(COLUMNS), dtype=np.float64)
    values = frame[list(COLUMNS)].to_numpy()
    if len(values) < TESTED.stop or not np.isfinite(values).all():
        raise DataError(
            f"{path}: must hold 188,000 rows of numbers; it holds {len(values)}. Run `dream data get "
            "wiener_hammerstein`."
        )
    scaled = (values[TESTED] - values[DRIVEN].mean(0)) / values[DRIVEN].std(0)
    return scaled[:, 0], scaled[:, 1]
