"""`StreamLearner`: goes through a stream row by row: learns from the targets known so far, then predicts.

Shapes: T rows of a chunk, D input columns, C targets (classes for classification), H rows ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from dream import DREAMTrace
from dream.errors import CheckpointError, DataError, StateError
from lightning_modules.calls import Whole, alone, whole
from lightning_modules.checks import require
from lightning_modules.data.limits import LARGEST
from lightning_modules.stream.checks import require_like, require_place
from lightning_modules.stream.memory import Memory
from lightning_modules.stream.network import StreamNetwork
from lightning_modules.stream.rules import AllSteps, Moves, Updates, Weights, build_rule
from lightning_modules.stream.state import Features, part
from lightning_modules.stream.trust import Trust

SEEN_ENOUGH = 10  # rows for each feature of the head before its forecasts enter the record


class Steps(NamedTuple):
    """Predictions for the rows of a chunk, and the traces of the layers."""

    predictions: Tensor
    """(T, H, C) in the data's unit; for classification the head's output for each class."""
    surprise: Tensor
    """(T,) surprise of the first layer, mean over lanes."""
    u_norm: Tensor
    """(T,) norm of the first layer's fast weights, mean over lanes."""
    traces: list[DREAMTrace]
    """Trace of every layer, (lanes, T, ...)."""


