"""Callbacks of a run: saves, NaN, what the layers do, what to tune, pictures, lines for logs without a terminal."""

from lightning_modules.callbacks.advisor import TuningAdvisor
from lightning_modules.callbacks.figures import SaveFigures
from lightning_modules.callbacks.guard import BestCheckpoint, NaNGuard
from lightning_modules.callbacks.layers import LayerRecord
from lightning_modules.callbacks.monitor import DREAMMonitor
from lightning_modules.callbacks.progress import PlainProgress
from lightning_modules.callbacks.saving import SaveProgress

__all__ = [
    "BestCheckpoint",
    "DREAMMonitor",
    "LayerRecord",
    "NaNGuard",
    "PlainProgress",
    "SaveFigures",
    "SaveProgress",
    "TuningAdvisor",
]
