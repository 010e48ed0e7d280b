"""Online learning: predict, score, then learn, row by row, over one stream.

`module` is the task; the engine that learns is `lightning_modules.stream`. `data` is one stream and what was
measured before it; `sets` and `drifting_stream` are where streams come from. `record` collects a test, with
`metrics`, `drift` and `plots`."""

from lightning_modules.online.data import OnlineData, OnlineShape
from lightning_modules.online.drifting_stream import DriftingStream
from lightning_modules.online.module import OnlineModule
from lightning_modules.online.sets import PublicStream, TableStream

__all__ = [
    "DriftingStream",
    "OnlineData",
    "OnlineModule",
    "OnlineShape",
    "PublicStream",
    "TableStream",
]
