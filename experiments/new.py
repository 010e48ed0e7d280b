"""`dream new TASK FOLDER`: a small experiment that runs as it is, to edit."""

from __future__ import annotations

import argparse
import re
import secrets
import shlex
import shutil
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.tree import Tree

from dream.config import PRESETS
from dream.errors import ConfigError, nearest
from experiments.invocation import presets

TEMPLATES = Path(__file__).parent / "templates"
TASKS = tuple(sorted(path.name for path in TEMPLATES.iterdir() if (path / "config.yaml").is_file()))
NEXT = """
Next:
  dream check {config}
  dream fit -c {config} --run.name=first
  dream report runs/first
  dream sweep -c {config} --space {space}
{readme} says what each does, and has the others.
"""
_SETTING = re.compile(r"( {6})(\w+): ([^#]*?)(  #.*)?")  # of the layer, in a template's config.yaml


def main(argv: list[str]) -> int:
    """Run ``dream new`` with these arguments; return the exit code.

    Raises:
        ConfigError: no such task or preset, or a folder that is not empty or cannot be written.
    """
    parser = argparse.ArgumentParser(
        "dream new",
        usage="dream new TASK FOLDER [--preset NAME]",
        description="Write a small experiment that runs as it is: settings with what they do, Python to "
        "extend, commands.",
    )
    parser.add_argument("task", metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("folder", metavar="FOLDER", help="where to; it must not exist, or be empty")
    parser.add_argument(
        "--preset", metavar="NAME", help=f"settings of the layer by name: {', '.join(PRESETS)}"
    )
    arguments = parser.parse_args(argv)
    folder = Path(arguments.folder)
    write(arguments.task, folder, {} if arguments.preset is None else presets.values(arguments.preset))
    tree = Tree(f"{folder}/")
    for path in sorted(folder.iterdir()):
        tree.add(path.name)
    console = Console(highlight=False, markup=False, emoji=False)  # a folder may be called [a] or :b:
    console.print(tree)
    config, space = (shlex.quote(str(folder / name)) for name in ("config.yaml", "space.yaml"))
    console.print(
        NEXT.format(config=config, space=space, readme=folder / "README.md"), end="", soft_wrap=True
    )
    return 0


def write(task: str, folder: Path, values: dict[str, Any]) -> None:
    """Write the template of `task` to `folder`, whole or not at all, with `values` of the layer's settings.

    Raises:
        ConfigError: no such task, or a folder that is not empty or cannot be written.
    """
    if task not in TASKS:
        raise ConfigError(f"`TASK` must be one of {', '.join(TASKS)}; got {task!r}. {nearest(task, TASKS)}")
    target, temporary = folder.absolute(), f".{secrets.token_hex(8)}.tmp"
    half = target / temporary if target.is_dir() else target.with_name(f".{target.name}{temporary}")
    try:
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise ConfigError(f"`FOLDER` must be new or empty; {folder} is not. Choose another name.")
        half.parent.mkdir(parents=True, exist_ok=True)
        half.mkdir()
        for path in sorted((TEMPLATES / task).iterdir()):
            if path.is_file():
                (half / path.name).write_text(_filled(path, folder, values), encoding="utf-8")
        if target.is_dir():  # which may be the one that a terminal is in
            for path in half.iterdir():
                path.replace(target / path.name)
        else:
            half.replace(target)
    except OSError as error:
        raise ConfigError(
            f"`FOLDER` must be writable; {error.filename or folder}: {error.strerror}."
        ) from None
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _filled(path: Path, folder: Path, values: dict[str, Any]) -> str:
    """Content of a template's file for an experiment in `folder`."""
    text = path.read_text(encoding="utf-8")
    if path.name == "README.md":
        commands = (TEMPLATES / "commands.md").read_text(encoding="utf-8")
        return text + commands.replace("FOLDER", shlex.quote(str(folder)))
    return with_values(text, values) if path.name == "config.yaml" else text


def with_values(text: str, values: dict[str, Any]) -> str:
    """Return the `config.yaml` of a template with `values` of the layer's settings.

    A setting that is there is changed in its line, others are added after it.
    """
    lines, rest, last = text.splitlines(), dict(values), 0
    start = next(number for number, line in enumerate(lines) if line.startswith("    config:"))
    for number, line in enumerate(lines[start + 1 :], start + 1):
        if (found := _SETTING.fullmatch(line)) is None:
            break
        indent, name, before, comment = found.groups()
        value = _written(rest.pop(name)) if name in rest else before
        lines[number], last = f"{indent}{name}: {value}{comment or ''}", number
    lines[last + 1 : last + 1] = [f"      {name}: {_written(value)}" for name, value in rest.items()]
    return "\n".join(lines) + "\n"


def _written(value: Any) -> str:
    return str(yaml.safe_dump(value)).removesuffix("\n...\n").strip()
