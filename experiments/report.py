"""What a run says at its end: the table, and where everything is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_modules.base import TaskModule


def results(
    values: dict[str, dict[str, float]],
    folder: Path,
    higher_is_better: frozenset[str],
    unranked: frozenset[str] = frozenset(),
) -> None:
    """Print the table, a row for each model, the best of each column in bold, and the paths of what was written."""
    console = Console()
    if not values:
        console.print("nothing was tested: no table.")
        written(folder, console)
        return
    metrics = list(next(iter(values.values())))
    table = Table("model", *metrics, title="results", title_justify="left")
    pick = {name: max if name in higher_is_better else min for name in metrics}
    best = {name: pick[name](row[name] for row in values.values() if name in row) for name in metrics}
    for model, row in values.items():
        table.add_row(
            model, *(_cell(row.get(name), best[name], len(values) > 1 and name not in unranked) for name in metrics)
        )
    console.print(table)
    written(folder, console)


def _cell(value: float | None, best: float, bold: bool) -> str:
    if value is None:
        return "-"
    return f"[bold]{value:.4f}[/]" if bold and value == best else f"{value:.4f}"


def written(folder: Path, console: Console) -> None:
    """Print what a run left in its folder."""
    kinds = {
        "figures": sorted((folder / "figures").glob("*.png")),
        "metrics": [folder / "metrics.jsonl"],
        "results": [folder / "results.json"],
        "origins": [folder / "origins.csv"],
        "config": [folder / "config.yaml"],
        "best checkpoint": sorted((folder / "checkpoints").glob("best*.ckpt")),
        "tracked run": sorted((folder / "wandb").glob("*run-*")),
    }
    for kind, paths in kinds.items():
        for path in paths:
            if path.exists():
                console.print(f"{kind:>16}  {path}", soft_wrap=True, highlight=False)


def predictions(model: TaskModule, values: Any, folder: Path) -> None:
    """Write the predictions of a task beside the run's other files, and say where."""
    console = Console()
    for path in model.write_predictions(values, folder):
        console.print(f"     predictions  {path}", soft_wrap=True, highlight=False)
