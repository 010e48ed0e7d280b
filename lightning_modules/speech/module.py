"""`SpeechModule`: recognition of one word or of several, from the features of whole utterances.

Shapes: N utterances of the batch, T steps of the longest, I inputs, W width of the layer's output, K means
over time, V classes or tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, ctc_loss
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix
from torchmetrics.functional.text import char_error_rate, word_error_rate

from dream import ConfigError, DREAMConfig, DREAMTrace
from dream.files import write_atomic
from lightning_modules.checks import require
from lightning_modules.cores import full
from lightning_modules.labelled import LabelledModule, LabelOutput
from lightning_modules.labelled.pooling import step_scores, varied, weighted_means
from lightning_modules.plots import confusion
from lightning_modules.settings import PredictiveSettings, as_instance
from lightning_modules.speech import plots
from lightning_modules.speech.data import SpeechData, SpeechShape
from lightning_modules.speech.decoding import BLANK, beam_search, greedy
from lightning_modules.speech.utterances import SpeechBatch
from lightning_modules.tables import csv_text

NEAREST = "nearest mean"


@dataclass(frozen=True)
class SpeechSettings(PredictiveSettings):
    """Settings of `SpeechModule`."""

    dropout: float = 0.2
    attention: int = 0
    """Number of means over time that a classification reads, each with learned weights of the steps; 0: one
    mean in which all steps count alike."""
    error: bool = False
    """Whether the head reads the layer's prediction error beside its output."""
    mask: float = 0.2
    """Longest stretch of an utterance that is hidden in training, as a share of its length."""
    noise: float = 0.2
    """Deviation of the noise that is added to the standardised features in training."""
    beam: int = 8
    """Number of prefixes that beam search keeps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("attention", self.attention, 0 <= self.attention <= 64, "from 0 to 64 means")
        require("mask", self.mask, 0 <= self.mask <= 0.5, "a share from 0 to 0.5")
        require("noise", self.noise, 0 <= self.noise <= 10, "from 0 to 10 deviations")
        require("beam", self.beam, 1 <= self.beam <= 1000, "from 1 to 1000")


class SpeechModule(LabelledModule):
    """Recognises speech: the class of an utterance, such as its word, or its words or characters.

    The core reads padded batches with their lengths (`DREAMStack.trace`, like `forward_with_mask`): padding
    changes nothing. The head reads z_t, its output and, with `error`, its prediction error.

    - `classification`: ``softmax(mean_t z_t E + e)`` over the valid steps, minimising the cross-entropy; with
      `attention` K, E reads K means side by side, in which step t has the weight softmax_t(z_t q_k);
    - `recognition`: ``softmax(z_t E + e)`` at every step over blank and tokens, minimising the CTC loss,
      ``-ln p(tokens) / tokens``; decoded greedily and by beam search (`lightning_modules.speech.decoding`).

    Added to either loss: `prediction_weight` times the mean squared error of each layer's own predictions. In
    training a stretch of each utterance is hidden (`mask`) and noise is added to the features (`noise`).

    Table of results: the module; the same weights with plasticity off (only DREAM with fast weights); for
    classification `nearest mean`: the class with the nearest mean, relative to the deviation within classes,
    of the mean features over the first, middle and last third of an utterance.

    Args:
        config: The DREAM layer; its `input_dim` is set to the width of a step.
        shape: Facts about the recordings; set by the data.
        **settings: Fields of `SpeechSettings`.
    """

    accepts = SpeechData
    higher_is_better = frozenset({"accuracy"})
    data: SpeechData
    """Data that the module was prepared for; set by `prepare`."""
    settings: SpeechSettings
    shape: SpeechShape

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
        if options.attention and shape.task == "recognition":
            raise ConfigError(
                f"`attention` must be 0 for recognition, which reads every step; got {options.attention}.",
                key="attention",
            )
        self.queries = nn.Linear(width, options.attention, bias=False) if options.attention else None
        means = options.attention or 1
        self.head = nn.Linear(means * width, shape.channels + (shape.task == "recognition"))
        self._seen: dict[str, list[Tensor]] = {}
        self._batches: list[SpeechBatch] = []
        self._transcripts: list[tuple[str, str, str]] = []
        self._example: plots.DrawnUtterance | None = None

    def forward(self, features: Tensor, lengths: Tensor) -> LabelOutput:
        """Read padded `features` (N, T, I), whose samples have `lengths` (N,)."""
        if self.training:
            features = varied(features, lengths, self.settings.noise, self.settings.mask)
        output, traces, states = self.core.trace(features, lengths=lengths)
        seen = self.head_input(output, traces)
        if self.shape.task == "classification":
            seen = weighted_means(seen, self.scores(seen, lengths))
        return self.output(full(self.head(self.dropout(seen))).log_softmax(-1), traces, states)

    def head_input(self, output: Tensor, traces: list[DREAMTrace]) -> Tensor:
        """z, (N, T, W), or (N, T, W + I) with the prediction error beside the output."""
        return torch.cat([output, traces[0].error], -1) if self.settings.error else output

    def scores(self, seen: Tensor, lengths: Tensor) -> Tensor:
        """(N, T, K) logarithms of the weights of the steps in each mean of `seen` (N, T, ...); -inf past the
        end."""
        values = seen.new_zeros(*seen.shape[:2], 1) if self.queries is None else self.queries(seen)
        return step_scores(values, lengths)

    def read(self, batch: SpeechBatch) -> LabelOutput:
        found: LabelOutput = self(batch.features, batch.lengths)
        return found

    def misfit(self, log_probs: Tensor, batch: SpeechBatch) -> Tensor:
        """(N,) loss of each utterance: its cross-entropy, or its CTC loss divided by its tokens."""
        if self.shape.task == "classification":
            return cross_entropy(log_probs, batch.tokens[:, 0], reduction="none")
        tokens = (batch.tokens + 1).clamp_min(0)
        values = ctc_loss(
            log_probs.transpose(0, 1), tokens, batch.lengths, batch.counts, BLANK, reduction="none"
        )
        return values / batch.counts

    def counted(self, batch: SpeechBatch) -> Tensor:
        """(2,) numbers of utterances and steps of a batch that count."""
        samples = torch.ones_like(batch.lengths).sum()
        return (0 if batch.spare else 1) * torch.stack([samples, batch.lengths.sum()])

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._seen = {name: [] for name in self.variants}
        self._batches = []
        self._transcripts = []

    def test_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        self._batches.append(batch)
        for name in self.variants:
            with self.variant(name):
                output = self.read(batch)
            if name == self.title:
                self.observe(output.traces, output.states, batch.lengths)
            self.require_probabilities(batch, output.log_probs)
            self._seen[name].append(output.log_probs.cpu())

    def on_test_epoch_end(self) -> None:
        batches = [
            batch._replace(**{name: getattr(batch, name).cpu() for name in batch._fields[:4]})
            for batch in self._batches
        ]
        score = self._scores if self.shape.task == "classification" else self._error_rates
        results = {name: score(batches, seen) for name, seen in self._seen.items()}
        if self.shape.task == "classification":
            truth = torch.cat([batch.tokens[:, 0] for batch in batches])
            results[NEAREST] = {"accuracy": float((self.data.nearest_mean(batches) == truth).float().mean())}
        self._example = self._middle_utterance()
        self.log_results(results)

    def _scores(self, batches: list[SpeechBatch], seen: list[Tensor]) -> dict[str, float]:
        truth, log_probs = torch.cat([batch.tokens[:, 0] for batch in batches]), torch.cat(seen)
        accuracy = multiclass_accuracy(log_probs, truth, self.shape.channels, average="micro")
        return {"accuracy": float(accuracy), "cross_entropy": float(cross_entropy(log_probs, truth))}

    def _error_rates(self, batches: list[SpeechBatch], seen: list[Tensor]) -> dict[str, float]:
        truth = [
            self.written(tokens[:count].tolist())
            for batch in batches
            for tokens, count in zip(batch.tokens, batch.counts, strict=True)
        ]
        samples = [
            steps for batch, part in zip(batches, seen, strict=True) for steps in valid_steps(batch, part)
        ]
        found = {}
        for suffix, decode in (("", self._likeliest), ("_greedy", greedy)):
            texts = [self.decoded(decode(steps)) for steps in samples]
            if not self._transcripts:  # the module's own, by beam search, come first
                names = [name for batch in batches for name in batch.names]
                self._transcripts = list(zip(names, texts, truth, strict=True))
            found[f"wer{suffix}"] = float(word_error_rate(texts, truth))
            found[f"cer{suffix}"] = float(char_error_rate(texts, truth))
        return found

    def write_test_files(self, folder: Path) -> None:
        """Write `heard.csv` for recognition: the text decoded from each recording, beside the true one."""
        if self._transcripts:
            table = pd.DataFrame(self._transcripts, columns=["file", "heard", "said"])
            write_atomic(folder / "heard.csv", csv_text(table.sort_values("file")))

    def _likeliest(self, log_probs: np.ndarray) -> list[int]:
        return beam_search(log_probs, self.settings.beam)[0]

    def written(self, numbers: list[int]) -> str:
        """Text of tokens by number, without blanks at its ends and doubled blanks."""
        return " ".join(self.data.glue.join(self.vocabulary[number] for number in numbers).split())

    def decoded(self, numbers: list[int]) -> str:
        """Text of the numbers from a decoder, where 0 is CTC's blank."""
        return self.written([number - 1 for number in numbers])

    def _middle_utterance(self) -> plots.DrawnUtterance:
        """An utterance in the middle of the test; posteriors of a class are as if it ended at each step."""
        batch = self._batches[len(self._batches) // 2]
        sample = len(batch.names) // 2
        output, traces, _ = self.core.trace(batch.features[sample : sample + 1, : int(batch.lengths[sample])])
        seen = self.head_input(output, traces)
        if self.shape.task == "classification":
            scores = self.scores(seen, batch.lengths[sample])
            weights = (scores - scores.amax(1, keepdim=True)).exp().unsqueeze(-1)
            total = weights.cumsum(1).clamp_min(torch.finfo(weights.dtype).tiny)
            seen = ((weights * seen.unsqueeze(2)).cumsum(1) / total).flatten(2)
        steps, mfcc = seen.shape[1], self.data.mfcc
        features = batch.features[sample, :steps].reshape(-1, mfcc.features)
        text = self.written(batch.tokens[sample, : int(batch.counts[sample])].tolist())
        return plots.DrawnUtterance(
            f"{batch.names[sample]}: {text}",
            self.data.stack * mfcc.hop * np.arange(steps),
            features=features.cpu().numpy(),
            surprise=traces[0].surprise[0].cpu().numpy(),
            u_norm=traces[0].u_norm[0].cpu().numpy(),
            posteriors=self.head(seen)[0].softmax(-1).cpu().numpy(),
            names=self.vocabulary if self.shape.task == "classification" else ("blank", *self.vocabulary),
        )

    def figures(self) -> dict[str, Figure]:
        """One utterance with surprise, norm of U and posteriors; for classification also confused classes."""
        if self._example is None:
            return {}
        found = {"utterance": plots.utterance(self._example)}
        if self.shape.task == "classification":
            truth = torch.cat([batch.tokens[:, 0].cpu() for batch in self._batches])
            counts = multiclass_confusion_matrix(
                torch.cat(self._seen[self.title]), truth, self.shape.channels
            )
            found["confusion"] = confusion(counts.numpy(), self.vocabulary)
        return found

    def predict_step(self, batch: SpeechBatch, batch_idx: int) -> list[tuple[str, str, float]]:
        """Name, class or text, and its probability, of each utterance."""
        log_probs = self.read(batch).log_probs
        self.require_probabilities(batch, log_probs)
        if self.shape.task == "classification":
            values, numbers = log_probs.max(-1)
            found = [
                (self.vocabulary[number], value)
                for number, value in zip(numbers.tolist(), values.tolist(), strict=True)
            ]
        else:
            decoded = [
                beam_search(steps, self.settings.beam) for steps in valid_steps(batch, log_probs.cpu())
            ]
            found = [(self.decoded(numbers), value) for numbers, value in decoded]
        return [(name, text, math.exp(value)) for name, (text, value) in zip(batch.names, found, strict=True)]

    @property
    def predictions_file(self) -> str:
        return "labels.csv" if self.shape.task == "classification" else "transcripts.csv"

    def prediction_table(self, predictions: list[list[tuple[str, str, float]]]) -> pd.DataFrame:
        """Results of `predict_step` with a line for each recording: file, class or text, its probability."""
        table = pd.DataFrame(
            [row for batch in predictions for row in batch], columns=["file", "said", "score"]
        )
        return table.sort_values("file")


def valid_steps(batch: SpeechBatch, log_probs: Tensor) -> list[np.ndarray]:
    """`log_probs` (N, T, ...) of each utterance without its padding, (steps, ...)."""
    return [steps[:length].numpy() for steps, length in zip(log_probs, batch.lengths.tolist(), strict=True)]
