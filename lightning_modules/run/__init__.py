"""Callbacks, loops and files that any run needs around its task.

`saving` and `loops` let a run stop at any step and resume exactly there, with `signals` for Ctrl-C and
`randomness` for the generators; `checkpoints` reads and writes the files, `streams` what a model has become
since. `guard` keeps NaN out of the weights. `monitor`, `layers` and `advisor` watch the layers, `progress`
and `figures` show the run, `tracking` logs it."""

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
