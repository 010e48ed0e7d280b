"""One stream for prequential learning: crops of its warm-up part to train on, then all of it, row by row.

Shapes: N crops, T rows, D input columns, C targets, H rows ahead.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dream.errors import ConfigError, DataError
from lightning_modules.checks import require_int
from lightning_modules.data.base import TaskData
from lightning_modules.data.categories import Category
from lightning_modules.data.columns import continued, require_lags
from lightning_modules.data.fingerprint import Fingerprint, content_sum
from lightning_modules.data.frequency import (
    UNTIMED,
    Clock,
    clock_of,
    described,
    parse_frequency,
    season_of,
    tell_uneven,
)
from lightning_modules.data.order import drawn, in_order, loader
from lightning_modules.data.place import ONLY, Place
from lightning_modules.data.schema import Schema, scales, step_quartiles, units_of
from lightning_modules.data.series import Scaler, Series, fill_missing
from lightning_modules.stream import Shape
from lightning_modules.stream.settings import Task

STRIDE = 8  # rows between the starts of training crops


@dataclass(frozen=True, eq=False)
class OnlineStream:
    """A series and its targets."""

    series: Series
    """The input columns; for forecasting the columns to predict come first."""
    task: Task
    targets: tuple[str, ...]
    """Names of the columns to predict; for classification, names of the classes."""
    truth: np.ndarray | None = None
    """(T, C) float64 for regression, (T,) int64 class numbers for classification; None for forecasting, whose
    targets are inputs."""


class OnlineBatch(NamedTuple):
    """Consecutive rows: crops to train on, or a chunk of the stream."""

    rows: Tensor
    """(N, T, D) float64 inputs, standardised for forecasting and regression; NaN where one is missing."""
    targets: Tensor
    """(N, T + H, C) for forecasting: the target columns of these rows and the next H, NaN after the last;
    (N, T, C) for regression, (N, T) class numbers for classification. NaN where one is missing."""
    start: Tensor
    """(N,) number of the first row."""
    spare: bool = False
    """True if nothing in this batch counts: it keeps a process whose part of the batch is empty in step."""


class _Crops(Dataset[OnlineBatch]):
    """Pieces of `length` rows that begin at the rows `starts`."""

    def __init__(self, data: OnlineData, starts: range, length: int) -> None:
        self.data = data
        self.starts = starts
        self.length = length

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, indices: list[int]) -> OnlineBatch:
        """Batch of these pieces; without any, a spare one."""
        pieces = [self.data.piece(self.starts[index], self.length) for index in indices or [0]]
        rows, targets, start, _ = zip(*pieces, strict=True)
        return OnlineBatch(torch.cat(rows), torch.cat(targets), torch.cat(start), spare=not indices)


@dataclass(frozen=True)
class OnlineShape(Shape):
    """Facts about a stream that a module is built from. The data set them; flags cannot."""

    task: Task = "forecasting"
    inputs: int = 1
    targets: int = 1
    label_delay: int = 0
    """Rows by which each target is late."""


class OnlineData(TaskData, ABC):
    """One stream in time order: a warm-up part to train on, a validation part, and the rows to be scored.

    Training reads random crops of the warm-up part. The test reads all rows once, in order, from the first;
    those of the warm-up and validation part are learned from, but not scored. A forecast is scored if all its
    `horizon` rows lie in the stream.

    Forecasting and regression: inputs and targets are standardised by mean and deviation of the warm-up rows,
    and errors are on that scale. Without a warm-up part they keep their own scale.

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
    categories: Mapping[str, Category] = MappingProxyType({})
    """Columns of words, which indicators stand for."""

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

    @abstractmethod
    def read(self) -> OnlineStream:
        """Read the whole stream."""

    @cached_property
    def stream(self) -> OnlineStream:
        """The stream, read once, filled as `missing` asks; by the schema that is followed, if any."""
        stream = self.read() if self.recorded is None else self._matched(self.read(), self.recorded)
        if stream.task != "forecasting" and self.horizon != 1:
            raise ConfigError(f"`horizon` must be 1 for {stream.task}; got {self.horizon}.", key="horizon")
        values, before = stream.series.values, None
        if self.missing == "ffill" and np.isnan(values[0]).any():
            columns = stream.series.columns
            if self.recorded is not None and self.recorded.scales:
                before = self.recorded.scaler(columns).mean
            else:  # the first known value may lie beyond the warm-up part, in the future
                warm_up = values[: max(part_rows(self.warm_up, len(values)), 1)]
                before = Scaler.fit(warm_up, columns).mean
        return replace(stream, series=fill_missing(stream.series, self.missing, before))

    @staticmethod
    def _matched(stream: OnlineStream, recorded: Schema) -> OnlineStream:
        """`stream` with columns in the order of a schema, and with the class numbers of it."""
        source = stream.series.source
        recorded.require_settings({"task": stream.task}, source)
        recorded.require_steps(stream.series.time, source)
        found = {role: recorded.ordered(role, names, source) for role, names in _roles(stream).items()}
        targets, truth = found.get("targets", stream.targets), stream.truth
        if stream.task == "classification":
            targets = tuple(recorded.vocabulary)
            if unknown := [name for name in stream.targets if name not in targets]:
                raise DataError(
                    f"{source}: classes must be those that the checkpoint was trained on, "
                    f"{', '.join(targets)}; unknown to it: {', '.join(unknown)}. Rename them, or train again."
                )
            truth = np.array([targets.index(name) for name in stream.targets])[truth]
        elif truth is not None:
            truth = truth[:, [stream.targets.index(name) for name in targets]]
        inputs = found.get("inputs") or (*found["targets"], *found["covariates"])
        return OnlineStream(stream.series.ordered(inputs), stream.task, targets, truth)

    @cached_property
    def schema(self) -> Schema:
        if self.recorded is not None:
            return self.recorded
        stream, time = self.stream, self.stream.series.time
        classes = stream.task == "classification"
        found = {}
        if self.scaled:
            found = scales(stream.series.columns, self.scaler) | scales(stream.targets, self.target_scaler)
        return Schema(
            columns=_roles(stream),
            scales=found,
            units=units_of((*stream.series.columns, *(() if classes else stream.targets)), self.units),
            steps=None if time is None else step_quartiles([time[: self.borders[0] or None]]),
            frequency=self.clock.frequency,
            zone=stream.series.zone,
            time_format=stream.series.form,
            time_column=stream.series.time_column,
            dialect=None if stream.series.dialect is None else stream.series.dialect[:4],
            categories=self.categories,
            vocabulary=list(stream.targets) if classes else None,
            settings={"task": stream.task},
        )

    @cached_property
    def season_rows(self) -> int:
        """Rows in one season, 1 for none."""
        if self.season is not None:
            return self.season
        known = self.clock.frequency if self.recorded is None else self.recorded.frequency
        return season_of(known) or 1 if self.task == "forecasting" else 1

    def follow(self, schema: Schema | None) -> None:
        super().follow(schema)
        if self.recorded is not None:
            self.recorded.require_frequency(self.frequency, "the data")

    @cached_property
    def clock(self) -> Clock:
        """Frequency and zone of the time stamps; the frequency is that of the schema, if one is followed.

        Raises:
            DataError: the stamps do not fit the frequency that is stated.
        """
        series = self.stream.series
        if series.time is None:
            return UNTIMED
        if self.recorded is not None:
            self.recorded.warn_of_zone(series.zone, series.source)
            return clock_of(series.time, series.zone, series.source, self.frequency, self.recorded.frequency)
        time = series.time[: self.borders[0] or None]
        return clock_of(time, series.zone, series.source, self.frequency, None)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        stream = self.stream
        return stream.series.fingerprint | {"targets": content_sum(stream.task, stream.targets, stream.truth)}

    @property
    def task(self) -> Task:
        """Task of the stream."""
        return self.stream.task

    @property
    def inputs(self) -> int:
        """D, number of columns that a model reads."""
        return len(self.stream.series.columns)

    @property
    def channels(self) -> int:
        """C, number of columns that a model predicts; for classification the number of classes."""
        return len(self.stream.targets)

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

    @property
    def end(self) -> int:
        """Number of rows to use."""
        count = len(self.stream.series.values)
        if self.rows is not None and self.rows > count:
            raise ConfigError(
                f"`rows` must be at most the {count} rows there are; got {self.rows}.", key="rows"
            )
        return count if self.rows is None else self.rows

    @cached_property
    def borders(self) -> tuple[int, int, int]:
        """First row after the warm-up part, after the validation part, and after the stream."""
        count, end = len(self.stream.series.values), self.end
        warm_up, both = part_rows(self.warm_up, count), part_rows(self.validation, count)
        if isinstance(self.warm_up, float) and isinstance(self.validation, float):
            both = math.floor((self.warm_up + self.validation) * count + 1e-6)
        else:
            both += warm_up
        ahead = self.horizon if self.task == "forecasting" else 1
        if both + ahead >= end:
            raise ConfigError(
                f"`warm_up` and `validation` must leave rows for the stream; got {warm_up} and "
                f"{both - warm_up} of {end} rows, which leaves {max(end - both, 0)} where more than {ahead} "
                "are needed. Lower them or `horizon`.",
                key="warm_up",
            )
        if self.recorded is None and 0 < warm_up < self.crop + self.ahead:
            room = warm_up - self.ahead
            remedy = f"Lower `crop` to {room}" + (
                f" and `context` to {room // 4}" if room <= self.context else ""
            )
            raise ConfigError(
                f"`warm_up` must hold a crop of {self.crop} rows and its {self.ahead} rows ahead, or be 0; "
                f"got {warm_up} rows. {remedy if room > 0 else 'Bring more rows, or set it to 0'}.",
                key="warm_up",
            )
        return warm_up, both, end

    @property
    def trains(self) -> bool:
        """Whether there is a warm-up part; without one all is learnt from the stream."""
        return self.borders[0] > 0

    @property
    def ahead(self) -> int:
        """Number of later rows that the target of a row extends over."""
        return self.horizon if self.task == "forecasting" else 0

    @property
    def scored(self) -> range:
        """Rows whose predictions are scored."""
        _, start, end = self.borders
        return (
            range(max(start - 1, 0), end - self.horizon) if self.task == "forecasting" else range(start, end)
        )

    @cached_property
    def values(self) -> tuple[Tensor, Tensor]:
        """Inputs (T, D) and targets (T, C) or (T,), as models read them."""
        stream, end = self.stream, self.end
        rows = stream.series.values[:end]
        if self.scaled:
            rows = self.scaler.standardise(rows, stream.series.columns, stream.series.source)
            if self.recorded is not None:
                self.recorded.warn_of_scale(rows, stream.series.columns, stream.series.source)
        inputs = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float64))
        if stream.truth is None:
            return inputs, inputs[:, : self.channels]
        truth = stream.truth[:end]
        if self.scaled:
            truth = self.target_scaler.standardise(truth, stream.targets, stream.series.source)
            if self.recorded is not None:
                self.recorded.warn_of_scale(truth, stream.targets, stream.series.source)
        return inputs, torch.from_numpy(np.ascontiguousarray(truth))

    @property
    def scaled(self) -> bool:
        """Whether inputs and targets are standardised."""
        if self.recorded is not None:
            return bool(self.recorded.scales)
        return self.borders[0] > 0 and self.task != "classification"

    @cached_property
    def scaler(self) -> Scaler:
        """Mean and deviation of the inputs over the warm-up rows, or those of the schema that is followed."""
        return self._scaler(self.stream.series.values, self.stream.series.columns)

    @cached_property
    def target_scaler(self) -> Scaler:
        """Mean and deviation of the targets, as `scaler`."""
        if self.stream.truth is None:
            return Scaler(self.scaler.mean[: self.channels], self.scaler.scale[: self.channels])
        return self._scaler(self.stream.truth, self.stream.targets)

    def _scaler(self, values: np.ndarray, columns: tuple[str, ...]) -> Scaler:
        if self.recorded is not None:
            return self.recorded.scaler(columns)
        return Scaler.fit(values[: self.borders[0]], columns)

    def setup(self, stage: str | None = None) -> None:
        """Read and standardise the data; calling it again changes nothing."""
        super().setup(stage)
        if "values" in vars(self):
            return
        _ = self.values
        series = self.stream.series
        tell_uneven(series.time, series.zone, series.source)

    def piece(self, start: int, length: int) -> OnlineBatch:
        """At most `length` rows from `start` as a batch of one."""
        inputs, targets = self.values
        rows = inputs[start : start + length]
        wanted = targets[start : start + len(rows) + self.ahead]
        lacking = len(rows) + self.ahead - len(wanted)
        if lacking:
            wanted = torch.cat([wanted, wanted.new_full((lacking, *wanted.shape[1:]), torch.nan)])
        return OnlineBatch(rows[None], wanted[None], torch.tensor([start]))

    def train_dataloader(self) -> DataLoader[OnlineBatch]:
        """Random crops of the warm-up part; none where it is empty."""
        warm_up = self.borders[0]
        crops = _Crops(self, range(0, max(warm_up - self.crop - self.ahead + 1, 0), STRIDE), self.crop)
        return loader(crops, drawn(len(crops), self.crops, self.batch_size).shared(*self.share))

    def val_dataloader(self) -> DataLoader[OnlineBatch] | list[DataLoader[OnlineBatch]]:
        """Crops whose scored rows cover the validation part; none if there is nothing to train on."""
        warm_up, stop, _ = self.borders
        rows = stop - warm_up - self.ahead
        if rows <= 0 or warm_up == 0:
            return []
        step = min(-(-(self.crop - self.context) // STRIDE) * STRIDE, rows)
        first, length = max(warm_up - self.context, 0) // STRIDE * STRIDE, self.context + step
        starts = range(first, stop - length - self.ahead + 1, -(-step // STRIDE) * STRIDE)
        return loader(
            _Crops(self, starts, length), in_order(len(starts), self.batch_size).shared(*self.share)
        )

    def test_dataloader(self) -> DataLoader[OnlineBatch]:
        """All rows in order, in chunks."""
        return self._in_chunks(self.borders[2])

    def go_on(self, places: Mapping[str, Place]) -> None:
        self.places = places

    @property
    def place(self) -> Place:
        """Rows of the stream that were read already."""
        return self.places.get(ONLY, Place())

    @property
    def begin(self) -> int:
        """First row that is predicted: 0, or the first after `place`."""
        series = self.stream.series
        return self.place.first_new(series.time, self.end, series.source)

    def predict_dataloader(self) -> DataLoader[OnlineBatch]:
        """All rows in order from `begin`, in chunks; none is kept back for a warm-up."""
        return self._in_chunks(self.end, self.begin)

    def _in_chunks(self, end: int, begin: int = 0) -> DataLoader[OnlineBatch]:
        starts = range(begin, end, self.chunk)
        return loader(_Crops(self, starts, self.chunk), in_order(len(starts), 1))

    def times(self, rows: np.ndarray) -> np.ndarray:
        """Time stamp of each row, or its number for a stream without time stamps.

        Rows after the last one follow by the frequency, or without one at the median step of the warm-up
        rows.
        """
        time, steps = self.stream.series.time, self.schema.steps
        if time is not None and steps is None:
            steps = step_quartiles([time])
        return rows if time is None or steps is None else continued(time, rows, steps[1], self.clock)

    def unscale(self, values: Tensor) -> Tensor:
        """Convert predictions (..., C) for forecasting or regression to the data's measurement units."""
        return self.target_scaler.inverse(values) if self.scaled else values

    def rows_of(self, batch: OnlineBatch) -> Tensor:
        return torch.stack([batch.start, batch.start + batch.rows.shape[1] - 1], 1)

    def source_of(self, sample: int) -> str:
        return self.stream.series.source

    def describe(self) -> list[tuple[str, str]]:
        stream, (warm_up, stop, end) = self.stream, self.borders
        time = stream.series.time
        names = "classes" if stream.task == "classification" else "targets"
        parts = {"warm-up": (0, warm_up), "validation": (warm_up, stop), "stream": (stop, end)}
        rows = [(name, f"rows {a} to {b - 1}" if b > a else "none") for name, (a, b) in parts.items()]
        return [
            ("source", stream.series.source),
            ("task", f"{stream.task}, {self.horizon} rows ahead" if self.ahead else stream.task),
            ("rows", str(len(stream.series.values))),
            ("inputs", ", ".join(stream.series.columns)),
            (names, ", ".join(stream.targets)),
            ("time", described(None if time is None else time[:end], self.clock)),
            *rows,
            ("targets come", f"{self.label_delay} rows late" if self.label_delay else "at once"),
        ]


def _roles(stream: OnlineStream) -> dict[str, tuple[str, ...]]:
    """The columns of a stream by their role."""
    columns = stream.series.columns
    if stream.task == "forecasting":
        return {"targets": stream.targets, "covariates": columns[len(stream.targets) :]}
    return {"inputs": columns} | ({} if stream.task == "classification" else {"targets": stream.targets})


def part_rows(part: int | float, count: int) -> int:
    """Rows of a part that is given as their number, or as a share of `count`."""
    return part if isinstance(part, int) else math.floor(part * count + 1e-6)


def check_truth(truth: np.ndarray, source: str, name: str) -> None:
    """Refuse targets with missing values.

    Raises:
        DataError: naming the first row without one.
    """
    missing = (
        np.isnan(truth).reshape(len(truth), -1).any(1)
        if truth.dtype.kind == "f"
        else np.zeros(len(truth), bool)
    )
    if missing.any():
        raise DataError(
            f"{source}: column `{name}` must hold a value in every row; row {int(missing.argmax())} has "
            "none. Leave out the rows without one."
        )
