"""What was typed, made ready for the parser: shipped names, checkpoints, and the settings inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dream.errors import CheckpointError, ConfigError
from experiments import configs


def resolve(argv: list[str]) -> tuple[list[str], str]:
    """`argv` with every configuration's name replaced by its path, and the name of the experiment.

    ``dream check NAME`` means ``-c NAME``; a checkpoint without ``-c`` brings the configuration of its run.

    Raises:
        ConfigError: no such configuration.
    """
    argv = list(argv)
    if argv[0] == "check" and len(argv) > 1 and not argv[1].startswith("-"):
        argv.insert(1, "-c")
    experiment = ""
    for k, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag not in ("-c", "--config"):
            continue
        place = k if equals else k + 1
        if place >= len(argv):
            raise ConfigError("-c must be followed by a YAML file or a shipped name; see `dream config list`.")
        path = configs.resolve(value if equals else argv[place])
        argv[place] = f"{flag}={path}" if equals else str(path)
        experiment = path.parent.name if path.name == "config.yaml" else path.stem
    flags = [argument.partition("=")[0] for argument in argv]
    asks = any(flag in ("-h", "--print_config") or flag.endswith("help") for flag in flags)
    if not experiment and not asks:
        argv[1:1] = ["-c", str(_config_of_checkpoint(argv))]
        experiment = argv[0]
    return argv, experiment


def _config_of_checkpoint(argv: list[str]) -> Path:
    for k, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag == "--ckpt_path" and (equals or k + 1 < len(argv)):
            config = checkpoint_file(value if equals else argv[k + 1]).parent.parent / "config.yaml"
            if config.is_file():
                return config
    raise ConfigError("-c must name an experiment; got none. `dream config list` shows the shipped ones.")


def checkpoint_file(path: str) -> Path:
    """The checkpoint that `path` means: a file, or the best one of a run's folder.

    Raises:
        CheckpointError: there is none.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "checkpoints" / "best.ckpt"
    if not file.is_file():
        raise CheckpointError(f"`--ckpt_path` must be a run's folder or a checkpoint file; {file} does not exist.")
    return file


def read_settings(path: str) -> dict[str, Any]:
    """The model's settings in a checkpoint.

    Raises:
        CheckpointError: the file is damaged, or not a checkpoint of ours.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        settings: dict[str, Any] = checkpoint["hyper_parameters"]
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"`--ckpt_path` must be a checkpoint that `dream fit` wrote; {path}: {first}") from error
    return settings


def leaves(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The values of a nested dictionary with their dotted keys."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        found += leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return found
