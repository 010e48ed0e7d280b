"""Folders of runs: one for each, which knows the command that started it."""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from dream import sums
from dream.errors import ConfigError, DataError
from experiments.ending import say

log = logging.getLogger(__name__)

RUN = "run.json"
"""Command of a run, written before anything else."""
CONFIG = "config.yaml"
"""All settings of a run."""
SAVES = "checkpoints"
"""Folder of its checkpoints."""
LOCK = ".lock"
PLAN = "plan.json"
"""Facts that all runs of a comparison or a sweep share."""
RESULTS = "results.json"
"""Results of a run, written when it has ended well."""


@dataclass
class RunSettings:
    """Folder and tracking of a run.

    Args:
        folder: Every run gets a folder of its own below this one.
        name: Name of that folder; experiment and time of day if not given. Must not exist yet, unless the run
            goes on.
        wandb: Weights & Biases: offline (`wandb sync` can send it later), online or disabled; the environment
            variable WANDB_MODE, else offline, if not given.
        project: Name of the project in Weights & Biases.
        group: Name of the group of runs that this one belongs to, in Weights & Biases.
        table: Print the table and the paths of what was written at the end.
        test: Test the best checkpoint of a fit. Otherwise nothing looks at the test part, and the results are
            the metrics of the best validation.
    """

    folder: str = "runs"
    name: str | None = None
    wandb: Literal["offline", "online", "disabled"] | None = None
    project: str = "dream"
    group: str | None = None
    table: bool = True
    test: bool = True


def run_folder(settings: RunSettings, experiment: str, command: list[str]) -> Path:
    """Make a new folder for this run.

    Raises:
        ConfigError: `run.name` is taken, or the folder can't be made.
    """
    parent = Path(settings.folder)
    stem = settings.name or f"{experiment}-{datetime.now():%Y-%m-%d_%H-%M-%S}"
    for attempt in range(1000):
        folder = parent / (f"{stem}-{attempt + 1}" if attempt else stem)
        try:
            folder.mkdir(parents=True)
            write_run(folder, command)
        except FileExistsError:
            if settings.name is None:
                continue
            message = (
                f"`run.name` must be new; {folder} exists. Choose another, or go on with that run with "
                "--resume."
            )
            raise ConfigError(message, key="run.name") from None
        except OSError as error:
            raise ConfigError(
                f"`run.folder` must be writable; {folder}: {error.strerror}.", key="run.folder"
            ) from None
        return folder
    raise ConfigError(
        f"`run.folder` already holds 1000 runs called {stem}. Give `run.name`.", key="run.folder"
    )


def write_run(folder: Path, command: list[str]) -> None:
    """Write the command of the run in `folder`, a new one, and a name for its tracked run.

    Raises:
        OSError: the folder is not writable.
    """
    facts = {
        "command": without_resume(command),
        "tracked": uuid.uuid4().hex[:8],
        "started": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
    }
    sums.begin(folder)
    sums.write(folder, RUN, json.dumps(facts, indent=2) + "\n")


def read_run(folder: Path) -> dict[str, Any]:
    """Content of the file that `write_run` wrote; empty where there is none."""
    try:
        facts: dict[str, Any] = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts


def without_resume(command: list[str]) -> list[str]:
    """The command that started the run which `command` resumes, without secrets and ``--trust``."""
    # loads all tasks, which those who only read a folder don't need
    from lightning_modules.run.redaction import redacted

    kept, rest = [], iter(redacted(command))
    for word in rest:
        name, equals, _ = word.partition("=")
        if name == "--trust" and not equals:
            next(rest, None)  # its value
        if name not in ("--resume", "--trust"):
            kept.append(word)
    return kept


