"""Training throughput on one process and on two, with the same batches.

``python -m experiments.benchmarks.ranks`` trains the forecasting demo's model in turn on one process with one
thread, on one with as many threads as there are cores, and on two that share the cores, each time in fresh
processes joined by gloo; it prints windows per second, the median over the repeats, with ratios to the first,
and writes every figure as JSON."""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to load, so that Ctrl-C ends it with one sentence
    from experiments.ending import run_module

    run_module("experiments.benchmarks.ranks")

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from jsonargparse import Namespace
from rich.console import Console
from rich.table import Table

from dream import DREAMConfig
from experiments import launch
from lightning_modules import ForecastingModule
from lightning_modules.base import TaskModule
from lightning_modules.forecasting import DriftingLoad
from lightning_modules.run.tracking import write_results
from lightning_modules.waiting import waiting

TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--rdzv-backend=c10d",
    "--rdzv-endpoint=localhost:0",
]
WARM_UP = 5  # steps
BATCH = 64  # windows, of all processes together


class ThroughputPlan(NamedTuple):
    """Number of processes, and threads of each."""

    processes: int
    threads: int

    def __str__(self) -> str:
        return f"{self.processes} x {self.threads} thread{'s' if self.threads > 1 else ''}"


def quiet_trainer(model: TaskModule, **options: Any) -> L.Trainer:
    """A Trainer on the CPU that prints and writes nothing, for as many processes as were started."""
    where = Namespace(devices="auto", num_nodes=1, strategy="auto")
    launch.spread(where, model.unreached)
    off = {f"enable_{what}": False for what in ("progress_bar", "model_summary", "checkpointing")}
    own = dict(accelerator="cpu", logger=False, num_sanity_val_steps=0, use_distributed_sampler=False)
    return L.Trainer(**vars(where), **{**off, **own, **options})


class _Clock(L.Callback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.perf_counter())


def train(steps: int) -> float:
    """Windows a second, of all processes together, after the warm-up."""
    data = DriftingLoad(batch_size=BATCH)
    config = DREAMConfig(hidden_dim=128, rank=8)
    model = ForecastingModule.for_data(data, config=config)
    clock = _Clock()
    total = WARM_UP + steps
    quiet_trainer(model, callbacks=[clock], max_steps=total, limit_val_batches=0).fit(model, datamodule=data)
    return steps * BATCH / (clock.times[-1] - clock.times[WARM_UP - 1])


def measured(plan: ThroughputPlan, steps: int) -> float:
    """`train` in fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "speed"
        start = [*TORCHRUN, f"--nproc-per-node={plan.processes}"] if plan.processes > 1 else [sys.executable]
        command = [
            *start,
            "-m",
            "experiments.benchmarks.ranks",
            f"--out={out}",
            f"--steps={steps}",
            "--worker",
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(plan.threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return float(out.read_text())


def speeds(repeats: int, steps: int) -> dict[str, list[float]]:
    """Windows a second of every plan, all plans in turn, the one with a single thread first."""
    plans = list(
        dict.fromkeys(
            [ThroughputPlan(1, 1), ThroughputPlan(1, cores()), ThroughputPlan(2, max(cores() // 2, 1))]
        )
    )
    found: dict[str, list[float]] = {str(plan): [] for plan in plans}
    with waiting("training") as tell:
        for number, plan in enumerate(plans * repeats, 1):
            found[str(plan)].append(measured(plan, steps))
            tell(number / (len(plans) * repeats))
    return found


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ratios(found: dict[str, list[float]]) -> dict[str, float]:
    """Median of every plan's `speeds`, relative to the first's."""
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {name: value / next(iter(medians.values())) for name, value in medians.items()}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.ranks", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--repeats", type=int, default=5, help="of each plan, in turn (default: 5)")
    parser.add_argument(
        "--steps", type=int, default=60, help="that are timed, after five that warm up (default: 60)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks/ranks.json"), help="where the JSON goes"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        launch.end_with_parent(for_good=True)
        speed = train(arguments.steps)
        if launch.is_first():
            arguments.out.write_text(str(speed))
        return 0
    found = speeds(arguments.repeats, arguments.steps)
    table = Table(
        "processes", "windows a second", "ratio", title=f"training, {BATCH} windows a batch, {cores()} cores"
    )
    for name, ratio in ratios(found).items():
        table.add_row(name, f"{statistics.median(found[name]):.0f}", f"{ratio:.2f}")
    Console().print(table)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    results = {name: {"ratio": ratio} for name, ratio in ratios(found).items()}
    write_results(
        arguments.out, results, windows_per_second=found, batch=BATCH, cores=cores(), steps=arguments.steps
    )
    Console().print(f"every figure: {arguments.out}")
    return 0
