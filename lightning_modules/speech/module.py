"""`SpeechModule`: which word is said, or which words, from the features of whole utterances.

Shapes: N utterances of the batch, T steps of the longest, I inputs, W width of the layer's output, V classes
or tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, ctc_loss
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.functional.text import char_error_rate, word_error_rate

from dream import DREAMConfig, DREAMState, DREAMTrace
from dream.files import write_atomic
from lightning_modules import ranks
from lightning_modules.base import PredictiveSettings, TaskModule, as_instance, require
from lightning_modules.speech import plots
from lightning_modules.speech.data import SpeechData, SpeechShape
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


@dataclass(frozen=True)
class SpeechSettings(PredictiveSettings):
    """Settings of `SpeechModule`."""

    dropout: float = 0.2
    error: bool = False
    """Whether the head reads the layer's prediction error beside its output."""
    mask: float = 0.2
    """Longest share of an utterance that is hidden, in training."""
    noise: float = 0.2
    """Deviation of the noise on the features, in training."""
    beam: int = 8
    """Beginnings that beam search keeps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("mask", self.mask, 0 <= self.mask <= 0.5, "a share from 0 to 0.5")
        require("noise", self.noise, 0 <= self.noise <= 10, "from 0 to 10 deviations")
        require("beam", self.beam, 1 <= self.beam <= 1000, "from 1 to 1000")


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
        shape: Facts about the recordings; set by the data.
        **settings: Fields of `SpeechSettings`.
    """

    accepts = SpeechData
    higher_is_better = frozenset({"accuracy"})
    data: SpeechData
    """The data it was prepared for; there once `prepare` has run."""
    settings: SpeechSettings
    shape: SpeechShape
    vocabulary: tuple[str, ...] = ()

    def __init__(
        self,
        config: DREAMConfig = DREAMConfig.preset("speech_recognition"),  # noqa: B008 - frozen
        shape: SpeechShape = SpeechShape(),  # noqa: B008 - frozen
        **settings: Any,
    ) -> None:
        super().__init__(config, as_instance(SpeechShape, shape), SpeechSettings(**settings))
        shape, options = self.shape, self.settings
        self.core = self.make_core(shape.inputs)
        self.dropout = nn.Dropout(options.dropout)
        width = self.core.output_dim + shape.inputs * options.error
        self.head = nn.Linear(width, shape.channels + (shape.task == "recognition"))
        self._seen: dict[str, list[Tensor]] = {}
        self._heard: list[SpeechBatch] = []
        self._transcripts: list[tuple[str, str, str]] = []
        self._shown: plots.Heard | None = None

    def prepare(self, data: L.LightningDataModule) -> None:
        super().prepare(data)
        self.data.setup()
        self.vocabulary = self.data.vocabulary

    def plain_vocabulary(self) -> Any:
        return list(self.vocabulary)

    def read_vocabulary(self, plain: Any) -> tuple[str, ...]:
        return tuple(plain)

    def other_vocabulary(self, learnt: tuple[str, ...]) -> str:
        return (
            f"the checkpoint says {', '.join(learnt)}; the data hold {', '.join(self.vocabulary)}. Set "
            "`data.vocabulary` to what the checkpoint says."
        )

    def forward(self, features: Tensor, lengths: Tensor) -> SpeechOutput:
        """Read padded `features` (N, T, I), of which each row has `lengths` (N,)."""
        if self.training:
            features = self.varied(features, lengths)
        output, traces, states = self.core.trace(features, lengths=lengths)
        seen = self.head_input(output, traces)
        if self.shape.task == "classification":
            seen = seen.sum(1) / lengths.unsqueeze(-1)
        log_probs = self.head(self.dropout(seen)).log_softmax(-1)
        return SpeechOutput(log_probs, traces[0].error.square().mean(-1).sum(), traces, states)

    def head_input(self, output: Tensor, traces: list[DREAMTrace]) -> Tensor:
        """z, (N, T, W), or (N, T, W + I) with the prediction error beside the output."""
        return torch.cat([output, traces[0].error], -1) if self.settings.error else output

    def misfit(self, log_probs: Tensor, batch: SpeechBatch) -> Tensor:
        """(N,) the loss of each utterance: its cross-entropy, or its CTC loss by token."""
        if self.shape.task == "classification":
            return cross_entropy(log_probs, batch.tokens[:, 0], reduction="none")
        tokens = (batch.tokens + 1).clamp_min(0)
        values = ctc_loss(
            log_probs.transpose(0, 1), tokens, batch.lengths, batch.counts, BLANK, reduction="none"
        )
        return values / batch.counts

    def varied(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features with noise and a hidden stretch, at random."""
        if self.settings.noise:
            features = features + self.settings.noise * torch.randn_like(features)
        if self.settings.mask:
            share, place = torch.rand(2, len(features), 1, device=features.device)
            long = self.settings.mask * share * lengths.unsqueeze(-1)
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
        return {
            "loss": fit + self.settings.prediction_weight * prediction,
            "fit": fit,
            "prediction_loss": prediction,
        }

    def _refuse_infinite(self, batch: SpeechBatch, log_probs: Tensor) -> None:
        self.refuse_infinite({"the probabilities": log_probs}, batch.names.__getitem__)

    def validation_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        log_probs = self(batch.features, batch.lengths).log_probs
        self._refuse_infinite(batch, log_probs)
        samples = self.counted(batch)[0]
        self.add_validation(samples.clamp(max=1) * self.misfit(log_probs, batch).sum(), samples)

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._seen = {name: [] for name in self.variants}
        self._heard, self._transcripts = [], []

    def test_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        self._heard.append(batch)
        for name in self.variants:
            with self.variant(name):
                output: SpeechOutput = self(batch.features, batch.lengths)
            if name == self.title:
                self.observe(output.traces, output.states, batch.lengths)
            self._refuse_infinite(batch, output.log_probs)
            self._seen[name].append(output.log_probs.cpu())

    def on_test_epoch_end(self) -> None:
        heard = [
            batch._replace(**{name: getattr(batch, name).cpu() for name in batch._fields[:4]})
            for batch in self._heard
        ]
        score = self._scores if self.shape.task == "classification" else self._error_rates
        results = {name: score(heard, seen) for name, seen in self._seen.items()}
        if self.shape.task == "classification":
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
        accuracy = multiclass_accuracy(log_probs, truth, self.shape.channels, average="micro")
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

    def write_test_files(self, folder: Path) -> None:
        """For recognition `heard.csv`: the text decoded from each recording, beside the true one."""
        if self._transcripts:
            table = pd.DataFrame(self._transcripts, columns=["file", "heard", "said"])
            write_atomic(folder / "heard.csv", table.sort_values("file").to_csv(index=False))

    def _likeliest(self, log_probs: np.ndarray) -> list[int]:
        return beam_search(log_probs, self.settings.beam)[0]

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
        output, traces, _ = self.core.trace(batch.features[row : row + 1, : int(batch.lengths[row])])
        seen = self.head_input(output, traces)
        if self.shape.task == "classification":
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
            names=self.vocabulary if self.shape.task == "classification" else ("blank", *self.vocabulary),
        )

    def figures(self) -> dict[str, Figure]:
        """One utterance: features, surprise, norm of U and posteriors; for classification also what is taken
        for what."""
        if self._shown is None:
            return {}
        found = {"utterance": plots.utterance(self._shown)}
        if self.shape.task == "classification":
            truth = torch.cat([batch.tokens[:, 0].cpu() for batch in self._heard]).numpy()
            said = torch.cat(self._seen[self.title]).argmax(1).numpy()
            found["confusion"] = plots.confusion(truth, said, self.vocabulary)
        return found

    def predict_step(self, batch: SpeechBatch, batch_idx: int) -> list[tuple[str, str, float]]:
        """Name, what is said, and the probability of it, of each utterance."""
        log_probs = self(batch.features, batch.lengths).log_probs
        self._refuse_infinite(batch, log_probs)
        if self.shape.task == "classification":
            values, numbers = log_probs.max(-1)
            said = [
                (self.vocabulary[number], value)
                for number, value in zip(numbers.tolist(), values.tolist(), strict=True)
            ]
        else:
            found = [beam_search(row, self.settings.beam) for row in valid_steps(batch, log_probs.cpu())]
            said = [(self.decoded(numbers), value) for numbers, value in found]
        return [(name, text, math.exp(value)) for name, (text, value) in zip(batch.names, said, strict=True)]

    @property
    def predictions_file(self) -> str:
        return "labels.csv" if self.shape.task == "classification" else "transcripts.csv"

    def prediction_table(self, predictions: list[list[tuple[str, str, float]]]) -> pd.DataFrame:
        """What `predict_step` gave, a row for each recording: file, what is said, its probability."""
        table = pd.DataFrame(
            [row for batch in predictions for row in batch], columns=["file", "said", "score"]
        )
        return table.sort_values("file")


def valid_steps(batch: SpeechBatch, log_probs: Tensor) -> list[np.ndarray]:
    """`log_probs` (N, T, ...) of each utterance without the padding, (its steps, ...)."""
    return [row[:length].numpy() for row, length in zip(log_probs, batch.lengths.tolist(), strict=True)]
