"""Parts that tables of labelled sequences share: columns that are named, features, and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dream.errors import ConfigError, DataError, nearest
from lightning_modules.data.numbers import number_columns, read_numbers
from lightning_modules.data.schema import Schema
from lightning_modules.data.time_column import find_time_column


def require_apart(columns: Sequence[str] | None, named: Mapping[str, str]) -> None:
    """Refuse features that are `named` by another setting, too.

    Raises:
        ConfigError: naming the setting.
    """
    for setting, name in named.items():
        if name in (columns or []):
            raise ConfigError(f"`columns` must not hold `{setting}`, {name!r}; leave it out.", key="columns")


def require_columns(frame: pd.DataFrame, path: Path, named: Mapping[str, Sequence[str]]) -> None:
    """Refuse names, by their setting, of columns that are not in the table.

    Raises:
        ConfigError: naming the first, and the nearest that is there.
    """
    for setting, names in named.items():
        for name in names:
            if name not in frame:
                raise ConfigError(
                    f"`{setting}` must be of {path}; there is no column {name!r}. "
                    f"{nearest(name, frame.columns)}",
                    key=setting,
                )


def features(
    frame: pd.DataFrame,
    path: Path,
    columns: Sequence[str] | None,
    apart: Sequence[str],
    schema: Schema | None,
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the features, in the order of `schema` if there is one, and their values (rows, F), NaN where
    one is missing.

    Args:
        frame: The table.
        path: The file, for messages.
        columns: The features; None for all columns of numbers but those in `apart` and that of the time.
        apart: Columns of another role.
        schema: That of a checkpoint, whose features must be there.

    Raises:
        DataError: no column holds numbers, some value is no number, or the features are others.
    """
    names = columns or number_columns(frame, path, find_time_column(frame, path, apart), apart)
    if not names:
        raise DataError(f"{path}: no column but the label's and the sequence's holds numbers to read.")
    if schema is not None:
        names = schema.ordered("features", names, str(path))
    return tuple(names), np.stack([read_numbers(frame[name], name, path) for name in names], axis=1)


def words(column: pd.Series) -> pd.Series:
    """Values of a column as texts, empty where one is missing; whole numbers without a point."""
    numbers = column.dropna()
    if pd.api.types.is_float_dtype(column) and (numbers % 1 == 0).all():  # gaps made them floats
        column = column.astype("Int64")
    return column.astype("string").fillna("").str.strip().astype(object)


def places_of(names: pd.Series, path: Path, setting: str) -> dict[str, np.ndarray]:
    """Rows of each sequence, by its name, in the order in which they begin.

    Args:
        names: The sequence of each row, from `words`.
        path: The file, for messages.
        setting: The column of the names, for messages.

    Raises:
        DataError: a row names no sequence.
    """
    if (unnamed := (names == "").to_numpy()).any():
        raise DataError(
            f"{path}: every row must name its sequence; row {int(unnamed.argmax())} has none in `{setting}`. "
            "Fill it in."
        )
    return {str(name): np.asarray(own) for name, own in names.groupby(names, sort=False).indices.items()}
