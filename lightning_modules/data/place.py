"""`Place`: how far a stream was read. `StreamEnd`: all that a task needs to go on there.

Streams are known by name. Where there is one before and one now, they are the same, whatever their names:
tomorrow's file may be called otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from dream.errors import CheckpointError, DataError
from lightning_modules.data.frequency import zoned

ONLY = ""
"""Name of the stream in tasks that read a single one."""


def known_as(names: Sequence[str], earlier: Mapping[str, Any]) -> list[str]:
    """The names under which streams called `names` are among `earlier` ones, if they are there."""
    return list(earlier) if len(names) == len(earlier) == 1 else list(names)


@dataclass(frozen=True)
class Place:
    """The rows of a stream that were read and learnt from; by default none."""

    rows: int = 0
    """Number of rows, in one file after another."""
    last: int | None = None
    """Time stamp of the last row, in nanoseconds since 1970; None without time stamps."""
    training: int = 0
    """Rows of the training part at the start of the stream, where there is such a part."""
    zone: str | None = None
    """The zone in which that time stamp is shown; None for those without one."""

    def __str__(self) -> str:
        return f"row {self.rows - 1}" if self.last is None else str(self._stamp())

    def name(self) -> str | int | None:
        """The last row as a file tells it: ISO 8601, without time stamps its number from 0, None for none."""
        if self.rows == 0:
            return None
        return self.rows - 1 if self.last is None else self._stamp().isoformat()

    def _stamp(self) -> pd.Timestamp:
        return zoned(np.array([self.last], dtype="datetime64[ns]"), self.zone)[0]

    def first_new(self, time: np.ndarray | None, count: int, source: str) -> int:
        """Number of the first of `count` rows that comes after this place: by time, or without it by number.

        Raises:
            DataError: only one of both has time stamps, or without them there are fewer rows than were read.
        """
        if self.rows == 0:
            return 0
        if time is not None and self.last is not None:
            return int((_nanoseconds(time[:count]) <= self.last).sum())
        if time is not None or self.last is not None:
            there, here = ("had", "have none") if time is None else ("had no", "have them")
            raise DataError(
                f"{source}: the stream of the run {there} time stamps, and the rows here {here}, so that "
                "nobody can tell which are new. Bring the file in the form that it had."
            )
        if count < self.rows:
            raise DataError(
                f"{source}: without time stamps a stream goes on after the {self.rows} rows that were read; "
                f"there are {count}. Append the new rows to the file, or bring time stamps."
            )
        return self.rows

    def after(
        self, time: np.ndarray | None, first: int, count: int, training: int = 0, zone: str | None = None
    ) -> Place:
        """Place after `count` more rows, from number `first` of a file with the time stamps `time`."""
        if count == 0:
            return self
        end = first + count
        last = None if time is None else int(_nanoseconds(time[end - 1 : end])[0])
        return Place(self.rows + count, last, training, zone)


def _nanoseconds(time: np.ndarray) -> np.ndarray:
    """Time stamps as nanoseconds since 1970."""
    return time.astype("datetime64[ns]").astype(np.int64)


@dataclass(frozen=True)
class StreamEnd:
    """A stream after the last row that was read."""

    place: Place
    tensors: Mapping[str, Tensor]
    """All that the task carries from row to row, by name."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Plain values besides, such as a threshold."""

    def plain(self) -> dict[str, Any]:
        """Tensors, and all else as JSON, for `from_plain`."""
        plain = {"place": asdict(self.place), "facts": dict(self.facts)}
        texts = {name: json.dumps(part, allow_nan=False) for name, part in plain.items()}
        return {**texts, "tensors": dict(self.tensors)}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any], source: str) -> StreamEnd:
        """Return the end whose `plain` came from the file `source`.

        Raises:
            CheckpointError: it is damaged.
        """
        try:
            place = TypeAdapter(Place).validate_json(content["place"], strict=True)
            if place.rows < 1 or not 0 <= place.training <= place.rows:
                raise ValueError(f"it counts {place.rows} rows, {place.training} of them to train on")
            return cls(place, dict(content["tensors"]), dict(json.loads(content["facts"])))
        except (LookupError, TypeError, ValueError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise CheckpointError(
                f"the stream in {source} is damaged: {reason}. Move it away to begin a new one."
            ) from None


def plain(ends: Mapping[str, StreamEnd]) -> dict[str, Any]:
    """Ends by stream as a checkpoint holds them, for `from_plain`."""
    return {name: end.plain() for name, end in ends.items()}


def from_plain(content: Mapping[str, Any], source: str) -> dict[str, StreamEnd]:
    """Return the ends whose `plain` came from the file `source`.

    Raises:
        CheckpointError: one is damaged.
    """
    return {name: StreamEnd.from_plain(end, source) for name, end in content.items()}


def described(ends: Mapping[str, StreamEnd], owner: str) -> str:
    """Where the streams of `owner` have come to, in words, after ``the``."""
    first = min((end.place for end in ends.values()), key=lambda place: (place.last or 0, place.rows))
    if len(ends) == 1:
        return f"stream of {owner} has come to {first}"
    return f"{len(ends)} streams of {owner} have come to {first} or further"


@runtime_checkable
class LearnsOn(Protocol):
    """A task that learns from the rows that it predicts."""

    def go_on(self, ends: Mapping[str, StreamEnd]) -> None:
        """Let the next prediction go on from `ends`, which `stream_ends` returned in another process.

        Raises:
            CheckpointError: one is of another task, or of other settings.
        """

    def stream_ends(self, predictions: list[Any]) -> dict[str, StreamEnd]:
        """State of each stream after the `predictions`, those of all batches; of those without new rows as
        before."""

    def predictions_again(self) -> list[Any]:
        """Predictions of a call for which there is no new row; none where they are of the rows themselves."""
