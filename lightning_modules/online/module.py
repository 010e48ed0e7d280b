"""`OnlineModule`: prequential learning on a stream: predict, score, then learn.

Shapes: N crops, T rows, D input columns, C targets (classes for classification), H rows ahead.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import lightning as L
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy, huber_loss, one_hot

from dream import DREAMConfig, DREAMStack
from lightning_modules import ranks
from lightning_modules.base import PredictiveSettings, TaskModule, as_instance, require, require_finite
from lightning_modules.cores import BaselineCore
from lightning_modules.online.data import STRIDE, OnlineBatch, OnlineData, OnlineShape
from lightning_modules.online.record import StreamRecord
from lightning_modules.stream import (
    Features,
    Reading,
    Steps,
    StreamLearner,
    StreamNetwork,
    StreamState,
    Updates,
)
from lightning_modules.stream.network import CHANGE_LIMIT, class_shares

Mode = Literal[
    "fast weights + head", "head", "fast weights", "frozen", "fast weights + all weights", "all weights"
]
SMALLEST = 1e-6  # root mean square of a target that never moves
OUTLIER = 3.0  # root mean squares beyond which an error in training counts linearly


@dataclass(frozen=True)
class OnlineSettings(PredictiveSettings):
    """Settings of `OnlineModule`."""

    prediction_weight: float = 0.3
    reading: Reading = Reading()  # noqa: RUF009 - frozen
    """How rows are made relative, and which of them the head reads."""
    updates: Updates = Updates()  # noqa: RUF009 - frozen
    """How the head follows the stream."""
    all_updates: Updates = Updates(every=24, replay=96, lr=3e-4)  # noqa: RUF009 - frozen
    """How all weights follow it, in the modes that move them."""
    modes: list[Mode] = field(
        default_factory=lambda: ["fast weights + head", "head", "fast weights", "frozen"]
    )
    """What learns while the stream is read; a row of the table for each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "reading", as_instance(Reading, self.reading))
        object.__setattr__(self, "updates", as_instance(Updates, self.updates))
        object.__setattr__(self, "all_updates", as_instance(Updates, self.all_updates))
        modes, known = self.modes, get_args(Mode)
        fits = bool(modes) and set(modes) <= set(known) and len(set(modes)) == len(modes)
        require("modes", modes, fits, f"some of {known}, each once")


