"""`OnlineSource`: streams as read, each by itself: its parts, scales and clock, and the schema of all.

Shapes: T rows, D input columns, C targets.
"""

from __future__ import annotations

import copy
import logging
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from dream.errors import ConfigError
from lightning_modules.data.base import TaskData
from lightning_modules.data.categories import Category
from lightning_modules.data.clocks import disagreement, panel_clocks
from lightning_modules.data.columns import continued
from lightning_modules.data.fingerprint import Fingerprint, content_sum
from lightning_modules.data.frequency import UNTIMED, Clock, clock_of, season_of
from lightning_modules.data.schema import (
    Schema,
    SeriesFacts,
    scales,
    step_quartiles,
    units_of,
)
from lightning_modules.data.series import Scaler, Series, carry_forward, fill_missing, report_missing
from lightning_modules.online.stream import OnlineStream, part_rows
from lightning_modules.stream.settings import Task

logger = logging.getLogger(__name__)

BY_SERIES = "series"
"""How several series are scaled: each by its own warm-up rows."""
LEAST_SCALED = 10
"""Warm-up rows by which a series is scaled; those with fewer are scaled as all of them together."""


class OnlineSource(TaskData, ABC):
    """One stream, or several with ids, of which `members` are the data of each by itself."""

    horizon: int
    warm_up: int | float
    validation: int | float
    rows: int | None
    season: int | None
    frequency: str | None
    categories: Mapping[str, Category] = MappingProxyType({})
    """Columns of words, which indicators stand for."""
    id_column: str | None = None
    """Column whose values are the ids of several series."""
    name: str | None = None
    """Id of the only stream, if it is one of several."""
    number: int = 0
    """Number of the only stream among those."""
    whole: OnlineSource | None = None
    """The data of all of them."""

    @abstractmethod
    def read(self) -> OnlineStream:
        """Read the whole stream."""

    def read_many(self) -> dict[str, OnlineStream]:
        """The streams of several series by their ids, with the same columns; none where there is one stream,
        which `read` reads. Sets `id_column`."""
        return {}

    @cached_property
    def streams(self) -> dict[str, OnlineStream]:
        """The result of `read_many`, by the schema that is followed, if any."""
        found = {} if self.whole is not None else self.read_many()
        if not found:
            return {}
        gaps = np.sum([np.isnan(each.series.values).sum(0) for each in found.values()], 0)
        first = next(iter(found.values()))
        report_missing(gaps, first.series.columns, self._table_of(first), self.missing)
        if self.recorded is not None:
            times = [each.series.time for each in found.values()]
            if times[0] is None:
                self.recorded.require_steps(None, self._table_of(first))
            found = {name: each.matched(self.recorded, BY_SERIES) for name, each in found.items()}
        return found

    @staticmethod
    def _table_of(stream: OnlineStream) -> str:
        """Name of the table that holds this series and others."""
        return stream.series.source.rpartition(", series ")[0]

    @property
    def many(self) -> bool:
        """Whether there may be several streams, which have ids."""
        return bool(self.streams)

    @cached_property
    def members(self) -> list[Self]:
        """Data of each stream by itself, in the order of the ids; of a single stream these data."""
        if not self.many:
            return [self]
        made = []
        for number, name in enumerate(self.streams):
            member = copy.copy(self)
            member.forget()
            member.name, member.number, member.whole = name, number, self
            member.recorded = None if self.recorded is None else self.recorded.of(name)
            made.append(member)
        return made

    @cached_property
    def stream(self) -> OnlineStream:
        """The stream, filled as `missing` asks and by the schema that is followed, if any; the first of
        several."""
        if self.many:
            return self.members[0].stream
        if self.whole is not None:
            assert self.name is not None
            stream = self.whole.streams[self.name]
        else:
            stream = self.read()
            if self.recorded is not None:
                stream = stream.matched(self.recorded)
        if self.recorded is not None and (self.whole is None or stream.series.time is not None):
            self.recorded.require_steps(stream.series.time, stream.series.source)
        if stream.task != "forecasting" and self.horizon != 1:
            raise ConfigError(f"`horizon` must be 1 for {stream.task}; got {self.horizon}.", key="horizon")
        series = stream.series
        if self.whole is None:
            return replace(stream, series=fill_missing(series, self.missing, self._before(series)))
        if self.missing == "ffill" and np.isnan(series.values).any():  # what is missing was told of all
            series = replace(series, values=carry_forward(series.values, self._before(series)))
        return replace(stream, series=series)

    def _before(self, series: Series) -> np.ndarray | None:
        """Values (D,) that stand before the first row; None if all columns hold one in it."""
        if self.missing != "ffill" or not np.isnan(series.values[0]).any():
            return None
        columns = series.columns
        if self.recorded is not None and self.recorded.scales:
            return self.recorded.scaler(columns).mean
        # the first known value may lie beyond the warm-up part, in the future
        rows = self._first(series.values)
        if self.whole is None:
            return Scaler.fit(rows, columns).mean
        return Scaler.fit_blocks(lambda: [rows], columns, self.whole.pooled, quiet=True).mean

    def _first(self, values: np.ndarray) -> np.ndarray:
        """The rows of the warm-up part, and at least one."""
        return values[: max(part_rows(self.warm_up, len(values)), 1)]

    @cached_property
    def schema(self) -> Schema:
        if self.recorded is not None:
            return self.recorded
        stream, members = self.stream, self.members
        classes = stream.task == "classification"
        times = [each.stream.series.time for each in members]
        found, series = {}, {}
        if self.many and self.scaled:
            found = scales(stream.series.columns, self.pooled) | scales(stream.targets, self.pooled_targets)
        elif self.scaled:
            found = self._scales
        if self.many:
            own = {str(each.name): each._scales if self.scaled else {} for each in members}
            series = {name: SeriesFacts(scales=facts) for name, facts in own.items()}
        return Schema(
            columns=stream.roles | ({"id": (self.id_column,)} if self.id_column and self.many else {}),
            scales=found,
            units=units_of((*stream.series.columns, *(() if classes else stream.targets)), self.units),
            steps=step_quartiles(
                time[: each.parts[0] or None]
                for each, time in zip(members, times, strict=True)
                if time is not None
            ),
            frequency=self.clock.frequency,
            zone=stream.series.zone,
            time_format=stream.series.form,
            time_column=stream.series.time_column,
            dialect=None if stream.series.dialect is None else stream.series.dialect[:4],
            categories=self.categories,
            vocabulary=list(stream.targets) if classes else None,
            series=series,
            settings={"task": stream.task} | ({"scaling": BY_SERIES} if self.many else {}),
        )

    @property
    def _scales(self) -> dict[str, tuple[float, float]]:
        """Mean and deviation of each column of the only stream."""
        columns, targets = self.stream.series.columns, self.stream.targets
        return scales(columns, self.scaler) | scales(targets, self.target_scaler)

    @cached_property
    def season_rows(self) -> int:
        """Rows in one season, 1 for none."""
        if self.season is not None:
            return self.season
        if self.whole is not None:
            return self.whole.season_rows
        known = self.clock.frequency if self.recorded is None else self.recorded.frequency
        return season_of(known) or 1 if self.task == "forecasting" else 1

    def follow(self, schema: Schema | None) -> None:
        super().follow(schema)
        if self.recorded is not None:
            self.recorded.require_frequency(self.frequency, "the data")

    @cached_property
    def clock(self) -> Clock:
        """Frequency and zone of the time stamps, of several series those of most of them; the frequency is
        that of the schema, if one is followed.

        Raises:
            DataError: the stamps do not fit the frequency that is stated.
        """
        if self.whole is not None:
            return self.whole.clocks[self.number]
        if self.many:
            return Counter(self.clocks).most_common(1)[0][0]
        series = self.stream.series
        if series.time is None:
            return UNTIMED
        if self.recorded is not None:
            self.recorded.warn_of_zone(series.zone, series.source)
            return clock_of(series.time, series.zone, series.source, self.frequency, self.recorded.frequency)
        time = series.time[: self.parts[0] or None]
        return clock_of(time, series.zone, series.source, self.frequency, None)

    @cached_property
    def clocks(self) -> list[Clock]:
        """Frequency and zone of each of several series."""
        known = None if self.recorded is None else self.recorded.frequency
        series = [member.stream.series for member in self.members]
        if series[0].time is None:
            return [UNTIMED] * len(series)
        if self.recorded is not None:
            self.recorded.warn_of_zone(series[0].zone, self.source)
        clocks = panel_clocks(series, self.frequency, known)
        if (said := disagreement(clocks, list(self.streams))) is not None:
            logger.warning("%s: %s Each goes on by its own.", self.source, said)
        return clocks

    @cached_property
    def fingerprint(self) -> Fingerprint:
        streams = [member.stream for member in self.members]
        each = [
            stream.series.fingerprint | {"targets": content_sum(stream.task, stream.targets, stream.truth)}
            for stream in streams
        ]
        if not self.many:
            return each[0]
        joined = {part: content_sum([one[part] for one in each]) for part in each[0]}
        return joined | {"series": content_sum(list(self.streams))}

    @property
    def source(self) -> str:
        """The file or table, for messages."""
        source = self.stream.series.source
        return self._table_of(self.stream) if self.many else source

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
    def ahead(self) -> int:
        """Number of later rows that the target of a row extends over."""
        return self.horizon if self.task == "forecasting" else 0

    @property
    def end(self) -> int:
        """Number of rows to use of the only stream."""
        count = len(self.stream.series.values)
        if self.rows is None:
            return count
        if self.rows > count and self.whole is None:
            raise ConfigError(
                f"`rows` must be at most the {count} rows there are; got {self.rows}.", key="rows"
            )
        return min(self.rows, count)

    @cached_property
    def parts(self) -> tuple[int, int, int]:
        """First row after the warm-up part, after the validation part, and after the only stream, whether or
        not they hold what is needed."""
        count, end = len(self.stream.series.values), self.end
        warm_up, both = part_rows(self.warm_up, count), part_rows(self.validation, count)
        if isinstance(self.warm_up, float) and isinstance(self.validation, float):
            both = math.floor((self.warm_up + self.validation) * count + 1e-6)
        else:
            both += warm_up
        return warm_up, both, end

    @cached_property
    def values(self) -> tuple[Tensor, Tensor]:
        """Inputs (T, D) and targets (T, C) or (T,) of the only stream, as models read them."""
        stream, end = self.stream, self.end
        rows = stream.series.values[:end]
        if self.scaled:
            rows = self.scaler.standardise(rows, stream.series.columns, stream.series.source)
        inputs = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float64))
        if stream.truth is None:
            return inputs, inputs[:, : self.channels]
        truth = stream.truth[:end]
        if self.scaled:
            truth = self.target_scaler.standardise(truth, stream.targets, stream.series.source)
        return inputs, torch.from_numpy(np.ascontiguousarray(truth))

    @property
    def scaled(self) -> bool:
        """Whether inputs and targets are standardised."""
        if self.whole is not None:
            return self.whole.scaled
        if self.recorded is not None:
            return bool(self.recorded.scales)
        return any(each.parts[0] > 0 for each in self.members) and self.task != "classification"

    @cached_property
    def scaler(self) -> Scaler:
        """Mean and deviation of the inputs over the warm-up rows, or those of the schema that is followed."""
        return self._scaler(self.stream.series.values, self.stream.series.columns, "pooled")

    @cached_property
    def target_scaler(self) -> Scaler:
        """Mean and deviation of the targets, as `scaler`."""
        if self.stream.truth is None:
            return Scaler(self.scaler.mean[: self.channels], self.scaler.scale[: self.channels])
        return self._scaler(self.stream.truth, self.stream.targets, "pooled_targets")

    def _scaler(self, values: np.ndarray, columns: tuple[str, ...], pooled: str) -> Scaler:
        if self.recorded is not None and self.recorded.scales:
            return self.recorded.scaler(columns)
        rows = values[: part_rows(self.warm_up, len(values))]
        if self.whole is None:
            return Scaler.fit(rows, columns)
        together: Scaler = getattr(self.whole, pooled)
        if len(rows) < LEAST_SCALED:
            return together
        return Scaler.fit_blocks(lambda: [rows], columns, together, quiet=True)

    @cached_property
    def pooled(self) -> Scaler:
        """Mean and deviation of the inputs over the warm-up rows of all series together."""
        streams = list(self.streams.values())
        return self._pooled([each.series.values for each in streams], streams[0].series.columns)

    @cached_property
    def pooled_targets(self) -> Scaler:
        """Mean and deviation of the targets, as `pooled`."""
        streams = list(self.streams.values())
        truth = [each.truth for each in streams if each.truth is not None]
        if not truth:
            channels = len(streams[0].targets)
            return Scaler(self.pooled.mean[:channels], self.pooled.scale[:channels])
        return self._pooled(truth, streams[0].targets)

    def _pooled(self, values: list[np.ndarray], columns: tuple[str, ...]) -> Scaler:
        if self.recorded is not None and self.recorded.scales:
            return self.recorded.scaler(columns)
        return Scaler.fit_blocks(lambda: (self._first(each) for each in values), columns)

    def unscale(self, values: Tensor) -> Tensor:
        """Convert predictions (..., C) for forecasting or regression to the data's measurement units."""
        return self.target_scaler.inverse(values) if self.scaled else values

    def times(self, rows: np.ndarray) -> np.ndarray:
        """Time stamp of each row of the only stream, or its number without time stamps.

        Rows after the last one follow by the frequency, or without one at the median step of the warm-up
        rows.
        """
        time = self.stream.series.time
        steps = self.schema.steps if self.whole is None else self.whole.schema.steps
        if time is not None and steps is None:
            steps = step_quartiles([time])
        return rows if time is None or steps is None else continued(time, rows, steps[1], self.clock)
