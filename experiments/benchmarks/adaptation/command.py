"""Command line of the suite: run tasks and seeds, show tables, write JSON, Markdown and pictures."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from io import BytesIO
from pathlib import Path

import torch
from rich.console import Console

from dream.errors import ConfigError, nearest
from dream.files import write_atomic
from experiments.benchmarks.adaptation.page import markdown
from experiments.benchmarks.adaptation.plots import curves
from experiments.benchmarks.adaptation.protocol import COLUMNS, Outcome, SequenceTask, Task
from experiments.benchmarks.adaptation.record import Record, means, record, summary
from experiments.benchmarks.adaptation.tasks import TASKS
from experiments.benchmarks.adaptation.tasks.controls import Control
from experiments.benchmarks.adaptation.training import run_columns
from experiments.comparison import written
from experiments.ending import say
from experiments.summary import table
from lightning_modules.run.tracking import write_results

OUTPUT = Path("runs/benchmarks/adaptation.json")
FIRST = ("recall", "linear_systems")
"""Tasks of the first picture, of associations and of systems."""


def main(argv: list[str] | None = None) -> int:
    """Run the suite; see the package.

    Raises:
        ConfigError: an unknown task, or a number below 1.
        DREAMError: a task that can't be run, such as one whose data are not there.
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.adaptation",
        description="Tasks in which something is new at test time, and has to be learnt while it is read.",
    )
    parser.add_argument(
        "--tasks", nargs="+", default=list(TASKS), help=f"of {', '.join(TASKS)}; all if not given"
    )
    parser.add_argument("--seeds", type=int, default=3, help="0 to N - 1 (default: 3)")
    parser.add_argument(
        "--steps", type=int, help="at most that many of each training; its budget if not given"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="tasks side by side, from 2 on each on one thread (default: 1)"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON; tables and pictures go beside it")
    arguments = parser.parse_args(argv)
    for name in arguments.tasks:
        if name not in TASKS:
            raise ConfigError(f"`--tasks` must name tasks of the suite; got {name!r}. {nearest(name, TASKS)}")
    for name, value in (
        ("seeds", arguments.seeds),
        ("steps", arguments.steps),
        ("jobs", arguments.jobs),
    ):
        if value is not None and value < 1:
            raise ConfigError(f"`--{name}` must be 1 or more; got {value}.")
    names = [name for name in TASKS if name in arguments.tasks]
    outcomes: dict[str, dict[int, Mapping[str, Outcome]]] = {name: {} for name in names}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    parts = [(name, seed) for seed in range(arguments.seeds) for name in names]
    for done, (name, seed, found) in enumerate(run_all(parts, arguments.steps, arguments.jobs), 1):
        outcomes[name][seed] = found
        say(f"[{done}/{len(parts)}] {name}, seed {seed}")
        tasks = {
            task: record(TASKS[task], dict(sorted(by_seed.items())))
            for task, by_seed in outcomes.items()
            if by_seed
        }
        save(arguments.output, tasks, arguments.steps)  # now, so that an early stop loses one task
    show(tasks, arguments.output)
    return 0


def run_all(
    parts: Sequence[tuple[str, int]], most_steps: int | None, jobs: int
) -> Iterator[tuple[str, int, dict[str, Outcome]]]:
    """Yield name, seed and outcomes of each part as it is done, in the order of `parts` if `jobs` is 1."""
    if jobs == 1:
        for name, seed in parts:
            yield name, seed, run(TASKS[name](seed), most_steps)
        return
    # spawned, since a fork of a process whose torch has used its threads hangs
    context = multiprocessing.get_context("spawn")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the workers: the JSON states the number
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=begin_worker) as pool:
        waited = {pool.submit(run_named, *part, most_steps): part for part in parts}
        try:
            for future in as_completed(waited):
                yield *waited[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
        finally:
            torch.set_num_threads(threads)


def begin_worker() -> None:
    """Prepare a process that trains beside others: one thread, lines in place of a bar, Ctrl-C left to the
    first process."""
    torch.set_num_threads(1)
    os.environ["TTY_COMPATIBLE"] = "0"  # rich: no terminal, where bars of several processes would collide
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_named(name: str, seed: int, most_steps: int | None) -> dict[str, Outcome]:
    """Outcome of every column of the task `name`; at the top of the module, so that processes find it."""
    return run(TASKS[name](seed), most_steps)


def run(task: Task, most_steps: int | None) -> dict[str, Outcome]:
    """Outcome of every column of a task."""
    if isinstance(task, Control):
        with tempfile.TemporaryDirectory(prefix="dream-") as folder:
            return task.run(most_steps, Path(folder, task.name))
    assert isinstance(task, SequenceTask)
    return run_columns(task, most_steps)


def save(path: Path, tasks: Mapping[str, Record], most_steps: int | None) -> None:
    """Write the JSON, and beside it tables and pictures."""
    seeds = sorted({seed for task in tasks.values() for seed in task["seeds"]})
    write_results(path, means(tasks), seeds=seeds, most_steps=most_steps, summary=summary(tasks), tasks=tasks)
    write_atomic(path.with_suffix(".md"), markdown(tasks).encode())
    drawn = {name: task for name, task in tasks.items() if task["positions"]}
    first = {name: task for name, task in drawn.items() if name in FIRST}
    for ending, panels in ((".png", first), ("-tasks.png", drawn)):
        if panels:
            picture = BytesIO()
            curves(panels).savefig(picture, dpi=120)
            write_atomic(path.with_name(path.stem + ending), picture.getvalue())


def show(tasks: Mapping[str, Record], path: Path) -> None:
    """Print the tables, the summary and where everything lies."""
    console = Console()
    for name, task in tasks.items():
        cells = {
            column: {metric: written(values) for metric, values in task["columns"][column]["values"].items()}
            for column in COLUMNS
            if column in task["columns"]
        }
        console.print(table(cells, f"{name}: mean of {len(task['seeds'])} seeds", console, "column"))
    console.print(summary(tasks))
    console.print(f"every figure: {path}\nthe tables: {path.with_suffix('.md')}", soft_wrap=True)
