"""What a test of a text comes to: the loss of every token by every model, as a table and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dream import DREAMTrace
from lightning_modules.language import plots
from lightning_modules.language.data import LanguageData, TextBatch
from lightning_modules.language.ngrams import NGrams


class TextRecord:
    """Collects a test, chunk by chunk."""

    def __init__(self) -> None:
        self._nats: dict[str, list[np.ndarray]] = {}
        self._read: list[np.ndarray] = []
        self._shown: list[np.ndarray] = []

    def add(self, batch: TextBatch, nats: Mapping[str, Tensor], trace: DREAMTrace) -> None:
        """Take a chunk of one lane: the loss (1, T) by each model, the module's own first, and its first
        layer's trace."""
        for name, values in nats.items():
            self._nats.setdefault(name, []).append(values[0].cpu().numpy())
        self._read.append(torch.stack([batch.tokens[0], batch.targets[0]]).cpu().numpy())
        self._shown.append(torch.stack([trace.surprise[0], trace.u_norm[0]]).cpu().numpy())

    def count_rivals(self, data: LanguageData) -> None:
        """Add the models that count the training part, when all chunks are there."""
        before, targets = np.concatenate(self._read, 1)
        counted = NGrams(data.parts.tokens["train"], data.symbols)
        self._nats |= {"unigram": [counted.unigram(targets)], "bigram": [counted.bigram(before, targets)]}

    def losses(self) -> dict[str, np.ndarray]:
        """The loss of each token, (T,) in nats, by model."""
        return {name: np.concatenate(parts) for name, parts in self._nats.items()}

    def results(self, data: LanguageData) -> dict[str, dict[str, float]]:
        """The table."""
        return {
            name: metrics(nats, data.scored_characters(len(nats))) for name, nats in self.losses().items()
        }

    def figure(self) -> Figure:
        """Loss over the text, what learning gives, surprise and norm of U."""
        return plots.reading(self.losses(), *np.concatenate(self._shown, 1))


def metrics(nats: np.ndarray, characters: int) -> dict[str, float]:
    """What a table says of the loss of each token, (T,) in nats, of a text of so many characters."""
    total = float(nats.sum(dtype=np.float64))
    mean = total / len(nats)
    return {
        "nats": mean,
        "bits_per_character": total / math.log(2) / max(characters, 1),
        "perplexity": math.exp(mean) if mean < 700 else math.inf,
    }
