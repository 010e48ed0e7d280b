"""Tensors of many streams as records of bytes, which take no more memory than the values do.

Shapes: N streams, B bytes of a stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


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
