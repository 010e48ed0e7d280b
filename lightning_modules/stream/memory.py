"""`Memory`: the rows of a stream that are still to be learnt from, or may be learnt from again.

Shapes: M rows, L lanes, F features of a lane, O outputs of a lane, C targets (classes), H rows ahead.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_modules.stream.network import CHANGE_LIMIT, StreamNetwork
from lightning_modules.stream.state import Features


class Memory:
    """Rows with their feedback, targets, features and outputs, addressed by their number in the stream.

    Features may lag behind the rows: a row is kept when it arrives, its features when it has been read.
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
            "feedback": empty(shape.feedback),
            "targets": empty(dtype=torch.int64) if labels else empty(shape.targets),
            "values": empty(head.shape[0], head.shape[2], dtype=head.dtype),
            "level": empty(shape.targets),
            "scale": empty(shape.targets),
            "outputs": empty(shape.horizon, shape.targets),
        }

    def add_rows(self, rows: Tensor, feedback: Tensor, targets: Tensor) -> None:
        """Keep the next rows (M, D), their feedback (M, C), and targets: (M, C), or class numbers (M,)."""
        self._add(rows=rows, feedback=feedback, targets=targets)

    def add_features(self, features: Features, outputs: Tensor) -> None:
        """Keep features of the next rows that have none yet, and the head's outputs for them (M, H, C)."""
        values, level, scale = features[:3]
        self._add(values=values[0], level=level[0], scale=scale[0], outputs=outputs.double())

    def _add(self, **new: Tensor) -> None:
        self.held = self.held | {name: torch.cat([self.held[name], value]) for name, value in new.items()}

    def __call__(self, name: str, start: int, stop: int) -> Tensor:
        """The values kept under `name` for the rows from `start` to before `stop`."""
        return self.held[name][start - self.first : stop - self.first]

    def pairs(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Features (M, L, F) of the rows, and the head's wanted outputs: (M, L, O), or class numbers (M,)."""
        level, scale = self("level", start, stop), self("scale", start, stop)
        return self("values", start, stop), self.wanted(start, stop, level, scale)

    def wanted(self, start: int, stop: int, level: Tensor, scale: Tensor) -> Tensor:
        """The head's wanted outputs for the rows, relative to `level` and `scale` (M, C).

        NaN where a target, or its scale, is missing.
        """
        if self.network.shape.task == "classification":
            return self("targets", start, stop)
        changes = self.changes(start, stop, level, scale)
        return self.network.to_lanes(changes).to(self.network.head.weight.dtype)

    def changes(self, start: int, stop: int, level: Tensor, scale: Tensor) -> Tensor:
        """Targets relative to `level` and `scale` (M, C), (M, H, C), float64; NaN where one, or its scale, is
        missing.

        Not for classification."""
        shape = self.network.shape
        if shape.task == "forecasting":
            future = (
                self("targets", start + 1, stop + shape.horizon).unfold(0, shape.horizon, 1).transpose(1, 2)
            )
        else:
            future = self("targets", start, stop).unsqueeze(1)
        return ((future - level.unsqueeze(1)) / scale.unsqueeze(1)).clamp(-CHANGE_LIMIT, CHANGE_LIMIT)

    def forget(self, before: int) -> None:
        """Drop the rows before that number.

        The others are copied, so that they lie in memory as they will after `load`: sums depend on that in
        the last bit."""
        gone = max(before - self.first, 0)
        self.held = {name: value[gone:].clone() for name, value in self.held.items()}
        self.first += gone

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is held, by name."""
        return dict(self.held)

    def load(self, tensors: Mapping[str, Tensor], first: int) -> None:
        """Restore what `tensors` returned."""
        self.held = {name: tensors[name] for name in self.held}
        self.first = first
