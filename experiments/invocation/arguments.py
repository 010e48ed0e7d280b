"""What was typed, made ready for the parser: shipped names, checkpoints, and the settings inside them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from dream.errors import CheckpointError, ConfigError, DREAMWarning
from experiments import folders
from experiments.folders import CONFIG, SAVES, RunSettings
from experiments.invocation import configs, own_code, presets
from lightning_modules.run import checkpoints
from lightning_modules.run.redaction import redacted

VERBATIM = ("model.sampling.prompt",)
"""Settings that are text as it stands; the parser would take such flags for YAML, such as `null` or
`Title: text`."""


def resolve(argv: list[str]) -> tuple[list[str], str]:
    """`argv` as the parser takes it, and the name of the experiment.

    Configurations come first, then a checkpoint's own settings or those of a preset, then the flags: the
    later beats the earlier, so that what was typed always wins. ``dream check NAME`` means ``-c NAME``; a
    checkpoint without ``-c`` brings the configuration of its run; ``--seed_everything``, as in Lightning,
    means ``--seed``. The Python files that the configurations name are loaded (`own_code`).

    Raises:
        ConfigError: no such configuration or preset, or a Python file that cannot be loaded.
        CheckpointError: no such checkpoint, or one that is not ours.
    """
    command, *rest = argv
    if command == "check" and rest and not rest[0].startswith("-"):
        rest.insert(0, "-c")
    paths, others = split_configs(rest)
    flags, preset = taken("--preset", [flag.replace("--seed_everything", "--seed") for flag in others])
    chosen = [] if preset is None else ["-c", yaml.safe_dump(presets.section(preset))]
    names = [flag.partition("=")[0] for flag in flags]
    if any(
        name in ("-h", "--print_config") or (name.startswith("--") and name.endswith("help"))
        for name in names
    ):
        return [command, *configurations(paths), *chosen, *_with_own(flags, paths)], ""
    checkpoint, run = None, None
    if "--ckpt_path" in names:
        if preset is not None:
            raise ConfigError(
                "`--preset` is for a model that is built anew; a checkpoint brings its own settings. Leave "
                "out either.",
                key="preset",
            )
        place = names.index("--ckpt_path")
        _, equals, value = flags[place].partition("=")
        if not equals and place + 1 < len(flags):
            value = flags.pop(place + 1)
        checkpoint = checkpoint_file(value, "last" if command == "fit" else "best")
        run = Path(value) if Path(value).is_dir() else None
        flags[place] = f"--ckpt_path={checkpoint}"
    elif command in ("validate", "test", "predict"):
        raise ConfigError(
            "`--ckpt_path` must name a run's folder or a checkpoint file; got none. Train with `dream fit`."
        )
    if not paths:
        home = checkpoint.parent.parent / CONFIG if checkpoint else None
        if home is None or not home.is_file():
            raise ConfigError(
                "-c must name an experiment; got none. `dream config list` shows the shipped ones."
            )
        paths = [home]
        if run is None and (file := next(own_files(paths), None)):
            raise ConfigError(
                f"{home} takes classes from {file.name} beside it, and a checkpoint file alone runs no code. "
                "If you trust "
                f"that run, name it: --ckpt_path {home.parent}"
            )
    kept = _kept(argv, paths, flags) if "--resume" in names else None
    held = checkpoint_flags(checkpoint, paths) if checkpoint else []
    files = configurations(paths, kept)
    return [command, *files, *chosen, *held, *_with_texts(_with_own(flags, paths, kept))], experiment_name(
        paths
    )


def experiment_name(paths: list[Path]) -> str:
    """What an experiment is called: as the last of its YAML files, or as the folder of one called
    `CONFIG`."""
    last = paths[-1].resolve()
    return last.parent.name if last.name == CONFIG else last.stem


def identity(paths: list[Path], flags: list[str], own: dict[str, bytes]) -> dict[str, Any]:
    """What runs of the same YAML files, flags and Python files beside them share, as JSON."""
    texts = [path.read_text(encoding="utf-8") for path in paths]
    code = {name: content.decode("utf-8", "replace") for name, content in own.items()}
    return {"experiment": redacted(texts), "flags": redacted(flags)} | ({"own": code} if code else {})


def refuse_changes(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """The runs below `folder` are of one `identity`; refuse to begin another if it was `before` and is `now`
    of another.

    Raises:
        ConfigError: a file was changed in between.
    """
    if now != before:
        raise ConfigError(
            f"a YAML or Python file of the experiment was changed after the first run in {folder} began. "
            "Change it back and "
            "give the same command, or start anew with --folder=NEW."
        )


def taken(name: str, words: list[str]) -> tuple[list[str], str | None]:
    """`words` without the flag `name`, and its value, the last one; None where it is not among them.

    Raises:
        ConfigError: it has no value.
    """
    others, found, rest = [], None, list(words)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag != name:
            others.append(flag + equals + value)
        elif equals or rest:
            found = value if equals else rest.pop(0)
        else:
            raise ConfigError(f"`{name}` must be followed by a value; got none.", key=name.removeprefix("--"))
    return others, found


def contents(paths: list[Path]) -> list[Any]:
    """What the YAML files hold; None for one that is damaged: the parser says where."""
    found = []
    for path in paths:
        try:
            found.append(yaml.safe_load(path.read_text(encoding="utf-8")))
        except yaml.YAMLError:
            found.append(None)
    return found


def own_files(paths: list[Path]) -> Iterator[Path]:
    """The Python files beside the configurations `paths` that they take classes from."""
    for path, content in zip(paths, contents(paths), strict=True):
        for class_path, *_ in own_code.class_paths(content):
            if file := own_code.file_of(class_path, [path.parent]):
                yield file


def configurations(paths: list[Path], kept: Path | None = None) -> list[str]:
    """The YAML files as words for the parser; their presets spelled out, and their own classes loaded, of a
    run that goes on from `kept`, its folder.

    Raises:
        ConfigError: no such preset, or a Python file that cannot be loaded.
    """
    first = [] if kept is None else [kept]
    own_code.begin([*first, *(path.parent for path in reversed(paths))])
    words = []
    for path, content in zip(paths, contents(paths), strict=True):
        changed = False
        for name, section, place, key in own_code.class_paths(content):
            if file := own_code.file_of(name, [*first, path.parent]):
                place[key], changed = own_code.load(name, file, section), True
        if isinstance(content, dict) and "preset" in content:
            content, changed = presets.spelled_out(content), True
        words += ["-c", yaml.safe_dump(content, sort_keys=False) if changed else str(path)]
    return words


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
                raise ConfigError(
                    "-c must be followed by a YAML file or a shipped name; see `dream config list`."
                )
            paths.append(configs.resolve(value if equals else rest.pop(0)))
        else:
            others.append(flag + equals + value)
    return paths, others


def split_own(words: list[str], names: Collection[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The values of each of `names` among `words`, ``--name=value`` or ``--name value ...``, and the other
    words."""
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
    """The folder that ``--folder`` names among the flags of `split_own`; `name` beside the runs if it was not
    given.

    Raises:
        ConfigError: it names none, or several.
    """
    given = own.get("--folder", [str(Path(RunSettings.folder) / name)])
    if len(given) != 1 or not given[0]:
        raise ConfigError(
            f"`--folder` must be one folder, in quotes if there are spaces in it; got {given}.", key="folder"
        )
    return Path(given[0])


