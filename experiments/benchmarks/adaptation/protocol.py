"""Terms of the suite: what a task is, the columns of its table, and when a figure reaches its bar.

Shapes: N samples, T steps, I values of a step, C other values that are asked for, V symbols to choose from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from dream import DREAMConfig

PLASTIC, REST, OFF = "DREAM", "DREAM at rest", "without plasticity"
LSTM, GRU, DELTA_NET = "LSTM", "GRU", "gated DeltaNet"
BASELINE, OPTIMUM = "best without a core", "optimum"
TRAINED = (PLASTIC, OFF, LSTM, GRU, DELTA_NET)
"""Columns that are trained, each with a learning rate of its own."""
COLUMNS = (PLASTIC, REST, OFF, LSTM, GRU, DELTA_NET, BASELINE, OPTIMUM)
"""Columns of every table. At rest are the weights of DREAM with plasticity switched off after training."""

NOT_COUNTED = -100
"""Target of a step that asks for no symbol, as in `torch.nn.functional.nll_loss`."""


@dataclass(frozen=True)
class Metric:
    """A figure of a task and the bar for DREAM, set before anything was measured."""

    name: str
    unit: str = ""
    higher: bool = False
    """Whether more is better."""
    bar: float | None = None
    """Value to reach, as a mean over the seeds."""
    beats: tuple[str, ...] = ()
    """Columns that DREAM must not be worse than."""
    by: float = 0.0
    """Margin by which DREAM must be better than those."""
    within: tuple[str, ...] = ()
    """Columns that DREAM must not be worse than by more than one standard deviation of theirs."""
    share_of: str | None = None
    """Metric whose gap between no plasticity and the optimum this one measures: the share that is closed."""

    def ahead(self, value: float, other: float) -> bool:
        """Whether `value` is better than `other`."""
        return value > other if self.higher else value < other


class Batch(NamedTuple):
    """Sequences and what is asked at each of their steps."""

    inputs: Tensor
    """(N, T, I) values, or (N, T) symbols."""
    targets: Tensor
    """(N, T, I) values of the next step, (N, T, C) other values, or (N, T) symbols, `NOT_COUNTED` where none
    is asked for."""
    facts: Mapping[str, Tensor] = MappingProxyType({})
    """Facts that scores and an optimum may read, such as the steps at which a system is redrawn."""


Predictor = Callable[[Batch], Tensor]
"""A column as the scores see it: predictions of the targets of a batch, each from the inputs up to its step:
(N, T, I) or (N, T, C) values, or (N, T, V) logarithms of probabilities."""


class Scores(NamedTuple):
    """Figures of one predictor on the test batches of one seed."""

    values: dict[str, float]
    """By the name of the metric."""
    curve: Sequence[float] = ()
    """Headline figure as the sequence goes on, at `Task.positions`."""


@dataclass
class Outcome:
    """One column of one seed: its figures and how it came to them."""

    scores: Scores
    parameters: int | None = None
    """Trainable ones, embedding and head included."""
    seconds: float | None = None
    """Wall time of training, tries of learning rates included."""
    tried: dict[str, float] = field(default_factory=dict)
    """Validation loss by learning rate, or by method."""
    chosen: str | None = None
    """Key of the least in `tried`."""


class Task:
    """A task of the suite, for one seed.

    Args:
        seed: Of weights and of everything that is drawn.
    """

    name: ClassVar[str]
    group: ClassVar[str]
    title: ClassVar[str]
    """Description in a few words, for the page."""
    metrics: ClassVar[tuple[Metric, ...]]
    """The first is the headline: it decides which column is ahead."""
    axis: ClassVar[str] = ""
    """Label of `positions`."""
    positions: ClassVar[Sequence[float]] = ()
    """Where the points of a curve lie."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def random(self, part: Literal["train", "validation", "test", "rule"]) -> torch.Generator:
        """Generator of random numbers for a part of the data, the same for all columns."""
        parts = ("train", "validation", "test", "rule")
        return torch.Generator().manual_seed(len(parts) * self.seed + parts.index(part))


class SequenceTask(Task, ABC):
    """A task whose columns are trained here, on sequences that are drawn from a generator."""

    config: ClassVar[DREAMConfig]
    """DREAM's layer; its rivals get as many parameters."""
    symbols: ClassVar[int] = 0
    """Different symbols of the inputs, which are embedded; 0 where they are values."""
    classes: ClassVar[int] = 0
    """V, different symbols that are asked for; 0 where values are predicted."""
    outputs: ClassVar[int] = 0
    """C, values that are asked for where they are not the next inputs."""
    readout: ClassVar[bool] = True
    """Whether a linear map of the output is added to the core's forecast of the next inputs."""
    steps: ClassVar[int]
    """Budget of the optimiser."""
    rates: ClassVar[tuple[float, ...]] = (3e-3, 1e-2, 3e-2)
    """Learning rates to choose from."""
    trial: ClassVar[float] = 0.2
    """Share of the budget after which the learning rate is chosen."""

    def setup(self) -> None:
        """Read or draw what every column shares, so that it is in nobody's time."""

    @abstractmethod
    def train_batch(self, random: torch.Generator) -> Batch:
        """Sequences for one step of the optimiser."""

    @abstractmethod
    def held_out(self, part: Literal["validation", "test"]) -> list[Batch]:
        """Batches to choose by, or to score."""

    @abstractmethod
    def score(self, predictions: Sequence[Tensor], batches: Sequence[Batch]) -> Scores:
        """Figures of the predictions of the test batches."""

    def baselines(self) -> dict[str, Predictor]:
        """Adaptive methods without a core, by name; the best on validation gets the column."""
        return {}

    def optimum(self) -> Predictor | None:
        """Predictor that nobody can beat in the mean, where it is known."""
        return None

    def loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Mean squared error, or nats for each symbol that is asked for."""
        if self.classes:
            return nll_loss(predicted.flatten(0, 1), batch.targets.flatten(), ignore_index=NOT_COUNTED)
        return (predicted - batch.targets).square().mean()
