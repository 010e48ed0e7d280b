"""`Schema`: what a model learned about its data besides its weights, and by which it reads others.

Without it the weights mean nothing: which column is which, on what scale, how far rows lie apart.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset
from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveFloat, ValidationError

from dream.errors import CheckpointError, ConfigError, DataError, nearest
from lightning_modules.data.categories import Category
from lightning_modules.data.dates import Stamps
from lightning_modules.data.dialect import PLAIN, Dialect
from lightning_modules.data.series import Scaler

logger = logging.getLogger(__name__)

TOLERANCE = 1.1  # months have 28 to 31 days, and clocks drift
_STEPS = 1 << 20  # that are looked at, so that time stamps on disk need not fit into memory
_ROWS = 1 << 14  # of values, likewise
_FAR = 10  # deviations of the training rows between their mean and the median of others
_WIDER = 100  # factor between the deviations of both
_LEAST = 100  # rows of which a deviation tells something
_NAMED = 5  # columns


class SeriesFacts(BaseModel):
    """Facts about one of several series."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scales: dict[str, tuple[FiniteFloat, PositiveFloat]] = {}
    """Mean and deviation of each column; none where all series have the same."""
    season_errors: dict[str, PositiveFloat] = {}
    """Scale of MASE of each target that has one."""


class Schema(BaseModel):
    """Facts about training data that are kept in checkpoints; by default none, which all data match."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: dict[str, tuple[str, ...]] = {}
    """Names of the columns by their role, in the order in which the model reads them."""
    scales: dict[str, tuple[FiniteFloat, PositiveFloat]] = {}
    """Mean and deviation by which each column is standardised; none where a model scales by itself."""
    units: dict[str, str] = {}
    """Measurement unit of each column that was given one."""
    season_errors: dict[str, PositiveFloat] = {}
    """Scale of MASE of each target, see `ForecastingData.mase_scale`."""
    steps: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    """Quartiles of the time between rows, in nanoseconds; None without time stamps."""
    frequency: str | None = None
    """How rows follow one another, as an alias of pandas; None if they do so by no calendar."""
    zone: str | None = None
    """The zone in which time stamps are read and shown; None for those without one."""
    time_format: str | None = None
    """The format of the time stamps, by which others are read if all can be."""
    time_column: str | None = None
    """Name of the column of time stamps, where it has one."""
    dialect: tuple[str | None, ...] | None = None
    """How the table was written, see `Dialect`, by which others are read if their rows do not differ."""
    categories: dict[str, Category] = {}
    """Words of the columns that are read as categories."""
    vocabulary: Any = None
    """Classes or symbols in the order of their numbers, as plain values; None in tasks without any."""
    series: dict[str, SeriesFacts] = {}
    """Facts about each of several series, by its id; none for a single one without an id."""
    settings: dict[str, Any] = {}
    """Settings of the data that decide what the numbers of a row mean, such as those of audio features."""

    @classmethod
    def from_plain(cls, plain: Any) -> Self:
        """The schema that `plain` returned.

        Raises:
            CheckpointError: it is damaged.
        """
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "schema"
            raise CheckpointError(
                f"the checkpoint must hold the schema of its data; `{place}` is damaged: {first['msg']}. "
                "Use another checkpoint, or train again."
            ) from None

    def plain(self) -> dict[str, Any]:
        """Plain values for a checkpoint: dictionaries, lists, texts and numbers."""
        return self.model_dump(mode="json")

    def of(self, series: str | None) -> Schema:
        """The part of one series, by its id; without scales if training never saw it and each has its own."""
        if series is None:
            return self
        known = self.series.get(series, SeriesFacts())
        shared = {} if self.settings.get("scaling") == "series" else self.scales
        found = {"scales": known.scales or shared, "season_errors": known.season_errors, "series": {}}
        return self.model_copy(update=found)

    def ordered(self, role: str, found: Sequence[str], source: str) -> tuple[str, ...]:
        """The columns of `role`, which `found` names in any order, in the order of the schema.

        Raises:
            DataError: a column is missing, or unknown.
        """
        known = self.columns.get(role, ())
        if set(found) == set(known):
            return known
        missing, unknown = ([n for n in a if n not in b] for a, b in ((known, found), (found, known)))
        said = [f"missing: {', '.join(missing)}"] * bool(missing)
        said += [f"unknown to it: {', '.join(unknown)}"] * bool(unknown)
        raise DataError(
            f"{source}: the {role.replace('_', ' ')} must be those that the checkpoint was trained on, "
            f"{', '.join(known) or 'none'}; {'; '.join(said)}. Rename or add columns, and take others out "
            "of the file or of the settings that name columns."
        )

    def scaler(self, columns: Iterable[str]) -> Scaler:
        """Scaler of these columns."""
        mean, scale = zip(*(self.scales[name] for name in columns), strict=True)
        return Scaler(np.array(mean), np.array(scale))

    def require_steps(self, time: np.ndarray | None, source: str) -> None:
        """Refuse rows of another frequency than those of the schema, by their median step.

        Raises:
            DataError: the rows at `time` (T,) are closer or farther apart.
        """
        if self.steps is None:
            return
        if time is None:
            logger.warning(
                "%s: the rows have no time stamps; they are taken to be %s apart, as in training.",
                source,
                _text(self.steps[1]),
            )
            return
        here = step_quartiles([time])
        if here and not self.steps[0] / TOLERANCE <= here[1] <= self.steps[2] * TOLERANCE:
            raise DataError(
                f"{source}: rows must be {_text(self.steps[1])} apart, as those that the checkpoint was "
                f"trained on; here they are {_text(here[1])} apart. Bring the rows to that frequency, or "
                "train again."
            )

    def stamps(self, stated: Stamps) -> Stamps:
        """How the time stamps of other data are read, of which something may be `stated`.

        They are shown in the place of the training; an offset alone would be wrong for half a year.
        """
        place = self.zone if self.zone is not None and "/" in self.zone else None
        return Stamps(stated.form, self.time_format, stated.zone or place)

    def dialect_of(self, stated: Dialect) -> Dialect:
        """How other tables are read, of which something may be `stated`."""
        return stated._replace(learned=self.dialect or PLAIN[:4])

    def warn_of_zone(self, zone: str | None, source: str) -> None:
        """Say that time stamps have a zone and those of the training had none, or the other way round."""
        if self.steps is None or (zone is None) == (self.zone is None):
            return
        here, there = (f"in {one}" if one else "without a zone" for one in (zone, self.zone))
        remedy = (
            "State the place whose clock those showed as `data.zone`"
            if zone
            else "Write them with their zone, or state it as `data.zone`"
        )
        logger.warning(
            "%s: the time stamps are %s, those of the training were %s; hours and dates are read as they "
            "stand. %s.",
            *(source, here, there, remedy),
        )

    def require_frequency(self, frequency: str | None, source: str) -> None:
        """Refuse a stated frequency other than that of the schema; both may be unknown.

        Raises:
            DataError: naming both.
        """
        known = self.frequency
        if None not in (frequency, known) and to_offset(frequency) != to_offset(known):
            raise DataError(
                f"{source}: `frequency` must be {known}, as in the training of the checkpoint; got "
                f"{frequency}. Leave it out, or train again."
            )

    def warn_of_scale(self, values: np.ndarray, columns: Sequence[str], source: str) -> None:
        """Name columns that are far from where the training rows were, as those in another unit are.

        Args:
            values: (T, D) standardised by `scaler`; of many rows some are looked at.
            columns: Their names; those without a scale are passed over.
            source: The file, for messages.
        """
        warn_of_columns(self.far_columns(values, columns), source)

    def far_columns(self, values: np.ndarray, columns: Sequence[str]) -> list[str]:
        """A remark on each column that is far from where the training rows were, see `warn_of_scale`."""
        rows = np.linspace(0, len(values) - 1, min(len(values), _ROWS)).astype(np.int64)
        some = np.asarray(values[rows, : len(columns)], dtype=np.float64)
        found = []
        for name, column in zip(columns, some.T, strict=True):
            known = column[~np.isnan(column)]
            if name not in self.scales or not known.size:
                continue
            mean, scale = self.scales[name]
            median, spread = float(np.median(known)), float(known.std())
            wider = len(known) >= _LEAST and spread > 0 and not 1 / _WIDER < spread < _WIDER
            if abs(median) > _FAR or wider:
                found.append(
                    f"`{name}` has the median {mean + scale * median:.4g} and the deviation "
                    f"{scale * spread:.4g}, in training its mean was {mean:.4g} and its deviation {scale:.4g}"
                )
        return found

    def require_units(self, found: Mapping[str, str], source: str) -> None:
        """Refuse a column whose measurement unit is another than that of the schema; both may be unknown.

        Raises:
            DataError: naming the first.
        """
        for name, unit in found.items():
            if self.units.get(name, unit) != unit:
                raise DataError(
                    f"{source}: column `{name}` must be in {self.units[name]}, as those that the checkpoint "
                    f"was trained on; `units` names {unit}. Convert the column, or train again."
                )

    def require_settings(self, found: Mapping[str, Any], source: str) -> None:
        """Refuse settings of the data other than those of the schema.

        Raises:
            DataError: naming the first that differs.
        """
        for name, learned in self.settings.items():
            if found[name] != learned:
                raise DataError(
                    f"{source}: `{name}` must be {learned!r}, as in the training of the checkpoint; got "
                    f"{found[name]!r}. Leave out what changed it."
                )


def warn_of_columns(remarks: Sequence[str], source: str) -> None:
    """Log the remarks of `Schema.far_columns`, if there are any."""
    if remarks:
        more = f"; and {len(remarks) - _NAMED} more" if len(remarks) > _NAMED else ""
        logger.warning(
            "%s: columns are far from where they were in training, by whose scale they are read. Are they in "
            "another measurement unit? %s%s.",
            source,
            "; ".join(remarks[:_NAMED]),
            more,
        )


def units_of(columns: Iterable[str], units: Mapping[str, str]) -> dict[str, str]:
    """`units`, which name columns only, for a `Schema`.

    Raises:
        ConfigError: a name is none of the columns.
    """
    columns = list(columns)
    for name in units:
        if name not in columns:
            raise ConfigError(
                f"`units` must name columns that are read; got `{name}`. {nearest(name, columns)}",
                key="units",
            )
    return dict(units)


def scales(columns: Iterable[str], scaler: Scaler) -> dict[str, tuple[float, float]]:
    """Mean and deviation of each column, for a `Schema`."""
    return dict(zip(columns, zip(scaler.mean.tolist(), scaler.scale.tolist(), strict=True), strict=True))


def step_quartiles(times: Iterable[np.ndarray]) -> tuple[float, float, float] | None:
    """Quartiles of the time between successive stamps of each of `times` (T,), in nanoseconds.

    Of several streams the least and the greatest quartile count, and the median of the medians. Stamps that
    repeat or step back are left out, and of more than a million steps those evenly spread are taken.

    Returns:
        None if no stamp follows another.
    """
    found = []
    for time in times:
        rows = np.linspace(0, len(time) - 2, min(max(len(time) - 1, 0), _STEPS)).round().astype(np.int64)
        steps = (time[rows + 1] - time[rows]).astype("timedelta64[ns]").astype(np.int64)
        if (steps := steps[steps > 0]).size:
            found.append(np.quantile(steps, (0.25, 0.5, 0.75)).tolist())
    if not found:
        return None
    low, middle, high = zip(*found, strict=True)
    return min(low), float(np.median(middle)), max(high)


def _text(step: float) -> str:
    """A time in nanoseconds in words, such as `0 days 01:00:00`."""
    return str(pd.Timedelta(round(step), "ns"))
