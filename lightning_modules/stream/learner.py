"""`StreamLearner`: reads a stream in order; at each row it learns from what has become known, then predicts.

Shapes: T rows of a chunk, D input columns, C targets (classes for classification), H rows ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from dream import DREAMTrace
from dream.errors import DataError
from lightning_modules.checks import require
from lightning_modules.data.limits import LARGEST
from lightning_modules.stream.memory import Memory
from lightning_modules.stream.network import StreamNetwork
from lightning_modules.stream.rules import AllSteps, Moves, Updates, build_rule
from lightning_modules.stream.state import Features
from lightning_modules.stream.trust import Trust

SEEN_ENOUGH = 10  # rows for each feature of the head before its forecasts are judged


class Steps(NamedTuple):
    """What a learner said about each row of a chunk, and what its first layer saw."""

    predictions: Tensor
    """(T, H, C) in the data's unit; for classification the head's figures for each class."""
    surprise: Tensor
    """(T,) mean over lanes"""
    u_norm: Tensor
    """(T,) mean over lanes"""
    traces: list[DREAMTrace]
    """Of every layer, (lanes, T, ...)"""


class StreamLearner:
    """One stream, one network, and the rule that moves its weights: learn from what is known, then predict.

    Row t is predicted with weights that have seen targets up to row t only. Forecasting learns, on reading
    row t, from forecasts made at row t - horizon - delay and before; the other tasks learn, once row t has
    been predicted, from rows up to t - delay. An update is due before every row whose number is a multiple of
    `updates.every`. Any cut of a stream into chunks gives the same predictions, to rounding.

    While the core's slow weights rest, the features of a chunk come from one scan and only the head goes row
    by row.

    Args:
        network: Is changed; give a copy to keep the first weights.
        updates: How the weights follow the stream.
        moves: What learns: the head, or all weights.
        plasticity: Whether the fast weights learn.
        delay: Rows that a target is late.
    """

    def __init__(
        self,
        network: StreamNetwork,
        updates: Updates,
        moves: Moves = "head",
        plasticity: bool = True,
        delay: int = 0,
    ) -> None:
        self.network, self.every, self.plasticity = network.eval(), updates.every, plasticity
        self.rule, self.memory, self.state = (
            build_rule(network, updates, moves),
            Memory(network),
            network.init_state(),
        )
        self.trust: Trust | None = None
        shape = network.shape
        if updates.trust > 0:
            require("updates.trust", updates.trust, shape.task != "classification", "0 for classification")
            self.trust = Trust(shape.horizon, shape.targets, updates.trust, network.head.weight.device)
        self.learning = True
        """False: slow weights and head stay as they are from now on."""
        self.forecasts = network.shape.task == "forecasting"
        self.lag = (network.shape.horizon if self.forecasts else 1) + delay
        """When row t is predicted, rows up to t - lag have been learnt from."""
        self.row, self.learnt = 0, 0
        """Rows that were read, and rows that were learnt from."""
        self.told = torch.full(
            (0 if self.forecasts else self.lag, network.shape.told), torch.nan, dtype=torch.float64
        )
        """The targets of the last rows, which the next rows will be told."""
        self.told = self.told.to(network.head.weight.device)

    def process(self, rows: Tensor, targets: Tensor | None = None) -> Steps:
        """Predict every row of a chunk in order, learning on the way.

        Args:
            rows: (T, D) float64.
            targets: (T, C) float64 for regression, (T,) class numbers for classification, None for
                forecasting, whose targets are rows. Row t's is used for nothing before row t has been
                predicted.

        Raises:
            DataError: a value that is infinite, or so large that its square is not finite in float32; nothing
                was read.
        """
        self._check("rows", rows)
        if self.forecasts:
            targets = rows[:, : self.network.shape.targets]
        assert targets is not None
        self._check("targets", targets)
        with torch.inference_mode(False), torch.enable_grad():
            rows, targets = (
                rows.clone(),
                targets.clone(),
            )  # tensors that were made in inference mode cannot be learnt from
            told = self._tell(targets)
            self.memory.add_rows(rows, told, targets)
            whole = None if isinstance(self.rule, AllSteps) else self._read(rows, told)
            outputs, seen, start = [], [], 0
            for stop in self._cuts(len(rows)):
                if self.forecasts:
                    self._update()
                part = (
                    self._read(rows[start:stop], told[start:stop])
                    if whole is None
                    else whole.rows(slice(start, stop))
                )
                said, predictions = self._predict(part)
                outputs.append(predictions)
                self.memory.add_features(part, said)
                if whole is None:
                    seen.append(part.traces)
                self.row, start = self.row + stop - start, stop
                if not self.forecasts:
                    self._update()
            traces = (
                whole.traces
                if whole is not None
                else [
                    DREAMTrace(*(torch.cat(pieces, 1) for pieces in zip(*layer, strict=True)))
                    for layer in zip(*seen, strict=True)
                ]
            )
            self.memory.forget(self._needed())
        return Steps(torch.cat(outputs), traces[0].surprise.mean(0), traces[0].u_norm.mean(0), traces)

    def _check(self, name: str, values: Tensor) -> None:
        if bool((bad := values.abs() > LARGEST).any()):
            place = bad.nonzero()[0].tolist()
            raise DataError(
                f"`{name}` must hold finite numbers of at most {LARGEST:.1e} in size, or NaN where a value "
                "is missing; row "
                f"{self.row + place[0]} of the stream holds {float(values[tuple(place)]):g}. Repair or scale "
                "it."
            )

    def peek(self, row: Tensor) -> Tensor:
        """What would be said of `row` (D,) if it came next, (H, C); nothing changes."""
        told = self.told[:1]
        with torch.no_grad(), self.network.stack.plasticity(self.plasticity):
            features, _ = self.network.features(row[None, None], self.state, told[None])
        return self._predict(features)[1][0]

    @torch.no_grad()
    def _predict(self, features: Features) -> tuple[Tensor, Tensor]:
        """What the head says of each row, in its own units, and the predictions that come of it, (T, H, C)
        both."""
        said = self.network.outputs(features)[0]
        believed = said if self.trust is None else said * self.trust.factor()
        return said, self.network.to_data(believed, features)[0]

    def _tell(self, targets: Tensor) -> Tensor:
        """The newest known target for each row of a chunk, (T, C), and keep those for the rows after it."""
        shape = self.network.shape
        if self.forecasts:
            return self.told.new_zeros(len(targets), 0)
        if shape.task == "classification":
            targets = one_hot(targets, shape.targets).to(self.told)
        line = torch.cat([self.told, targets])
        self.told = line[len(targets) :].clone()
        return line[: len(targets)]

    def _read(self, rows: Tensor, told: Tensor) -> Features:
        """The features of the next rows; the state goes on."""
        if self.learning and self.row % self.every == 0:
            self.rule.before(self.row, self.state)
        with torch.no_grad(), self.network.stack.plasticity(self.plasticity):
            features, self.state = self.network.features(rows[None], self.state, told[None])
        return features

    def _cuts(self, rows: int) -> Iterator[int]:
        """Where the next rows of a chunk are cut, so that an update can fall before each piece."""
        if self.learning:
            yield from range(self.every - self.row % self.every, rows, self.every)
        yield rows

    def _update(self) -> None:
        """Learn from what is known before row `self.row` is predicted, if an update is due."""
        known = self.row - self.lag + 1
        if self.learning and self.row % self.every == 0 and known > self.learnt:
            self._keep_record(self.learnt, known)
            with self.network.stack.plasticity(self.plasticity):
                self.rule.update(self.memory, known, known - self.learnt)
            self.learnt = known

    def _keep_record(self, start: int, stop: int) -> None:
        """Enter how the forecasts of these rows did, once the head has seen enough rows to be judged."""
        start = max(start, SEEN_ENOUGH * self.network.head.weight.shape[-1])
        if self.trust is not None and start < stop:
            level, scale = self.memory("level", start, stop), self.memory("scale", start, stop)
            came = self.memory.changes(start, stop, level, scale)
            said = torch.where(
                came.isnan(), 0.0, self.memory("said", start, stop)
            )  # a missing target says nothing
            self.trust.add(said, came.nan_to_num())

    def _needed(self) -> int:
        """The oldest row that a later update may ask for."""
        if not self.learning:
            return self.row
        return max(min(self.learnt, self.rule.oldest(self.row - self.lag + 1)), 0)

    def tensors(self) -> dict[str, Tensor]:
        """All that a stream needs to go on, by name."""
        parts = {
            "network": self.network.state_dict(),
            "state": self.state.tensors(),
            "memory": self.memory.tensors(),
            "rule": self.rule.tensors(),
            "trust": {} if self.trust is None else self.trust.tensors(),
        }
        named = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        place = torch.tensor([self.row, self.learnt, self.memory.first, int(self.learning)])
        return named | {"told": self.told, "place": place}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave to a learner of the same settings."""

        def part(name: str) -> dict[str, Tensor]:
            return {
                key.removeprefix(f"{name}."): value
                for key, value in tensors.items()
                if key.startswith(f"{name}.")
            }

        self.network.load_state_dict(part("network"))
        self.state = self.state.with_tensors(part("state"))
        self.row, self.learnt, first, learning = tensors["place"].tolist()
        self.learning = bool(learning)
        self.memory.load(part("memory"), first)
        self.rule.load(part("rule"))
        if self.trust is not None:
            self.trust.load(part("trust"))
        self.told = tensors["told"]
