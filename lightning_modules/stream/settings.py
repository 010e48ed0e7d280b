"""What a stream gives and asks for, and how its rows are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from dream import DREAMConfig
from lightning_modules.checks import require
from lightning_modules.stream.normalizers import Kind

LONGEST = 10_000  # rows that may be kept for the head
LAYER = DREAMConfig.preset("online_learning", hidden_dim=64, rank=4)
"""The layer where none is chosen; its rank is then at most the width of what it reads."""
Task = Literal["forecasting", "regression", "classification"]


@dataclass(frozen=True)
class Shape:
    """What the data give and ask for.

    Args:
        task: `forecasting`: the next `horizon` rows of the first `targets` input columns; `regression` and
            `classification`: the target of the row that was just read.
        inputs: D, columns that are read.
        targets: C, columns to predict; for classification the number of classes.
        horizon: Rows to forecast; 1 for the other tasks.
        season: Rows in one season.
    """

    task: Task
    inputs: int
    targets: int
    horizon: int = 1
    season: int = 1

    def __post_init__(self) -> None:
        require("task", self.task, self.task in get_args(Task), "forecasting, regression or classification")
        least = 2 if self.task == "classification" else 1
        require("targets", self.targets, self.targets >= least, f"at least {least}")

    @property
    def told(self) -> int:
        """Columns that are read besides the inputs: the last target that is known, where it is not an input
        itself."""
        return 0 if self.task == "forecasting" else self.targets


@dataclass(frozen=True)
class Reading:
    """How rows are read.

    Args:
        normalization: `differences`, `running` or `none`; see
            `lightning_modules.stream.normalizers.Normalizer`.
        rate: Rate of the running figures of the normaliser.
        channel_independent: Forecasting only: a stream of its own, with its own state, fast weights and head,
            for each target; the core's slow weights are shared. Covariates are shown to every one.
        lags: Rows that the head reads directly, relative to the present level: the last so many, this one
            included, or a list of distances such as [0, 1, 48], 0 for this row.
        means: Lengths of moving averages, this row included, that the head reads relative to the present
            level.
        profile_rate: Forecasting only: share of a new season in a seasonal profile of the targets (see
            `lightning_modules.stream.seasonal.SeasonalProfile`), of which the head reads the change it
            expects; 0 for none.
        output: Whether the head reads the output of the last layer.
        forecast: Whether the head reads the first layer's forecast of its next input.
    """

    normalization: Kind = "running"
    rate: float = 0.01
    channel_independent: bool = False
    lags: int | list[int] = 1
    means: list[int] = field(default_factory=list)
    profile_rate: float = 0.0
    output: bool = True
    forecast: bool = True

    def __post_init__(self) -> None:
        lags = [self.lags] if isinstance(self.lags, int) else self.lags
        fits = [0 <= lag <= LONGEST for lag in lags]
        require(
            "lags",
            self.lags,
            all(fits) and fits != [],
            f"a number or a list of whole numbers from 0 to {LONGEST}",
        )
        require(
            "means",
            self.means,
            all(1 <= mean <= LONGEST for mean in self.means),
            f"lengths from 1 to {LONGEST}",
        )

    @property
    def distances(self) -> list[int]:
        """How far back each row that the head reads lies."""
        return list(range(self.lags)) if isinstance(self.lags, int) else list(self.lags)

    @property
    def past(self) -> int:
        """Rows before the present one that must be kept."""
        return max([0, *self.distances, *(mean - 1 for mean in self.means)])
