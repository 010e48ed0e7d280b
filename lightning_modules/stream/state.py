"""What streams carry from row to row, and what is made of their rows.

Shapes: N streams, T rows, D input columns, C targets (classes for classification), L lanes (C if channels are
independent, else 1), F features of a lane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dream import DREAMState, DREAMTrace
from lightning_modules.stream.normalizers import NormalizerState
from lightning_modules.stream.seasonal import SeasonalState


@dataclass(eq=False)
class StreamState:
    """All that N streams carry from row to row."""

    normalizer: NormalizerState
    told: NormalizerState
    """The normaliser of the known targets of a regression."""
    seasonal: SeasonalState
    core: list[DREAMState]
    """A row for each lane of each stream."""
    window: Tensor
    """(N, past, D + told) rows before the present one; NaN before the first."""

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by a name of its own."""
        named = {f"normalizer.{name}": value for name, value in self.normalizer.items()}
        named |= {f"told.{name}": value for name, value in self.told.items()}
        named |= {f"seasonal.{name}": value for name, value in self.seasonal.items()}
        named |= {
            f"core.{k}.{name}": value for k, state in enumerate(self.core) for name, value in state.items()
        }
        return named | {"window": self.window}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> StreamState:
        """A state of the same build from what `tensors` gave."""

        def normalizer(prefix: str) -> NormalizerState:
            return NormalizerState(
                **{name: tensors[f"{prefix}.{name}"] for name, _ in self.normalizer.items()}
            )

        core = [
            DREAMState(**{name: tensors[f"core.{k}.{name}"] for name, _ in state.items()})
            for k, state in enumerate(self.core)
        ]
        seasonal = SeasonalState(**{name: tensors[f"seasonal.{name}"] for name, _ in self.seasonal.items()})
        return StreamState(normalizer("normalizer"), normalizer("told"), seasonal, core, tensors["window"])

    @staticmethod
    def cat(states: Sequence[StreamState]) -> StreamState:
        """The streams of several states, one after another."""
        named = [state.tensors() for state in states]
        return states[0].with_tensors({name: torch.cat([one[name] for one in named]) for name in named[0]})


class Relative(NamedTuple):
    """Rows made relative, before the core reads them."""

    seen: Tensor
    """(N, T, L, width) what the core reads"""
    shown: Tensor
    """(N, T, L, ...) what the head reads besides the core's"""
    level: Tensor
    """(N, T, C)"""
    scale: Tensor
    """(N, T, C)"""


class Features(NamedTuple):
    """What the head reads for each row, and what its outputs are relative to."""

    values: Tensor
    """(N, T, L, F), in the dtype of the core."""
    level: Tensor
    """(N, T, C) in the data's unit, float64; zeros for classification."""
    scale: Tensor
    """(N, T, C) the data's units in one unit of the head; ones for classification."""
    traces: list[DREAMTrace]
    """(N L, T, ...) what each layer of the core saw."""

    def rows(self, rows: slice) -> Features:
        """Some of the rows, without the traces."""
        return Features(self.values[:, rows], self.level[:, rows], self.scale[:, rows], [])
