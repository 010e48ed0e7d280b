"""Rows a second of `dream serve --http`, and how long its clients wait.

``python -m experiments.benchmarks.service`` starts the service in a process of its own, with a forecaster of
two columns and the default settings, sends rows of a thousand sensors over 1, 10 and 100 connections, one row
or a hundred in each body, and prints the table. Clients and service share the machine's cores.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to load, so that Ctrl-C ends it with one sentence
    from experiments.ending import run_module

    run_module("experiments.benchmarks.service")

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lightning_modules import DREAMForecaster, Streams
from lightning_modules.run.tracking import write_results

SENSORS = 1000
COLUMNS = ("rows a second", "p50", "p99")
SETTINGS = [(1, 1), (10, 1), (100, 1), (1, 100), (10, 100)]
"""Connections, and rows of a body."""


def main(argv: list[str] | None = None) -> int:
    """Time the service; print the table and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.service", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each setting")
    parser.add_argument(
        "--rests", action="store_true", help="the head stays as it is; the fast weights learn"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/service.json"))
    arguments = parser.parse_args(argv)
    model = DREAMForecaster()
    for row in _rows(0, 300):
        model.learn_one(row["x"])
    assert model.learner is not None
    model.learner.learning = not arguments.rests
    model.learn_one(_rows(1, 1)[0]["x"])
    figures: dict[str, dict[str, float]] = {"learn_streams, no service": in_python(model)}
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        with served(Path(folder)) as address:
            asyncio.run(measure(address, 4, 100, 3.0))  # every sensor gets its state
            for clients, rows in SETTINGS:
                name = f"{clients} clients, {rows} a body"
                figures[name] = asyncio.run(measure(address, clients, rows, arguments.seconds))
    table = Table("", "rows a second", "p50, ms", "p99, ms", title="dream serve --http")
    for name, found in figures.items():
        table.add_row(name, *(f"{found[key]:,.1f}" if key in found else "" for key in COLUMNS))
    Console().print(table)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_results(arguments.out, {}, rests=arguments.rests, settings=figures)
    return 0


def in_python(model: DREAMForecaster) -> dict[str, float]:
    """Figures of `Streams` in this process: a row of every sensor in each call, the best of ten calls."""
    streams, seconds = Streams(model), []
    for seed in range(10):
        rows = {row["key"]: row["x"] for row in _rows(seed, SENSORS)}
        begun = time.perf_counter()
        streams.learn_streams(rows)
        seconds.append(time.perf_counter() - begun)
    return {"rows a second": SENSORS / min(seconds)}


async def measure(address: tuple[str, int], clients: int, rows: int, seconds: float) -> dict[str, float]:
    """Figures of so many clients, each of which sends its next body when the last one was answered."""
    until, taken = time.perf_counter() + seconds, []

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(*address)
        bodies = [json.dumps(_rows(1000 * number + k, rows), allow_nan=False).encode() for k in range(20)]
        place = 0
        while (begun := time.perf_counter()) < until:
            body = bodies[place % len(bodies)]
            place += 1
            writer.write(b"POST /learn HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            answer = await reader.readexactly(length)
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise RuntimeError(answer[:200].decode())
            taken.append(time.perf_counter() - begun)
        writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return {
        "rows a second": len(taken) * rows / (time.perf_counter() - begun),
        "p50": 1e3 * float(np.quantile(taken, 0.5)),
        "p99": 1e3 * float(np.quantile(taken, 0.99)),
    }


def _rows(seed: int, count: int) -> list[dict[str, Any]]:
    """Rows of different sensors, without numbers of their own."""
    draw = np.random.default_rng(seed)
    keys = draw.permutation(SENSORS)[:count].tolist()
    values = draw.standard_normal((count, 2)).round(4).tolist()
    return [{"key": key, "x": {"u": u, "v": v}} for key, (u, v) in zip(keys, values, strict=True)]


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, int]]:
    """The address of a service of folder/model, which ends with the block."""
    words = [sys.executable, "-m", "experiments.cli", "serve", str(folder / "model"), "--http=0"]
    words += ["--flush-every=10000", "--timeout=60"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = next((line for line in process.stderr if "http://" in line), None)
            if said is None:
                raise RuntimeError("the service ended")
            host, _, port = said.partition("http://")[2].strip().partition(":")
            yield host, int(port)
        finally:
            process.terminate()
