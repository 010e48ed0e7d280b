"""Texts in CSV files that a spreadsheet would run as formulas."""

from __future__ import annotations

import re
from typing import TypeVar

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.ASCII | re.IGNORECASE)
# a spreadsheet of another language may end a cell at such a sign inside of a text
_FORMULA = re.compile(r"(?<![^;\t\r\n])( *)(?='*[=+\-@\uff1d\uff0b\uff0d\uff20])|^( *)(?='*[\t\r\n])")
_ESCAPED = re.compile(r"(?<![^;\t\r\n])( *)'(?='*[=+\-@\uff1d\uff0b\uff0d\uff20])|^( *)'(?='*[\t\r\n])")
Value = TypeVar("Value")


def escaped(value: Value) -> Value | str:
    """A text as a cell of a CSV file: one that a spreadsheet would take for a formula gets a ' before it.

    Formulas begin with = + - @, a tab or an end of a line. Numbers, and texts that are numbers, stay.

    >>> escaped("=1+1"), escaped("-1.5"), escaped("a-b")
    ("'=1+1", '-1.5', 'a-b')
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _FORMULA.sub(lambda found: f"{found[0]}'", value)


def unescaped(text: str) -> str:
    """The text that `escaped` made `text` of."""
    return _ESCAPED.sub(lambda found: found[0][:-1], text)
