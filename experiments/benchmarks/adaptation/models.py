"""Trained columns: DREAM and its rivals as cores between one embedding and one head.

A core maps x (N, T, I) to its output (N, T, W) and its forecast of the next x (N, T, I). All columns of a
task have the same kind of head, and a rival has the width that brings all trainable parameters nearest to
DREAM's. Shapes: N samples, T steps, I inputs, W width of the output, V symbols.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from dream import DREAM, DREAMConfig
from experiments.benchmarks.adaptation.delta_net import HEADS, DeltaNet
from experiments.benchmarks.adaptation.protocol import (
    DELTA_NET,
    GRU,
    LSTM,
    OFF,
    PLASTIC,
    Batch,
    SequenceTask,
)
from lightning_modules.cores import trainable


class PlasticCore(nn.Module):
    """A DREAM layer, whose forecast includes what its fast weights recall."""

    def __init__(self, config: DREAMConfig) -> None:
        super().__init__()
        self.layer = DREAM.from_config(config)
        self.output_dim = config.hidden_dim

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        output, trace, _ = self.layer.trace(x)
        return output, trace.forecast


class RecurrentCore(nn.Module):
    """`nn.LSTM` or `nn.GRU` with a linear forecast."""

    def __init__(self, kind: Literal["LSTM", "GRU"], input_dim: int, width: int) -> None:
        super().__init__()
        self.cells = getattr(nn, kind)(input_dim, width, batch_first=True)
        self.forecast = nn.Linear(width, input_dim)
        self.output_dim = width

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        output, _ = self.cells(x)
        return output, self.forecast(output)


class Model(nn.Module):
    """A core with the embedding and head of a task; as a call, a `Predictor`.

    Next inputs are the core's forecast, plus a linear map of its output where the task has a readout; other
    values are a linear map of output, forecast and x. Both maps are 0 at first. Symbols are embedded as I
    values, and the probabilities of those that are asked for come from a hidden layer over output and
    forecast.
    """

    def __init__(self, core: PlasticCore | RecurrentCore | DeltaNet, task: SequenceTask) -> None:
        super().__init__()
        inputs, width = task.config.input_dim, core.output_dim
        self.core = core
        self.embedding: nn.Module = nn.Identity()
        self.head: nn.Module | None = None
        self.classes, self.outputs = task.classes, task.outputs
        if task.symbols:
            self.embedding = nn.Embedding(task.symbols, inputs)
        if task.classes:
            hidden = task.config.hidden_dim
            self.head = nn.Sequential(
                nn.Linear(width + inputs, hidden), nn.SiLU(), nn.Linear(hidden, task.classes)
            )
        elif task.outputs or task.readout:
            seen, asked = (width + 2 * inputs, task.outputs) if task.outputs else (width, inputs)
            self.head = nn.Linear(seen, asked)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> Tensor:
        x = self.embedding(batch.inputs)
        output, forecast = self.core(x)
        if self.head is None:
            return forecast
        if self.classes:
            return self.head(torch.cat([output, forecast], -1)).log_softmax(-1)
        if self.outputs:
            return self.head(torch.cat([output, forecast, x], -1))
        return forecast + self.head(output)


def build(column: str, task: SequenceTask) -> Model:
    """Model of a column of `protocol.TRAINED`, with fresh weights."""
    config = task.config
    if column == PLASTIC:
        return Model(PlasticCore(config), task)
    if column == OFF:
        return Model(PlasticCore(replace(config, base_plasticity=0.0)), task)
    with torch.device("meta"):
        budget = trainable(Model(PlasticCore(config), task))

    def rival(width: int) -> Model:
        if column == DELTA_NET:
            return Model(DeltaNet(config.input_dim, HEADS * width), task)
        kind: dict[str, Literal["LSTM", "GRU"]] = {LSTM: "LSTM", GRU: "GRU"}
        return Model(RecurrentCore(kind[column], config.input_dim, width), task)

    return rival(nearest_width(rival, budget))


def nearest_width(make: Callable[[int], nn.Module], budget: int) -> int:
    """Width at which the number of trainable parameters, which rises with it, is nearest to `budget`."""
    with torch.device("meta"):
        width = 1
        while trainable(make(width + 1)) <= budget:
            width += 1
        below, above = (abs(budget - trainable(make(w))) for w in (width, width + 1))
    return width if below <= above else width + 1
