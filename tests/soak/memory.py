"""Training on a file ten times as large as the memory allowed: `python -m tests.soak.memory`.

A separate process imports everything, fits a small file so that all libraries are loaded, and is then allowed
a limited amount of further memory (RLIMIT_DATA, which counts private memory and no mapped files). Under that
limit it runs `dream fit` on a CSV of ten times the size: on disk, which must succeed with constant memory,
and in memory, which must fail."""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to load, so that Ctrl-C ends it with one sentence
    from experiments.ending import run_module

    run_module("tests.soak.memory")

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np

MIB = 1 << 20
COLUMNS = 16
TIMES = 10  # size of the file, relative to the memory allowed
FLAT = 8 * MIB  # by which the memory in the last steps may exceed that in the first
_LINES = 50_000
FIT = [
    "fit",
    "-c",
    "forecasting_csv",
    "--data.batch_size=32",
    "--model.config.hidden_dim=16",
    "--trainer.accelerator=cpu",
    "--trainer.limit_val_batches=20",
    "--trainer.limit_test_batches=20",
    "--trainer.enable_progress_bar=false",
    "--run.wandb=disabled",
    "--run.table=false",
    '--trainer.callbacks+={"class_path": "tests.soak.memory.Watch"}',
    "--allow=tests.soak.memory",
]


def write_csv(path: Path, size: int) -> int:
    """Write `COLUMNS` noisy rhythms, at least `size` bytes; return the number of rows."""
    draw = np.random.default_rng(0)
    day = np.sin(2 * np.pi * np.arange(_LINES) / 24)[:, None] * draw.uniform(0.5, 2, COLUMNS)
    values = day + draw.normal(0, 0.5, (_LINES, COLUMNS))
    lines = [",".join(f"{value:.4f}" for value in row) for row in values.tolist()]
    rows = 0
    with path.open("w") as file:
        file.write("date," + ",".join(f"sensor{k}" for k in range(COLUMNS)) + "\n")
        while file.tell() < size:
            stamps = np.datetime_as_string(
                np.datetime64("2000-01-01T00:00") + np.arange(rows, rows + _LINES)
            ).tolist()
            count = _LINES if size - file.tell() > 2 * _LINES * len(lines[0]) else min(_LINES, 1000)
            file.writelines(f"{stamp},{line}\n" for stamp, line in zip(stamps[:count], lines, strict=False))
            rows += count
    return rows


def memory() -> dict[str, int]:
    """Memory of this process in bytes: `anonymous` and all `resident`; `data`, as RLIMIT_DATA counts it."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"anonymous": "RssAnon", "resident": "VmRSS", "data": "VmData"}
    return {key: int(lines[name].split()[0]) * 1024 for key, name in names.items()}


class Watch(L.Callback):
    """Callback that records the memory before the first training step and after each."""

    samples: list[dict[str, int]] = []
    started = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        Watch.samples = [memory()]
        Watch.started = time.monotonic()

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        Watch.samples.append(memory())


def limited(small: str, large: str, allowed: int, steps: int, mapped: bool) -> None:
    """Fit `small`, allow `allowed` more bytes, fit `large`, and print the figures as JSON."""
    from experiments.cli import main as dream

    fit = [*FIT, f"--trainer.max_steps={steps}", f"--data.mapped={str(mapped).lower()}"]
    if dream([*fit, f"--data.path={small}"]):
        raise SystemExit("the small file did not train")
    peak, done = memory(), threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            now = memory()
            peak.update({key: max(peak[key], now[key]) for key in peak})

    watcher = threading.Thread(target=look)
    watcher.start()
    before = memory()
    resource.setrlimit(resource.RLIMIT_DATA, (before["data"] + allowed, resource.RLIM_INFINITY))
    begun = time.monotonic()
    code = dream([*fit, f"--data.path={large}"])
    ended = time.monotonic()
    done.set()
    watcher.join()
    if code:
        raise SystemExit(code)
    samples = [sample["anonymous"] for sample in Watch.samples]
    tenth = max(len(samples) // 10, 1)
    print(  # noqa: T201
        json.dumps(
            {
                "steps": len(samples) - 1,
                "before": before["anonymous"],
                "peak": peak["anonymous"],
                "peak_resident": peak["resident"],
                "peak_data": peak["data"] - before["data"],
                "first_steps": max(samples[1 : 1 + tenth]),
                "last_steps": max(samples[-tenth:]),
                "prepare_seconds": Watch.started - begun,
                "step_seconds": ended - Watch.started,
            }
        )
    )


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Generate the files and train; print and return the figures, in MiB and seconds.

    Raises:
        SystemExit: the fit on disk fails or its memory grows with the steps, or the one in memory does not
            fail.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.soak.memory", description=__doc__)
    parser.add_argument("--allowed", type=int, default=64, help="MiB allowed after everything is loaded")
    parser.add_argument("--steps", type=int, default=300, help="training steps")
    parser.add_argument("--quick", action="store_true", help="40 MiB and 50 steps")
    arguments = parser.parse_args(argv)
    allowed, steps = (40, 50) if arguments.quick else (arguments.allowed, arguments.steps)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_csv(folder / "small.csv", 1 * MIB)
        rows = write_csv(folder / "large.csv", TIMES * allowed * MIB)
        size = (folder / "large.csv").stat().st_size
        ours = _run(folder, allowed * MIB, steps, mapped=True)
        if ours.returncode:
            raise SystemExit(f"training on disk did not end well:\n{ours.stderr[-2000:]}")
        found = json.loads(ours.stdout.splitlines()[-1])
        control = _run(folder, allowed * MIB, steps, mapped=False)
    figures: dict[str, Any] = {
        "rows": rows,
        "file_mib": round(size / MIB, 1),
        "allowed_mib": allowed,
        "steps": found["steps"],
        "loaded_anonymous_mib": round(found["before"] / MIB, 1),
        "peak_above_mib": round((found["peak"] - found["before"]) / MIB, 1),
        "peak_private_above_mib": round(found["peak_data"] / MIB, 1),
        "first_steps_above_mib": round((found["first_steps"] - found["before"]) / MIB, 1),
        "last_steps_above_mib": round((found["last_steps"] - found["before"]) / MIB, 1),
        "peak_resident_mib": round(found["peak_resident"] / MIB, 1),
        "convert_and_prepare_seconds": round(found["prepare_seconds"], 1),
        "train_and_test_seconds": round(found["step_seconds"], 1),
        "in_memory_fails": control.returncode != 0,
    }
    for key, value in figures.items():
        print(f"{key.replace('_', ' '):>30}  {value}")  # noqa: T201
    if not figures["in_memory_fails"] or found["last_steps"] - found["first_steps"] > FLAT:
        raise SystemExit("memory grows with the steps, or the limit does not limit")
    return figures


def _run(folder: Path, allowed: int, steps: int, mapped: bool) -> subprocess.CompletedProcess[str]:
    call = (str(folder / "small.csv"), str(folder / "large.csv"), allowed, steps, mapped)
    code = f"from tests.soak.memory import limited; limited(*{call!r})"
    root = str(Path(__file__).parents[2])
    # one arena and one thread: memory that allocator and libraries reserve for threads holds no data
    own = {
        "DREAM_CACHE": str(folder / "cache"),
        "MALLOC_ARENA_MAX": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": root,
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
