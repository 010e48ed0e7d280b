"""The Skoltech Anomaly Benchmark: 34 experiments on a water circuit, 8 sensors."""

from __future__ import annotations

from pathlib import PurePosixPath

from lightning_modules.anomaly.data import AnomalyData, AnomalyStream
from lightning_modules.anomaly.table import labelled_stream
from lightning_modules.data.catalogue import data_path, dataset
from lightning_modules.data.series import read_table

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
GROUPS = ("valve1/", "valve2/", "other/")
TRAINING_ROWS = 400


class SKABData(AnomalyData):
    """The labelled files, version 0.9, in the board's protocol: the first 400 rows of each train, the others
    test.

    The board's outlier task asks for `f1`, `far` and `mar` over the test rows of all files together.
    """

    def read(self) -> list[AnomalyStream]:
        files = [PurePosixPath(file) for file in dataset("skab").files if file.startswith(GROUPS)]
        streams = []
        for file in sorted(files, key=lambda file: (file.parent.name, int(file.stem))):
            table = read_table(data_path("skab", str(file)), "datetime", SENSORS, ["anomaly"], ";")
            streams.append(labelled_stream(str(file), table, True, TRAINING_ROWS))
        return streams
