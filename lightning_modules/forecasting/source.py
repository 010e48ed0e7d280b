"""`SeriesData`: the series that forecasting data hold, what each column is, and when each row was.

Shapes: S series, D inputs (targets, covariates, known covariates, calendar, static columns, ages of the
values), C targets, T rows.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dream.errors import ConfigError, DataError
from lightning_modules.data.base import TaskData
from lightning_modules.data.categories import Category
from lightning_modules.data.clocks import disagreement, panel_clocks
from lightning_modules.data.columns import continued, require_lags
from lightning_modules.data.dialect import Dialect
from lightning_modules.data.disk.stored import StoredSeries
from lightning_modules.data.fingerprint import Fingerprint
from lightning_modules.data.frequency import UNTIMED, Clock, clock_of, season_of
from lightning_modules.data.panel import Panel, listed
from lightning_modules.data.schema import step_quartiles
from lightning_modules.data.series import Scaler, Series
from lightning_modules.data.split import Split
from lightning_modules.forecasting.batches import WindowBatch
from lightning_modules.forecasting.member import Cutting, Member
from lightning_modules.forecasting.prepared import Recipe

logger = logging.getLogger(__name__)

_USUAL = 24  # rows of a season where nothing tells of another
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
    absolute: tuple[int, ...] = ()
    """Numbers of the columns that are read as they are though others of their role are made relative:
    indicators of categories."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "absolute", tuple(self.absolute))  # a file holds a list

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


class SeriesData(TaskData, ABC):
    """One series without an id, or those of a panel, as they were read; settings: `ForecastingData`."""

    look_back: int
    horizon: int
    stride: int
    season: int | list[int] | None
    split: list[int | float | str]
    frequency: str | None
    timespans: bool
    lags: int
    scaling: Literal["series", "global"]
    calendar: list[str]
    calendar_count: int
    targets: list[str] | None = None
    covariates: list[str] | None = None
    known_covariates: list[str] | None = None
    """Columns to predict (None for all but the covariates), columns that are only read, and columns whose
    values are known for the horizon too."""
    categories: Mapping[str, Category] = MappingProxyType({})
    """Columns of words, which indicators stand for."""

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
        require_lags(self.lags, self.whole.columns)
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

    @property
    def _zone(self) -> str | None:
        return self.whole.series[0].zone if isinstance(self.whole, Panel) else self.whole.zone

    @property
    def _form(self) -> str | None:
        return self.whole.series[0].form if isinstance(self.whole, Panel) else self.whole.form

    @property
    def _time_column(self) -> str | None:
        return self.whole.series[0].time_column if isinstance(self.whole, Panel) else self.whole.time_column

    @property
    def _dialect(self) -> Dialect | None:
        return self.whole.series[0].dialect if isinstance(self.whole, Panel) else self.whole.dialect

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
        if recorded is not None:
            recorded.warn_of_zone(self._zone, source)
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
            absolute=tuple(k for k, name in enumerate(self.columns) if name in self._indicators),
        )

    @property
    def _indicators(self) -> set[str]:
        """Columns that stand for the categories of others."""
        return {made for name, category in self.categories.items() for made in category.columns(name)}

    def values_of(self, rows: slice) -> np.ndarray:
        """Rows (T, D) of the only series as they were read."""
        return self.only.values_of(rows)

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
