"""`TextRecord`: the loss of every token of a test by every model, as a table and as a figure."""

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
    """Record of a test, chunk by chunk."""

    def __init__(self) -> None:
        self._nats: dict[str, list[np.ndarray]] = {}
        self._read: list[np.ndarray] = []
        self._shown: list[np.ndarray] = []

    def add(self, batch: TextBatch, nats: Mapping[str, Tensor], trace: DREAMTrace) -> None:
        """Add a chunk of one stream.

        Args:
            batch: The chunk.
            nats: Loss (1, T) by model, the module's own first.
            trace: Trace of the module's first layer.
        """
        for name, values in nats.items():
            self._nats.setdefault(name, []).append(values[0].cpu().numpy())
        self._read.append(torch.stack([batch.tokens[0], batch.targets[0]]).cpu().numpy())
        self._shown.append(torch.stack([trace.surprise[0], trace.u_norm[0]]).cpu().numpy())

    def count_rivals(self, data: LanguageData) -> None:
        """Add the models that count the training part; call it once, after the last chunk."""
        before, targets = np.concatenate(self._read, 1)
        counted = NGrams(data.parts.tokens["train"], data.symbols)
        self._nats |= {"unigram": [counted.unigram(targets)], "bigram": [counted.bigram(before, targets)]}

    def losses(self) -> dict[str, np.ndarray]:
        """Loss (T,) of each token in nats, by model."""
        return {name: np.concatenate(parts) for name, parts in self._nats.items()}

    def results(self, data: LanguageData) -> dict[str, dict[str, float]]:
        """Metrics of each model."""
        return {
            name: metrics(nats, data.scored_characters(len(nats))) for name, nats in self.losses().items()
        }

    def figure(self) -> Figure:
        """Loss over the text, gain from learning, surprise and norm of U."""
        return plots.reading(self.losses(), *np.concatenate(self._shown, 1))


def metrics(nats: np.ndarray, characters: int) -> dict[str, float]:
    """Metrics of the loss (T,) of each token in nats, over a text of so many characters."""
    total = float(nats.sum(dtype=np.float64))
    mean = total / len(nats)
    return {
        "nats": mean,
        "bits_per_character": total / math.log(2) / max(characters, 1),
        "perplexity": math.exp(mean) if mean < 700 else math.inf,
    }