class StreamLearner(Whole):
    """One stream, one network, and the rule that updates its weights: learn from what is known, then predict.

    Row t is predicted with weights that have seen targets up to row t only. Forecasting learns, on reading
    row t, from forecasts made at row t - horizon - delay and before; the other tasks learn, once row t has
    been predicted, from rows up to t - delay. An update is due before every row whose number is a multiple of
    `updates.every`. The predictions do not depend on how a stream is cut into chunks, but for rounding.

    While the core's slow weights are fixed, the features of a chunk come from one scan, and only the head
    takes it row by row.

    Any thread may use it: calls wait for each other. A call that an error or Ctrl-C ends changes nothing.

    Args:
        network: Changed in place; pass a copy to keep the first weights.
        updates: How and when the weights are updated.
        moves: Which weights are updated: the head's, or all.
        plasticity: Whether the fast weights learn.
        delay: Rows by which targets come late.
    """

    def __init__(
        self,
        network: StreamNetwork,
        updates: Updates,
        moves: Moves = "head",
        plasticity: bool = True,
        delay: int = 0,
    ) -> None:
        self.network = network.eval()
        self.every = updates.every
        self.plasticity = plasticity
        self.rule = build_rule(network, updates, moves)
        self.moved: list[Weights] = []
        """Weights as they were before the first update of this call."""
        self.memory = Memory(network)
        self.state = network.init_state()
        self.trust: Trust | None = None
        shape, weight = network.shape, network.head.weight
        if updates.trust > 0:
            require("updates.trust", updates.trust, shape.task != "classification", "0 for classification")
            self.trust = Trust(shape.horizon, shape.targets, updates.trust, weight.device)
        self.learning = True
        """Whether slow weights and head are still updated."""
        self.forecasts = shape.task == "forecasting"
        self.lag = shape.target_lag + delay
        """When row t is predicted, rows up to t - lag have been learnt from."""
        self.row = 0
        """Rows that were read."""
        self.learnt = 0
        """Rows that were learnt from."""
        size = 0 if self.forecasts else self.lag, shape.feedback
        self.feedback = torch.full(size, torch.nan, dtype=torch.float64, device=weight.device)
        """The targets of the last rows, which are the feedback of the next ones."""

    def _content(self) -> dict[str, Any]:
        return super()._content() | {"moved": []}

    def _note(self) -> Any:
        owners = [self.rule, self.memory, *([] if self.trust is None else [self.trust])]
        facts = [(vars(owner), dict(vars(owner))) for owner in owners]
        self.moved = []
        return self.moved, facts, self._content()

    def _recover(self, note: Any) -> None:
        moved, facts, own = note
        for weights in reversed(moved):
            weights.restore()
        for now, before in facts:
            now.update(before)
        vars(self).update(own)

    @whole
    def process(self, rows: Tensor, targets: Tensor | None = None) -> Steps:
        """Predict every row of a chunk in order, learning on the way.

        Args:
            rows: (T, D) float64.
            targets: (T, C) float64 for regression, (T,) class numbers for classification, None for
                forecasting, whose targets are rows. That of row t is not used before row t has been
                predicted.

        Raises:
            DataError: a value is infinite, or so large that its square is not finite in float32; nothing was
                read.
        """
        return self.advance(rows, targets)

    def advance(self, rows: Tensor, targets: Tensor | None = None) -> Steps:
        """Process rows within the call of another object, which undoes all if an exception ends it."""
        self._check("rows", rows)
        if self.forecasts:
            targets = rows[:, : self.network.shape.targets]
        assert targets is not None
        self._check("targets", targets)
        with torch.inference_mode(False), torch.enable_grad():
            # copies, since tensors that were made in inference mode cannot be learnt from
            rows, targets = rows.clone(), targets.clone()
            feedback = self._take_feedback(targets)
            self.memory.add_rows(rows, feedback, targets)
            whole = None if isinstance(self.rule, AllSteps) else self._read(rows, feedback)
            predicted, pieces, start = [], [], 0
            for stop in self._cuts(len(rows)):
                if self.forecasts:
                    self._update()
                if whole is not None:
                    piece = whole.rows(slice(start, stop))
                else:
                    piece = self._read(rows[start:stop], feedback[start:stop])
                    pieces.append(piece.traces)
                outputs, predictions = self._predict(piece)
                predicted.append(predictions)
                self.memory.add_features(piece, outputs)
                self.row, start = self.row + stop - start, stop
                if not self.forecasts:
                    self._update()
            if whole is not None:
                traces = whole.traces
            else:
                layers = zip(*pieces, strict=True)
                traces = [
                    DREAMTrace(*(torch.cat(p, 1) for p in zip(*layer, strict=True))) for layer in layers
                ]
            self.memory.forget(self._needed())
        return Steps(torch.cat(predicted), traces[0].surprise.mean(0), traces[0].u_norm.mean(0), traces)

    def _check(self, name: str, values: Tensor) -> None:
        if bool((bad := values.abs() > LARGEST).any()):
            place = bad.nonzero()[0].tolist()
            raise DataError(
                f"`{name}` must hold finite numbers of at most {LARGEST:.1e} in size, or NaN where a value "
                f"is missing; row {self.row + place[0]} of the stream holds {float(values[tuple(place)]):g}. "
                "Repair or scale it."
            )

    @alone
    def peek(self, row: Tensor) -> Tensor:
        """Prediction for `row` (D,) if it came next, (H, C); nothing changes."""
        feedback = self.feedback[:1]
        with torch.no_grad(), self.network.core.plasticity(self.plasticity):
            features, _ = self.network.features(row[None, None], self.state, feedback[None])
        return self._predict(features)[1][0]

    @torch.no_grad()
    def _predict(self, features: Features) -> tuple[Tensor, Tensor]:
        """The head's outputs for each row, in its own units, and the predictions, both (T, H, C)."""
        outputs = self.network.outputs(features)[0]
        shrunk = outputs if self.trust is None else outputs * self.trust.factor()
        return outputs, self.network.to_data(shrunk, features)[0]

    def _take_feedback(self, targets: Tensor) -> Tensor:
        """The feedback for each row of a chunk, (T, C); keeps that for the rows after it."""
        shape = self.network.shape
        if self.forecasts:
            return self.feedback.new_zeros(len(targets), 0)
        if shape.task == "classification":
            targets = one_hot(targets, shape.targets).to(self.feedback)
        line = torch.cat([self.feedback, targets])
        self.feedback = line[len(targets) :].clone()
        return line[: len(targets)]

    def _read(self, rows: Tensor, feedback: Tensor) -> Features:
        """Features of the next rows; moves the state on."""
        if self.learning and self.row % self.every == 0:
            self.rule.before(self.row, self.state)
        with torch.no_grad(), self.network.core.plasticity(self.plasticity):
            features, self.state = self.network.features(rows[None], self.state, feedback[None])
        return features

    def _cuts(self, rows: int) -> Iterator[int]:
        """Places at which a chunk is cut, so that an update can fall before each piece."""
        if self.learning:
            yield from range(self.every - self.row % self.every, rows, self.every)
        yield rows

    def _update(self) -> None:
        """Learn from the targets that are known before row `self.row` is predicted, if an update is due."""
        known = self.row - self.lag + 1
        if self.learning and self.row % self.every == 0 and known > self.learnt:
            self._keep_record(self.learnt, known)
            if not self.moved:
                self.moved.append(self.rule.weights())
            with self.network.core.plasticity(self.plasticity):
                self.rule.update(self.memory, known, known - self.learnt)
            self.learnt = known

    def _keep_record(self, start: int, stop: int) -> None:
        """Enter the forecasts of these rows in the record, once the head has seen enough rows."""
        start = max(start, SEEN_ENOUGH * self.network.head.weight.shape[-1])
        if self.trust is not None and start < stop:
            level, scale = self.memory("level", start, stop), self.memory("scale", start, stop)
            came = self.memory.changes(start, stop, level, scale)
            # without its target a forecast counts as none
            forecast = torch.where(came.isnan(), 0.0, self.memory("outputs", start, stop))
            self.trust.add(forecast, came.nan_to_num())

    def _needed(self) -> int:
        """Number of the oldest row that a later update may read."""
        if not self.learning:
            return self.row
        return max(min(self.learnt, self.rule.oldest(self.row - self.lag + 1)), 0)

    @alone
    def tensors(self) -> dict[str, Tensor]:
        """A copy of everything that `load` needs to resume the stream, by name."""
        return {name: value.clone() for name, value in self._carried().items()}

    def _carried(self) -> dict[str, Tensor]:
        parts = {
            "network": self.network.state_dict(),
            "state": self.state.tensors(),
            "memory": self.memory.tensors(),
            "rule": self.rule.tensors(),
            "trust": {} if self.trust is None else self.trust.tensors(),
        }
        named = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        place = torch.tensor([self.row, self.learnt, self.memory.first, int(self.learning)])
        return named | {"feedback": self.feedback, "place": place}

    @whole
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from what `tensors` returned for a learner of the same settings.

        Raises:
            CheckpointError: another learner's, or values that none holds; nothing is changed.
        """
        with torch.inference_mode(False):  # copies, see `process`
            own = {name: value.clone() for name, value in tensors.items()}
        rule = {f"rule.{name}": value for name, value in self.rule.like(part(own, "rule.")).items()}
        others = {name: value for name, value in self._carried().items() if not name.startswith("rule.")}
        require_like(own, others | rule)
        classes = self.network.shape.targets if self.network.shape.task == "classification" else None
        require_place(own["place"], part(own, "memory."), classes)
        try:
            self.moved += [Weights(list(self.network.state_dict().values())), self.rule.weights()]
            self._load(own)
            for state in self.state.core:
                state.require_sound()
        except StateError as error:
            raise CheckpointError(f"the state of the layer is damaged: {error}") from None

    @staticmethod
    def owns(name: str) -> bool:
        """Whether a tensor of this name is one that `tensors` returns."""
        first = name.partition(".")[0]
        return first in ("network", "state", "memory", "rule", "trust", "feedback", "place")

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(part(tensors, "network."))
        self.state = self.state.with_tensors(part(tensors, "state."))
        self.row, self.learnt, first, learning = tensors["place"].tolist()
        self.learning = bool(learning)
        self.memory.load(part(tensors, "memory."), first)
        self.rule.load(part(tensors, "rule."))
        if self.trust is not None:
            self.trust.load(part(tensors, "trust."))
        self.feedback = tensors["feedback"]
