"""Run the parts of the soak in turn, each in its own process, and write the figures as text and JSON."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.ending import ended
from lightning_modules.run import tracking

PARTS = {
    "kills": "runs killed at random moments resume, bit for bit",
    "hostile": "100,000 steps of hostile streams",
    "fuzz": "random files and settings",
    "damage": "damaged texts of runs, comparisons and sweeps",
    "archives": "20,000 damaged archives are read right or refused",
    "memory": "a file ten times as large as the memory allowed",
    "series": "ten thousand series in one table",
    "store": "the states of a million streams",
    "rows": "a million rows, one at a time and in tables",
    "service": "a service that is killed among 100,000 rows of 1,000 sensors loses nothing, bit for bit",
    "interrupts": "Ctrl-C at random moments leaves learners and stores whole",
    "ranks": "two processes train like one, are stopped and go on, and one is killed",
    "export": "an exported step forecasts and learns as its layer over 10,000 rows",
    "export_runs": "exported steps of runs forecast and score as the runs do over 10,000 rows",
    "compiled": "a layer that inductor compiles computes what it computes, and learns as it learns",
    "classes": "no setting imports or builds a foreign class",
    "triton": "the Triton backend passes in the interpreter, and compiles for three targets",
}
"""Modules of this folder: each has a `main()` that prints figures, returns them as a dictionary, and fails if
a promise does not hold."""


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; return the number of those that failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parts_help = f"any of {', '.join(PARTS)}; all if none is named"
    parser.add_argument("parts", nargs="*", metavar="PART", help=parts_help)
    parser.add_argument("--out", type=Path, default=Path("runs/soak.json"), help="file for the figures")
    asked = parser.parse_args(arguments)
    for name in asked.parts:
        if name not in PARTS:
            parser.error(f"`{name}` is not one of {', '.join(PARTS)}")
    record: dict[str, Any] = {}
    failed = 0
    parts = asked.parts or list(PARTS)
    for number, name in enumerate(parts, 1):
        print(f"== {number} of {len(parts)}, {name}: {PARTS[name]}", flush=True)  # noqa: T201
        start = time.monotonic()
        figures = asked.out.with_name(f"{name}.json")
        figures.unlink(missing_ok=True)
        words = [sys.executable, "-c", RUN.format(part=name, path=str(figures))]
        code = run_part(words)
        held = json.loads(figures.read_text()) if figures.exists() else None
        figures.unlink(missing_ok=True)
        record[name] = {"held": code == 0, "seconds": round(time.monotonic() - start), "figures": held}
        failed += code != 0
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        tracking.write_results(asked.out, {}, parts=record)
    print(f"{len(record) - failed} of {len(record)} parts hold; the figures are in {asked.out}")  # noqa: T201
    return failed


def run_part(words: list[str]) -> int:
    """Run a part; return its exit code.

    The part is in its own session and gets Ctrl-C once, as SIGTERM, so that it can end what it has
    started."""
    process = subprocess.Popen(words, env={**os.environ, **SETTLED}, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


# glibc returns freed memory, so that resident memory is meaningful
SETTLED = {"MALLOC_MMAP_THRESHOLD_": "131072"}
RUN = """
import json, pathlib, sys
from experiments.ending import ended

def work():
    from tests.soak import {part}
    path = pathlib.Path({path!r})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({part}.main([])))
    return 0

sys.exit(ended(work))
"""

if __name__ == "__main__":
    sys.exit(ended(main))
