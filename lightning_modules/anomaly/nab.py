"""The Numenta Anomaly Benchmark: 58 independent streams of one column, 116 labelled windows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from dream.errors import ConfigError
from lightning_modules.anomaly.data import AnomalyData, AnomalyStream
from lightning_modules.anomaly.nab_score import probation
from lightning_modules.data.catalogue import data_path


class NABData(AnomalyData):
    """The whole corpus, version 1.1, in the benchmark's protocol: the training part is the probation of each
    file.

    Time stamps are as recorded: a few repeat or step back, so they are only shown.

    Args:
        groups: Groups of files to read, such as `realTweets`; all if not given. The published scores are of
            all.
    """

    def __init__(self, groups: list[str] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.groups = groups

    @property
    def nab(self) -> bool:
        return True

    def read(self) -> list[AnomalyStream]:
        labels = data_path("nab", "labels/combined_windows.json")
        windows: dict[str, list[tuple[str, str]]] = json.loads(labels.read_text())
        groups = sorted({name.partition("/")[0] for name in windows})
        if unknown := set(self.groups or []) - set(groups):
            raise ConfigError(
                f"`groups` must name groups of NAB: {', '.join(groups)}; got {', '.join(sorted(unknown))}.",
                key="groups",
            )
        names = [name for name in sorted(windows) if name.partition("/")[0] in (self.groups or groups)]
        streams = []
        for name in names:
            table = pd.read_csv(data_path("nab", f"data/{name}"))
            time = pd.to_datetime(table["timestamp"]).to_numpy("datetime64[ns]")
            label = np.zeros(len(time), dtype=bool)
            for first, last in windows[name]:
                label |= (time >= np.datetime64(first)) & (time <= np.datetime64(last))
            values = table[["value"]].to_numpy(np.float64)
            streams.append(AnomalyStream(name, values, ("value",), probation(len(values)), label, time))
        return streams
