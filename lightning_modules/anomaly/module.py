"""`AnomalyModule`: detection of anomalies in streams without labels: predict, score, then adapt.

Shapes: N streams, T rows of a chunk, C columns, I inputs of the layer: C levels, C differences, then of a
single column the levels of the `lags` - 1 rows before.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Self

import lightning as L
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dream import DREAMConfig, DREAMStack, DREAMState, DREAMTrace
from dream.errors import CheckpointError
from lightning_modules import ranks
from lightning_modules.anomaly import plots
from lightning_modules.anomaly.carried import Carried, CoreInputs, Relative, fresh_score
from lightning_modules.anomaly.data import AnomalyBatch, AnomalyData, AnomalyShape, AnomalyStream
from lightning_modules.anomaly.scores import LEVEL_LIMIT, AnomalyScore, WindowedGaussian
from lightning_modules.anomaly.settings import AnomalySettings
from lightning_modules.anomaly.verdicts import (
    FLAGGED,
    HIGHER_IS_BETTER,
    Verdict,
    assess,
    score_table,
    threshold_of,
)
from lightning_modules.base import Observation, TaskModule
from lightning_modules.checks import require
from lightning_modules.data.place import StreamEnd, known_as
from lightning_modules.settings import as_instance

LOSS_LIMIT = 25.0  # squared running deviations; limits what an outlier in the training part can teach
FIGURES = 3
REPEAT, GAUSSIAN = "repeat-last", "windowed Gaussian"


class ChunkOutput(NamedTuple):
    """Outputs of the core for a chunk; prediction and deviation are the first layer's, of K layers."""

    prediction: Tensor
    """(N, T, I)"""
    deviation: Tensor
    """(N, T)"""
    surprise: Tensor
    """(N, T, K)"""
    u_norm: Tensor
    """(N, T, K)"""


