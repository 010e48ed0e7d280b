"""Checkpoint files that are whole or absent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from dream.errors import CheckpointError
from dream.files import write_atomic


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves through a temporary file in the same folder, so that a killed run leaves the old checkpoint or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            CheckpointError: the file cannot be written; the one before is untouched.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content.getvalue())
        except OSError as error:
            message = f"the checkpoint {path} could not be written: {error.strerror}. Free or change the disk."
            raise CheckpointError(message) from error
