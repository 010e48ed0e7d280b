"""Rows around the origin of a forecast: each of the horizon with its known covariates, and gaps before it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from dream.errors import DataError
from lightning_modules.data.frequency import Clock, following, unevenness, zoned

logger = logging.getLogger(__name__)

_NAMED = 3  # rows that a message names
_RECENT = 1000  # rows before a forecast; where some are absent, those ahead need not lie on the grid either


def require_rows_ahead(
    ahead: int,
    horizon: int,
    names: Sequence[str],
    time: np.ndarray | None,
    last: int,
    clock: Clock,
    source: str,
) -> None:
    """Refuse a forecast for whose rows some known covariates are absent.

    Args:
        ahead: Rows after the last one with a target.
        horizon: Rows to forecast.
        names: The known covariates.
        time: Time stamps of all rows; None without any.
        last: Number of the last row with a target.
        clock: By which the stamps go on.
        source: The file, for messages.

    Raises:
        DataError: telling how many rows are absent and, where stamps tell, which.
    """
    absent, which, place = max(horizon - ahead, 0), "", last + 1
    even = time is not None and unevenness(np.asarray(time[max(last - _RECENT, 0) : last + 1]), clock) is None
    if time is not None and clock.frequency is not None and even:
        wanted = following(time[last], horizon, clock)
        there = np.asarray(time[last + 1 :])
        lacking = wanted[~np.isin(wanted, there)]
        absent = len(lacking)
        if absent:
            stamps = [stamp.isoformat() for stamp in zoned(lacking[:_NAMED], clock.zone)]
            which = f", {', '.join(stamps)}" + (f" and {absent - _NAMED} more" if absent > _NAMED else "")
        elif (beside := there[:horizon] != wanted).any():
            place = last + 1 + int(beside.argmax())
            stamp = zoned(np.asarray(time[place : place + 1]), clock.zone)[0].isoformat()
            raise DataError(
                f"{source}: rows after the last target must follow by {clock.frequency}; row {place}, "
                f"{stamp}, lies between two. Take it out."
            )
    if absent:
        raise DataError(
            f"{source}: a forecast of {horizon} rows needs the known covariates {', '.join(names)} of each; "
            f"there are {ahead} rows after the last target, and {absent} of those needed "
            f"{'is' if absent == 1 else 'are'} missing{which}. Append rows with their time and known "
            "covariates and with empty targets, or shorten `horizon`."
        )


def tell_gaps(time: np.ndarray, clock: Clock, source: str) -> None:
    """Log in one line that rows are absent from those at `time`, which a forecast is made from."""
    if (said := unevenness(np.asarray(time), clock)) is not None:
        logger.warning(
            "%s: the time stamps of the rows that the forecast is made from are %s; they are read as if they "
            "were even.",
            source,
            said,
        )


def require_values_ahead(
    values: np.ndarray,
    names: Sequence[str],
    time: np.ndarray | None,
    first: int,
    zone: str | None,
    source: str,
) -> None:
    """Refuse gaps in known covariates of the rows to forecast.

    Args:
        values: (rows, covariates) as they were read.
        names: Their names.
        time: (rows,) time stamps; None without any.
        first: Number of the first row.
        zone: Zone of the stamps.
        source: The file, for messages.

    Raises:
        DataError: naming the first gap.
    """
    gaps = np.argwhere(np.isnan(values))
    if not len(gaps):
        return
    row, column = (int(part) for part in gaps[0])
    stamp = "" if time is None else f" ({zoned(time[row : row + 1], zone)[0].isoformat()})"
    raise DataError(
        f"{source}: known covariate `{names[column]}` must have a value in each row to forecast; row "
        f"{first + row}{stamp} has none ({len(gaps)} such values). Fill it in, or carry the last known value "
        "forward with `--data.missing=ffill`."
    )
