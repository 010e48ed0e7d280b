"""`Memory`: the rows of a stream that are still to be learnt from, or may be learnt from again.

Shapes: M rows, L lanes, F features of a lane, O outputs of a lane, C targets (classes), H rows ahead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lightning_modules.stream.network import CHANGE_LIMIT, StreamNetwork
from lightning_modules.stream.rows import Read, as_array

PASSED = ("rows", "targets", "values", "level", "scale")
"""Parts of a row in `Memory.pass_on`."""


class Memory:
    """Rows with their feedback, targets, features and outputs, addressed by their number in the stream.

    Features may lag behind the rows: a row is kept when it arrives, its features when it has been read.
    Arrays are in NumPy, wherever the network is, and are replaced, changed in place by `pass_on` alone.
    """

    def __init__(self, network: StreamNetwork) -> None:
        self.network = network
        self.first = 0
        """Number of the oldest row that is held."""
        shape, head = network.shape, network.head.weight
        labels = shape.task == "classification"
        dtype = as_array(head).dtype
        self.ahead = np.arange(shape.horizon)
        self.held = {
            "rows": np.zeros((0, shape.inputs)),
            "feedback": np.zeros((0, shape.feedback)),
            "targets": np.zeros(0, np.int64) if labels else np.zeros((0, shape.targets)),
            "values": np.zeros((0, head.shape[0], head.shape[2]), dtype),
            "level": np.zeros((0, shape.targets)),
            "scale": np.zeros((0, shape.targets)),
            "outputs": np.zeros((0, shape.horizon, shape.targets)),
        }

    def add_rows(self, rows: np.ndarray, feedback: np.ndarray, targets: np.ndarray) -> None:
        """Keep the next rows (M, D), their feedback (M, C), and targets: (M, C), or class numbers (M,)."""
        self._add(rows=rows, feedback=feedback, targets=targets)

    def add_features(self, read: Read, outputs: np.ndarray) -> None:
        """Keep features of the next rows that have none yet, and the head's outputs for them (M, H, C).

        The outputs are of use to a record of predictions only; 0 without one.
        """
        self._add(values=read.values, level=read.level, scale=read.scale, outputs=outputs)

    def _add(self, **new: np.ndarray) -> None:
        held = self.held
        self.held = held | {
            name: np.concatenate([held[name], value], dtype=held[name].dtype) for name, value in new.items()
        }

    def __call__(self, name: str, start: int, stop: int) -> np.ndarray:
        """The values kept under `name` for the rows from `start` to before `stop`."""
        return self.held[name][start - self.first : stop - self.first]

    def pairs(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Features (M, L, F) of the rows, and the head's wanted outputs: (M, L, O), or class numbers (M,)."""
        level, scale = self("level", start, stop), self("scale", start, stop)
        return self("values", start, stop), self.wanted(start, stop, level, scale)

    def wanted(self, start: int, stop: int, level: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """The head's wanted outputs for the rows, relative to `level` and `scale` (M, C).

        NaN where a target, or its scale, is missing.
        """
        if self.network.shape.task == "classification":
            return self("targets", start, stop)
        changes = self.changes(start, stop, level, scale)
        return self.network.to_lanes(changes).astype(self.held["values"].dtype)

    def changes(self, start: int, stop: int, level: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Targets relative to `level` and `scale` (M, C), (M, H, C), float64; NaN where one, or its scale, is
        missing.

        Not for classification."""
        shape = self.network.shape
        future = self("targets", start, stop)[:, None]
        if shape.task == "forecasting":
            after = start + 1 - self.first
            future = self.held["targets"][np.arange(after, after + stop - start)[:, None] + self.ahead]
        return relative(future, level, scale)

    def forget(self, before: int) -> None:
        """Drop the rows before that number.

        The others are copied, so that they lie in memory as they will after `load`: sums depend on that in
        the last bit."""
        gone = max(before - self.first, 0)
        self.held = {name: value[gone:].copy() for name, value in self.held.items()}
        self.first += gone

    def pass_on(self, new: Sequence[np.ndarray]) -> None:
        """Drop the oldest row and keep a new one, in place; `new` is of the names in `PASSED`, the rest is 0.

        Of a forecaster without a record of its predictions."""
        for name, value in zip(PASSED, new, strict=True):
            held = self.held[name]
            if len(held) > 1:
                held[:-1] = held[1:]
            held[-1] = value
        self.first += 1

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is held, by name."""
        return {name: torch.from_numpy(value) for name, value in self.held.items()}

    def load(self, tensors: Mapping[str, Tensor], first: int) -> None:
        """Restore what `tensors` returned."""
        self.held = {name: tensors[name].cpu().numpy() for name in self.held}
        self.first = first


def relative(future: np.ndarray, level: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Targets (M, H, C) relative to `level` and `scale` (M, C), clipped to what the head learns."""
    with np.errstate(over="ignore"):
        changes = (future - level[:, None]) / scale[:, None]
    return np.minimum(np.maximum(changes, -CHANGE_LIMIT), CHANGE_LIMIT)
