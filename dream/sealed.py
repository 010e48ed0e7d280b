"""The one sealed file: safetensors with a header and a checksum of all that the file holds.

States, learners, stores and notes are written through here, so that a changed byte is refused when it is
read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from dream.errors import CheckpointError
from dream.files import MOST, opened, read_bytes, write_atomic

Path = str | os.PathLike[str]

FIRST_EDITION = (
    "of the first edition of the cell, which this one does not continue. Make it anew, or stay with the "
    "version that wrote it"
)
"""The end of a refusal of what an earlier version wrote; all of them had that edition."""


def write_sealed(path: Path, header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors`, which may share memory, and `header` to a file, whole or not at all.

    Raises:
        CheckpointError: the file cannot be written.
    """
    try:
        write_atomic(path, _seal(header, tensors))
    except OSError as error:
        raise CheckpointError(f"`path` must be writable: {os.fspath(path)}; {error.strerror}.") from None


def read_sealed(path: Path, writer: str, kind: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return header and tensors of a file that `write_sealed` wrote with a header that holds `kind`.

    Raises:
        CheckpointError: no such file, of another kind, or changed since `writer` wrote it.
    """
    try:
        with opened(path, links=True) as file:
            header, tensors, whole = _unseal(file.read())
    except FileNotFoundError:
        raise CheckpointError(f"`path` must be a file that {writer} wrote; {path} does not exist.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"`path` must be a file that {writer} wrote; {path} is damaged: {error}."
        ) from None
    found = {name: header.get(name) for name in kind}
    if found != kind:
        wanted, held = (" ".join(filter(None, part.values())) for part in (kind, found))
        earlier = [str(version) for version in range(int(kind.get("version", 0)))]
        if found.get("format") == kind["format"] and found.get("version") in earlier:
            held += f", {FIRST_EDITION}"
        raise CheckpointError(
            f"`path` must be a file that {writer} wrote: {wanted}; {path} holds {held or 'no such header'}."
        )
    if not whole:
        raise CheckpointError(f"`path` must be a file that {writer} wrote; {path} is damaged.")
    return header, tensors


def note(content: Any) -> bytes:
    """Plain values as the bytes of a sealed file: their JSON is its one tensor."""
    text = bytearray(json.dumps(content, allow_nan=False).encode())
    return _seal({}, {"json": torch.frombuffer(text, dtype=torch.uint8)})


def read_note(path: Path, most: int = MOST) -> Any:
    """Return the content of a file of at most `most` bytes, no link, that holds a `note`.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else, or was changed.
    """
    try:
        _, tensors, whole = _unseal(read_bytes(path, most))
    except SafetensorError:
        whole = False
    if not whole or tensors.keys() != {"json"}:
        raise ValueError(f"{os.fspath(path)} is damaged")
    return json.loads(tensors["json"].numpy().tobytes())


def checksum(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a file holds, so that no changed byte goes unnoticed."""
    parts = sorted(tensors.items())
    listed = [sorted(header.items()), [(name, str(value.dtype), list(value.shape)) for name, value in parts]]
    digest = hashlib.sha256(json.dumps(listed, allow_nan=False).encode())
    for _, value in parts:
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        if plain.numel():  # an empty tensor may have a stride of 0, which no view as bytes allows
            # NumPy knows no bfloat16 and no float8
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _seal(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bytes:
    apart = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    return to_safetensors(apart, {**header, "checksum": checksum(header, apart)})


def _unseal(content: bytes) -> tuple[dict[str, str], dict[str, Tensor], bool]:
    """Header and tensors of a file's content, and whether they are those that were sealed."""
    # not by `safe_open`, which calls torch from within, where an interrupt becomes another error
    tensors = from_safetensors(content)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    seal = header.pop("checksum", None)
    return header, tensors, seal == checksum(header, tensors)
