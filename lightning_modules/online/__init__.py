"""Online learning: predict, score, then learn, row by row, over one stream.

The task is `module`; it learns with the engine `lightning_modules.stream`. Streams come from `sets` (your own
table, public data) or `drifting_stream` (generated), and `data` cuts them into warm-up, validation and scored
part. `record` collects a test, for `metrics` and `plots`; `drift` detects changes."""

from lightning_modules.online.data import OnlineData, OnlineShape
from lightning_modules.online.drifting_stream import DriftingStream
from lightning_modules.online.module import OnlineModule
from lightning_modules.online.sets import PublicStream, TableStream
from lightning_modules.online.settings import OnlineSettings

__all__ = [
    "DriftingStream",
    "OnlineData",
    "OnlineModule",
    "OnlineSettings",
    "OnlineShape",
    "PublicStream",
    "TableStream",
]
