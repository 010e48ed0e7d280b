"""Runs in separate processes that are killed at a chosen place, and a comparison of what runs leave."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
from itertools import count
from pathlib import Path
from typing import Any

import torch

PLACES = {
    "step": "torch.optim.AdamW.step",
    "save": "os.fsync",
    "validation": "lightning_modules.base.TaskModule.on_validation_batch_start",
    "stream": "lightning_modules.base.TaskModule.on_test_batch_start",
    "layers": "lightning_modules.run.layers.run_folder",
}
"""Function that is called at each place."""
FILES = ("replace", "rename", "link", "fsync", "unlink", "truncate", "mkdir", "open")
"""Functions of `os` that are counted together at the place ``file``."""
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "experiments.run",
        "experiments.serve.server",
        "lightning_modules.data",
        "lightning_modules.online.module",
    ]
)


def run(
    folder: Path,
    command: list[str],
    place: str = "",
    at: float = 0,
    sent: int = signal.SIGKILL,
    largest_file: int = resource.RLIM_INFINITY,
) -> int:
    """Run `command` in `folder`; return its exit code, or minus the number of the signal that ended it.

    Args:
        folder: Working directory.
        command: Words after ``dream``.
        place: Place of the kill: one of `PLACES`, ``file`` for any operation on files, or ``time``.
        at: Number of the call at that place, or seconds.
        sent: Signal that is sent.
        largest_file: Size in bytes beyond which no file can be written, as on a full disk.
    """
    process = PROCESSES.Process(target=_child, args=(str(folder), command, place, at, sent, largest_file))
    process.start()
    try:
        process.join(240)
        if process.exitcode is None:
            raise TimeoutError(f"{command} did not end")
        return process.exitcode
    finally:
        if process.exitcode is None:
            process.kill()
            process.join()


def _child(folder: str, command: list[str], place: str, at: float, sent: int, largest_file: int) -> None:
    os.chdir(folder)
    said = Path("said.txt").open("a")  # noqa: SIM115 - as long as the process lives
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # as in a process started by hand, whose workers end with it
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    os.environ["WANDB_MODE"] = "disabled"
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    from experiments.cli import main

    if place == "time":
        threading.Timer(at, os.kill, (os.getpid(), sent)).start()
    elif place:
        _interrupt([PLACES[place]] if place != "file" else [f"os.{name}" for name in FILES], int(at), sent)
    sys.exit(main(command))


def _interrupt(places: list[str], number: int, sent: int) -> None:
    calls = count(1)

    def counted(before: Any) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == number:
                os.kill(os.getpid(), sent)
            return before(*args, **kwargs)

        return called

    for place in places:
        owner_name, _, name = place.rpartition(".")
        owner = _find(owner_name)
        setattr(owner, name, counted(getattr(owner, name)))


def _find(name: str) -> Any:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        module = sys.modules.get(".".join(parts[:cut]))
        if module is not None:
            found: Any = module
            for part in parts[cut:]:
                found = getattr(found, part)
            return found
    raise LookupError(name)


def left(folder: Path) -> dict[str, Any]:
    """All that a run left: best and newest checkpoint, metrics, results, record of layers, and remarks."""
    saves = folder / "checkpoints"
    held = {
        path.name: torch.load(path, weights_only=True)
        for path in (saves / "best.ckpt", max(saves.glob("step-*.ckpt")))
    }
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "carried", "loops", "progress")
    parts += ("epoch", "global_step", "streams")
    return {
        "checkpoints": {name: {part: content[part] for part in parts} for name, content in held.items()},
        "metrics": (folder / "metrics.jsonl").read_text().splitlines(),
        "results": json.loads((folder / "results.json").read_text())["results"],
        "records": [json.loads((folder / name).read_text()) for name in ("layers.json", "remarks.json")],
    }


def differences(ours: Any, theirs: Any, name: str = "") -> list[str]:
    """Differences, bit for bit, between two nests of dictionaries, lists, tensors and plain values."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return [line for key in ours for line in differences(ours[key], theirs[key], f"{name}/{key}")]
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)) and len(ours) == len(theirs):
        return [
            line
            for k, pair in enumerate(zip(ours, theirs, strict=True))
            for line in differences(*pair, f"{name}/{k}")
        ]
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        same = ours.dtype == theirs.dtype and torch.equal(ours.nan_to_num(1e9), theirs.nan_to_num(1e9))
        return [] if same else [f"{name}: tensors"]
    if isinstance(ours, torch.Tensor) or isinstance(theirs, torch.Tensor) or type(ours) is not type(theirs):
        return [f"{name}: {type(ours)} and {type(theirs)}"]
    same = ours == theirs or (ours != ours and theirs != theirs)
    return [] if same else [f"{name}: {ours!r:.80} and {theirs!r:.80}"]
