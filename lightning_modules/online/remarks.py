"""Remarks on the data of the online task, logged in a line each when they are read."""

from __future__ import annotations

import logging

from lightning_modules.data.clocks import uneven
from lightning_modules.data.frequency import tell_uneven
from lightning_modules.data.panel import listed
from lightning_modules.data.schema import warn_of_columns
from lightning_modules.online.source import LEAST_SCALED, OnlineSource

logger = logging.getLogger(__name__)


def tell(data: OnlineSource, crop: int, unscored: list[str]) -> None:
    """Log what may be unexpected: other scales, series that are new or too short, rows that are absent.

    Args:
        data: what was read.
        crop: rows of a piece to train on.
        unscored: names of the series that have no rows left to score.
    """
    if data.recorded is not None:
        if data.scaled:
            warn_of_columns(_far_columns(data), data.source)
        _tell_unseen(data)
    elif data.many:
        _tell_short(data, crop, unscored)
    if data.many:
        _tell_uneven(data)
    else:
        series = data.stream.series
        tell_uneven(series.time, series.zone, series.source)


def _far_columns(data: OnlineSource) -> list[str]:
    """Remarks on the columns that are far from where they were in training."""
    remarks = []
    for member in data.members:
        assert member.recorded is not None
        stream, (inputs, targets) = member.stream, member.values
        found = member.recorded.far_columns(inputs.numpy(), stream.series.columns)
        if stream.truth is not None:
            found += member.recorded.far_columns(targets.numpy(), stream.targets)
        remarks += [f"series {member.name}: {each}" for each in found] if data.many else found
    return remarks


def _tell_unseen(data: OnlineSource) -> None:
    known = {} if data.recorded is None else data.recorded.series
    unseen = [name for name in data.streams if name not in known]
    if unseen:
        scaling = (
            f"; each is scaled by its own warm-up rows, and one with fewer than {LEAST_SCALED} of them as "
            "all series of the training together"
        )
        logger.warning(
            "%s: %d of %d series were not in the training (%s)%s.",
            data.source,
            len(unseen),
            len(data.members),
            listed(unseen),
            scaling if data.scaled else "",
        )


def _tell_short(data: OnlineSource, crop: int, unscored: list[str]) -> None:
    least = crop + data.ahead
    untrained = [str(each.name) for each in data.members if 0 < each.parts[0] < least]
    remarks = {
        f"have fewer than {least} warm-up rows, and are not trained on": untrained,
        "have no rows left to score": unscored,
    }
    for what, names in remarks.items():
        if names:
            logger.warning(
                "%s: %d of %d series %s: %s.", data.source, len(names), len(data.members), what, listed(names)
            )


def _tell_uneven(data: OnlineSource) -> None:
    said = uneven([member.stream.series.time for member in data.members], data.clocks)
    if said:
        number, first = next(iter(said.items()))
        logger.warning(
            "%s: the time stamps are %s (series %s); %d of %d series are uneven, and their rows are read as "
            "if they were even. Insert absent rows with empty values and read them with "
            "`--data.missing=model`, which tells that nothing was observed.",
            data.source,
            first,
            data.members[number].name,
            len(said),
            len(data.members),
        )
