"""The YAML files that ship with the project, found by name from a checkout and from an installed wheel alike."""

from __future__ import annotations

from pathlib import Path

from dream.errors import ConfigError, nearest


def folder() -> Path:
    """Where the shipped YAML files are: inside the package of a wheel, beside it in a checkout."""
    here = Path(__file__).parent
    inside = here / "configs"
    return inside if inside.is_dir() else here.parent / "configs"


def shipped() -> dict[str, Path]:
    """Name and path of every shipped configuration."""
    return {path.stem: path for path in sorted(folder().glob("*.yaml"))}


def resolve(name_or_path: str) -> Path:
    """The file that ``-c NAME_OR_PATH`` means: a path that exists, else a shipped configuration of that name.

    Raises:
        ConfigError: it is neither.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    found = shipped().get(name_or_path)
    if found is None:
        raise ConfigError(
            f"-c must be a YAML file or a shipped name; got {name_or_path!r}. {nearest(name_or_path, shipped())}"
        )
    return found


def headline(path: Path) -> str:
    """The comment that a shipped file starts with: what it is for, in one line."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()
