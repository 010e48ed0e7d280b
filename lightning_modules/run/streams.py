"""The stream of a run: what its model has become by the rows that came after its training.

``dream predict --learn`` keeps it in the folder `STREAM` of the run, as one sealed file, and goes on from it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dream.errors import CheckpointError
from dream.files import inside
from dream.sealed import read_sealed, write_sealed
from lightning_modules.data.place import Place, StreamEnd

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
    header, tensors = read_sealed(path, "`dream predict --learn`", KIND)
    if header.get("weights") != weights:
        raise CheckpointError(
            f"{path} began with the weights of another checkpoint than the one that is named. Name that one, "
            f"or move {path.parent} away to begin a new stream."
        )
    try:
        place = TypeAdapter(Place).validate_json(header["place"], strict=True)
        facts = dict(json.loads(header["facts"]))
        if place.rows < 1 or not 0 <= place.training <= place.rows:
            raise ValueError(f"it counts {place.rows} rows, {place.training} of them to train on")
    except (LookupError, TypeError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise CheckpointError(f"{path} is damaged: {reason}. Move it away to begin a new stream.") from None
    return StreamEnd(place, tensors, facts)


def write(run: Path, weights: str, end: StreamEnd) -> Path:
    """Write the stream of a run, whole or not at all; see `read`.

    Raises:
        CheckpointError: it cannot be written; the one before is intact.
    """
    (run / STREAM).mkdir(exist_ok=True)
    path = inside(run, STREAM, STATE)
    place, facts = json.dumps(asdict(end.place)), json.dumps(dict(end.facts))
    write_sealed(path, KIND | {"weights": weights, "place": place, "facts": facts}, end.tensors)
    return path
