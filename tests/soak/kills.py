"""Runs that are killed at random moments and resumed: `python -m tests.soak.kills`.

Three runs (training on streams with dropout, online learning, and speech) are each completed once without
interruption. Then they are started with ``--resume`` again and again and killed with SIGKILL: inside a step,
a save, a validation, the online stream or any operation on a file, or after a random time. After no kill may
a file seem altered. Whenever such a run ends, everything it left must equal that of the uninterrupted one,
bit for bit."""

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

from dream import sums
from lightning_modules.waiting import waiting
from tests.soak import processes

SMALL = (
    "--model.config.hidden_dim=8 --model.config.rank=2 --trainer.accelerator=cpu "
    "--trainer.log_every_n_steps=1"
)
STREAMS = (
    f"fit -c forecasting {SMALL} --data.rows=600 --data.feeders=2 --data.look_back=24 --data.horizon=8 "
    "--data.batch_size=4 --data.streams=true --data.stride=4 --model.patch=4 --model.dropout=0.2 "
    "--trainer.max_epochs=3 --save.every_n_steps=2"
).split()
"""Training on streams with dropout: carried states, and random numbers in every step."""
ONLINE = [
    *f"fit -c online {SMALL} --trainer.max_epochs=2 --data.crops=128 --save.every_minutes=0.0001".split(),
    '--model.modes=["fast weights + head","all weights"]',
    "--data.rows=3000",
]
"""Training on random crops, then a test that learns over many batches."""
SPEECH = (
    f"fit -c speech_recognition {SMALL} --data.words=3 --data.voices=4 --data.takes=4 --trainer.max_epochs=3 "
    "--save.every_n_steps=2"
).split()
"""Training on strings of words, drawn again each epoch, with noise, hidden stretches and dropout."""
CALLS = {"step": 12, "save": 30, "validation": 3, "stream": 12, "file": 250, "time": 8}
"""Last call (for `time`, second) at which a kill may happen, by place."""


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Kill, resume and compare; print and return the figures.

    Raises:
        SystemExit: a resumed run differs from the uninterrupted one, or ended with an error.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of places and times")
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
                    expect_sealed(folder / "runs" / run)
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
        "runs that ended like the uninterrupted one": finished,
        "seconds": round(time.monotonic() - start),
    }
    Console().print(figures)
    return figures


def compare(code: int, folder: Path, run: str, expected: dict[str, Any]) -> int:
    """Return 1 if the run in `folder` left what was expected.

    Raises:
        SystemExit: it did not.
    """
    expect_end(code, folder)
    expect_sealed(folder / "runs" / run)
    found = processes.differences(expected, processes.left(folder / "runs" / run))
    if found:
        sys.exit(f"{run} differs from the uninterrupted run: {found[:5]}")
    return 1


def expect_sealed(run: Path) -> None:
    """Exit if a file of a run seems to be altered, or the run somebody else's."""
    if (run / sums.SUMS).exists() and (sums.differing(run) or not sums.signed(run)):
        sys.exit(f"{run.name} seems to be altered: {sums.differing(run)}")


def expect_end(code: int, folder: Path) -> None:
    """Exit if a run ended with an error."""
    if code:
        sys.exit(f"a run ended with {code}: {(folder / 'said.txt').read_text()[-2000:]}")


if __name__ == "__main__":
    main()
