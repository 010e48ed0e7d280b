"""Who says what: recordings, utterances made of them, and batches of utterances.

Shapes: N utterances of a batch, T steps of the longest, F features of a frame, K frames in a step, L tokens
of the longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Part = Literal["train", "val", "test", "predict"]


@dataclass(frozen=True, eq=False)
class Recording:
    """Somebody says something."""

    name: str
    samples: np.ndarray
    """float32 (S,), full scale 1."""
    said: str | None
    """Words with blanks between them; None where nobody has written it down."""
    part: Part
    speaker: str = ""


class Utterance(NamedTuple):
    """Recordings of one speaker, joined."""

    recordings: tuple[int, ...]
    """Their numbers."""
    gaps: tuple[int, ...] = ()
    """Samples of silence after each but the last."""
    speed: float = 1.0
    """How many times as fast, and as high, as they were recorded."""


class SpeechBatch(NamedTuple):
    """Utterances, padded to the longest."""

    features: Tensor
    """(N, T, K F) float32, standardised; 0 past the end"""
    lengths: Tensor
    """(N,) int64 steps of each"""
    tokens: Tensor
    """(N, L) int64 numbers of the tokens that are said, of classification the class (L = 1); -1 past the
    end"""
    counts: Tensor
    """(N,) int64 tokens of each; 0 where it is not known what is said"""
    names: list[str]
    """(N) of the recordings"""
    spare: bool = False
    """True where nothing of this batch counts: it keeps a process in step whose part of the batch is
    empty."""


def strings(
    speakers: Sequence[str],
    string: Sequence[int],
    silence: tuple[int, int],
    seed: int,
    generator: torch.Generator,
) -> list[Utterance]:
    """Every recording once, those of a speaker joined in random order: as many strings of the same lengths at
    any draw.

    Args:
        speakers: Who speaks in each recording.
        string: Least and most recordings of a string; fewer than the least are left over.
        silence: Least and most samples between them.
        seed: Of the lengths.
        generator: Draws the order and the silence.
    """
    lengths, found = np.random.default_rng(seed), []
    for speaker in sorted(set(speakers)):
        own = [number for number, name in enumerate(speakers) if name == speaker]
        order = [own[k] for k in torch.randperm(len(own), generator=generator).tolist()]
        while len(order) >= string[0]:
            count = min(int(lengths.integers(string[0], string[1], endpoint=True)), len(order))
            gaps = torch.randint(silence[0], silence[1] + 1, (count - 1,), generator=generator).tolist()
            found.append(Utterance(tuple(order[:count]), tuple(gaps)))
            order = order[count:]
    return found


def spread(recordings: Sequence[Recording | None], share: float, seed: int) -> list[int]:
    """The numbers of a `share` of the recordings, at least one, spread evenly over what is said and by
    whom."""
    random = np.random.default_rng(seed)
    keys = [(r.said or "", r.speaker, random.random(), k) for k, r in enumerate(recordings) if r is not None]
    count = max(round(share * len(keys)), 1)
    places = ((np.arange(count) + 0.5) * len(keys) / count).astype(int)
    ordered = sorted(keys)
    return [ordered[place][-1] for place in places] if keys else []
