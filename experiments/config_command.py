"""`dream config list|show`: the shipped experiments, the layer's presets, and the spaces of sweeps."""

from __future__ import annotations

import argparse
import dataclasses

import yaml
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from dream import DREAMConfig
from dream.config import PRESETS
from dream.errors import ConfigError, nearest
from experiments.invocation import configs


def main(argv: list[str]) -> int:
    """Run ``dream config`` with these arguments; return the exit code.

    Raises:
        ConfigError: `show` of a name that is not there.
    """
    parser = argparse.ArgumentParser(
        "dream config", description="The shipped experiments, presets and spaces."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name and purpose of each")
    show = commands.add_parser("show", help="print one as YAML")
    show.add_argument("name", help="a shipped experiment, a preset, or a path; with --space a space")
    show.add_argument(
        "--space", action="store_true", help="the space of that name, for `dream sweep --space`"
    )
    arguments = parser.parse_args(argv)
    console = Console()
    if arguments.command == "list":
        _list(console)
    else:
        _show(console, arguments.name, arguments.space)
    return 0


def _list(console: Console) -> None:
    experiments = Table(
        "experiment", "what it is for", title="dream fit -c EXPERIMENT", title_justify="left", box=None
    )
    for name, path in configs.shipped().items():
        experiments.add_row(name, configs.headline(path))
    title = "dream fit -c EXPERIMENT --preset PRESET; in Python DREAMConfig.preset(PRESET)"
    presets = Table("preset", "what it is for", title=title, title_justify="left", box=None)
    for name, preset in PRESETS.items():
        presets.add_row(name, preset.purpose)
    title = "dream sweep -c EXPERIMENT --space SPACE"
    spaces = Table("space", "what it is for", title=title, title_justify="left", box=None)
    for name, path in configs.shipped("spaces").items():
        spaces.add_row(name, configs.headline(path))
    for table in (experiments, "", presets, "", spaces):
        console.print(table)


def _show(console: Console, name: str, space: bool) -> None:
    if space:
        spaces = configs.shipped("spaces")
        if name not in spaces:
            raise ConfigError(f"no space is called {name!r}. {nearest(name, spaces)}")
        text = spaces[name].read_text(encoding="utf-8")
    elif name in PRESETS:
        text = yaml.safe_dump(dataclasses.asdict(DREAMConfig.preset(name)), sort_keys=False)
    else:
        try:
            text = configs.read(configs.resolve(name)).text
        except ConfigError:
            known = [*configs.shipped(), *PRESETS]
            raise ConfigError(f"nothing is called {name!r}. {nearest(name, known)}") from None
    if console.is_terminal:
        console.print(Syntax(text, "yaml", background_color="default"))
    else:
        print(text, end="")  # noqa: T201 - for a pipe or a file, as it is
