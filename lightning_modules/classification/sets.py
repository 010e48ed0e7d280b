"""Labelled sequences from your own table."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dream.errors import DataError
from lightning_modules.checks import require, require_int
from lightning_modules.classification.data import (
    UNKNOWN,
    ClassificationBatch,
    ClassificationData,
    LabelledSequence,
    Part,
)
from lightning_modules.classification.table import (
    features,
    places_of,
    require_apart,
    require_columns,
    words,
)
from lightning_modules.data.dialect import Dialect, dialect_as
from lightning_modules.data.fingerprint import Fingerprint, content_sum
from lightning_modules.data.in_memory import InMemory
from lightning_modules.data.order import EpochOrder, in_order, loader, one_by_one, shuffled
from lightning_modules.data.schema import Schema, scales
from lightning_modules.data.series import Scaler, read_frame


class SequenceTable(ClassificationData, InMemory):
    """A CSV or Parquet file with a row for each step, its class, and the sequence that it belongs to;
    `SequenceTable.of` takes a DataFrame.

    Rows of a sequence are in the order of time. Whole sequences, not rows, go into the training, the
    validation or the test part, so that those of the test are of subjects that are new by then. Training
    sequences are cut into stretches; those of validation and test are read whole. A step without a label is
    read, but its class is not asked. A sequence whose last step has no label is in no part: ``dream predict``
    labels its steps, or those of the test part where there is none.

    Args:
        path: The file: .csv, .txt or .tsv (also .gz, .bz2, .xz, .zst or .zip), .parquet or .feather.
        label: The column of classes, words or numbers.
        sequence: The column that names the sequence of each row, such as its user, device or plant.
        columns: Columns to read as features; null for all columns of numbers but these.
        steps: Longest stretch of a training sequence, in steps.
        validation: Share of the sequences that picks the best epoch.
        test: Share of the sequences in the test part.
        separator: Sign between the values of a line of text; null finds it. So are `decimal` (. or ,),
            `thousands` (. , a space or an apostrophe; '' for none) and `encoding` (such as cp1252).
        decimal: Decimal sign of numbers.
        thousands: Sign between groups of three digits.
        encoding: Encoding of a file of text. A run remembers all four, for files that do not show others.
    """

    def __init__(
        self,
        path: str,
        label: str = "label",
        sequence: str = "id",
        columns: list[str] | None = None,
        steps: int = 256,
        validation: float = 0.15,
        test: float = 0.25,
        separator: str | None = None,
        decimal: str | None = None,
        thousands: str | None = None,
        encoding: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        shares = validation > 0 and test > 0 and validation + test < 1
        require("validation", validation, shares, "a share above 0, with `test` below 1")
        require_apart(columns, {"label": label, "sequence": sequence})
        self.path = path
        self.label = label
        self.sequence_column = sequence
        self.columns = columns
        self.steps = require_int("steps", steps)
        self.validation = validation
        self.test = test
        self.dialect = dialect_as(separator, decimal, thousands, encoding)

    @property
    def source(self) -> str:
        return str(self.path)

    @cached_property
    def rows(self) -> _Rows:
        """The table, read once; its features in the order of the schema that is followed, if any."""
        frame, path, dialect = read_frame(self.table, self.known_dialect)
        named = {"label": [self.label], "sequence": [self.sequence_column], "columns": self.columns or []}
        require_columns(frame, path, named)
        apart = [self.label, self.sequence_column]
        names, values = features(frame, path, self.columns, apart, self.recorded)
        if len(gaps := np.argwhere(np.isnan(values))):
            row, column = gaps[0]
            raise DataError(
                f"{path}: column `{names[column]}` must have a value in every row; row {frame.index[row]} "
                f"has none ({len(gaps)} values are missing in all). Fill them in, or name other `columns`."
            )
        labels = words(frame[self.label])
        places = places_of(words(frame[self.sequence_column]), path, self.sequence_column)
        return _Rows(names, values, labels.to_numpy(dtype=object), places, dialect)

    @cached_property
    def parts(self) -> dict[Part | None, list[str]]:
        """Names of the sequences of each part; under None, those that are to be labelled."""
        rows = self.rows
        asked = [name for name, own in rows.places.items() if rows.labels[own[-1]] == ""]
        named = sorted(set(rows.places) - set(asked))
        order = [named[k] for k in np.random.default_rng(self.seed).permutation(len(named))]
        tested, held = (max(round(share * len(order)), 1) for share in (self.test, self.validation))
        return {
            "test": order[:tested],
            "val": order[tested : tested + held],
            "train": order[tested + held :],
            None: asked,
        }

    @cached_property
    def fingerprint(self) -> Fingerprint:
        return {"rows": content_sum([*self.rows[:4]])}

    @property
    def features(self) -> int:
        return len(self.rows.names)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        found = sorted(set(self.rows.labels) - {""})
        if self.recorded is not None:
            known = tuple(self.recorded.vocabulary)
            if unknown := [name for name in found if name not in known]:
                raise DataError(
                    f"{self.source}: classes must be those that the checkpoint was trained on, "
                    f"{', '.join(known)}; unknown to it: {', '.join(unknown)}. Leave their rows out, or "
                    "train again."
                )
            return known
        if len(found) < 2:
            raise DataError(
                f"{self.source}: at least two classes must occur in `{self.label}`; got {found}. Is it the "
                "column of labels?"
            )
        return tuple(found)

    @cached_property
    def schema(self) -> Schema:
        if self.recorded is not None:
            return self.recorded
        return Schema(
            columns={"features": self.rows.names},
            scales=scales(self.rows.names, self._scaler),
            dialect=self.rows.dialect[:4],
            vocabulary=list(self.vocabulary),
            settings=dict(self.readings),
        )

    @cached_property
    def _scaler(self) -> Scaler:
        rows = self.rows
        if self.recorded is not None:
            return self.recorded.scaler(rows.names)
        self._require("train")
        trained = np.concatenate([rows.places[name] for name in self.parts["train"]])
        return Scaler.fit(rows.values[trained], rows.names)

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor]:
        """Standardised features (rows, F) and classes (rows,) of the whole table."""
        values = self._scaler.standardise(self.rows.values, self.rows.names, self.source)
        number = {name: k for k, name in enumerate(self.vocabulary)} | {"": UNKNOWN}
        labels = torch.tensor([number[name] for name in self.rows.labels])
        return torch.from_numpy(values.astype(np.float32)), labels

    @cached_property
    def _stretches(self) -> list[tuple[str, int]]:
        """Sequence and first step of each stretch of the training part."""
        return [
            (name, start)
            for name in self.parts["train"]
            for start in range(0, len(self.rows.places[name]), self.steps)
        ]

    def _require(self, part: Part) -> None:
        if not self.parts[part]:
            labelled = sum(len(names) for which, names in self.parts.items() if which is not None)
            raise DataError(
                f"{self.source}: the {part} part of its {labelled} labelled sequences is empty. Bring three "
                f"or more in `{self.sequence_column}`."
            )

    def setup(self, stage: str | None = None) -> None:
        """Read and standardise the table; calling it again changes nothing."""
        super().setup(stage)
        _ = self._tensors

    def order(self, part: Part) -> EpochOrder:
        self._require(part)
        if part == "train":
            return shuffled(len(self._stretches), self.batch_size)
        return in_order(len(self.parts[part]), self.batch_size)

    def sequence(self, part: Part, key: int) -> LabelledSequence:
        if part != "train":
            return self._named(self.parts[part][key])
        name, start = self._stretches[key]
        return self._named(name, slice(start, start + self.steps))

    def _named(self, name: str, steps: slice = slice(None)) -> LabelledSequence:
        values, labels = self._tensors
        own = torch.from_numpy(self.rows.places[name][steps])
        return LabelledSequence(values[own], labels[own], name)

    def predict_dataloader(self) -> DataLoader[ClassificationBatch]:
        """Sequences whose last step has no label; the test part if there is none."""
        if not (asked := self.parts[None]):
            return super().predict_dataloader()
        groups = [asked[k : k + self.batch_size] for k in range(0, len(asked), self.batch_size)]
        return loader(
            [self.batch([self._named(name) for name in names]) for names in groups], one_by_one(len(groups))
        )

    def describe(self) -> list[tuple[str, str]]:
        rows = self.rows
        lengths = [len(own) for own in rows.places.values()]
        late = "no inputs" if self.label_delay is None else f"known {self.label_delay} steps late"
        return [
            ("source", self.source),
            (
                "sequences",
                f"{len(lengths)} of {min(lengths)} to {max(lengths)} steps, by `{self.sequence_column}`",
            ),
            ("features", ", ".join(rows.names)),
            ("classes", ", ".join(self.vocabulary)),
            ("labels", f"`{self.label}`, {late}"),
            *(
                (part or "to be labelled", f"{len(names)} sequences")
                for part, names in self.parts.items()
                if names
            ),
        ]


class _Rows(NamedTuple):
    """A table as it was read."""

    names: tuple[str, ...]
    """(F,) of the features"""
    values: np.ndarray
    """(rows, F) float64"""
    labels: np.ndarray
    """(rows,) names of the classes, empty where there is none"""
    places: dict[str, np.ndarray]
    """Rows of each sequence, by its name"""
    dialect: Dialect
