"""`Carried`: all that streams carry from row to row when a core reads and scores them.

Shapes: N streams, T rows, C columns, I inputs of the core: C levels, C differences, then of a single column
the levels of the rows before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dream import DREAMStack, DREAMState
from lightning_modules.anomaly.data import AnomalyShape
from lightning_modules.anomaly.scores import (
    LEVEL_LIMIT,
    AnomalyScore,
    RunningScale,
    carried_tensors,
    duplicate,
    load_carried,
)
from lightning_modules.anomaly.settings import AnomalySettings
from lightning_modules.cores import BaselineCore
from lightning_modules.data.columns import lagged
from lightning_modules.stream.checks import require_like
from lightning_modules.stream.state import part


class Relative(NamedTuple):
    """Rows of N streams, relative to the past of each column."""

    x: np.ndarray
    """(N, T, 2 C) levels, then differences; NaN where one is missing."""
    levels: np.ndarray
    """(N, T, C) levels of the last known values."""
    inputs: np.ndarray
    """(N, T, I) input of the core."""


class CoreInputs:
    """Turns values into what the core reads, and carries the running scales that this takes.

    The attributes are replaced and never changed in place.

    Args:
        streams: N.
        shape: Columns and lags.
        memory: Rows after which the running scales fade.
        gaps: Whether the core reads NaN, as not observed. A rival of DREAM reads the last known level and a
            difference of 0.
    """

    def __init__(self, streams: int, shape: AnomalyShape, memory: int, gaps: bool) -> None:
        self.gaps = gaps
        self.scale = RunningScale(streams, shape.channels, memory)
        self.recent = torch.zeros(streams, shape.lags - 1, 1, dtype=torch.float64)
        """(N, lags - 1, 1) levels of the rows before, as the core read them."""

    def read(self, values: np.ndarray, learning: np.ndarray) -> Relative:
        """Read the next rows.

        Args:
            values: (N, T, C), NaN where one is missing.
            learning: (N, T) where the scales learn.
        """
        x, levels, _ = self.scale.read(values, learning)
        inputs = x
        if not self.gaps:
            inputs = np.concatenate([levels, np.nan_to_num(x[..., levels.shape[-1] :])], -1)
        if self.recent.shape[1]:
            past, self.recent = lagged(torch.from_numpy(inputs[..., :1]), self.recent)
            inputs = np.concatenate([inputs, past.numpy()], -1)
        return Relative(x, levels, np.minimum(np.maximum(inputs, -LEVEL_LIMIT), LEVEL_LIMIT))

    def copy(self) -> CoreInputs:
        """Another object with the same past."""
        new = duplicate(self)
        new.scale = self.scale.copy()
        return new


def fresh_score(settings: AnomalySettings, channels: int, training: np.ndarray) -> AnomalyScore:
    """Scoring of streams (N,) with so many rows in their training parts, which knows no row yet."""
    gap = np.round(settings.gap * training).astype(int)
    return AnomalyScore(len(training), channels, settings.tail_memory, gap, settings.measures)


class Carried(NamedTuple):
    """All that one stream carries from row to row."""

    inputs: CoreInputs
    score: AnomalyScore
    states: list[DREAMState]
    """State of each layer of the core."""

    @classmethod
    def fresh(
        cls,
        core: DREAMStack | BaselineCore,
        settings: AnomalySettings,
        shape: AnomalyShape,
        training: int,
    ) -> Carried:
        """Before the first row of a stream whose training part has so many rows."""
        inputs = CoreInputs(1, shape, settings.memory, isinstance(core, DREAMStack))
        score = fresh_score(settings, shape.channels, np.array([training]))
        return cls(inputs, score, core.init_state(1))

    @classmethod
    def beside(cls, streams: Sequence[Carried]) -> Carried:
        """Several streams, one beside the other."""
        inputs, scores, states = zip(*streams, strict=True)
        whole = duplicate(inputs[0])
        whole.scale = RunningScale.beside([one.scale for one in inputs])
        whole.recent = torch.cat([one.recent for one in inputs])
        layers = [DREAMState.cat(layer) for layer in zip(*states, strict=True)]
        return cls(whole, AnomalyScore.beside(scores), layers)

    def stream(self, number: int) -> Carried:
        """One of them by itself."""
        part = slice(number, number + 1)
        inputs = duplicate(self.inputs)
        inputs.scale, inputs.recent = inputs.scale.stream(number), inputs.recent[part].clone()
        return Carried(inputs, self.score.stream(number), [state[part].clone() for state in self.states])

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, for `resumed`."""
        tensors = carried_tensors(self.inputs.scale, self.score) | {"state.recent": self.inputs.recent}
        for number, state in enumerate(self.states):
            tensors |= {f"core.{number}.{name}": value.cpu() for name, value in state.items()}
        return tensors

    def resumed(self, tensors: Mapping[str, Tensor]) -> Carried:
        """Another one that goes on from what `tensors` returned; this one is fresh, and has the settings.

        Raises:
            CheckpointError: it is of other settings, or holds what no stream does.
            StateError: a state of the core is damaged.
        """
        inputs, score = self.inputs.copy(), self.score.copy()
        scoring = {n: v for n, v in tensors.items() if n.partition(".")[0] in ("scale", "score", "tail")}
        load_carried(inputs.scale, score, scoring)
        like = {f"core.{k}.{n}": v.cpu() for k, state in enumerate(self.states) for n, v in state.items()}
        others = {name: value for name, value in tensors.items() if name not in scoring}
        require_like(others, like | {"state.recent": inputs.recent})
        inputs.recent = others["state.recent"].clone()
        states = [
            DREAMState(**{name: value.clone() for name, value in part(others, f"core.{k}.").items()})
            for k in range(len(self.states))
        ]
        for state in states:
            state.require_sound()
        return Carried(inputs, score, states)
