"""Tensors of many streams as rows of bytes, which take no more memory than the values do.

Shapes: N streams, B bytes of a stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Key = str | int
"""Of a stream."""
_KEY = 150  # bytes that a key takes in memory, and its row's number


class Field(NamedTuple):
    """One tensor of a stream."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


Layout = tuple[Field, ...]
"""The tensors of a stream, in the order of its bytes."""


def layout_of(tensors: Mapping[str, Tensor]) -> Layout:
    """The layout of streams whose tensors (N, ...) these are."""
    return tuple(Field(name, value.dtype, tuple(value.shape[1:])) for name, value in tensors.items())


def pack(tensors: Mapping[str, Tensor]) -> np.ndarray:
    """The bytes of each stream, uint8 (N, B), of tensors (N, ...)."""
    flat = [value.detach().cpu().reshape(len(value), -1).contiguous() for value in tensors.values()]
    return np.concatenate([value.view(torch.uint8).numpy() for value in flat], axis=1)


def unpack(content: np.ndarray, layout: Layout) -> dict[str, Tensor]:
    """The tensors (N, ...) whose bytes are `content` (N, B)."""
    tensors, start = {}, 0
    for field in layout:
        stop = start + field.dtype.itemsize * int(np.prod(field.shape, dtype=np.int64))
        part = torch.from_numpy(np.array(content[:, start:stop]).reshape(-1))
        tensors[field.name], start = part.view(field.dtype).reshape(len(content), *field.shape), stop
    return tensors


class Table:
    """Streams of one layout."""

    def __init__(self, keys: Sequence[Key], content: np.ndarray) -> None:
        self.keys, self.content = list(keys), content
        """The key of each row; the rows, uint8 (at least N, B)."""
        self.rows = {key: row for row, key in enumerate(self.keys)}

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.content.nbytes + _KEY * len(self)

    def put(self, keys: Sequence[Key], content: np.ndarray) -> None:
        """Keep `content` (N, B) of these streams in place of what there was."""
        for key in keys:
            if self.rows.setdefault(key, len(self.keys)) == len(self.keys):
                self.keys.append(key)
        if len(self) > len(self.content):
            room = np.empty((len(self) + len(self) // 4, self.content.shape[1]), dtype=np.uint8)
            room[: len(self.content)] = self.content
            self.content = room
        self.content[[self.rows[key] for key in keys]] = content

    def drop(self, key: Key) -> None:
        """Forget a stream; the last row takes its place."""
        row, last = self.rows.pop(key), self.keys.pop()
        if last != key:
            self.keys[row], self.rows[last] = last, row
            self.content[row] = self.content[len(self)]

    def of(self, keys: Sequence[Key]) -> np.ndarray:
        """The content of these streams, (N, B), a copy."""
        rows: np.ndarray = self.content[[self.rows[key] for key in keys]]
        return rows
