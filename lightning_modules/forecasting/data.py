"""`ForecastingData`: one or many series, each cut in time order, as windows or streams to forecast.

Shapes: S series, D inputs (targets, covariates, known covariates, calendar, static columns, ages of the
values), C targets, T rows. Values are standardised.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dream.errors import ConfigError, DataError
from lightning_modules.checks import require_int
from lightning_modules.data.base import TaskData
from lightning_modules.data.clocks import disagreement, panel_clocks, uneven
from lightning_modules.data.columns import calendar_columns, continued, require_lags
from lightning_modules.data.disk.stored import StoredSeries
from lightning_modules.data.fingerprint import Fingerprint
from lightning_modules.data.frequency import (
    UNTIMED,
    Clock,
    clock_of,
    parse_frequency,
    season_of,
    skipped_hour,
)
from lightning_modules.data.order import in_order, loader, one_by_one, shuffled
from lightning_modules.data.panel import Panel, listed
from lightning_modules.data.schema import (
    Schema,
    SeriesFacts,
    scales,
    step_quartiles,
    units_of,
    warn_of_columns,
)
from lightning_modules.data.series import Missing, Scaler, Series, report_missing
from lightning_modules.data.split import Split
from lightning_modules.forecasting.batches import (
    StreamDataset,
    StreamsInTurn,
    WindowBatch,
    WindowDataset,
    joined,
    one_phase,
    rolling_stream,
    together,
    training_streams,
)
from lightning_modules.forecasting.facts import facts
from lightning_modules.forecasting.member import PARTS, ROWS, Cutting, Member
from lightning_modules.forecasting.prepared import Joined, Recipe

logger = logging.getLogger(__name__)

_CHUNK = 32  # origins of a rolling test that are forecast at once
_USUAL = 24  # rows of a season where nothing tells of another
_WARM_UP = 8  # look-backs that a rolling test reads before its first origin
_NO_SCALER = Scaler(np.empty(0), np.empty(0))


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
    """Number of those that are the calendar's, which come after the others."""
    static: int = 0
    """Number of those that are the same in all rows of a series, the last ones."""
    aged: int = 0
    """Number of columns whose age is read too: all but the calendar's and static ones if `missing` is `mask`,
    else none."""
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
        return self.known - self.calendar - self.static

    @property
    def inputs(self) -> int:
        """Number of columns without their ages."""
        return self.channels + self.covariates + self.known


