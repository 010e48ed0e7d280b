"""`ForecastingData`: one or many series, each cut in time order, as windows or streams to forecast.

Shapes: S series, D inputs (targets, covariates, known covariates, calendar, static columns, ages of the
values), C targets, T rows. Values are standardised.
"""

from __future__ import annotations

import logging
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dream.errors import ConfigError, DataError
from lightning_modules.checks import require_int
from lightning_modules.data.columns import calendar_columns
from lightning_modules.data.frequency import (
    parse_frequency,
)
from lightning_modules.data.holidays import holiday_name
from lightning_modules.data.order import in_order, loader, one_by_one, shuffled
from lightning_modules.data.panel import listed
from lightning_modules.data.series import Missing, report_missing
from lightning_modules.forecasting.batches import (
    StreamDataset,
    StreamsInTurn,
    WindowBatch,
    WindowDataset,
    groups_at_random,
    panel_streams,
    rolling_stream,
    together,
    training_streams,
)
from lightning_modules.forecasting.facts import facts
from lightning_modules.forecasting.known import require_rows_ahead, tell_gaps
from lightning_modules.forecasting.scaled import ScaledData

logger = logging.getLogger(__name__)

_CHUNK = 32  # origins of a rolling test that are forecast at once
_WARM_UP = 8  # look-backs that a rolling test reads before its first origin


