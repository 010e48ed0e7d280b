"""Settings of a stream: task and sizes of its data, and how its rows are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from dream import DREAMConfig
from lightning_modules.checks import require
from lightning_modules.stream.normalizers import Kind

LONGEST = 10_000  # rows that may be kept for the head
LAYER = DREAMConfig.preset("online_learning", hidden_dim=64, rank=4)
"""Default layer; its rank is lowered to the width of its input where that is smaller."""
Task = Literal["forecasting", "regression", "classification"]


@dataclass(frozen=True)
class Shape:
    """Task and sizes of a stream, as its data have them."""

    task: Task
    """`forecasting` predicts the next `horizon` rows of the first `targets` input columns; `regression` and
    `classification` predict the target of the row that was just read."""
    inputs: int
    """D, columns that are read."""
    targets: int
    """C, columns to predict; for classification the number of classes."""
    horizon: int = 1
    """Rows to forecast; 1 for the other tasks."""
    season: int = 1
    """Rows in one season."""
    lags: int = 1
    """For a single input column: its values that the core reads in each row, the present one and those
    before it; 1 for the present one alone."""

    def __post_init__(self) -> None:
        require("task", self.task, self.task in get_args(Task), "forecasting, regression or classification")
        least = 2 if self.task == "classification" else 1
        require("targets", self.targets, self.targets >= least, f"at least {least}")
        fits = 1 <= self.lags <= LONGEST and (self.lags == 1 or self.inputs == 1)
        require("lags", self.lags, fits, f"from 1 to {LONGEST}, and 1 for several columns")

    @property
    def feedback(self) -> int:
        """Columns that the newest known target adds to the inputs; 0 where targets are inputs themselves."""
        return 0 if self.task == "forecasting" else self.targets

    @property
    def target_lag(self) -> int:
        """Rows after which a row may be learnt from, where targets come at once."""
        return self.horizon if self.task == "forecasting" else 1


@dataclass(frozen=True)
class Reading:
    """Settings of the input: normalisation of the rows, and the values that the head receives."""

    normalization: Kind = "running"
    """Normalisation of each row by its own past: `differences`, `running` or `none`; see
    `lightning_modules.stream.normalizers.Normalizer`."""
    rate: float = 0.01
    """Rate of the normaliser's running statistics."""
    channel_independent: bool = False
    """Forecasting only: gives each target its own state, fast weights and head, over shared slow weights of
    the core. All of them read the covariates."""
    lags: int | list[int] = 1
    """Rows that the head reads directly, relative to the present level: the last so many, this one included,
    or a list of distances such as [0, 1, 48], 0 for this row."""
    means: list[int] = field(default_factory=list)
    """Lengths of moving averages, this row included, that the head reads relative to the present level."""
    profile_rate: float = 0.0
    """Forecasting only: weight of a new season in a seasonal profile of the targets (see
    `lightning_modules.stream.seasonal.SeasonalProfile`), whose expected change the head reads; 0 for none."""
    output: bool = True
    """Whether the head reads the output of the last layer."""
    forecast: bool = True
    """Whether the head reads the first layer's forecast of its next input."""

    def __post_init__(self) -> None:
        lags = [self.lags] if isinstance(self.lags, int) else self.lags
        fits = lags != [] and all(0 <= lag <= LONGEST for lag in lags)
        require("lags", self.lags, fits, f"a number or a list of whole numbers from 0 to {LONGEST}")
        fits = all(1 <= mean <= LONGEST for mean in self.means)
        require("means", self.means, fits, f"lengths from 1 to {LONGEST}")

    @property
    def distances(self) -> list[int]:
        """Distances to the past rows that the head reads, 0 for the present row."""
        return list(range(self.lags)) if isinstance(self.lags, int) else list(self.lags)

    @property
    def past(self) -> int:
        """Rows before the present one that must be kept."""
        return max([0, *self.distances, *(mean - 1 for mean in self.means)])
