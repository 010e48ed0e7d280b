"""The YAML files that ship with the project, found by name from a checkout and from an installed wheel
alike."""

from __future__ import annotations

from pathlib import Path

import yaml

from dream.errors import ConfigError, nearest


def folder() -> Path:
    """Where the shipped YAML files are: inside the package of a wheel, beside it in a checkout."""
    here = Path(__file__).parent.parent
    inside = here / "configs"
    return inside if inside.is_dir() else here.parent / "configs"


def shipped(kind: str = "") -> dict[str, Path]:
    """Name and path of every shipped configuration of an experiment, or of what the folder `kind` holds:
    `spaces`."""
    return {path.stem: path for path in sorted((folder() / kind).glob("*.yaml"))}


def resolve(name_or_path: str) -> Path:
    """The file that ``-c NAME_OR_PATH`` means: a path that exists, else a shipped configuration of that name.

    Raises:
        ConfigError: it is neither, or the file is not YAML.
    """
    path = Path(name_or_path)
    if not path.is_file():
        known = shipped()
        if name_or_path not in known:
            hint = nearest(name_or_path, known)
            raise ConfigError(f"-c must be a YAML file or a shipped name; got {name_or_path!r}. {hint}")
        return known[name_or_path]
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        place = getattr(error, "problem_mark", None)
        at = f"line {place.line + 1}, column {place.column + 1}: " if place else ""
        raise ConfigError(
            f"{path} must be YAML in UTF-8; {at}{getattr(error, 'problem', None) or error}."
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} must hold sections such as model, data and trainer; got {type(content).__name__}."
        )
    return path


def headline(path: Path) -> str:
    """The comment that a shipped file starts with: what it is for, in one line."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()
