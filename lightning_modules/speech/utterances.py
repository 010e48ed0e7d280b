"""Recordings, utterances made of them, and batches of utterances.

Shapes: N utterances of a batch, T steps of the longest, F features of a frame, K frames in a step, L tokens
of the longest.
"""

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
    """A recording and its transcript."""

    name: str
    samples: np.ndarray
    """(S,) float32, full scale 1."""
    transcript: str | None
    """Words with blanks between them, or a class; None if not transcribed."""
    part: Part
    speaker: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Words and speaker, over which parts are spread."""
        return (self.transcript or "", self.speaker)


class Utterance(NamedTuple):
    """Recordings of one speaker, joined."""

    recordings: tuple[int, ...]
    """Numbers of the recordings."""
    gaps: tuple[int, ...] = ()
    """Samples of silence after each recording but the last."""
    speed: float = 1.0
    """Factor by which tempo and pitch are raised."""


class SpeechBatch(NamedTuple):
    """Utterances, padded to the longest."""

    features: Tensor
    """(N, T, K F) float32, standardised; 0 past the end."""
    lengths: Tensor
    """(N,) int64 number of steps."""
    tokens: Tensor
    """(N, L) int64 tokens, for classification the class (L = 1); -1 past the end."""
    counts: Tensor
    """(N,) int64 number of tokens; 0 if the utterance is not transcribed."""
    names: list[str]
    """(N,) of the recordings."""
    spare: bool = False
    """True if nothing in this batch counts: it keeps a process whose part of the batch is empty in step."""


def strings(
    speakers: Sequence[str],
    string: Sequence[int],
    silence: tuple[int, int],
    seed: int,
    generator: torch.Generator,
) -> list[Utterance]:
    """Strings of recordings of one speaker, in random order, each recording once.

    Number and lengths of the strings depend on `seed` only.

    Args:
        speakers: Speaker of each recording.
        string: Least and largest number of recordings in a string; a remainder below the least is left out.
        silence: Least and largest number of samples between two of them.
        seed: Seed of the lengths.
        generator: Generator of the order and the silence.
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
