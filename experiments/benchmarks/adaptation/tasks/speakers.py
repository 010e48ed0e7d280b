"""Spoken digits of a speaker that training never heard, whose labels are given one by one.

A stream holds utterances of one speaker of the Free Spoken Digit Dataset in random order, a step each: what
is read are principal components of its MFCC features, and the label of the utterance before. Training plays
each stream faster or slower and through a random linear map, so that what digits sound like has to be learnt
within it; four speakers are trained on, one chooses, one is the test. Seed S tests the S-th speaker, so that
seeds 0 to 5 hold out every one once.

``python -m experiments.benchmarks.speakers`` is another question: there each utterance is read frame by frame
and by itself, and no label is given.

Shapes: N streams, M utterances of a stream, K recordings, V voices, D = 8 F values of an utterance, P
components.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, one_hot

from dream import DREAMConfig
from experiments.benchmarks.adaptation.baselines import guessed
from experiments.benchmarks.adaptation.protocol import (
    REST,
    Batch,
    Metric,
    Predictor,
    Scores,
    SequenceTask,
)
from experiments.benchmarks.speakers import SPEAKERS
from lightning_modules.naive import late
from lightning_modules.speech import FSDD
from lightning_modules.speech.mfcc import MFCC
from lightning_modules.speech.utterances import Utterance

FEATURES, DIGITS = MFCC().features, 10
PARTS = 8  # stretches of an utterance whose mean features are taken
COMPONENTS = 24
FARTHEST = 4.0  # deviation of a random map from none, at most
SPEEDS = (0.8, 0.9, 1.0, 1.1, 1.2)
BATCH = 32
UTTERANCES = {"train": 40, "validation": 51, "test": 51}  # of a stream
STREAMS = {"validation": 100, "test": 500}
LABELS = (0, 10, 50)
PRIORS = (1.0, 5.0, 20.0)


class Voices(NamedTuple):
    """Utterances of some voices, each a speaker at a speed."""

    sounds: Tensor
    """(V, K, D) means of the features over eighths of each utterance"""
    digits: Tensor
    """(V, K)"""

    def streams(self, voice: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Sounds (N, M, D) and digits (N, M) of the recordings `order` (N, M) of the voices `voice` (N,)."""
        sounds, digits = (part[voice[:, None], order] for part in self)
        return sounds, digits


def maps(count: int, random: torch.Generator) -> Tensor:
    """Random linear maps (N, P, P): some near none, some that leave little of what was."""
    far = FARTHEST * torch.rand(count, 1, 1, generator=random)
    drawn = torch.randn(count, COMPONENTS, COMPONENTS, generator=random) / COMPONENTS**0.5
    return (torch.eye(COMPONENTS) + far * drawn) / (1 + far.square()).sqrt()


