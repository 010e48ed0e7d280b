"""`dream serve`: a trained row object, over HTTP or standard input."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from dream.errors import ConfigError
from experiments.folders import LATEST, add_run_folder, latest
from experiments.serve.lines import serve_lines
from experiments.serve.service import UNKNOWN, Service
from lightning_modules.checks import require, require_int
from lightning_modules.learners import Streams
from lightning_modules.learners.from_run import State
from lightning_modules.learners.loading import load

TOKEN = "DREAM_TOKEN"
"""Environment variable of the token, which others do not see as they see a command line."""


def main(argv: list[str]) -> int:
    """Run ``dream serve`` with these arguments; return the exit code."""
    arguments = parsed(argv)
    arguments.token = os.environ.get(TOKEN) or None if arguments.token is None else arguments.token
    _require(arguments)
    source = found(arguments.source, arguments.runs)
    model = load(source, arguments.state, arguments.stream)
    folder = arguments.states or Path(f"{source}.states")
    with Streams(model, folder, arguments.streams) as streams:
        service = Service(streams, arguments.threshold, arguments.flush_every)
        if arguments.http is None:
            return serve_lines(service, sys.stdin.buffer, sys.stdout.buffer, arguments.body)
        from experiments.serve.server import serve
        from experiments.serve.web import Limits

        limits = Limits(arguments.body, arguments.queue, arguments.timeout)
        return serve(service, arguments.host, arguments.http, limits, arguments.token)


def found(source: str, runs: Path) -> Path:
    """The run, checkpoint or file that is meant; `LATEST` is the newest run below `runs`."""
    return latest(runs) if source == LATEST else Path(source)


def parsed(argv: list[str]) -> argparse.Namespace:
    """The arguments of a command line; those without a default of their own are None."""
    parser = argparse.ArgumentParser(
        prog="dream serve",
        description="Serve a run or a row object: JSON lines from standard input, or HTTP.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    none: dict[str, Any] = {"default": argparse.SUPPRESS}  # which the help leaves out
    add = parser.add_argument
    add(
        "source",
        metavar="RUN_OR_FILE",
        help="a run, a checkpoint, or what `save` of a row object wrote",
    )
    add_run_folder(parser)
    add(
        "--state",
        choices=get_args(State),
        default="fresh",
        help="of a run: begin anew, or where its test ended",
    )
    add(
        "--stream",
        **none,
        metavar="NAME",
        help="of an anomaly run with several streams: whose end, or threshold, is used",
    )
    add(
        "--http", type=int, metavar="PORT", **none, help="serve HTTP; 0 takes a free port, which stderr tells"
    )
    add("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all")
    add("--token", **none, help=f"what clients send as `Authorization: Bearer TOKEN`; better in {TOKEN}")
    add(
        "--states",
        type=Path,
        **none,
        metavar="FOLDER",
        help="where states are kept (default: RUN_OR_FILE.states)",
    )
    add(
        "--flush-every",
        type=int,
        default=1000,
        metavar="ROWS",
        help="learnt rows between two flushes to disk",
    )
    add("--streams", type=int, default=10_000, metavar="N", help="streams in memory; the others are on disk")
    add(
        "--threshold",
        type=float,
        **none,
        help=f"score above which a detector's row is flagged (default: its own; {UNKNOWN} if it has none)",
    )
    add("--body", type=int, default=1 << 20, metavar="BYTES", help="longest body, or line")
    add("--queue", type=int, default=10_000, metavar="ROWS", help="rows that may wait; 429 beyond")
    add("--timeout", type=float, default=10.0, metavar="SECONDS", help="for a body to arrive or be answered")
    unset = argparse.Namespace(http=None, token=None, states=None, stream=None, threshold=None)
    return parser.parse_args(argv, unset)


def _require(arguments: argparse.Namespace) -> None:
    """Refuse settings that are out of range, and HTTP where its packages are missing.

    Raises:
        ConfigError: naming the flag.
    """
    for name in ("flush_every", "streams", "body", "queue"):
        require_int(f"--{name.replace('_', '-')}", getattr(arguments, name))
    require("--timeout", arguments.timeout, 0 < arguments.timeout < 1e6, "a number of seconds above 0")
    threshold, token = arguments.threshold, arguments.token
    require("--threshold", threshold, threshold is None or 0 <= threshold <= 1, "from 0 to 1")
    if token is not None and not (token and token.isascii()):
        raise ConfigError(f"`--token` or {TOKEN} must be a text of ASCII characters, at least one.")
    if arguments.http is None:
        if sys.stdin is None or sys.stdout is None:
            raise ConfigError("standard input and output must be open where `--http` is left out.")
        return
    require("--http", arguments.http, 0 <= arguments.http <= 65535, "a port from 0 to 65535")
    for name in ("fastapi", "uvicorn"):
        if find_spec(name) is None:
            raise ConfigError(
                f"`--http` needs {name}, which is not installed. Install it with "
                "pip install 'dream-memory[serve]', or leave `--http` out and send JSON lines."
            )
