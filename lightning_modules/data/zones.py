"""Zones of time stamps: which one they are written in, and local times around a change of the clock.

A zone is a name, such as Europe/Berlin, an offset, such as UTC+01:00, or UTC.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterable, Iterator
from datetime import date, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dream.errors import ConfigError, DataError

Written = str | tuple[tuple[int, int], ...] | None
"""The zone that rows name, or else, from each change on, the time of a row (nanoseconds since 1970) and its
offset (seconds from UTC); None for rows without a zone."""

_PLACES = (
    "Europe/Berlin",
    "Europe/London",
    "Europe/Athens",
    "America/New_York",
    "America/Chicago",
    "America/Denver",
    "America/Los_Angeles",
    "America/Halifax",
    "America/Santiago",
    "Asia/Jerusalem",
    "Africa/Cairo",
    "Australia/Sydney",
    "Australia/Adelaide",
    "Pacific/Auckland",
)
"""One for each rule by which many people change their clocks."""
IN_ISO = re.compile(r"[T ][\d:.,]+ ?(Z|[+-]\d\d(?::?\d\d)?)$")
"""The zone at the end of a time of ISO 8601; a date, such as 2024-01-01, has none."""
_OFFSET = re.compile(r"(?:(?P<utc>Z)|(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>\d\d)?)$")


def require_zone(zone: str | None) -> None:
    """Refuse what is no zone.

    Raises:
        ConfigError: there is none of this name.
    """
    try:
        pd.Timestamp(0, tz="UTC").tz_convert(zone)
        if zone is None or isinstance(zone, str):
            return
    except (ValueError, TypeError, OSError, LookupError):  # of an empty text an IndexError
        pass
    raise ConfigError(
        f"`zone` must be the name of a zone, such as Europe/Berlin, or an offset such as +01:00; got "
        f"{zone!r}.",
        key="zone",
    )


def written_zone(column: pd.Series, form: str | None, time: np.ndarray) -> Written:
    """The zone that the stamps of a column, which are `time` (T,) in UTC, are written in.

    Args:
        column: As it was read.
        form: Their format, one of `dates.find_formats`.
        time: datetime64[ns] (T,).
    """
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        if (name := _name(column.dtype.tz)) is not None:
            return name
        local = column.dt.tz_localize(None).to_numpy("datetime64[ns]")
        offsets = (local - time).astype(np.int64) // 10**9
    elif isinstance(first := column.iloc[0], date):
        zone = getattr(first, "tzinfo", None)
        if zone is None:
            return None
        if (name := _name(zone)) is not None and all(each.tzinfo == zone for each in column):
            return name
        offsets = np.array([each.utcoffset().total_seconds() for each in column], dtype=np.int64)
    elif isinstance(first, str) and ("%z" in form if form and "%" in form else IN_ISO.search(first.strip())):
        codes, tails = pd.factorize(column.str.strip().str[-6:])
        offsets = np.array([_seconds(tail) for tail in tails], dtype=np.int64)[codes]
    else:
        return None
    rows = np.flatnonzero(np.diff(offsets, prepend=offsets[0] - 1))
    rows = np.unique([*rows, *np.maximum(rows - 1, 0), len(offsets) - 1])
    return tuple(zip(time[rows].astype(np.int64).tolist(), offsets[rows].tolist(), strict=True))


def _name(zone: Any) -> str | None:
    """The name of a zone, if it has one by which pandas knows it."""
    try:
        pd.Timestamp(0, tz="UTC").tz_convert(str(zone))
    except (ValueError, TypeError, OSError, KeyError):
        return None
    return str(zone)


def _seconds(text: str) -> int:
    """Seconds from UTC of an offset at the end of a text; 0 without one."""
    found = _OFFSET.search(text)
    if found is None or found["utc"]:
        return 0
    return (1 if found["sign"] == "+" else -1) * (int(found["hours"]) * 60 + int(found["minutes"] or 0)) * 60


def one_zone(parts: Iterable[Written]) -> str | None:
    """The zone of rows of which each part is written in one of `parts`; None without a zone.

    Several offsets are those of a place that changes its clocks: the first of some large ones, and then of
    all, that has each of them at its time. Where no place has, the zone is UTC.
    """
    known = list(dict.fromkeys(part for part in parts if part is not None))
    if not known:
        return None
    if isinstance(known[0], str):
        return known[0]
    changes = [change for part in known if not isinstance(part, str) for change in part]
    offsets = {seconds for _, seconds in changes}
    if offsets == {0}:
        return "UTC"
    if len(offsets) == 1:
        return str(timezone(timedelta(seconds=offsets.pop())))
    time = pd.DatetimeIndex([stamp for stamp, _ in changes], tz="UTC")
    expected = np.array([seconds for _, seconds in changes]) * 10**9
    for name in _places():
        local = time.tz_convert(name).tz_localize(None)
        if ((local - time.tz_localize(None)).as_unit("ns").asi8 == expected).all():
            return name
    return "UTC"


def _places() -> Iterator[str]:
    yield from _PLACES
    yield from sorted(zoneinfo.available_timezones() - set(_PLACES))


def in_utc(local: np.ndarray, zone: str, column: pd.Series, path: Path) -> np.ndarray:
    """Local times of `zone` in UTC, datetime64[ns] (T,).

    Raises:
        DataError: naming a row whose time comes twice or never, since a change of the clock lies there.
    """
    index = pd.DatetimeIndex(local)
    time = index.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    if (unknown := time.isna()).any():
        row = int(unknown.argmax())
        change = clock_change(index[row], [zone])
        raise DataError(
            f"{path}: time column `{column.name}`, row {column.index[row]} ({column.iloc[row]}): {change}"
        )
    return time.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[ns]")


def clock_change(
    local: pd.Timestamp, zones: Iterable[str] = _PLACES, only_forward: bool = False
) -> str | None:
    """The change of the clock by which a local time comes twice or never, in one of `zones`."""
    for zone in zones:
        twice = local.tz_localize(zone, ambiguous="NaT", nonexistent="shift_forward")
        before = local.tz_localize(zone, ambiguous=True, nonexistent="shift_backward")
        after = local.tz_localize(zone, ambiguous=False, nonexistent="shift_forward")
        offsets = [f"{stamp:%z}"[:3] + ":" + f"{stamp:%z}"[3:] for stamp in (before, after)]
        how = "back" if twice is pd.NaT else "forward"
        if offsets[0] == offsets[1] or (only_forward and how == "back"):
            continue
        one = ", for one," if zones is _PLACES else ""
        said = (
            f"on {local.date()} the clocks of {zone}{one} were set {how}, from {offsets[0]} to {offsets[1]}, "
        )
        clock = f"{local:%H:%M}"
        if how == "forward":
            return f"{said}and {clock} did not exist. Write all stamps with their offset or in UTC."
        one, other = (f"{local:%Y-%m-%dT%H:%M}{offset}" for offset in offsets)
        return (
            f"{said}and {clock} came twice. Write all stamps with their offset, this one as {one} or "
            f"{other}, or in UTC."
        )
    return None