class Speakers(SequenceTask):
    name = "speakers"
    group = "new subjects, real"
    title = "digits of unheard speakers, accuracy"
    config = DREAMConfig.preset("fast_adaptation", input_dim=COMPONENTS + DIGITS, hidden_dim=128, rank=8)
    classes = DIGITS
    steps = 1500
    metrics = (
        Metric("after 50 labels", higher=True, beats=(REST,), by=0.03),
        Metric("after 10 labels", higher=True),
        Metric("after 0 labels", higher=True),
        Metric("mean", higher=True),
    )
    axis, positions = "labels given", tuple(range(max(LABELS) + 1))

    @property
    def tested(self) -> str:
        """Speaker of the test."""
        return SPEAKERS[self.seed % len(SPEAKERS)]

    @cached_property
    def voices(self) -> dict[str, Voices]:
        """Voices of training, validation and test."""
        data = FSDD(split=f"speaker={self.tested}")
        validated = SPEAKERS[(self.seed + 1) % len(SPEAKERS)]
        trained = [name for name in SPEAKERS if name not in (self.tested, validated)]
        numbers = {name: [k for k, r in enumerate(data.recordings) if r.speaker == name] for name in SPEAKERS}

        def voice(speaker: str, speed: float) -> Voices:
            said = [Utterance((k,), (), speed) for k in numbers[speaker]]
            read = [adaptive_avg_pool1d(data.features(utterance).T, PARTS).flatten() for utterance in said]
            digits = torch.tensor([data.numbers(utterance)[0] for utterance in said])
            return Voices(torch.stack(read), digits)

        def voices(names: list[str], speeds: Sequence[float]) -> Voices:
            found = [voice(name, speed) for name in names for speed in speeds]
            return Voices(*(torch.stack(parts) for parts in zip(*found, strict=True)))

        return {
            "train": voices(trained, SPEEDS),
            "validation": voices([validated], [1.0]),
            "test": voices([self.tested], [1.0]),
        }

    @cached_property
    def known(self) -> tuple[Tensor, Tensor]:
        """Utterances (K, D) of the training as they were spoken, and their digits (K,)."""
        sounds, digits = (part[SPEEDS.index(1.0) :: len(SPEEDS)] for part in self.voices["train"])
        return sounds.flatten(0, 1), digits.flatten()

    @cached_property
    def components(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) of the training, and axes (D, P) of its principal components, scaled to variance 1."""
        known = self.known[0].double()
        mean = known.mean(0)
        values, vectors = torch.linalg.eigh((known - mean).T @ (known - mean) / len(known))
        return mean.float(), (vectors[:, -COMPONENTS:] / values[-COMPONENTS:].sqrt()).float()

    def setup(self) -> None:
        _ = self.components

    def batch_of(self, sounds: Tensor, digits: Tensor, drawn: Tensor | None = None) -> Batch:
        """Batch of streams, heard through the maps `drawn` (N, P, P), if any."""
        mean, axes = self.components
        heard = (sounds - mean) @ axes
        if drawn is not None:
            heard = heard @ drawn
        labels = late(one_hot(digits, DIGITS).float(), 1)
        return Batch(torch.cat([heard, labels], -1), digits, {"sounds": sounds})

    def train_batch(self, random: torch.Generator) -> Batch:
        voices = self.voices["train"]
        voice = torch.randint(len(voices.digits), (BATCH,), generator=random)
        order = torch.rand(BATCH, voices.digits.shape[1], generator=random).argsort(1)
        streams = voices.streams(voice, order[:, : UTTERANCES["train"]])
        return self.batch_of(*streams, maps(BATCH, random))

    def held_out(self, part: Literal["validation", "test"]) -> list[Batch]:
        """Streams that begin at another place each of one random order, so that each utterance of the test is
        asked for once after any number of labels."""
        voices = self.voices[part]
        count = voices.digits.shape[1]
        order = torch.randperm(count, generator=self.random(part))
        begins = torch.linspace(0, count, STREAMS[part] + 1)[:-1].long()
        places = (begins[:, None] + torch.arange(UTTERANCES[part])) % count
        streams = voices.streams(torch.zeros(len(places), dtype=torch.int64), order[places])
        return [self.batch_of(*streams)]

    def score(self, predictions: Sequence[Tensor], batches: Sequence[Batch]) -> Scores:
        curve = (predictions[0].argmax(-1) == batches[0].targets).double().mean(0)
        values = {f"after {count} labels": float(curve[count]) for count in LABELS}
        return Scores({**values, "mean": float(curve.mean())}, curve.tolist())

    def baselines(self) -> dict[str, Predictor]:
        """Nearest utterance of the training or earlier in the stream, and nearest mean of both, where the
        mean of the training counts for some utterances; on the features of which components are taken."""
        means = {
            f"nearest mean, training counts for {weight:g}": partial(self.nearest_mean, weight)
            for weight in PRIORS
        }
        return {"nearest neighbour": self.nearest_neighbour, **means}

    def nearest_neighbour(self, batch: Batch) -> Tensor:
        """Log probabilities of the digit of the nearest utterance."""
        (known, said), asked, digits = self.known, batch.facts["sounds"], batch.targets
        trained = torch.cdist(asked, known).min(-1)
        earlier = torch.ones(digits.shape[1], digits.shape[1], dtype=torch.bool).tril(-1)
        own = torch.cdist(asked, asked).masked_fill(~earlier, torch.inf).min(-1)
        nearer = own.values < trained.values
        return guessed(torch.where(nearer, digits.gather(1, own.indices), said[trained.indices]), DIGITS)

    def nearest_mean(self, weight: float, batch: Batch) -> Tensor:
        """Log probabilities of the digit with the nearest mean, in deviations within digits."""
        (known, said), member = self.known, one_hot(batch.targets, DIGITS).float()
        means = torch.stack([known[said == digit].mean(0) for digit in range(DIGITS)])
        deviation = (known - means[said]).std(0)
        asked = batch.facts["sounds"] / deviation
        total = (weight * means / deviation).expand(len(asked), -1, -1)
        count = torch.full((len(asked), DIGITS), weight)
        found = []
        for place in range(asked.shape[1]):
            apart = asked[:, place, None] - total / count[..., None]
            found.append(apart.square().sum(-1).argmin(-1))
            count = count + member[:, place]
            total = total + member[:, place, :, None] * asked[:, place, None]
        return guessed(torch.stack(found, 1), DIGITS)
