"""The newest run below a folder: what `LATEST` means wherever a run is asked for."""

from __future__ import annotations

import logging
from pathlib import Path

from dream.errors import CheckpointError
from dream.files import read_json

log = logging.getLogger(__name__)

RUN = "run.json"
"""Command of a run, written before anything else."""
SAVES = "checkpoints"
"""Folder of its checkpoints."""
FOLDER = "runs"
"""Folder below which runs are, unless another is named."""
LATEST = "latest"
"""Word that stands for the newest run, where a run is asked for; a folder of that name is ``./latest``."""


def newest_run(parent: Path) -> Path:
    """Return the newest run below `parent` that has saved a checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    runs: dict[Path, tuple[str, int]] = {}
    for path in parent.glob(f"*/{RUN}"):
        try:
            if any((path.parent / SAVES).glob("*.ckpt")):
                started = read_json(path).get("started", "")
                runs[path.parent] = started if isinstance(started, str) else "", path.stat().st_mtime_ns
        except CheckpointError as error:
            log.warning("%s Its run is passed over; name it if you mean it.", error)
    if not runs:
        raise CheckpointError(
            f"`{LATEST}` means the newest run in `run.folder` with a checkpoint; {parent} holds none. Train "
            "with `dream fit`, or name the run."
        )
    return max(runs, key=lambda run: runs[run])
