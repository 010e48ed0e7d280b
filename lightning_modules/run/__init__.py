"""What a run needs around its task: saves, loops, signals, guards, records, logs."""

from lightning_modules.run.advisor import TuningAdvisor
from lightning_modules.run.figures import SaveFigures
from lightning_modules.run.guard import BestCheckpoint, NaNGuard
from lightning_modules.run.layers import LayerRecord
from lightning_modules.run.monitor import DREAMMonitor
from lightning_modules.run.progress import PlainProgress
from lightning_modules.run.saving import SaveProgress

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
