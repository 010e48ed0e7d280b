"""Streams in which anomalies are to be found: side by side in padded batches, chunk after chunk.

Shapes: N streams, T rows, C columns. Values stay in the source's measurement units: the reader normalises
causally.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dream.errors import ConfigError, DataError
from lightning_modules.anomaly.metrics import runs
from lightning_modules.checks import require_int
from lightning_modules.data.base import TaskData
from lightning_modules.data.columns import require_lags
from lightning_modules.data.dialect import Dialect
from lightning_modules.data.fingerprint import Fingerprint, content_sum
from lightning_modules.data.frequency import Clock, described, find_frequency
from lightning_modules.data.order import loader, one_by_one
from lightning_modules.data.place import Place, known_as
from lightning_modules.data.schema import Schema, step_quartiles, units_of

LEAST_TRAINING = 100  # rows


@dataclass(frozen=True, eq=False)
class AnomalyStream:
    """Rows in time order, the first `training` of which are for training."""

    name: str
    values: np.ndarray
    """float64 (T, C), in the source's measurement units; NaN where a value is missing."""
    columns: tuple[str, ...]
    training: int
    """Number of rows of the training part, which are known beforehand and never scored."""
    label: np.ndarray | None = None
    """bool (T,), True where a person has marked an anomaly; None if the stream is not labelled."""
    time: np.ndarray | None = None
    """datetime64[ns] (T,), as recorded, in UTC if there is a zone; None if there are no time stamps."""
    zone: str | None = None
    form: str | None = None
    time_column: str | None = None
    """Zone, format and column of the time stamps, as those of a `Series`."""
    dialect: Dialect | None = None
    """How the table was written; None for other sources."""
    place: Place = Place()  # noqa: RUF009 - frozen
    """How far it was read already."""

    @property
    def begin(self) -> int:
        """First row that is new."""
        return self.place.first_new(self.time, len(self.values), self.name)

    @property
    def times(self) -> np.ndarray:
        """Time stamps, or row numbers."""
        return np.arange(len(self.values)) if self.time is None else self.time

    @property
    def windows(self) -> list[tuple[int, int]]:
        """First and last row of each stretch that is labelled anomalous."""
        return [] if self.label is None else [(int(a), int(b)) for a, b in runs(self.label)]


class AnomalyBatch(NamedTuple):
    """One chunk of every stream: sample i continues sample i of the batch before."""

    values: Tensor
    """(N, T, C) float64; past the end of a stream its last row, repeated."""
    lengths: Tensor
    """(N,) int64 rows that the stream has in this chunk, 0 if it has ended."""
    counted: Tensor
    """(N, T) bool, True for rows whose loss or score counts."""
    training: Tensor
    """(N,) int64 rows of each stream's training part."""
    start: int
    """Row of the streams with which the chunk starts."""
    before: Tensor
    """(N,) int64 rows that were read of each stream before its first one here."""
    ends: Tensor
    """(N,) bool, True where the last row of the chunk is the stream's last."""

    @property
    def begins(self) -> bool:
        """Whether all streams begin here, so that carried state must be dropped."""
        return self.start == 0 and not bool(self.before.any())


class Chunks(Dataset[AnomalyBatch]):
    """The rows of every stream up to `stops`, in chunks of `chunk` rows.

    Rows before `counted_from` are read but do not count. Of W processes that share the streams, each takes
    every W-th one from its own number on, in as many chunks as the longest of all streams needs. With `apart`
    a chunk also stops wherever a stream does, whose state is then that after its last row.
    """

    def __init__(
        self,
        streams: Sequence[AnomalyStream],
        stops: Sequence[int],
        chunk: int,
        counted_from: Sequence[int] | None = None,
        share: tuple[int, int] = (0, 1),
        apart: bool = False,
    ) -> None:
        longest = max(stops, default=0)
        rank, world = share
        part = slice(rank, None, world)
        streams = streams[part]
        self.stops = torch.tensor(stops[part])
        self.counted_from = (
            torch.zeros_like(self.stops) if counted_from is None else torch.tensor(counted_from[part])
        )
        self.training = torch.tensor([stream.training for stream in streams])
        self.before = torch.tensor([stream.place.rows for stream in streams])
        self.borders = sorted({*range(0, longest, chunk), longest, *(stops if apart else ())})
        padded = [
            np.concatenate([s.values, s.values[-1:].repeat(max(longest - len(s.values), 0), 0)])
            for s in streams
        ]
        self.values = torch.from_numpy(np.array([values[:longest] for values in padded]))

    def __len__(self) -> int:
        return len(self.borders) - 1

    def __getitem__(self, index: int) -> AnomalyBatch:
        """Chunk `index` of every stream."""
        start, stop = self.borders[index], self.borders[index + 1]
        values = self.values[:, start:stop]
        rows = torch.arange(start, start + values.shape[1])
        counted = (rows >= self.counted_from[:, None]) & (rows < self.stops[:, None])
        lengths = (self.stops - start).clamp(0, values.shape[1])
        return AnomalyBatch(values, lengths, counted, self.training, start, self.before, self.stops == stop)


