"""Runs of the `dream` command, small enough for tests, and a reader of what Weights & Biases wrote."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

from tests.soak.processes import PROCESSES

DREAM = [sys.executable, "-W", "error::UserWarning:experiments", "-m", "experiments.cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200"}
SMALL = [
    "--data.rows=400",
    "--data.feeders=2",
    "--data.look_back=24",
    "--data.horizon=8",
    "--data.batch_size=32",
    "--model.config.hidden_dim=8",
    "--model.config.rank=2",
    "--model.patch=4",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=2",
    "--trainer.log_every_n_steps=2",
]
TINY = [
    *("--data.path=table.csv", "--data.look_back=16", "--data.horizon=4", "--run.wandb=disabled"),
    *("--model.patch=8", "--model.config.hidden_dim=8", "--model.config.rank=2", "--trainer.accelerator=cpu"),
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.log_every_n_steps=1"),
]
"""A fit of two steps on a table of one's own."""


def start(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    """The command in a process of its own that hears Ctrl-C, even where the suite runs in the background,
    which does not."""

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*DREAM, *arguments], cwd=folder, env=ENVIRONMENT, preexec_fn=listen, **pipes)


def forked(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, forked from one that has loaded everything: as `subprocess.run`,
    in less time."""
    return in_fork(_dream, list(arguments), folder=folder, **variables)


def in_fork(
    function: Callable[[Any], int | None], argument: Any, *, folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`function` of `argument` in `folder`, with these variables of the environment, in such a process."""
    process = PROCESSES.Process(target=_call, args=(function, argument, str(folder), variables))
    process.start()
    process.join(240)
    assert process.exitcode is not None, f"{argument} did not end"
    said = [folder / f".{process.pid}.{kind}" for kind in ("out", "err")]
    texts = [path.read_text() for path in said]
    for path in said:
        path.unlink()
    return subprocess.CompletedProcess([function.__name__, argument], process.exitcode, *texts)


def _call(
    function: Callable[[Any], int | None], argument: Any, folder: str, variables: dict[str, str]
) -> None:
    os.chdir(folder)
    os.environ.update(ENVIRONMENT | variables)
    for kind, descriptor in (("out", 1), ("err", 2)):
        with Path(f".{os.getpid()}.{kind}").open("w") as file:
            os.dup2(file.fileno(), descriptor)
    sys.exit(function(argument))


def _dream(arguments: list[str]) -> int:
    from experiments.cli import main

    return main(arguments)


def wandb_records(path: Path) -> list[Any]:
    """Every record of a `.wandb` file: a 7-byte header, then 32 KiB blocks of (crc32, length, type, data)."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    block, place, parts, records = 32 * 1024, 7, b"", []
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        checksum, length, kind = struct.unpack("<IHB", content[place : place + 7])
        if kind == 0 and length == 0:
            break
        data = content[place + 7 : place + 7 + length]
        assert zlib.crc32(bytes([kind]) + data) == checksum
        place += 7 + length
        parts = parts + data if kind in (3, 4) else data
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            records.append(record)
    return records


def wandb_history(path: Path) -> list[dict[str, Any]]:
    """The rows that were logged to a tracked run."""
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in wandb_records(path)
        if record.WhichOneof("record_type") == "history"
    ]


def wandb_config(path: Path) -> dict[str, Any]:
    """The configuration of a tracked run."""
    config: dict[str, Any] = {}
    for record in wandb_records(path):
        updates = (
            record.run.config.update if record.WhichOneof("record_type") == "run" else record.config.update
        )
        for item in updates:
            config["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return config
