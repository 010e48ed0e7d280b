"""`dream report`: all that a run or a comparison left, as one page that needs nothing else."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from dream.errors import DataError
from dream.files import write_atomic
from experiments.report.folder import RunFolder, open_folder
from experiments.report.page import comparison_page, run_page


def main(argv: list[str]) -> int:
    """Run `dream report` with the words after it; print where the page is.

    Raises:
        ConfigError: the folder is neither that of a run nor that of a comparison.
        DataError: the page can't be written.
    """
    parser = argparse.ArgumentParser("dream report", description="One HTML page of all that a run or a comparison left.")
    parser.add_argument(
        "folder", type=Path, metavar="RUN_OR_COMPARISON", help="its folder, such as runs/compare-forecasting"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where the page goes; report.html in that folder if not given"
    )
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    arguments = parser.parse_args(argv)
    path = arguments.output or arguments.folder / "report.html"
    text = render(arguments.folder)
    try:
        write_atomic(path, text)
    except OSError as error:
        raise DataError(f"`--output` must be a file that can be written; {path}: {error.strerror}. Name another.") from None
    print(path)  # noqa: T201
    if arguments.open:
        webbrowser.open(path.resolve().as_uri())
    return 0


def render(path: Path) -> str:
    """The page of the run or the comparison in a folder.

    Raises:
        ConfigError: it is neither.
    """
    found = open_folder(path)
    parts = run_page(found) if isinstance(found, RunFolder) else comparison_page(found)
    loader = PackageLoader("experiments.report", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(**parts)
