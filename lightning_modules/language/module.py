"""`LanguageModule`: a language model, which predicts a text token by token and learns while it reads.

Shapes: N streams, T tokens of a chunk, V symbols, I width of an embedding.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ProgressBar
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from dream import DREAMConfig, DREAMState, DREAMTrace
from dream.errors import ConfigError, shown
from lightning_modules import ranks
from lightning_modules.base import TaskModule
from lightning_modules.checks import require, require_finite, require_int
from lightning_modules.cores import upper_errors
from lightning_modules.language.cache import Choice, ChoiceByLoss, OutputCache, mixed
from lightning_modules.language.data import IGNORED, LanguageData, LanguageShape, TextBatch
from lightning_modules.language.generation import Sampling, choose, show
from lightning_modules.language.record import TextRecord
from lightning_modules.language.vocabulary import Decoder, Vocabulary, cut_text
from lightning_modules.language.vocabulary_loss import tied_loss, tied_nats, tied_scores
from lightning_modules.settings import PredictiveSettings, as_instance
from lightning_modules.waiting import waiting

logger = logging.getLogger(__name__)

SEED = 0  # of the text that a test writes


class TextOutput(NamedTuple):
    """Outputs for a chunk."""

    features: Tensor
    """(N, T, I) y, whose product with an embedding scores its symbol as the next one"""
    prediction_loss: Tensor
    """() mean squared error of each layer's own predictions of its input, summed over the layers"""
    traces: list[DREAMTrace]
    states: list[DREAMState]


@dataclass(frozen=True)
class LanguageSettings(PredictiveSettings):
    """Settings of `LanguageModule`."""

    embedding_lr: float | None = None
    """Peak learning rate of the embeddings; `lr` if not given. A large vocabulary may need a higher one."""
    cache: int = 0
    """Tokens that the output cache of a test holds, such as 2000, see `OutputCache`; 0: no cache."""

    def __post_init__(self) -> None:
        super().__post_init__()
        lr = self.embedding_lr
        require("embedding_lr", lr, lr is None or 0 < lr < math.inf, "a finite number above 0")
        require_int("cache", self.cache, 0)


