"""Numbers as people write them, such as 1.234,5 and 1 234.5: how a table writes them, and their values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from lightning_modules.data.numbers import known_in

DECIMALS = (".", ",")
THOUSANDS = (".", ",", " ", "'", "\u2019", "_", "\u00a0", "\u202f")
"""Signs between groups of three digits: points, commas, spaces of three kinds, and apostrophes."""

_SIGNS = re.escape("".join(THOUSANDS))
_NUMBER = re.compile(rf"[+-]?(?P<first>\d+)(?P<rest>(?:[{_SIGNS}]\d+)*)(?P<power>[eE][+-]?\d+)?")
_GROUP = re.compile(rf"([{_SIGNS}])(\d+)")
_MOST = 0.1  # of a column's values that may be no numbers


class Evidence(NamedTuple):
    """Signs that some numbers show."""

    decimal: frozenset[str] = frozenset()
    thousands: frozenset[str] = frozenset()
    either: frozenset[str] = frozenset()
    """Signs that stand only before three last digits, as in 1,234, which is either."""

    def __or__(self, other: Evidence) -> Evidence:
        return Evidence(*(mine | theirs for mine, theirs in zip(self, other, strict=True)))


def evidence(columns: Iterable[Sequence[str]]) -> Evidence:
    """Evidence of the values of columns, each as texts; columns of other texts, such as dates, show none."""
    found = Evidence()
    for texts in columns:
        known = [text for text in map(str.strip, texts) if text]
        each = [_signs(text) for text in known]
        numbers = [signs for signs in each if signs is not None]
        if known and len(known) - len(numbers) <= _MOST * len(known):
            for signs in set(numbers):
                found |= signs
    return found


def _signs(text: str) -> Evidence | None:
    """The evidence of one text; None if it is no number in any notation."""
    number = _NUMBER.fullmatch(text)
    if number is None:
        return None
    groups = _GROUP.findall(number["rest"])
    if not groups:
        return Evidence()
    (last, digits), before = groups[-1], groups[:-1]
    grouped = 1 <= len(number["first"]) <= 3 and all(len(part) == 3 for _, part in before)
    if not before:
        if last not in DECIMALS:
            return Evidence(thousands=frozenset(last)) if grouped and len(digits) == 3 else None
        plain = len(digits) != 3 or not grouped or number["first"][0] == "0" or number["power"]
        return Evidence(decimal=frozenset(last)) if plain else Evidence(either=frozenset(last))
    signs = {sign for sign, _ in before}
    if not grouped or len(signs) > 1:
        return None
    if signs == {last}:
        return Evidence(thousands=frozenset(signs)) if len(digits) == 3 else None
    return Evidence(frozenset(last), frozenset(signs)) if last in DECIMALS else None


def to_plain(column: pd.Series, decimal: str, thousands: str) -> pd.Series:
    """A column of texts as numbers, if all of its values are numbers of this notation; else unchanged."""
    known = column[known_in(column)].astype(str).str.strip()
    point, power = re.escape(decimal), r"(?:[eE][+-]?\d+)?"
    form = rf"[+-]?\d+(?:{point}\d*)?{power}"
    if thousands:
        form += rf"|[+-]?\d{{1,3}}(?:{re.escape(thousands)}\d{{3}})+(?:{point}\d*)?{power}"
    if known.empty or not known.str.fullmatch(f"(?:{form})").all():
        return column
    plain = known.str.replace(thousands, "", regex=False) if thousands else known
    return pd.to_numeric(plain.str.replace(decimal, ".", regex=False)).reindex(column.index)