class ForecastingData(TaskData, ABC):
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
        scaling: By which mean and deviation several series are standardised: each by its own (`series`), so
            that series of any size are alike, or all by those of all together (`global`).
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
        scaling: Literal["series", "global"] = "series",
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
        self.calendar = list(calendar or [])
        self.calendar_count = len(calendar_columns(self.calendar))

    @abstractmethod
    def read(self) -> Series | StoredSeries | Panel:
        """Read all series: first the targets, then the covariates, then the known covariates.

        The last row with a target may be followed by rows with known covariates only.
        """

    @cached_property
    def whole(self) -> Series | StoredSeries | Panel:
        """All rows, read once; their columns in the order of the schema that is followed, if any."""
        whole, recorded = self.read(), self.recorded
        if recorded is None:
            return whole
        for each in whole.series if isinstance(whole, Panel) else [whole]:
            recorded.require_steps(each.time, each.source)
        named = self._roles(whole.columns).items()
        ordered = whole.ordered(
            [name for role, found in named for name in recorded.ordered(role, found, whole.source)]
        )
        if isinstance(ordered, Panel):
            static = recorded.ordered("static", ordered.static.columns, whole.source)
            return replace(ordered, static=ordered.static.ordered(static))
        return ordered

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The series, in the order of their ids; a single one without an id."""
        whole, recorded = self.whole, self.recorded
        cutting = Cutting(self._recipe, self.look_back, tuple(self.split), self.many)
        if not isinstance(whole, Panel):
            found = [Member(whole, cutting, recorded)]
        else:
            static = self._static_scaler.transform(whole.static.values)
            found = [
                Member(series, cutting, None if recorded is None else recorded.of(name), name, tuple(facts))
                for name, series, facts in zip(whole.ids, whole.series, static.tolist(), strict=True)
            ]
            self._say_unseen(found)
        return tuple(found)

    def _say_unseen(self, members: Sequence[Member]) -> None:
        """Say which series the training of the checkpoint never saw, and how they are scaled."""
        recorded = self.recorded
        unseen = [str(each.name) for each in members if recorded and each.name not in recorded.series]
        if unseen:
            own = "each by its own rows" if self.scaling == "series" else "as those of the training"
            logger.warning(
                "%s: %d of %d series were not in the training (%s); they are scaled %s.",
                self.whole.source,
                len(unseen),
                len(members),
                listed(unseen),
                own,
            )

    @property
    def many(self) -> bool:
        """Whether the data may hold several series, which have ids."""
        return isinstance(self.whole, Panel)

    @property
    def only(self) -> Member:
        """The single series of data without ids.

        Raises:
            ConfigError: they have ids.
        """
        if self.many:
            raise ConfigError(
                "these data hold several series, each with parts, scales and times of its own. See `members`."
            )
        return self.members[0]

    @cached_property
    def starts(self) -> np.ndarray:
        """(S,) row of the tables at which each series begins."""
        return np.cumsum([0, *(member.span for member in self.members[:-1])])

    def numbers_of(self, rows: Tensor | np.ndarray) -> np.ndarray:
        """Number of the series of each row of the tables."""
        return (
            np.searchsorted(
                self.starts, np.asarray(rows.cpu() if isinstance(rows, Tensor) else rows), "right"
            )
            - 1
        )

    @property
    def _recipe(self) -> Recipe:
        roles = self._roles(self.whole.columns)
        return Recipe(
            self.whole.columns,
            0,
            None,
            None,
            len(roles["targets"]),
            len(roles["known_covariates"]),
            tuple(self.calendar),
            self.horizon,
            self.missing,
            self.timespans,
            self.lags,
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
        whole, made, columns = self.whole, self.prepared, self._recipe.made_columns
        settings: dict[str, Any] = {
            "season": _recorded(self.seasons),
            "timespans": self.timespans,
            "lags": self.lags,
        }
        roles = {**self._roles(whole.columns), "calendar": tuple(self.calendar)}
        errors = [
            {name: error for name, error in zip(self.target_columns, row, strict=True) if not isnan(error)}
            for row in self.season_errors.tolist()
        ]
        shared: dict[str, tuple[float, float]] = {}
        series: dict[str, SeriesFacts] = {}
        if isinstance(whole, Panel):
            settings |= {"scaling": self.scaling}
            roles |= {"id": (whole.id_column,), "static": whole.static.columns}
            own = self.scaling == "series"
            series = {
                name: SeriesFacts(scales=scales(columns, scaler) if own else {}, season_errors=found)
                for name, scaler, found in zip(whole.ids, made.scalers, errors, strict=True)
            }
            shared = scales(whole.static.columns, self._static_scaler)
        if not self.many or self.scaling == "global":
            shared |= scales(columns, made.scalers[0])
        return Schema(
            columns=roles,
            scales=shared,
            units=units_of(whole.columns, self.units),
            season_errors={} if series else errors[0],
            steps=made.steps,
            frequency=self.clock.frequency,
            zone=self._zone,
            time_format=self._form,
            series=series,
            settings=settings,
        )

    @property
    def _zone(self) -> str | None:
        return self.whole.series[0].zone if isinstance(self.whole, Panel) else self.whole.zone

    @property
    def _form(self) -> str | None:
        return self.whole.series[0].form if isinstance(self.whole, Panel) else self.whole.form

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
    def clocks(self) -> list[Clock]:
        """Frequency and zone of the time stamps of each series; the frequency is that of the schema, if one
        is followed.

        Raises:
            DataError: the stamps do not fit the frequency that is stated.
        """
        members, source, recorded = self.members, self.whole.source, self.recorded
        if members[0].whole.time is None:
            if self.frequency is not None and recorded is None:
                raise DataError(
                    f"{source}: `frequency` needs time stamps and the rows have only numbers. Name the "
                    "`time_column`, or leave `frequency` out."
                )
            return [UNTIMED] * len(members)
        known = None if recorded is None else recorded.frequency
        if not self.many:
            whole = members[0].whole
            assert whole.time is not None
            time = whole.time if recorded is not None else whole.time[members[0].parts.train]
            return [clock_of(time, whole.zone, source, self.frequency, known)]
        clocks = panel_clocks([member.whole for member in members], self.frequency, known)
        if (said := disagreement(clocks, [str(member.name) for member in members])) is not None:
            logger.warning("%s: %s Each goes on by its own.", source, said)
        return clocks

    @cached_property
    def clock(self) -> Clock:
        """Frequency and zone of the time stamps; of several series the frequency of most of them."""
        return Counter(self.clocks).most_common(1)[0][0]

    @cached_property
    def seasons(self) -> tuple[int, ...]:
        """Rows of each season."""
        season = self.season
        if season is None and self.recorded is not None:
            season = self.recorded.settings.get("season")
        if season is None:
            rows = _USUAL if self.clock.frequency is None else season_of(self.clock.frequency) or 1
            training = max(member.parts.train.stop - member.parts.train.start for member in self.members)
            season = rows if training > 2 * rows else 1
        return tuple(season) if isinstance(season, list) else (season,)

    @property
    def series(self) -> Series | StoredSeries:
        """Rows of the only series up to the last known target, with missing values as NaN."""
        return self.only.series

    @property
    def parts(self) -> Split:
        """Rows of the training, the validation and the test part of the only series."""
        return self.only.parts

    @cached_property
    def fingerprint(self) -> Fingerprint:
        return self.whole.fingerprint

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the inputs."""
        require_lags(self.lags, self.whole.columns)
        return (*self._recipe.made_columns, *self._static)

    @property
    def _static(self) -> tuple[str, ...]:
        """Columns with one value for each series."""
        return self.whole.static.columns if isinstance(self.whole, Panel) else ()

    @cached_property
    def _static_scaler(self) -> Scaler:
        """Mean and deviation of the static columns over the series of the training."""
        assert isinstance(self.whole, Panel)
        if self.recorded is None:
            return Scaler.fit(self.whole.static.values, self._static) if self._static else _NO_SCALER
        return self.recorded.scaler(self._static) if self._static else _NO_SCALER

    @property
    def target_columns(self) -> tuple[str, ...]:
        require_lags(self.lags, self.whole.columns)
        return self._roles(self.whole.columns)["targets"]

    @property
    def covariate_count(self) -> int:
        """Number of columns that are only read, and known in the past only; `lags` are among them."""
        return len(self.covariates or []) + self.lags - 1

    @property
    def known_count(self) -> int:
        """Number of columns that are known for the horizon too, those of the calendar and static ones among
        them."""
        return len(self.known_covariates or []) + self.calendar_count + len(self._static)

    @property
    def channels(self) -> int:
        """C, number of columns that a model predicts."""
        return len(self.target_columns)

    @property
    def shape(self) -> ForecastingShape:
        made = self.calendar_count + len(self._static)
        return ForecastingShape(
            channels=self.channels,
            covariates=self.covariate_count,
            known=self.known_count,
            calendar=self.calendar_count,
            static=len(self._static),
            aged=len(self.columns) - made if self.missing == "mask" else 0,
            look_back=self.look_back,
            horizon=self.horizon,
            season=self.seasons[0],
        )

    @cached_property
    def prepared(self) -> Joined:
        """All series, filled and standardised: by their training parts, or as the schema that is followed.

        Raises:
            DataError: no series has a window in one of the parts.
        """
        members, recorded = self.members, self.recorded
        steps: Any = None if recorded is None else recorded.steps
        if not self.many:
            made = [self.only.prepare(recorded, self.clock)]
            scalers, steps = [made[0].scaler], made[0].steps
        else:
            if steps is None and members[0].whole.time is not None:
                steps = step_quartiles(
                    each.whole.time[each.parts.train] for each in members if each.whole.time is not None
                )
            scalers = [self._pooled] * len(members)
            if self.scaling == "series":
                scalers = [member.scaler(self._pooled) for member in members]
            names = self._recipe.made_columns
            made = [
                member.prepare(Schema(scales=scales(names, scaler), steps=steps), clock)
                for member, scaler, clock in zip(members, scalers, self.clocks, strict=True)
            ]
        missing = np.sum([each.missing for each in made], axis=0)
        report_missing(missing, self.whole.columns, self.whole.source, self.missing)
        tables = joined([each.tables for each in made], [member.span for member in members])
        found = Joined(tables, tuple(scalers), steps, missing)
        if recorded is None:
            self._warn_of_gaps()
            for part, name in zip(("val", "test"), PARTS[1:], strict=True):
                self._require_targets(found, part, name)
        else:
            self.warn_of_scale([(member, each.values) for member, each in zip(members, made, strict=True)])
        return found

    @cached_property
    def _pooled(self) -> Scaler:
        """Mean and deviation over the training parts of all series together, or of the schema."""
        columns, recorded = self._recipe.made_columns, self.recorded
        if recorded is not None and self.scaling == "global":
            return recorded.scaler(columns)
        if recorded is not None:  # the mean of what is known of the series there
            known = [Schema(scales=facts.scales).scaler(columns) for facts in recorded.series.values()]
            return Scaler(
                np.mean([each.mean for each in known], 0), np.mean([each.scale for each in known], 0)
            )
        training = [each for each in self.members if each.parts.train.stop]
        return Scaler.fit_blocks(
            lambda: (block.values for each in training for block in each.blocks(each.parts.train)), columns
        )

    def warn_of_scale(self, made: Iterable[tuple[Member, Tensor]]) -> None:
        """Log which columns of series are far from where they were in training."""
        remarks = []
        for member, values in made:
            known = member.recorded or self.schema.of(member.name)
            found = known.far_columns(values.numpy(), member.whole.columns)
            remarks += found if member.name is None else [f"series {member.name}: {text}" for text in found]
        warn_of_columns(remarks, self.whole.source)

    def _warn_of_gaps(self) -> None:
        """Log that time stamps are uneven, unless the layer is told how much time lies between them."""
        members, source = self.members, self.whole.source
        if self.timespans or members[0].whole.time is None:
            return
        said = uneven([member.series.time for member in members], self.clocks)
        if not said:
            return
        number, first = next(iter(said.items()))
        time, clock = members[number].series.time, self.clocks[number]
        assert time is not None
        if self.many:
            first = (
                f"{first} (series {members[number].name}); {len(said)} of {len(members)} series are uneven"
            )
        if (change := skipped_hour(time, clock)) is not None:
            logger.warning(
                "%s: the time stamps are %s, as those of local times are: %s", source, first, change
            )
            return
        logger.warning(
            "%s: the time stamps are %s. `--data.timespans=true` tells the layer how much time lies between "
            "rows.",
            source,
            first,
        )

    def values_of(self, rows: slice) -> np.ndarray:
        """Rows (T, D) of the only series as they were read."""
        return self.only.values_of(rows)

    @property
    def scaler(self) -> Scaler:
        """Mean and deviation of each column of the only series."""
        return self.prepared.scalers[0] if self.recorded is None else self.only.scaler(None)

    def _require_targets(self, made: Joined, part: str, name: str) -> None:
        """Refuse a part without a known target, which nothing could be compared with."""
        for member, start in zip(self.members, self.starts.tolist(), strict=True):
            rows = getattr(member.parts, part)
            targets = made.tables.targets[start + rows.start : start + rows.stop]
            if len(member.origins(rows)) and not all(bool(b.isnan().all()) for b in targets.split(ROWS)):
                return
        what = "holds no known target to score" + (", in no series with a window" if self.many else "")
        raise DataError(f"{self.whole.source}: the {name} part {what}. Change `split`.")

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
                    f"rows (look_back {self.look_back}, horizon {self.horizon}). Shorten them or change `split`."
                )
            return loader(
                windows, shuffled(len(windows), self.batch_size).shared(*self.share), self.num_workers
            )
        self.require_streams("batch_size", self.batch_size)
        streams = self._training_streams().shared(*self.share)
        return loader(streams, one_phase(streams), self.num_workers)

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
                "%s: no forecast of %d of %d series, which have fewer rows than the %d that it takes (%s): %s.",
                self.whole.source,
                len(short),
                len(self.members),
                needed,
                what,
                listed(short),
            )
        for number in enough if self.known_covariates else ():
            member = self.members[number]
            if (ahead := len(member.whole) - len(member.series)) < self.horizon:
                raise DataError(
                    f"{member.series.source}: a forecast of {self.horizon} rows needs the known covariates "
                    f"{', '.join(self.known_covariates or [])} of as many rows after the last target; there "
                    f"are {ahead}. Append rows with their time and known covariates and with empty targets, or "
                    "shorten `horizon`."
                )
        return enough

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

    def _training_streams(self) -> StreamDataset:
        if self.many:
            raise ConfigError(
                "`streams` must be false for several series, of which each window is trained on by itself; got "
                "true. `rolling` tests them with carried state.",
                key="streams",
            )
        return training_streams(
            self.prepared.tables, self.look_back, self.horizon, self.parts.train, self.batch_size, self.stride
        )

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

    @cached_property
    def season_errors(self) -> Tensor:
        """(S, C) denominators of MASE: mean of ``|y_t - y_(t - season)|`` over standardised training rows.

        They are 1 for a target that repeats itself exactly, whose MASE is then its plain mean absolute error,
        and NaN for a series whose training part is not longer than a season: it has no MASE.

        Raises:
            DataError: no series has one.
        """
        season, names = self.seasons[0], self.target_columns
        rows = [
            torch.tensor([known[name] if name in known else torch.nan for name in names])
            if (known := member.recorded.season_errors if member.recorded is not None else {})
            else member.season_errors(self._targets(number), season)
            for number, member in enumerate(self.members)
        ]
        found = torch.stack(rows)
        longest = (
            max(member.parts.train.stop for member in self.members) if self.recorded is None else season + 1
        )
        if longest <= season:
            raise DataError(f"`season` is {season} rows and the training part has only {longest}. Lower it.")
        if found.isnan().all(0).any():
            raise DataError(
                "MASE needs known training values one `season` apart; a target has none. Change `season`."
            )
        if (repeats := found == 0).any():
            again = [name for name, same in zip(names, repeats.any(0).tolist(), strict=True) if same]
            logger.warning(
                "Targets that repeat exactly every season have a MASE scale of 1: %s.", ", ".join(again)
            )
        return torch.where(repeats, torch.ones_like(found), found)

    def _targets(self, number: int) -> Tensor:
        start = int(self.starts[number])
        return self.prepared.tables.targets[start : start + len(self.members[number].series)]

    @property
    def mase_scale(self) -> Tensor:
        """(C,) denominators of MASE of the only series, see `season_errors`."""
        assert not self.many
        return self.season_errors[0]

    def training_windows(self, most: int) -> tuple[Tensor, Tensor]:
        """Past targets (N, L, C) and future (N, H, C) of at most `most` training windows, evenly spread."""
        windows = self._windows("train")
        batch = windows[np.linspace(0, len(windows) - 1, min(most, len(windows))).astype(int).tolist()]
        return batch.past[..., : self.channels], batch.future

    @cached_property
    def units_of_targets(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation (S, C) by which targets are standardised."""
        return _stacked(self.prepared.scalers, self.channels)

    @cached_property
    def units_of_newest(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation (S, C) by which the targets of the last look-back are standardised."""
        return _stacked(self.newest_scalers, self.channels)

    def newest_schema(self, number: int) -> Schema:
        """What standardises the last look-back of a series."""
        if not self.many:
            return self.schema
        names = self._recipe.made_columns
        return Schema(scales=scales(names, self.newest_scalers[number]), steps=self.schema.steps)

    @cached_property
    def newest_scalers(self) -> tuple[Scaler, ...]:
        """Scaler of the last look-back of each series: of one that training never saw, over all its rows."""
        columns, schema = self._recipe.made_columns, self.schema
        if not self.many or self.scaling == "global":
            return (schema.scaler(columns),) * len(self.members)
        found = []
        for member in self.members:
            known = schema.of(member.name).scales
            found.append(Schema(scales=known).scaler(columns) if known else member.scaler(self._pooled, True))
        return tuple(found)

    def unscale(self, targets: Tensor, origin: Tensor | None = None, newest: bool = False) -> Tensor:
        """Convert standardised targets (N, ..., C) back to the source's measurement units, in float64.

        Args:
            targets: Of the only series they may have any axes before the last.
            origin: (N,) row of the tables of each sample; not needed for a single series.
            newest: Whether they are of the last look-backs, see `predict_dataloader`.
        """
        mean, scale = map(
            targets.double().new_tensor, self.units_of_newest if newest else self.units_of_targets
        )
        if not self.many or origin is None:
            return targets.double() * scale[0] + mean[0]
        numbers = torch.as_tensor(self.numbers_of(origin), device=targets.device)
        between = (1,) * (targets.dim() - 2)
        mean, scale = (part[numbers].view(-1, *between, self.channels) for part in (mean, scale))
        return targets.double() * scale + mean

    def times(self, origins: Tensor | np.ndarray) -> np.ndarray:
        """Time stamp of each row of the tables, or its number for series without time stamps.

        Rows after the last one follow by the frequency, or without one at the median step of the training
        rows.
        """
        rows = origins.cpu().numpy() if isinstance(origins, Tensor) else np.asarray(origins)
        if not self.many:
            return self._times(0, rows)
        numbers = self.numbers_of(rows)
        timed = self.members[0].whole.time is not None
        found = np.empty(rows.shape, dtype="datetime64[ns]" if timed else rows.dtype)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            found[here] = self._times(number, rows[here] - self.starts[number])
        return found

    def _times(self, number: int, rows: np.ndarray) -> np.ndarray:
        """Time stamps of rows of one series, or their numbers."""
        time, steps = self.members[number].whole.time, self.schema.steps
        if time is not None and steps is None:
            steps = step_quartiles([time])
        if time is None or steps is None:
            return rows
        return continued(time, rows, steps[1], self.clocks[number])

    def ahead(self, number: int) -> np.ndarray:
        """Time stamps of the `horizon` rows after the last known target of a series, or their numbers."""
        first = len(self.members[number].series)
        return self._times(number, np.arange(first, first + self.horizon))

    def future_times(self, origin: int, horizon: int | None = None) -> np.ndarray:
        """Time stamps of the `horizon` rows that start with row `origin` of the tables."""
        return self.times(np.arange(origin, origin + (horizon or self.horizon)))

    def rows_of(self, batch: WindowBatch) -> Tensor:
        first = batch.origin - self.look_back if batch.reset is None else batch.origin[:, 0] - self.stride
        last = batch.origin - 1 if batch.reset is None else batch.origin[:, -1] - 1
        rows = torch.stack([first, last], 1)
        return rows - torch.as_tensor(self.starts[self.numbers_of(first)], device=rows.device)[:, None]

    def source_of(self, sample: int) -> str:
        return self.whole.source

    def sources(self, batch: WindowBatch) -> Callable[[int], str]:
        if not self.many:
            return self.source_of
        numbers = self.numbers_of(batch.origin.reshape(len(batch.origin), -1)[:, 0])
        return lambda sample: self.members[int(numbers[sample])].whole.source

    def windows_in(self, part: str) -> int:
        """Number of windows of train, val or test."""
        return sum(len(member.origins(getattr(member.parts, part))) for member in self.members)

    @property
    def training_batches(self) -> int:
        """Batches of streams in an epoch."""
        return self._training_streams().chunks

    def describe(self) -> list[tuple[str, str]]:
        return facts(self)


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


def _stacked(scalers: Sequence[Scaler], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations (S, C) of the first columns."""
    mean, scale = (
        np.stack([getattr(each, name)[:channels] for each in scalers]) for name in ("mean", "scale")
    )
    return mean, scale


def _recorded(season: int | list[int] | tuple[int, ...] | None) -> int | list[int] | None:
    """A season as a schema keeps it: one as a number, several as a list."""
    if season is None or isinstance(season, int):
        return season
    return season[0] if len(season) == 1 else list(season)