class ForecastingData(ScaledData, ABC):
    """Series to forecast, each cut in time order into a training, a validation and a test part.

    There is one series, or those of a panel, each with an id. No window reaches from one into another; one
    that is too short for a window of some part has none there.

    It is read as windows, which move by one row, or as streams. Training windows lie inside the training
    part; validation and test windows have their future inside their part, and their past may reach back
    before it. The data are read once, on first use.

    Args:
        look_back: Rows of the past that a window holds.
        horizon: Rows of the future to forecast.
        batch_size: Windows in a batch, of all processes together; with `streams`, the number of parallel
            streams.
        season: Rows in one season, such as 24 for hourly data with a daily rhythm, for MASE and the
            seasonal-naive forecast; of several, such as [24, 168] for day and week, MASE takes the first, and
            each has its seasonal-naive forecast. null: a day of steps within the day, a week of days, a year
            of longer steps, and 24 without a frequency; 1 where the training part does not hold two of them.
        split: Training, validation and test part, in time order: three fractions, three row counts, or two to
            three ISO dates (the first moment after training, after validation and, if given, after test).
        streams: Train on contiguous streams that carry their state from batch to batch, not on shuffled
            windows. Of several series each is a stream from its beginning, in a state of its own.
        rolling: Validate and test with carried state: the part is read once, as one stream, with a forecast
            every `stride` rows. Otherwise every window, stride 1, is read from a fresh state.
        stride: Rows from one forecast of a stream to the next; `look_back` if not given.
        missing: Treatment of missing values: stop with an error (`error`), carry the last known value forward
            (`ffill`), do so and show the model how old each value is (`mask`), or have DREAM read it as not
            observed, so that it fills gaps by its own predictions, while a rival core reads the last known
            value (`model`). `mask` and `model` leave missing targets out of loss and metrics.
        calendar: Known covariates made from the time stamps: any of minute, hour, weekday, day (of the
            month), month.
        timespans: Tell the layer how much time lies between rows, in units of the median training step; for
            unevenly spaced time stamps.
        num_workers: Processes that prepare batches; 0 prepares them in the main process.
        lags: For a single column: its values that each row shows, as columns: its own and the lags - 1 before
            it; 1 for its own alone. Before the first row they are missing, and where missing values are
            carried forward, the first value.
        frequency: How rows follow one another, as an alias of pandas such as h, 15min, B, W-MON, MS or ME, by
            which stamps go on into the horizon; null finds it. Without any they go on at the median step.
        scaling: By which mean and deviation several series are standardised: each by its own (`series`), so
            that series of any size are alike, or all by those of all together (`global`).
        holidays: Known covariate of the public holidays of a country, DE, or of a part of it, DE-BY; needs
            the extra `holidays`.
    """

    for_own_files = "TableData"

    def __init__(
        self,
        look_back: int = 96,
        horizon: int = 24,
        batch_size: int = 32,
        season: int | list[int] | None = None,
        split: list[int | float | str] = [0.7, 0.1, 0.2],  # noqa: B006 - shown by --print_config, never changed
        streams: bool = False,
        rolling: bool = False,
        stride: int | None = None,
        missing: Literal["error", "ffill", "mask", "model"] = "error",
        calendar: list[str] | None = None,
        timespans: bool = False,
        num_workers: int = 0,
        lags: int = 1,
        frequency: str | None = None,
        scaling: Literal["series", "global"] = "series",
        holidays: str | None = None,
    ) -> None:
        super().__init__()
        self.look_back = require_int("look_back", look_back)
        self.horizon = require_int("horizon", horizon)
        self.batch_size = require_int("batch_size", batch_size)
        for rows in season if isinstance(season, list) else [] if season is None else [season]:
            require_int("season", rows)
        if season == []:
            raise ConfigError("`season` must be rows, several of them, or null; got [].", key="season")
        self.season = season
        if frequency is not None:
            parse_frequency(frequency)
        self.frequency = frequency
        self.num_workers = require_int("num_workers", num_workers, least=0)
        self.lags = require_int("lags", lags)
        self.stride = self.look_back if stride is None else require_int("stride", stride)
        for name, value in (("streams", streams), ("rolling", rolling), ("timespans", timespans)):
            if not isinstance(value, bool):
                raise ConfigError(f"`{name}` must be true or false; got {value!r}.", key=name)
        if missing not in get_args(Missing):
            raise ConfigError(
                f"`missing` must be error, ffill, mask or model; got {missing!r}.", key="missing"
            )
        if scaling not in ("series", "global"):
            raise ConfigError(f"`scaling` must be series or global; got {scaling!r}.", key="scaling")
        self.scaling = scaling
        self.split = list(split)
        self.streams = streams
        self.rolling = rolling
        self.missing = missing
        self.timespans = timespans
        self.calendar = [*(calendar or []), *([] if holidays is None else [holiday_name(holidays)])]
        self.calendar_count = len(calendar_columns(self.calendar))

    def setup(self, stage: str | None = None) -> None:
        """Read and standardise the data, and split them if they are trained on; calling it again changes
        nothing. A forecast needs the last look-back only, see `predict_dataloader`."""
        super().setup(stage)
        if stage != "predict" or self.rolling:
            _ = self.prepared

    def train_dataloader(self) -> DataLoader[WindowBatch]:
        if not self.streams:
            windows = self._windows("train")
            if not len(windows):
                raise DataError(
                    f"{self.whole.source}: no series has a training part of {self.look_back + self.horizon} "
                    f"rows (look_back {self.look_back}, horizon {self.horizon}). Shorten them or change "
                    "`split`."
                )
            return loader(
                windows, shuffled(len(windows), self.batch_size).shared(*self.share), self.num_workers
            )
        groups = self._training_streams()
        self.require_streams("batch_size", min(len(group.starts) for group in groups))
        streams = StreamsInTurn([group.shared(*self.share) for group in groups])
        return loader(streams, groups_at_random(streams), self.num_workers)

    def val_dataloader(self) -> DataLoader[WindowBatch]:
        return self._evaluation("val", "validation", self.share)

    def test_dataloader(self) -> DataLoader[WindowBatch]:
        return self._evaluation("test", "test")

    def predict_dataloader(self) -> DataLoader[WindowBatch]:
        """The last window of each series, to forecast the rows after it, or with `rolling` the stream that
        leads there.

        Its future is unknown (NaN). A window is read as if no row came before it.

        Raises:
            DataError: there are too few rows, or the known covariates end before the horizon does.
        """
        if self.rolling:
            return self._stream([group for group, _ in self._newest_streams])
        newest = Newest(self)
        return loader(newest, in_order(len(newest.numbers), self.batch_size), self.num_workers)

    @cached_property
    def forecast_numbers(self) -> list[int]:
        """Numbers of the series that have rows enough for a forecast.

        Raises:
            DataError: none has, or the known covariates of one end before the horizon does.
        """
        needed = self.look_back + (self.stride if self.rolling else 0)
        what = "`look_back` and `stride`" if self.rolling else "`look_back`"
        enough = [k for k, member in enumerate(self.members) if len(member.series) >= needed]
        if not enough:
            most = max(self.members, key=lambda member: len(member.series))
            raise DataError(
                f"{most.series.source}: a forecast needs {needed} rows with targets ({what}); there are "
                f"{len(most.series)}. Bring more of the past."
            )
        if short := [str(each.name) for each in self.members if len(each.series) < needed]:
            logger.warning(
                "%s: no forecast of %d of %d series, which have fewer rows than the %d that it takes (%s): "
                "%s.",
                self.whole.source,
                len(short),
                len(self.members),
                needed,
                what,
                listed(short),
            )
        for number in enough:
            self._require_ahead(number)
        return enough

    def _require_ahead(self, number: int) -> None:
        """Refuse a series whose known covariates end before the horizon does, and tell gaps before it."""
        member, clock = self.members[number], self.clocks[number]
        whole, rows = member.whole, len(member.series)
        if self.known_covariates:
            names, ahead = self.known_covariates, len(whole) - rows
            require_rows_ahead(ahead, self.horizon, names, whole.time, rows - 1, clock, whole.source)
        if self.recorded is not None and whole.time is not None and not self.timespans:
            tell_gaps(whole.time[max(rows - self.look_back, 0) : rows], clock, whole.source)

    @cached_property
    def _newest_streams(self) -> list[tuple[StreamDataset, list[int]]]:
        rows = {number: len(self.members[number].series) for number in self.forecast_numbers}
        return self._rolling({number: (last, last) for number, last in rows.items()})

    def forecasts(self, predictions: Sequence[Tensor]) -> Iterator[tuple[int, np.ndarray]]:
        """Number of each series that has a forecast, and the forecast, of the results of `predict_step`."""
        if not self.rolling:
            values = torch.cat(list(predictions)).cpu().numpy()
            yield from zip(self.forecast_numbers, values, strict=True)
            return
        place = 0
        found: dict[int, Tensor] = {}
        for group, numbers in self._newest_streams:
            place += len(group)
            found |= dict(zip(numbers, predictions[place - 1], strict=True))
        for number in sorted(found):
            yield number, found[number].cpu().numpy()

    def _windows(self, part: str) -> WindowDataset:
        origins = (member.origins(getattr(member.parts, part)) for member in self.members)
        moved = [
            range(start + rows.start, start + rows.stop)
            for start, rows in zip(self.starts.tolist(), origins, strict=True)
        ]
        return WindowDataset(self.prepared.tables, self.look_back, self.horizon, moved)

    def _training_streams(self) -> list[StreamDataset]:
        shape, tables = (self.look_back, self.horizon), self.prepared.tables
        if not self.many:
            return [training_streams(tables, *shape, self.parts.train, self.batch_size, self.stride)]
        parts = [
            slice(start + member.parts.train.start, start + member.parts.train.stop)
            for start, member in zip(self.starts.tolist(), self.members, strict=True)
        ]
        return panel_streams(tables, *shape, parts, self.batch_size, self.stride)

    def _rolling(self, ends: Mapping[int, tuple[int, int]]) -> list[tuple[StreamDataset, list[int]]]:
        """Streams with origins from the first to at most the last row that `ends` gives for a series.

        Those of series with as many origins, before the first and after it, run side by side.
        """
        tables, warm_up = self.prepared.tables, _WARM_UP * self.look_back
        shape = (self.look_back, self.horizon)
        alike: dict[tuple[int, int], list[tuple[int, StreamDataset]]] = {}
        for number, (first, last) in ends.items():
            one = rolling_stream(tables, *shape, first, last, self.stride, _CHUNK, warm_up)
            before = max(first, self.look_back + self.stride) - int(one.starts)
            one.starts = one.starts + int(self.starts[number])
            alike.setdefault((one.origins, before), []).append((number, one))
        groups = []
        for (origins, _), streams in alike.items():
            for place in range(0, len(streams), self.batch_size):
                some = streams[place : place + self.batch_size]
                starts = torch.cat([one.starts for _, one in some])
                group = StreamDataset(tables, *shape, starts, self.stride, origins, _CHUNK)
                groups.append((group, [number for number, _ in some]))
        return groups

    def _evaluation(self, part: str, name: str, share: tuple[int, int] = (0, 1)) -> DataLoader[WindowBatch]:
        self._require_targets(self.prepared, part, name)
        if self.rolling:
            ends = {}
            for number, member in enumerate(self.members):
                rows = getattr(member.parts, part)
                last = rows.stop - self.horizon
                if last >= max(rows.start, self.look_back + self.stride):
                    ends[number] = (rows.start, last)
            return self._stream([group for group, _ in self._rolling(ends)])
        windows = self._windows(part)
        return loader(windows, in_order(len(windows), self.batch_size).shared(*share), self.num_workers)

    def _stream(self, groups: Sequence[StreamDataset]) -> DataLoader[WindowBatch]:
        streams = StreamsInTurn(groups)
        return loader(streams, one_by_one(len(streams)), self.num_workers)

    def counts(self, batch: WindowBatch, part: str) -> bool:
        """Whether a batch belongs to `part`, val or test; one before it only prepares the state."""
        first = batch.origin.cpu().numpy().reshape(len(batch.origin), -1)[:, 0]
        return bool((first >= self._part_starts[part][self.numbers_of(first)]).all())

    @cached_property
    def _part_starts(self) -> dict[str, np.ndarray]:
        """(S,) row of the tables at which a part of each series begins."""
        return {
            part: self.starts + [getattr(member.parts, part).start for member in self.members]
            for part in ("val", "test")
        }

    def training_windows(self, most: int) -> tuple[Tensor, Tensor]:
        """Past targets (N, L, C) and future (N, H, C) of at most `most` training windows, evenly spread."""
        windows = self._windows("train")
        batch = windows[np.linspace(0, len(windows) - 1, min(most, len(windows))).astype(int).tolist()]
        return batch.past[..., : self.channels], batch.future

    @property
    def training_batches(self) -> int:
        """Batches of streams in an epoch."""
        return sum(group.chunks for group in self._training_streams())

    def describe(self) -> list[tuple[str, str]]:
        uses = [f"{self.windows_in(part)} windows" for part in ("train", "val", "test")]
        if self.streams:
            uses[0] = f"{self.training_batches} batches of {self.batch_size} streams"
        if self.rolling:
            uses[1:] = [f"a forecast every {self.stride} rows with carried state"] * 2
        return facts(self, uses)


class Newest(Dataset[WindowBatch]):
    """The last window of each series that has one; its origin is the row of the tables after it."""

    def __init__(self, data: ForecastingData) -> None:
        self.data = data
        self.numbers = data.forecast_numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, places: list[int]) -> WindowBatch:
        """Batch of these windows."""
        data, look_back = self.data, self.data.look_back
        past = torch.arange(look_back)[None]
        numbers = [self.numbers[place] for place in places]
        members = [data.members[number] for number in numbers]
        made = [
            member.newest(data.newest_schema(number), data.clocks[number])
            for member, number in zip(members, numbers, strict=True)
        ]
        missing = np.sum([each.missing for each in made], axis=0)
        report_missing(missing, data.whole.columns, data.whole.source, data.missing)
        data.warn_of_scale([(member, each.values) for member, each in zip(members, made, strict=True)])
        windows = [each.tables.cut(past, torch.tensor([look_back]), data.horizon) for each in made]
        rows = [int(data.starts[k]) + len(data.members[k].series) for k in numbers]
        return together(windows)._replace(origin=torch.tensor(rows))
