"""`content_sum`: the checksum of any content, by which a run that resumes knows its data again."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dream.errors import DataError

Fingerprint = dict[str, str]
"""Parts of data, such as their columns and their values, and the checksum of each."""


def content_sum(*values: Any) -> str:
    """SHA-256 of `values`: numbers, texts, arrays, tensors, and containers and data classes of them.

    Equal contents have equal sums, in every process and on every machine. Anything else counts by what pickle
    makes of it.

    Raises:
        DataError: a value has no content that could be summed up.
    """
    digest = hashlib.sha256()
    _add(digest, values)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    """Add a value with its kind and length, so that no two contents look alike."""
    if isinstance(value, Tensor) and value.layout == torch.strided:
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(f"tensor {plain.dtype} {list(plain.shape)}:".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, np.ndarray) and value.dtype.hasobject:
        _add(digest, value.tolist())
    elif isinstance(value, np.ndarray):
        digest.update(f"array {value.dtype.str} {list(value.shape)}:".encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    elif isinstance(value, bytes | str):
        content = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        digest.update(f"{type(value).__name__} {len(content)}:".encode())
        digest.update(content)
    elif value is None or isinstance(value, bool | int | float | complex | np.generic):
        digest.update(f"{type(value).__name__} {value!r};".encode())
    elif isinstance(value, Mapping):
        _add(digest, list(value.items()))
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)}:".encode())
        for part in value:
            _add(digest, part)
    elif isinstance(value, set | frozenset):
        _add(digest, sorted(content_sum(part) for part in value))
    elif is_dataclass(value) and not isinstance(value, type):
        _add(digest, [type(value).__name__, vars(value)])
    else:
        try:
            content = pickle.dumps(value, protocol=5)
        except Exception as error:
            raise DataError(
                f"the data hold a {type(value).__name__}, whose content cannot be told: {error}. Define "
                "`fingerprint` in their class."
            ) from None
        _add(digest, content)
