"""Training, validation and test part: of a series in time order, of labelled samples spread over classes and
subjects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple

import numpy as np
import pandas as pd

from dream.errors import ConfigError

_TRIED = 1000  # numbers of rows that are looked at one by one


class Split(NamedTuple):
    """The rows of each part, in time order and without overlap."""

    train: slice
    val: slice
    test: slice


def split_rows(
    count: int,
    split: Sequence[int | float | str],
    time: np.ndarray | None = None,
    zone: str | None = None,
    may_be_empty: bool = False,
) -> Split:
    """Cut `count` rows into training, validation and test part, in this order.

    Args:
        count: Rows of the series.
        split: Three fractions whose sum is at most 1; three row counts whose sum is at most `count`; or two
            or three ISO dates: the ends of training, validation and (if given) test, themselves excluded.
        time: (count,) time stamps, for dates.
        zone: The zone of dates without an offset; UTC if there is none.
        may_be_empty: Whether a part may hold no row.

    Raises:
        ConfigError: `split` is something else, or a part would be empty and must not be.
    """
    kinds = {type(part) for part in split}
    if kinds <= {str, date, datetime} and len(split) in (2, 3):
        borders = _date_borders([str(part) for part in split], count, time, zone)
    elif kinds == {int} and len(split) == 3:
        borders = _count_borders([int(part) for part in split], count)
    elif kinds == {float} and len(split) == 3:
        borders = _fraction_borders([float(part) for part in split], count)
    else:
        raise _refused(
            split,
            "three fractions such as [0.7, 0.1, 0.2], three row counts, or two to three dates, not mixed",
        )
    parts = Split(*(slice(start, stop) for start, stop in zip([0, *borders], borders, strict=False)))
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if part.stop <= part.start and not may_be_empty:
            raise _refused(
                split, f"at least one row in each part; the {name} part of these {count} rows is empty"
            )
    return parts


def enough_rows(count: int, split: Sequence[int | float | str], needed: Sequence[int]) -> int | None:
    """The fewest rows from `count` on of which fractions leave each part as many as `needed`.

    For a tiny fraction of validation it is a few more: by rounding, a row more may leave it one less.

    Returns:
        None if `split` holds no fractions.
    """
    if {type(part) for part in split} != {float}:
        return None
    train, val, test = (float(part) for part in split)

    def lacks(rows: int) -> bool:
        return bool((np.diff([0, *_fraction_borders([train, val, test], rows)]) < needed).any())

    # Training and test are rounded down; so validation, the rest, has up to two rows more than its share.
    bounds = ((needed[0] - 1e-6) / train, (needed[1] - 2) / val, (needed[2] - 1e-6) / test)
    least = max(count, *map(math.ceil, bounds))
    for rows in range(least, least + _TRIED):
        if not lacks(rows):
            return rows
    rows = max(least, math.ceil((needed[1] + 1) / val))
    while lacks(rows):
        rows += 1
    return rows


def _refused(split: Sequence[int | float | str], expected: str) -> ConfigError:
    return ConfigError(f"`split` must be {expected}; got {list(split)}.", key="split")


def _fraction_borders(split: list[float], count: int) -> list[int]:
    total = sum(split)
    if not all(part > 0 for part in split) or total > 1 + 1e-9:
        raise _refused(split, f"three positive fractions with a sum of at most 1 (here {total:g})")
    # Training and test are rounded down and validation takes the rest: the convention of published protocols.
    train, test, end = (math.floor(part * count + 1e-6) for part in (split[0], split[2], min(total, 1)))
    return [train, end - test, end]


def _count_borders(split: list[int], count: int) -> list[int]:
    if min(split) < 1 or sum(split) > count:
        raise _refused(split, f"three positive row counts with a sum of at most the {count} rows there are")
    return [split[0], split[0] + split[1], sum(split)]


def _date_borders(split: list[str], count: int, time: np.ndarray | None, zone: str | None) -> list[int]:
    if time is None:
        raise _refused(
            split, "fractions or row counts for data without time stamps (or name its `time_column`)"
        )
    try:
        dates = np.array([_in_utc(pd.to_datetime(part, format="ISO8601"), zone) for part in split])
    except ValueError as error:
        raise _refused(split, "ISO dates such as 2017-07-01") from error
    if (np.diff(dates) <= np.timedelta64(0)).any():
        raise _refused(split, "dates in increasing order: end of training, end of validation, end of test")
    borders = np.searchsorted(time, dates).tolist()
    return borders if len(borders) == 3 else [*borders, count]


def _in_utc(date: pd.Timestamp, zone: str | None) -> np.datetime64:
    if date.tzinfo is None:
        date = date.tz_localize(zone or "UTC", ambiguous=True, nonexistent="shift_forward")
    return date.tz_convert("UTC").tz_localize(None).to_datetime64().astype("datetime64[ns]")


def spread(keys: Sequence[tuple[str, ...] | None], share: float, seed: int) -> list[int]:
    """Numbers of a `share` of the samples, at least one, spread evenly over their `keys`, such as classes and
    speakers; those whose key is None are never taken."""
    random = np.random.default_rng(seed)
    ordered = sorted((key, random.random(), place) for place, key in enumerate(keys) if key is not None)
    count = max(round(share * len(ordered)), 1)
    places = ((np.arange(count) + 0.5) * len(ordered) / count).astype(int)
    return [ordered[place][-1] for place in places] if ordered else []


def spread_groups(labels: Sequence[str], groups: Sequence[str], share: float, seed: int) -> list[int]:
    """Numbers of about a `share` of the samples, all of some groups and none of any other.

    One group after another joins while that brings the number of each class nearer to its `share`; the last
    group never does.
    """
    classes = {label: number for number, label in enumerate(sorted(set(labels)))}
    counts = {group: np.zeros(len(classes)) for group in groups}
    for label, group in zip(labels, groups, strict=True):
        counts[group][classes[label]] += 1
    left = [sorted(counts)[k] for k in np.random.default_rng(seed).permutation(len(counts))]
    missing = share * sum(counts.values())
    taken: list[str] = []
    while len(left) > 1:
        best = min(left, key=lambda group: np.square(missing - counts[group]).sum())
        if taken and np.square(missing - counts[best]).sum() >= np.square(missing).sum():
            break
        left.remove(best)
        taken.append(best)
        missing = missing - counts[best]
    return [place for place, group in enumerate(groups) if group in taken]
