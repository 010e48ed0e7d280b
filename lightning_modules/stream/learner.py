"""`StreamLearner`: goes through a stream row by row: learns from the targets known so far, then predicts.

Shapes: T rows of a chunk, D input columns, C targets (classes for classification), H rows ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dream import DREAMTrace
from dream.errors import CheckpointError, DataError, StateError
from lightning_modules.calls import Whole, alone, whole
from lightning_modules.checks import require
from lightning_modules.data.limits import LARGEST
from lightning_modules.stream.checks import require_like, require_place
from lightning_modules.stream.head_rules import HeadSteps, LeastSquares, one_hot
from lightning_modules.stream.memory import Memory
from lightning_modules.stream.network import StreamNetwork
from lightning_modules.stream.reader import StreamReader
from lightning_modules.stream.rows import Read, as_array, as_tensor
from lightning_modules.stream.rules import AllSteps, HeadArrays, Moves, Rule, Updates, Weights
from lightning_modules.stream.state import StreamState, part
from lightning_modules.stream.tables import Table
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
    takes it row by row; one row alone is read in NumPy (`lightning_modules.stream.reader`).

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
        rule = AllSteps if moves == "all" else LeastSquares if updates.rule == "least_squares" else HeadSteps
        self.rule: Rule = rule(network, updates)
        self.moved: list[Weights] = []
        """Weights as they were before the first update of this call."""
        self.head = HeadArrays(network.head)
        self.memory = Memory(network)
        self.reader = StreamReader(network, fixed=not isinstance(self.rule, AllSteps))
        self.trust: Trust | None = None
        shape = network.shape
        if updates.trust > 0:
            require("updates.trust", updates.trust, shape.task != "classification", "0 for classification")
            self.trust = Trust(shape.horizon, shape.targets, updates.trust)
        self.learning = True
        """Whether slow weights and head are still updated."""
        self.forecasts = shape.task == "forecasting"
        self.lag = shape.target_lag + delay
        """When row t is predicted, rows up to t - lag have been learnt from."""
        self.row = 0
        """Rows that were read."""
        self.learnt = 0
        """Rows that were learnt from."""
        self.feedback = np.full((0 if self.forecasts else self.lag, shape.feedback), np.nan)
        """The targets of the last rows, which are the feedback of the next ones."""

    @property
    def state(self) -> StreamState:
        """Everything that the stream carries in the network."""
        return self.reader.state

    @state.setter
    def state(self, state: StreamState) -> None:
        self.reader.state = state

    def _content(self) -> dict[str, Any]:
        return super()._content() | {"moved": []}

    def _note(self) -> Any:
        owners = [self.rule, self.memory, self.reader, *([] if self.trust is None else [self.trust])]
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
        # copies, since a caller may change what it passed while it is still to be learnt from
        known = None if targets is None else as_array(targets).copy()
        predictions, make_traces = self.advance(as_array(rows).copy(), known)
        traces = make_traces()
        surprise, u_norm = (part.mean(0) for part in (traces[0].surprise, traces[0].u_norm))
        return Steps(as_tensor(predictions, self.network.head.weight), surprise, u_norm, traces)

    def advance(
        self, rows: np.ndarray, targets: np.ndarray | None = None, wanted: bool = True
    ) -> tuple[np.ndarray, Callable[[], list[DREAMTrace]]]:
        """Process rows within the call of another object, which undoes all if an exception ends it.

        Args:
            rows: (T, D) float64, which the caller leaves alone.
            targets: As `process` takes them.
            wanted: False where predictions are not wanted, so that not every row needs one.

        Returns:
            Predictions (T, H, C), of the last row at least unless `wanted`; and a function that makes the
            traces.
        """
        self._check("rows", rows)
        if self.forecasts:
            targets = rows[:, : self.network.shape.targets]
        else:
            assert targets is not None
            self._check("targets", targets)
        with self._turn():
            if len(rows) == 1 and not isinstance(self.rule, AllSteps):
                return self._advance(rows, targets, wanted)
            plasticity = self.network.core.plasticity(self.plasticity)
            with torch.inference_mode(False), torch.enable_grad(), plasticity:
                return self._advance(rows, targets, wanted)

    def _advance(
        self, rows: np.ndarray, targets: np.ndarray, wanted: bool
    ) -> tuple[np.ndarray, Callable[[], list[DREAMTrace]]]:
        feedback = self._take_feedback(targets)
        self.memory.add_rows(rows, feedback, targets)
        head = self.head.current()
        whole = None if isinstance(self.rule, AllSteps) else self._read(rows, feedback)
        start = 0 if wanted or whole is None else self._skim(whole, head)
        together = whole is not None and self.trust is None  # nothing is recorded of a piece by itself
        if whole is not None and together:
            self.memory.add_features(whole.rows(start, len(rows)), self._no_outputs(len(rows) - start))
        table = None
        if together and self.forecasts and self.learning and self.every == 1:
            table = Table.of(self.rule, self.memory, self.learnt, self.row, len(rows) - start, self.lag)
        predicted, pieces = [], []
        while start < len(rows):
            if table is not None and whole is not None:
                self._note_weights()
                if (outputs := table.outputs(self.row, self.learnt, head)) is not None:
                    stop = start + len(outputs)
                    predicted.append(self._in_units(whole.rows(start, stop), outputs))
                    self.row, self.learnt, start = self.row + len(outputs), self.learnt + len(outputs), stop
                    continue
            stop = min(start + self.every - self.row % self.every, len(rows)) if self.learning else len(rows)
            if self.forecasts:
                self._update(head)
            if whole is not None:
                piece = whole.rows(start, stop)
            else:
                piece = self._read(rows[start:stop], feedback[start:stop])
                pieces.append(piece)
            outputs, predictions = self._predict(piece, head)
            predicted.append(predictions)
            if not together:
                recorded = self._no_outputs(stop - start) if self.trust is None else outputs
                self.memory.add_features(piece, recorded)
            self.row, start = self.row + stop - start, stop
            if not self.forecasts:
                self._update(head)
        head.write()
        self.memory.forget(self._needed())
        if whole is not None:
            return np.concatenate(predicted), whole.traces
        return np.concatenate(predicted), lambda: _joined([piece.traces() for piece in pieces])

    def _skim(self, read: Read, head: HeadArrays) -> int:
        """Learn from all rows of a chunk but the last without their predictions; returns how many those are.

        With a record of predictions there are none: it needs them all.
        """
        rows = len(read.values) - 1
        if rows == 0 or self.trust is not None or not self.learning:
            return 0
        self.memory.add_features(read.rows(0, rows), self._no_outputs(rows))
        first = self.row if self.forecasts else self.row + 1
        stops = [row - self.lag + 1 for row in range(first, first + rows) if row % self.every == 0]
        stops = [known for known in stops if known > self.learnt]
        self._note_weights()
        self.rule.catch_up(self.memory, self.learnt, stops, head)
        self.row += rows
        self.learnt = stops[-1] if stops else self.learnt
        return rows

    def _no_outputs(self, rows: int) -> np.ndarray:
        return np.zeros((rows, self.network.shape.horizon, self.network.shape.targets))

    def _check(self, name: str, values: np.ndarray) -> None:
        if (bad := np.abs(values) > LARGEST).any():
            place = tuple(np.argwhere(bad)[0])
            raise DataError(
                f"`{name}` must hold finite numbers of at most {LARGEST:.1e} in size, or NaN where a value "
                f"is missing; row {self.row + place[0]} of the stream holds {float(values[place]):g}. "
                "Repair or scale it."
            )

    @alone
    def peek(self, row: Tensor) -> Tensor:
        """Prediction for `row` (D,) if it came next, (H, C); nothing changes."""
        return as_tensor(self.foresee(as_array(row)), self.network.head.weight)

    def foresee(self, row: np.ndarray) -> np.ndarray:
        """Same as `peek`, in NumPy, within the call of another object.

        What was read of the row is kept, for the case that the same row comes next.
        """
        with self._turn():
            read = self.reader.foresee(row[None], self.next_feedback, self.plasticity)
            return self._predict(read, self.head.current())[1][0]

    @property
    def next_feedback(self) -> np.ndarray:
        """Feedback with which the next row is read, (1, E)."""
        return np.zeros((1, 0)) if self.forecasts else self.feedback[:1]

    @property
    def rests(self) -> bool:
        """Whether a forecaster only reads: its head stays, and it keeps no rows and no record."""
        idle = not self.learning and self.memory.first == self.row
        return idle and self.forecasts and self.trust is None

    @property
    def follows(self) -> bool:
        """Whether the head of a forecaster is solved again at every row, and nothing was missed so far."""
        settled = self.learning and self.learnt == self.row - self.lag == self.memory.first
        solves = isinstance(self.rule, LeastSquares) and self.every == 1
        return settled and solves and self.forecasts and self.trust is None

    def _predict(self, read: Read, head: HeadArrays) -> tuple[np.ndarray, np.ndarray]:
        """The head's outputs for each row, in its own units, and the predictions, both (T, H, C)."""
        outputs = self.network.to_targets(head(read.values))
        shrunk = outputs if self.trust is None else outputs * self.trust.factor()
        return outputs, self._in_units(read, shrunk)

    def _in_units(self, read: Read, outputs: np.ndarray) -> np.ndarray:
        """The head's outputs (T, H, C) in the data's units."""
        scale = np.where(np.isnan(read.scale), 0.0, read.scale)  # without one the level stays
        return read.level[:, None] + scale[:, None] * outputs

    def _take_feedback(self, targets: np.ndarray) -> np.ndarray:
        """The feedback for each row of a chunk, (T, C); keeps that for the rows after it."""
        shape = self.network.shape
        if self.forecasts:
            return np.zeros((len(targets), 0))
        if shape.task == "classification":
            targets = one_hot(targets, shape.targets)
        line = np.concatenate([self.feedback, targets])
        self.feedback = line[len(targets) :].copy()
        return line[: len(targets)]

    def _read(self, rows: np.ndarray, feedback: np.ndarray) -> Read:
        """Features of the next rows; moves the state on."""
        if isinstance(self.rule, AllSteps) and self.learning and self.row % self.every == 0:
            self.rule.before(self.row, self.state)
        return self.reader.read(rows, feedback, self.plasticity)

    def _note_weights(self) -> None:
        if not self.moved:
            self.moved.append(self.rule.weights())

    def _update(self, head: HeadArrays) -> None:
        """Learn from the targets that are known before row `self.row` is predicted, if an update is due."""
        known = self.row - self.lag + 1
        if self.learning and self.row % self.every == 0 and known > self.learnt:
            self._keep_record(self.learnt, known)
            self._note_weights()
            self.rule.update(self.memory, known, known - self.learnt, head)
            self.learnt = known

    def _keep_record(self, start: int, stop: int) -> None:
        """Enter the forecasts of these rows in the record, once the head has seen enough rows."""
        if self.trust is None:
            return
        start = max(start, SEEN_ENOUGH * self.network.head.weight.shape[-1])
        if start < stop:
            level, scale = self.memory("level", start, stop), self.memory("scale", start, stop)
            came = self.memory.changes(start, stop, level, scale)
            # without its target a forecast counts as none
            unknown = np.isnan(came)
            forecast = np.where(unknown, 0.0, self.memory("outputs", start, stop))
            self.trust.add(forecast, np.where(unknown, 0.0, came))

    def _needed(self) -> int:
        """Number of the oldest row that a later update may read."""
        if not self.learning:
            return self.row
        return max(min(self.learnt, self.rule.oldest(self.row - self.lag + 1)), 0)

    @alone
    def tensors(self, core: bool = True) -> dict[str, Tensor]:
        """A copy of everything that `load` needs to resume the stream, by name; without the core's weights
        unless `core`."""
        return {name: value.clone() for name, value in self._carried(core).items()}

    def _carried(self, core: bool = True) -> dict[str, Tensor]:
        head = {f"head.{name}": value for name, value in self.network.head.state_dict().items()}
        parts = {
            "network": self.network.state_dict() if core else head,
            "state": self.state.tensors(),
            "memory": self.memory.tensors(),
            "rule": self.rule.tensors(),
            "trust": {} if self.trust is None else self.trust.tensors(),
        }
        named = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        place = torch.tensor([self.row, self.learnt, self.memory.first, int(self.learning)])
        return named | {"feedback": torch.from_numpy(self.feedback), "place": place}

    @whole
    def load(self, tensors: Mapping[str, Tensor], core: bool = True) -> None:
        """Resume from what `tensors` returned for a learner of the same settings, with the same `core`.

        Raises:
            CheckpointError: another learner's, or values that none holds; nothing is changed.
        """
        with torch.inference_mode(False):  # copies, see `process`
            own = {name: value.clone() for name, value in tensors.items()}
        rule = {f"rule.{name}": value for name, value in self.rule.like(part(own, "rule.")).items()}
        others = {name: value for name, value in self._carried(core).items() if not name.startswith("rule.")}
        require_like(own, others | rule)
        classes = self.network.shape.targets if self.network.shape.task == "classification" else None
        require_place(own["place"], part(own, "memory."), classes)
        try:
            self.moved += [Weights(list(self.network.state_dict().values())), self.rule.weights()]
            self._load(own, core)
            for state in self.state.core:
                state.require_sound()
        except StateError as error:
            raise CheckpointError(f"the state of the layer is damaged: {error}") from None

    @staticmethod
    def owns(name: str) -> bool:
        """Whether a tensor of this name is one that `tensors` returns."""
        first = name.partition(".")[0]
        return first in ("network", "state", "memory", "rule", "trust", "feedback", "place")

    def _load(self, tensors: Mapping[str, Tensor], core: bool) -> None:
        if core:
            self.network.load_state_dict(part(tensors, "network."))
        else:
            self.network.head.load_state_dict(part(tensors, "network.head."))
        self.state = self.state.with_tensors(part(tensors, "state."))
        self.row, self.learnt, first, learning = tensors["place"].tolist()
        self.learning = bool(learning)
        self.memory.load(part(tensors, "memory."), first)
        self.rule.load(part(tensors, "rule."))
        if self.trust is not None:
            self.trust.load(part(tensors, "trust."))
        self.feedback = as_array(tensors["feedback"])


def _joined(pieces: list[list[DREAMTrace]]) -> list[DREAMTrace]:
    """Traces of the layers over several pieces of a chunk, one after another."""
    return [
        DREAMTrace(*(torch.cat(parts, 1) for parts in zip(*layer, strict=True)))
        for layer in zip(*pieces, strict=True)
    ]
