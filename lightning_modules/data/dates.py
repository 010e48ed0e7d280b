"""Columns of dates: their format, and their time stamps.

A format is one of `strptime`, `ISO`, `ZONED`, "unix s" (ms, us, ns) for a count since 1970, or None for
objects that are dates already.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.tseries.api import guess_datetime_format

from dream.errors import ConfigError, DataError, shown
from lightning_modules.data.zones import IN_ISO, Written, clock_change, in_utc, require_zone, written_zone

ISO = "ISO8601"
"""ISO 8601 of any precision, all rows without a zone or in UTC."""
ZONED = "ISO8601 with a zone"
"""ISO 8601 of any precision, all rows with a zone."""
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_FIRST, _LAST = 631_152_000, 4_102_444_800  # 1990 and 2100, in seconds since 1970
_DIGITS = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_CLOCK = re.compile(
    r"(?P<gap>[T ,]*)\d{1,2}:\d\d(?P<seconds>:\d\d)?(?P<part>[.]\d+)?(?P<space> ?)"
    r"(?P<half>[AaPp][Mm])?(?P<between> ?)(?P<zone>Z|[+-]\d\d:?\d\d)?$"
)
_DAY = re.compile(
    r"(?P<first>\d{1,4}|[A-Za-z]{3,9})(?P<one>[-/. ]{1,2})(?P<second>\d{1,2}|[A-Za-z]{3,9})"
    r"(?P<two>[-/., ]{1,2})(?P<third>\d{1,4})(?=$|[T ,])"
)
_MONTH = re.compile(r"(?P<month>\d{1,2}|[A-Za-z]{3,9})(?P<between>[-/. ])\d{4}$")


_UTC = ("Z", "z", "+00:00", "-00:00", "+0000", "-0000", "+00", "-00")


class Stamps(NamedTuple):
    """Facts about the time stamps of a table that are known before it is read."""

    form: str | None = None
    """Their format, if it is stated; see `stamps_as`."""
    recorded: str | None = None
    """The format that a checkpoint was trained with, by which they are read if all can be."""
    zone: str | None = None
    """The place whose clock is shown, and which those without an offset are local times of."""

    def formats(self, column: pd.Series) -> tuple[str | None, ...]:
        """The formats of a column, see `find_formats`."""
        if self.form == ISO:
            return find_formats(column, (ISO, ZONED))
        if self.form is not None:
            return (self.form,)
        known = self.recorded
        if known is not None and parse_dates(column, known).notna().all():
            return (known,)
        return find_formats(column)


UNKNOWN = Stamps()
"""Time stamps of which nothing is known."""


def stamps_as(form: str | None, zone: str | None = None) -> Stamps:
    """Stated format and zone of time stamps.

    Raises:
        ConfigError: `form` is none of `strptime`, `ISO8601`, and `unix s` (ms, us, ns), or `zone` is unknown.
    """
    require_zone(zone)
    counted = [f"unix {unit}" for unit in _UNITS]
    if form is None or form in (ISO, *counted) or (isinstance(form, str) and "%" in form):
        return Stamps(form, zone=zone)
    raise ConfigError(
        f"`time_format` must be a format such as %d.%m.%Y %H:%M, or {ISO}, or {', '.join(counted)}; got "
        f"{form!r}.",
        key="time_format",
    )


def find_formats(column: pd.Series, among: Sequence[str | None] = ()) -> tuple[str | None, ...]:
    """The formats by which a column is dates; several where nothing tells which of them is meant.

    Of those by which most values are dates, those stay by which they increase; of those the ones that begin
    with the day and a dot, and then the ones with even steps: all equally long, or all so many months.

    Args:
        column: Time stamps.
        among: Formats to try; if empty, all that the first time stamp may have.
    """
    if not (among := among or candidates(column)):
        return (ISO,)
    parsed: dict[str | None, pd.Series] = {}
    for form in among:
        parsed[form] = parse_dates(column, form)
        if form in (ISO, ZONED) and parsed[form].notna().all():
            return (form,)
    counts = {form: int(dates.notna().sum()) for form, dates in parsed.items()}
    kept = [form for form in among if counts[form] == max(counts.values())]
    # beside ISO, others are the same dates in one precision; and a row that is none is refused by any of them
    if kept[0] in (ISO, ZONED) or counts[kept[0]] < len(column):
        return (kept[0],)
    kept = [form for form in kept if _increases(parsed[form])] or kept
    kept = [form for form in kept if (form or "").startswith("%d.")] or kept
    kept = [form for form in kept if len(kept) == 1 or _is_even(parsed[form])] or kept
    return tuple(kept)


def candidates(column: pd.Series) -> tuple[str | None, ...]:
    """Formats that the first time stamp of a column may have; of numbers those that all of them may have."""
    if (numbers := whole_numbers(column)) is not None:
        return number_formats(numbers)
    first = _first(column)
    if not isinstance(first, str):
        return (None,) if isinstance(first, date | np.datetime64) else ()
    first = first.strip()
    forms: list[str | None] = []
    if re.match(r"\d{4}-?\d\d", first) and not pd.isna(pd.to_datetime(first, errors="coerce", format=ISO)):
        zone = IN_ISO.search(first)
        forms.append(ZONED if zone and re.search("[1-9]", zone[1]) else ISO)
    forms += _formats(first)
    if not forms and (guessed := guess_datetime_format(first)) is not None and "%Y" in guessed:
        forms.append(guessed)
    return tuple(dict.fromkeys(forms))


def _formats(text: str) -> list[str]:
    """All formats of a date whose parts are separated, and of the time of day after it."""
    if month := _MONTH.match(text):
        return [f"{_code(month['month'], 'm')}{month['between']}%Y"]
    day = _DAY.match(text)
    rest = text[day.end() :] if day else ""
    clock = _CLOCK.match(rest)
    if day is None or (rest and clock is None):
        return []
    after = ""
    if clock is not None:
        after = clock["gap"] + ("%I" if clock["half"] else "%H") + ":%M" + (":%S" if clock["seconds"] else "")
        after += (".%f" if clock["part"] else "") + clock["space"] + ("%p" if clock["half"] else "")
        after += clock["between"] + ("%z" if clock["zone"] else "")
    parts = [day[name] for name in ("first", "second", "third")]
    fitting = [[code for code in "Ymd" if _code(part, code)] for part in parts]
    found = []
    for order in itertools.product(*fitting):
        if sorted(order) == ["Y", "d", "m"] and "".join(order) in ("Ymd", "mdY", "dmY"):
            first, second, third = (_code(part, code) for part, code in zip(parts, order, strict=True))
            found.append(f"{first}{day['one']}{second}{day['two']}{third}{after}")
    return found


def _code(part: str, code: str) -> str | None:
    """The code of `strptime` for a part of a date, if it can be its year (Y), month (m) or day (d)."""
    if part.isalpha():
        return ("%b" if len(part) == 3 else "%B") if code == "m" else None
    if code == "Y":
        return {2: "%y", 4: "%Y"}.get(len(part))
    return f"%{code}" if len(part) <= 2 else None


def whole_numbers(column: pd.Series) -> pd.Series | None:
    """A column of numbers, or of texts that are numbers, as numbers; None if it is another."""
    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_complex_dtype(column):
        return None
    if pd.api.types.is_numeric_dtype(column):
        return column
    first = _first(column)
    if isinstance(first, str) and re.fullmatch(r"\d+(?:[.]\d*)?", first.strip()):
        return pd.to_numeric(column.astype(str).where(column.notna()), errors="coerce")
    return None


def number_formats(numbers: pd.Series) -> tuple[str, ...]:
    """Formats by which all numbers of a column are dates from 1990 to 2100."""
    known = numbers.dropna()
    if known.empty:
        return ()
    low, high = float(known.min()), float(known.max())
    forms = [f"unix {unit}" for unit, part in _UNITS.items() if _FIRST * part <= low and high <= _LAST * part]
    form = _DIGITS.get(len(f"{low:.0f}")) if low > 0 and high < 10**14.5 else None
    if form is not None and parse_dates(known, form).notna().all():
        forms.append(form)
    return tuple(forms)


def _increases(dates: pd.Series) -> bool:
    return bool((np.diff(dates.to_numpy("datetime64[ns]")) > np.timedelta64(0)).all())


def _is_even(dates: pd.Series) -> bool:
    """Whether all steps are equally long, or all so many months."""
    steps = np.diff(dates.to_numpy("datetime64[ns]"))
    if (steps == steps[:1]).all():
        return True
    time = pd.DatetimeIndex(dates)
    months = np.diff(time.year * 12 + time.month)
    aligned = (time.day == time.day[0]).all() or time.is_month_end.all()
    clock = time - time.normalize()
    return bool(aligned and (months == months[0]).all() and (clock == clock[0]).all())


def require_order(column: pd.Series, formats: Sequence[str | None], path: Path) -> None:
    """Refuse a column of dates that can be read in several ways.

    Raises:
        DataError: naming the readings of a row that they disagree about.
    """
    if len(formats) < 2:
        return
    parsed = [parse_dates(column, form) for form in formats[:2]]
    differ = (parsed[0] != parsed[1]).to_numpy()
    if not differ.any():
        return
    place = int(differ.argmax())
    one, other = (f"{dates.iloc[place]} ({form})" for dates, form in zip(parsed, formats, strict=False))
    raise DataError(
        f"{path}: time column `{column.name}` can be read in two ways, and no row tells which is meant: row "
        f"{column.index[place]}, {shown(column.iloc[place])}, is {one} or {other}. State "
        "which as `time_format`, or write the dates as 2024-01-31."
    )


def _first(column: pd.Series) -> Any:
    place = column.first_valid_index()
    return None if place is None else column[place]


def parse_dates(column: pd.Series, form: str | None) -> pd.Series:
    """The dates of a column, in UTC and without a zone; NaT where a value is none by this format."""
    if form is not None and form.startswith("unix "):
        return _since_1970(column, _UNITS[form.removeprefix("unix ")])
    numeric = pd.api.types.is_numeric_dtype(column)
    if numeric and form in (ISO, ZONED):
        return pd.Series(pd.NaT, column.index, dtype="datetime64[ns]")
    if form in _DIGITS.values() or (numeric and form is not None):
        numbers = pd.to_numeric(column, errors="coerce")
        whole = numbers.where((numbers % 1 == 0) & (numbers < 1e15), 0).fillna(0)
        column = whole.astype("int64").astype(str)
    elif isinstance(first := _first(column), str) and first != first.strip():
        column = column.str.strip()
    iso = form in (ISO, ZONED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of dates that are objects
        dates = pd.to_datetime(column, errors="coerce", utc=True, format=ISO if iso else form)
    dates = dates.dt.tz_localize(None)
    if not iso or pd.api.types.is_datetime64_any_dtype(column):
        return dates
    text = column.astype(str)
    if (
        form == ISO and not text.str.contains(r"\d[+-]\d\d:?\d\d$").any()
    ):  # the usual case, without slower searches
        return dates
    zones = text.str.extract(IN_ISO)[0]
    fits = zones.notna() if form == ZONED else ~zones.str.contains("[1-9]").fillna(False).astype(bool)
    return dates.where(fits)


def _since_1970(column: pd.Series, parts: int) -> pd.Series:
    """Dates of numbers that count `parts` of a second; NaT for those not from 1990 to 2100."""
    numbers = pd.to_numeric(column, errors="coerce")
    fits = (numbers >= _FIRST * parts) & (numbers <= _LAST * parts)
    known = numbers.where(fits, _FIRST * parts)
    if pd.api.types.is_float_dtype(known):  # to microseconds: a float of today's seconds has no more digits
        nanoseconds = (known * (10**6 / parts)).round().astype("int64") * 1000
    else:
        nanoseconds = known.astype("int64") * (10**9 // parts)
    return nanoseconds.astype("datetime64[ns]").where(fits.fillna(False).astype(bool))


def unordered_stamps(
    column: pd.Series, form: str | None, path: Path, zone: str | None = None
) -> tuple[np.ndarray, Written]:
    """The dates of a column, datetime64[ns] (T,), and the zone that they are written in.

    With a zone, of the column or else `zone`, they are in UTC. `form` is one of `find_formats`.

    Raises:
        DataError: naming the first row that is not a date, or that comes twice or never by the clock.
    """
    name = column.name
    if form == ISO and pd.api.types.is_numeric_dtype(column) and column.notna().any():
        raise DataError(
            f"{path}: time column `{name}` must hold dates such as 2016-07-01 00:00, or Unix time in s, ms, "
            f"us or ns from 1990 on; it holds numbers such as {column.dropna().iloc[0]}. Leave "
            "`time_column` out to count rows instead."
        )
    parsed = parse_dates(column, form)
    if (bad := parsed.isna().to_numpy()).any():
        place = int(bad.argmax())
        kind = "" if form in (ISO, None) else f" ({form})"
        raise DataError(
            f"{path}: time column `{name}` must hold dates such as 2016-07-01 00:00; row "
            f"{column.index[place]} holds {shown(column.iloc[place])}. Have all in the format of the "
            f"first{kind} or of `time_format`, all with a zone or all without, and totals and remarks in "
            "another file."
        )
    if (far := ((parsed < pd.Timestamp.min) | (parsed > pd.Timestamp.max)).to_numpy()).any():
        place = int(far.argmax())
        raise DataError(
            f"{path}: time column `{name}` must hold dates from 1678 to 2261, which nanoseconds can count; "
            f"row {column.index[place]} holds {shown(column.iloc[place])}. Repair it."
        )
    time = parsed.to_numpy(dtype="datetime64[ns]")
    written = written_zone(column, form, time)
    if form == ISO:
        _require_alike(column, path)
    if zone is not None:
        since = form is not None and form.startswith("unix ")
        time, written = time if since or written is not None else in_utc(time, zone, column, path), zone
    return time, written


def time_stamps(
    column: pd.Series, form: str | None, path: Path, before: np.datetime64 | None, zone: str | None = None
) -> tuple[np.ndarray, Written]:
    """As `unordered_stamps`, of a column that increases, from `before` on.

    Raises:
        DataError: naming the first row that is no date, or is not after the row before.
    """
    time, written = unordered_stamps(column, form, path, zone)
    name = column.name
    step = np.diff(time, prepend=time[0] - np.timedelta64(1) if before is None else before)
    if (step <= np.timedelta64(0)).any():
        place = int((step <= np.timedelta64(0)).argmax())
        earlier = column.iloc[place - 1] if place else before
        what = (
            "repeats the one before"
            if step[place] == np.timedelta64(0)
            else f"is earlier than {earlier} before"
        )
        again = step[place] > -np.timedelta64(2, "h")
        if written is None and again and (change := clock_change(pd.Timestamp(time[place]))) is not None:
            raise DataError(
                f"{path}: time column `{name}` must increase from row to row; row {column.index[place]} "
                f"({column.iloc[place]}) {what}, as local times do: {change}"
            )
        raise DataError(
            f"{path}: time column `{name}` must increase from row to row; row {column.index[place]} "
            f"({column.iloc[place]}) {what}. Sort the rows; rows that are there twice are to be there once; "
            "and of a table of several series name the column that tells them apart as `id`."
        )
    return time, written


def _require_alike(column: pd.Series, path: Path) -> None:
    """Refuse texts of ISO 8601 of which some are in UTC and others in no zone, so in local time.

    Raises:
        DataError: naming the first that is not as the first row.
    """
    if not isinstance(first := _first(column), str):
        return
    texts = column if first == first.strip() else column.str.strip()
    zoned = texts.str.endswith(_UTC).to_numpy(dtype=bool)  # no other zones are there, see `parse_dates`
    if (other := zoned != zoned[:1]).any():
        place = int(other.argmax())
        raise DataError(
            f"{path}: time column `{column.name}` must hold times that are all with a zone or all without; "
            f"row {column.index[0]} holds {shown(column.iloc[0])}, row {column.index[place]} "
            f"{shown(column.iloc[place])}. Write all with their zone."
        )
