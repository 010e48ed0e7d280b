"""Command line of the suite: run tasks and seeds, show tables, write JSON, Markdown and pictures."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

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
from experiments.summary import table
from lightning_modules.run.tracking import write_results

OUTPUT = Path("runs/benchmarks/adaptation.json")
FIRST = ("recall", "linear_systems")
"""Tasks of the first picture, of associations and of systems."""


def main(argv: list[str] | None = None) -> int:
    """Run the suite; see the package.

    Raises:
        ConfigError: an unknown task, or a number below 1.
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
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON; tables and pictures go beside it")
    arguments = parser.parse_args(argv)
    for name in arguments.tasks:
        if name not in TASKS:
            raise ConfigError(f"`--tasks` must name tasks of the suite; got {name!r}. {nearest(name, TASKS)}")
    for name, value in (("seeds", arguments.seeds), ("steps", arguments.steps)):
        if value is not None and value < 1:
            raise ConfigError(f"`--{name}` must be 1 or more; got {value}.")
    names = [name for name in TASKS if name in arguments.tasks]
    outcomes: dict[str, dict[int, Mapping[str, Outcome]]] = {name: {} for name in names}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        for name in names:
            outcomes[name][seed] = run(TASKS[name](seed), arguments.steps)
            tasks = {task: record(TASKS[task], found) for task, found in outcomes.items() if found}
            save(arguments.output, tasks, arguments.steps)  # now, so that an early stop loses one task
    show(tasks, arguments.output)
    return 0


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
