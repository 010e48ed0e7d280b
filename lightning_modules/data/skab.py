"""The Skoltech Anomaly Benchmark: 34 experiments on a water circuit, 8 sensors."""

from __future__ import annotations

from typing import Any

from dream.errors import DataError
from lightning_modules.data.catalogue import data_folder
from lightning_modules.data.labelled import labelled_stream
from lightning_modules.data.series import read_table
from lightning_modules.data.streams import AnomalyData, Stream

SENSORS = (
    "Accelerometer1RMS",
    "Accelerometer2RMS",
    "Current",
    "Pressure",
    "Temperature",
    "Thermocouple",
    "Voltage",
    "Volume Flow RateRMS",
)
TRAINING_ROWS = 400


class SKABData(AnomalyData):
    """The labelled files, version 0.9, in the board's protocol: the first 400 rows of each train, the others test.

    The board's outlier task asks for `f1`, `far` and `mar` over the test rows of all files together.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def read(self) -> list[Stream]:
        folder = data_folder() / "skab"
        paths = [path for group in ("valve1", "valve2", "other") for path in (folder / group).glob("*.csv")]
        if not paths:
            raise DataError(f"{folder} holds no data: set DREAM_DATA to the folder that holds `skab/`, see docs/anomaly.md.")
        paths.sort(key=lambda path: (path.parent.name, int(path.stem)))
        tables = [read_table(path, "datetime", SENSORS, ["anomaly"], ";") for path in paths]
        return [labelled_stream(table, True, TRAINING_ROWS) for table in tables]
