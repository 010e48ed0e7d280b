"""`OnlineObject`: what the row-by-row objects share: rows as dictionaries, a learner made at the first row,
files.

Shapes: D input columns, H rows ahead, C targets (classes for classification).
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from numbers import Real
from typing import Any, ClassVar, Self, get_args

import numpy as np
import torch
from torch import Tensor

from dream import DREAMConfig
from dream.errors import DataError, nearest, shown
from dream.sealed import read_sealed, write_sealed
from lightning_modules.checks import require
from lightning_modules.data.limits import LARGEST
from lightning_modules.stream import Reading, Shape, StreamLearner, StreamNetwork, Updates
from lightning_modules.stream.rules import Moves

VERSION = 1


class OnlineObject(ABC):
    """A `StreamLearner` that starts from nothing at the first row it learns from.

    Rows are dictionaries from column name to number; None or NaN is a missing value. The first row that is
    learnt from settles the columns, whose order in later rows does not matter. Asking for a prediction
    changes nothing.

    Args:
        config: The DREAM layer; its `input_dim` is set to what it reads.
        reading: How rows are made relative, and what the head sees of them.
        updates: How the weights follow the stream.
        moves: What `updates` moves: the head, or all weights. The fast weights learn in any case.
        seed: Seed of the first weights; nothing else is random, and no other random numbers are disturbed.
    """

    kind: ClassVar[str]
    """Name of the class in files."""

    def __init__(
        self,
        config: DREAMConfig,
        reading: Reading,
        updates: Updates,
        moves: Moves = "head",
        seed: int = 0,
    ) -> None:
        require("config", type(config).__name__, isinstance(config, DREAMConfig), "a DREAMConfig")
        require("moves", moves, moves in get_args(Moves), "head or all")
        require("seed", seed, isinstance(seed, int), "a whole number")
        self.config, self.reading, self.updates, self.moves, self.seed = config, reading, updates, moves, seed
        self.columns: list[str] = []
        self.learner: StreamLearner | None = None

    @classmethod
    def _kind(cls) -> dict[str, str]:
        """What marks a file as one of this class."""
        return {"format": "dream-learner", "version": str(VERSION), "kind": cls.kind}

    @abstractmethod
    def _shape(self) -> Shape:
        """What the learner reads and says, once the columns are known."""

    def _extra(self) -> dict[str, Any]:
        """What else makes this object, as JSON: arguments of ``__init__`` and what was met since."""
        return {}

    def _set_extra(self, extra: Mapping[str, Any]) -> None:  # noqa: B027 - most have met nothing
        """Put back what `_extra` gave of what was met since."""

    def _tensors(self) -> dict[str, Tensor]:
        """Tensors that are carried besides the learner's."""
        return {}

    def _load_tensors(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027 - most carry nothing
        """Put back what `_tensors` gave."""

    def _start(self) -> StreamLearner:
        """The learner, made if this is the first row."""
        if self.learner is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                network = StreamNetwork(self._shape(), self.reading, self.config)
            self.learner = StreamLearner(network, self.updates, self.moves)
        return self.learner

    def _row(self, x: Mapping[str, float | None], settle: bool = False) -> Tensor:
        """The values of `x` in the order of the columns, (D,); the first row that may settle them does.

        Raises:
            DataError: a column too many or too few, or a value that is not a number.
        """
        if not isinstance(x, Mapping) or not x:
            raise DataError(
                f"`x` must be a dictionary from column name to number, not empty; got {shown(x)}."
            )
        named = {str(name): value for name, value in x.items()}
        columns = self.columns or list(named)
        for name in named:
            if name not in columns:
                raise DataError(
                    f"`x` must hold the columns of the first row; `{name}` is new. {nearest(name, columns)}"
                )
        for name in columns:
            if name not in named:
                raise DataError(
                    f"`x` must hold the columns of the first row; `{name}` is missing. Give None if not "
                    "known."
                )
        values = [number(f"x['{name}']", named[name]) for name in columns]
        if settle:
            self.columns = columns
        return torch.tensor(values, dtype=torch.float64)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a safetensors file, whole or not at all; `load` goes on as if nothing had
        happened.

        Raises:
            CheckpointError: the file cannot be written.
        """
        settings = dict(
            config=asdict(self.config),
            reading=asdict(self.reading),
            updates=asdict(self.updates),
            moves=self.moves,
            seed=self.seed,
            extra=self._extra(),
        )
        header = self._kind() | {"settings": json.dumps(settings), "columns": json.dumps(self.columns)}
        write_sealed(path, header, {} if self.learner is None else self.learner.tensors() | self._tensors())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The object that `save` wrote.

        Raises:
            CheckpointError: no such file, damaged, or of another kind or version.
        """
        header, tensors = read_sealed(path, f"save of a {cls.__name__}", cls._kind())
        settings = json.loads(header["settings"])
        extra = settings.pop("extra")
        settings |= dict(
            config=DREAMConfig(**settings["config"]),
            reading=Reading(**settings["reading"]),
            updates=Updates(**settings["updates"]),
        )
        new = cls(**settings, **extra.get("arguments", {}))
        new.columns = json.loads(header["columns"])
        new._set_extra(extra)
        if tensors:
            new._start().load(tensors)
            new._load_tensors(tensors)
        return new


def number(name: str, value: object) -> float:
    """`value` as a float, NaN where it is None.

    Raises:
        DataError: it is neither a number nor None.
    """
    if value is None:
        return float("nan")
    if isinstance(value, Real) and not abs(value) > LARGEST:  # type: ignore[operator] # of numbers.Real
        return float(value)
    raise DataError(
        f"`{name}` must be a finite number of at most {LARGEST:.1e} in size, or None where it is missing; "
        "got "
        f"{shown(value)}."
    )


def known_number(name: str, value: object) -> float:
    """`value` as a float.

    Raises:
        DataError: it is not a finite number.
    """
    result = number(name, value)
    if result != result:
        raise DataError(f"`{name}` must be a finite number; got {value!r}. Leave out the rows without one.")
    return result


def plain(label: Hashable) -> Hashable:
    """A label as JSON keeps it: NumPy's scalars as Python's.

    Raises:
        DataError: it is neither a text, a number nor a truth value, or NaN, or a number too long to print.
    """
    value = label.item() if isinstance(label, np.generic) else label
    if not isinstance(value, (str, int, float, bool)) or value != value:
        raise DataError(f"`y` must be a text, a number, True or False; got {shown(label)}.")
    try:
        json.dumps(value)
    except ValueError:
        raise DataError(f"`y` must be a number of at most 4,300 digits; got {shown(label)}.") from None
    return value
