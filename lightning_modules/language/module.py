"""`LanguageModule`: what comes next in a text, token by token, learning while it reads.

Shapes: N lanes, T tokens of a chunk, V symbols, I width of an embedding, H width of the output, M tokens of a
batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from dream import DREAMConfig, DREAMState, DREAMTrace
from dream.errors import CheckpointError, ConfigError
from dream.files import write_atomic
from lightning_modules import ranks
from lightning_modules.base import TaskModule, require, require_finite
from lightning_modules.language.data import IGNORED, LanguageData, TextBatch
from lightning_modules.language.generation import Sampling, choose, show
from lightning_modules.language.record import TextRecord
from lightning_modules.language.vocabulary import Decoder, Vocabulary, cut_text
from lightning_modules.language.vocabulary_loss import tied_loss, tied_nats, tied_scores

SAMPLE = 0  # seed of the text that a test leaves


class TextOutput(NamedTuple):
    """What the module made of a chunk."""

    features: Tensor
    """(N, T, I) y, whose product with an embedding says how likely its symbol is next"""
    prediction_loss: Tensor
    """() mean squared error of the first layer's own predictions of the embeddings"""
    traces: list[DREAMTrace]
    states: list[DREAMState]


class LanguageModule(TaskModule):
    """Predicts each token of a text from those before it.

    ``x_t = E[token_t]``, ``y_t = W [h_t ; forecast_t] + w``,
    ``P(token_(t+1)) = softmax(E y_t / sqrt(I) + b)``: embeddings are tied, and the head reads the output of
    the stack and what its first layer expects of the next embedding, so that the fast weights reach the
    result directly. Loss: the mean of ``-ln P`` over the tokens, in nats, plus ``prediction_weight`` times
    the mean squared error of what the first layer had expected of each embedding. That target is detached,
    since the embeddings would become equal otherwise.

    Table: the module, its state carried over the whole test text, its fast weights learning while it is read;
    the same weights with plasticity off, from fast weights 0 (DREAM with fast weights only); the same with
    the state forgotten every `data.steps` tokens; `unigram` and `bigram`, counted in the training part
    (`NGrams`). Bits per character are all bits over all characters of the text, whatever a token is;
    perplexity is that of a token.

    Args:
        config: The DREAM layer; its `input_dim` is the width of an embedding.
        symbols: Number of symbols; set by the data.
        core: What reads the text: DREAM or a rival, see `build_core`.
        hidden_dims: Width of each layer; one of `config.hidden_dim` if not given.
        dropout: Share dropped of embeddings, between layers and before the head, in training.
        prediction_weight: Weight of the layer's own prediction loss.
        sampling: How `dream predict` writes text; no part of what is trained.
        lr: Peak learning rate.
        weight_decay: AdamW's decay of the weight matrices.
        schedule: Learning rate after the warm-up: `cosine` down to 1 % or `constant`.
        warmup: Share of all steps in which the learning rate rises.
        backend: Implementation of DREAM's scan, see `dream.ops.registry`.
    """

    monitor = "val/nats"
    speaks = True
    data: LanguageData
    """What it was prepared for; there once `prepare` has run."""

    def __init__(
        self,
        config: DREAMConfig = DREAMConfig.preset("language_modeling"),  # noqa: B008 - frozen
        symbols: int = 256,
        core: Literal["dream", "lstm", "gru", "rnn", "linear"] = "dream",
        hidden_dims: list[int] | None = None,
        dropout: float = 0.0,
        prediction_weight: float = 0.1,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        lr: float = 3e-3,
        weight_decay: float = 0.01,
        schedule: Literal["cosine", "constant"] = "cosine",
        warmup: float = 0.05,
        backend: str = "auto",
    ) -> None:
        super().__init__(lr, weight_decay, schedule, warmup)
        config = config if isinstance(config, DREAMConfig) else DREAMConfig(**config)
        require(
            "prediction_weight",
            prediction_weight,
            0 <= prediction_weight < math.inf,
            "a finite number of at least 0",
        )
        self.save_settings(
            config,
            symbols=symbols,
            core=core,
            hidden_dims=hidden_dims,
            dropout=dropout,
            prediction_weight=prediction_weight,
            lr=lr,
            weight_decay=weight_decay,
            schedule=schedule,
            warmup=warmup,
            backend=backend,
        )
        self.prediction_weight, self.sampling = prediction_weight, sampling
        self.vocabulary: Vocabulary | None = None
        """The symbols of the data or of the checkpoint; None before there is either."""
        self.embedding = nn.Embedding(symbols, config.input_dim)
        self.make_core(core, config, hidden_dims, dropout, backend)
        self.stack.check_inputs = False  # it reads embeddings, no data: if they diverge, the loss says so
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.stack.output_dim + config.input_dim, config.input_dim)
        self.bias = nn.Parameter(torch.zeros(symbols))
        self.plastic = core == "dream" and config.base_plasticity > 0
        self._held: list[DREAMState] | None = None
        self._val: list[Tensor] = []
        self._scores: TextRecord | None = None

    def forward(self, tokens: Tensor, states: list[DREAMState] | None = None) -> TextOutput:
        """Read `tokens` (N, T) from `states`, fresh ones if None."""
        x = self.embedding(tokens)
        output, traces, after = self.stack.trace(self.dropout(x), states)
        features = self.head(self.dropout(torch.cat([output, traces[0].forecast], -1))) / math.sqrt(
            x.shape[-1]
        )
        return TextOutput(features, mse_loss(traces[0].prediction, x.detach()), traces, after)

    def nats(self, reading: TextOutput, targets: Tensor) -> Tensor:
        """``-ln P`` of `targets` (N, T), 0 where they don't count; without a gradient."""
        flat = tied_nats(reading.features.flatten(0, 1), self.embedding.weight, self.bias, targets.flatten())
        return flat.view_as(targets)

    def on(self, batch: TextBatch) -> TextOutput:
        """Read a batch; the states go on."""
        reading: TextOutput = self(batch.tokens, self.carried(batch.reset, len(batch.tokens)))
        self.carry(reading.states, batch.reset)
        self.observe(reading.traces, reading.states, streams=True)
        return reading

    def prepare(self, data: L.LightningDataModule) -> None:
        if not isinstance(data, LanguageData):
            raise ConfigError(
                f"`data` must be a LanguageData; got {type(data).__name__}. Try TextFile.", key="data"
            )
        self.data, self.vocabulary = data, data.vocabulary

    @property
    def known(self) -> Vocabulary:
        """The symbols that it knows.

        Raises:
            ConfigError: it has met neither data nor a checkpoint.
        """
        if self.vocabulary is None:
            raise ConfigError(
                "the module has no vocabulary yet: load a checkpoint, or `prepare` it for data."
            )
        return self.vocabulary

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The vocabulary, too: without it the numbers of a checkpoint mean nothing."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["vocabulary"] = self.known.plain()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.refuse_checkpoint(checkpoint)
        self.vocabulary = Vocabulary.from_plain(checkpoint["vocabulary"])

    def refuse_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        held = Vocabulary.from_plain(checkpoint["vocabulary"])
        if self.vocabulary not in (None, held):
            raise CheckpointError(
                f"the checkpoint knows {len(held)} {held.unit}, which are not the {len(self.known)} "
                f"{self.known.unit} of "
                "the training text here. Name the text it was trained on, and its `data.unit`, or train anew."
            )

    def losses(self, batch: TextBatch) -> dict[str, Tensor]:
        reading = self.on(batch)
        total = tied_loss(
            reading.features.flatten(0, 1), self.embedding.weight, self.bias, batch.targets.flatten()
        )
        lanes = len(batch.tokens)
        counted, usual = ranks.mean(
            torch.stack([(batch.targets != IGNORED).sum(), torch.tensor(lanes, device=self.device)])
        )
        nats, prediction = total / counted, lanes / usual * reading.prediction_loss
        return {
            "loss": nats + self.prediction_weight * prediction,
            "nats": nats,
            "prediction_loss": prediction,
        }

    def _require_finite(self, batch: TextBatch, nats: Tensor, part: str) -> None:
        """Refuse a loss (N, T, ...) that is not finite.

        Raises:
            DREAMError: naming the token of the part that was read before the first of them.
        """
        name, steps = self.data.parts.names[part], nats.shape[1]
        require_finite(
            {"the loss": nats.flatten(0, 1).unsqueeze(1)},
            lambda k: f"{name}, token {int(batch.first[k // steps]) + k % steps}",
        )

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._val = []

    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        nats = self.nats(self.on(batch), batch.targets)
        if (
            self.trainer.state.fn != TrainerFn.FITTING
        ):  # there NaNGuard says so, and a later epoch may be better
            self._require_finite(batch, nats, "val")
        self._val.append(torch.stack([nats.double().sum(), (batch.targets != IGNORED).sum()]))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        total, count = ranks.mean(torch.stack(self._val).sum(0))
        self.log("val/nats", total / count)

    def on_test_epoch_start(self) -> None:
        self.forget_states()
        self._held, self._scores = None, TextRecord()

    def test_step(self, batch: TextBatch, batch_idx: int) -> None:
        reading = self.on(batch)
        found = {self.title: self.nats(reading, batch.targets)}
        if self.plastic:
            with self.stack.plasticity(False):
                off: TextOutput = self(batch.tokens, self._held)
            self._held = off.states
            found[f"{self.title}, plasticity off"] = self.nats(off, batch.targets)
        found[f"{self.title}, no carried state"] = self._restarted(batch)
        self._require_finite(batch, torch.stack(list(found.values()), -1), "test")
        assert self._scores is not None
        self._scores.add(batch, found, reading.traces[0])

    def _restarted(self, batch: TextBatch) -> Tensor:
        """The loss (1, T) where the state is forgotten every `data.steps` tokens, whose pieces are read side
        by side."""
        steps, count = self.data.steps, batch.tokens.shape[1]
        padding = (0, -count % steps)
        tokens = nn.functional.pad(batch.tokens[0], padding).view(-1, steps)
        targets = nn.functional.pad(batch.targets[0], padding, value=IGNORED).view(-1, steps)
        return self.nats(self(tokens), targets).view(1, -1)[:, :count]

    def on_test_epoch_end(self) -> None:
        assert self._scores is not None
        self._scores.count_rivals(self.data)
        self.log_results(self._scores.results(self.data))

    def on_test_end(self) -> None:
        """`text.txt` in the run's folder: what `sampling` asks for, written by the weights that were
        tested."""
        if folder := self.run_folder:
            with torch.random.fork_rng():
                torch.manual_seed(SAMPLE)
                self.write_predictions([list(self.tokens(self.sampling))], folder)

    def figures(self) -> dict[str, Figure]:
        """Loss over the test text, what adaptation gives, surprise and norm of U."""
        return {} if self._scores is None else {"text": self._scores.figure()}

    @torch.no_grad()
    def _next(
        self, tokens: np.ndarray, states: list[DREAMState] | None, learn: bool
    ) -> tuple[Tensor, list[DREAMState]]:
        """Scores (V,) of what follows `tokens` (T,), and the states."""
        training = self.training
        self.eval()
        try:
            with self.stack.plasticity(learn and self.stack.plasticity_enabled):
                read = torch.from_numpy(tokens.astype(np.int64)).to(self.device).unsqueeze(0)
                reading: TextOutput = self(read, states)
        finally:
            self.train(training)
        scores = tied_scores(reading.features[:, -1], self.embedding.weight, self.bias)
        require_finite({"the scores": scores}, lambda _: "what follows the text so far")
        return scores[0], reading.states

    def tokens(self, sampling: Sampling) -> Iterator[int]:
        """What the model writes after the prompt, token by token; the fast weights learn from the prompt.

        Raises:
            ConfigError: the module has no vocabulary yet.
            DREAMError: scores that are not finite.
        """
        vocabulary = self.known
        pieces = cut_text(vocabulary.unit, sampling.prompt)
        read, states = vocabulary.encode(pieces if len(pieces) else cut_text(vocabulary.unit, "\n")), None
        for number in range(sampling.length):
            scores, states = self._next(read, states, learn=sampling.learn or number == 0)
            token = choose(scores, sampling, vocabulary.unknown)
            yield token
            read = np.array([token])

    def generate(self, prompt: str = "", **settings: Any) -> Iterator[str]:
        """Text that goes on after `prompt`, piece by piece; never half a character.

        Draws from torch's global generator: after the same `torch.manual_seed` it writes the same text.

        Args:
            prompt: What it begins with.
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

    def predict_step(self, batch: TextBatch, batch_idx: int) -> list[int]:
        """The tokens that were written; the terminal shows the text as it comes. Ctrl-C or a closed pipe ends
        it."""
        decoder, written = Decoder(self.known, self.sampling.prompt), []
        say = show if self.trainer.is_global_zero else str
        with suppress(BrokenPipeError, KeyboardInterrupt):
            say(self.sampling.prompt)
            for token in self.tokens(self.sampling):
                written.append(token)
                say(decoder.feed(token))
            say(decoder.end() + "\n")
        return written

    def write_predictions(self, predictions: list[list[int]], folder: Path) -> list[Path]:
        """`text.txt`: the prompt and what was written after it; of bytes those that were written."""
        if not predictions:
            return []
        decoder, tokens = Decoder(self.known, self.sampling.prompt), predictions[0]
        text = "".join(map(decoder.feed, tokens)).encode()
        written = bytes(tokens) if self.known.unit == "bytes" else text
        return [write_atomic(folder / "text.txt", self.sampling.prompt.encode() + written)]
