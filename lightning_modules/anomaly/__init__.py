"""Anomaly detection: predict, score, then adapt, over streams that nobody has labelled.

`module` is the task. `data` holds streams side by side; `table`, `planted`, `nab` and `skab` are where they
come from. From prediction errors, `scores` makes probabilities, and `verdicts` makes flags and alarms;
`metrics` and `nab_score` measure how right they are, `plots` shows them."""

from lightning_modules.anomaly.data import AnomalyBatch, AnomalyData, AnomalyStream
from lightning_modules.anomaly.module import AnomalyModule
from lightning_modules.anomaly.planted import PlantedAnomalies
from lightning_modules.anomaly.sets import AnomalyTable, NABData, SKABData

__all__ = [
    "AnomalyBatch",
    "AnomalyData",
    "AnomalyModule",
    "AnomalyStream",
    "AnomalyTable",
    "NABData",
    "PlantedAnomalies",
    "SKABData",
]
