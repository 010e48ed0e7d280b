"""Streams for prequential learning: crops of their warm-up parts to train on, then all rows, one by one.

Shapes: N crops, T rows, D input columns, C targets, H rows ahead.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dream.errors import ConfigError
from lightning_modules.checks import require_int
from lightning_modules.data.columns import require_lags
from lightning_modules.data.frequency import described, parse_frequency, zoned
from lightning_modules.data.order import drawn, in_order, loader
from lightning_modules.data.panel import listed
from lightning_modules.data.place import ONLY, Place
from lightning_modules.online.batches import STRIDE, Crops, OnlineBatch
from lightning_modules.online.remarks import tell
from lightning_modules.online.source import OnlineSource
from lightning_modules.online.stream import OnlineStream
from lightning_modules.stream import Shape
from lightning_modules.stream.settings import Task

__all__ = ["OnlineBatch", "OnlineData", "OnlineShape", "OnlineStream", "Task"]


@dataclass(frozen=True)
class OnlineShape(Shape):
    """Facts about a stream that a module is built from. The data set them; flags cannot."""

    task: Task = "forecasting"
    inputs: int = 1
    targets: int = 1
    label_delay: int = 0
    """Rows by which each target is late."""


class OnlineData(OnlineSource, ABC):
    """A stream in time order: a warm-up part to train on, a validation part, and the rows to be scored.

    Training reads random crops of the warm-up part. The test reads all rows once, in order, from the first;
    those of the warm-up and validation part are learned from, but not scored. A forecast is scored if all its
    `horizon` rows lie in the stream.

    Forecasting and regression: inputs and targets are standardised by mean and deviation of the warm-up rows,
    and errors are on that scale. Without a warm-up part they keep their own scale.

    Of several series each is a stream with parts, scales and a state of its own; no crop holds rows of two.

    Args:
        horizon: Rows ahead to forecast; 1 for regression and classification.
        warm_up: Rows to train on: a number, or a share of all rows; 0 to start from nothing.
        validation: Rows after the warm-up that pick the best weights: a number, or a share of all rows.
        rows: Number of rows to use, from the first; all if not given.
        label_delay: Rows by which each target is late.
        season: Rows in one season, for the seasonal profile and the seasonal-naive forecast; 1 for none.
            null: in forecasting that of the frequency, as a day of hours, and otherwise none.
        crop: Rows of a training crop.
        context: Rows at the start of a crop that are read but do not count, while a fresh state settles.
        batch_size: Crops in a batch, of all processes together.
        crops: Crops in a training epoch.
        chunk: Rows of the stream in a batch of the test; results do not depend on it.
        missing: Treatment of missing inputs: stop with an error (`error`), carry the last known value forward
            (`ffill`), the first one preceded by the mean of the warm-up part, or leave them out (`model`):
            DREAM reads them as not observed, a rival core the last known value, and numbers to predict may
            be missing, too, which are then neither learnt from nor scored.
        lags: For a single input column: its values that the core reads in each row, the present one and the
            lags - 1 before it; 1 for the present one alone. Before the first row they are not observed, for a
            rival core 0. `model.reading.lags` are those that the head reads.
        frequency: How rows follow one another, as an alias of pandas such as h, 15min, B, W-MON, MS or ME, by
            which stamps go on after the last row; null finds it. Without any they go on at the median step.
    """

    for_own_files = "TableStream"

    def __init__(
        self,
        horizon: int = 1,
        warm_up: int | float = 0.2,
        validation: int | float = 0.05,
        rows: int | None = None,
        label_delay: int = 0,
        season: int | None = None,
        crop: int = 192,
        context: int = 48,
        batch_size: int = 32,
        crops: int = 1024,
        chunk: int = 512,
        missing: Literal["error", "ffill", "model"] = "error",
        lags: int = 1,
        frequency: str | None = None,
    ) -> None:
        super().__init__()
        self.horizon = require_int("horizon", horizon)
        self.label_delay = require_int("label_delay", label_delay, least=0)
        self.rows = None if rows is None else require_int("rows", rows)
        self.season = None if season is None else require_int("season", season)
        if frequency is not None:
            parse_frequency(frequency)
        self.frequency = frequency
        self.crop = require_int("crop", crop)
        self.context = require_int("context", context, least=0)
        self.batch_size = require_int("batch_size", batch_size)
        self.crops = require_int("crops", crops)
        self.chunk = require_int("chunk", chunk)
        self.lags = require_int("lags", lags)
        if context >= crop:
            raise ConfigError(f"`context` must be below `crop`, {crop}; got {context}.", key="context")
        for name, part in (("warm_up", warm_up), ("validation", validation)):
            if isinstance(part, bool) or not (
                (isinstance(part, int) and part >= 0) or (isinstance(part, float) and 0 <= part < 1)
            ):
                raise ConfigError(
                    f"`{name}` must be a number of rows or a share from 0 to below 1; got {part!r}.", key=name
                )
        if missing not in ("error", "ffill", "model"):
            raise ConfigError(f"`missing` must be error, ffill or model; got {missing!r}.", key="missing")
        self.warm_up = warm_up
        self.validation = validation
        self.missing = missing

    @property
    def shape(self) -> OnlineShape:
        require_lags(self.lags, self.stream.series.columns)
        return OnlineShape(
            self.task,
            self.inputs,
            self.channels,
            self.horizon,
            self.season_rows,
            self.lags,
            label_delay=self.label_delay,
        )

    @cached_property
    def borders(self) -> tuple[int, int, int]:
        """First row after the warm-up part, after the validation part, and after the only stream.

        Raises:
            ConfigError: they leave no rows to be scored, or none of several series has room for a crop.
        """
        if self.whole is None:
            self._require_room()
        return self.parts

    @property
    def _least(self) -> int:
        """Rows that the stream must hold more than after warm-up and validation part."""
        return self.horizon if self.task == "forecasting" else 1

    @property
    def has_room(self) -> bool:
        """Whether the only stream leaves rows to be scored."""
        _, both, end = self.parts
        return both + self._least < end

    @property
    def tested(self) -> list[OnlineData]:
        """Data of each stream that leaves rows to be scored.

        Raises:
            ConfigError: there is none.
        """
        found: list[OnlineData] = [member for member in self.members if member.has_room]
        if not found:
            self._require_room()
        return found

    def _require_room(self) -> None:
        """Refuse parts that leave nothing to score, or to train on, in the longest of the streams."""
        longest = max(self.members, key=lambda member: member.end)
        warm_up, both, end = longest.parts
        where = f" of the longest series, {longest.name}" if self.many else ""
        if not longest.has_room:
            raise ConfigError(
                f"`warm_up` and `validation` must leave rows for the stream; got {warm_up} and "
                f"{both - warm_up} of {end} rows{where}, which leaves {max(end - both, 0)} where more than "
                f"{self._least} are needed. Lower them or `horizon`.",
                key="warm_up",
            )
        if self.recorded is None and 0 < warm_up < self.crop + self.ahead:
            room = warm_up - self.ahead
            remedy = f"Lower `crop` to {room}" + (
                f" and `context` to {room // 4}" if room <= self.context else ""
            )
            raise ConfigError(
                f"`warm_up` must hold a crop of {self.crop} rows and its {self.ahead} rows ahead, or be 0; "
                f"got {warm_up} rows{where}. "
                f"{remedy if room > 0 else 'Bring more rows, or set it to 0'}.",
                key="warm_up",
            )

    @property
    def trains(self) -> bool:
        """Whether there is a warm-up part; without one all is learnt from the stream."""
        return any(member.borders[0] > 0 for member in self.members)

    @property
    def scored(self) -> range:
        """Rows of the only stream whose predictions are scored."""
        _, start, end = self.borders
        return (
            range(max(start - 1, 0), end - self.horizon) if self.task == "forecasting" else range(start, end)
        )

    def setup(self, stage: str | None = None) -> None:
        """Read and standardise the data; calling it again changes nothing."""
        super().setup(stage)
        if "values" in vars(self.members[0]):
            return
        if self.recorded is None:
            self._require_room()
        for member in self.members:
            _ = member.values
        tell(self, self.crop, [str(each.name) for each in self.members if not each.has_room])

    def piece(self, start: int, length: int) -> OnlineBatch:
        """At most `length` rows of the only stream from `start` on as a batch of one."""
        inputs, targets = self.values
        rows = inputs[start : start + length]
        wanted = targets[start : start + len(rows) + self.ahead]
        lacking = len(rows) + self.ahead - len(wanted)
        if lacking:
            wanted = torch.cat([wanted, wanted.new_full((lacking, *wanted.shape[1:]), torch.nan)])
        return OnlineBatch(rows[None], wanted[None], torch.tensor([start]), torch.tensor([self.number]))

    def train_dataloader(self) -> DataLoader[OnlineBatch]:
        """Random crops of the warm-up parts; none where they are empty."""
        starts = [
            range(0, max(member.borders[0] - self.crop - self.ahead + 1, 0), STRIDE)
            for member in self.members
        ]
        crops = Crops([one.piece for one in self.members], starts, self.crop)
        return loader(crops, drawn(len(crops), self.crops, self.batch_size).shared(*self.share))

    def val_dataloader(self) -> DataLoader[OnlineBatch] | list[DataLoader[OnlineBatch]]:
        """Crops whose scored rows cover the validation parts; none if there is nothing to train on."""
        parts = [member.borders for member in self.members]
        rows = [stop - warm_up - self.ahead if warm_up > 0 else 0 for warm_up, stop, _ in parts]
        if max(rows) <= 0:
            return []
        # all crops are of one length: that of the shortest part, if it is worth a crop
        shortest = max(min(each for each in rows if each > 0), min(STRIDE, max(rows)))
        step = min(-(-(self.crop - self.context) // STRIDE) * STRIDE, shortest)
        length, stride = self.context + step, -(-step // STRIDE) * STRIDE
        starts = [
            range(
                max(warm_up - self.context, 0) // STRIDE * STRIDE,
                stop - length - self.ahead + 1 if count >= step else 0,
                stride,
            )
            for (warm_up, stop, _), count in zip(parts, rows, strict=True)
        ]
        crops = Crops([one.piece for one in self.members], starts, length)
        return loader(crops, in_order(len(crops), self.batch_size).shared(*self.share))

    def test_dataloader(self) -> DataLoader[OnlineBatch]:
        """All rows of one stream after another in order, in chunks."""
        streams = self.tested
        return self._in_chunks(streams, [(0, each.borders[2]) for each in streams])

    def go_on(self, places: Mapping[str, Place]) -> None:
        """See `TaskData.go_on`.

        Raises:
            ConfigError: there are several streams, which may have gone on by different times.
        """
        if self.many:
            raise ConfigError(
                "`--learn` must be given for a run of one stream; this one is of several series, each with a "
                "state of its own. Leave it out, or train on the rows of one.",
                key="learn",
            )
        self.places = places

    @property
    def place(self) -> Place:
        """Rows of the only stream that were read already."""
        return self.places.get(ONLY, Place())

    @property
    def begin(self) -> int:
        """First row of the only stream that is predicted: 0, or the first after `place`."""
        series = self.stream.series
        return self.place.first_new(series.time, self.end, series.source)

    def predict_dataloader(self) -> DataLoader[OnlineBatch]:
        """All rows in order from `begin`, in chunks; none is kept back for a warm-up."""
        return self._in_chunks(self.members, [(each.begin, each.end) for each in self.members])

    def _in_chunks(
        self, streams: Sequence[OnlineData], parts: Sequence[tuple[int, int]]
    ) -> DataLoader[OnlineBatch]:
        starts = [range(*part, self.chunk) for part in parts]
        crops = Crops([one.piece for one in streams], starts, self.chunk)
        return loader(crops, in_order(len(crops), 1))

    def rows_of(self, batch: OnlineBatch) -> Tensor:
        return torch.stack([batch.start, batch.start + batch.rows.shape[1] - 1], 1)

    def source_of(self, sample: int) -> str:
        return self.stream.series.source

    def sources(self, batch: OnlineBatch) -> Callable[[int], str]:
        numbers = batch.number.tolist()
        return lambda sample: self.members[numbers[sample]].source_of(sample)

    def describe(self) -> list[tuple[str, str]]:
        members, stream = self.members, self.stream
        self._require_room()
        each = [member.parts for member in members]
        names = "classes" if stream.task == "classification" else "targets"
        if self.many:
            counts = [
                (name, sum(max(part[k] - (part[k - 1] if k else 0), 0) for part in each))
                for k, name in enumerate(("warm-up", "validation", "stream"))
            ]
            rows = [(name, f"{count} rows of all series" if count else "none") for name, count in counts]
        else:
            warm_up, stop, end = each[0]
            parts = {"warm-up": (0, warm_up), "validation": (warm_up, stop), "stream": (stop, end)}
            rows = [(name, f"rows {a} to {b - 1}" if b > a else "none") for name, (a, b) in parts.items()]
        sizes = [len(member.stream.series.values) for member in members]
        return [
            ("source", self.source),
            ("task", f"{stream.task}, {self.horizon} rows ahead" if self.ahead else stream.task),
            *([("series", f"{len(members)}: {listed([*self.streams])}")] if self.many else []),
            ("rows", f"{sum(sizes)}, {min(sizes)} to {max(sizes)} each" if self.many else str(sizes[0])),
            ("inputs", ", ".join(stream.series.columns)),
            (names, ", ".join(stream.targets)),
            ("time", self._period()),
            *rows,
            ("targets come", f"{self.label_delay} rows late" if self.label_delay else "at once"),
        ]

    def _period(self) -> str:
        """First and last time of all rows to use, and how they follow one another."""
        times = [
            time[: member.end] for member in self.members if (time := member.stream.series.time) is not None
        ]
        if not self.many or not times:
            return described(times[0] if times else None, self.clock)
        ends = np.array([min(time[0] for time in times), max(time[-1] for time in times)])
        period = " to ".join(stamp.isoformat(timespec="seconds") for stamp in zoned(ends, self.clock.zone))
        return f"{period}, {self.clock.frequency or 'no frequency'}"
