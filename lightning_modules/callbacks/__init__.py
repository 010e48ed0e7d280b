"""Callbacks of a run: saves, what the layers do, what to tune, pictures, and lines for logs without a terminal."""

from lightning_modules.callbacks.advisor import TuningAdvisor
from lightning_modules.callbacks.figures import SaveFigures
from lightning_modules.callbacks.monitor import DREAMMonitor
from lightning_modules.callbacks.progress import PlainProgress
from lightning_modules.callbacks.saving import SaveProgress

__all__ = ["DREAMMonitor", "PlainProgress", "SaveFigures", "SaveProgress", "TuningAdvisor"]
