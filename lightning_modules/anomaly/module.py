"""`AnomalyModule`: predict, score, then adapt, over streams that nobody has labelled.

Shapes: N streams, T rows of a chunk, C columns, I = 2 C inputs of the layer: levels, then steps.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor

from dream import DREAMConfig, DREAMStack, DREAMState
from dream.errors import ConfigError
from dream.files import write_atomic
from lightning_modules import ranks
from lightning_modules.anomaly import plots
from lightning_modules.anomaly.data import AnomalyBatch, AnomalyData
from lightning_modules.anomaly.scores import (
    GATE_MEASURES,
    LEVEL_LIMIT,
    MEASURES,
    WARM_UP,
    AnomalyScore,
    RunningScale,
    WindowedGaussian,
)
from lightning_modules.anomaly.verdicts import FLAGGED, HIGHER_IS_BETTER, Verdict, assess, score_table
from lightning_modules.base import Observation, TaskModule, require, require_finite

LOSS_LIMIT = 25.0  # squared usual deviations: an outlier in the training part teaches no more than that
FIGURES = 3
REPEAT, GAUSSIAN = "repeat-last", "windowed Gaussian"


class ChunkOutput(NamedTuple):
    """What the layers, of which there are K, made of a chunk."""

    prediction: Tensor
    """(N, T, I)"""
    deviation: Tensor
    """(N, T)"""
    surprise: Tensor
    """(N, T, K)"""
    u_norm: Tensor
    """(N, T, K)"""


class AnomalyModule(TaskModule):
    """Scores every row of every stream in [0, 1] before learning from it.

    The layer reads the levels and steps of all columns, each relative to its own running mean and deviation
    (`RunningScale`), and predicts the next; loss: ``mean min((x - prediction)^2, 25)`` over the training
    parts, without labels. `AnomalyScore` makes score and alarm out of what it had predicted and what came.
    What adapts in the stream: fast weights, running scales, tails. All that a row's score depends on is that
    row and those before it.

    Threshold, for each stream, from the scores of its training part, without labels: `threshold` says how,
    `risk` how many rows like those may exceed it. A row above it is flagged; it raises an alarm if its alarm
    is above 0, too.

    Table: the module; the same weights with plasticity off (DREAM with fast weights only); `repeat-last`, the
    same scoring of the prediction that nothing changes; `windowed Gaussian` as it is.

    Args:
        config: The DREAM layer; its `input_dim` is set to twice the number of columns, and a `rank` above
            that to that.
        channels: Number of columns; set by the data.
        core: What reads the stream: DREAM or a rival, see `build_core`.
        hidden_dims: Width of each layer; one of `config.hidden_dim` if not given.
        dropout: Share dropped between layers, in training.
        memory: Rows after which a running mean and deviation fades.
        tail_memory: Rows after which a tail fades.
        adapt: Whether fast weights, running scales and tails go on learning after the training part. False is
            for streams whose normal behaviour stays and whose anomalies last, so that they would become
            usual.
        measures: What is scored, of `error` and `burst` of the prediction, `level` and `drift` of the data,
            `deviation` and `surprise` of the layer; see `AnomalyScore`.
        gap: Rows within which a lower score is no new alarm, as a share of the training part.
        threshold: `tail`: peaks over threshold of the training part's scores; `quantile`: their quantile.
        risk: Share of rows like those of the training part that may exceed the threshold.
        buffer: Longest buffer of VUS-PR, in rows.
        lr: Peak learning rate.
        weight_decay: AdamW's decay of the weight matrices.
        schedule: Learning rate after the warm-up: `cosine` down to 1 % or `constant`.
        warmup: Share of all steps in which the learning rate rises.
        backend: Implementation of the scan, see `dream.ops.registry`.
    """

    higher_is_better: ClassVar[frozenset[str]] = HIGHER_IS_BETTER
    unranked: ClassVar[frozenset[str]] = frozenset({FLAGGED})
    data: AnomalyData
    """What it was prepared for; there once `prepare` has run."""

    def __init__(
        self,
        config: DREAMConfig = DREAMConfig.preset("anomaly_detection"),  # noqa: B008 - frozen
        channels: int = 1,
        core: Literal["dream", "lstm", "gru", "rnn", "linear"] = "dream",
        hidden_dims: list[int] | None = None,
        dropout: float = 0.0,
        memory: int = 3000,
        tail_memory: int = 10000,
        adapt: bool = True,
        measures: list[str] = [*MEASURES, "surprise"],  # noqa: B006 - shown by --print_config, never changed
        gap: float = 1 / 3,
        threshold: Literal["tail", "quantile"] = "tail",
        risk: float = 1e-3,
        buffer: int = 100,
        lr: float = 3e-3,
        weight_decay: float = 0.01,
        schedule: Literal["cosine", "constant"] = "cosine",
        warmup: float = 0.05,
        backend: str = "auto",
    ) -> None:
        super().__init__(lr, weight_decay, schedule, warmup)
        config = config if isinstance(config, DREAMConfig) else DREAMConfig(**config)
        require("memory", memory, memory >= WARM_UP, f"at least {WARM_UP} rows")
        require("tail_memory", tail_memory, tail_memory >= WARM_UP, f"at least {WARM_UP} rows")
        choice = (*MEASURES, *GATE_MEASURES)
        require(
            "measures",
            measures,
            bool(measures) and set(measures) <= set(choice),
            f"one or more of {', '.join(choice)}",
        )
        require("gap", gap, 0 <= gap <= 10, "a share of the training part from 0 to 10")
        require("threshold", threshold, threshold in ("tail", "quantile"), "tail or quantile")
        require("risk", risk, 0 < risk < 1, "a share of the rows above 0 and below 1")
        require("buffer", buffer, buffer >= 0, "at least 0 rows")
        config = replace(config, input_dim=2 * channels, rank=min(config.rank, 2 * channels))
        self.save_settings(
            config,
            channels=channels,
            core=core,
            hidden_dims=hidden_dims,
            dropout=dropout,
            memory=memory,
            tail_memory=tail_memory,
            adapt=adapt,
            measures=measures,
            gap=gap,
            threshold=threshold,
            risk=risk,
            buffer=buffer,
            lr=lr,
            weight_decay=weight_decay,
            schedule=schedule,
            warmup=warmup,
            backend=backend,
        )
        self.channels, self.memory, self.tail_memory, self.adapt = channels, memory, tail_memory, adapt
        self.measures, self.gap, self.threshold, self.risk, self.buffer = (
            list(measures),
            gap,
            threshold,
            risk,
            buffer,
        )
        self.make_core(core, config, hidden_dims, dropout, backend)
        off = [f"{self.title}, plasticity off"] if core == "dream" and config.base_plasticity > 0 else []
        self.detectors = [self.title, *off, REPEAT]
        """The rows of the table that are scored the same way, the module's own first."""
        self._scale: RunningScale | None = None
        self._held: list[DREAMState] | None = None
        self._last = np.zeros((0, channels))
        self._score: AnomalyScore | None = None
        self._gaussian: WindowedGaussian | None = None
        self._seen: list[np.ndarray] = []
        self._shown: list[np.ndarray] = []
        self._val: list[Tensor] = []
        self.verdicts: dict[str, list[Verdict]] = {}
        """Of the last test: what each detector says of each stream."""

    def prepare(self, data: L.LightningDataModule) -> None:
        if not isinstance(data, AnomalyData):
            raise ConfigError(
                f"`data` must be an AnomalyData; got {type(data).__name__}. Try AnomalyTable.", key="data"
            )
        self.data = data

    def forget_states(self) -> None:
        super().forget_states()
        self._scale = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The running scales go on with the carried states."""
        super().on_save_checkpoint(checkpoint)
        held = self._scale.arrays() if self._scale else {}
        checkpoint["scale"] = {name: ranks.whole(torch.from_numpy(rows)) for name, rows in held.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if own := {name: ranks.mine(rows).numpy() for name, rows in checkpoint["scale"].items()}:
            self._scale = RunningScale(len(own["rows"]), self.channels, self.memory)
            self._scale.load(own)

    def relative(self, batch: AnomalyBatch) -> tuple[np.ndarray, np.ndarray]:
        """The layer's input (N, T, I) before it is limited, and where the streams learn, (N, T); carries the
        scales."""
        values = batch.values.cpu().numpy()
        streams, rows, columns = values.shape
        if batch.start == 0 or self._scale is None:
            self._scale = RunningScale(streams, columns, self.memory)
        known = batch.training.cpu().numpy()[:, None] > batch.start + np.arange(rows)
        learning = known | self.adapt
        scale = self._scale
        return np.stack([scale.step(values[:, row], learning[:, row]) for row in range(rows)], 1), learning

    def scan(
        self, x: Tensor, lengths: Tensor, learning: np.ndarray, states: list[DREAMState]
    ) -> tuple[ChunkOutput, list[DREAMState]]:
        """Read `x` (N, T, I) from `states`; fast weights learn in the rows where `learning` (N, T)."""
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
            rows = torch.from_numpy(np.flatnonzero(learning == plastic)).to(x.device)
            if len(rows) == 0:
                continue
            with self.stack.plasticity(plastic and self.stack.plasticity_enabled):
                _, traces, after = self.stack.trace(x[rows], [state[rows] for state in states], lengths[rows])
            shown = (
                torch.stack([getattr(trace, name) for trace in traces], -1) for name in ("surprise", "u_norm")
            )
            pieces.append(ChunkOutput(traces[0].prediction, traces[0].deviation, *shown))
            ends.append(after)
            order.append(rows)
        back = torch.argsort(torch.cat(order))
        scan = ChunkOutput(*(torch.cat(piece)[back] for piece in zip(*pieces, strict=True)))
        return scan, [DREAMState.cat(layer)[back] for layer in zip(*ends, strict=True)]

    def _limited(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.clip(x, -LEVEL_LIMIT, LEVEL_LIMIT)).to(self.device, self.dtype)  # type: ignore[arg-type]

    def _predict(self, batch: AnomalyBatch) -> tuple[Tensor, Tensor]:
        """What the layer reads and what it predicts of it, (N, T, I) both; the states go on."""
        relative, _ = self.relative(batch)
        x, reset = (
            self._limited(relative),
            torch.full((len(batch.values),), batch.start == 0, device=self.device),
        )
        lengths = batch.lengths.clamp(min=1)
        _, traces, states = self.stack.trace(x, self.carried(reset, len(x)), lengths)
        self.carry(states, reset)
        self.observe(traces, states, lengths)
        return x, traces[0].prediction

    @staticmethod
    def _prediction_loss(batch: AnomalyBatch, x: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the limited squared errors of the rows that count, (), and their number, ()."""
        errors = (x - prediction).square().clamp(max=LOSS_LIMIT).mean(-1)
        return (errors * batch.counted).sum(), batch.counted.sum()

    @property
    def unreached(self) -> bool:
        """The first layer predicts."""
        return isinstance(self.stack, DREAMStack) and len(self.stack.layers) > 1

    def losses(self, batch: AnomalyBatch) -> dict[str, Tensor]:
        total, count = self._prediction_loss(batch, *self._predict(batch))
        return {"loss": total / ranks.mean(count).to(total)}

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._val = []

    def validation_step(self, batch: AnomalyBatch, batch_idx: int) -> None:
        x, prediction = self._predict(batch)
        if (
            self.trainer.state.fn != TrainerFn.FITTING
        ):  # there NaNGuard says so, and a later epoch may be better
            self._require_finite(batch, {"the prediction": prediction})
        self._val.append(torch.stack(self._prediction_loss(batch, x, prediction)))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        total, count = ranks.mean(torch.stack(self._val).sum(0))
        self.log("val/loss", total / count)

    def _require_finite(self, batch: AnomalyBatch, outputs: dict[str, Tensor | np.ndarray]) -> None:
        """Refuse outputs (N, T, ...) that are not finite in a row of a stream.

        Raises:
            DREAMError: naming the stream and the first row.
        """
        streams = len(batch.lengths)
        gone = torch.arange(batch.values.shape[1]) >= batch.lengths.cpu()[:, None]
        flat = {name: torch.as_tensor(values).cpu().flatten(2) for name, values in outputs.items()}
        by_row = {
            name: v.masked_fill(gone[..., None], 0.0).transpose(0, 1).flatten(0, 1)
            for name, v in flat.items()
        }
        require_finite(
            by_row, lambda k: f"{self.data.source_of(k % streams)}, row {batch.start + k // streams}"
        )

    def judge(self, batch: AnomalyBatch, detectors: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Score and alarm, (2, D, N, T), of `detectors` (D of them) for a chunk, and its surprise and norm of
        U, (2, N, T).

        Carries everything from chunk to chunk; a chunk that starts at row 0 starts afresh.

        Raises:
            DREAMError: a prediction or a score is not finite.
        """
        x, learning = self.relative(batch)
        streams, rows, _ = x.shape
        if batch.start == 0 or self._score is None:
            self._states, self._held = self.stack.init_state(streams), self.stack.init_state(streams)
            gap = np.round(self.gap * np.tile(batch.training.cpu().numpy(), len(detectors))).astype(int)
            self._score = AnomalyScore(
                len(detectors) * streams, self.channels, self.tail_memory, gap, self.measures
            )
            self._last = np.zeros((streams, self.channels))
        assert self._states is not None
        assert self._held is not None
        scan, self._states = self.scan(self._limited(x), batch.lengths, learning, self._states)
        scans = [scan]
        if f"{self.title}, plasticity off" in detectors:
            held, self._held = self.scan(self._limited(x), batch.lengths, np.zeros_like(learning), self._held)
            scans.append(held)
        predictions = [one.prediction.cpu().numpy() for one in scans]
        gates = [torch.stack([one.deviation, one.surprise[..., 0]], -1).cpu().numpy() for one in scans]
        if REPEAT in detectors:
            levels = np.concatenate([self._last[:, None], x[:, :-1, : self.channels]], 1)
            predictions.append(np.concatenate([levels, np.zeros_like(levels)], -1))
            gates.append(np.zeros_like(gates[0]))  # there is no layer: nothing of it counts
        self._last = x[:, -1, : self.channels]
        seen, expected, gate = (
            np.tile(x, (len(detectors), 1, 1)),
            np.concatenate(predictions),
            np.concatenate(gates),
        )
        learns = np.tile(learning, (len(detectors), 1))
        judged = [
            self._score.step(seen[:, row], expected[:, row], gate[:, row], learns[:, row])
            for row in range(rows)
        ]
        scores = np.stack([np.stack(part, 1) for part in zip(*judged, strict=True)]).reshape(
            2, -1, streams, rows
        )
        shown = torch.stack([scan.surprise, scan.u_norm])  # (2, N, T, K)
        ends = enumerate(state.adaptive_tau for state in self._states)
        self.observed = [
            Observation(shown[0, ..., k], shown[1, ..., k], tau, batch.lengths, True) for k, tau in ends
        ]
        self._require_finite(
            batch, {"the prediction": scans[0].prediction, "the score": scores.transpose(2, 3, 0, 1)}
        )
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
        self._seen, self._shown, self.verdicts = [], [], {}

    def test_step(self, batch: AnomalyBatch, batch_idx: int) -> None:
        scores, shown = self.judge(batch, self.detectors)
        values = batch.values.cpu().numpy()
        if batch.start == 0 or self._gaussian is None:
            self._gaussian = WindowedGaussian(len(values), self.channels)
        gaussian = [np.stack(self._gaussian.step(values[:, row])) for row in range(values.shape[1])]
        self._seen.append(np.concatenate([scores, np.stack(gaussian, -1)[:, None]], 1))
        self._shown.append(shown)

    def on_test_epoch_end(self) -> None:
        seen = np.concatenate(self._seen, -1)
        for number, name in enumerate([*self.detectors, GAUSSIAN]):
            self.verdicts[name] = self._verdicts(seen[:, number])
        streams, buffer, corpus = self.data.streams, self.buffer, self.data.nab
        self.log_results(
            {name: assess(streams, found, buffer, corpus) for name, found in self.verdicts.items()}
        )

    def _verdicts(self, scores: np.ndarray) -> list[Verdict]:
        """What the scores and alarms (2, N, T) of a detector say of each stream."""
        found = zip(self.data.streams, *scores, strict=True)
        return [
            Verdict.of(
                stream, score[: len(stream.values)], alarm[: len(stream.values)], self.threshold, self.risk
            )
            for stream, score, alarm in found
        ]

    def figures(self) -> dict[str, Figure]:
        """Data with labels and alarms, score and threshold, surprise and norm of U, of up to three
        streams."""
        if not self.verdicts:
            return {}
        streams, verdicts = self.data.streams, self.verdicts[self.title]
        shown = np.concatenate(self._shown, -1)
        picked = sorted(
            range(len(streams)), key=lambda row: (-len(streams[row].windows), -len(streams[row].values))
        )
        return {
            f"anomalies_{k}": plots.detection(
                streams[row],
                plots.Detection(
                    verdicts[row].score, verdicts[row].threshold, verdicts[row].raised, *shown[:, row]
                ),
                self.data.drift_rows,
            )
            for k, row in enumerate(picked[:FIGURES], 1)
        }

    def on_predict_epoch_start(self) -> None:
        self._score = None

    def predict_step(self, batch: AnomalyBatch, batch_idx: int) -> np.ndarray:
        """Score and alarm of the chunk, (2, N, T)."""
        return self.judge(batch, self.detectors[:1])[0][:, 0]

    def prediction_table(self, predictions: list[np.ndarray]) -> pd.DataFrame:
        """What `predict_step` gave, a row for each row of each stream, see `score_table`."""
        return score_table(self.data.streams, self._verdicts(np.concatenate(predictions, -1)))

    def write_predictions(self, predictions: list[np.ndarray], folder: Path) -> list[Path]:
        """`scores.csv`: the `prediction_table`."""
        if not predictions:
            return []
        return [write_atomic(folder / "scores.csv", self.prediction_table(predictions).to_csv(index=False))]
