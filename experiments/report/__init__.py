"""`dream report`: a run, a comparison or a sweep as one HTML page that needs nothing else."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from dream import sums
from dream.errors import CheckpointError, DataError
from dream.files import write_atomic
from experiments.folders import LATEST, add_run_folder, latest
from experiments.report.folder import RunFolder, SweepFolder, open_folder
from experiments.report.page import comparison_page, run_page, sweep_page


def main(argv: list[str]) -> int:
    """Run ``dream report`` with these arguments, and print the path of the page; return the exit code.

    Raises:
        ConfigError: the folder is not that of a run, a comparison or a sweep.
        DataError: a figure can't be read, or the page can't be written.
    """
    parser = argparse.ArgumentParser(
        "dream report", description="One HTML page of all that a run, a comparison or a sweep left."
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help=f"a run's, a comparison's or a sweep's, such as runs/compare-forecasting; or {LATEST}, a run",
    )
    add_run_folder(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where the page goes; report.html in that folder if not given",
    )
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    arguments = parser.parse_args(argv)
    named = arguments.folder
    arguments.folder = latest(arguments.runs) if named == LATEST else Path(named)
    path = arguments.output or arguments.folder / sums.REPORT
    try:
        text = render(arguments.folder)
    except OSError as error:
        raise DataError(
            f"{error.filename} could not be read: {error.strerror}. Mend it, or remove it."
        ) from None
    try:
        content = text.encode(errors="replace")  # names of files may be no UTF-8
        if arguments.output is None and _own(arguments.folder):
            sums.write_atomic(arguments.folder, sums.REPORT, content)
        else:  # the list of sums of another user's run is not ours to rewrite
            write_atomic(path, content)
    except OSError as error:
        raise DataError(
            f"`--output` must be a file that can be written; {path}: {error.strerror}. Name another."
        ) from None
    print(path)  # noqa: T201
    if arguments.open:
        webbrowser.open(path.resolve().as_uri())
    return 0


def _own(folder: Path) -> bool:
    """Whether a folder has a list of sums that this user has signed."""
    try:
        found = sums.read(folder)
    except CheckpointError:
        return False
    return found is not None and found.own


def render(path: Path) -> str:
    """Return the page of the run, comparison or sweep in a folder.

    Raises:
        ConfigError: it is none of them.
    """
    found = open_folder(path)
    if isinstance(found, SweepFolder):
        parts = sweep_page(found)
    else:
        parts = run_page(found) if isinstance(found, RunFolder) else comparison_page(found)
    loader = PackageLoader("experiments.report", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(**parts)
