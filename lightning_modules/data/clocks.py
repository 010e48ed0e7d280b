"""Clocks of many series: the frequency of each, found once for all whose time stamps have one pattern."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from dream.errors import DataError
from lightning_modules.data.disk.stored import StoredSeries
from lightning_modules.data.frequency import (
    ROWS,
    Clock,
    clock_of,
    find_frequency,
    require_frequency,
    unevenness,
)
from lightning_modules.data.panel import listed
from lightning_modules.data.series import Series

_WEEK = 7 * 86_400 * 10**9
_ENOUGH = 8  # even steps, of which no months are


def panel_clocks(
    members: Sequence[Series | StoredSeries], stated: str | None, recorded: str | None
) -> list[Clock]:
    """Clock of each series, see `clock_of`.

    A series that has no frequency of its own, as one of two rows, has that of most others, if it fits.

    Raises:
        DataError: time stamps do not fit the frequency that is stated.
    """
    known: dict[Hashable, Clock] = {}
    patterns = []
    for each in members:
        assert each.time is not None
        patterns.append(pattern := _pattern(each.time, each.zone))
        if pattern in known:
            continue
        if stated is None and recorded is None:
            known[pattern] = Clock(find_frequency(each.time, each.zone), each.zone)
        else:
            known[pattern] = clock_of(each.time, each.zone, each.source, stated, recorded)
    counted = Counter(clock for pattern in patterns if (clock := known[pattern]).frequency is not None)
    if counted:
        usual = counted.most_common(1)[0][0]
        for each, pattern in zip(members, patterns, strict=True):
            if known[pattern].frequency is None and _fits(each, usual):
                known[pattern] = usual
    return [known[pattern] for pattern in patterns]


def disagreement(clocks: Sequence[Clock], names: Sequence[str]) -> str | None:
    """Frequencies of series in words, if not all have the same: those of the fewest, by name."""
    counted = Counter(clock.frequency for clock in clocks)
    if len(counted) < 2:
        return None
    usual = counted.most_common(1)[0][0]
    others = []
    for frequency in counted:
        if frequency != usual:
            some = [name for name, clock in zip(names, clocks, strict=True) if clock.frequency == frequency]
            others.append(f"{frequency or 'no frequency'}: {listed(some)}")
    most = f"{counted[usual]} have {usual or 'none'}"
    return f"the series differ in frequency; {most}, others {'; '.join(others)}."


def uneven(times: Sequence[np.ndarray | None], clocks: Sequence[Clock]) -> dict[int, str]:
    """Unevenness in words, see `unevenness`, by the number of each series that is uneven."""
    known: dict[Hashable, str | None] = {}
    found = {}
    for number, (time, clock) in enumerate(zip(times, clocks, strict=True)):
        if time is None:
            continue
        key = (_pattern(time, clock.zone), clock)
        if key not in known:
            known[key] = unevenness(time, clock)
        if (said := known[key]) is not None:
            found[number] = said
    return found


def _fits(series: Series | StoredSeries, clock: Clock) -> bool:
    assert series.time is not None
    try:
        require_frequency(series.time, clock, series.source)
    except DataError:
        return False
    return True


def _pattern(time: np.ndarray, zone: str | None) -> Hashable:
    """A key for time stamps that have the same frequency and evenness."""
    steps = np.diff(time.view(np.int64))
    if zone is None and len(steps) > _ENOUGH and len(steps) < ROWS and (steps == steps[0]).all():
        return int(steps[0]), int(time.view(np.int64)[0] % _WEEK)
    return time.tobytes()