@dataclass(frozen=True)
class AnomalyShape:
    """Facts about the streams that a module is built from. The data set them; flags cannot."""

    channels: int = 1
    """C, number of columns."""
    lags: int = 1
    """Levels of a single column that the layer reads in each row, the present one and those before it."""


class AnomalyData(TaskData, ABC):
    """Streams to watch for anomalies, each with a training part at its start, read side by side.

    Training reads the training parts, except for the last `validation` share of each, which picks the best
    epoch; neither uses labels. Test and prediction read every stream in order, from its first row to its
    last.

    Args:
        train_chunk: Rows between two gradient steps, which is how far gradients reach back.
        chunk: Rows read at once in test and prediction; results do not depend on it.
        validation: Share of each training part, at its end, that picks the best epoch.
        lags: For a single column: its levels that the layer reads in each row, the present one and the
            lags - 1 before it, 0 before the first row; 1 for the present one alone.
    """

    for_own_files = "AnomalyTable"
    id_column: str | None = None
    """Column whose values are the names of the streams; None where streams are files."""

    def __init__(
        self, train_chunk: int = 100, chunk: int = 1024, validation: float = 0.2, lags: int = 1
    ) -> None:
        super().__init__()
        self.train_chunk = require_int("train_chunk", train_chunk)
        self.chunk = require_int("chunk", chunk)
        self.lags = require_int("lags", lags)
        if not 0 < validation < 1:
            raise ConfigError(
                f"`validation` must be a share above 0 and below 1; got {validation!r}.", key="validation"
            )
        self.validation = validation

    @abstractmethod
    def read(self) -> list[AnomalyStream]:
        """Read the streams, which all have the same columns."""

    @cached_property
    def streams(self) -> list[AnomalyStream]:
        """The streams, read once; their columns in the order of the schema that is followed, if any."""
        streams = self.read()
        if self.recorded is not None:
            streams = [self._matched(stream, self.recorded) for stream in streams]
        names = known_as([stream.name for stream in streams], self.places)
        places = [self.places.get(name, Place()) for name in names]
        for stream, place in zip(streams, places, strict=True):
            if place.rows:  # whose first rows were the training part
                continue
            if stream.training < LEAST_TRAINING or stream.training >= len(stream.values):
                enough = len(stream.values) > LEAST_TRAINING
                remedy = f"Set `training` to {LEAST_TRAINING}." if enough else "Bring more rows."
                raise DataError(
                    f"{stream.name}: the training part must have at least {LEAST_TRAINING} rows and leave "
                    f"some to score; it has {stream.training} of {len(stream.values)}. {remedy}"
                )
        return [
            replace(stream, training=place.training, place=place) if place.rows else stream
            for stream, place in zip(streams, places, strict=True)
        ]

    @staticmethod
    def _matched(stream: AnomalyStream, recorded: Schema) -> AnomalyStream:
        recorded.require_steps(stream.time, stream.name)
        columns = recorded.ordered("columns", stream.columns, stream.name)
        places = [stream.columns.index(name) for name in columns]
        return replace(stream, values=stream.values[:, places], columns=columns)

    @cached_property
    def schema(self) -> Schema:
        if self.recorded is not None:
            return self.recorded
        times = [stream.time[: stream.training] for stream in self.streams if stream.time is not None]
        units = units_of(self.columns, self.units)
        first = self.streams[0]
        ids = {} if self.id_column is None else {"id": (self.id_column,)}
        return Schema(
            columns={"columns": self.columns, **ids},
            units=units,
            steps=step_quartiles(times),
            zone=first.zone,
            time_format=first.form,
            time_column=first.time_column,
            dialect=None if first.dialect is None else first.dialect[:4],
        )

    @cached_property
    def fingerprint(self) -> Fingerprint:
        streams = self.streams
        return {
            "streams": content_sum([(stream.name, stream.training) for stream in streams]),
            "columns": content_sum([stream.columns for stream in streams]),
            "time": content_sum([stream.time for stream in streams]),
            "values": content_sum([stream.values for stream in streams]),
            "labels": content_sum([stream.label for stream in streams]),
        }

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self.streams[0].columns

    @property
    def shape(self) -> AnomalyShape:
        require_lags(self.lags, self.columns)
        return AnomalyShape(len(self.columns), self.lags)

    @property
    def nab(self) -> bool:
        """Whether the score of the Numenta Anomaly Benchmark (NAB) applies."""
        return False

    @property
    def _fitted(self) -> list[int]:
        return [max(round((1 - self.validation) * stream.training), 1) for stream in self.streams]

    def setup(self, stage: str | None = None) -> None:
        """Read the data; calling it again changes nothing."""
        super().setup(stage)
        _ = self.streams

    def train_dataloader(self) -> DataLoader[AnomalyBatch]:
        self.require_streams("streams", len(self.streams))
        return self._loader(Chunks(self.streams, self._fitted, self.train_chunk, share=self.share))

    def val_dataloader(self) -> DataLoader[AnomalyBatch]:
        parts = [stream.training for stream in self.streams]
        return self._loader(Chunks(self.streams, parts, self.chunk, self._fitted, self.share))

    def test_dataloader(self) -> DataLoader[AnomalyBatch]:
        return self._whole(self.streams)

    def go_on(self, places: Mapping[str, Place]) -> None:
        """See `TaskData.go_on`; a stream without a place begins."""
        self.places = places

    @property
    def predicted(self) -> list[AnomalyStream]:
        """The streams as `predict_dataloader` reads them: the rows after their places, where there are any.

        Their times are row numbers where there are no time stamps.
        """
        return [
            replace(
                stream,
                values=stream.values[stream.begin :],
                label=None if stream.label is None else stream.label[stream.begin :],
                time=stream.times[stream.begin :],
            )
            for stream in self.streams
            if stream.begin < len(stream.values)
        ]

    def predict_dataloader(self) -> DataLoader[AnomalyBatch]:
        """Same rows as in the test, or those after the places of the streams."""
        return self._whole(self.predicted)

    def _whole(self, streams: Sequence[AnomalyStream]) -> DataLoader[AnomalyBatch]:
        """All rows of some streams."""
        rows = [len(stream.values) for stream in streams]
        return self._loader(Chunks(streams, rows, self.chunk, apart=True))

    def _loader(self, chunks: Chunks) -> DataLoader[AnomalyBatch]:
        return loader(chunks, one_by_one(len(chunks)))

    def rows_of(self, batch: AnomalyBatch) -> Tensor:
        streams, rows = batch.values.shape[:2]
        return batch.lengths.new_tensor([[batch.start, batch.start + rows - 1]]).expand(streams, 2)

    def source_of(self, sample: int) -> str:
        rank, world = self.share
        return self.streams[rank + sample * world].name

    def describe(self) -> list[tuple[str, str]]:
        rows = [len(stream.values) for stream in self.streams]
        known = [stream for stream in self.streams if stream.label is not None]
        events = sum(len(stream.windows) for stream in known)
        anomalous = sum(
            int(stream.label[stream.training :].sum()) for stream in known if stream.label is not None
        )
        first = self.streams[0]
        clock = Clock(None if first.time is None else find_frequency(first.time, first.zone), first.zone)
        return [
            ("streams", f"{len(rows)}, such as {self.streams[0].name}"),
            ("rows", f"{sum(rows)}, {min(rows)} to {max(rows)} in a stream"),
            ("columns", ", ".join(self.columns)),
            *([("time", described(first.time, clock))] if len(rows) == 1 else []),
            ("training", f"{sum(stream.training for stream in self.streams)} rows, without labels"),
            (
                "anomalies",
                f"{events} stretches, {anomalous} of the rows that are scored" if known else "not labelled",
            ),
            ("scaling", "causal: by the running level and scale of each stream"),
        ]
