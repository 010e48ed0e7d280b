"""Runs that are killed at random moments and go on: `python -m tests.soak.kills`.

Three runs, one that trains on streams with dropout, one that learns online and one on speech, are each left
alone once. Then they are started with ``--resume`` again and again and killed with SIGKILL: inside a step, a
save, a validation, the online stream, or after a random time. Each time a run comes to its end, all that it
left must be that of the undisturbed one, bit for bit."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_modules.waiting import waiting
from tests.soak import processes

SMALL = [
    "--model.config.hidden_dim=8",
    "--model.config.rank=2",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
]
STREAMS = [
    *(
        "fit",
        "-c",
        "forecasting",
        *SMALL,
        "--data.rows=600",
        "--data.feeders=2",
        "--data.look_back=24",
        "--data.horizon=8",
    ),
    *(
        "--data.batch_size=4",
        "--data.streams=true",
        "--data.stride=4",
        "--model.patch=4",
        "--model.dropout=0.2",
    ),
    *("--trainer.max_epochs=3", "--save.every_n_steps=2"),
]
"""Training on streams with dropout: carried states and random numbers in every step."""
ONLINE = [
    *(
        "fit",
        "-c",
        "online",
        *SMALL,
        "--trainer.max_epochs=2",
        "--data.crops=128",
        "--save.every_minutes=0.0001",
    ),
    *('--model.modes=["fast weights + head","all weights"]', "--data.rows=3000"),
]
"""Random crops, then a test that learns for many batches."""
SPEECH = [
    *("fit", "-c", "speech_recognition", *SMALL, "--data.words=3", "--data.voices=4", "--data.takes=4"),
    *("--trainer.max_epochs=3", "--save.every_n_steps=2"),
]
"""Strings of words that are drawn anew each epoch, with noise, hidden stretches and dropout."""
CALLS = {"step": 12, "save": 30, "validation": 3, "stream": 12, "time": 8}
"""Each place, and up to which call, or second, a kill may wait there."""


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Kill, go on and compare; print and give back the figures.

    Raises:
        SystemExit: a run that went on differs from the undisturbed one, or ended with an error.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="how often a run is killed")
    parser.add_argument("--seed", type=int, default=0, help="fixes where and when")
    asked = parser.parse_args(arguments)
    draw, start = random.Random(asked.seed), time.monotonic()
    killed: Counter[str] = Counter()
    finished, commands = 0, {"streams": STREAMS, "online": ONLINE, "speech": SPEECH}
    attempts = dict.fromkeys(commands, 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = {}
        for kind, command in commands.items():
            expect_end(processes.run(folder, [*command, f"--run.name={kind}"]), folder)
            expected[kind] = processes.left(folder / "runs" / kind)
        with waiting("killing") as tell:
            while killed.total() < asked.kills:
                kind = draw.choice(list(commands))
                place = draw.choice(list(CALLS))
                at = draw.uniform(0.5, CALLS[place]) if place == "time" else draw.randint(1, CALLS[place])
                run = f"{kind}-{attempts[kind]}"
                code = processes.run(folder, [*commands[kind], f"--run.name={run}", "--resume"], place, at)
                if code == -signal.SIGKILL:
                    killed[place] += 1
                    tell(killed.total() / asked.kills)
                    continue
                finished += compare(code, folder, run, expected[kind])
                attempts[kind] += 1
        for kind, command in commands.items():
            run = f"{kind}-{attempts[kind]}"
            code = processes.run(folder, [*command, f"--run.name={run}", "--resume"])
            finished += compare(code, folder, run, expected[kind])
    figures = {
        "kills survived": killed.total(),
        "where": dict(killed),
        "runs that ended as the undisturbed one": finished,
        "seconds": round(time.monotonic() - start),
    }
    Console().print(figures)
    return figures


def compare(code: int, folder: Path, run: str, expected: dict[str, Any]) -> int:
    """1, if the run in `folder` ended with what was expected."""
    expect_end(code, folder)
    found = processes.differences(expected, processes.left(folder / "runs" / run))
    if found:
        sys.exit(f"{run} differs from the undisturbed run: {found[:5]}")
    return 1


def expect_end(code: int, folder: Path) -> None:
    """Refuse a run that ended with an error."""
    if code:
        sys.exit(f"a run ended with {code}: {(folder / 'said.txt').read_text()[-2000:]}")


if __name__ == "__main__":
    main()
