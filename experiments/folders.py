"""Folders of runs: one for each, which knows the command that started it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from argparse import ArgumentParser
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from dream import sums
from dream.errors import CheckpointError, ConfigError, DataError, shown
from dream.files import LONGEST_NAME, inside, is_name, json_text
from dream.runs import FOLDER, LATEST, RUN, SAVES, newest_run
from experiments import records
from experiments.ending import say
from experiments.invocation import configs

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
"""All settings of a run."""
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

    folder: str = FOLDER
    name: str | None = None
    wandb: Literal["offline", "online", "disabled"] | None = None
    project: str = "dream"
    group: str | None = None
    table: bool = True
    test: bool = True


def run_folder(settings: RunSettings, experiment: str, command: list[str], **facts: Any) -> Path:
    """Make a new folder for this run; see `write_run`.

    Raises:
        ConfigError: `run.name` is taken or no name of a folder, or the folder can't be made.
    """
    require_names(settings)
    if settings.name == LATEST:
        raise ConfigError(
            f"`run.name` must be another than {LATEST}, which stands for the newest run. Choose another, or "
            "go on with that run with --resume.",
            key="run.name",
        )
    parent = Path(settings.folder)
    stem = settings.name or f"{experiment}-{datetime.now():%Y-%m-%d_%H-%M-%S}"
    for attempt in range(1000):
        folder = parent / (f"{stem}-{attempt + 1}" if attempt else stem)
        try:
            folder.mkdir(parents=True)
            write_run(folder, command, **facts)
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


def require_names(settings: RunSettings) -> None:
    """Refuse a name that would put a run elsewhere than in its folder.

    Raises:
        ConfigError: `run.name` is no name of a folder, or `run.folder` is no path.
    """
    if settings.name is not None and not is_name(settings.name):
        raise ConfigError(
            f"`run.name` must be the name of a folder, without / and of at most {LONGEST_NAME} bytes; got "
            f"{shown(settings.name)}. Another place is `run.folder`.",
            key="run.name",
        )
    if not settings.folder or "\0" in settings.folder:
        raise ConfigError(
            f"`run.folder` must be the path of a folder; got {shown(settings.folder)}.", key="run.folder"
        )


def write_run(folder: Path, command: list[str], **facts: Any) -> None:
    """Write the command of the run in `folder`, a new one, a name for its tracked run, and more `facts`.

    Raises:
        OSError: the folder is not writable.
    """
    record = {
        "command": without_resume(command),
        "tracked": uuid.uuid4().hex[:8],
        "started": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        **facts,
    }
    sums.begin(folder)
    sums.write_atomic(folder, RUN, json_text(record, indent=2) + "\n")


def read_run(folder: Path) -> dict[str, Any]:
    """Content of the file that `write_run` wrote; empty where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        return records.read(folder / RUN, records.Run)
    except FileNotFoundError:
        return {}


def without_resume(command: list[str]) -> list[str]:
    """The command that started the run which `command` resumes, without secrets and ``--trust``."""
    # loads all tasks, which those who only read a folder don't need
    from lightning_modules.redaction import redacted

    kept, rest = [], iter(redacted(command))
    for word in rest:
        name, equals, _ = word.partition("=")
        if name == "--trust" and not equals:
            next(rest, None)  # its value
        if name not in ("--resume", "--trust"):
            kept.append(word)
    return kept


