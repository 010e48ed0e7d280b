"""`ForecastingData`: one long series, cut in time order, as windows or streams to forecast.

Shapes: D inputs (targets, covariates, known covariates, calendar, ages of the values), C targets, T rows.
Values are standardised.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dream.errors import ConfigError, DataError
from lightning_modules.checks import require_int
from lightning_modules.data.base import TaskData
from lightning_modules.data.columns import calendar_columns, continued, lag_columns, require_lags
from lightning_modules.data.disk.stored import StoredSeries
from lightning_modules.data.fingerprint import Fingerprint
from lightning_modules.data.frequency import (
    UNTIMED,
    Clock,
    clock_of,
    described,
    parse_frequency,
    season_of,
    skipped_hour,
    unevenness,
)
from lightning_modules.data.order import in_order, loader, one_by_one, shuffled
from lightning_modules.data.schema import Schema, scales, step_quartiles, units_of
from lightning_modules.data.series import Missing, Scaler, Series
from lightning_modules.data.split import Split, enough_rows, split_rows
from lightning_modules.forecasting.batches import (
    StreamDataset,
    WindowBatch,
    WindowDataset,
    one_phase,
    rolling_stream,
    training_streams,
)
from lightning_modules.forecasting.prepared import Prepared, Recipe, prepare

logger = logging.getLogger(__name__)

_PARTS = ("training", "validation", "test")
_CHUNK = 32  # origins of a rolling test that are forecast at once
_ROWS = 1 << 16  # rows that are held in memory together
_USUAL = 24  # rows of a season where nothing tells of another
_WARM_UP = 8  # look-backs that a rolling test reads before its first origin


@dataclass(frozen=True)
class ForecastingShape:
    """Facts about forecasting data that a module is built from. The data set them; flags cannot."""

    channels: int = 1
    """C, the number of columns to predict."""
    covariates: int = 0
    """Number of columns that are only read, and known in the past only."""
    known: int = 0
    """Number of columns that are known for the horizon too, the calendar's among them."""
    calendar: int = 0
    """Number of those that are the calendar's, the last ones."""
    aged: int = 0
    """Number of columns whose age is read too: all but the calendar's if `missing` is `mask`, else none."""
    look_back: int = 96
    """L, rows of the past."""
    horizon: int = 24
    """H, rows to forecast."""
    season: int = 24
    """Rows in one season, for the seasonal-naive row of the table."""

    @property
    def relative(self) -> int:
        """Number of columns that are made relative in level and scale."""
        return self.channels + self.covariates

    @property
    def centred(self) -> int:
        """Number of columns, after those, that are made relative in level only."""
        return self.known - self.calendar

    @property
    def inputs(self) -> int:
        """Number of columns without their ages."""
        return self.channels + self.covariates + self.known