class AnomalyModule(TaskModule):
    """Detects anomalies in streams without labels: scores each row in [0, 1] before learning from it.

    The layer reads the level and the first difference of every column, relative to their own running mean and
    deviation (`RunningScale`), and predicts the next ones. Over the training parts, without labels,

        loss = mean min((x - prediction)^2, 25)

    `AnomalyScore` computes score and alarm from the prediction and the row that follows. Fast weights,
    running scales and tails adapt in the stream. A row's score depends on that row and those before it only.

    Each stream has a threshold from the scores of its training part, without labels, by the rule `threshold`:
    a share `risk` of rows like those may exceed it. A row above it is flagged; it raises an alarm if its
    alarm is above 0, too.

    With `data.missing: model` DREAM reads a missing value as not observed, and a rival core the last known
    level of its column and a difference of 0. It counts in no loss, score, scale or tail.

    Table of results: the module; the same weights with plasticity off (only DREAM with fast weights);
    `repeat-last`, the same scoring of the prediction that nothing changes; `windowed Gaussian`, a classic
    rival with a scoring of its own.

    Args:
        config: The DREAM layer; its `input_dim` is set to I.
        shape: Facts about the data; set by the data.
        **settings: Fields of `AnomalySettings`.
    """

    accepts = AnomalyData
    higher_is_better: ClassVar[frozenset[str]] = HIGHER_IS_BETTER
    unranked: ClassVar[frozenset[str]] = frozenset({FLAGGED})
    data: AnomalyData
    """Data that the module was prepared for; set by `prepare`."""
    settings: AnomalySettings
    shape: AnomalyShape

    def __init__(
        self,
        config: DREAMConfig = DREAMConfig.preset("anomaly_detection"),  # noqa: B008 - frozen
        shape: AnomalyShape = AnomalyShape(),  # noqa: B008 - frozen
        **settings: Any,
    ) -> None:
        super().__init__(config, as_instance(AnomalyShape, shape), AnomalySettings(**settings))
        self.core = self.make_core(2 * self.shape.channels + self.shape.lags - 1)
        self.detectors = [*self.variants, REPEAT]
        """Rows of the table of results that are scored the same way, the module's own first."""
        self._inputs: CoreInputs | None = None
        self._level = np.zeros((0, self.shape.channels))
        self._score: AnomalyScore | None = None
        self._gaussian: WindowedGaussian | None = None
        self._seen: list[np.ndarray] = []
        self._shown: list[np.ndarray] = []
        self.verdicts: dict[str, list[Verdict]] = {}
        """Verdicts of each detector on each stream in the last test."""
        self.thresholds: dict[str, float] = {}
        """Threshold of each stream that the module was trained on, by its name, from its training part in the
        last validation: for rows that come without a training part of their own."""
        self.training_rows: dict[str, int] = {}
        """Rows of the training part of each of these streams."""
        self._before: dict[str, StreamEnd] = {}
        """Where each stream goes on in the next prediction; others begin."""
        self._last: dict[int, Carried] = {}
        """What each stream whose rows are all read carries, by its number."""
        self._known: list[np.ndarray] = []
        """Scores (N, T) of the training parts in this validation."""

    def forget_states(self) -> None:
        super().forget_states()
        self._inputs = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the running scales with the carried states."""
        super().on_save_checkpoint(checkpoint)
        held = {}
        if self._inputs is not None:
            held = {name: torch.from_numpy(part) for name, part in self._inputs.scale.arrays().items()}
            held["recent"] = self._inputs.recent
        checkpoint["scale"] = {name: ranks.whole(part) for name, part in held.items()}
        checkpoint["thresholds"] = dict(self.thresholds)
        checkpoint["training_rows"] = dict(self.training_rows)

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {
            "thresholds": dict(self.thresholds),
            "training_rows": dict(self.training_rows),
        }

    @classmethod
    def _from_settings(cls, settings: dict[str, Any]) -> Self:
        new = super()._from_settings(settings)
        new.thresholds = dict(settings["thresholds"])
        new.training_rows = dict(settings["training_rows"])
        return new

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.thresholds = dict(checkpoint.get("thresholds", {}))  # earlier formats have none
        self.training_rows = dict(checkpoint.get("training_rows", {}))
        if own := {name: ranks.mine(part).numpy() for name, part in checkpoint["scale"].items()}:
            self._inputs = self._fresh_inputs(len(own["rows"]))
            self._inputs.recent = torch.from_numpy(own.pop("recent"))
            self._inputs.scale.load(own)

    def prepare(self, data: L.LightningDataModule) -> None:
        super().prepare(data)
        if isinstance(self.core, DREAMStack):
            self.core.missing = self.data.missing == "model"

    def _fresh_inputs(self, streams: int) -> CoreInputs:
        return CoreInputs(streams, self.shape, self.settings.memory, isinstance(self.core, DREAMStack))

    def relative(self, batch: AnomalyBatch) -> tuple[Relative, np.ndarray]:
        """The rows of a chunk as the core reads them, and where streams learn (N, T); scales are carried."""
        streams, rows, _ = batch.values.shape
        if batch.begins or self._inputs is None:
            self._inputs = self._fresh_inputs(streams)
        left = (batch.training - batch.before).cpu().numpy() - batch.start
        known = left[:, None] > np.arange(rows)
        learning = known | self.settings.adapt
        return self._inputs.read(batch.values.cpu().numpy(), learning), learning

    def scan(
        self, x: Tensor, lengths: Tensor, learning: np.ndarray, states: list[DREAMState]
    ) -> tuple[ChunkOutput, list[DREAMState]]:
        """Read `x` (N, T, I) from `states`; fast weights learn where `learning` (N, T) is True."""
        borders = [
            0,
            *(np.flatnonzero((learning[:, 1:] != learning[:, :-1]).any(0)) + 1).tolist(),
            x.shape[1],
        ]
        parts = []
        for start, end in pairwise(borders):
            part, states = self._scan_part(
                x[:, start:end], (lengths - start).clamp(1, end - start), learning[:, start], states
            )
            parts.append(part)
        return ChunkOutput(*(torch.cat(pieces, 1) for pieces in zip(*parts, strict=True))), states

    def _scan_part(
        self, x: Tensor, lengths: Tensor, learning: np.ndarray, states: list[DREAMState]
    ) -> tuple[ChunkOutput, list[DREAMState]]:
        pieces, ends, order = [], [], []
        for plastic in (True, False):
            streams = torch.from_numpy(np.flatnonzero(learning == plastic)).to(x.device)
            if len(streams) == 0:
                continue
            with self.core.plasticity(plastic and self.core.plasticity_enabled):
                before = [state[streams] for state in states]
                _, traces, after = self.core.trace(x[streams], before, lengths[streams])
            shown = (
                torch.stack([getattr(trace, name) for trace in traces], -1) for name in ("surprise", "u_norm")
            )
            pieces.append(ChunkOutput(traces[0].prediction, traces[0].deviation, *shown))
            ends.append(after)
            order.append(streams)
        back = torch.argsort(torch.cat(order))
        scan = ChunkOutput(*(torch.cat(piece)[back] for piece in zip(*pieces, strict=True)))
        return scan, [DREAMState.cat(layer)[back] for layer in zip(*ends, strict=True)]

    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x).to(self.device, self.dtype)  # type: ignore[arg-type]

    def _read(self, batch: AnomalyBatch) -> tuple[np.ndarray, DREAMTrace]:
        """Levels and differences (N, T, 2 C), and the trace of the first layer; carry the states."""
        relative, _ = self.relative(batch)
        x = self._tensor(relative.inputs)
        reset = torch.full((len(batch.values),), batch.start == 0, device=self.device)
        lengths = batch.lengths.clamp(min=1)
        _, traces, states = self.core.trace(x, self.carried(reset, len(x)), lengths)
        self.carry(states, reset)
        self.observe(traces, states, lengths)
        return relative.x, traces[0]

    def _prediction_loss(
        self, batch: AnomalyBatch, relative: np.ndarray, trace: DREAMTrace
    ) -> tuple[Tensor, Tensor]:
        """Return the sum () of the limited squared errors of the rows that count, and their number ().

        A row without any value does not count, and the error of another is the mean over what it has.
        """
        x = self._tensor(np.clip(relative, -LEVEL_LIMIT, LEVEL_LIMIT))
        prediction = trace.prediction[..., : relative.shape[-1]]
        seen = ~x.isnan()
        errors = torch.where(seen, x.nan_to_num() - prediction, 0.0).square().clamp(max=LOSS_LIMIT)
        errors, counted = errors.sum(-1) / seen.sum(-1).clamp_min(1), batch.counted & seen.any(-1)
        return (errors * counted).sum(), counted.sum()

    @property
    def unreached(self) -> bool:
        """True with several layers, since only the first one predicts."""
        return isinstance(self.core, DREAMStack) and len(self.core.layers) > 1

    def losses(self, batch: AnomalyBatch) -> dict[str, Tensor]:
        total, count = self._prediction_loss(batch, *self._read(batch))
        return {"loss": total / ranks.mean(count).to(total)}

    def validation_step(self, batch: AnomalyBatch, batch_idx: int) -> None:
        relative, trace = self._read(batch)
        self._require_finite(batch, {"the prediction": trace.prediction})
        self.add_validation(*self._prediction_loss(batch, relative, trace))
        self._score_known(batch, relative, trace)

    def _score_known(self, batch: AnomalyBatch, relative: np.ndarray, trace: DREAMTrace) -> None:
        """Score a chunk of the training parts, as a test does."""
        if batch.start == 0:
            self._score = fresh_score(self.settings, self.shape.channels, batch.training.cpu().numpy())
        assert self._score is not None
        expected = trace.prediction[..., : relative.shape[-1]].cpu().numpy()
        gate = torch.stack([trace.deviation, trace.surprise], -1).cpu().numpy()
        learning = np.ones(relative.shape[:2], dtype=bool)
        self._known.append(self._score.read(relative, expected, gate, learning)[0])

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._known = []

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._score, streams, (rank, world) = None, self.data.streams, self.data.share
        whole = max(stream.training for stream in streams)
        if sum(part.shape[1] for part in self._known) < whole:
            return  # the validation was limited to some batches
        scores = np.concatenate(self._known, 1)
        own = [
            threshold_of(score[: stream.training], self.settings.threshold, self.settings.risk)
            for stream, score in zip(streams[rank::world], scores, strict=True)
        ]
        found = ranks.whole(torch.tensor(own, dtype=torch.float64)).tolist()
        self.thresholds = dict(zip([stream.name for stream in streams], found, strict=True))
        self.training_rows = {stream.name: stream.training for stream in streams}

    def _require_finite(self, batch: AnomalyBatch, outputs: dict[str, Tensor | np.ndarray]) -> None:
        """Refuse outputs (N, T, ...) that are not finite, naming the stream and the row of the first."""
        streams = len(batch.lengths)
        gone = torch.arange(batch.values.shape[1]) >= batch.lengths.cpu()[:, None]
        flat = {name: torch.as_tensor(values).cpu().flatten(2) for name, values in outputs.items()}
        by_row = {
            name: v.masked_fill(gone[..., None], 0.0).transpose(0, 1).flatten(0, 1)
            for name, v in flat.items()
        }
        self.require_finite_outputs(
            by_row,
            lambda k: (
                f"{self.data.source_of(k % streams)}, "
                f"row {int(batch.before[k % streams]) + batch.start + k // streams}"
            ),
        )

    def judge(self, batch: AnomalyBatch, detectors: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return score and alarm (2, D, N, T) of D detectors on a chunk, surprise and norm of U (2, N, T).

        Everything is carried from chunk to chunk, and kept of streams that end; where streams begin, they
        start afresh.

        Raises:
            DREAMError: a prediction or a score is not finite.
        """
        (x, levels, inputs), learning = self.relative(batch)
        streams, rows, channels = len(x), x.shape[1], self.shape.channels
        if batch.begins or self._score is None:
            self._last = {}
            self.held = {name: self.core.init_state(streams) for name in self.variants if name in detectors}
            training = np.tile(batch.training.cpu().numpy(), len(detectors))
            self._score = fresh_score(self.settings, channels, training)
            self._level = np.zeros((streams, channels))
        scans = []
        for name, states in self.held.items():
            learns = learning if self.variants[name] else np.zeros_like(learning)
            scan, self.held[name] = self.scan(self._tensor(inputs), batch.lengths, learns, states)
            scans.append(scan)
        predictions = [one.prediction[..., : 2 * channels].cpu().numpy() for one in scans]
        gates = [torch.stack([one.deviation, one.surprise[..., 0]], -1).cpu().numpy() for one in scans]
        if REPEAT in detectors:
            before = np.concatenate([self._level[:, None], levels[:, :-1]], 1)
            predictions.append(np.concatenate([before, np.zeros_like(before)], -1))
            gates.append(np.zeros_like(gates[0]))  # there is no layer that could be surprised
        self._level = levels[:, -1]
        seen, learns = np.tile(x, (len(detectors), 1, 1)), np.tile(learning, (len(detectors), 1))
        expected, gate = np.concatenate(predictions), np.concatenate(gates)
        scores = np.stack(self._score.read(seen, expected, gate, learns))
        scores = scores.reshape(2, -1, streams, rows)
        shown = torch.stack([scans[0].surprise, scans[0].u_norm])  # (2, N, T, K)
        self.observed = [
            Observation(shown[0, ..., k], shown[1, ..., k], state.adaptive_tau, batch.lengths, True)
            for k, state in enumerate(self.held[self.title])
        ]
        self._require_finite(
            batch, {"the prediction": scans[0].prediction, "the score": scores.transpose(2, 3, 0, 1)}
        )
        assert self._inputs is not None
        carried = Carried(self._inputs, self._score, self.held[self.title])
        for number in batch.ends.nonzero().flatten().tolist():
            self._last[number] = carried.stream(number)
        return scores, shown[..., 0].cpu().numpy()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        for name in ("limit_test_batches", "limit_predict_batches"):
            limit = getattr(self.trainer, name)
            whole = limit == 0 or (isinstance(limit, float) and limit == 1)  # 1 is one batch, 1.0 all of them
            require(
                f"trainer.{name}", limit, whole, "1.0, or 0 for none, since a stream is judged as a whole"
            )

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._seen, self._shown, self.verdicts = [], [], {}

    def test_step(self, batch: AnomalyBatch, batch_idx: int) -> None:
        scores, shown = self.judge(batch, self.detectors)
        values = batch.values.cpu().numpy()
        if batch.start == 0 or self._gaussian is None:
            self._gaussian = WindowedGaussian(len(values), self.shape.channels)
        gaussian = [np.stack(self._gaussian.step(values[:, row])) for row in range(values.shape[1])]
        self._seen.append(np.concatenate([scores, np.stack(gaussian, -1)[:, None]], 1))
        self._shown.append(shown)

    def on_test_epoch_end(self) -> None:
        seen = np.concatenate(self._seen, -1)
        for number, name in enumerate([*self.detectors, GAUSSIAN]):
            self.verdicts[name] = self._verdicts(seen[:, number])
        self.ends = self._ended(self.verdicts[self.title])
        streams, buffer, corpus = self.data.streams, self.settings.buffer, self.data.nab
        self.log_results(
            {name: assess(streams, found, buffer, corpus) for name, found in self.verdicts.items()}
        )
        if self.data.id_column is not None:
            own = zip(streams, self.verdicts[self.title], strict=True)
            self.by_series = {stream.name: assess([stream], [one], buffer, False) for stream, one in own}

    def _verdicts(self, scores: np.ndarray) -> list[Verdict]:
        """Verdicts on the streams from the scores and alarms (2, N, T) of a detector."""
        return [
            self._verdict(stream, score[: len(stream.values)], alarm[: len(stream.values)])
            for stream, score, alarm in zip(self.data.streams, *scores, strict=True)
        ]

    def _verdict(self, stream: AnomalyStream, score: np.ndarray, alarm: np.ndarray) -> Verdict:
        return Verdict.of(stream, score, alarm, self.settings.threshold, self.settings.risk)

    def figures(self) -> dict[str, Figure]:
        """Data with labels and alarms, score, threshold, surprise and norm of U of up to three streams."""
        if not self.verdicts:
            return {}
        streams, verdicts = self.data.streams, self.verdicts[self.title]
        shown = np.concatenate(self._shown, -1)
        picked = sorted(
            range(len(streams)), key=lambda n: (-len(streams[n].windows), -len(streams[n].values))
        )
        return {
            f"anomalies_{k}": plots.detection(
                streams[n],
                plots.Detection(verdicts[n].score, verdicts[n].threshold, verdicts[n].raised, *shown[:, n]),
                self.data.drift_rows,
            )
            for k, n in enumerate(picked[:FIGURES], 1)
        }

    def go_on(self, ends: Mapping[str, StreamEnd]) -> None:
        """See `lightning_modules.data.place.LearnsOn`.

        Raises:
            CheckpointError: one holds no threshold.
        """
        for end in ends.values():
            if not isinstance(limit := end.facts.get("threshold"), float):
                raise CheckpointError(
                    f"the stream must hold its threshold, a number; got {limit!r}. Begin a new one."
                )
        self._before = dict(ends)

    def stream_ends(self, predictions: list[np.ndarray]) -> dict[str, StreamEnd]:
        """See `lightning_modules.data.place.LearnsOn`."""
        return self._before | self._ended(self._predicted(predictions))

    @property
    def _going_on(self) -> list[tuple[str, AnomalyStream]]:
        """The streams that have new rows, and the names under which their ends are kept."""
        streams = self.data.streams
        names = known_as([stream.name for stream in streams], self._before)
        return [pair for pair in zip(names, streams, strict=True) if pair[1].begin < len(pair[1].values)]

    def _ended(self, verdicts: list[Verdict]) -> dict[str, StreamEnd]:
        """Ends of the streams that were read, whose new rows had these verdicts."""
        found = {}
        for number, ((name, stream), verdict) in enumerate(zip(self._going_on, verdicts, strict=True)):
            rows = len(verdict.score)
            place = stream.place.after(stream.time, stream.begin, rows, stream.training, stream.zone)
            found[name] = StreamEnd(place, self._last[number].tensors(), {"threshold": verdict.threshold})
        return found

    def predictions_again(self) -> list[np.ndarray]:
        """See `lightning_modules.data.place.LearnsOn`."""
        return []

    def on_predict_epoch_start(self) -> None:
        self._score, self._last = None, {}
        if not self._before:
            return
        going_on = self._going_on
        whole = Carried.beside(
            [self.resumed(self._before.get(name), stream.training) for name, stream in going_on]
        )
        self._inputs, self._score = whole.inputs, whole.score
        self._level = np.zeros((len(going_on), self.shape.channels))
        self.held = {self.title: [state.to(self.device) for state in whole.states]}

    def resumed(self, end: StreamEnd | None, training: int = 0) -> Carried:
        """All that a stream carries at its end; None begins one with so many rows to train on.

        Raises:
            CheckpointError: it is of other settings, or holds what no stream does.
        """
        rows = training if end is None else end.place.training
        fresh = Carried.fresh(self.core, self.settings, self.shape, rows)
        return fresh if end is None else fresh.resumed(end.tensors)

    def predict_step(self, batch: AnomalyBatch, batch_idx: int) -> np.ndarray:
        """Score and alarm (2, N, T) of a chunk."""
        return self.judge(batch, self.detectors[:1])[0][:, 0]

    def _predicted(self, predictions: list[np.ndarray]) -> list[Verdict]:
        """Verdicts on the streams that were predicted; those that go on keep their thresholds."""
        found = []
        for (name, stream), score, alarm in zip(
            self._going_on, *np.concatenate(predictions, -1), strict=True
        ):
            rows = len(stream.values) - stream.begin
            if (end := self._before.get(name)) is None:
                found.append(self._verdict(stream, score[:rows], alarm[:rows]))
            else:
                found.append(Verdict.by(end.facts["threshold"], score[:rows], alarm[:rows], first=0))
        return found

    predictions_file = "scores.csv"

    def prediction_table(self, predictions: list[np.ndarray]) -> pd.DataFrame:
        """Results of `predict_step` with a line for each row of each stream, see `score_table`."""
        return self.in_kind(score_table(self.data.predicted, self._predicted(predictions)))
