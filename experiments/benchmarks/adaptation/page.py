"""The tables of docs/adaptation.md, from the records of the tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from experiments.benchmarks.adaptation.protocol import BASELINE, COLUMNS, TRAINED
from experiments.benchmarks.adaptation.record import Record, chosen, summary
from experiments.comparison import mean, written


def markdown(tasks: Mapping[str, Record]) -> str:
    """Text with the summary, a table of figures for each group, and a table of how columns were trained."""
    parts = [summary(tasks)]
    for group, members in groupby(tasks.values(), key=lambda task: task["group"]):
        rows = [row for task in members for row in figures(task)]
        parts.append(f"### {group[0].upper()}{group[1:]}\n\n" + table(["task", "bar", *COLUMNS], rows))
    trained = {name: task for name, task in tasks.items() if set(TRAINED) & task["columns"].keys()}
    if trained:
        rows = [row for name, task in trained.items() for row in trainings(name, task)]
        head = ["task", "column", "parameters", "learning rate", "seconds"]
        parts.append("### Trainings\n\n" + table(head, rows))
    return "\n\n".join(parts) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Lines of a Markdown table."""
    head = list(head)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def figures(task: Record) -> list[list[str]]:
    """Rows of a task, one for each metric: mean and deviation over the seeds."""
    rows = []
    for place, metric in enumerate(task["metrics"]):
        name = metric["name"]
        what = f"{task['title']}: {name}" if place == 0 else name
        rows.append([what, bar(metric), *(cell(task, column, name) for column in COLUMNS)])
    return rows


def cell(task: Record, column: str, metric: str) -> str:
    """Figure of a column, and of the best method without a core its name in the first row."""
    row = task["columns"].get(column)
    if row is None:
        return "-"
    text = written(row["values"][metric])
    first = metric == task["metrics"][0]["name"]
    return f"{text} ({', '.join(chosen(row))})" if column == BASELINE and first else text


def bar(metric: Mapping[str, Any]) -> str:
    """Bar of a metric, and whether it is reached."""
    sign = "≥" if metric["higher"] else "≤"
    margin = f" {'+' if metric['higher'] else '-'} {metric['by']:g}" if metric["by"] else ""
    asked = [] if metric["bar"] is None else [f"{sign} {metric['bar']:g}"]
    asked += [f"{sign} {column}{margin}" for column in metric["beats"]]
    if metric["within"]:
        asked.append(f"not worse than {', '.join(metric['within'])} beyond one deviation")
    verdict = {None: "needs two seeds", True: "reached", False: "missed"}[metric["reached"]]
    return f"{', '.join(asked)}: {verdict}" if asked else ""


def trainings(name: str, task: Record) -> list[list[str]]:
    """Rows of the table of trainings of a task."""
    rows = []
    for column in TRAINED:
        row = task["columns"].get(column)
        if row is None:
            continue
        seconds = [value for value in row["seconds"] if value is not None]
        parameters = "-" if row["parameters"] is None else f"{row['parameters']:,}"
        rate, time = ", ".join(chosen(row)) or "-", f"{mean(seconds):.0f}" if seconds else "-"
        rows.append([name, column, parameters, rate, time])
    return rows
