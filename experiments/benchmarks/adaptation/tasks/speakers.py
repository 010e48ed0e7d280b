"""Spoken digits of a speaker that training never heard, whose labels are given one by one.

A stream holds utterances of one speaker of the Free Spoken Digit Dataset in random order, each nine steps:
the means over eighths of its frames, at the last of which the digit is asked for, then its label. Cores read
on from one utterance to the next. Training plays each stream faster or slower, which makes more voices of
four speakers; one is left for the validation and one for the test. Seed S tests the S-th speaker, so that
seeds 0 to 5 hold out every one once.

``python -m experiments.benchmarks.speakers`` is another question: there each utterance is read by itself, and
no label is given.

Shapes: N streams, M utterances of a stream, K recordings, V voices, D = 8 F values of an utterance.
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
    NOT_COUNTED,
    REST,
    Batch,
    Metric,
    Predictor,
    Scores,
    SequenceTask,
)
from experiments.benchmarks.speakers import SPEAKERS
from lightning_modules.speech import FSDD
from lightning_modules.speech.mfcc import MFCC
from lightning_modules.speech.utterances import Utterance

FEATURES, DIGITS = MFCC().features, 10
PARTS = 8  # means that an utterance is read as
STEPS = PARTS + 1  # of an utterance, the label included
SPEEDS = (0.8, 0.9, 1.0, 1.1, 1.2)
BATCH = 32
UTTERANCES = {"train": 20, "validation": 51, "test": 51}  # of a stream
STREAMS = {"validation": 100, "test": 500}
CHUNK = 100  # streams that are read together
LABELS = (0, 10, 50)
PRIORS = (1.0, 5.0, 20.0)


class Voices(NamedTuple):
    """Utterances of some voices, each a speaker at a speed."""

    features: Tensor
    """(V, K, 8, F)"""
    digits: Tensor
    """(V, K)"""

    def streams(self, voice: Tensor, order: Tensor) -> Batch:
        """Streams of the recordings `order` (N, M) of the voices `voice` (N,)."""
        features, digits = (part[voice[:, None], order] for part in self)
        inputs = torch.zeros(*order.shape, STEPS, FEATURES + DIGITS)
        inputs[:, :, :PARTS, :FEATURES] = features
        inputs[:, :, PARTS, FEATURES:] = one_hot(digits, DIGITS).float()
        targets = torch.full((*order.shape, STEPS), NOT_COUNTED)
        targets[:, :, PARTS - 1] = digits
        return Batch(inputs.flatten(1, 2), targets.flatten(1), {"features": features, "digits": digits})


class Speakers(SequenceTask):
    name = "speakers"
    group = "new subjects, real"
    title = "digits of unheard speakers, accuracy"
    config = DREAMConfig.preset("fast_adaptation", input_dim=FEATURES + DIGITS, hidden_dim=128, rank=8)
    classes = DIGITS
    steps = 400
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
            read = [adaptive_avg_pool1d(data.features(utterance).T, PARTS).T for utterance in said]
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

    def setup(self) -> None:
        _ = self.voices

    def train_batch(self, random: torch.Generator) -> Batch:
        voices = self.voices["train"]
        voice = torch.randint(len(voices.digits), (BATCH,), generator=random)
        order = torch.rand(BATCH, voices.digits.shape[1], generator=random).argsort(1)
        return voices.streams(voice, order[:, : UTTERANCES["train"]])

    def held_out(self, part: Literal["validation", "test"]) -> list[Batch]:
        """Streams that begin at another place each of one random order, so that each utterance of the test is
        asked for once after any number of labels."""
        voices = self.voices[part]
        count = voices.digits.shape[1]
        order = torch.randperm(count, generator=self.random(part))
        begins = torch.linspace(0, count, STREAMS[part] + 1)[:-1].long()
        places = (begins[:, None] + torch.arange(UTTERANCES[part])) % count
        return [
            voices.streams(torch.zeros(len(some), dtype=torch.int64), order[some])
            for some in places.split(CHUNK)
        ]

    def score(self, predictions: Sequence[Tensor], batches: Sequence[Batch]) -> Scores:
        said = [predicted[:, PARTS - 1 :: STEPS].argmax(-1) for predicted in predictions]
        digits = [batch.facts["digits"] for batch in batches]
        curve = (torch.cat(said) == torch.cat(digits)).double().mean(0)
        values = {f"after {count} labels": float(curve[count]) for count in LABELS}
        return Scores({**values, "mean": float(curve.mean())}, curve.tolist())

    def baselines(self) -> dict[str, Predictor]:
        """Nearest utterance of the training or earlier in the stream, and nearest mean of both, where the
        mean of the training counts for some utterances."""
        means = {
            f"nearest mean, training counts for {weight:g}": partial(self.nearest_mean, weight)
            for weight in PRIORS
        }
        return {"nearest neighbour": self.nearest_neighbour, **means}

    @cached_property
    def known(self) -> tuple[Tensor, Tensor]:
        """Utterances (K, D) of the training as they were spoken, and their digits (K,)."""
        voices, own = self.voices["train"], SPEEDS.index(1.0)
        return (
            voices.features[own :: len(SPEEDS)].flatten(0, 1).flatten(1),
            voices.digits[own :: len(SPEEDS)].flatten(),
        )

    def nearest_neighbour(self, batch: Batch) -> Tensor:
        """Log probabilities of the digit of the nearest utterance."""
        (known, said), asked, digits = self.known, batch.facts["features"].flatten(2), batch.facts["digits"]
        trained = torch.cdist(asked, known).min(-1)
        earlier = torch.ones(digits.shape[1], digits.shape[1], dtype=torch.bool).tril(-1)
        own = torch.cdist(asked, asked).masked_fill(~earlier, torch.inf).min(-1)
        found = torch.where(own.values < trained.values, digits.gather(1, own.indices), said[trained.indices])
        return guessed(found, DIGITS).repeat_interleave(STEPS, 1)

    def nearest_mean(self, weight: float, batch: Batch) -> Tensor:
        """Log probabilities of the digit with the nearest mean, in deviations within digits."""
        (known, said), asked, digits = self.known, batch.facts["features"].flatten(2), batch.facts["digits"]
        means = torch.stack([known[said == digit].mean(0) for digit in range(DIGITS)])
        deviation = (known - means[said]).std(0)
        asked, means = asked / deviation, means / deviation
        member = one_hot(digits, DIGITS).float()
        total = weight * means + torch.zeros(len(asked), DIGITS, asked.shape[-1])
        count = torch.full((len(asked), DIGITS), weight)
        found = []
        for place in range(digits.shape[1]):
            apart = (asked[:, place, None] - total / count[..., None]).square().sum(-1)
            found.append(apart.argmin(-1))
            count = count + member[:, place]
            total = total + member[:, place, :, None] * asked[:, place, None]
        return guessed(torch.stack(found, 1), DIGITS).repeat_interleave(STEPS, 1)
