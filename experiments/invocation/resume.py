"""Checks whether a saved run or checkpoint belongs to the settings of this command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dream.errors import CheckpointError, ConfigError
from dream.files import inside
from experiments.invocation import configs
from experiments.invocation.arguments import leaves
from lightning_modules.base import TaskModule
from lightning_modules.redaction import HIDDEN
from lightning_modules.run import checkpoints

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


def refuse_other_settings(path: Path, here: dict[str, Any]) -> None:
    """Refuse to resume a run that was started with other settings than `here`.

    Those in the file `path` are compared, as far as they decide the results.

    Raises:
        ConfigError: naming the settings that differ.
        CheckpointError: the file is damaged.
    """
    if not path.exists():
        return  # the run was stopped before it wrote them
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
