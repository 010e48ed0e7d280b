"""Columns of words, such as weather or kind of day, as numbers: an indicator column for each category.

The first matrix that reads the indicators holds a vector for each category, which is its embedding. Words
that the training rows hold too rarely to learn from share one more column. A word that the training never saw
is read as these are, or, where there are none, as the mean of all: indicators at their shares of the
training, which standardise to 0 and so say nothing.

Shapes: T rows, K indicators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dream.errors import DataError
from lightning_modules.data.numbers import known_in, to_numbers
from lightning_modules.data.time_column import is_text

MOST = 64
"""Categories of a column that get an indicator of their own, the most frequent ones."""
LEAST = 3
"""Rows of the training that such a category must have."""
OTHERS = "(others)"
"""Ending of the name of the indicator that the other words share."""


@dataclass(frozen=True)
class Category:
    """Words of one column, as its training rows have them."""

    words: tuple[str, ...]
    """Those with an indicator of their own, most frequent first."""
    shares: tuple[float, ...]
    """Share of the training rows of each, then of all others."""

    @property
    def has_others(self) -> bool:
        """Whether the training rows hold others, so that their indicator is learnt."""
        return self.shares[-1] > 0

    def columns(self, name: str) -> list[str]:
        """Names of the indicators of column `name`."""
        return [f"{name}={word}" for word in (*self.words, *([OTHERS] if self.has_others else []))]

    def indicators(self, words: Sequence[str]) -> np.ndarray:
        """(T, K) 1 where a row holds the word of the column; of a word never seen see the module."""
        places = {word: place for place, word in enumerate(self.words)}
        width = len(self.words) + self.has_others
        unseen = np.eye(width)[-1] if self.has_others else np.array(self.shares[:-1])
        rows = np.concatenate([np.eye(width)[: len(self.words)], unseen[None]])
        return rows[[places.get(word, len(self.words)) for word in words]]


def is_categorical(column: pd.Series) -> bool:
    """Whether a column holds words: texts of which less than half are numbers."""
    if isinstance(column.dtype, pd.CategoricalDtype) and not pd.api.types.is_numeric_dtype(
        column.cat.categories.dtype
    ):
        return True
    known = known_in(column)
    return is_text(column) and bool(known.any()) and bool(to_numbers(column[known]).notna().mean() < 0.5)


def words_of(column: pd.Series) -> list[str]:
    """The words of a column, empty where there is none; of whole numbers their digits."""
    return [word_of(value) for value in column.tolist()]


def word_of(value: Any) -> str:
    """The word of one value, empty where there is none."""
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value).strip()


def learn_category(column: pd.Series, path: Path) -> Category:
    """The category of a column by its training rows.

    Raises:
        DataError: hardly any word comes again, as in texts.
    """
    counts = pd.Series(words_of(column)).value_counts()
    own = counts[(counts >= LEAST) & (counts.index != "")].head(MOST)
    own = own.iloc[sorted(range(len(own)), key=lambda k: (-own.iloc[k], own.index[k]))]
    if own.sum() < len(column) / 2:
        raise DataError(
            f"{path}: column `{column.name}` must hold categories that come again; of its {len(column)} "
            f"training rows {len(counts)} differ. Leave it out."
        )
    shares = [*(own / len(column)).tolist(), 1 - own.sum() / len(column)]
    return Category(words=tuple(own.index), shares=tuple(shares))


def expanded(
    frame: pd.DataFrame, names: Sequence[str], categories: Mapping[str, Category]
) -> tuple[pd.DataFrame, list[str]]:
    """A table with indicators in place of those columns among `names` that have a category.

    Returns:
        The table, and `names` with those of the indicators.
    """
    found: list[str] = []
    for name in names:
        if name not in categories:
            found.append(name)
            continue
        made = categories[name].columns(name)
        values = pd.DataFrame(categories[name].indicators(words_of(frame[name])), frame.index, made)
        frame = pd.concat([frame.drop(columns=name), values], axis=1)
        found += made
    return frame, found


def expanded_row(row: Mapping[str, Any], categories: Mapping[str, Category]) -> dict[str, Any]:
    """A row with indicators in place of its words; a column that is absent has no word."""
    found = {name: value for name, value in row.items() if name not in categories}
    for name, category in categories.items():
        values = category.indicators([word_of(row.get(name))])[0].tolist()
        found |= dict(zip(category.columns(name), values, strict=True))
    return found
