"""Tensors of many streams as records of bytes, which take no more memory than the values do.

Shapes: N streams, B bytes of a stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from dream.errors import StateError
from lightning_modules.store.keys import Key, bits_of

_KEY = 150  # bytes that a key and the number of its record take in memory


class Field(NamedTuple):
    """Name, type and shape of one tensor of a stream."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


Layout = tuple[Field, ...]
"""The tensors of a stream, in the order of its bytes."""


def require_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that a file cannot hold.

    Raises:
        StateError: there are none, or one is not dense, in memory and of a type that safetensors knows.
    """
    if not isinstance(tensors, Mapping) or not tensors:
        raise StateError(
            f"what a stream carries must be a dictionary of tensors, at least one; got {tensors!r:.80}."
        )
    for name, value in tensors.items():
        if not isinstance(name, str) or not name.isprintable():
            raise StateError(f"names of tensors must be printable texts; got {name!r:.80}.")
        if not isinstance(value, Tensor):
            raise StateError(
                f"what a stream carries must be tensors; `{name}` is of type {type(value).__name__}."
            )
        if value.layout != torch.strided or value.is_meta or not _storable(value.dtype):
            raise StateError(
                "what a stream carries must be dense tensors with values, of a type that safetensors knows; "
                f"`{name}` is {value.dtype}, {value.layout} on {value.device}."
            )


@cache
def _storable(dtype: torch.dtype) -> bool:
    try:
        to_safetensors({"x": torch.empty(0, dtype=dtype)})
    except KeyError:
        return False
    return True


def layout_of(tensors: Mapping[str, Tensor]) -> Layout:
    """Layout of streams that have these tensors (N, ...)."""
    return tuple(Field(name, value.dtype, tuple(value.shape[1:])) for name, value in tensors.items())


def pack(tensors: Mapping[str, Tensor]) -> np.ndarray:
    """Records (N, B) of uint8, one for each stream, of tensors (N, ...)."""
    flat = [value.detach().cpu().reshape(len(value), -1).contiguous() for value in tensors.values()]
    return np.concatenate([value.view(torch.uint8).numpy() for value in flat], axis=1)


def unpack(content: np.ndarray, layout: Layout) -> dict[str, Tensor]:
    """Tensors (N, ...) from their records `content` (N, B), the inverse of `pack`."""
    tensors, start = {}, 0
    for name, dtype, shape in layout:
        stop = start + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        part = torch.from_numpy(np.array(content[:, start:stop]).reshape(-1))
        tensors[name], start = part.view(dtype).reshape(len(content), *shape), stop
    return tensors


class RecordTable:
    """Records of streams that have one layout, in memory.

    A record is there from the one step on that enters its key, after its content was written: wherever a call
    is interrupted, every key has the content of before or after it.
    """

    def __init__(self, keys: Sequence[Key], content: np.ndarray) -> None:
        self.places = {key: place for place, key in enumerate(keys)}
        """Row of each key's record in `content`."""
        self.content = content
        """Records, uint8 (at least N, B)."""
        self.used = len(self.places)
        """Rows of `content` that are in use or were."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def keys(self) -> list[Key]:
        return list(self.places)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.content.nbytes + _KEY * len(self)

    def fits(self, keys: Sequence[Key]) -> bool:
        """Whether there is room for the records of these streams."""
        return self.used + sum(key not in self.places for key in keys) <= len(self.content)

    def with_room(self, keys: Sequence[Key]) -> RecordTable:
        """A copy with room for the records of these streams and for some more."""
        room = len(self) + sum(key not in self.places for key in keys)
        content = np.empty((room + room // 4, self.content.shape[1]), dtype=np.uint8)
        content[: len(self)] = self.all()
        return RecordTable(self.keys, content)

    def put(self, keys: Sequence[Key], content: np.ndarray) -> None:
        """Keep the records `content` (N, B) of these streams, which `fits`, in place of those there were."""
        new = [key for key in keys if key not in self.places]
        rows = dict(zip(new, range(self.used, self.used + len(new)), strict=True))
        self.used += len(new)
        self.content[[rows[key] if key in rows else self.places[key] for key in keys]] = content
        self.places.update(rows)

    def drop(self, key: Key) -> None:
        """Remove a stream if it is there."""
        self.places.pop(key, None)

    def of(self, keys: Sequence[Key]) -> np.ndarray:
        """A copy of the records of these streams, (N, B)."""
        records: np.ndarray = self.content[[self.places[key] for key in keys]]
        return records

    def all(self) -> np.ndarray:
        """The records of all keys, in their order, (N, B)."""
        return self.content[: self.used] if self.used == len(self) else self.of(self.keys)


@dataclass
class StateShard:
    """Records of all streams whose keys' hashes begin with the same bits, in memory.

    A call that was interrupted may be made again.
    """

    tables: dict[Layout, RecordTable] = field(default_factory=dict)
    changed: bool = False

    def __len__(self) -> int:
        return sum(map(len, self.tables.values()))

    @property
    def keys(self) -> list[Key]:
        return [key for table in self.tables.values() for key in table.keys]

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return sum(table.size for table in self.tables.values())

    def layout(self, key: Key) -> Layout | None:
        """Layout of a stream; None if it is not known."""
        return next((layout for layout, table in self.tables.items() if key in table.places), None)

    def put(self, keys: Sequence[Key], layout: Layout, content: np.ndarray) -> None:
        """Keep the records `content` (N, B) of these streams."""
        self.changed = True
        table = self.tables.get(layout) or RecordTable([], content[:0])
        if not table.fits(keys):
            table = table.with_room(keys)
        self.tables[layout] = table
        table.put(keys, content)
        for other in [other for other in self.tables if other != layout]:
            self._drop(keys, other)

    def drop(self, key: Key) -> None:
        """Remove a stream if it is there."""
        self.changed = True
        for layout in list(self.tables):
            self._drop([key], layout)

    def _drop(self, keys: Sequence[Key], layout: Layout) -> None:
        table = self.tables[layout]
        for key in keys:
            table.drop(key)
        if not len(table):
            del self.tables[layout]

    def halves(self, bits: str, most: int) -> dict[str, StateShard]:
        """Shards of at most `most` keys that hold what this one, of these bits, does; it stays as it is."""
        if len(self) <= most:
            return {bits: self}
        parts = {bits + bit: StateShard(changed=True) for bit in "01"}
        for layout, table in self.tables.items():
            names = [bits_of(key)[: len(bits) + 1] for key in table.keys]
            for name, part in parts.items():
                if keys := [key for key, place in zip(table.keys, names, strict=True) if place == name]:
                    part.tables[layout] = RecordTable(keys, table.of(keys))
        return {
            name: shard for half, part in parts.items() for name, shard in part.halves(half, most).items()
        }
