"""Public holidays of a country as a column of the calendar, from the package `holidays`, offline.

A place is a country, or one of its parts: DE, DE-BY, by ISO 3166.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from dream.errors import ConfigError, nearest

PREFIX = "holidays="
"""Beginning of the name, among the parts of the calendar, of the holidays of a place."""


def holiday_name(place: str) -> str:
    """The name of a place's holidays among the parts of the calendar.

    Raises:
        ConfigError: the package is not installed, or does not know the place.
    """
    known = _package().list_supported_countries(include_aliases=False)
    country, _, part = place.partition("-")
    if not re.fullmatch(r"[A-Z]{2}(?:-[A-Z0-9]+)?", place) or country not in known:
        hint = nearest(country, sorted(known))
        raise ConfigError(
            f"`holidays` must be a country such as DE, or a part of one such as DE-BY; got {place!r}. {hint}",
            key="holidays",
        )
    if part and part not in known[country]:
        raise ConfigError(
            f"`holidays` must name a part of {country}, one of {', '.join(known[country]) or 'none'}; got "
            f"{part!r}.",
            key="holidays",
        )
    return PREFIX + place


def holidays_at(time: pd.DatetimeIndex, name: str) -> np.ndarray:
    """(T,) 1 where a local time lies on a holiday of the place that `holiday_name` named, else 0.

    Raises:
        ConfigError: the package is not installed.
    """
    country, _, part = name.removeprefix(PREFIX).partition("-")
    days = time.normalize()
    dates = days.unique()
    known = _holidays(country, part or None, tuple(sorted(set(dates.year))))
    free = [date for date in dates if date.date() in known]
    return days.isin(free).astype(np.float64)


@lru_cache(maxsize=16)
def _holidays(country: str, part: str | None, years: tuple[int, ...]) -> frozenset[Any]:
    return frozenset(_package().country_holidays(country, subdiv=part, years=years))


def _package() -> Any:
    try:
        import holidays
    except ModuleNotFoundError:
        raise ConfigError(
            "`holidays` needs the package of that name: pip install 'dream-memory[holidays]'.", key="holidays"
        ) from None
    return holidays