class ForecastingData(TaskData, ABC):
    """One series to forecast, cut in time order into a training, a validation and a test part.

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
            windows.
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
    """

    for_own_files = "TableData"
    targets: list[str] | None = None
    covariates: list[str] | None = None
    known_covariates: list[str] | None = None
    """Columns to predict (None for all but the covariates), columns that are only read, and columns whose
    values are known for the horizon too."""

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
        self.split = list(split)
        self.streams = streams
        self.rolling = rolling
        self.missing = missing
        self.timespans = timespans
        self.calendar = list(calendar or [])
        self.calendar_count = len(calendar_columns(self.calendar))

    @abstractmethod
    def read(self) -> Series | StoredSeries:
        """Read the whole series: first the targets, then the covariates, then the known covariates.

        The last row with a target may be followed by rows with known covariates only.
        """

    @cached_property
    def whole(self) -> Series | StoredSeries:
        """The whole series, read once; its columns in the order of the schema that is followed, if any."""
        whole, recorded = self.read(), self.recorded
        if recorded is None:
            return whole
        recorded.require_steps(whole.time, whole.source)
        named = self._roles(whole.columns).items()
        return whole.ordered(
            [name for role, found in named for name in recorded.ordered(role, found, whole.source)]
        )

    def _roles(self, columns: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
        """The columns of a series by their role."""
        known = len(columns) - len(self.known_covariates or [])
        channels = known - len(self.covariates or [])
        return {
            "targets": columns[:channels],
            "covariates": columns[channels:known],
            "known_covariates": columns[known:],
        }

    @cached_property
    def schema(self) -> Schema:
        if self.recorded is not None:
            return self.recorded
        return Schema(
            columns={**self._roles(self.whole.columns), "calendar": tuple(self.calendar)},
            scales=scales(self.columns, self.prepared.scaler),
            units=units_of(self.series.columns, self.units),
            season_errors=dict(zip(self.target_columns, self.mase_scale.tolist(), strict=True)),
            steps=self.prepared.steps,
            frequency=self.clock.frequency,
            zone=self.whole.zone,
            time_format=self.whole.form,
            settings={"season": _recorded(self.seasons), "timespans": self.timespans, "lags": self.lags},
        )

    def follow(self, schema: Schema | None) -> None:
        super().follow(schema)
        if self.recorded is not None:
            self.calendar = [*self.recorded.ordered("calendar", self.calendar, "`data.calendar`")]
            learned, given = self.recorded.settings, vars(self) | {"season": _recorded(self.season)}
            if self.season is None:
                given["season"] = learned.get("season")
            self.recorded.require_settings(given, "the data")
            self.recorded.require_frequency(self.frequency, "the data")

    @cached_property
    def clock(self) -> Clock:
        """Frequency and zone of the time stamps; the frequency is that of the schema, if one is followed.

        Raises:
            DataError: the stamps do not fit the frequency that is stated.
        """
        whole, recorded = self.whole, self.recorded
        if whole.time is None:
            if self.frequency is not None and recorded is None:
                raise DataError(
                    f"{whole.source}: `frequency` needs time stamps and the rows have only numbers. Name the "
                    "`time_column`, or leave `frequency` out."
                )
            return UNTIMED
        if recorded is not None:
            recorded.warn_of_zone(whole.zone, whole.source)
            return clock_of(whole.time, whole.zone, whole.source, self.frequency, recorded.frequency)
        return clock_of(whole.time[self.parts.train], whole.zone, whole.source, self.frequency, None)

    @cached_property
    def seasons(self) -> tuple[int, ...]:
        """Rows of each season."""
        season = self.season
        if season is None and self.recorded is not None:
            season = self.recorded.settings.get("season")
        if season is None:
            rows = _USUAL if self.clock.frequency is None else season_of(self.clock.frequency) or 1
            training = self.parts.train
            season = rows if training.stop - training.start > 2 * rows else 1
        return tuple(season) if isinstance(season, list) else (season,)

    @cached_property
    def series(self) -> Series | StoredSeries:
        """Rows up to the last known target, in the source's measurement units, with missing values as NaN."""
        whole = self.whole
        if not self.known_count:
            return whole
        channels = len(whole.columns) - len(self.covariates or []) - len(self.known_covariates or [])
        rows, last = 0, 0
        for block in whole.blocks(slice(None)):
            known = np.flatnonzero(~np.isnan(block.values[:, :channels]).all(axis=1))
            last = rows + int(known[-1]) + 1 if len(known) else last
            rows += len(block)
        return whole.head(last)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        return self.whole.fingerprint

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the inputs."""
        names = self.series.columns
        require_lags(self.lags, names)
        return (*names, *lag_columns(names[0], self.lags), *calendar_columns(self.calendar))

    @property
    def target_columns(self) -> tuple[str, ...]:
        return self.columns[: len(self.columns) - self.covariate_count - self.known_count]

    @property
    def covariate_count(self) -> int:
        """Number of columns that are only read, and known in the past only; `lags` are among them."""
        return len(self.covariates or []) + self.lags - 1

    @property
    def known_count(self) -> int:
        """Number of columns that are known for the horizon too, the calendar's among them."""
        return len(self.known_covariates or []) + self.calendar_count

    @property
    def channels(self) -> int:
        """C, number of columns that a model predicts."""
        return len(self.target_columns)

    @property
    def shape(self) -> ForecastingShape:
        return ForecastingShape(
            channels=self.channels,
            covariates=self.covariate_count,
            known=self.known_count,
            calendar=self.calendar_count,
            aged=len(self.columns) - self.calendar_count if self.missing == "mask" else 0,
            look_back=self.look_back,
            horizon=self.horizon,
            season=self.seasons[0],
        )

    @cached_property
    def parts(self) -> Split:
        """Rows of the training, the validation and the test part.

        Raises:
            DataError: one is too short for a window.
        """
        split = split_rows(len(self.series), self.split, self.series.time, self.series.zone)
        needed = (self.look_back + self.horizon, self.horizon, self.horizon)
        for name, part, rows in zip(_PARTS, split, needed, strict=True):
            if part.stop - part.start < rows:
                remedy = "Shorten them or change `split`."
                if (enough := enough_rows(len(self.series), self.split, needed)) is not None:
                    remedy = f"A table of {enough} rows is long enough; or shorten them, or change `split`."
                raise DataError(
                    f"{self.series.source}: the {name} part has {part.stop - part.start} rows and one window "
                    f"needs {rows} (look_back {self.look_back}, horizon {self.horizon}). {remedy}"
                )
        return split

    @cached_property
    def prepared(self) -> Prepared:
        """The series, filled and standardised: by its training part, or as the schema that it follows."""
        training = self.parts.train if self.recorded is None else None
        made = prepare(self.whole, self._recipe(len(self.series), training, self.recorded))
        if self.recorded is None:
            self._warn_of_gaps()
            for part, name in zip(self.parts[1:], _PARTS[1:], strict=True):
                self._require_targets(made, part, name)
        else:
            self.recorded.warn_of_scale(made.values.numpy(), self.series.columns, self.series.source)
        return made

    def _recipe(self, rows: int, training: slice | None, recorded: Schema | None, first: int = 0) -> Recipe:
        return Recipe(
            self.whole.columns,
            rows,
            training,
            recorded,
            self.channels,
            len(self.known_covariates or []),
            tuple(self.calendar),
            self.horizon,
            self.missing,
            self.timespans,
            self.lags,
            first,
            self.clock,
        )

    def _warn_of_gaps(self) -> None:
        time, source = self.series.time, self.series.source
        if time is None or self.timespans or (said := unevenness(time, self.clock)) is None:
            return
        if (change := skipped_hour(time, self.clock)) is not None:
            logger.warning(
                "%s: the time stamps are %s, as those of local times are: %s", source, said, change
            )
            return
        logger.warning(
            "%s: the time stamps are %s. `--data.timespans=true` tells the layer how much time lies between "
            "rows.",
            source,
            said,
        )

    @cached_property
    def _newest(self) -> Prepared:
        """The last look-back and what is known of the rows after it, prepared as if no row came before.

        So a forecast depends on the last `look_back` rows alone, whatever file they come in.
        """
        first = len(self.series) - self.look_back
        values = self.values_of(slice(first, None))
        time = None if self.whole.time is None else np.array(self.whole.time[first:])
        newest = Series(values, self.whole.columns, time, self.whole.source, self.whole.zone)
        made = prepare(newest, self._recipe(self.look_back, None, self.schema, first))
        self.schema.warn_of_scale(made.values.numpy(), self.series.columns, self.series.source)
        return made

    def values_of(self, rows: slice) -> np.ndarray:
        """Rows (T, D) of the whole series as they were read."""
        return np.concatenate([piece.values for piece in self.whole.blocks(rows)])

    @property
    def scaler(self) -> Scaler:
        """Mean and deviation of each column over the training rows, or of the schema that is followed."""
        return self.prepared.scaler if self.recorded is None else self.recorded.scaler(self.columns)

    def _require_targets(self, made: Prepared, rows: slice, name: str) -> None:
        """Refuse a part without a known target, which nothing could be compared with."""
        if all(bool(block.isnan().all()) for block in made.tables.targets[rows].split(_ROWS)):
            raise DataError(
                f"{self.series.source}: the {name} part holds no known target to score. Change `split`."
            )

    def setup(self, stage: str | None = None) -> None:
        """Read and standardise the data, and split them if they are trained on; calling it again changes
        nothing. A forecast needs the last look-back only, see `predict_dataloader`."""
        super().setup(stage)
        if stage != "predict" or self.rolling:
            _ = self.prepared

    def train_dataloader(self) -> DataLoader[WindowBatch]:
        if not self.streams:
            windows = self._windows(self.parts.train)
            return loader(
                windows, shuffled(len(windows), self.batch_size).shared(*self.share), self.num_workers
            )
        self.require_streams("batch_size", self.batch_size)
        streams = self._training_streams().shared(*self.share)
        return loader(streams, one_phase(streams), self.num_workers)

    def val_dataloader(self) -> DataLoader[WindowBatch]:
        return self._evaluation("validation", self.parts.val, self.share)

    def test_dataloader(self) -> DataLoader[WindowBatch]:
        return self._evaluation("test", self.parts.test)

    def predict_dataloader(self) -> DataLoader[WindowBatch]:
        """The last window, to forecast the rows after it, or with `rolling` the stream that leads there.

        Its future is unknown (NaN). A window is read as if no row came before it.

        Raises:
            DataError: there are too few rows, or the known covariates end before the horizon does.
        """
        rows = len(self.series)
        needed = self.look_back + (self.stride if self.rolling else 0)
        if rows < needed:
            what = "`look_back` and `stride`" if self.rolling else "`look_back`"
            raise DataError(
                f"{self.series.source}: a forecast needs {needed} rows with targets ({what}); there are "
                f"{rows}. Bring more of the past."
            )
        tables = self.prepared.tables if self.rolling else self._newest.tables
        first = 0 if self.rolling else rows - self.look_back
        if tables.known is not None and (ahead := first + len(tables.known) - rows) < self.horizon:
            raise DataError(
                f"{self.series.source}: a forecast of {self.horizon} rows needs the known covariates "
                f"{', '.join(self.known_covariates or [])} of as many rows after the last target; there are "
                f"{ahead}. Append rows with their time and known covariates and with empty targets, or "
                "shorten `horizon`."
            )
        if self.rolling:
            return self._stream(self._rolling(rows, rows))
        past = torch.arange(self.look_back)[None]
        window = tables.cut(past, torch.tensor([self.look_back]), self.horizon)
        return loader([window._replace(origin=torch.tensor([rows]))], one_by_one(1))

    def _windows(self, rows: slice) -> WindowDataset:
        return WindowDataset(self.prepared.tables, self.look_back, self.horizon, rows)

    def _training_streams(self) -> StreamDataset:
        rows = self.parts.train
        return training_streams(
            self.prepared.tables, self.look_back, self.horizon, rows, self.batch_size, self.stride
        )

    def _rolling(self, first: int, last: int) -> StreamDataset:
        shape = (self.look_back, self.horizon, first, last, self.stride)
        return rolling_stream(self.prepared.tables, *shape, _CHUNK, _WARM_UP * self.look_back)

    def _evaluation(self, name: str, rows: slice, share: tuple[int, int] = (0, 1)) -> DataLoader[WindowBatch]:
        self._require_targets(self.prepared, rows, name)
        if self.rolling:
            return self._stream(self._rolling(rows.start, rows.stop - self.horizon))
        windows = self._windows(rows)
        return loader(windows, in_order(len(windows), self.batch_size).shared(*share), self.num_workers)

    def _stream(self, stream: StreamDataset) -> DataLoader[WindowBatch]:
        return loader(stream, one_by_one(len(stream)), self.num_workers)

    @cached_property
    def mase_scale(self) -> Tensor:
        """(C,) denominator of MASE: mean of ``|y_t - y_(t - season)|`` over the standardised training rows.

        It is 1 for a target that repeats itself exactly, whose MASE is then its plain mean absolute error.
        """
        if self.recorded is not None:
            return torch.tensor([self.recorded.season_errors[name] for name in self.target_columns])
        rows, season = self.prepared.tables.targets[self.parts.train], self.seasons[0]
        if len(rows) <= season:
            raise DataError(
                f"`season` is {season} rows and the training part has only {len(rows)}. Lower it."
            )
        total = torch.zeros(self.channels, dtype=torch.float64)
        count = torch.zeros(self.channels, dtype=torch.int64)
        for later, earlier in zip(rows[season:].split(_ROWS), rows[:-season].split(_ROWS), strict=True):
            change = (later - earlier).abs()
            total += change.nansum(dim=0, dtype=torch.float64)
            count += (~change.isnan()).sum(dim=0)
        scale = (total / count).float()
        if scale.isnan().any():
            raise DataError(
                "MASE needs known training values one `season` apart; a target has none. Change `season`."
            )
        if (repeats := scale == 0).any():
            names = ", ".join(
                name for name, same in zip(self.target_columns, repeats.tolist(), strict=True) if same
            )
            logger.warning("Targets that repeat exactly every season have a MASE scale of 1: %s.", names)
        return torch.where(repeats, torch.ones_like(scale), scale)

    def training_windows(self, most: int) -> tuple[Tensor, Tensor]:
        """Past targets (N, L, C) and future (N, H, C) of at most `most` training windows, evenly spread."""
        windows = self._windows(self.parts.train)
        batch = windows[np.linspace(0, len(windows) - 1, min(most, len(windows))).astype(int).tolist()]
        return batch.past[..., : self.channels], batch.future

    def unscale(self, targets: Tensor) -> Tensor:
        """Convert standardised targets (..., C) back to the source's measurement units, in float64."""
        return self.scaler.inverse(targets.double(), slice(self.channels))

    def times(self, origins: Tensor | np.ndarray) -> np.ndarray:
        """Time stamp of each row, or its number for a series without time stamps.

        Rows after the last one follow by the frequency, or without one at the median step of the training
        rows.
        """
        rows = origins.cpu().numpy() if isinstance(origins, Tensor) else origins
        time, steps = self.whole.time, self.schema.steps
        if time is not None and steps is None:
            steps = step_quartiles([time])
        return rows if time is None or steps is None else continued(time, rows, steps[1], self.clock)

    def future_times(self, origin: int, horizon: int | None = None) -> np.ndarray:
        """Time stamps of the `horizon` rows that start with row `origin`."""
        return self.times(np.arange(origin, origin + (horizon or self.horizon)))

    def rows_of(self, batch: WindowBatch) -> Tensor:
        first = batch.origin - self.look_back if batch.reset is None else batch.origin[:, 0] - self.stride
        last = batch.origin - 1 if batch.reset is None else batch.origin[:, -1] - 1
        return torch.stack([first, last], 1)

    def source_of(self, sample: int) -> str:
        return self.series.source

    def describe(self) -> list[tuple[str, str]]:
        series, split = self.series, self.parts
        counts = zip(series.columns, self.prepared.missing, strict=True)
        windows = [f"{len(self._windows(part))} windows" for part in split]
        if self.streams:
            windows[0] = f"{self._training_streams().chunks} batches of {self.batch_size} streams"
        if self.rolling:
            windows[1:] = [f"a forecast every {self.stride} rows with carried state"] * 2
        parts = [
            f"rows {part.start} to {part.stop - 1}, {use}" for part, use in zip(split, windows, strict=True)
        ]
        return [
            ("source", series.source),
            ("rows", str(len(series))),
            ("targets", ", ".join(self.target_columns)),
            ("covariates", ", ".join(self.covariates or []) or "none"),
            ("known covariates", ", ".join(self.columns[len(self.columns) - self.known_count :]) or "none"),
            ("time", described(series.time, self.clock)),
            ("season", ", ".join(map(str, self.seasons)) + " rows"),
            *zip(_PARTS, parts, strict=True),
            ("missing", ", ".join(f"{name} {count}" for name, count in counts if count) or "none"),
            (
                "scaling",
                "mean 0 and deviation 1 over the training rows"
                + ("" if self.recorded is None else " of the checkpoint"),
            ),
        ]


def _recorded(season: int | list[int] | tuple[int, ...] | None) -> int | list[int] | None:
    """A season as a schema keeps it: one as a number, several as a list."""
    if season is None or isinstance(season, int):
        return season
    return season[0] if len(season) == 1 else list(season)
