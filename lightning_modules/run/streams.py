"""The streams of a run: what its model has become by the rows that came after its training.

Wherever they go on, it is from their newest state: that of ``dream predict --learn``, which keeps it in the
folder `STREAM` of the run, as one sealed file, or else where the run's own test ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dream.errors import CheckpointError
from dream.files import inside
from dream.sealed import read_sealed, write_sealed
from lightning_modules.data.place import StreamEnd, from_plain
from lightning_modules.run import checkpoints

STREAM = "stream"
"""Folder of a run."""
STATE = "state.safetensors"
KIND = {"format": "dream-stream", "version": "2"}


def newest(checkpoint: Path, tested: Mapping[str, StreamEnd]) -> dict[str, StreamEnd]:
    """The ends of a run's streams from which they go on; none where none has begun.

    Args:
        checkpoint: Weights that they go on with.
        tested: Ends of the run's own test, as the checkpoint has them.

    Raises:
        CheckpointError: see `read`.
    """
    home = checkpoint.resolve().parent.parent
    if not (home / STREAM).exists():
        return dict(tested)
    return read(home, checkpoints.digest(checkpoint.resolve())) or dict(tested)


def read(run: Path, weights: str) -> dict[str, StreamEnd]:
    """Return the ends of the streams in the folder of a run, by name; none where there are none.

    Args:
        run: Folder of the run.
        weights: SHA-256 of the checkpoint that is predicted with.

    Raises:
        CheckpointError: they are damaged, or began with the weights of another checkpoint.
    """
    path = inside(run, STREAM, STATE) if (run / STREAM).exists() else run / STREAM / STATE
    if not path.exists():
        return {}
    try:
        header, tensors = read_sealed(path, "`dream predict --learn`", KIND)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} Put it back, or move {path.parent} away to begin again where the run's own test ended."
        ) from None
    if header.get("weights") != weights:
        raise CheckpointError(
            f"{path} began with the weights of another checkpoint than the one that is named. Name that one, "
            f"or move {path.parent} away to begin a new stream."
        )
    try:
        content: dict[str, dict[str, Any]] = {
            name: {**part, "tensors": {}} for name, part in json.loads(header["streams"]).items()
        }
        names = list(content)
        for key, value in tensors.items():
            number, _, name = key.partition(".")
            content[names[int(number)]]["tensors"][name] = value
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is inconsistent: {error!r}. Move it away to begin a new stream."
        ) from None
    return from_plain(content, str(path))


def write(run: Path, weights: str, ends: Mapping[str, StreamEnd]) -> Path:
    """Write the ends of the streams of a run, whole or not at all; see `read`.

    Raises:
        CheckpointError: they cannot be written; what was there before is intact.
    """
    (run / STREAM).mkdir(exist_ok=True)
    path = inside(run, STREAM, STATE)
    content = {name: end.plain() for name, end in ends.items()}
    tensors = {
        f"{number}.{name}": value
        for number, end in enumerate(content.values())
        for name, value in end.pop("tensors").items()
    }
    write_sealed(path, KIND | {"weights": weights, "streams": json.dumps(content, allow_nan=False)}, tensors)
    return path
