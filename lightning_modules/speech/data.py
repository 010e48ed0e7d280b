"""Recordings of speech to recognise, as utterances of one word or of several.

Shapes: N utterances of a batch, T steps of the longest, F features of a frame, K frames in a step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from dream.errors import ConfigError, DataError
from lightning_modules.checks import require, require_int
from lightning_modules.data.base import TaskData
from lightning_modules.data.fingerprint import Fingerprint, content_sum
from lightning_modules.data.order import EpochOrder, loader, similar
from lightning_modules.data.schema import Schema, scales
from lightning_modules.data.series import Scaler
from lightning_modules.data.split import spread
from lightning_modules.naive import nearest_mean
from lightning_modules.speech.mfcc import MFCC
from lightning_modules.speech.utterances import Part, Recording, SpeechBatch, Utterance, strings

Task = Literal["classification", "recognition"]
Tokens = Literal["words", "characters"]
FLOOR = 1e-3  # least deviation that a feature is divided by, as in silence


class _Batches(Dataset[SpeechBatch]):
    """Batches of any utterances."""

    def __init__(self, data: SpeechData, count: int, spare: Utterance) -> None:
        self.data = data
        self.count = count
        self.spare = spare

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, utterances: list[Utterance]) -> SpeechBatch:
        """Batch of these utterances; without any, a spare one."""
        return self.data.batch(utterances or [self.spare])._replace(spare=not utterances)


@dataclass(frozen=True)
class SpeechShape:
    """Facts about recordings that a module is built from. The data set them; flags cannot."""

    task: Task = "classification"
    """`classification`: the class of each utterance; `recognition`: its tokens."""
    inputs: int = 39
    """I, width of a step."""
    channels: int = 10
    """V, number of classes or tokens."""

    def __post_init__(self) -> None:
        require(
            "task",
            self.task,
            self.task in ("classification", "recognition"),
            "classification or recognition",
        )


class SpeechData(TaskData, ABC):
    """Utterances as MFCC features: single recordings, or strings of recordings of one speaker.

    Features are standardised over the frames of each utterance (cepstral mean and variance normalisation), so
    that neither loudness nor microphone counts and nothing is taken from other recordings; without
    `per_sequence` over the frames of all training recordings, so that both count. They are computed once. No
    recording is in two parts. Batches hold utterances of similar length, in another random order each epoch.

    With `string`, the recordings of a part are joined: every recording of each speaker once, in random order,
    cut into strings of `string[0]` to `string[1]` recordings with `silence` between them. Those of the
    training part are drawn again each epoch; those of validation and test stay the same.

    With `speeds`, each utterance of the training part is played at one of them, drawn again each epoch:
    faster is shorter and higher, like another voice (Ko et al., Audio augmentation for speech recognition,
    2015).

    Args:
        task: `classification`: one class for each utterance; `recognition`: a sequence of tokens.
        tokens: Tokens of recognition: whole `words` (a closed vocabulary) or `characters`.
        vocabulary: Tokens or classes; those of the recordings if not given.
        mfcc: Settings of the features.
        stack: Number of frames in a step of the layer.
        string: Least and largest number of recordings in a string, for recognition; single recordings if not
            given.
        silence: Least and largest seconds of silence between the recordings of a string.
        speeds: Speeds that training utterances are played at; 1 is as recorded. One that is too short at a
            speed for what is said in it is played no faster than it may.
        validation: Share of the training recordings that picks the best epoch, if the source has no
            validation part.
        seed: Seed of that choice, and of the strings of validation and test.
        batch_size: Utterances in a batch, of all processes together.
        per_sequence: Standardise the features of each utterance by itself, not by the training recordings.
    """

    for_own_files = "SpeechFolder"

    def __init__(
        self,
        task: Literal["classification", "recognition"] = "classification",
        tokens: Literal["words", "characters"] = "words",
        vocabulary: list[str] | None = None,
        mfcc: MFCC = MFCC(),  # noqa: B008 - frozen
        stack: int = 1,
        string: list[int] | None = None,
        silence: list[float] = [0.0, 0.1],  # noqa: B006 - shown by --print_config, never changed
        speeds: list[float] = [0.9, 1.0, 1.1],  # noqa: B006 - shown by --print_config, never changed
        validation: float = 0.1,
        seed: int = 0,
        batch_size: int = 32,
        per_sequence: bool = True,
    ) -> None:
        super().__init__()
        require("per_sequence", per_sequence, isinstance(per_sequence, bool), "true or false")
        self.per_sequence = per_sequence
        if task not in get_args(Task):
            raise ConfigError(f"`task` must be {' or '.join(get_args(Task))}; got {task!r}.", key="task")
        if tokens not in get_args(Tokens):
            raise ConfigError(
                f"`tokens` must be {' or '.join(get_args(Tokens))}; got {tokens!r}.", key="tokens"
            )
        if vocabulary is not None and (len(vocabulary) < 2 or len(set(vocabulary)) < len(vocabulary)):
            raise ConfigError(
                f"`vocabulary` must name two things or more, each once; got {vocabulary}.", key="vocabulary"
            )
        if string is not None and not (len(string) == 2 and 1 <= string[0] <= string[1] <= 1000):
            raise ConfigError(
                f"`string` must be two numbers from 1 to 1000, least and most; got {string}.", key="string"
            )
        if string is not None and task == "classification":
            raise ConfigError(
                f"`string` must be null for classification; got {string}. Set `task`.", key="string"
            )
        if not (len(silence) == 2 and 0 <= silence[0] <= silence[1] <= 60):
            raise ConfigError(
                f"`silence` must be two times from 0 to 60 s, least and most; got {silence}.", key="silence"
            )
        if not speeds or not all(0.5 <= speed <= 2 for speed in speeds):
            raise ConfigError(f"`speeds` must hold one or more from 0.5 to 2; got {speeds}.", key="speeds")
        if not 0 < validation < 1:
            raise ConfigError(
                f"`validation` must be a share above 0 and below 1; got {validation!r}.", key="validation"
            )
        self._task = task
        self.kind = tokens
        self._vocabulary = vocabulary
        self.mfcc = mfcc if isinstance(mfcc, MFCC) else MFCC(**mfcc)
        self.stack = require_int("stack", stack)
        self.seed = require_int("seed", seed, least=0)
        self.string = string
        self.silence = silence
        self.speeds = speeds
        self.validation = validation
        self.batch_size = require_int("batch_size", batch_size)

    @abstractmethod
    def read(self) -> list[Recording]:
        """Read the recordings."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Source of the recordings, for messages."""

    @cached_property
    def recordings(self) -> list[Recording]:
        """The recordings, read once, with a part for validation."""
        found = self.read()
        if again := [
            name for name, times in Counter(recording.name for recording in found).items() if times > 1
        ]:
            raise DataError(
                f"{self.source}: every recording must be there once; {again[0]} is there more often."
            )
        parts = [recording.part for recording in found]
        if "val" not in parts:
            for place in spread(
                [r.key if r.part == "train" else None for r in found], self.validation, self.seed
            ):
                parts[place] = "val"
        missing = [part for part in ("train", "val", "test") if part not in parts]
        if set(parts) == {"predict"}:
            if self._vocabulary is None and self.recorded is None:
                raise ConfigError(
                    "`vocabulary` must be that of the checkpoint for recordings without labels "
                    f"({self.source}); got None.",
                    key="vocabulary",
                )
        elif missing:
            raise DataError(
                f"{self.source}: the {missing[0]} part of its {len(found)} recordings is empty. Bring more."
            )
        return [replace(recording, part=part) for recording, part in zip(found, parts, strict=True)]

    @cached_property
    def fingerprint(self) -> Fingerprint:
        parts = {recording.part for recording in self.recordings}
        return {
            part: content_sum([recording for recording in self.recordings if recording.part == part])
            for part in sorted(parts)
        }

    @property
    def task(self) -> Task:
        """Task of the recordings."""
        return self._task

    @property
    def shape(self) -> SpeechShape:
        return SpeechShape(self.task, self.inputs, self.channels)

    @property
    def inputs(self) -> int:
        """K F, width of a step."""
        return self.stack * self.mfcc.features

    @property
    def channels(self) -> int:
        """Number of classes or tokens."""
        return len(self.vocabulary)

    def split(self, transcript: str) -> list[str]:
        """Classes or tokens of a transcript."""
        if self._task == "classification":
            return [transcript]
        return transcript.split() if self.kind == "words" else list(transcript)

    @property
    def glue(self) -> str:
        """Text between two tokens."""
        return " " if self.kind == "words" else ""

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Classes or tokens in the order of their numbers."""
        transcripts = [r.transcript for r in self.recordings if r.transcript is not None]
        found = {token for transcript in transcripts for token in self.split(transcript)}
        if self._task == "recognition" and self.kind == "characters" and self.string is not None:
            found.add(" ")
        if self.recorded is not None:
            known = tuple(self.recorded.vocabulary)
            if unknown := sorted({*found, *(self._vocabulary or known)} - set(known)):
                raise DataError(
                    f"{self.source}: classes or tokens must be those that the checkpoint was trained on, "
                    f"{', '.join(known)}; unknown to it: {', '.join(unknown)}. Leave their recordings out, "
                    "or train again."
                )
            return known
        if self._vocabulary is None:
            if len(found) < 2:
                raise DataError(
                    f"{self.source}: at least two classes or tokens must occur; got {sorted(found)}."
                )
            return tuple(sorted(found))
        if unknown := sorted(found - set(self._vocabulary)):
            raise ConfigError(
                f"`vocabulary` must hold every class or token of the data; {unknown[0]!r} is not in it.",
                key="vocabulary",
            )
        return tuple(self._vocabulary)

    @cached_property
    def schema(self) -> Schema:
        if self.recorded is not None:
            return self.recorded
        own = {} if self.scaler is None else scales(self._names, self.scaler)
        return Schema(scales=own, vocabulary=list(self.vocabulary), settings=self._readings)

    def follow(self, schema: Schema | None) -> None:
        super().follow(schema)
        if self.recorded is not None:
            self.recorded.require_settings(self._readings, self.source)

    @property
    def _readings(self) -> dict[str, Any]:
        """Settings that decide what a step holds, and what its target is."""
        return {
            "task": self.task,
            "tokens": self.kind,
            "stack": self.stack,
            "mfcc": asdict(self.mfcc),
            "per_sequence": self.per_sequence,
        }

    @property
    def _names(self) -> list[str]:
        return [f"feature_{number}" for number in range(1, self.mfcc.features + 1)]

    @cached_property
    def scaler(self) -> Scaler | None:
        """Mean and deviation of each feature over the frames of all training recordings; None if each
        utterance is standardised by itself."""
        if self.per_sequence:
            return None
        if self.recorded is not None:
            return self.recorded.scaler(self._names)
        trained = [recording.samples for recording in self.recordings if recording.part == "train"]
        frames = torch.cat([self.mfcc(torch.from_numpy(samples)[None])[0] for samples in trained])
        return Scaler.fit(frames.double().numpy(), self._names)

    @cached_property
    def _features(self) -> dict[Utterance, Tensor]:
        """Features that were computed already."""
        return {}

    @cached_property
    def utterances(self) -> dict[Part, list[Utterance]]:
        """Utterances of each part; of the training part one draw, whose number is that of every epoch."""
        return {part: self._drawn(part, torch.Generator().manual_seed(self.seed)) for part in get_args(Part)}

    def _drawn(self, part: Part, generator: torch.Generator) -> list[Utterance]:
        """Draw the utterances of a part, in random order; their number and sizes are the same each time."""
        numbers = [k for k, recording in enumerate(self.recordings) if recording.part == part]
        if self.string is None or part == "predict":
            found = [Utterance((k,)) for k in range(len(numbers))]
        else:
            speakers = [self.recordings[k].speaker for k in numbers]
            least, most = (round(seconds * self.mfcc.sample_rate) for seconds in self.silence)
            found = strings(speakers, self.string, (least, most), self.seed, generator)
        speeds = self.speeds if part == "train" else [1.0]
        fast = torch.randint(len(speeds), (len(found),), generator=generator).tolist()
        order = torch.randperm(len(found), generator=generator).tolist()
        drawn = []
        for place, pick in zip(order, fast, strict=True):
            recordings = tuple(numbers[k] for k in found[place].recordings)
            speed = min([speeds[pick], *(self._fastest[k] for k in recordings if part == "train")])
            drawn.append(Utterance(recordings, found[place].gaps, speed))
        return drawn

    @cached_property
    def _fastest(self) -> dict[int, float]:
        """Highest of `speeds` and 1 at which each training recording is long enough; 1 where none is."""
        speeds = sorted({*self.speeds, 1.0}, reverse=True)
        return {
            k: next((speed for speed in speeds if self._shortfall(Utterance((k,), (), speed)) is None), 1.0)
            for k, recording in enumerate(self.recordings)
            if recording.part == "train"
        }

    def samples(self, utterance: Utterance) -> np.ndarray:
        """(S,) samples of an utterance: its recordings and the silence between them, at its speed."""
        pieces = []
        for number, gap in zip(utterance.recordings, (*utterance.gaps, 0), strict=True):
            pieces += [self.recordings[number].samples, np.zeros(gap, np.float32)]
        joined = np.concatenate(pieces)
        if utterance.speed == 1:
            return joined
        return np.interp(np.arange(0, len(joined), utterance.speed), np.arange(len(joined)), joined).astype(
            np.float32
        )

    def length(self, utterance: Utterance) -> int:
        """Number of samples of an utterance."""
        samples = sum(len(self.recordings[number].samples) for number in utterance.recordings) + sum(
            utterance.gaps
        )
        return math.ceil(samples / utterance.speed)

    def frames(self, utterance: Utterance) -> int:
        """Number of frames of an utterance."""
        return 1 + self.length(utterance) // self.mfcc.hop_samples

    def features(self, utterance: Utterance) -> Tensor:
        """(T, K F) features of an utterance, which the layer reads."""
        if (kept := self._features.get(utterance)) is not None:
            return kept
        values = self.mfcc(torch.from_numpy(self.samples(utterance))[None])[0]
        if self.scaler is None:
            values = (values - values.mean(0)) / values.std(0, correction=0).clamp_min(FLOOR)
        else:
            values = self.scaler.transform(values)
        values = pad(values, (0, 0, 0, -len(values) % self.stack)).reshape(-1, self.inputs)
        if self.string is None or utterance in self._staying:
            self._features[utterance] = values
        return values

    def name_of(self, utterance: Utterance) -> str:
        """Names of the recordings of an utterance."""
        return " + ".join(self.recordings[number].name for number in utterance.recordings)

    def transcript(self, utterance: Utterance) -> str | None:
        """Transcript of an utterance; None if a recording of it is not transcribed."""
        texts = [self.recordings[number].transcript for number in utterance.recordings]
        return None if None in texts else " ".join(text for text in texts if text is not None)

    def numbers(self, utterance: Utterance) -> list[int]:
        """Numbers of the tokens of an utterance; none if it is not transcribed."""
        transcript = self.transcript(utterance)
        return [] if transcript is None else [self._numbers[token] for token in self.split(transcript)]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.vocabulary)}

    def batch(self, utterances: Sequence[Utterance]) -> SpeechBatch:
        """Batch of utterances, padded to the longest."""
        features = [self.features(utterance) for utterance in utterances]
        tokens = [torch.tensor(self.numbers(utterance), dtype=torch.int64) for utterance in utterances]
        return SpeechBatch(
            pad_sequence(features, batch_first=True),
            torch.tensor([len(part) for part in features]),
            pad_sequence(tokens, batch_first=True, padding_value=-1),
            torch.tensor([len(part) for part in tokens]),
            [self.name_of(utterance) for utterance in utterances],
        )

    def setup(self, stage: str | None = None) -> None:
        """Read and check the recordings; calling it again changes nothing.

        Raises:
            DataError: a recording is too short for features, or for a step for each of its tokens; a part has
                too few recordings for a string.
        """
        super().setup(stage)
        for part in sorted({recording.part for recording in self.recordings}):
            self._require_utterances(part)
        for number, recording in enumerate(self.recordings):
            speed = min(max(self.speeds), 1.0) if recording.part == "train" else 1.0
            self._require_length(Utterance((number,), (), speed))

    @cached_property
    def _staying(self) -> set[Utterance]:
        return {utterance for part in ("val", "test", "predict") for utterance in self.utterances[part]}

    def _require_length(self, utterance: Utterance) -> None:
        """Refuse a single recording that is too short, alone or in any string."""
        if shortfall := self._shortfall(utterance):
            at = f" at speed {utterance.speed:g}" if utterance.speed != 1 else ""
            raise DataError(f"{self.name_of(utterance)}{at}: {shortfall}")

    def _shortfall(self, utterance: Utterance) -> str | None:
        """Why a single recording is too short, alone or in any string; None if it is not."""
        try:
            self.mfcc.require_length(self.length(utterance))
        except DataError as error:
            return str(error)
        if self._task == "classification":
            return None
        tokens, frames = self.numbers(utterance), self.frames(utterance)
        needed = len(tokens) + sum(a == b for a, b in pairwise(tokens))  # a blank between two that are equal
        if self.string is None:
            steps = -(-frames // self.stack)
        else:  # the frames that it adds to any string, in which its last token may come again
            steps, needed = (frames - 1) // self.stack, needed + 1
        if steps >= needed:
            return None
        return (
            f"{len(tokens)} tokens need {needed} steps; there are {steps}. Lower `stack` or `mfcc.hop`, or "
            "correct its transcript."
        )

    def train_dataloader(self) -> DataLoader[SpeechBatch]:
        draw = partial(self._drawn, "train")
        return self._loader(
            "train", similar(len(self.utterances["train"]), draw, self.frames, self.batch_size)
        )

    def val_dataloader(self) -> DataLoader[SpeechBatch]:
        return self._loader("val", self._in_order("val"))

    def test_dataloader(self) -> DataLoader[SpeechBatch]:
        return self._loader("test", self._in_order("test"), shared=False)

    def predict_dataloader(self) -> DataLoader[SpeechBatch]:
        """Recordings without a text or label; the test part if all have one."""
        part: Part = "predict" if self.utterances["predict"] else "test"
        return self._loader(part, self._in_order(part), shared=False)

    def _in_order(self, part: Part) -> EpochOrder:
        """Batches from the shortest utterances to the longest."""
        order = sorted(self.utterances[part], key=self.frames)
        batches = [order[k : k + self.batch_size] for k in range(0, len(order), self.batch_size)]
        return EpochOrder(len(batches), lambda _: batches.__getitem__)

    def _loader(self, part: Part, order: EpochOrder, shared: bool = True) -> DataLoader[SpeechBatch]:
        self._require_utterances(part)
        if shared:
            order = order.shared(*self.share)
        return loader(_Batches(self, len(order), self.utterances[part][0]), order)

    def _require_utterances(self, part: Part) -> None:
        if not self.utterances[part]:
            few = (
                ""
                if self.string is None
                else f" (no speaker has {self.string[0]} recordings there, see `string`)"
            )
            raise DataError(
                f"{self.source}: there is no utterance in the {part} part{few}. Bring more recordings of it."
            )

    def rows_of(self, batch: SpeechBatch) -> Tensor:
        return batch.lengths.new_tensor([[0, batch.features.shape[1] - 1]]).expand(len(batch.lengths), 2)

    def source_of(self, sample: int) -> str:
        return self.source

    def sources(self, batch: SpeechBatch) -> Callable[[int], str]:
        return batch.names.__getitem__

    def nearest_mean(self, batches: Sequence[SpeechBatch]) -> Tensor:
        """(N,) nearest class of each utterance of some batches, see `lightning_modules.naive`."""
        known = [self.features(utterance) for utterance in self.utterances["train"]]
        labels = torch.tensor([self.numbers(utterance)[0] for utterance in self.utterances["train"]])
        asked = [
            sample[:length]
            for batch in batches
            for sample, length in zip(batch.features, batch.lengths.tolist(), strict=True)
        ]
        # thirds of the frames, since there may be fewer steps than thirds
        means, places = (
            torch.stack([thirds(steps.reshape(-1, self.mfcc.features)) for steps in part])
            for part in (known, asked)
        )
        return nearest_mean(means, labels, places)

    def describe(self) -> list[tuple[str, str]]:
        seconds = [len(recording.samples) / self.mfcc.sample_rate for recording in self.recordings]
        speakers = {recording.speaker for recording in self.recordings}
        counts = {part: len(found) for part, found in self.utterances.items() if found}
        return [
            ("source", self.source),
            (
                "recordings",
                f"{len(seconds)}, {min(seconds):.2f} to {max(seconds):.2f} s, {len(speakers)} speakers",
            ),
            (
                "task",
                self._task if self.string is None else f"{self._task} of strings of {self.string} recordings",
            ),
            (
                "classes" if self._task == "classification" else f"tokens, {self.kind}",
                ", ".join(self.vocabulary),
            ),
            (
                "features",
                f"{self.mfcc.features} every {1000 * self.mfcc.hop:g} ms, {self.stack} of them a step",
            ),
            *((name, f"{count} utterances") for name, count in counts.items()),
        ]


def thirds(features: Tensor) -> Tensor:
    """(3 F,) means of `features` (T, F) over the first, middle and last third of T, which is at least 3."""
    return torch.cat([part.mean(0) for part in features.tensor_split(3)])
