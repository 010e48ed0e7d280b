"""Checks whether a saved run or checkpoint belongs to the settings of this command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from dream.errors import CheckpointError, ConfigError
from dream.files import inside
from experiments import folders
from experiments.folders import CONFIG, PLAN, RUN, SAVES
from experiments.invocation import configs
from experiments.invocation.arguments import leaves
from lightning_modules.base import TaskModule
from lightning_modules.checks import require
from lightning_modules.data import TaskData
from lightning_modules.data.fingerprint import Fingerprint, content_sum
from lightning_modules.redaction import HIDDEN
from lightning_modules.run import checkpoints
from lightning_modules.run.saving import TEST
from lightning_modules.run.tracking import JSONLLogger

_TRAINER = (
    "accelerator",
    "strategy",
    "devices",
    "num_nodes",
    "logger",
    "callbacks",
    "plugins",
    "enable_progress_bar",
    "max_time",
)
FREE = ("run.", "save.", "resume", *(f"trainer.{name}" for name in _TRAINER))
"""Settings that may differ on resume: where and how a run is run, not its results."""
MOST = 5  # differences that a message names
WAY_OUT = "or start anew in another folder"


def save_to_resume(folder: Path, settings: dict[str, Any], fingerprint: Fingerprint) -> Path | None:
    """Return the save from which the run in `folder` goes on; None if it begins, since nothing is saved yet.

    Args:
        folder: The run's.
        settings: All settings of this command, see `resolve_config`.
        fingerprint: That of its data.

    Raises:
        ConfigError: the run was started with other settings.
        CheckpointError: it was started on other data, or one of its files is missing or damaged.
    """
    saves, metrics = folder / SAVES, JSONLLogger(folder)
    newest = checkpoints.newest(saves)
    refuse_other_settings(folder / CONFIG, settings, any(saves.glob("*.ckpt")) or metrics.path.exists())
    if (data := folders.read_run(folder).get("data")) is not None:
        refuse_other_data(data["fingerprint"], fingerprint, folder)
    if newest is not None:
        saved = checkpoints.load(newest)
        refuse_other_data(saved.get("fingerprint"), fingerprint, folder)
        metrics.require(saved["progress"]["metrics"])
    elif (test := saves / TEST).is_file() and checkpoints.intact(test):
        refuse_other_data(checkpoints.load(test).get("fingerprint"), fingerprint, folder)
    return newest


def refuse_other_data(there: Fingerprint | None, here: Fingerprint, folder: Path) -> None:
    """Refuse data of another fingerprint than those that the run or runs in `folder` were started on.

    Raises:
        CheckpointError: naming what differs.
    """
    if there is None:
        raise CheckpointError(
            f"{folder} was written by a version of dream that did not record the data, so nobody can tell "
            f"whether they are still the same. Go on with that version, {WAY_OUT}."
        )
    changed = [name for name in dict.fromkeys((*there, *here)) if there.get(name) != here.get(name)]
    if changed:
        raise CheckpointError(
            f"the data have changed since {folder} was begun; what differs: {', '.join(changed[:MOST])}. Put "
            f"the data back, {WAY_OUT}."
        )


def read_data(settings: dict[str, Any], data: TaskData) -> dict[str, Any]:
    """Facts about the data of a run, for its `run.json`: sums of their settings and of their content."""
    return {"settings": content_sum(settings["data"]), "fingerprint": data.fingerprint}


def refuse_mixed_data(folder: Path, data: dict[str, Any]) -> None:
    """Refuse to add a run to a comparison or sweep whose runs read other data by the same settings.

    Args:
        folder: Folder of the comparison, of the sweep, or of any other runs, which may be of any data.
        data: Facts about the data of the run, see `read_data`.

    Raises:
        CheckpointError: naming what differs.
    """
    if not (folder / PLAN).is_file():
        return
    for path in sorted(folder.glob(f"*/{RUN}")):
        there = folders.read_run(path.parent).get("data")
        if there is not None and there["settings"] == data["settings"]:
            refuse_other_data(there["fingerprint"], data["fingerprint"], folder)


def refuse_other_settings(path: Path, here: dict[str, Any], begun: bool) -> None:
    """Refuse to resume a run that was started with other settings than `here`.

    Those in the file `path` are compared, as far as they decide the results.

    Args:
        path: The run's `config.yaml`.
        here: Settings of this command.
        begun: Whether the run has left anything that was made with its settings.

    Raises:
        ConfigError: naming the settings that differ.
        CheckpointError: the file is missing or damaged.
    """
    if not path.exists() and not begun:
        return  # the run was stopped before it wrote them
    if not path.exists():
        raise CheckpointError(
            f"{path} must hold the settings that the run was started with; it is missing. Put it back, "
            f"{WAY_OUT}."
        )
    try:
        there = configs.read(inside(path.parent, path.name)).content
    except ConfigError as error:
        raise CheckpointError(
            f"{path} must hold the settings of the run; it is damaged: {error} Start a new run."
        ) from None
    changed = differences(there, here)
    if changed:
        raise ConfigError(
            f"the run in {path.parent} was started with other settings: {'; '.join(changed[:MOST])}. Go on "
            "with those, or start a new run."
        )


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Settings that differ, without those that may."""
    theirs, ours = dict(leaves(there)), dict(leaves(here))
    names = [name for name in dict.fromkeys((*theirs, *ours)) if not name.startswith(FREE)]
    return [
        f"`{name}` {theirs.get(name)!r} there and {ours.get(name)!r} here"
        + (", which is to be given again" if HIDDEN in str(theirs.get(name)) else "")
        for name in names
        if theirs.get(name) != ours.get(name)
    ]


def refuse_trained(trainer: Namespace, checkpoint: Path) -> None:
    """Refuse to go on with a checkpoint that has trained as much as the Trainer's settings ask for.

    Raises:
        ConfigError: naming the setting.
    """
    held = checkpoints.read(checkpoint)
    epochs = held["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    for key, done in (("max_epochs", epochs), ("max_steps", held["global_step"])):
        most = trainer[key]
        rule = (
            f"above {done}, which {checkpoint} has trained, or no step is trained; `--from` instead of "
            "`--ckpt_path` trains that many more"
        )
        require(f"trainer.{key}", most, most in (None, -1) or most > done, rule)


def check_weights(model: TaskModule, checkpoint: str) -> None:
    """Refuse weights of another task or of other shapes, before anything is written.

    Raises:
        CheckpointError: naming the first that differs, and the settings that do.
    """
    loaded = checkpoints.read(checkpoint, type(model).__name__)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in loaded["state_dict"].items()}
    for name in dict.fromkeys([*expected, *found]):
        if expected.get(name) != found.get(name):
            changed = differences({"model": loaded["hyper_parameters"]}, {"model": dict(model.hparams)})
            raise CheckpointError(
                f"the checkpoint does not fit the model: `{name}` is {found.get(name)} in {checkpoint} and "
                f"{expected.get(name)} here. Settings that differ: {'; '.join(changed[:MOST])}. Leave out "
                "what changed them."
            )
