"""YAML files by path or by shipped name, each read once.

The shipped ones are found from a checkout and from an installed wheel alike.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from dream.errors import ConfigError, nearest
from dream.files import read_bytes

MOST = 2**20
"""Largest YAML file that is read, in bytes."""
DEEPEST = 100
"""Most levels of lists and sections in each other."""
PARTS = 20_000
"""Most values, lists and sections in a file, those that it repeats by aliases counted each time."""

_parser_load = jsonargparse.get_loader("yaml")


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


def flag_text(value: Any) -> str:
    """`value` as a flag has it, YAML in one line; a text is itself."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, default=str, allow_nan=False)
    except ValueError:  # JSON has no infinity
        text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=math.inf)
        return text.removesuffix("...\n").strip()


def load(path: Path, loader: type[yaml.SafeLoader] = Loader) -> YamlFile:
    """Read a YAML file of bounded size, which the user may have named by a link.

    Raises:
        ConfigError: It is not readable, not YAML in UTF-8, or beyond `MOST`, `DEEPEST` or `PARTS`.
    """
    try:
        text = read_bytes(path, MOST, links=True).decode()
        return YamlFile(path, text, parse(text, loader))
    except (OSError, ValueError, yaml.YAMLError) as error:
        place = getattr(error, "problem_mark", None)
        at = f"line {place.line + 1}, column {place.column + 1}: " if place else ""
        reason = getattr(error, "problem", None) or getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path} must be YAML in UTF-8; {at}{reason.splitlines()[0]}.") from None


def parse(text: str, loader: type[yaml.SafeLoader] = Loader) -> Any:
    """Return the value that YAML reads in `text`.

    Raises:
        yaml.YAMLError: It is no YAML, or beyond `DEEPEST` or `PARTS`.
        ValueError: A value, such as a date, is none.
    """
    _bound(yaml.parse(text, loader))
    return yaml.load(text, loader)


def bound_parser() -> None:
    """Let the parser of the settings read what it reads by itself in the same bounds.

    That is the text of a value, and a file that stands for a section or a list. And let it write defaults of
    a class derived from text or a number, such as members of Lightning's enumerations, as what they are.
    """
    jsonargparse.set_dumper("yaml", _dump)
    jsonargparse.set_loader("yaml", _parse_value, (yaml.YAMLError,))
    jsonargparse.Path.read_text = _read_section  # type: ignore[method-assign, assignment]


class _Plain(yaml.SafeDumper):
    """Writes values of derived classes as those of the built-in ones."""


_Plain.add_multi_representer(str, lambda dumper, value: dumper.represent_str(str.__str__(value)))
_Plain.add_multi_representer(int, lambda dumper, value: dumper.represent_int(int(value)))
_Plain.add_multi_representer(float, lambda dumper, value: dumper.represent_float(float(value)))


def _dump(data: Any) -> str:
    return yaml.dump(data, Dumper=_Plain, default_flow_style=False, allow_unicode=True, sort_keys=False)


def _parse_value(text: str) -> Any:
    if len(text) > MOST:
        raise yaml.YAMLError(f"it has more than {MOST:,} characters")
    _bound(yaml.parse(text, Loader))
    return _parser_load(text)


def _read_section(path: jsonargparse.Path) -> str:
    if str(path) == "-":
        raise ConfigError("a section or a list must be given in its place or in a file, not by `-`.")
    try:
        return read_bytes(os.fspath(path), MOST, links=True).decode()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def _bound(events: Iterator[Any]) -> None:
    """Refuse a text before anything is made of it: a few lines of aliases stand for billions of values."""
    entered: list[tuple[str | None, int]] = []
    sizes: dict[str, int] = {}
    total = 0
    for event in events:
        problem = ""
        if isinstance(event, yaml.CollectionStartEvent):
            entered.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = entered.pop()
            if anchor:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            # one that is not known is refused when the text is loaded
            total += sizes.get(str(event.anchor), 1)
            if any(anchor == event.anchor for anchor, _ in entered):
                problem = f"`{event.anchor}` holds itself"
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
        if total > PARTS:
            problem = f"it has more than {PARTS:,} values"
        if len(entered) > DEEPEST:
            problem = f"it has more than {DEEPEST} levels of lists and sections"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


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
