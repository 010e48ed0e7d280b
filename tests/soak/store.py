"""States of a million streams in a store: `python -m tests.soak.store`.

All are stored in random order, then read, checked and stored again in another order, in batches. The resident
memory, recorded after each batch, must not grow with the number of streams."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dream import DREAM
from lightning_modules import StateStore
from tests.soak.memory import MIB, memory

BATCH = 100_000


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Fill, update and read a store in random order; print and return the figures, in MiB and seconds.

    Raises:
        SystemExit: a stream has the wrong state, or memory grows with the work.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.soak.store", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--memory", type=int, default=64, help="MiB of shards in memory")
    parser.add_argument("--quick", action="store_true", help="50,000 keys and 4 MiB")
    arguments = parser.parse_args(argv)
    keys, room = (50_000, 4) if arguments.quick else (arguments.keys, arguments.memory)
    batch = min(BATCH, keys // 10)
    layer = DREAM(4, 4, rank=4)  # 184 bytes a stream
    draw = np.random.default_rng(0)
    filled, updated = (draw.permutation(keys) for _ in range(2))
    layer.init_state(batch)
    before = memory()["resident"]
    resident, held = [], 0
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        with StateStore(folder, memory=room * MIB) as store:
            for name, order in (("put", filled), ("update", updated)):
                begun = time.monotonic()
                for start in range(0, keys, batch):
                    part = order[start : start + batch].tolist()
                    number = torch.tensor(part, dtype=torch.float32)[:, None].expand(-1, 4)
                    if name == "update":
                        state = store.get(part, layer.init_state)
                        if not torch.equal(state.error_mean, number):
                            raise SystemExit("a stream got another one's state")
                        state.error_mean = number + 1
                    else:
                        state = layer.init_state(len(part))
                        state.error_mean = number
                    store.put(part, state)
                    held = max(held, store.held_bytes)
                    resident.append(round((memory()["resident"] - before) / MIB))
                seconds[name] = time.monotonic() - begun
            begun = time.monotonic()
            store.flush()
            seconds["flush"] = time.monotonic() - begun
            shards, count = len(store.files), len(store)
        disk = sum(path.stat().st_size for path in Path(folder).iterdir())
        begun = time.monotonic()
        with StateStore(folder, memory=room * MIB) as store:
            part = updated[:batch].tolist()
            if store.get(part, layer.init_state).error_mean[:, 0].tolist() != [key + 1.0 for key in part]:
                raise SystemExit("a stream's state was lost")
            seconds["reopen and get"] = time.monotonic() - begun
    figures: dict[str, Any] = {
        "keys": count,
        "bytes_a_stream": sum(part.nbytes for part in layer.init_state(1)),
        "shards": shards,
        "disk_mib": round(disk / MIB, 1),
        "room_mib": room,
        "most_held_mib": round(held / MIB, 1),
        "resident_above_mib": resident,
        "puts_a_second": round(keys / seconds["put"]),
        "get_and_put_a_second": round(keys / seconds["update"]),
        "flush_seconds": round(seconds["flush"], 1),
        "reopen_and_get_seconds": round(seconds["reopen and get"], 1),
    }
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):>30}  {value}")  # noqa: T201
    updates = resident[len(resident) // 2 :]
    if held > room * MIB or updates[-1] > updates[0] + room / 4:
        raise SystemExit("memory grows with the work")
    return figures


if __name__ == "__main__":
    main(sys.argv[1:])