def results(folder: Path) -> dict[str, dict[str, float]] | None:
    """Results of the run in `folder`; None where it has not ended, or the file is damaged."""
    try:
        found: dict[str, dict[str, float]] = json.loads((folder / RESULTS).read_text(encoding="utf-8"))[
            "results"
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def require_as_written(folder: Path, *used: str) -> None:
    """Refuse what was altered in the folder of a run, and name in a note what was altered and is not used.

    Args:
        folder: That of a run, a comparison or a sweep.
        *used: Names of the files that are read, beside its configuration and its Python.

    Raises:
        CheckpointError: naming the files that differ.
    """
    if note := sums.altered(folder, used):
        say(f"note: {note}")
    elif (folder / RUN).is_file() and not (folder / sums.SUMS).is_file():
        say(f"note: the files of {folder} are not sealed, so that nobody can tell whether they were changed.")


def earlier_run(settings: RunSettings, command: list[str]) -> Path | None:
    """Return the run that ``--resume`` continues; None where there is none yet.

    It is the one of that name, or else the newest of the same command that has not ended, or else the newest
    that has.

    Raises:
        ConfigError: the folder of that name holds something else.
    """
    parent = Path(settings.folder)
    if settings.name is not None:
        folder = parent / settings.name
        if folder.is_dir() and not read_run(folder):
            # hidden ones are locks, and files half written
            if any(not path.name.startswith(".") and path.name != sums.SUMS for path in folder.iterdir()):
                raise ConfigError(
                    f"`run.name` must be that of a run; {folder} holds something else.", key="run.name"
                )
            write_run(folder, command)  # it was stopped between making the folder and this
        return folder if folder.is_dir() else None
    wanted = without_resume(command)
    runs = [path.parent for path in parent.glob(f"*/{RUN}") if read_run(path.parent).get("command") == wanted]
    return max(runs, key=lambda run: (results(run) is None, (run / RUN).stat().st_mtime), default=None)


def hold(folder: Path) -> FileLock:
    """Lock the run in `folder` for this process, and remove files that a killed one left half written.

    The lock lasts until it is released or the process ends.

    Raises:
        ConfigError: another process runs it.
    """
    lock = FileLock(folder / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"the run in {folder} is still going on in another process. Wait for it, or stop it."
        ) from None
    except (OSError, NotImplementedError) as error:
        log.warning(
            "%s cannot be locked (%s): see to it that no other process goes on with this run.", folder, error
        )
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)
    return lock


def claim(folder: Path, identity: dict[str, Any], held: bool, unfinished: Iterable[Path] = ()) -> None:
    """Make `folder` the folder of runs that share `identity`.

    Args:
        folder: Made if it is not there.
        identity: What the runs have in common, without secrets.
        held: Whether there are runs in it that are done.
        unfinished: Folders of runs that are not, which are removed where they are of another identity.

    Raises:
        ConfigError: it holds runs of another identity, or can't be written.
    """
    path, text = folder / PLAN, json.dumps(identity, indent=2) + "\n"
    require_as_written(folder, PLAN)
    if not (path.is_file() and path.read_text() == text):
        if held:
            message = f"`--folder` {folder} holds runs with other settings. Give --folder=NEW, or delete it."
            raise ConfigError(message, key="folder")
        for run in unfinished:
            shutil.rmtree(run, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sums.begin(folder)
        sums.write(folder, PLAN, text)
    except OSError as error:
        raise ConfigError(f"`--folder` must be writable; {folder}: {error.strerror}.", key="folder") from None


def require_claimed(folder: Path) -> None:
    """Refuse to start another run below a folder that was claimed and is gone since.

    Raises:
        DataError: it was deleted or moved away.
    """
    if not (folder / PLAN).is_file():
        raise DataError(
            f"the folder {folder} is gone: it was deleted or moved while its runs were going on. Move it "
            "back and give the same command, or start anew."
        )


def discard_if_empty(folder: Path) -> None:
    """Remove the folder of a run that was refused before it wrote anything.

    So is the default folder around it, if it is empty then.
    """
    if any(path.is_file() and path.name not in (RUN, LOCK, sums.SUMS) for path in folder.rglob("*")):
        return
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent == Path(RunSettings.folder):
        with suppress(OSError):  # other runs are in it
            folder.parent.rmdir()
