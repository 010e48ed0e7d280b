"""A configuration of a public set or a generator with a file of one's own: `--data.path` alone."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import yaml

from dream.errors import DREAMWarning
from experiments.invocation import configs, explain
from lightning_modules.data.base import TaskData

_PATHS = ("--data.path", "--data.init_args.path")
_CLASSES = ("--data", "--data.class_path")


def with_own_file(files: Sequence[configs.YamlFile], names: Collection[str]) -> list[configs.YamlFile]:
    """Configurations whose data read a file, where one of the flags `names` gives its path.

    The class of a set that has no path gives way to the one of its task for files of one's own, with its
    settings as far as that has them; a note tells what the set decided and no longer does.
    """
    if not set(names) & set(_PATHS) or set(names) & set(_CLASSES):
        return list(files)
    return [_changed(file) for file in files]


def _changed(file: configs.YamlFile) -> configs.YamlFile:
    data = file.content.get("data") if isinstance(file.content, dict) else None
    data = {"class_path": data} if isinstance(data, str) else data
    if not isinstance(data, dict) or (cls := _class(data.get("class_path"))) is None:
        return file
    own = _class(f"{'.'.join(cls.__module__.split('.')[:2])}.{cls.for_own_files}")
    if own is None or "path" in explain.settings(cls) or "path" not in explain.settings(own):
        return file
    given, allowed = data.get("init_args") or {}, explain.settings(own)
    kept = cls.kept_for_own_files(given)
    settings = {name: value for name, value in given.items() if name in allowed} | kept
    content = deepcopy(file.content)
    path = f"{own.__module__.rpartition('.')[0]}.{own.__name__}"
    content["data"] = {"class_path": path, "init_args": settings}
    _tell(cls, own, settings)
    return replace(file, content=content, text=yaml.dump(content, Dumper=configs.Dumper, sort_keys=False))


def _tell(cls: type[TaskData], own: type[TaskData], settings: dict[str, Any]) -> None:
    """Note what came with the set."""
    parameters = (inspect.signature(base).parameters.values() for base in reversed(own.__mro__))
    usual = {parameter.name: parameter.default for part in parameters for parameter in part}
    names = [name for name in cls.set_by_name if name in usual]
    said = [f"{name}={_text(settings.get(name, usual[name]))}" for name in names]
    flags = " and ".join(f"`data.{name}`" for name in names)
    now = f" What {cls.__name__} decides is now {', '.join(said)}: set {flags} for others."
    warnings.warn(
        f"`data.path` is read by {own.__name__} in place of {cls.__name__}; all other settings of the "
        f"configuration stay.{now if said else ''}",
        DREAMWarning,
        stacklevel=2,
    )


def _text(value: Any) -> str:
    """A setting as YAML has it in one line."""
    return "null" if value is None else str(value)


def _class(path: Any) -> type[TaskData] | None:
    """A data class of this project at an import path; None for anything else."""
    if not isinstance(path, str) or not path.startswith("lightning_modules."):
        return None
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) and issubclass(found, TaskData) else None
