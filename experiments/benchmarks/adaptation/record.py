"""Figures of all seeds and columns as they go into the JSON, and what they come to.

The record of a task: its description, and for each column a list by seed of every figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from experiments.benchmarks.adaptation.protocol import (
    COLUMNS,
    OFF,
    OPTIMUM,
    PLASTIC,
    REST,
    Metric,
    Outcome,
    Task,
)
from experiments.comparison import mean, spread

Record = dict[str, Any]


def record(task: type[Task], outcomes: Mapping[int, Mapping[str, Outcome]]) -> Record:
    """Record of a task from the outcomes of each seed, shares of the gap and verdicts included."""
    seeds = list(outcomes)
    columns: dict[str, Any] = {}
    for column in COLUMNS:
        found = [outcomes[seed][column] for seed in seeds if column in outcomes[seed]]
        if not found:
            continue
        columns[column] = {
            "parameters": found[0].parameters,
            "seconds": [outcome.seconds for outcome in found],
            "tried": [outcome.tried for outcome in found],
            "chosen": [outcome.chosen for outcome in found],
            "values": {
                metric.name: [outcome.scores.values[metric.name] for outcome in found]
                for metric in task.metrics
                if metric.share_of is None
            },
            "curves": [outcome.scores.curve for outcome in found],
        }
    for metric in task.metrics:
        if metric.share_of is not None:
            _add_shares(columns, metric)
    return {
        "title": task.title,
        "group": task.group,
        "seeds": seeds,
        "metrics": [{**asdict(metric), "reached": reached(metric, columns)} for metric in task.metrics],
        "axis": task.axis,
        "positions": list(task.positions),
        "columns": columns,
    }


def _add_shares(columns: dict[str, Any], metric: Metric) -> None:
    """Add the share of the gap that each column closes, seed by seed.

    The gap lies between the optimum and the better of DREAM at rest and DREAM trained without plasticity."""
    of = metric.share_of
    assert of is not None
    best = columns[OPTIMUM]["values"][of]
    rest, off = columns[REST]["values"][of], columns[OFF]["values"][of]
    for row in columns.values():
        row["values"][metric.name] = [
            (min(a, b) - value) / (min(a, b) - least)
            for value, a, b, least in zip(row["values"][of], rest, off, best, strict=True)
        ]


def reached(metric: Metric, columns: Mapping[str, Any]) -> bool | None:
    """Whether DREAM reaches the bar and all that the metric asks of it; None if it asks for nothing, or for a
    deviation, which one seed does not have."""
    own = mean(columns[PLASTIC]["values"][metric.name])
    if metric.within and len(columns[PLASTIC]["values"][metric.name]) == 1:
        return None
    asked = []
    if metric.bar is not None:
        asked.append(not metric.ahead(metric.bar, own))
    for column in (*metric.beats, *metric.within):
        values = columns[column]["values"][metric.name]
        slack = spread(values) if column in metric.within else -metric.by
        limit = mean(values) + (-slack if metric.higher else slack)
        asked.append(not metric.ahead(limit, own))
    return all(asked) if asked else None


def ahead(tasks: Mapping[str, Record]) -> dict[str, tuple[int, int]]:
    """For each column the number of tasks on which DREAM is ahead of it, and of tasks that have both.

    What counts is the headline figure, mean over the seeds. The optimum is no rival, and controls, where no
    gain is expected, are counted apart (`controls`).
    """
    found: dict[str, tuple[int, int]] = {}
    for column in COLUMNS:
        if column in (PLASTIC, OPTIMUM):
            continue
        wins = []
        for task in tasks.values():
            headline = metric_of(task["metrics"][0])
            if headline.within:
                continue
            pair = [task["columns"].get(name) for name in (PLASTIC, column)]
            if all(pair):
                own, other = (mean(row["values"][headline.name]) for row in pair)
                wins.append(headline.ahead(own, other))
        if wins:
            found[column] = sum(wins), len(wins)
    return found


def controls(tasks: Mapping[str, Record]) -> dict[str, bool | None]:
    """For each control whether DREAM is not worse than plasticity off beyond one deviation; see `reached`."""
    return {
        name: task["metrics"][0]["reached"] for name, task in tasks.items() if task["metrics"][0]["within"]
    }


def metric_of(entry: Mapping[str, Any]) -> Metric:
    """Metric of an entry of the record."""
    values = {name: value for name, value in entry.items() if name != "reached"}
    return Metric(**{**values, "beats": tuple(values["beats"]), "within": tuple(values["within"])})


def summary(tasks: Mapping[str, Record]) -> str:
    """The one line: on how many tasks the fast weights are ahead of each column, and on how many controls
    they do no harm."""
    parts = []
    counts = [f"{column} on {wins} of {count}" for column, (wins, count) in ahead(tasks).items()]
    if counts:
        parts.append("DREAM with its fast weights is ahead of " + ", ".join(counts) + " tasks.")
    verdicts = list(controls(tasks).values())
    if None in verdicts:
        parts.append("Controls need two seeds or more, for a deviation.")
    elif verdicts:
        held = f"{sum(map(bool, verdicts))} of {len(verdicts)} controls"
        parts.append(f"It is not worse than plasticity off beyond one deviation on {held}.")
    return " ".join(parts)


def means(tasks: Mapping[str, Record]) -> dict[str, dict[str, float]]:
    """Mean over the seeds of every figure, by column and ``task: metric``."""
    found: dict[str, dict[str, float]] = {}
    for name, task in tasks.items():
        for column, row in task["columns"].items():
            figures = {f"{name}: {metric}": mean(values) for metric, values in row["values"].items()}
            found.setdefault(column, {}).update(figures)
    return found


def chosen(row: Mapping[str, Any]) -> Sequence[str]:
    """Different learning rates or methods that the seeds of a column chose."""
    return list(dict.fromkeys(name for name in row["chosen"] if name is not None))
