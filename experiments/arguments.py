"""What was typed, made ready for the parser: shipped names, checkpoints, and the settings inside them."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from dream.errors import CheckpointError, ConfigError
from experiments import configs
from experiments.folders import CONFIG, SAVES, RunSettings
from lightning_modules import checkpoints

FROM_DATA = {
    "channels": "channels",
    "covariate_count": "covariates",
    "known_count": "known",
    "calendar_count": "calendar",
    "aged_count": "aged",
    "look_back": "look_back",
    "horizon": "horizon",
    "season": "season",
    "task": "task",
    "inputs": "inputs",
    "label_delay": "label_delay",
    "symbols": "symbols",
}
"""What a model takes from its data: attribute of the data, argument of the model."""
VERBATIM = ("model.sampling.prompt",)
"""Settings that are text as it stands; the parser would take such flags for YAML, such as `null` or `Title: text`."""


def resolve(argv: list[str]) -> tuple[list[str], str]:
    """`argv` as the parser takes it, and the name of the experiment.

    Configurations by their path and first, then a checkpoint's own settings, then the flags: the later beats the earlier,
    so that what was typed always wins. ``dream check NAME`` means ``-c NAME``; a checkpoint without ``-c`` brings the
    configuration of its run; ``--seed_everything``, as in Lightning, means ``--seed``.

    Raises:
        ConfigError: no such configuration.
        CheckpointError: no such checkpoint, or one that is not ours.
    """
    command, *rest = argv
    if command == "check" and rest and not rest[0].startswith("-"):
        rest.insert(0, "-c")
    paths, others = split_configs(rest)
    flags = [flag.replace("--seed_everything", "--seed") for flag in others]
    names = [flag.partition("=")[0] for flag in flags]
    if any(name in ("-h", "--print_config") or (name.startswith("--") and name.endswith("help")) for name in names):
        return [command, *_as_flags(paths), *flags], ""
    checkpoint = None
    if "--ckpt_path" in names:
        place = names.index("--ckpt_path")
        _, equals, value = flags[place].partition("=")
        if not equals and place + 1 < len(flags):
            value = flags.pop(place + 1)
        checkpoint = checkpoint_file(value, "last" if command == "fit" else "best")
        flags[place] = f"--ckpt_path={checkpoint}"
    elif command in ("validate", "test", "predict"):
        raise ConfigError("`--ckpt_path` must name a run's folder or a checkpoint file; got none. Train with `dream fit`.")
    if not paths:
        home = checkpoint.parent.parent / CONFIG if checkpoint else None
        if home is None or not home.is_file():
            raise ConfigError("-c must name an experiment; got none. `dream config list` shows the shipped ones.")
        paths = [home]
    held = checkpoint_flags(checkpoint, paths) if checkpoint else []
    last = paths[-1]
    experiment = last.parent.name if last.name == CONFIG else last.stem
    return [command, *_as_flags(paths), *held, *_with_texts(flags)], experiment


def split_configs(words: list[str]) -> tuple[list[Path], list[str]]:
    """The files that every ``-c`` among `words` names, and the other words, both in their order.

    Raises:
        ConfigError: ``-c`` without a name, or a name that is neither a YAML file nor shipped.
    """
    paths, others, rest = [], [], list(words)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag in ("-c", "--config"):
            if not equals and not rest:
                raise ConfigError("-c must be followed by a YAML file or a shipped name; see `dream config list`.")
            paths.append(configs.resolve(value if equals else rest.pop(0)))
        else:
            others.append(flag + equals + value)
    return paths, others


def split_own(words: list[str], names: Collection[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The values of each of `names` among `words`, ``--name=value`` or ``--name value ...``, and the other words."""
    own: dict[str, list[str]] = {}
    others, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name not in names:
            others.append(word)
            continue
        own[name] = [value] if equals else []
        while not equals and rest and not rest[0].startswith("-"):
            own[name].append(rest.pop(0))
    return own, others


def whole_number(name: str, values: list[str], least: int = 1) -> int:
    """The number that the flag `name` was given.

    Raises:
        ConfigError: it is none, or below `least`.
    """
    text = " ".join(values)
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"`--{name}` must be a whole number of at least {least}; got {text!r}.", key=name)
    return int(text)


def one_folder(own: dict[str, list[str]], name: str) -> Path:
    """The folder that ``--folder`` names among the flags of `split_own`; `name` beside the runs if it was not given.

    Raises:
        ConfigError: it names none, or several.
    """
    given = own.get("--folder", [str(Path(RunSettings.folder) / name)])
    if len(given) != 1 or not given[0]:
        raise ConfigError(f"`--folder` must be one folder, in quotes if there are spaces in it; got {given}.", key="folder")
    return Path(given[0])


def _as_flags(paths: list[Path]) -> list[str]:
    return [word for path in paths for word in ("-c", str(path))]


def _with_texts(flags: list[str]) -> list[str]:
    """`flags` with those in `VERBATIM` as configurations, in which a text can be quoted.

    Raises:
        ConfigError: a text that is not UTF-8.
    """
    made, rest = [], list(flags)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        name = flag.removeprefix("--").replace(".init_args.", ".")
        if name not in VERBATIM or not (equals or rest):
            made.append(flag + equals + value)
            continue
        text = value if equals else rest.pop(0)
        if any(0xD800 <= ord(sign) < 0xE000 for sign in text):
            raise ConfigError(f"`{name}` must be text in UTF-8; got {text!r}.", key=name)
        section, *keys = name.split(".")
        nest: Any = text
        for key in reversed([section, "init_args", *keys]):
            nest = {key: nest}
        made += ["-c", yaml.safe_dump(nest)]
    return made


def checkpoint_flags(checkpoint: Path, paths: list[Path]) -> list[str]:
    """The model's settings in a checkpoint as flags, but for those that the data sets.

    Raises:
        CheckpointError: it is of another task than the one that the configurations `paths` name.
    """
    held = checkpoints.read(checkpoint, task(paths))["hyper_parameters"]
    settings = {key: value for key, value in leaves(held) if key not in FROM_DATA.values()}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    return [f"--model.{key}={text}" for key, text in texts.items()]


def task(paths: list[Path]) -> str | None:
    """Name of the module that the configurations `paths` name last; None where none does."""
    try:
        contents = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths]
    except yaml.YAMLError:
        return None  # the parser says where
    models = [content["model"] for content in contents if isinstance(content, dict) and "model" in content]
    named = [str(model["class_path"]) for model in models if isinstance(model, dict) and "class_path" in model]
    return named[-1].rpartition(".")[2] if named else None


def checkpoint_file(path: str, name: str) -> Path:
    """The checkpoint that `path` means: a file, or the one called `name` in a run's folder.

    Raises:
        CheckpointError: there is none.
    """
    folder = Path(path) / SAVES
    if not Path(path).is_dir():
        return checkpoints.local(path).resolve()
    found = checkpoints.newest(folder) if name == "last" else folder / f"{name}.ckpt"
    if found is None or not found.is_file():
        raise CheckpointError(f"`ckpt_path` must be a run's folder or a checkpoint file; {folder} holds no {name} one.")
    return found.resolve()


def leaves(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The values of a nested dictionary with their dotted keys."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        found += leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return found
