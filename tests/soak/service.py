"""A service that is killed while clients send rows: `python -m tests.soak.service`.

Clients send rows of many sensors over HTTP, in bodies of many. The service is killed with
SIGKILL at random moments and started again; each client then sends again what came after the last row that
an answer called flushed. Every answer must be that of a service that nobody disturbed, bit for bit, and every
row learnt once."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

from dream import DREAMConfig
from experiments.serve.service import Service, asked
from lightning_modules import DREAMForecaster
from lightning_modules.learners import Streams
from tests.soak.processes import PROCESSES

Row = dict[str, Any]
BODY = 20  # rows


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Send, kill, replay and compare; print and return the figures.

    Raises:
        SystemExit: an answer differs, or a row was lost.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.soak.service", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--sensors", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--flush-every", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="600 rows of 12 sensors, 1 kill")
    given = parser.parse_args(argv)
    if given.quick:
        given.rows, given.sensors, given.clients, given.kills, given.flush_every = 600, 12, 2, 1, 100
    with tempfile.TemporaryDirectory() as folder:
        figures = trial(Path(folder), given)
    print(f"service: {figures}")  # noqa: T201
    if figures["different"] or figures["lost"]:
        sys.exit(f"not as an undisturbed service: {figures}")
    return figures


def trial(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Figures of one trial."""
    source = folder / "model"
    trained().save(source)
    rows = made(given.rows, given.sensors, given.seed)
    calm = Service(Streams(DREAMForecaster.load(source), most=given.sensors), 0.5, given.rows + 1)
    wanted = {
        (answer["key"], answer["seq"]): answer["prediction"]
        for start in range(0, len(rows), 500)
        for answer in calm.answer([asked("learn", row) for row in rows[start : start + 500]])
    }
    clients = [Client(rows, number, given.clients) for number in range(given.clients)]
    flags = [f"--flush-every={given.flush_every}", f"--streams={given.sensors * 9 // 10}"]
    draw, begun = random.Random(given.seed), time.monotonic()
    at = sorted(draw.sample(range(given.rows // 20, given.rows * 19 // 20), given.kills))
    for client in clients:
        client.start()
    for kill_at in [*at, None]:
        with served(folder, source, *flags) as (process, address):
            for client in clients:
                client.go_on(address)
            if kill_at is None:
                for client in clients:
                    client.join()
                os.kill(process.pid or 0, signal.SIGTERM)
                process.join(60)
            else:
                while sum(len(client.answers) for client in clients) < kill_at:
                    if not process.is_alive():
                        raise RuntimeError("the service ended")
                    time.sleep(0.005)
                process.kill()
                process.join()
    seconds = time.monotonic() - begun
    found = {place: answer for client in clients for place, answer in client.answers.items()}
    with Streams(DREAMForecaster.load(source), f"{source}.states") as streams:
        last = {row["key"]: row["seq"] for row in rows}
        kept = sum(streams.stream(key).seq == seq for key, seq in last.items())
    return {
        "rows": len(rows),
        "sensors": given.sensors,
        "kills": len(at),
        "sent again": sum(client.again for client in clients),
        "repeated": sum(client.repeated for client in clients),
        "different": sum(client.differ for client in clients)
        + sum(wanted[place] != answer for place, answer in found.items()),
        "lost": len(last) - kept + len(wanted.keys() - found.keys()),
        "exit code": process.exitcode,
        "rows a second": round(len(rows) / seconds),
    }


def trained() -> DREAMForecaster:
    """A small forecaster that has seen some rows."""
    model = DREAMForecaster(DREAMConfig.preset("online_learning", hidden_dim=8, rank=2), horizon=2)
    for k in range(100):
        model.learn_one({"u": float(np.sin(k / 5)), "v": float(np.cos(k / 3))})
    return model


def made(count: int, sensors: int, seed: int) -> list[Row]:
    """Rows of sensors in random order, each with its number."""
    draw = np.random.default_rng(seed)
    last = dict.fromkeys(range(sensors), 0)
    rows = []
    for key, values in zip(
        draw.integers(0, sensors, count).tolist(),
        draw.standard_normal((count, 2)).round(4).tolist(),
        strict=True,
    ):
        last[key] += 1
        rows.append({"key": f"sensor-{key}", "x": dict(zip("uv", values, strict=True)), "seq": last[key]})
    return rows


class Client(Thread):
    """A client that sends the rows of its share of the sensors, and again what a crash undid."""

    def __init__(self, rows: list[Row], number: int, clients: int) -> None:
        super().__init__(daemon=True)
        self.rows = [row for row in rows if int(row["key"].removeprefix("sensor-")) % clients == number]
        self.answers: dict[tuple[str, int], Any] = {}
        """Prediction of each row that was answered."""
        self.flushed: dict[str, int] = {}
        """Last row of each sensor that is on disk, as far as answers told."""
        self.differ = self.again = self.repeated = 0
        self.address = ("", 0)
        self._ready = Event()

    def go_on(self, address: tuple[str, int]) -> None:
        """Send to this address from here on."""
        self.address = address
        self._ready.set()

    def run(self) -> None:
        todo = self.rows
        while todo:
            self._ready.wait()
            self._ready.clear()
            connection = http.client.HTTPConnection(*self.address, timeout=30)
            try:
                while todo:
                    body = todo[:BODY]
                    connection.request("POST", "/learn", json.dumps(body))
                    response = connection.getresponse()
                    content = json.loads(response.read())
                    if response.status == 429:
                        time.sleep(0.05)
                        continue
                    self._note(content)
                    todo = todo[BODY:]
            except (OSError, http.client.HTTPException, ValueError):  # it was killed
                todo = [row for row in self.rows if row["seq"] > self.flushed.get(row["key"], 0)]
            finally:
                connection.close()

    def _note(self, answers: list[dict[str, Any]]) -> None:
        for answer in answers:
            place = answer["key"], answer["seq"]
            self.flushed[answer["key"]] = answer["flushed"]
            self.again += place in self.answers
            if "repeated" in answer:
                self.repeated += 1
                self.answers.setdefault(place, None)
            elif self.answers.get(place) is None:
                self.answers[place] = answer["prediction"]
            else:
                self.differ += self.answers[place] != answer["prediction"]


@contextmanager
def served(folder: Path, source: Path, *flags: str) -> Iterator[tuple[BaseProcess, tuple[str, int]]]:
    """A service in a process of its own, and its address."""
    said = folder / "said.txt"
    said.unlink(missing_ok=True)
    process = PROCESSES.Process(target=_serve, args=(str(said), [str(source), "--http=0", *flags]))
    process.start()
    try:
        while "http://" not in (text := said.read_text() if said.exists() else ""):
            if not process.is_alive():
                raise RuntimeError(text)
            time.sleep(0.01)
        host, _, port = text.partition("http://")[2].split()[0].partition(":")
        yield process, (host, int(port))
    finally:
        if process.is_alive():
            process.kill()
        process.join()


def _serve(said: str, arguments: list[str]) -> None:
    with Path(said).open("w") as file:
        os.dup2(file.fileno(), 2)
    from experiments.cli import main as dream

    sys.exit(dream(["serve", *arguments]))


if __name__ == "__main__":
    main()