class LanguageModule(TaskModule):
    """Models language: predicts each token of a text (byte, character or word) from those before it.

        x_t            = E[token_t]
        y_t            = W [h_t ; forecast_t] + w
        P(token_(t+1)) = softmax(E y_t / sqrt(I) + b)

    Embeddings are tied, and the head reads the output of the core and its first layer's forecast of the next
    embedding, so that the fast weights reach the result directly.

        loss = mean -ln P + prediction_weight * sum over layers of MSE(layer's predictions, its input)

    over the tokens, in nats. What a layer reads is detached in the second term, since embeddings would become
    equal otherwise.

    Table of results: the module, its state carried over the whole test text, its fast weights learning while
    it is read; the same weights with plasticity off, from fast weights 0 (only DREAM with fast weights); the
    same with the state dropped every `data.steps` tokens; with `cache` above 0 the first row with an
    `OutputCache`, whose gate and temperature have the least loss on the validation part; `unigram` and
    `bigram`, counted in the training part (`NGrams`). Bits per character are all bits over all characters of
    the text, whatever a token is; perplexity is that of a token.

    Args:
        config: The DREAM layer; its `input_dim` is the width of an embedding.
        shape: Facts about the text; set by the data.
        sampling: Text that `dream predict` writes; it has no effect on training.
        **settings: Fields of `LanguageSettings`. `dropout` drops embeddings, too.
    """

    accepts = LanguageData
    monitor = "val/nats"
    data: LanguageData
    """Data that the module was prepared for; set by `prepare`."""
    settings: LanguageSettings
    shape: LanguageShape
    vocabulary: Vocabulary | None

    def __init__(
        self,
        config: DREAMConfig = DREAMConfig.preset("language_modeling"),  # noqa: B008 - frozen
        shape: LanguageShape = LanguageShape(),  # noqa: B008 - frozen
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        **settings: Any,
    ) -> None:
        super().__init__(config, as_instance(LanguageShape, shape), LanguageSettings(**settings))
        self.sampling = sampling
        symbols, width = self.shape.symbols, self.config.input_dim
        self.embedding = nn.Embedding(symbols, width)
        self.core = self.make_core()
        self.core.check_inputs = False  # it reads embeddings, not data: if they diverge, the loss shows it
        self.dropout = nn.Dropout(self.settings.dropout)
        self.head = nn.Linear(self.core.output_dim + width, width)
        self.bias = nn.Parameter(torch.zeros(symbols))
        self._scores: TextRecord | None = None
        self._cache: OutputCache | None = None
        self.choice: Choice | None = None
        """Gate and temperature of the output cache in the last test; None without one."""

    def forward(self, tokens: Tensor, states: list[DREAMState] | None = None) -> TextOutput:
        """Read `tokens` (N, T) from `states`, fresh ones if None."""
        x = self.embedding(tokens)
        output, traces, after = self.core.trace(self.dropout(x), states)
        features = self.head(self.dropout(torch.cat([output, traces[0].forecast], -1)))
        features = features / math.sqrt(x.shape[-1])
        expected = mse_loss(traces[0].prediction, x.detach()) + upper_errors(traces).mean()
        return TextOutput(features, expected, traces, after)

    def nats(self, output: TextOutput, targets: Tensor) -> Tensor:
        """``-ln P`` of `targets` (N, T), 0 where they do not count; without a gradient."""
        flat = tied_nats(output.features.flatten(0, 1), self.embedding.weight, self.bias, targets.flatten())
        return flat.view_as(targets)

    def on(self, batch: TextBatch) -> TextOutput:
        """Read a batch from the carried states, and carry them on."""
        output: TextOutput = self(batch.tokens, self.carried(batch.reset, len(batch.tokens)))
        self.carry(output.states, batch.reset)
        self.observe(output.traces, output.states, streams=True)
        return output

    def prepare(self, data: L.LightningDataModule) -> None:
        super().prepare(data)
        self.vocabulary = self.data.vocabulary

    @property
    def known(self) -> Vocabulary:
        """The vocabulary.

        Raises:
            ConfigError: there is none yet, from data or a checkpoint.
        """
        if self.vocabulary is None:
            raise ConfigError(
                "the module has no vocabulary yet: load a checkpoint, or `prepare` it for data."
            )
        return self.vocabulary

    def read_vocabulary(self, plain: Any) -> Vocabulary:
        return Vocabulary.from_plain(plain)

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Return those of the base, the embeddings in one of their own if they have a learning rate."""
        groups = super().optimizer_groups()
        if self.settings.embedding_lr is None:
            return groups
        embedding = self.embedding.weight
        for group in groups:
            group["params"] = [parameter for parameter in group["params"] if parameter is not embedding]
        own = {"params": [embedding], "weight_decay": self.settings.weight_decay}
        return [*groups, {**own, "lr": self.settings.embedding_lr}]

    def losses(self, batch: TextBatch) -> dict[str, Tensor]:
        output = self.on(batch)
        total = tied_loss(
            output.features.flatten(0, 1), self.embedding.weight, self.bias, batch.targets.flatten()
        )
        streams = len(batch.tokens)
        counted, usual = ranks.mean(
            torch.stack([(batch.targets != IGNORED).sum(), torch.tensor(streams, device=self.device)])
        )
        nats = total / counted
        prediction = streams / usual * output.prediction_loss
        return {
            "loss": nats + self.settings.prediction_weight * prediction,
            "nats": nats,
            "prediction_loss": prediction,
        }

    def _require_finite(self, batch: TextBatch, nats: Tensor, part: str) -> None:
        """Refuse a loss (N, T, ...) that is not finite, naming the token of `part` read before the first."""
        name, steps = self.data.parts.names[part], nats.shape[1]
        self.require_finite_outputs(
            {"the loss": nats.flatten(0, 1).unsqueeze(1)},
            lambda k: f"{name}, token {int(batch.first[k // steps]) + k % steps}",
        )

    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        nats = self.nats(self.on(batch), batch.targets)
        self._require_finite(batch, nats, "val")
        self.add_validation(nats.double().sum(), (batch.targets != IGNORED).sum())

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._scores = TextRecord()
        self._cache, self.choice = None, None
        if self.settings.cache:
            self.choice = self._choose()
            self._cache = OutputCache(self.settings.cache)

    def _choose(self) -> Choice:
        """Choose gate and temperature of the output cache on the validation part, read from fresh states."""
        cache, loss = OutputCache(self.settings.cache), ChoiceByLoss(self.device)
        batches = self.data.val_dataloader()
        with waiting("output cache") as done, self.trainer.precision_plugin.forward_context():
            for number, batch in enumerate(batches):
                batch = TextBatch(*(part.to(self.device) for part in batch))
                output = self.on(batch)
                nats = self.nats(output, batch.targets)
                logs = cache.read(output.features, batch.targets, nats, batch.reset, loss.temperatures)
                loss.add(nats, logs, batch.targets)
                done((number + 1) / len(batches))
        self.forget_states()
        return loss.best(ranks.mean(loss.total))

    def test_step(self, batch: TextBatch, batch_idx: int) -> None:
        found = {}
        for name in self.variants:
            with self.variant(name):
                output: TextOutput = self(batch.tokens, self.held.get(name))
            self.held[name] = output.states
            found[name] = self.nats(output, batch.targets)
            if name == self.title:
                self.observe(output.traces, output.states, streams=True)
                own = output
        found[f"{self.title}, no carried state"] = self._restarted(batch)
        if self._cache is not None and self.choice is not None:
            nats, (gate, temperature) = found[self.title], self.choice
            logs = self._cache.read(own.features, batch.targets, nats, batch.reset, temperature.view(1))
            found[f"{self.title}, output cache"] = mixed(nats, logs[0], batch.targets, gate)
        self._require_finite(batch, torch.stack(list(found.values()), -1), "test")
        assert self._scores is not None
        self._scores.add(batch, found, own.traces[0])

    def _restarted(self, batch: TextBatch) -> Tensor:
        """Loss (1, T) with the state dropped every `data.steps` tokens, which are read side by side."""
        steps, count = self.data.steps, batch.tokens.shape[1]
        padding = (0, -count % steps)
        tokens = nn.functional.pad(batch.tokens[0], padding).view(-1, steps)
        targets = nn.functional.pad(batch.targets[0], padding, value=IGNORED).view(-1, steps)
        return self.nats(self(tokens), targets).view(1, -1)[:, :count]

    def on_test_epoch_end(self) -> None:
        assert self._scores is not None
        self._scores.count_rivals(self.data)
        self.log_results(self._scores.results(self.data))
        if self.choice is not None:
            self.log_dict({f"test/cache_{name}": value for name, value in self.choice._asdict().items()})

    def write_test_files(self, folder: Path) -> None:
        """Write `text.txt`: a text by `sampling`, from the weights that were tested."""
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            self.write_predictions([list(self.tokens(self.sampling))], folder)

    def figures(self) -> dict[str, Figure]:
        """Loss over the test text, gain from learning, surprise and norm of U."""
        return {} if self._scores is None else {"text": self._scores.figure()}

    @torch.no_grad()
    def _next(
        self, tokens: np.ndarray, states: list[DREAMState] | None, learn: bool
    ) -> tuple[Tensor, list[DREAMState]]:
        """Return scores (V,) of the token after `tokens` (T,), and the states."""
        training = self.training
        self.eval()
        try:
            with self.core.plasticity(learn and self.core.plasticity_enabled):
                read = torch.from_numpy(tokens.astype(np.int64)).to(self.device).unsqueeze(0)
                output: TextOutput = self(read, states)
        finally:
            self.train(training)
        scores = tied_scores(output.features[:, -1], self.embedding.weight, self.bias)
        require_finite({"the scores": scores}, lambda _: "what follows the text so far")
        return scores[0], output.states

    def tokens(self, sampling: Sampling) -> Iterator[int]:
        """Generate the tokens after the prompt one by one; the fast weights learn from the prompt.

        Raises:
            ConfigError: the module has no vocabulary yet.
            DREAMError: scores that are not finite.
        """
        vocabulary = self.known
        pieces = cut_text(vocabulary.unit, sampling.prompt)
        read, states = vocabulary.encode(pieces if len(pieces) else cut_text(vocabulary.unit, "\n")), None
        unknown = (
            {}
            if vocabulary.unknown is None
            else dict.fromkeys(
                piece
                for piece, number in zip(pieces, read.tolist(), strict=False)
                if number == vocabulary.unknown
            )
        )
        if unknown:
            logger.warning(
                "`prompt` holds %s that the training never saw: %s. Each is read as the unknown one.",
                vocabulary.unit,
                ", ".join(shown(piece) for piece in list(unknown)[:5]),
            )
        for number in range(sampling.length):
            scores, states = self._next(read, states, learn=sampling.learn or number == 0)
            token = choose(scores, sampling, vocabulary.unknown)
            yield token
            read = np.array([token])

    def generate(self, prompt: str = "", **settings: Any) -> Iterator[str]:
        """Generate the text after `prompt` piece by piece, never half a character.

        Draws from torch's global generator: the same `torch.manual_seed` gives the same text.

        Args:
            prompt: Beginning of the text.
            **settings: The other fields of `Sampling`.

        Example:
            >>> module = LanguageModule(DREAMConfig(input_dim=8, hidden_dim=8, rank=2))
            >>> module.vocabulary = Vocabulary("bytes")
            >>> text = "".join(module.generate("The ", length=100, temperature=0.8))
        """
        decoder = Decoder(self.known, prompt)
        for token in self.tokens(Sampling(prompt, **settings)):
            yield decoder.feed(token)
        yield decoder.end()

    def on_predict_start(self) -> None:
        """Switch progress bars off, since the terminal shows the text as it is generated."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ProgressBar):
                callback.disable()

    def predict_step(self, batch: TextBatch, batch_idx: int) -> list[int]:
        """Generate a text, show it in the terminal and return its tokens; Ctrl-C or a closed pipe ends it."""
        decoder, written = Decoder(self.known, self.sampling.prompt), []
        display = show if self.trainer.is_global_zero else str
        with suppress(BrokenPipeError, KeyboardInterrupt):
            display(self.sampling.prompt)
            for token in self.tokens(self.sampling):
                written.append(token)
                display(decoder.feed(token))
            display(decoder.end() + "\n")
        return written

    predictions_file = "text.txt"

    def predictions_text(self, predictions: list[list[int]]) -> bytes:
        """The prompt and the text after it; for `bytes` exactly the bytes generated."""
        decoder, tokens = Decoder(self.known, self.sampling.prompt), predictions[0]
        text = "".join(map(decoder.feed, tokens)).encode()
        written = bytes(tokens) if self.known.unit == "bytes" else text
        return self.sampling.prompt.encode() + written
