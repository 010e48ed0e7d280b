"""The frequency of time stamps, an alias of pandas such as `h`, `B` or `ME`: found, checked, gone on with.

Hours and shorter steps are counted in absolute time, so that they go on evenly through a change of the clock;
days and longer ones follow the calendar of the place. Time stamps are datetime64[ns] in UTC, or, without a
zone, as they were written.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset
from pandas.tseries.offsets import BaseOffset, BusinessHour, Day, Tick

from dream.errors import ConfigError, DataError
from lightning_modules.data.zones import clock_change

logger = logging.getLogger(__name__)

ROWS = 1 << 13
"""First rows in which a frequency is looked for: offsets of the calendar take microseconds a row."""
_CHUNK = 1 << 20  # rows that are compared at once, so that time stamps on disk need not fit into memory
_APART = 1.5  # steps that are a gap where there is no grid
_MANY = 10_000  # of a unit, which are told in a larger one
_EVEN = 1.1  # steps longer or shorter than this are no drift of a clock
_DAY = 86_400 * 10**9
_SHORTEST_MONTH = 28  # days
_UNITS = {"day": _DAY, "hour": 3600 * 10**9, "minute": 60 * 10**9, "second": 10**9, "ms": 10**6, "us": 10**3}
_SEASONS = {"Y": 1, "Q": 4, "SM": 24, "M": 12, "WOM": 12, "LWOM": 12, "W": 52}
"""Rows of a year."""


class Clock(NamedTuple):
    """By which time stamps go on and are shown."""

    frequency: str | None = None
    """Alias of pandas; None if the steps have none."""
    zone: str | None = None
    """The place, such as Europe/Berlin, or the offset from UTC; None for stamps without one."""


UNTIMED = Clock()
"""That of rows without time stamps."""


def zoned(time: np.ndarray, zone: str | None) -> pd.DatetimeIndex:
    """Time stamps as they are shown: with their zone, if they have one."""
    index = pd.DatetimeIndex(time)
    return index if zone is None else index.tz_localize("UTC").tz_convert(zone)


def wall(time: np.ndarray, zone: str | None) -> pd.DatetimeIndex:
    """Times that a clock on the wall shows, without a zone."""
    return zoned(time, zone).tz_localize(None)


def table_times(time: np.ndarray, zone: str | None) -> np.ndarray | pd.DatetimeIndex:
    """Time stamps or row numbers as tables show them: stamps with their zone, if they have one."""
    return time if zone is None or time.dtype.kind != "M" else zoned(time, zone)


def figure_times(time: np.ndarray, zone: str | None) -> np.ndarray:
    """Time stamps or row numbers as figures show them: stamps by the clock on the wall."""
    return time if zone is None or time.dtype.kind != "M" else wall(time, zone).to_numpy()


def parse_frequency(frequency: str) -> BaseOffset:
    """The offset that an alias of pandas names.

    Raises:
        ConfigError: it names none.
    """
    try:
        offset = to_offset(frequency)
        if offset is not None and offset.n > 0:
            return offset
    except (ValueError, TypeError):
        pass
    raise ConfigError(
        "`frequency` must be an alias of pandas such as h, 15min, D, B, W-MON, MS, ME or QS; got "
        f"{frequency!r}.",
        key="frequency",
    )


def _ticks(offset: BaseOffset) -> int | None:
    """Nanoseconds of an offset that is a time, None for one of the calendar, days among them."""
    if isinstance(offset, Tick) and not isinstance(offset, Day):
        return pd.Timedelta(offset).value
    return None


def following(last: np.datetime64, count: int, clock: Clock) -> np.ndarray:
    """The `count` time stamps after `last`, which its clock has a frequency for; (count,) in UTC.

    A `last` beside the calendar's dates, such as the 15th for MS, stays as far beside them; a day that a
    month lacks becomes its last. A local time that a change of the clock leaves out becomes the next one that
    exists.

    Raises:
        DataError: nanoseconds cannot count so far.
    """
    assert clock.frequency is not None
    offset = parse_frequency(clock.frequency)
    if (step := _ticks(offset)) is not None:
        return last + np.arange(1, count + 1) * np.timedelta64(step, "ns")
    start = wall(np.array([last]), clock.zone)[0]
    first = start if offset.is_on_offset(start) else offset.rollback(start)
    away = start - first
    try:
        dates = _aligned(first, offset, periods=count + 2)[1:]
        later = dates[:-1] + away
    except (pd.errors.OutOfBoundsDatetime, OverflowError):
        raise DataError(
            f"time stamps must end by 2261; {count} steps of {clock.frequency} after {start} go beyond. "
            "Shorten `horizon`."
        ) from None
    if away.days >= _SHORTEST_MONTH:
        later = later.where(later < dates[1:], dates[1:] - pd.Timedelta(_DAY))
    if clock.zone is not None:
        twice = np.ones(count, dtype=bool)  # an hour that comes twice is its first
        later = later.tz_localize(clock.zone, ambiguous=twice, nonexistent="shift_forward")
        later = later.tz_convert("UTC").tz_localize(None)
    return later.to_numpy("datetime64[ns]")


def _aligned(first: pd.Timestamp, offset: BaseOffset, **until: int | pd.Timestamp) -> pd.DatetimeIndex:
    return pd.date_range(first.as_unit("ns"), freq=offset, **until)  # type: ignore[call-overload]


def find_frequency(time: np.ndarray, zone: str | None = None) -> str | None:
    """The frequency of `time` (T,), in which rows may be absent; None if there is none.

    Of rows without gaps it is what pandas infers; otherwise one on whose grid all rows lie, most of them
    beside the one before.
    """
    index = zoned(time[:ROWS], zone)
    if (name := _inferred(index)) is not None and (np.diff(_places(index, to_offset(name))) == 1).all():
        return name
    if len(index) < 3:
        return None
    for name in _likely(index):
        places = _places(index, to_offset(name))
        if (places >= 0).all() and np.median(np.diff(places)) == 1:
            return name
    return None


def _likely(index: pd.DatetimeIndex) -> Iterator[str]:
    """Frequencies of rows of which some are absent, by the median step and the longest piece without gaps."""
    clock = index.tz_localize(None)
    steps = np.diff(index.as_unit("ns").asi8)
    step = int(np.median(steps))
    days = round(step / _DAY)
    same = days > 0 and len((clock - clock.normalize()).unique()) == 1
    if (clock.day_of_week < 5).all():
        if same and 0 < (business := _business_days(clock)) < 5:
            yield _times(business, "B")
        if step == _UNITS["hour"] and ((clock.hour >= 9) & (clock.hour < 17)).all():
            yield "bh"
    gaps = np.flatnonzero(steps > _APART * step)
    borders = [0, *(gaps + 1), len(index)]
    first = int(np.argmax(np.diff(borders)))
    piece = index[borders[first] : borders[first + 1]]
    if (name := _inferred(piece)) is not None:
        yield name
    if same:
        months = int(np.median(np.diff(clock.year * 12 + clock.month)))
        if months and clock.is_month_end.all():
            yield _times(months, "ME")
        elif months and len(clock.day.unique()) == 1:
            yield _times(months, "MS")
        if days % 7 == 0:
            yield _times(days // 7, f"W-{clock[0].day_name()[:3].upper()}")
        yield _times(days, "D")
    yield str(to_offset(pd.Timedelta(step)).freqstr)


def _business_days(clock: pd.DatetimeIndex) -> int:
    """The median number of them from a row to the next."""
    dates = clock.to_numpy().astype("datetime64[D]")
    return int(np.median(np.busday_count(dates[:-1], dates[1:])))


def _times(count: int, name: str) -> str:
    return name if count == 1 else f"{count}{name}"


def _inferred(index: pd.DatetimeIndex) -> str | None:
    """The frequency that pandas infers from rows without gaps, if any."""
    with suppress(ValueError), warnings.catch_warnings():  # there are fewer than three
        warnings.simplefilter("ignore")  # of a result of another type in a later version
        found = pd.infer_freq(index)
        return None if found is None else str(getattr(found, "freqstr", found))
    return None


def _places(index: pd.DatetimeIndex, offset: BaseOffset) -> np.ndarray:
    """Place of each stamp on the grid of `offset` that begins with the first, -1 for one beside it."""
    if (step := _ticks(offset)) is not None:
        places, beside = np.divmod(index.as_unit("ns").asi8 - index[:1].as_unit("ns").asi8, step)
        return np.where(beside == 0, places, -1)
    clock = index.tz_localize(None)
    first = clock[0] if offset.is_on_offset(clock[0]) else offset.rollback(clock[0])
    away = clock[0] - first
    return _aligned(first, offset, end=clock[-1] - away).get_indexer(clock - away)


def require_frequency(time: np.ndarray, clock: Clock, source: str) -> None:
    """Refuse a stated frequency on whose grid some of the first rows of `time` do not lie.

    Raises:
        DataError: naming the first row beside it.
    """
    assert clock.frequency is not None
    index = zoned(time[:ROWS], clock.zone)
    places = _places(index, parse_frequency(clock.frequency))
    if (beside := places < 0).any():
        row = int(beside.argmax())
        found = find_frequency(time, clock.zone)
        remedy = f"The stamps fit {found}." if found else "Leave `frequency` out."
        raise DataError(
            f"{source}: time stamps must fit the frequency {clock.frequency} from the first row, "
            f"{index[0]}, on; row {row}, {index[row]}, does not. {remedy}"
        )


def clock_of(
    time: np.ndarray, zone: str | None, source: str, stated: str | None, recorded: str | None
) -> Clock:
    """Clock of the stamps `time` (T,): with the frequency that is `recorded` in a run, or `stated`, or found.

    Where the last stamp lies beside the dates of a recorded frequency, as quarters from February do beside
    those from January, what is found in them counts more.

    Raises:
        DataError: the stamps do not fit the frequency that is stated.
    """
    if recorded is not None:
        fits = parse_frequency(recorded).is_on_offset(wall(time[-1:], zone)[0])
        return Clock(recorded if fits else find_frequency(time, zone) or recorded, zone)
    if stated is None:
        return Clock(find_frequency(time, zone), zone)
    require_frequency(time, clock := Clock(stated, zone), source)
    return clock


def unevenness(time: np.ndarray, clock: Clock) -> str | None:
    """Unevenness of `time` (T,) in words, as "uneven: 2 gaps, the longest 720 hours"; None if it is even.

    A gap is as long as the time of the rows that are absent.
    """
    if len(time) < 3:
        return None
    if clock.frequency is None:
        step: int | None = _median(time)
    else:
        step = _ticks(parse_frequency(clock.frequency))
    if step is None:
        grid = _grid(time, clock)
        after = np.searchsorted(grid, time)
        before = np.maximum(after - 1, 0)
        places = np.where(time - grid[before] < grid[after] - time, before, after)  # the nearest
        # by up to an hour a change of the clock puts it beside
        beside = np.flatnonzero(np.abs(grid[places] - time) > np.timedelta64(_UNITS["hour"], "ns"))
        if len(beside):
            what = "1 row lies" if len(beside) == 1 else f"{len(beside)} rows lie"
            stamp = zoned(time[beside[:1]], clock.zone)[0]
            return f"uneven: {what} beside the frequency {clock.frequency}, the first at {stamp}"
        rows = np.flatnonzero(np.diff(places) > 1)
        absent, there = wall(grid[places[rows] + 1], clock.zone), wall(time[rows + 1], clock.zone)
        gaps, low, high = (there - absent).as_unit("ns").asi8, 1.0, 1.0
    else:
        parts, low, high = [], np.inf, 0.0
        for first in range(0, len(time) - 1, _CHUNK):
            steps = np.diff(time[first : first + _CHUNK + 1]).astype("timedelta64[ns]").astype(np.int64)
            low, high = min(low, steps.min() / step), max(high, steps.max() / step)
            parts.append(steps[steps > _APART * step] - step)
        gaps = np.concatenate(parts)
    if len(gaps):
        many = "1 gap of" if len(gaps) == 1 else f"{len(gaps)} gaps, the longest"
        return f"uneven: {many} {span(int(gaps.max()), 'day' if step is None else 'hour')}"
    if low < 1 / _EVEN or high > _EVEN:
        assert step is not None
        return f"uneven: steps of {span(round(low * step))} to {span(round(high * step))}"
    return None


def described(time: np.ndarray | None, clock: Clock) -> str:
    """First and last stamp, frequency and evenness of rows, in words."""
    if time is None:
        return "row numbers"
    period = " to ".join(stamp.isoformat(timespec="seconds") for stamp in zoned(time[[0, -1]], clock.zone))
    place = f" in {clock.zone}" if clock.zone is not None and "/" in clock.zone else ""
    return f"{period}{place}, {clock.frequency or 'no frequency'}, {unevenness(time, clock) or 'even'}"


def tell_uneven(time: np.ndarray | None, zone: str | None, source: str) -> None:
    """Log in one line that rows are absent, for a task that reads them as if none were."""
    if time is None or (said := unevenness(time, Clock(find_frequency(time, zone), zone))) is None:
        return
    logger.warning(
        "%s: the time stamps are %s; rows are read as if they were even. Insert absent rows with empty "
        "values and read them with `--data.missing=model`, which tells that nothing was observed.",
        source,
        said,
    )


def skipped_hour(time: np.ndarray, clock: Clock) -> str | None:
    """The change of the clock by which an hour is absent from stamps without a zone; None if none is seen."""
    step = None if clock.frequency is None else _ticks(parse_frequency(clock.frequency))
    if clock.zone is not None or step is None or step > _UNITS["hour"]:
        return None
    steps = np.diff(time[:_CHUNK]).astype("timedelta64[ns]").astype(np.int64)
    rows = np.flatnonzero(steps == step + _UNITS["hour"])
    said = (clock_change(pd.Timestamp(time[row]) + pd.Timedelta(step), only_forward=True) for row in rows[:9])
    return next(filter(None, said), None)


def _grid(time: np.ndarray, clock: Clock) -> np.ndarray:
    """Stamps of a frequency of the calendar from the first of `time` to the last, in UTC."""
    offset = parse_frequency(str(clock.frequency))
    first, last = wall(time[[0, -1]], clock.zone)
    count = len(_aligned(first if offset.is_on_offset(first) else offset.rollback(first), offset, end=last))
    return np.concatenate([time[:1], following(time[0], count, clock)])


def _median(time: np.ndarray) -> int:
    rows = np.linspace(0, len(time) - 2, min(len(time) - 1, _CHUNK)).round().astype(np.int64)
    return int(np.median((time[rows + 1] - time[rows]).astype("timedelta64[ns]").astype(np.int64)))


def span(nanoseconds: int, largest: str = "hour") -> str:
    """A time in a unit up to `largest`: the first in which it is whole, such as `90 minutes`, or rounded."""
    names = list(_UNITS)
    fitting = [name for name in names[names.index(largest) :] if _UNITS[name] <= nanoseconds] or ["us"]
    counts = {name: nanoseconds / _UNITS[name] for name in fitting}
    whole = (name for name, count in counts.items() if count == round(count) and count < _MANY)
    name = next(whole, fitting[0])
    count = f"{counts[name]:.0f}" if counts[name] >= 100 else f"{counts[name]:.3g}"
    return f"{count} {name}{'' if count == '1' or name in ('ms', 'us') else 's'}"


def season_of(frequency: str | None) -> int | None:
    """Rows of a day for steps within it, of a week for days, of a year for longer ones; None if not whole.

    A day of business hours has as many rows as hours.
    """
    if frequency is None:
        return None
    offset = parse_frequency(frequency)
    family, count = offset.rule_code.partition("-")[0], offset.n
    if isinstance(offset, BusinessHour):
        borders = zip(offset.start, offset.end, strict=True)  # type: ignore[attr-defined] # times of the day
        opened = [(pd.Timedelta(str(end)) - pd.Timedelta(str(start))).value % _DAY for start, end in borders]
        rows, beyond = divmod(sum(opened), count * _UNITS["hour"])
        return None if beyond else rows
    if (step := _ticks(offset)) is not None:
        if step % _DAY:
            return None if _DAY % step else _DAY // step
        family, count = "D", step // _DAY  # 24h, as days of UTC are by the clock of another place
    if family in ("B", "D"):
        week = {"B": 5, "D": 7}[family]
        rows, steps = (week, count) if count % week else (52, count // week)
    else:  # such as BQS, quarters by the start of business
        rows, steps = _SEASONS.get(family.removeprefix("B").removesuffix("E").removesuffix("S"), 0), count
    return rows // steps if rows and rows % steps == 0 else None