def _with_own(flags: list[str], paths: list[Path], kept: Path | None = None) -> list[str]:
    """`flags` with the classes that they name in Python files beside the configurations `paths`, loaded."""
    places, made = (
        [*([] if kept is None else [kept]), *(path.parent for path in reversed(paths))],
        list(flags),
    )
    for number, flag in enumerate(flags):
        name, equals, value = flag.partition("=")
        section = name.removeprefix("--").removesuffix(".class_path")
        at = number if equals else number + 1
        if section not in own_code.KINDS or at == len(flags):
            continue
        class_path = value if equals else flags[at]
        if file := own_code.file_of(class_path, places):
            made[at] = f"{name}{equals}" * bool(equals) + own_code.load(class_path, file, section)
    return made


def _kept(argv: list[str], paths: list[Path], flags: list[str]) -> Path | None:
    """The folder of the run that ``--resume`` goes on with, if it keeps the Python files of `paths`; a note
    says which of them have been changed since."""
    if next(own_files(paths), None) is None:
        return None
    sections = [
        content["run"] for content in contents(paths) if isinstance(content, dict) and "run" in content
    ]
    values = {
        key: value for section in sections if isinstance(section, dict) for key, value in section.items()
    }
    for key in ("folder", "name"):
        if (typed := taken(f"--run.{key}", flags)[1]) is not None:
            values[key] = typed
    settings = RunSettings(values.get("folder", RunSettings.folder), values.get("name"))
    folder = Path(settings.folder) / settings.name if settings.name else folders.earlier_run(settings, argv)
    if folder is None or not (folder / CONFIG).is_file():
        return None
    for own in sorted(folder.rglob("*.py")):
        for now in (path.parent / own.relative_to(folder) for path in paths):
            if now.is_file() and now.read_bytes() != own.read_bytes():
                message = f"{now} was changed since the run began, which goes on with its own copy, {own}."
                warnings.warn(message, DREAMWarning, stacklevel=2)
    return folder


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
    settings = {key: value for key, value in leaves(held) if not key.startswith("shape.")}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    return [f"--model.{key}={text}" for key, text in texts.items()]


def task(paths: list[Path]) -> str | None:
    """Name of the module that the configurations `paths` name last; None where none does."""
    found = [
        (name, section) for content in contents(paths) for name, section, *_ in own_code.class_paths(content)
    ]
    named = [name for name, section in found if section == "model"]
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
        raise CheckpointError(
            f"`ckpt_path` must be a run's folder or a checkpoint file; {folder} holds no {name} one."
        )
    return found.resolve()


def leaves(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The values of a nested dictionary with their dotted keys."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        found += (
            leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
        )
    return found
