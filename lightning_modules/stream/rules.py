"""Updates of the weights while a stream is read: gradient steps over a replay window, or least squares.

Shapes: M rows, L lanes, F features of a lane, O outputs of a lane.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from lightning_modules.checks import require, require_int
from lightning_modules.stream.checks import require_gram
from lightning_modules.stream.following import HeadFit
from lightning_modules.stream.memory import Memory
from lightning_modules.stream.network import StreamNetwork
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


class Rule(ABC):
    """Updates weights of a network when targets have become known.

    Attributes are replaced and never changed in place, but for what `weights` notes.
    """

    @abstractmethod
    def weights(self) -> Weights:
        """Note what updates change in place."""

    @abstractmethod
    def update(self, memory: Memory, known: int, new: int) -> None:
        """Learn from the rows before number `known`; the last `new` of them were not learnt from before."""

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


class _GradientRule(Rule):
    """An optimiser over some of the weights, with its state as tensors."""

    def __init__(self, network: StreamNetwork, updates: Updates, weights: list[Tensor]) -> None:
        self.network = network
        self.steps = updates.steps
        self.replay = updates.replay
        kind = torch.optim.SGD if updates.rule == "sgd" else torch.optim.Adam
        self.optimizer = kind(weights, lr=updates.lr)

    def weights(self) -> Weights:
        return Weights(self.optimizer.param_groups[0]["params"], self.optimizer)

    def oldest(self, known: int) -> int:
        return known - self.replay

    def _step(self, outputs: Tensor, wanted: Tensor) -> None:
        self.optimizer.zero_grad()
        head_loss(self.network, outputs, wanted).backward()
        self.optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return {
            f"{weight}.{name}": value
            for weight, values in state.items()
            for name, value in values.items()
            if isinstance(value, Tensor)
        }

    def like(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if isinstance(self.optimizer, torch.optim.SGD):
            return {}
        step, moved = torch.zeros(()), {name.partition(".")[0] for name in tensors}
        found: dict[str, Tensor] = {}
        for number, weight in enumerate(self.optimizer.param_groups[0]["params"]):
            if str(number) in moved:  # one without a gradient has no moments
                moments = {"step": step, "exp_avg": weight, "exp_avg_sq": weight}
                found |= {f"{number}.{name}": value for name, value in moments.items()}
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        content = self.optimizer.state_dict() | {"state": {}}
        for key, value in tensors.items():
            weight, _, name = key.partition(".")
            content["state"].setdefault(int(weight), {})[name] = value.clone()
        self.optimizer.load_state_dict(content)


class HeadSteps(_GradientRule):
    """Gradient steps on the head, over the features as they were when their rows were read."""

    def __init__(self, network: StreamNetwork, updates: Updates) -> None:
        super().__init__(network, updates, list(network.head.parameters()))

    def update(self, memory: Memory, known: int, new: int) -> None:
        values, wanted = memory.pairs(max(known - self.replay, memory.first), known)
        for _ in range(self.steps):
            self._step(self.network.head(values), wanted)


class AllSteps(_GradientRule):
    """Gradient steps on all weights: the replay window is read again, from the state before it.

    States are kept at updates only. So reading starts at the last update at or before the start of the
    window, up to `every` rows earlier."""

    def __init__(self, network: StreamNetwork, updates: Updates) -> None:
        super().__init__(
            network, updates, [weight for weight in network.parameters() if weight.requires_grad]
        )
        self.kept: list[tuple[int, StreamState]] = []
        """Numbers of rows at which reading may start, and the states before them, oldest first."""

    def before(self, row: int, state: StreamState) -> None:
        self.kept = [*self.kept, (row, state)]

    def oldest(self, known: int) -> int:
        return self.kept[0][0] if self.kept else known

    def update(self, memory: Memory, known: int, new: int) -> None:
        start = max(known - self.replay, 0)
        later = [place for place, (row, _) in enumerate(self.kept) if row <= start]
        self.kept = self.kept[later[-1] if later else 0 :]
        row, state = self.kept[0]
        start = max(start, row)
        rows, feedback = memory("rows", row, known)[None], memory("feedback", row, known)[None]
        for _ in range(self.steps):
            features, _ = self.network.features(rows, state, feedback)
            level, scale = features.level[0, start - row :], features.scale[0, start - row :]
            self._step(
                self.network.head(features.values[0, start - row :]),
                memory.wanted(start, known, level, scale),
            )

    def tensors(self) -> dict[str, Tensor]:
        states = {
            f"kept.{k}.{name}": value
            for k, (_, state) in enumerate(self.kept)
            for name, value in state.tensors().items()
        }
        rows = torch.tensor([row for row, _ in self.kept], dtype=torch.int64)
        return {"rows": rows} | states | super().tensors()

    def like(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = tensors.get("rows", torch.zeros(0)).reshape(-1)
        state = self.network.init_state().tensors()
        states = {f"kept.{k}.{name}": value for k in range(len(rows)) for name, value in state.items()}
        return {"rows": rows.new_zeros(len(rows), dtype=torch.int64)} | states | super().like(tensors)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        like = self.network.init_state()
        self.kept = [
            (row, like.with_tensors(part(tensors, f"kept.{k}.")))
            for k, row in enumerate(tensors["rows"].tolist())
        ]
        for _, state in self.kept:
            for core in state.core:
                core.require_sound()
        super().load({n: value for n, value in tensors.items() if n != "rows" and not n.startswith("kept.")})


class LeastSquares(Rule):
    """Least squares for the head over all rows so far, each discounted by ``forgetting ** age``.

    The sums and their solution are those of `lightning_modules.stream.following.HeadFit`, for each lane, in
    float64; the prior W_0 are the weights at the start of the stream.

    This is recursive least squares with exponential forgetting whose prior does not fade: directions that the
    stream no longer excites return to W_0 and cannot blow up. A row without any target is left out, and a
    single missing one is taken to be what the head predicts, which corrects nothing. For classification y is
    1 for the class and 0 elsewhere, so that the head estimates the share of each class."""

    def __init__(self, network: StreamNetwork, updates: Updates) -> None:
        self.network = network
        self.forgetting = updates.forgetting
        self.ridge = updates.ridge
        self.prior = network.head.columns().detach().double()  # (L, F + 1, O)
        self.fit = HeadFit.fresh(self.prior)

    def weights(self) -> Weights:
        return Weights([self.network.head.weight, self.network.head.bias])

    @torch.no_grad()
    def update(self, memory: Memory, known: int, new: int) -> None:
        """See `Rule.update`.

        Raises:
            DREAMError: there is no solution, because the features are not finite.
        """
        values, wanted = memory.pairs(known - new, known)
        head = self.network.head
        if self.network.shape.task == "classification":
            wanted = one_hot(wanted, self.network.shape.targets).unsqueeze(1)
        self.fit = self.fit.add(values, wanted, head.columns(), self.forgetting)
        place = f"rows {known - new} to {known - 1} of the stream"
        weights = self.fit.solve(self.prior, self.ridge, place).transpose(1, 2)
        head.weight.copy_(weights[..., :-1])
        head.bias.copy_(weights[..., -1])

    def tensors(self) -> dict[str, Tensor]:
        return {"prior": self.prior, **self.fit._asdict()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        require_gram("rule.gram", tensors["gram"])
        self.prior = tensors["prior"]
        self.fit = HeadFit(tensors["gram"], tensors["moment"])


def build_rule(network: StreamNetwork, updates: Updates, moves: Moves) -> Rule:
    """Build the rule that `updates` ask for."""
    if moves == "all":
        require(
            "updates.rule",
            updates.rule,
            updates.rule != "least_squares",
            "adam or sgd where all weights move",
        )
        return AllSteps(network, updates)
    return LeastSquares(network, updates) if updates.rule == "least_squares" else HeadSteps(network, updates)
