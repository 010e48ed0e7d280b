"""YAML files by path or by shipped name, each read once.

The shipped ones are found from a checkout and from an installed wheel alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dream.errors import ConfigError, nearest


class Loader(yaml.SafeLoader):
    """Reads YAML in which 1e-3 is a number, as in the parser of the settings."""


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads, so that it quotes the text 1e-3."""


for each in (Loader, Dumper):
    number = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    each.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))


@dataclass(frozen=True)
class YamlFile:
    """A YAML file as it was when it was read."""

    path: Path
    text: str
    content: Any


def load(path: Path, loader: type[yaml.SafeLoader] = Loader) -> YamlFile:
    """Read a YAML file.

    Raises:
        ConfigError: It is not readable, or not YAML in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return YamlFile(path, text, yaml.load(text, loader))
    except (OSError, ValueError, yaml.YAMLError) as error:
        place = getattr(error, "problem_mark", None)
        at = f"line {place.line + 1}, column {place.column + 1}: " if place else ""
        raise ConfigError(
            f"{path} must be YAML in UTF-8; {at}{getattr(error, 'problem', None) or error}."
        ) from None


def read(path: Path) -> YamlFile:
    """Read the configuration of an experiment.

    Raises:
        ConfigError: It is not readable, not YAML, or holds no sections.
    """
    file = load(path)
    if not isinstance(file.content, dict):
        raise ConfigError(
            f"{path} must hold sections such as model, data and trainer; got {type(file.content).__name__}."
        )
    return file


def resolve(name_or_path: str, kind: str = "") -> Path:
    """Return the file that ``-c NAME_OR_PATH``, or ``--space`` for the kind `spaces`, names.

    A path that exists comes before a shipped name.

    Raises:
        ConfigError: It is neither.
    """
    path, known = Path(name_or_path), shipped(kind)
    if path.is_file():
        return path
    if name_or_path not in known:
        flag, what, key = ("`--space`", "space", "space") if kind else ("-c", "name", None)
        hint = nearest(name_or_path, known)
        raise ConfigError(
            f"{flag} must be a YAML file or a shipped {what}; got {name_or_path!r}. {hint}", key=key
        )
    return known[name_or_path]


def shipped(kind: str = "") -> dict[str, Path]:
    """Name and path of every shipped experiment, or of every file in the folder `kind`, such as `spaces`."""
    return {path.stem: path for path in sorted((folder() / kind).glob("*.yaml"))}


def folder() -> Path:
    """Folder of the shipped YAML files: inside the package in a wheel, beside it in a checkout."""
    here = Path(__file__).parent.parent
    inside = here / "configs"
    return inside if inside.is_dir() else here.parent / "configs"


def headline(path: Path) -> str:
    """Purpose of a shipped file: the comment in its first line."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()
