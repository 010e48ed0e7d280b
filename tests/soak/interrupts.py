"""SIGINT at random moments of learners and stores: each call is before or after itself, and they go on.

After each SIGINT the object is compared with one that was never interrupted, value by value.
"""

from __future__ import annotations

import argparse
import copy
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from dream import DREAM
from lightning_modules import StateStore
from tests.lightning_modules.learners.test_calls import facts, learn, learnt

ROWS = 4
KINDS = ("classifier", "all weights", "adam", "regressor", "forecaster", "detector")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Interrupt each kind of learner and a store; print and return how often each ended before and after.

    Raises:
        SystemExit: a call was neither before nor after itself.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.soak.interrupts", description=__doc__)
    parser.add_argument("--trials", type=int, default=300, help="interrupts for each kind")
    trials = parser.parse_args(argv).trials
    draw = random.Random(0)
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        figures = {name: dict(interrupt_learner(name, trials, draw)) for name in KINDS}
        figures["store"] = dict(interrupt_store(trials, draw))
    finally:
        signal.signal(signal.SIGALRM, before)
    for name, seen in figures.items():
        print(f"{name:>12}  {seen}")  # noqa: T201
    return figures


def struck(call: Any, seconds: float) -> bool:
    """Run `call` with SIGINT after so many seconds; return whether that ended it."""
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        call()
    except KeyboardInterrupt:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return False


def interrupt_learner(name: str, trials: int, draw: random.Random) -> Counter[str]:
    """Interrupt learners of one kind while they learn some rows."""
    model = learnt(name, 20)
    states = [facts(model)]
    fresh = copy.deepcopy(model)
    for row in range(20, 20 + ROWS):
        learn(model, row, row + 1)
        states.append(facts(model))
    seen: Counter[str] = Counter()
    for trial in range(trials):
        model = copy.deepcopy(fresh)
        ended = struck(lambda model=model: learn(model, 20, 20 + ROWS), draw.uniform(1e-4, 1.5e-2))
        found = facts(model)
        if found not in states:
            raise SystemExit(f"{name}, trial {trial}: an interrupted call is neither before nor after itself")
        learn(model, 20 + states.index(found), 20 + ROWS)
        if facts(model) != states[-1]:
            raise SystemExit(f"{name}, trial {trial}: it goes on otherwise than one that was not interrupted")
        seen[f"after row {states.index(found)}" if ended else "not interrupted"] += 1
    return seen


def interrupt_store(trials: int, draw: random.Random) -> Counter[str]:
    """Interrupt a store that evicts, splits and flushes; each key holds its number, or it is not there."""
    layer, seen = DREAM(1, 4, rank=1), Counter[str]()
    for trial in range(trials):
        done: set[int] = set()
        with tempfile.TemporaryDirectory() as folder:
            with StateStore(Path(folder), shard_size=8, memory=3000) as store:

                def fill(store: StateStore = store, done: set[int] = done) -> None:
                    for start in range(0, 4000, 10):
                        keys = range(start, start + 10)
                        state = layer.init_state(10)
                        state.error_mean = torch.arange(start, start + 10.0)[:, None]
                        store.put(keys, state)
                        done.update(keys)
                        if start % 50 == 0:
                            store.flush()

                struck(fill, draw.uniform(1e-4, 5e-2))
                count = len(store)
                if count not in (len(done), len(done) + 10):
                    raise SystemExit(f"store, trial {trial}: {count} keys after {len(done)} that were put")
                store.flush()
            with StateStore(Path(folder)) as store:
                keys = sorted(store)
                found = store.get(keys, layer.init_state).error_mean[:, 0].tolist() if keys else []
                if len(keys) != count or not done.issubset(keys) or found != [float(key) for key in keys]:
                    raise SystemExit(f"store, trial {trial}: a stream has another state than was put")
            seen["before" if count == len(done) else "after"] += 1
    return seen


if __name__ == "__main__":
    main(sys.argv[1:])
