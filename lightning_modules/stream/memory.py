"""`Memory`: the rows of a stream that are still to be learnt from, or again.

Shapes: M rows, L lanes, F features of a lane, O outputs of a lane, C targets (classes), H rows ahead.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_modules.stream.network import CHANGE_LIMIT, StreamNetwork
from lightning_modules.stream.state import Features


class Memory:
    """Rows, what was known when they came, their targets and features, addressed by their number in the
    stream.

    Features may lag behind the rows: a row is remembered when it comes, its features when it has been read.
    """

    def __init__(self, network: StreamNetwork) -> None:
        self.network = network
        self.first = 0
        """Number of the oldest row that is held."""
        shape, head = network.shape, network.head.weight
        labels = shape.task == "classification"

        def empty(*sizes: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(0, *sizes, dtype=dtype, device=head.device)

        self.held = {
            "rows": empty(shape.inputs),
            "told": empty(shape.told),
            "targets": empty(dtype=torch.int64) if labels else empty(shape.targets),
            "values": empty(head.shape[0], head.shape[2], dtype=head.dtype),
            "level": empty(shape.targets),
            "scale": empty(shape.targets),
            "said": empty(shape.horizon, shape.targets),
        }

    def add_rows(self, rows: Tensor, told: Tensor, targets: Tensor) -> None:
        """Rows (M, D) that come next, what was known at each (M, C), and their targets: (M, C), or (M,) class
        numbers."""
        self._add(rows=rows, told=told, targets=targets)

    def add_features(self, features: Features, said: Tensor) -> None:
        """The features of the next rows that have none yet, and what the head said of them, (M, H, C)."""
        self._add(
            values=features.values[0], level=features.level[0], scale=features.scale[0], said=said.double()
        )

    def _add(self, **new: Tensor) -> None:
        for name, value in new.items():
            self.held[name] = torch.cat([self.held[name], value])

    def __call__(self, name: str, start: int, stop: int) -> Tensor:
        """One of the kept figures for the rows from `start` to before `stop`."""
        return self.held[name][start - self.first : stop - self.first]

    def pairs(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Features (M, L, F) of the rows, and what the head should have said: (M, L, O), or (M,) class
        numbers."""
        level, scale = self("level", start, stop), self("scale", start, stop)
        return self("values", start, stop), self.wanted(start, stop, level, scale)

    def wanted(self, start: int, stop: int, level: Tensor, scale: Tensor) -> Tensor:
        """What the head should have said of the rows, given the level and scale (M, C) that it is relative
        to.

        Of a target that is missing, what it said: there is nothing to correct.
        """
        if self.network.shape.task == "classification":
            return self("targets", start, stop)
        changes = self.changes(start, stop, level, scale)
        changes = torch.where(changes.isnan(), self("said", start, stop), changes)
        return self.network.to_lanes(changes).to(self.network.head.weight.dtype)

    def changes(self, start: int, stop: int, level: Tensor, scale: Tensor) -> Tensor:
        """What came, relative to `level` and `scale` (M, C) of the rows, (M, H, C), float64; NaN where it is
        missing. Not for classification."""
        shape = self.network.shape
        if shape.task == "forecasting":
            future = (
                self("targets", start + 1, stop + shape.horizon).unfold(0, shape.horizon, 1).transpose(1, 2)
            )
        else:
            future = self("targets", start, stop).unsqueeze(1)
        return ((future - level.unsqueeze(1)) / scale.unsqueeze(1)).clamp(-CHANGE_LIMIT, CHANGE_LIMIT)

    def forget(self, before: int) -> None:
        """Let go of the rows before that number.

        What stays is copied, so that it lies in memory as it will after `load`: sums depend on that in the
        last bit."""
        gone = max(before - self.first, 0)
        self.held = {name: value[gone:].clone() for name, value in self.held.items()}
        self.first += gone

    def tensors(self) -> dict[str, Tensor]:
        """All that is held, by name."""
        return dict(self.held)

    def load(self, tensors: Mapping[str, Tensor], first: int) -> None:
        """Put back what `tensors` gave."""
        self.held, self.first = {name: tensors[name] for name in self.held}, first
