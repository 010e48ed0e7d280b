"""The stream of a run: what its model has become by the rows that came after its training.

``dream predict --learn`` keeps it in the folder `STREAM` of the run, as one sealed file, and goes on from it.
"""

from __future__ import annotations

from pathlib import Path

from dream.errors import CheckpointError
from dream.files import inside
from dream.sealed import read_sealed, write_sealed
from lightning_modules.data.place import StreamEnd

STREAM = "stream"
"""Folder of a run."""
STATE = "state.safetensors"
KIND = {"format": "dream-stream", "version": "1"}


def read(run: Path, weights: str) -> StreamEnd | None:
    """Return the stream of a run; None where none has begun.

    Args:
        run: Folder of the run.
        weights: SHA-256 of the checkpoint that is predicted with.

    Raises:
        CheckpointError: it is damaged, or began with the weights of another checkpoint.
    """
    path = inside(run, STREAM, STATE) if (run / STREAM).exists() else run / STREAM / STATE
    if not path.exists():
        return None
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
    return StreamEnd.from_plain({**header, "tensors": tensors}, str(path))


def write(run: Path, weights: str, end: StreamEnd) -> Path:
    """Write the stream of a run, whole or not at all; see `read`.

    Raises:
        CheckpointError: it cannot be written; the one before is intact.
    """
    (run / STREAM).mkdir(exist_ok=True)
    path = inside(run, STREAM, STATE)
    content = end.plain()
    tensors = content.pop("tensors")
    write_sealed(path, KIND | {"weights": weights} | content, tensors)
    return path