class OnlineModule(TaskModule):
    """Learns from the warm-up part of a stream, then reads the stream once: predict, score, learn when the
    truth arrives.

    A `lightning_modules.stream.StreamNetwork` reads the rows. Training on crops minimises ``huber((head -
    wanted) / rms, 3) + prediction_weight * MSE(layer's predictions, layer's input)``, where `wanted` is the
    target relative to the present level and rms its root mean square in the batch, for each row ahead; for
    classification the first term is the cross-entropy. A crop starts with normaliser, profile and past rows
    as the stream had left them there, and a fresh core.

    The test runs the same trained weights over the whole stream from its first row, once for each mode, side
    by side. Up to the first scored row every mode learns; from there on only what its name says moves: the
    fast weights, the head or all weights (`lightning_modules.stream.StreamLearner`), and `frozen` nothing.
    The first mode's row is the module's own. A core without fast weights runs each mode once, without them.

    Args:
        config: The DREAM layer; its `input_dim` is set to the width of what it reads.
        shape: Facts about the stream; set by the data.
        **settings: Fields of `OnlineSettings`.
    """

    accepts = OnlineData
    higher_is_better = frozenset({"accuracy", "kappa", "kappa_temporal"})
    data: OnlineData
    """The data it was prepared for; there once `prepare` has run."""
    settings: OnlineSettings
    shape: OnlineShape

    def __init__(
        self,
        config: DREAMConfig = DREAMConfig.preset("online_learning", hidden_dim=64),  # noqa: B008 - frozen
        shape: OnlineShape = OnlineShape("forecasting", 1, 1),  # noqa: B008 - frozen
        **settings: Any,
    ) -> None:
        super().__init__(config, as_instance(OnlineShape, shape), OnlineSettings(**settings))
        options = self.settings
        self.network = StreamNetwork(
            self.shape,
            options.reading,
            self.config,
            options.core,
            options.hidden_dims,
            options.dropout,
            options.backend,
        )
        self.config = self.network.config
        self.save_arguments()
        modes: list[str] = list(options.modes)
        plastic = len(self.variants) > 1
        self.modes = modes if plastic else list(dict.fromkeys(map(without_fast_weights, modes)))
        self.learners: dict[str, StreamLearner] = {}
        self.record: StreamRecord | None = None
        self._saved_test: dict[str, Any] | None = None

    @property
    def core(self) -> DREAMStack | BaselineCore:  # type: ignore[override] # the network's, and so not set here
        """The network's core."""
        return self.network.core

    def prepare(self, data: L.LightningDataModule) -> None:
        if getattr(self, "data", None) is not data:
            self.__dict__.pop("_starts", None)  # they are of other data
        super().prepare(data)
        self.data.setup()
        for mode in self.modes:  # settings that do not fit are refused now, not after the training
            self.make_learner(mode)

    def _told(self, targets: Tensor) -> Tensor | None:
        """The newest known target of every row (N, T, C), given those of the rows; None where rows are their
        own targets."""
        shape = self.network.shape
        if not shape.feedback:
            return None
        known = one_hot(targets, shape.targets).double() if shape.task == "classification" else targets
        late = self.shape.label_delay + 1
        return torch.cat([torch.full_like(known[:, :late], torch.nan), known[:, : known.shape[1] - late]], 1)

    @cached_property
    def _starts(self) -> list[StreamState]:
        """What the rows before each possible start of a crop leave in normaliser, profile and window; the
        core is fresh."""
        network, (inputs, targets) = self.network, (part.to(self.device) for part in self.data.values)
        told = self._told(targets[None])
        state, states = network.init_state(), []
        for start in range(0, self.data.borders[1], STRIDE):
            states.append(state)
            part = slice(start, start + STRIDE)
            state = network.relate(inputs[None, part], state, None if told is None else told[:, part])[1]
        return states

    def _read(self, batch: OnlineBatch) -> tuple[Features, Tensor, Tensor]:
        """Features and the head's outputs (N, T, H, C) of crops, and the loss of the first layer's own
        predictions."""
        network = self.network
        start = StreamState.cat([self._starts[row // STRIDE] for row in batch.start.tolist()])
        start = replace(start, core=network.core.init_state(len(batch.start) * network.lanes))
        told = self._told(batch.targets)
        features, state = network.features(batch.rows, start, told)
        self.observe(features.traces, state.core)
        return features, network.outputs(features), features.traces[0].error.square().mean()

    @property
    def unreached(self) -> bool:
        """The head need not read the last layer's output."""
        return (
            isinstance(self.core, DREAMStack)
            and len(self.core.layers) > 1
            and not self.network.reading.output
        )

    def losses(self, batch: OnlineBatch) -> dict[str, Tensor]:
        features, outputs, prediction = self._read(batch)
        crops = torch.tensor(0 if batch.spare else len(batch.rows), device=self.device)
        share = crops / ranks.mean(crops)  # of the rows of a usual process
        scored = slice(self.data.context, None)
        shape = self.network.shape
        if shape.task == "classification":
            fit = cross_entropy(outputs[:, scored, 0].flatten(0, 1), batch.targets[:, scored].flatten())
        else:
            future = batch.targets.unsqueeze(2)
            if shape.task == "forecasting":
                future = batch.targets[:, 1:].unfold(1, shape.horizon, 1).transpose(2, 3)
            changes = (future - features.level.unsqueeze(2)) / features.scale.unsqueeze(2)
            wanted = changes[:, scored].clamp(-CHANGE_LIMIT, CHANGE_LIMIT).to(outputs)
            squares = ranks.mean(share * wanted.square().mean((0, 1, 3), keepdim=True))
            rms = squares.sqrt().clamp_min(SMALLEST)
            fit = huber_loss(outputs[:, scored] / rms, wanted / rms, delta=OUTLIER)
        fit, prediction = share * fit, share * prediction
        return {
            "loss": fit + self.settings.prediction_weight * prediction,
            "fit": fit,
            "prediction_loss": prediction,
        }

    def validation_step(self, batch: OnlineBatch, batch_idx: int) -> None:
        terms = self.losses(batch)
        place = f"crops of {self.data.source_of(0)} from rows {batch.start.tolist()}"
        self.refuse_infinite({"the loss": terms["fit"].reshape(1, 1)}, lambda _: place)
        own = torch.tensor(0 if batch.spare else len(batch.rows), device=self.device)
        crops = ranks.mean(own) * ranks.world_size()
        self.add_validation(ranks.mean(terms["fit"]) * crops, crops)

    def configure_optimizers(self) -> Any:
        with warnings.catch_warnings():  # a stream without a warm-up has nothing to train on, and is meant so
            warnings.filterwarnings("ignore", ".*across ranks is zero.*")
            return super().configure_optimizers()

    def make_learner(self, mode: str) -> StreamLearner:
        """A learner for `mode` on a copy of the weights."""
        everything = "all weights" in mode
        with torch.inference_mode(False):
            return StreamLearner(
                copy.deepcopy(self.network),
                self.settings.all_updates if everything else self.settings.updates,
                "all" if everything else "head",
                plasticity="fast weights" in mode,
                delay=self.shape.label_delay,
            )

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self.learners = {mode: self.make_learner(mode) for mode in self.modes}
        self.record = StreamRecord(self.data, self.title, self.modes)
        if self._saved_test is not None:
            with torch.inference_mode(False):  # or they could not be learnt from
                for mode, learner in self.learners.items():
                    held = self._saved_test["learners"][mode]
                    learner.load({name: value.to(self.device, copy=True) for name, value in held.items()})
            self.record.load(self._saved_test["record"])
            self._saved_test = None

    def save_test(self) -> dict[str, Any]:
        """The learners and scores of the test so far, see `lightning_modules.run.saving.ResumableTest`."""
        assert self.record is not None
        learners = {mode: learner.tensors() for mode, learner in self.learners.items()}
        return {"learners": learners, "record": self.record.tensors()}

    def resume_test(self, saved: dict[str, Any]) -> None:
        """Let the next test continue from what `save_test` returned."""
        self._saved_test = saved

    def test_step(self, batch: OnlineBatch, batch_idx: int) -> None:
        assert self.record is not None
        first = self.data.scored.start
        start, rows = int(batch.start[0]), batch.rows[0]
        border = min(max(first - start, 0), len(rows))
        for mode, learner in self.learners.items():
            for part in (slice(0, border), slice(border, len(rows))):
                if part.start == part.stop:
                    continue
                learner.learning = part.stop <= border or "head" in mode or "all weights" in mode
                steps = self._process(learner, batch, part)
                self.record.add(mode, start + part.start, steps)
                if mode == self.modes[0] and part.start >= border:
                    self.observe(steps.traces, learner.state.core, streams=True)

    def _process(self, learner: StreamLearner, batch: OnlineBatch, part: slice) -> Steps:
        """What a learner says of these rows of a chunk.

        Raises:
            DREAMError: it is not finite from some row on.
        """
        supervised = self.network.shape.task != "forecasting"
        steps = learner.process(batch.rows[0, part], batch.targets[0, part] if supervised else None)
        first = int(batch.start[0]) + part.start
        require_finite(
            {"the prediction": steps.predictions}, lambda k: f"{self.data.source_of(0)}, row {first + k}"
        )
        return steps

    def on_test_epoch_end(self) -> None:
        assert self.record is not None
        self.learners = {}
        self.log_results(self.record.results())

    def figures(self) -> dict[str, Figure]:
        """Rolling error of every mode and rival, surprise and norm of U over the stream, and when it
        changed."""
        return {} if self.record is None or self.record.empty else {"stream": self.record.figure()}

    def on_predict_epoch_start(self) -> None:
        self.learners = {self.modes[0]: self.make_learner(self.modes[0])}

    def predict_step(self, batch: OnlineBatch, batch_idx: int) -> Tensor:
        """Predictions of each row of a chunk by the first mode, in the data's own units; shares of the
        classes."""
        said = self._process(self.learners[self.modes[0]], batch, slice(0, len(batch.rows[0]))).predictions
        if self.network.shape.task != "classification":
            return self.data.unscale(said)
        return class_shares(
            said, self.settings.updates.rule == "least_squares" and "all weights" not in self.modes[0]
        )

    @property
    def predictions_file(self) -> str:
        return "forecast.csv" if self.shape.task == "forecasting" else "predictions.csv"

    def prediction_table(self, predictions: list[Tensor]) -> pd.DataFrame:
        """A row for each row of the stream; for forecasting the rows after the last."""
        return StreamRecord(self.data, self.title, self.modes).prediction_table(torch.cat(predictions))


def without_fast_weights(mode: str) -> str:
    """What a mode comes to for a core that has no fast weights."""
    return {"fast weights": "frozen"}.get(mode, mode.removeprefix("fast weights + "))
