"""`SpeechModule`: which word is said, or which words, from the features of whole utterances.

Shapes: N utterances of the batch, T steps of the longest, I inputs, W width of the layer's output, V classes
or tokens."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, ctc_loss
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.functional.text import char_error_rate, word_error_rate

from dream import DREAMConfig, DREAMState, DREAMTrace
from dream.errors import CheckpointError, ConfigError
from dream.files import write_atomic
from lightning_modules import ranks
from lightning_modules.base import TaskModule, require, require_finite
from lightning_modules.speech import plots
from lightning_modules.speech.data import SpeechData
from lightning_modules.speech.decoding import BLANK, beam_search, greedy
from lightning_modules.speech.utterances import SpeechBatch

NEAREST = "nearest mean"


class SpeechOutput(NamedTuple):
    """What was made of a batch."""

    log_probs: Tensor
    """(N, V) of the classes; of recognition (N, T, 1 + V) of blank and tokens"""
    prediction_loss: Tensor
    """() sum over all valid steps of the mean squared error of the layer's own predictions"""
    traces: list[DREAMTrace]
    states: list[DREAMState]


class SpeechModule(TaskModule):
    """Reads the features of utterances with a core, and says what is said in them.

    The core reads padded batches with their lengths (`DREAMStack.trace`, the way of `forward_with_mask`):
    padding changes nothing. The head reads its output and, with `error`, its prediction error, z_t.

    - `classification`: ``softmax(mean_t z_t E + e)`` over the valid steps, minimising the cross-entropy;
    - `recognition`: ``softmax(z_t E + e)`` at every step over blank and tokens, minimising the CTC loss,
      ``-ln p(tokens) / tokens``; decoded greedily and by beam search (`lightning_modules.speech.decoding`).

    Added to either: `prediction_weight` times the mean squared error of the layer's own predictions. In
    training a stretch of each utterance is hidden (`mask`) and noise is added to the features (`noise`).

    Table: the module; the same weights with plasticity off (DREAM with fast weights only); for classification
    `nearest mean`: the class to whose mean the utterance is nearest, in units of the deviation within
    classes; an utterance counts as the mean features of its first, middle and last third.

    Args:
        config: The DREAM layer; its `input_dim` is set to the width of a step.
        task: What is asked of each utterance; set by the data.
        inputs: Width of a step; set by the data.
        channels: Number of classes or tokens; set by the data.
        core: What reads the utterance: DREAM, or a rival of as many parameters: `lstm`, `gru`, `rnn`,
            `linear`.
        hidden_dims: Width of each layer; one of `config.hidden_dim` if not given.
        dropout: Share dropped between layers and before the head, in training.
        error: Whether the head reads the layer's prediction error beside its output.
        mask: Longest share of an utterance that is hidden, in training.
        noise: Deviation of the noise on the features, in training.
        beam: Beginnings that beam search keeps.
        prediction_weight: Weight of the layer's own prediction loss.
        lr: Peak learning rate.
        weight_decay: AdamW's decay of the weight matrices.
        schedule: Learning rate after the warm-up: `cosine` down to 1 % or `constant`.
        warmup: Share of all steps in which the learning rate rises.
        backend: Implementation of the scan, see `dream.ops.registry`.
    """

    higher_is_better = frozenset({"accuracy"})
    data: SpeechData
    """What it was prepared for; there once `prepare` has run."""

    def __init__(
        self,
        config: DREAMConfig = DREAMConfig.preset("speech_recognition"),  # noqa: B008 - frozen
        task: Literal["classification", "recognition"] = "classification",
        inputs: int = 39,
        channels: int = 10,
        core: Literal["dream", "lstm", "gru", "rnn", "linear"] = "dream",
        hidden_dims: list[int] | None = None,
        dropout: float = 0.2,
        error: bool = False,
        mask: float = 0.2,
        noise: float = 0.2,
        beam: int = 8,
        prediction_weight: float = 0.1,
        lr: float = 3e-3,
        weight_decay: float = 0.01,
        schedule: Literal["cosine", "constant"] = "cosine",
        warmup: float = 0.05,
        backend: str = "auto",
    ) -> None:
        super().__init__(lr, weight_decay, schedule, warmup)
        config = config if isinstance(config, DREAMConfig) else DREAMConfig(**config)
        require("task", task, task in ("classification", "recognition"), "classification or recognition")
        require("dropout", dropout, 0 <= dropout < 1, "a share from 0 to below 1")
        require("mask", mask, 0 <= mask <= 0.5, "a share from 0 to 0.5")
        require("noise", noise, 0 <= noise <= 10, "from 0 to 10 deviations")
        require("beam", beam, 1 <= beam <= 1000, "from 1 to 1000")
        require(
            "prediction_weight",
            prediction_weight,
            0 <= prediction_weight < np.inf,
            "a finite number of at least 0",
        )
        config = replace(config, input_dim=inputs, rank=min(config.rank, inputs))
        self.save_settings(
            config,
            task=task,
            inputs=inputs,
            channels=channels,
            core=core,
            hidden_dims=hidden_dims,
            dropout=dropout,
            error=error,
            mask=mask,
            noise=noise,
            beam=beam,
            prediction_weight=prediction_weight,
            lr=lr,
            weight_decay=weight_decay,
            schedule=schedule,
            warmup=warmup,
            backend=backend,
        )
        self.make_core(core, config, hidden_dims, dropout, backend)
        self.channels = channels
        self.task, self.error, self.mask, self.noise, self.beam = task, error, mask, noise, beam
        self.prediction_weight = prediction_weight
        self.dropout = nn.Dropout(dropout)
        width = self.stack.output_dim + inputs * error
        self.head = nn.Linear(width, channels + (task == "recognition"))
        plastic = core == "dream" and config.base_plasticity > 0
        self.rows = [self.title, *([f"{self.title}, plasticity off"] if plastic else [])]
        """The rows of the table that these weights give, the module's own first."""
        self._val: list[Tensor] = []
        self._seen: dict[str, list[Tensor]] = {}
        self._heard: list[SpeechBatch] = []
        self._transcripts: list[tuple[str, str, str]] = []
        self._shown: plots.Heard | None = None
        self.vocabulary: tuple[str, ...] = ()
        """The classes or tokens; there once `prepare` has run."""

    def prepare(self, data: L.LightningDataModule) -> None:
        if not isinstance(data, SpeechData):
            raise ConfigError(
                f"`data` must be a SpeechData; got {type(data).__name__}. Try SpeechFolder.", key="data"
            )
        data.setup()
        self.data, self.vocabulary = data, data.vocabulary

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["vocabulary"] = list(self.vocabulary)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.refuse_checkpoint(checkpoint)
        self.vocabulary = tuple(checkpoint["vocabulary"])

    def refuse_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        learnt = tuple(checkpoint["vocabulary"])
        if self.vocabulary not in ((), learnt):
            raise CheckpointError(
                f"the checkpoint says {', '.join(learnt)}; the data hold {', '.join(self.vocabulary)}. Set "
                "`data.vocabulary` to what the checkpoint says."
            )

    def forward(self, features: Tensor, lengths: Tensor) -> SpeechOutput:
        """Read padded `features` (N, T, I), of which each row has `lengths` (N,)."""
        if self.training:
            features = self.varied(features, lengths)
        output, traces, states = self.stack.trace(features, lengths=lengths)
        seen = self.head_input(output, traces)
        if self.task == "classification":
            seen = seen.sum(1) / lengths.unsqueeze(-1)
        log_probs = self.head(self.dropout(seen)).log_softmax(-1)
        return SpeechOutput(log_probs, traces[0].error.square().mean(-1).sum(), traces, states)

    def head_input(self, output: Tensor, traces: list[DREAMTrace]) -> Tensor:
        """z, (N, T, W), or (N, T, W + I) with the prediction error beside the output."""
        return torch.cat([output, traces[0].error], -1) if self.error else output

    def misfit(self, log_probs: Tensor, batch: SpeechBatch) -> Tensor:
        """(N,) the loss of each utterance: its cross-entropy, or its CTC loss by token."""
        if self.task == "classification":
            return cross_entropy(log_probs, batch.tokens[:, 0], reduction="none")
        tokens = (batch.tokens + 1).clamp_min(0)
        values = ctc_loss(
            log_probs.transpose(0, 1), tokens, batch.lengths, batch.counts, BLANK, reduction="none"
        )
        return values / batch.counts

    def varied(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features with noise and a hidden stretch, at random."""
        if self.noise:
            features = features + self.noise * torch.randn_like(features)
        if self.mask:
            share, place = torch.rand(2, len(features), 1, device=features.device)
            long = self.mask * share * lengths.unsqueeze(-1)
            start = place * (lengths.unsqueeze(-1) - long)
            step = torch.arange(features.shape[1], device=features.device)
            hidden = (step >= start) & (step < start + long)
            features = features.masked_fill(hidden.unsqueeze(-1), 0.0)
        return features

    @staticmethod
    def counted(batch: SpeechBatch) -> Tensor:
        """(2,) the utterances and steps of a batch that count."""
        rows = torch.ones_like(batch.lengths).sum()
        return (0 if batch.spare else 1) * torch.stack([rows, batch.lengths.sum()])

    def losses(self, batch: SpeechBatch) -> dict[str, Tensor]:
        reading = self(batch.features, batch.lengths)
        self.observe(reading.traces, reading.states, batch.lengths)
        own = 0 if batch.spare else 1
        rows, steps = ranks.mean(self.counted(batch))
        fit, prediction = (
            own * self.misfit(reading.log_probs, batch).sum() / rows,
            own * reading.prediction_loss / steps,
        )
        return {"loss": fit + self.prediction_weight * prediction, "fit": fit, "prediction_loss": prediction}

    def _require_finite(self, batch: SpeechBatch, log_probs: Tensor) -> None:
        require_finite({"the probabilities": log_probs}, batch.names.__getitem__)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._val = []

    def validation_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        log_probs = self(batch.features, batch.lengths).log_probs
        if (
            self.trainer.state.fn != TrainerFn.FITTING
        ):  # there NaNGuard says so, and a later epoch may be better
            self._require_finite(batch, log_probs)
        rows = self.counted(batch)[0]
        self._val.append(torch.stack([rows.clamp(max=1) * self.misfit(log_probs, batch).sum(), rows]))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        total, count = ranks.mean(torch.stack(self._val).sum(0))
        self.log("val/loss", total / count)

    def on_test_epoch_start(self) -> None:
        self._seen = {name: [] for name in self.rows}
        self._heard, self._transcripts = [], []

    def test_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        self._heard.append(batch)
        for name in self.rows:
            with self.stack.plasticity(name == self.title and self.stack.plasticity_enabled):
                reading: SpeechOutput = self(batch.features, batch.lengths)
            if name == self.title:
                self.observe(reading.traces, reading.states, batch.lengths)
            self._require_finite(batch, reading.log_probs)
            self._seen[name].append(reading.log_probs.cpu())

    def on_test_epoch_end(self) -> None:
        heard = [
            batch._replace(**{name: getattr(batch, name).cpu() for name in batch._fields[:4]})
            for batch in self._heard
        ]
        score = self._scores if self.task == "classification" else self._error_rates
        results = {name: score(heard, seen) for name, seen in self._seen.items()}
        if self.task == "classification":
            accuracy = (
                (self.data.nearest_mean(heard) == torch.cat([batch.tokens[:, 0] for batch in heard]))
                .float()
                .mean()
            )
            results[NEAREST] = {"accuracy": float(accuracy)}
        self._shown = self._overheard()
        self.log_results(results)

    def _scores(self, heard: list[SpeechBatch], seen: list[Tensor]) -> dict[str, float]:
        truth, log_probs = torch.cat([batch.tokens[:, 0] for batch in heard]), torch.cat(seen)
        accuracy = multiclass_accuracy(log_probs, truth, self.channels, average="micro")
        return {"accuracy": float(accuracy), "cross_entropy": float(cross_entropy(log_probs, truth))}

    def _error_rates(self, heard: list[SpeechBatch], seen: list[Tensor]) -> dict[str, float]:
        truth = [
            self.written(row[:count].tolist())
            for b in heard
            for row, count in zip(b.tokens, b.counts, strict=True)
        ]
        pairs = list(zip(heard, seen, strict=True))
        found = {}
        for suffix, decode in (("", self._likeliest), ("_greedy", greedy)):
            said = [self.decoded(decode(row)) for batch, part in pairs for row in valid_steps(batch, part)]
            if not self._transcripts:  # the module's own, by beam search, come first
                names = [name for batch in heard for name in batch.names]
                self._transcripts = list(zip(names, said, truth, strict=True))
            found[f"wer{suffix}"] = float(word_error_rate(said, truth))
            found[f"cer{suffix}"] = float(char_error_rate(said, truth))
        return found

    def on_test_end(self) -> None:
        """For recognition `heard.csv` in the run's folder: what was heard in each recording, and what is said
        in it."""
        if self._transcripts and (folder := self.run_folder):
            table = pd.DataFrame(self._transcripts, columns=["file", "heard", "said"])
            write_atomic(folder / "heard.csv", table.sort_values("file").to_csv(index=False))

    def _likeliest(self, log_probs: np.ndarray) -> list[int]:
        return beam_search(log_probs, self.beam)[0]

    def written(self, numbers: list[int]) -> str:
        """Tokens as text, blanks at its ends and doubled ones left out."""
        return " ".join(self.data.glue.join(self.vocabulary[number] for number in numbers).split())

    def decoded(self, numbers: list[int]) -> str:
        """What was decoded as text: there the blank is number 0."""
        return self.written([number - 1 for number in numbers])

    def _overheard(self) -> plots.Heard:
        """An utterance in the middle of the test; posteriors of a classification as if it ended at each
        step."""
        batch = self._heard[len(self._heard) // 2]
        row = len(batch.names) // 2
        output, traces, _ = self.stack.trace(batch.features[row : row + 1, : int(batch.lengths[row])])
        seen = self.head_input(output, traces)
        if self.task == "classification":
            seen = seen.cumsum(1) / torch.arange(1, seen.shape[1] + 1, device=seen.device)[:, None]
        steps, mfcc = seen.shape[1], self.data.mfcc
        features = batch.features[row, :steps].reshape(-1, mfcc.features)
        said = self.written(batch.tokens[row, : int(batch.counts[row])].tolist())
        return plots.Heard(
            f"{batch.names[row]}: {said}",
            self.data.stack * mfcc.hop * np.arange(steps),
            features=features.cpu().numpy(),
            surprise=traces[0].surprise[0].cpu().numpy(),
            u_norm=traces[0].u_norm[0].cpu().numpy(),
            posteriors=self.head(seen)[0].softmax(-1).cpu().numpy(),
            names=self.vocabulary if self.task == "classification" else ("blank", *self.vocabulary),
        )

    def figures(self) -> dict[str, Figure]:
        """One utterance: features, surprise, norm of U and posteriors; for classification also what is taken
        for what."""
        if self._shown is None:
            return {}
        found = {"utterance": plots.utterance(self._shown)}
        if self.task == "classification":
            truth = torch.cat([batch.tokens[:, 0].cpu() for batch in self._heard]).numpy()
            said = torch.cat(self._seen[self.title]).argmax(1).numpy()
            found["confusion"] = plots.confusion(truth, said, self.vocabulary)
        return found

    def predict_step(self, batch: SpeechBatch, batch_idx: int) -> list[tuple[str, str, float]]:
        """Name, what is said, and the probability of it, of each utterance."""
        log_probs = self(batch.features, batch.lengths).log_probs
        self._require_finite(batch, log_probs)
        if self.task == "classification":
            values, numbers = log_probs.max(-1)
            said = [
                (self.vocabulary[number], value)
                for number, value in zip(numbers.tolist(), values.tolist(), strict=True)
            ]
        else:
            found = [beam_search(row, self.beam) for row in valid_steps(batch, log_probs.cpu())]
            said = [(self.decoded(numbers), value) for numbers, value in found]
        return [(name, text, math.exp(value)) for name, (text, value) in zip(batch.names, said, strict=True)]

    def prediction_table(self, predictions: list[list[tuple[str, str, float]]]) -> pd.DataFrame:
        """What `predict_step` gave, a row for each recording: file, what is said, its probability."""
        table = pd.DataFrame(
            [row for batch in predictions for row in batch], columns=["file", "said", "score"]
        )
        return table.sort_values("file")

    def write_predictions(self, predictions: list[list[tuple[str, str, float]]], folder: Path) -> list[Path]:
        """`labels.csv` or `transcripts.csv`: the `prediction_table`."""
        name = "labels.csv" if self.task == "classification" else "transcripts.csv"
        return [write_atomic(folder / name, self.prediction_table(predictions).to_csv(index=False))]


def valid_steps(batch: SpeechBatch, log_probs: Tensor) -> list[np.ndarray]:
    """`log_probs` (N, T, ...) of each utterance without the padding, (its steps, ...)."""
    return [row[:length].numpy() for row, length in zip(log_probs, batch.lengths.tolist(), strict=True)]
