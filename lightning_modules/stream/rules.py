"""Updates of the weights while a stream is read: their settings, what a rule is, and steps of all weights.

Rules that move the head alone are in `lightning_modules.stream.head_rules`.

Shapes: M rows, L lanes, F features of a lane, O outputs of a lane.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_modules.checks import require, require_int
from lightning_modules.stream.memory import Memory
from lightning_modules.stream.network import Head, StreamNetwork
from lightning_modules.stream.rows import as_array, as_tensor
from lightning_modules.stream.state import StreamState, part

Method = Literal["adam", "sgd", "least_squares"]
Moves = Literal["head", "all"]


@dataclass(frozen=True)
class Updates:
    """Settings of the updates of the weights."""

    rule: Method = "adam"
    """`adam` and `sgd`: gradient steps on the mean loss over the replay window; `least_squares`: the head
    solved again from all rows so far, older ones discounted."""
    every: int = 1
    """Rows between two updates."""
    replay: int = 32
    """Rows of the replay window: the newest ones whose target is known (gradient rules)."""
    steps: int = 1
    """Gradient steps in one update."""
    lr: float = 1e-3
    """Learning rate of the gradient steps."""
    forgetting: float = 1.0
    """Discount per row of age (least squares): 1 forgets nothing, 0.999 remembers about 1,000 rows."""
    ridge: float = 1e-3
    """Pull towards the weights at the start of the stream, as a share of the features' mean square (least
    squares)."""
    trust: float = 0.0
    """Discount per row of age in the record by which forecasts are shrunk, see
    `lightning_modules.stream.trust.Trust`; 0 shrinks nothing."""

    def __post_init__(self) -> None:
        require("updates.rule", self.rule, self.rule in get_args(Method), "adam, sgd or least_squares")
        for name in ("every", "replay", "steps"):
            require_int(f"updates.{name}", getattr(self, name))
        require("updates.lr", self.lr, 0 < self.lr < math.inf, "a finite number above 0")
        require("updates.forgetting", self.forgetting, 0 < self.forgetting <= 1, "above 0 and at most 1")
        require("updates.ridge", self.ridge, 0 <= self.ridge < math.inf, "a finite number of at least 0")
        require("updates.trust", self.trust, 0 <= self.trust < 1, "a number from 0 to below 1")


def head_loss(network: StreamNetwork, outputs: Tensor, wanted: Tensor) -> Tensor:
    """Mean loss of the head's `outputs` (M, L, O): squared error in the head's units, or cross-entropy.

    Where `wanted` is NaN, for want of a target, there is no error; without any target the loss is 0.
    """
    if network.shape.task == "classification":
        return cross_entropy(outputs.squeeze(1), wanted)
    known = ~wanted.isnan()
    squares = torch.where(known, outputs - wanted.nan_to_num(), 0.0).square()
    return squares.sum() / known.sum().clamp_min(1)


class Weights:
    """Weights as they are now, with the state of the optimiser that moves them, to go back to.

    Args:
        weights: Tensors that are changed in place.
        optimizer: Their optimiser, if they have one.
    """

    def __init__(self, weights: Sequence[Tensor], optimizer: torch.optim.Optimizer | None = None) -> None:
        self.optimizer = optimizer
        self.state = {} if optimizer is None else {w: dict(optimizer.state[w]) for w in optimizer.state}
        values = [value for part in self.state.values() for value in part.values()]
        moving = [*weights, *(value for value in values if isinstance(value, Tensor))]
        self.values = [(value, value.detach().clone()) for value in moving]

    @torch.no_grad()
    def restore(self) -> None:
        """Go back; may be called again after it was interrupted."""
        for value, before in self.values:
            value.copy_(before)
        if self.optimizer is not None:
            self.optimizer.state.clear()
            self.optimizer.state.update({weight: dict(part) for weight, part in self.state.items()})


class HeadArrays:
    """The head's weights in NumPy: the weights themselves on a CPU, elsewhere copies of them."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.read()

    def __reduce__(self) -> tuple[type[HeadArrays], tuple[Head]]:
        return HeadArrays, (self.head,)  # a copy of the head lies elsewhere

    def read(self) -> None:
        """Take the head's weights as they are."""
        weight, bias = self.head.weight, self.head.bias
        self.copied = weight.device.type != "cpu" or weight.dtype == torch.bfloat16
        self.weight = as_array(weight)
        """(L, O, F)."""
        self.bias = as_array(bias)
        """(L, O)."""
        self._place = weight.data_ptr()

    def current(self) -> HeadArrays:
        """These arrays, taken again where they are copies or the head's weights lie elsewhere by now."""
        if self.copied or self.head.weight.data_ptr() != self._place:
            self.read()
        return self

    def write(self) -> None:
        """Return copies to the head; where they are its weights there is nothing to do."""
        if self.copied:
            with torch.no_grad():
                self.head.weight.copy_(torch.from_numpy(self.weight))
                self.head.bias.copy_(torch.from_numpy(self.bias))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(M, L, F) to (M, L, O), as `Head.forward`."""
        lanes: np.ndarray = values.swapaxes(0, 1) @ self.weight.swapaxes(1, 2)
        return lanes.swapaxes(0, 1) + self.bias

    def columns(self) -> np.ndarray:
        """Weights with the bias as their last row, (L, F + 1, O), float64."""
        both = np.concatenate([self.weight, self.bias[..., None]], -1, dtype=np.float64)
        return both.swapaxes(1, 2)


class Rule(ABC):
    """Updates weights of a network when targets have become known.

    Attributes are replaced and never changed in place, but for what `weights` notes.
    """

    @abstractmethod
    def weights(self) -> Weights:
        """Note what updates change in place."""

    @abstractmethod
    def update(self, memory: Memory, known: int, new: int, head: HeadArrays) -> None:
        """Learn from the rows before number `known`; the last `new` of them were not learnt from before.

        Afterwards `head` holds the head's weights.
        """

    def catch_up(self, memory: Memory, start: int, stops: Sequence[int], head: HeadArrays) -> None:
        """Update at each of `stops`, in turn; rows before `start` have been learnt from."""
        for known in stops:
            self.update(memory, known, known - start, head)
            start = known

    def before(self, row: int, state: StreamState) -> None:  # noqa: B027 - only a replay of the core needs it
        """Receive the state before `row` is read, where an update may start."""

    def oldest(self, known: int) -> int:
        """Number of the oldest row that a later update reads again, when `known` rows are known."""
        return known

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything that the rule carries besides the weights, by name."""

    def like(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the names, dtypes and shapes that `load` takes, as many as `tensors` says."""
        return self.tensors()

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned."""


class AllSteps(Rule):
    """Gradient steps on all weights: the replay window is read again, from the state before it.

    States are kept at updates only. So reading starts at the last update at or before the start of the
    window, up to `every` rows earlier."""

    def __init__(self, network: StreamNetwork, updates: Updates) -> None:
        require(
            "updates.rule",
            updates.rule,
            updates.rule != "least_squares",
            "adam or sgd where all weights move",
        )
        self.network = network
        self.steps = updates.steps
        self.replay = updates.replay
        kind = torch.optim.SGD if updates.rule == "sgd" else torch.optim.Adam
        self.optimizer = kind(
            [weight for weight in network.parameters() if weight.requires_grad], lr=updates.lr
        )
        self.kept: list[tuple[int, StreamState]] = []
        """Numbers of rows at which reading may start, and the states before them, oldest first."""

    def weights(self) -> Weights:
        return Weights(self.optimizer.param_groups[0]["params"], self.optimizer)

    def before(self, row: int, state: StreamState) -> None:
        self.kept = [*self.kept, (row, state)]

    def oldest(self, known: int) -> int:
        return self.kept[0][0] if self.kept else known

    def update(self, memory: Memory, known: int, new: int, head: HeadArrays) -> None:
        network = self.network
        start = max(known - self.replay, 0)
        later = [place for place, (row, _) in enumerate(self.kept) if row <= start]
        self.kept = self.kept[later[-1] if later else 0 :]
        row, state = self.kept[0]
        start = max(start, row)
        rows, feedback = (
            as_tensor(memory(name, row, known), network.head.weight)[None] for name in ("rows", "feedback")
        )
        for _ in range(self.steps):
            features, _ = network.features(rows, state, feedback)
            level, scale = (as_array(part[0, start - row :]) for part in (features.level, features.scale))
            wanted = as_tensor(memory.wanted(start, known, level, scale), network.head.weight)
            self.optimizer.zero_grad()
            head_loss(network, network.head(features.values[0, start - row :]), wanted).backward()
            self.optimizer.step()
        head.read()

    def tensors(self) -> dict[str, Tensor]:
        states = {
            f"kept.{k}.{name}": value
            for k, (_, state) in enumerate(self.kept)
            for name, value in state.tensors().items()
        }
        rows = torch.tensor([row for row, _ in self.kept], dtype=torch.int64)
        optimizer = {
            f"{weight}.{name}": value
            for weight, values in self.optimizer.state_dict()["state"].items()
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
        return {"rows": rows} | states | optimizer

    def like(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = tensors.get("rows", torch.zeros(0)).reshape(-1)
        state = self.network.init_state().tensors()
        found = {f"kept.{k}.{name}": value for k in range(len(rows)) for name, value in state.items()}
        found["rows"] = rows.new_zeros(len(rows), dtype=torch.int64)
        if isinstance(self.optimizer, torch.optim.SGD):
            return found
        moved = {name.partition(".")[0] for name in tensors}
        for number, weight in enumerate(self.optimizer.param_groups[0]["params"]):
            if str(number) in moved:  # one without a gradient has no moments
                found |= {f"{number}.{name}": value for name, value in moments_like(weight).items()}
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        like = self.network.init_state()
        self.kept = [
            (row, like.with_tensors(part(tensors, f"kept.{k}.")))
            for k, row in enumerate(tensors["rows"].tolist())
        ]
        for _, state in self.kept:
            for core in state.core:
                core.require_sound()
        content = self.optimizer.state_dict() | {"state": {}}
        for key, value in tensors.items():
            weight, _, name = key.partition(".")
            if weight.isdigit():
                content["state"].setdefault(int(weight), {})[name] = value.clone()
        self.optimizer.load_state_dict(content)


def moments_like(weight: Tensor) -> dict[str, Tensor]:
    """Moments of Adam for a weight, by the names that torch gives them."""
    return {"step": torch.zeros(()), "exp_avg": weight, "exp_avg_sq": weight}
