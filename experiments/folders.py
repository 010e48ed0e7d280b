"""Where a run is written down: one new folder for each."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from dream.errors import ConfigError


@dataclass
class RunSettings:
    """Where a run is written down.

    Args:
        folder: Every run gets a folder of its own below this one.
        name: Name of that folder; experiment and time of day if not given. Must not exist yet.
        wandb: Weights & Biases: offline (`wandb sync` can send it later), online or disabled; the environment variable
            WANDB_MODE, else offline, if not given.
        project: Name of the project in Weights & Biases.
        group: Name of the group of runs that this one belongs to, in Weights & Biases.
        table: Print the table and the paths of what was written at the end.
    """

    folder: str = "runs"
    name: str | None = None
    wandb: Literal["offline", "online", "disabled"] | None = None
    project: str = "dream"
    group: str | None = None
    table: bool = True


def run_folder(settings: RunSettings, experiment: str) -> Path:
    """A new folder for this run.

    Raises:
        ConfigError: `run.name` is taken, or the folder can't be made.
    """
    parent = Path(settings.folder)
    stem = settings.name or f"{experiment}-{datetime.now():%Y-%m-%d_%H-%M-%S}"
    for attempt in range(1000):
        folder = parent / (f"{stem}-{attempt + 1}" if attempt else stem)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if settings.name is None:
                continue
            raise ConfigError(f"`run.name` must be new; {folder} exists. Choose another.", key="run.name") from None
        except OSError as error:
            raise ConfigError(f"`run.folder` must be writable; {folder}: {error.strerror}.", key="run.folder") from None
        return folder
    raise ConfigError(f"`run.folder` already holds 1000 runs called {stem}. Give `run.name`.", key="run.folder")


def discard_if_empty(folder: Path) -> None:
    """Remove the folder of a run that was refused before it wrote anything, and the default folder around it if empty."""
    if any(path.is_file() for path in folder.rglob("*")):
        return
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent == Path(RunSettings.folder):
        with suppress(OSError):  # other runs are in it
            folder.parent.rmdir()
