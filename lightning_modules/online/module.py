"""`OnlineModule`: prequential learning on a stream: predict, score, then learn, row by row.

Shapes: N crops, T rows, D input columns, C targets (classes for classification), H rows ahead.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import lightning as L
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy, huber_loss, one_hot

from dream import DREAMConfig, DREAMStack
from dream.errors import CheckpointError
from lightning_modules import ranks
from lightning_modules.base import TaskModule
from lightning_modules.checks import require, require_finite
from lightning_modules.cores import BaselineCore, upper_errors
from lightning_modules.data.place import ONLY, StreamEnd
from lightning_modules.online.batches import OnlineBatch
from lightning_modules.online.data import OnlineData, OnlineShape
from lightning_modules.online.record import StreamRecord, long_table, mean_results, prediction_table
from lightning_modules.online.settings import OnlineSettings
from lightning_modules.online.starts import Starts
from lightning_modules.settings import as_instance
from lightning_modules.stream import (
    Features,
    Moves,
    Steps,
    StreamLearner,
    StreamNetwork,
    Updates,
)
from lightning_modules.stream.following import followed
from lightning_modules.stream.network import CHANGE_LIMIT, class_shares

SMALLEST = 1e-6  # least root mean square of a target, for one that never moves
NEWEST = "newest"  # tensor of a stream's end
OUTLIER = 3.0  # in root mean squares; larger errors count linearly in training


class OnlineModule(TaskModule):
    """Learns from a stream while predicting it, row by row: predict, score, learn when the truth arrives.

    A `lightning_modules.stream.StreamNetwork` reads the rows. It is first trained on crops of the warm-up
    part, where

        loss = huber((head - wanted) / rms, 3) + prediction_weight * MSE(layer's predictions, layer's input)

    with `wanted` the target relative to the present level and rms its root mean square in the batch, for each
    row ahead; for classification the first term is the cross-entropy. The head is that of the network, or,
    with `through_head`, one that starts from it in each crop and follows the crop as it will follow the
    stream. What was not observed, with `data.missing: model`, counts in neither term. A crop starts with a
    fresh core, and with normaliser, profile and past rows as the rows before it in the stream leave them.

    The test runs the trained weights over the whole stream from its first row, once for each mode, side by
    side. Up to the first scored row every mode learns; from there on only the parts that it names: the fast
    weights, the head or all weights (`lightning_modules.stream.StreamLearner`), and with `frozen` none. The
    first mode's row is the module's own. A core without fast weights runs each mode once, without them.

    Of several series each is run by itself, from a fresh state and the trained weights; the results are the
    means over the series, and `by_series` has the module's own of each.

    Args:
        config: The DREAM layer; its `input_dim` is set to the width of what it reads.
        shape: Facts about the stream; set by the data.
        **settings: Fields of `OnlineSettings`.
    """

    accepts = OnlineData
    higher_is_better = frozenset({"accuracy", "kappa", "kappa_temporal"})
    data: OnlineData
    """Data that the module was prepared for; set by `prepare`."""
    settings: OnlineSettings
    shape: OnlineShape

    def __init__(
        self,
        config: DREAMConfig = DREAMConfig.preset("online_learning", hidden_dim=64),  # noqa: B008 - frozen
        shape: OnlineShape = OnlineShape(),  # noqa: B008 - frozen
        **settings: Any,
    ) -> None:
        super().__init__(config, as_instance(OnlineShape, shape), OnlineSettings(**settings))
        options = self.settings
        classes = self.shape.task == "classification"
        require(
            "through_head",
            options.through_head,
            not (options.through_head and classes),
            "false for classification",
        )
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
        """That of the stream which is being tested, or was last."""
        self._finished: dict[str, dict[str, dict[str, float]]] = {}
        """Results of the series before it in this test, by their ids."""
        self._number = 0
        """Number of the stream that is being read among the `members` of the data."""
        self._saved_test: dict[str, Any] | None = None
        self._newest: Tensor | None = None
        """(1, H, C) newest prediction of the first mode in this test."""
        self._before: StreamEnd | None = None
        """Where the next prediction goes on."""

    @property
    def core(self) -> DREAMStack | BaselineCore:  # type: ignore[override] # the network's, and so not set here
        """Core of the network."""
        return self.network.core

    def prepare(self, data: L.LightningDataModule) -> None:
        if getattr(self, "data", None) is not data:
            self.__dict__.pop("_starts", None)  # they belong to other data
        super().prepare(data)
        self.data.setup()
        for mode in self.modes:  # settings that do not fit are refused now, not after the training
            self.make_learner(mode)

    def _feedback(self, targets: Tensor) -> Tensor | None:
        """Newest target (N, T, C) that is known when each row is read; None if inputs hold the targets."""
        shape = self.network.shape
        if not shape.feedback:
            return None
        known = one_hot(targets, shape.targets).double() if shape.task == "classification" else targets
        late = self.shape.label_delay + 1
        return torch.cat([torch.full_like(known[:, :late], torch.nan), known[:, : known.shape[1] - late]], 1)

    @cached_property
    def _starts(self) -> Starts:
        """All that the streams carry at each possible start of a crop."""
        values = [member.values for member in self.data.members]
        feedback = [self._feedback(targets[None]) for _, targets in values]
        known = [each[0] for each in feedback if each is not None]
        stops = [member.borders[1] for member in self.data.members]
        return Starts(self.network, [inputs for inputs, _ in values], known or None, stops)

    def _read(self, batch: OnlineBatch) -> tuple[Features, Tensor]:
        """Return the features of crops, and the layers' own prediction loss ()."""
        network = self.network
        start = self._starts.at(batch.number.tolist(), batch.start.tolist())
        start = replace(start, core=network.core.init_state(len(batch.start) * network.lanes))
        features, state = network.features(batch.rows, start, self._feedback(batch.targets))
        self.observe(features.traces, state.core)
        squares = features.traces[0].error.square().sum()  # 0 where nothing was observed
        return features, squares / features.observed.clamp_min(1) + upper_errors(features.traces).mean()

    def outputs(self, features: Features, wanted: Tensor) -> Tensor:
        """Outputs (N, T, H, C) of the head for crops; with `through_head` it follows each of them.

        Args:
            features: Features of the crops.
            wanted: (N, T, H, C) outputs that would be right, NaN where one is missing; those of a row are
                used once they are known, and for later rows.
        """
        network, updates = self.network, self.settings.updates
        if not self.settings.through_head:
            return network.outputs(features)
        return network.to_targets(
            followed(
                network.head,
                features.values,
                network.to_lanes(wanted),
                network.shape.target_lag + self.shape.label_delay,
                updates.every,
                updates.forgetting,
                updates.ridge,
            )
        )

    @property
    def unreached(self) -> bool:
        """True with several layers if the head does not read the output of the last one."""
        return (
            isinstance(self.core, DREAMStack)
            and len(self.core.layers) > 1
            and not self.network.reading.output
        )

    def losses(self, batch: OnlineBatch) -> dict[str, Tensor]:
        features, prediction = self._read(batch)
        crops = torch.tensor(0 if batch.spare else len(batch.rows), device=self.device)
        share = crops / ranks.mean(crops)  # relative to the average process
        scored = slice(self.data.context, None)
        shape = self.network.shape
        if shape.task == "classification":
            labels = batch.targets[:, scored].flatten()
            outputs = self.network.outputs(features)[:, scored, 0]
            fit = share * cross_entropy(outputs.flatten(0, 1), labels)
        else:
            future = batch.targets.unsqueeze(2)
            if shape.task == "forecasting":
                future = batch.targets[:, 1:].unfold(1, shape.horizon, 1).transpose(2, 3)
            changes = (future - features.level.unsqueeze(2)) / features.scale.unsqueeze(2)
            changes = changes.clamp(-CHANGE_LIMIT, CHANGE_LIMIT).to(features.values)
            outputs, wanted = self.outputs(features, changes), changes[:, scored]
            known = ~wanted.isnan() & torch.tensor(not batch.spare, device=self.device)
            wanted, predicted = (torch.where(known, part, 0.0) for part in (wanted, outputs[:, scored]))
            count = ranks.mean(known.sum((0, 1, 3), keepdim=True))  # for each row ahead
            squares = ranks.mean(wanted.square().sum((0, 1, 3), keepdim=True)) / count.clamp_min(1)
            rms = squares.sqrt().clamp_min(SMALLEST)
            errors = huber_loss(predicted / rms, wanted / rms, delta=OUTLIER, reduction="sum")
            fit = errors / count.sum().clamp_min(1)
        prediction = share * prediction
        return {
            "loss": fit + self.settings.prediction_weight * prediction,
            "fit": fit,
            "prediction_loss": prediction,
        }

    def validation_step(self, batch: OnlineBatch, batch_idx: int) -> None:
        terms = self.losses(batch)
        self.require_finite_outputs(
            {"the loss": terms["fit"].reshape(1, 1)},
            lambda _: f"crops of {self.data.sources(batch)(0)} from rows {batch.start.tolist()}",
        )
        own = torch.tensor(0 if batch.spare else len(batch.rows), device=self.device)
        crops = ranks.mean(own) * ranks.world_size()
        self.add_validation(ranks.mean(terms["fit"]) * crops, crops)

    def configure_optimizers(self) -> Any:
        with warnings.catch_warnings():  # a stream without a warm-up part has nothing to train on, by design
            warnings.filterwarnings("ignore", ".*across ranks is zero.*")
            return super().configure_optimizers()

    def updates_of(self, mode: str) -> tuple[Updates, Moves]:
        """How `mode` updates weights, and which."""
        everything = "all weights" in mode
        return (self.settings.all_updates, "all") if everything else (self.settings.updates, "head")

    def make_learner(self, mode: str, device: torch.device | None = None) -> StreamLearner:
        """Build a learner for `mode` on a copy of the weights, on their device if no other is given."""
        with torch.inference_mode(False):
            return StreamLearner(
                copy.deepcopy(self.network).to(device or self.device),
                *self.updates_of(mode),
                plasticity="fast weights" in mode,
                delay=self.shape.label_delay,
            )

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._finished = {}
        if self._saved_test is None:
            self._begin_test(self.data.tested[0].number)
            return
        self._begin_test(self._saved_test["number"])
        assert self.record is not None
        with torch.inference_mode(False):  # tensors made in inference mode cannot be learned from
            for mode, learner in self.learners.items():
                held = self._saved_test["learners"][mode]
                learner.load({name: value.to(self.device, copy=True) for name, value in held.items()})
        self.record.load(self._saved_test["record"])
        self._finished = self._saved_test["finished"]
        self._newest = self._saved_test["newest"]
        self._saved_test = None

    def _begin_test(self, number: int) -> None:
        """Let a stream be tested from a fresh state, with the trained weights."""
        self._number = number
        self.learners = {mode: self.make_learner(mode) for mode in self.modes}
        self.record = StreamRecord(self.data.members[number], self.title, self.modes)

    def save_test(self) -> dict[str, Any]:
        """Return learners and scores of the test so far, see `lightning_modules.run.saving.ResumableTest`."""
        assert self.record is not None
        learners = {mode: learner.tensors() for mode, learner in self.learners.items()}
        place = {"number": self._number, "finished": self._finished}
        return place | {"learners": learners, "record": self.record.tensors(), "newest": self._newest}

    def resume_test(self, saved: dict[str, Any]) -> None:
        """Let the next test resume from the values that `save_test` returned."""
        self._saved_test = saved

    def test_step(self, batch: OnlineBatch, batch_idx: int) -> None:
        if (number := int(batch.number[0])) != self._number:
            self._finish_series()
            self._begin_test(number)
        assert self.record is not None
        first = self.record.data.scored.start
        start, rows = int(batch.start[0]), batch.rows[0]
        border = min(max(first - start, 0), len(rows))
        for mode, learner in self.learners.items():
            for part in (slice(0, border), slice(border, len(rows))):
                if part.start == part.stop:
                    continue
                learner.learning = part.stop <= border or "head" in mode or "all weights" in mode
                steps = self._process(learner, batch, part)
                self.record.add(mode, start + part.start, steps)
                if mode != self.modes[0]:
                    continue
                self._newest = steps.predictions[-1:]
                if part.start >= border:
                    self.observe(steps.traces, learner.state.core, streams=True)

    def _process(self, learner: StreamLearner, batch: OnlineBatch, part: slice) -> Steps:
        """Let a learner predict, then learn, a part of a chunk.

        Raises:
            DREAMError: a prediction is not finite.
        """
        supervised = self.network.shape.task != "forecasting"
        steps = learner.process(batch.rows[0, part], batch.targets[0, part] if supervised else None)
        first = int(batch.start[0]) + part.start
        require_finite(
            {"the prediction": steps.predictions},
            lambda k: f"{self.data.sources(batch)(0)}, row {first + k}",
        )
        return steps

    def on_test_epoch_end(self) -> None:
        assert self.record is not None
        if self._newest is not None and not self.data.many:
            self.ends = self._ended(self._shown(self._newest), self.learners[self.modes[0]].row)
        self.learners, self._newest = {}, None
        if not self.data.many:
            self.log_results(self.record.results())
            return
        self._finish_series()
        self.log_results(mean_results(list(self._finished.values())))
        own = next(iter(self.results))
        self.by_series = {name: found[own] for name, found in self._finished.items()}

    def _finish_series(self) -> None:
        """Keep the results of the series that was tested last."""
        assert self.record is not None
        self._finished[str(self.record.data.name)] = self.record.results()

    def figures(self) -> dict[str, Figure]:
        """Rolling error of every mode and rival, surprise, norm of U, and the known changes of the stream; of
        several series of the last."""
        return {} if self.record is None or self.record.empty else {"stream": self.record.figure()}

    def go_on(self, ends: Mapping[str, StreamEnd]) -> None:
        """See `lightning_modules.data.place.LearnsOn`.

        Raises:
            CheckpointError: there is no such stream, or it holds no prediction of this shape.
        """
        if (end := ends.get(ONLY)) is None:
            raise CheckpointError(
                f"the run must go on with its only stream; it has those of another task, "
                f"{', '.join(ends) or 'none'}. Begin a new one."
            )
        newest, wanted = end.tensors.get(NEWEST), (1, self.shape.horizon, self.shape.targets)
        if newest is None or tuple(newest.shape) != wanted:
            raise CheckpointError(
                f"the stream must hold its newest prediction, {wanted}; got "
                f"{None if newest is None else tuple(newest.shape)}. Begin a new one."
            )
        self._before = end

    def stream_ends(self, predictions: list[Tensor]) -> dict[str, StreamEnd]:
        """See `lightning_modules.data.place.LearnsOn`; the newest prediction is kept, too."""
        made = torch.cat(predictions)
        return self._ended(made[-1:], len(made))

    def _ended(self, newest: Tensor, rows: int) -> dict[str, StreamEnd]:
        """End of the first mode's stream after so many rows from `data.begin` on."""
        series = self.data.stream.series
        place = self.data.place.after(series.time, self.data.begin, rows, zone=series.zone)
        held = self.learners[self.modes[0]].tensors() | {NEWEST: newest}
        return {ONLY: StreamEnd(place, {name: value.cpu() for name, value in held.items()})}

    def predictions_again(self) -> list[Tensor]:
        """See `lightning_modules.data.place.LearnsOn`: the newest forecast."""
        if self._before is None or self.shape.task != "forecasting":
            return []
        return [self._before.tensors[NEWEST]]

    def on_predict_epoch_start(self) -> None:
        mode = self.modes[0]
        self.learners, self._number = {mode: self.make_learner(mode)}, 0
        if self._before is not None:
            held = {name: value for name, value in self._before.tensors.items() if name != NEWEST}
            self.learners[mode].load({name: value.to(self.device) for name, value in held.items()})

    def predict_step(self, batch: OnlineBatch, batch_idx: int) -> Tensor:
        """Predictions of the first mode for each row of a chunk: class shares, or values as in the data."""
        mode, number = self.modes[0], int(batch.number[0])
        if number != self._number:
            self.learners, self._number = {mode: self.make_learner(mode)}, number
        steps = self._process(self.learners[mode], batch, slice(0, len(batch.rows[0])))
        return self._shown(steps.predictions)

    def _shown(self, predictions: Tensor) -> Tensor:
        """Predictions (T, H, C) of the first mode as class shares, or as values as in the data."""
        if self.network.shape.task != "classification":
            return self.data.members[self._number].unscale(predictions)
        rule, mode = self.settings.updates.rule, self.modes[0]
        least_squares = rule == "least_squares" and "all weights" not in mode
        return class_shares(predictions, least_squares)

    @property
    def predictions_file(self) -> str:
        return "forecast.csv" if self.shape.task == "forecasting" else "predictions.csv"

    def prediction_table(self, predictions: list[Tensor]) -> pd.DataFrame:
        """Predictions with a line for each row of a stream; for forecasting, of the rows after the last."""
        made = torch.cat(predictions)
        return self.in_kind(
            long_table(self.data, made) if self.data.many else prediction_table(self.data, made)
        )


def without_fast_weights(mode: str) -> str:
    """Mode that remains of `mode` for a core without fast weights."""
    return {"fast weights": "frozen"}.get(mode, mode.removeprefix("fast weights + "))
