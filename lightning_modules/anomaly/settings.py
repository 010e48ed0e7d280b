"""`AnomalySettings`: settings of `AnomalyModule`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lightning_modules.anomaly.scores import GATE_MEASURES, MEASURES, WARM_UP
from lightning_modules.checks import require
from lightning_modules.settings import TaskSettings


@dataclass(frozen=True)
class AnomalySettings(TaskSettings):
    """Settings of `AnomalyModule`."""

    memory: int = 3000
    """Rows after which the running mean and deviation of a column forget the past."""
    tail_memory: int = 10000
    """Rows after which the tail distribution of a measure forgets the past."""
    adapt: bool = True
    """Whether fast weights, running scales and tails keep learning after the training part. False is for
    streams whose normal behaviour never changes and whose anomalies last so long that they would become
    normal."""
    measures: list[str] = field(default_factory=lambda: [*MEASURES, "surprise"])
    """Measures to score, some of: `error` and `burst` of the prediction, `level` and `drift` of the data,
    `deviation` and `surprise` of the layer; see `AnomalyScore`."""
    gap: float = 1 / 3
    """Rows after a score in which a lower one raises no new alarm, as a share of the training part."""
    threshold: Literal["tail", "quantile"] = "tail"
    """Threshold, from the scores of the training part: by peaks over threshold (`tail`), or their plain
    quantile (`quantile`)."""
    risk: float = 1e-3
    """Share of rows like those of the training part that may exceed the threshold."""
    buffer: int = 100
    """Longest buffer around a labelled anomaly in the metric VUS-PR, in rows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("memory", self.memory, self.memory >= WARM_UP, f"at least {WARM_UP} rows")
        require("tail_memory", self.tail_memory, self.tail_memory >= WARM_UP, f"at least {WARM_UP} rows")
        choice, measures = (*MEASURES, *GATE_MEASURES), self.measures
        known = bool(measures) and set(measures) <= set(choice)
        require("measures", measures, known, f"one or more of {', '.join(choice)}")
        require("gap", self.gap, 0 <= self.gap <= 10, "a share of the training part from 0 to 10")
        require("risk", self.risk, 0 < self.risk < 1, "a share of the rows above 0 and below 1")
        require("buffer", self.buffer, self.buffer >= 0, "at least 0 rows")
