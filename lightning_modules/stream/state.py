"""State that streams carry from row to row, and the values that are computed from their rows.

Shapes: N streams, T rows, D input columns, C targets (classes for classification), L lanes (C if channels are
independent, else 1), F features of a lane.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dream import DREAMState, DREAMTrace
from lightning_modules.stream.normalizers import NormalizerState
from lightning_modules.stream.seasonal import SeasonalState


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@dataclass(eq=False)
class StreamState:
    """Everything that N streams carry from row to row."""

    normalizer: NormalizerState
    feedback: NormalizerState
    """The normaliser of a regression's feedback."""
    seasonal: SeasonalState
    core: list[DREAMState]
    """A state for each layer of the core; its samples are the lanes of each stream."""
    window: Tensor
    """(N, past, D + feedback) rows before the present one; NaN before the first."""
    recent: Tensor
    """(N, lags - 1, 1) what the core read of its only column in the rows before the present one."""

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by a name of its own."""
        causal = {"normalizer": self.normalizer, "feedback": self.feedback, "seasonal": self.seasonal}
        parts = causal | {f"core.{k}": state for k, state in enumerate(self.core)}
        named = {f"{name}.{field}": value for name, state in parts.items() for field, value in state.items()}
        return named | {"window": self.window, "recent": self.recent}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> StreamState:
        """A state of the same build from what `tensors` returned."""
        return StreamState(
            NormalizerState(**part(tensors, "normalizer.")),
            NormalizerState(**part(tensors, "feedback.")),
            SeasonalState(**part(tensors, "seasonal.")),
            [DREAMState(**part(tensors, f"core.{k}.")) for k in range(len(self.core))],
            tensors["window"],
            tensors["recent"],
        )

    @staticmethod
    def cat(states: Sequence[StreamState]) -> StreamState:
        """The streams of several states, one after another."""
        named = [state.tensors() for state in states]
        return states[0].with_tensors({name: torch.cat([one[name] for one in named]) for name in named[0]})


class Relative(NamedTuple):
    """Rows relative to their past, before the core reads them."""

    seen: Tensor
    """(N, T, L, width) inputs of the core, NaN where one was not observed."""
    shown: Tensor
    """(N, T, L, ...) inputs of the head besides those that the core computes."""
    level: Tensor
    """(N, T, C) as in `Features`."""
    scale: Tensor
    """(N, T, C) as in `Features`."""


class Features(NamedTuple):
    """Inputs of the head for each row, and the level and scale of its outputs."""

    values: Tensor
    """(N, T, L, F), in the dtype of the core."""
    level: Tensor
    """(N, T, C) zero of the head's outputs, in the data's unit, float64; 0 for classification."""
    scale: Tensor
    """(N, T, C) the data's units in one unit of the head's outputs, NaN until a column has varied; 1 for
    classification."""
    traces: list[DREAMTrace]
    """(N L, T, ...) trace of each layer of the core."""
    observed: Tensor
    """() number of inputs of the core that were observed."""

    def rows(self, rows: slice) -> Features:
        """Some of the rows, without the traces."""
        return self._replace(
            values=self.values[:, rows], level=self.level[:, rows], scale=self.scale[:, rows], traces=[]
        )
