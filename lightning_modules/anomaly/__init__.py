"""Anomaly detection: predict, score, then adapt, over streams without labels.

The task is `module`. Streams come from `sets` (your own table, public benchmarks) or `planted` (generated),
and `data` reads them side by side. `scores` turns prediction errors into scores in [0, 1], `verdicts` turns
scores into flags and alarms, `metrics` and `nab_score` rate them, and `plots` shows them."""

from lightning_modules.anomaly.data import AnomalyBatch, AnomalyData, AnomalyShape, AnomalyStream
from lightning_modules.anomaly.module import AnomalyModule
from lightning_modules.anomaly.planted import PlantedAnomalies
from lightning_modules.anomaly.sets import AnomalyTable, NABData, SKABData
from lightning_modules.anomaly.settings import AnomalySettings

__all__ = [
    "AnomalyBatch",
    "AnomalyData",
    "AnomalyModule",
    "AnomalySettings",
    "AnomalyShape",
    "AnomalyStream",
    "AnomalyTable",
    "NABData",
    "PlantedAnomalies",
    "SKABData",
]
