"""`Watcher`: a trained `AnomalyModule` that reads one stream row by row.

Shapes: T rows, C columns, I inputs of the core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dream import DREAMStack, DREAMState
from dream.errors import CheckpointError, StateError
from dream.ops.stepping import Stepper
from lightning_modules.anomaly.carried import Carried
from lightning_modules.anomaly.data import AnomalyShape
from lightning_modules.anomaly.scores import AnomalyScore, RunningScale, duplicate
from lightning_modules.anomaly.settings import AnomalySettings
from lightning_modules.checks import require_finite
from lightning_modules.cores import BaselineCore
from lightning_modules.stream.rows import as_array

WEIGHTS = "network."
"""Beginning of the names of weights."""
Steppers = dict[bool, list[Stepper] | None]
"""Steppers of the layers by whether the fast weights learn; None where there is no faster way for one row."""


class Watcher:
    """Scores the rows of one stream as `AnomalyModule` does, before it learns from them.

    The attributes are replaced and never changed in place.

    Args:
        core: A trained core, on the CPU, whose weights stay.
        settings: Those of its module.
        shape: Columns and lags.
        training: Rows of the training part; they teach in any case, later ones where `settings.adapt`.
    """

    def __init__(
        self,
        core: DREAMStack | BaselineCore,
        settings: AnomalySettings,
        shape: AnomalyShape,
        training: int,
    ) -> None:
        self.core = core.eval()
        if isinstance(core, DREAMStack):
            core.missing = True
        self.settings = settings
        self.shape = shape
        self.training = training
        self.row = 0
        """Rows that were read."""
        self._begin(Carried.fresh(core, settings, shape, training))
        self.steppers: Steppers = {}
        """Made when they are first asked for; the streams of one core may share them."""

    def _begin(self, carried: Carried) -> None:
        self.inputs = carried.inputs
        self.score = carried.score
        self._states: list[DREAMState | np.ndarray] = list(carried.states)

    def __getstate__(self) -> dict[str, Any]:
        # what was made ready for single rows points into memory that a copy does not share
        return vars(self) | {"_states": self.states, "steppers": {}}

    @property
    def states(self) -> list[DREAMState]:
        """State of each layer of the core."""
        found = []
        for k, state in enumerate(self._states):
            if not isinstance(state, DREAMState):
                steppers = self._ready(learns=True)
                assert steppers is not None  # they made it
                state = steppers[k].state(state)
            found.append(state)
        return found

    @property
    def last(self) -> np.ndarray:
        """(C,) values of the row before; NaN where there was none."""
        scale = self.inputs.scale
        return np.where(scale.rows[0, : self.shape.channels] > 0, scale.last[0], np.nan)

    def copy(self) -> Watcher:
        """Another one with the same past, which shares the core."""
        new = duplicate(self)
        new.inputs = self.inputs.copy()
        new.score = self.score.copy()
        return new

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores and alarms (T,) of the next rows (T, C), NaN where a value is missing.

        Raises:
            DREAMError: a prediction is not finite.
        """
        places = np.arange(self.row, self.row + len(rows))
        learning = (places < self.training) | self.settings.adapt
        with np.errstate(invalid="ignore", over="ignore"):
            relative = self.inputs.read(rows[None], learning[None])
        border = min(max(self.training - self.row, 0), len(rows)) if not self.settings.adapt else len(rows)
        parts = [
            self._scan(relative.inputs[0, start:stop], bool(learning[start]))
            for start, stop in ((0, border), (border, len(rows)))
            if start < stop
        ]
        prediction, gate = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
        if not np.isfinite(prediction).all():
            require_finite({"the prediction": prediction}, lambda row: f"row {self.row + row}")
        x = relative.x
        scores, alarms = self.score.read(x, prediction[None, :, : x.shape[-1]], gate[None], learning[None])
        self.row += len(rows)
        return scores[0], alarms[0]

    @classmethod
    def together(
        cls, watchers: Sequence[Watcher], rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, list[Watcher]] | None:
        """Scores and alarms (N,) of the next row (N, C) of each of N streams, and what reads on after it.

        The watchers share a core, and are left as they are. The numbers of a stream are those of the stream
        alone. None where rows cannot be read at once.
        """
        first = watchers[0]
        learns, *others = (one.row < one.training or one.settings.adapt for one in watchers)
        steppers = first._ready(learns)
        apart = any(one.steppers is not first.steppers for one in watchers)
        if steppers is None or apart or any(other != learns for other in others):
            return None
        learning = np.full((len(rows), 1), learns)
        inputs = duplicate(first.inputs)
        inputs.scale = RunningScale.beside([one.inputs.scale for one in watchers])
        inputs.recent = torch.cat([one.inputs.recent for one in watchers])
        with np.errstate(invalid="ignore", over="ignore"):
            relative = inputs.read(rows[:, None], learning)
        after = [duplicate(one) for one in watchers]
        steps = [one._step(own, steppers) for one, own in zip(after, relative.inputs, strict=True)]
        prediction, gate = (np.stack(part) for part in zip(*steps, strict=True))
        if not np.isfinite(prediction).all():
            return None
        score = AnomalyScore.beside([one.score for one in watchers])
        x = relative.x
        scores, alarms = score.read(x, prediction[..., : x.shape[-1]], gate, learning)
        owners = zip(after, inputs.scale.apart(), inputs.recent.split(1), score.apart(), strict=True)
        for one, scale, recent, own in owners:
            one.inputs, one.score = duplicate(inputs), own
            one.inputs.scale, one.inputs.recent = scale, recent
            one.row += 1
        return scores[:, 0], alarms[:, 0], after

    def _scan(self, inputs: np.ndarray, learns: bool) -> tuple[np.ndarray, np.ndarray]:
        """Prediction (T, I) of the core's inputs (T, I), and its deviation and surprise (T, 2)."""
        if len(inputs) == 1 and (steppers := self._ready(learns)) is not None:
            return self._step(inputs, steppers)
        plastic = learns and self.core.plasticity_enabled
        parameter = next(self.core.parameters())
        x = torch.from_numpy(inputs)[None].to(parameter)
        with torch.no_grad(), self.core.plasticity(plastic):
            _, (trace, *_), states = self.core.trace(x, self.states)
        self._states = list(states)
        gate = torch.stack([trace.deviation[0], trace.surprise[0]], -1)
        return as_array(trace.prediction[0]), as_array(gate)

    def _step(self, inputs: np.ndarray, steppers: list[Stepper]) -> tuple[np.ndarray, np.ndarray]:
        after: list[DREAMState | np.ndarray] = []
        seen = first = inputs
        for stepper, state in zip(steppers, self._states, strict=True):
            stepper.x[...] = seen
            made = stepper(stepper.start(state) if isinstance(state, DREAMState) else state)
            seen = stepper.output(made)
            after.append(made)
            first = made if stepper is steppers[0] else first
        self._states = after
        layer = steppers[0]
        gate = np.concatenate([layer.part(first, name) for name in ("deviation", "surprise")])
        return layer.part(first, "prediction")[:, 0], gate[None]

    def _ready(self, learns: bool) -> list[Stepper] | None:
        """Steppers of the layers; None where the core has no faster way for one row."""
        if learns not in self.steppers:
            made: list[Stepper | None] = [None]
            if isinstance(self.core, DREAMStack):
                with self.core.plasticity(learns and self.core.plasticity_enabled):
                    made = [layer.stepper(1) for layer in self.core._layers()]
            fast = [stepper for stepper in made if stepper is not None]
            self.steppers[learns] = fast if len(fast) == len(made) else None
        return self.steppers[learns]

    def share(self, first: Watcher) -> None:
        """Read single rows with what `first`, which has the same core, made ready for them."""
        self.steppers = first.steppers

    def signals(self) -> tuple[float, float]:
        """Running surprise and norm of the fast weights of the first layer."""
        state, steppers = self._states[0], self._ready(learns=True)
        if isinstance(state, np.ndarray) and steppers is not None:
            surprise, u_norm = (
                float(steppers[0].part(state, name)[0]) for name in ("avg_surprise", "u_norm")
            )
            return surprise, u_norm
        state = self.states[0]
        return float(state.avg_surprise.mean()), float(state.U.flatten(1).norm(dim=1).mean())

    def tensors(self, core: bool = True) -> dict[str, Tensor]:
        """Everything by name, in its memory: what `load` needs and, with `core`, weights after `WEIGHTS`."""
        weights = self.core.state_dict() if core else {}
        carried = Carried(self.inputs, self.score, self.states).tensors()
        named = {WEIGHTS + name: value for name, value in weights.items()}
        return named | carried | {"place": torch.tensor(self.row)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from what `tensors` returned, without weights, for another one of these settings.

        Raises:
            CheckpointError: it is of other settings, or damaged.
        """
        place = tensors["place"]
        if place.dim() or place.dtype != torch.int64 or place < 0:
            raise CheckpointError(f"`place` must be a number of rows; got {place.tolist()}.")
        self.resume({name: value for name, value in tensors.items() if name != "place"}, int(place))

    def resume(self, tensors: Mapping[str, Tensor], row: int) -> None:
        """Go on with a stream of which `row` rows were read, from all that it carried.

        Raises:
            CheckpointError: it is of other settings, or damaged.
        """
        fresh = Carried.fresh(self.core, self.settings, self.shape, self.training)
        try:
            self._begin(fresh.resumed(tensors))
        except StateError as error:
            raise CheckpointError(f"the state of the layer is damaged: {error}") from None
        self.row = row
