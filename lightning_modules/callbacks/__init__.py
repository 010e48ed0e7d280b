"""Callbacks that watch a run: NaN, what the layers do, what to tune, pictures, and lines for logs without a terminal."""

from lightning_modules.callbacks.advisor import TuningAdvisor
from lightning_modules.callbacks.figures import SaveFigures
from lightning_modules.callbacks.guard import BestCheckpoint, NaNGuard
from lightning_modules.callbacks.monitor import DREAMMonitor
from lightning_modules.callbacks.progress import PlainProgress

__all__ = ["BestCheckpoint", "DREAMMonitor", "NaNGuard", "PlainProgress", "SaveFigures", "TuningAdvisor"]
