"""`dream data`: the public data sets, their folders, and their download."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lightning_modules.data.catalogue import DATASETS, Dataset, data_folder, download


def main(argv: list[str]) -> int:
    """Run ``dream data`` with these arguments; return the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.action == "list":
        Console().print(_table())
    elif arguments.action == "get":
        _print_lines(download(arguments.name, arguments.folder, arguments.mirror))
    else:
        _print_lines([data_folder()])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dream data", description="Public data sets: list them, get them, find them."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="{list,get,path}")
    actions.add_parser("list", help="which data sets there are and where they lie")
    get = actions.add_parser("get", help="download one; an interrupted download continues where it stopped")
    get.add_argument("name", help=f"one of: {', '.join(DATASETS)}")
    get.add_argument(
        "--folder", type=Path, help="where the data sets' folders lie (default: see `dream data path`)"
    )
    get.add_argument("--mirror", metavar="URL", help="another address that serves the same file names")
    actions.add_parser("path", help="print the folder: DREAM_DATA where it is set, else the user's cache")
    return parser


def _table() -> Table:
    table = Table("name", "where", "size", "licence", "what")
    for entry in DATASETS.values():
        size = sum(file.size for file in entry.files.values()) / 1e6
        table.add_row(entry.name, _where(entry), f"{size:.1f} MB", entry.licence, entry.description)
    for column in table.columns:
        column.overflow = "fold"
    return table


def _where(entry: Dataset) -> str:
    folder = data_folder() / entry.name
    here = sum((folder / file).is_file() for file in entry.files)
    if here == len(entry.files):
        return str(folder)
    return f"{here} of {len(entry.files)} files in {folder}" if here else "not here"


def _print_lines(lines: list[Path]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
