"""`ScaledData`: forecasting data standardised, by themselves or as the data of a checkpoint.

Shapes: S series, D columns, C targets.
"""

from __future__ import annotations

import logging
from abc import ABC
from collections.abc import Iterable, Sequence
from functools import cached_property
from math import isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dream.errors import DataError
from lightning_modules.data.clocks import uneven
from lightning_modules.data.frequency import skipped_hour
from lightning_modules.data.panel import Panel
from lightning_modules.data.schema import (
    Schema,
    SeriesFacts,
    scales,
    step_quartiles,
    units_of,
    warn_of_columns,
)
from lightning_modules.data.series import Scaler, report_missing
from lightning_modules.forecasting.batches import joined
from lightning_modules.forecasting.member import PARTS, ROWS, Member
from lightning_modules.forecasting.prepared import Joined
from lightning_modules.forecasting.source import SeriesData

logger = logging.getLogger(__name__)


class ScaledData(SeriesData, ABC):
    """Series with mean 0 and deviation 1 over the training rows, of each or of all, or of a checkpoint."""

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
            time_column=self._time_column,
            dialect=None if self._dialect is None else self._dialect[:4],
            categories=self.categories,
            series=series,
            settings=settings,
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
        if not training:
            raise DataError(
                f"{self.whole.source}: no series has a row in the training part. Change `split`, whose first "
                "date must come later."
            )
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

    @property
    def scaler(self) -> Scaler:
        """Mean and deviation of each column of the only series."""
        return self.prepared.scalers[0] if self.recorded is None else self.only.scaler(None)

    def _require_targets(self, made: Joined, part: str, name: str) -> None:
        """Refuse a part without a known target, which nothing could be compared with."""
        if not self.windows_in(part):
            raise DataError(
                f"{self.whole.source}: no series has rows enough for a window of the {name} part (look_back "
                f"{self.look_back}, horizon {self.horizon}). Shorten them or change `split`."
            )
        for member, start in zip(self.members, self.starts.tolist(), strict=True):
            rows = getattr(member.parts, part)
            targets = made.tables.targets[start + rows.start : start + rows.stop]
            if len(member.origins(rows)) and not all(bool(b.isnan().all()) for b in targets.split(ROWS)):
                return
        what = "holds no known target to score" + (", in no series with a window" if self.many else "")
        raise DataError(f"{self.whole.source}: the {name} part {what}. Change `split`.")

    @cached_property
    def season_errors(self) -> Tensor:
        """(S, C) denominators of MASE: mean of ``|y_t - y_(t - season)|`` over standardised training rows.

        They are 1 for a target that repeats itself exactly, whose MASE is then its plain mean absolute error,
        and NaN for a series whose training part is not longer than a season: it has no MASE.

        Raises:
            DataError: no series has one.
        """
        season, names = self.seasons[0], self.target_columns
        longest = 0 if self.recorded else max(member.parts.train.stop for member in self.members)
        if self.recorded is None and longest <= season:
            raise DataError(f"`season` is {season} rows and the training part has only {longest}. Lower it.")
        rows = []
        for number, member in enumerate(self.members):
            known = {} if member.recorded is None else member.recorded.season_errors
            learned = torch.tensor([known.get(name, torch.nan) for name in names])
            rows.append(learned if known else member.season_errors(self._targets(number), season))
        found = torch.stack(rows)
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

    @cached_property
    def units_of_targets(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation (S, C) by which targets are standardised."""
        return _stacked(self.prepared.scalers, self.channels)

    @cached_property
    def units_of_newest(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation (S, C) by which the targets of the last look-back are standardised."""
        return _stacked(self.newest_scalers, self.channels)

    def newest_schema(self, number: int) -> Schema:
        """Schema by which the last look-back of a series is standardised."""
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
        assert not self.many or origin is not None
        if origin is None or not self.many:
            return targets.double() * scale[0] + mean[0]
        numbers = torch.as_tensor(self.numbers_of(origin), device=targets.device)
        between = (1,) * (targets.dim() - 2)
        mean, scale = (part[numbers].view(-1, *between, self.channels) for part in (mean, scale))
        return targets.double() * scale + mean


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
