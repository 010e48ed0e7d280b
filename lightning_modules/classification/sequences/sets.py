"""Labelled sequences of your own: a table, or arrays."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pandas as pd

from dream.errors import DataError, shown
from lightning_modules.classification.sequences.data import Part, SequenceData, WholeSequence
from lightning_modules.classification.table import (
    features,
    places_of,
    require_apart,
    require_columns,
    words,
)
from lightning_modules.data.dialect import Dialect, dialect_as
from lightning_modules.data.in_memory import InMemory
from lightning_modules.data.series import read_frame

GIVEN = ("train", "val", "test")
"""Values of the column `part`."""


class LabelledTable(SequenceData, InMemory):
    """A CSV or Parquet file with a row for each step, the sequence that it belongs to, and the class of that;
    `LabelledTable.of` takes a DataFrame, `LabelledTable.of_arrays` arrays.

    Rows of a sequence are in the order of time. Its class is the same in all of its rows, or given in one of
    them and left empty in the others. A sequence without one is to be predicted.

    Args:
        path: The file: .csv or .txt (also .gz), .parquet or .pq.
        id: The column that names the sequence of each row.
        label: The column of classes, words or numbers; a table to predict need not have it.
        group: The column that names the subject of each sequence, such as its user, device or plant; the
            subjects of the test are then new. null: sequences stand for themselves.
        part: The column that puts sequences into parts: train, val or test; null leaves that to the seed.
        columns: Columns to read as features; null for all columns of numbers but these.
        separator: Sign between the values of a line of text; null finds it. So are `decimal` (. or ,),
            `thousands` (. , a space or an apostrophe; '' for none) and `encoding` (such as cp1252).
        decimal: Decimal sign of numbers.
        thousands: Sign between groups of three digits.
        encoding: Encoding of a file of text. A run remembers all four, for files that do not show others.
    """

    def __init__(
        self,
        path: str,
        id: str = "unique_id",
        label: str = "label",
        group: str | None = None,
        part: str | None = None,
        columns: list[str] | None = None,
        separator: str | None = None,
        decimal: str | None = None,
        thousands: str | None = None,
        encoding: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.path = path
        self.dialect = dialect_as(separator, decimal, thousands, encoding)
        self.named = {"id": id, "label": label}
        self.named |= {
            name: column for name, column in (("group", group), ("part", part)) if column is not None
        }
        require_apart(columns, self.named)
        self.wanted = columns

    @classmethod
    def of_arrays(
        cls,
        sequences: Sequence[np.ndarray] | np.ndarray,
        labels: Sequence[Hashable | None] | None = None,
        groups: Sequence[Hashable] | None = None,
        **settings: Any,
    ) -> Self:
        """The data module of sequences in memory, which are called 0, 1, ...; their columns column_1, ...

        Args:
            sequences: An array (N, T, F), or a sequence of arrays (T, F) or (T,), each of its own length.
            labels: The class of each, None for one to be predicted; none at all if all are.
            groups: The subject of each.
            **settings: Other arguments of the class.

        Raises:
            DataError: an array has another shape or no step, or there is not a label or group for each.
        """
        arrays = [np.asarray(one)[:, None] if np.ndim(one) == 1 else np.asarray(one) for one in sequences]
        for number, one in enumerate(arrays):
            if one.ndim != 2 or one.shape[1] != arrays[0].shape[1] or not one.size:
                raise DataError(
                    "`sequences` must be arrays (steps, columns) of as many columns, with a step or more; "
                    f"number {number} has the shape {one.shape}."
                )
        if not arrays:
            raise DataError("`sequences` must hold one or more; got none.")
        lengths = [len(one) for one in arrays]
        table = pd.DataFrame(
            np.concatenate(arrays), columns=[f"column_{k}" for k in range(1, arrays[0].shape[1] + 1)]
        )
        table["unique_id"] = np.repeat(np.arange(len(arrays)), lengths)
        labels = [None] * len(arrays) if labels is None else labels
        for name, values in (("label", labels), ("group", groups)):
            if values is None:
                continue
            if len(values) != len(arrays):
                raise DataError(
                    f"`{name}s` must hold one for each of the {len(arrays)} sequences; got {len(values)}."
                )
            table[name] = pd.Series(list(values), dtype=object).repeat(lengths).to_numpy()
        return cls.of(table, **({"group": "group"} if groups is not None else {}) | settings)

    @property
    def source(self) -> str:
        return str(self.path)

    @cached_property
    def _read(self) -> tuple[tuple[str, ...], list[WholeSequence], Dialect]:
        """Names of the features, the sequences, and how the table is written."""
        frame, path, dialect = read_frame(self.table, self.known_dialect, [self.named["id"]])
        named = dict(self.named)
        if self.recorded is not None:  # to predict takes features alone
            named = {setting: name for setting, name in named.items() if setting == "id" or name in frame}
        columns = {setting: [name] for setting, name in named.items()} | {"columns": self.wanted or []}
        require_columns(frame, path, columns)
        names, values = features(frame, path, self.wanted, [*named.values()], self.recorded)
        places = places_of(words(frame[named["id"]]), path, named["id"])
        facts = {setting: words(frame[named[setting]]).to_numpy() for setting in named if setting != "id"}
        found = []
        for name, rows in places.items():
            own = {
                setting: self._only(column[rows], name, named[setting], path)
                for setting, column in facts.items()
            }
            part = own.get("part") or None
            if part not in (None, *GIVEN):
                raise DataError(
                    f"{path}: `{named['part']}` must be train, val or test; sequence {name} holds "
                    f"{shown(part)}."
                )
            label = own.get("label") or None
            found.append(
                WholeSequence(name, values[rows], label, cast("Part | None", part), own.get("group", ""))
            )
        return names, found, dialect

    @property
    def written(self) -> Dialect:
        return self._read[2]

    @staticmethod
    def _only(cells: np.ndarray, name: str, column: str, path: Path) -> str:
        """The value of a column in all rows of a sequence that have one; empty if none has.

        Raises:
            DataError: there are two.
        """
        found = sorted(set(cells) - {""})
        if len(found) > 1:
            raise DataError(
                f"{path}: column `{column}` must hold one value in all rows of a sequence; {name} has "
                f"{', '.join(map(str, found[:3]))}. If every row has a class of its own, use "
                "`dream fit -c classification_steps_csv`."
            )
        return str(found[0]) if found else ""

    @property
    def columns(self) -> tuple[str, ...]:
        return self._read[0]

    def read(self) -> Sequence[WholeSequence]:
        return self._read[1]