def results(folder: Path) -> dict[str, dict[str, float]] | None:
    """Results of the run in `folder`; None where it has not ended.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        found: dict[str, dict[str, float]] | None = records.read(folder / RESULTS, records.Results).get(
            "results"
        )
    except FileNotFoundError:
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


def settings_of(run: Path) -> RunSettings:
    """Return the settings `run` in the `config.yaml` of the run in a folder.

    Raises:
        ConfigError: the file cannot be read, or is damaged.
    """
    section = configs.read(inside(run, CONFIG)).content.get("run")
    try:
        return TypeAdapter(RunSettings).validate_python(section)
    except ValidationError:
        raise ConfigError(
            f"{run / CONFIG} must have a section `run` as dream wrote it; got {shown(section)}."
        ) from None


def earlier_run(settings: RunSettings, command: list[str], **facts: Any) -> Path | None:
    """Return the run that ``--resume`` continues; None where there is none yet.

    It is the one of that name, of which `LATEST` means the newest run, or else the newest of the same command
    that has not ended, or else the newest that has. The `facts` are for one that was stopped before it wrote
    them, see `write_run`.

    Raises:
        ConfigError: the folder of that name holds something else.
        CheckpointError: its facts are damaged, or there is no newest run.
    """
    require_names(settings)
    parent = Path(settings.folder)
    if settings.name == LATEST:
        return newest_run(parent)
    if settings.name is not None:
        folder = parent / settings.name
        if folder.is_dir() and not read_run(folder):
            # hidden ones are locks, and files half written
            if any(not path.name.startswith(".") and path.name != sums.SUMS for path in folder.iterdir()):
                raise ConfigError(
                    f"`run.name` must be that of a run; {folder} has no {RUN} that can be read. Put it back, "
                    "or choose another name.",
                    key="run.name",
                )
            write_run(folder, command, **facts)  # it was stopped between making the folder and this
        return folder if folder.is_dir() else None
    wanted = without_resume(command)
    runs: dict[Path, tuple[bool, float]] = {}
    for path in parent.glob(f"*/{RUN}"):
        try:
            if without_resume(read_run(path.parent).get("command") or []) == wanted:
                runs[path.parent] = results(path.parent) is None, path.stat().st_mtime
        except CheckpointError as error:
            log.warning("%s Its run is passed over; name it to go on with it.", error)
    for path in parent.glob(f"*/{SAVES}"):
        if not (path.parent / RUN).exists():
            log.warning("%s has no %s and is passed over; put it back to go on with it.", path.parent, RUN)
    return max(runs, key=lambda run: runs[run], default=None)


def add_run_folder(parser: ArgumentParser) -> None:
    """Let a command that takes `LATEST` for a run also take `--run.folder`, as its argument `runs`."""
    parser.add_argument(
        "--run.folder",
        type=Path,
        default=Path(RunSettings.folder),
        metavar="FOLDER",
        help=f"where {LATEST} is looked for (default: %(default)s)",
        dest="runs",
    )


def latest(parent: Path) -> Path:
    """Return the run that `LATEST` means, the newest below `parent`, and say which it is.

    Raises:
        CheckpointError: there is none.
    """
    newest = newest_run(parent)
    say(f"note: {LATEST} is {newest}.")
    return newest


def hold(folder: Path) -> FileLock:
    """Lock the run in `folder` for this process, and remove files that a killed one left half written.

    The lock lasts until it is released or the process ends.

    Raises:
        ConfigError: another process runs it.
    """
    lock = FileLock(inside(folder, LOCK), blocking=False)
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
    for place, _, names in os.walk(folder):  # which follows no link
        for name in names:
            if name.startswith(".") and name.endswith(".tmp"):
                Path(place, name).unlink(missing_ok=True)
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
        CheckpointError: the file with their identity is damaged.
    """
    path, text = folder / PLAN, json_text(identity, indent=2) + "\n"
    require_as_written(folder, PLAN)
    try:
        known = records.read(path, records.Plan)
    except FileNotFoundError:
        known = None
    if known != json.loads(text):
        if held:
            message = f"`--folder` {folder} holds runs with other settings. Give --folder=NEW, or delete it."
            raise ConfigError(message, key="folder")
        for run in unfinished:
            shutil.rmtree(run, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sums.begin(folder)
        sums.write_atomic(folder, PLAN, text)
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
    if any(name not in (RUN, LOCK, sums.SUMS) for _, _, names in os.walk(folder) for name in names):
        return
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent == Path(RunSettings.folder):
        with suppress(OSError):  # other runs are in it
            folder.parent.rmdir()
