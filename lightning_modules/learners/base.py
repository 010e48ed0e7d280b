"""`OnlineObject`: what the row-by-row objects share: rows as dictionaries, a learner made at the first row, files.

Shapes: D input columns, H rows ahead, C targets (classes for classification).
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from numbers import Real
from typing import Any, ClassVar, Self, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from dream import DREAMConfig
from dream.errors import CheckpointError, DataError, nearest
from dream.files import write_atomic
from dream.numerics import largest
from lightning_modules.base import require
from lightning_modules.stream import Reading, Shape, StreamLearner, StreamNetwork, Updates
from lightning_modules.stream.rules import Moves

VERSION = 1
LARGEST = largest(torch.float32)


class OnlineObject(ABC):
    """A `StreamLearner` that starts from nothing at the first row it learns from.

    Rows are dictionaries from column name to number; None or NaN is a missing value. The first row that is learnt from
    settles the columns, whose order in later rows does not matter. Asking for a prediction changes nothing.

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
            raise DataError(f"`x` must be a dictionary from column name to number, not empty; got {x!r}.")
        named = {str(name): value for name, value in x.items()}
        columns = self.columns or list(named)
        for name in named:
            if name not in columns:
                raise DataError(f"`x` must hold the columns of the first row; `{name}` is new. {nearest(name, columns)}")
        for name in columns:
            if name not in named:
                raise DataError(f"`x` must hold the columns of the first row; `{name}` is missing. Give None if not known.")
        values = [number(f"x['{name}']", named[name]) for name in columns]
        if settle:
            self.columns = columns
        return torch.tensor(values, dtype=torch.float64)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a safetensors file, whole or not at all; `load` goes on as if nothing had happened.

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
        header = {"format": "dream-learner", "version": str(VERSION), "kind": self.kind}
        header |= {"settings": json.dumps(settings), "columns": json.dumps(self.columns)}
        held = {} if self.learner is None else self.learner.tensors() | self._tensors()
        tensors = {name: value.detach().clone().contiguous() for name, value in held.items()}
        payload = to_safetensors(tensors, header | {"checksum": checksum(header, tensors)})
        try:
            write_atomic(path, payload)
        except OSError as error:
            raise CheckpointError(f"`path` must be writable: {os.fspath(path)}; {error.strerror}.") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The object that `save` wrote.

        Raises:
            CheckpointError: no such file, damaged, or of another kind or version.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise CheckpointError(f"`path` must be a file that {cls.__name__}.save wrote; {path} does not exist.") from None
        except (SafetensorError, OSError) as error:
            message = f"`path` must be a file that {cls.__name__}.save wrote; {path} is damaged: {error}."
            raise CheckpointError(message) from None
        found = (header.get("format"), header.get("version"), header.get("kind"))
        if found != ("dream-learner", str(VERSION), cls.kind):
            raise CheckpointError(f"`path` must hold dream-learner {VERSION} of a {cls.__name__}; {path} holds {found}.")
        if header.pop("checksum", None) != checksum(header, tensors):
            raise CheckpointError(f"`path` must be a file that {cls.__name__}.save wrote; {path} is damaged.")
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


def checksum(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a file holds, so that no changed byte goes unnoticed."""
    parts = sorted(tensors.items())
    listed = [sorted(header.items()), [(name, str(value.dtype), list(value.shape)) for name, value in parts]]
    digest = hashlib.sha256(json.dumps(listed).encode())
    for _, value in parts:
        digest.update(value.numpy(force=True).tobytes())
    return digest.hexdigest()


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
        f"`{name}` must be a finite number of at most {LARGEST:.1e} in size, or None where it is missing; got {value!r:.80}."
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
        DataError: it is neither a text, a number nor a truth value, or NaN.
    """
    value = label.item() if isinstance(label, np.generic) else label
    if not isinstance(value, (str, int, float, bool)) or value != value:
        raise DataError(f"`y` must be a text, a number, True or False; got {label!r}.")
    return value
