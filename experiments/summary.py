"""End of a run: the table, and the paths of its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table

from dream.files import write_atomic
from experiments.folders import CONFIG, RESULTS, SAVES

if TYPE_CHECKING:
    from lightning_modules.base import TaskModule


def results(
    values: dict[str, dict[str, float]],
    folder: Path,
    higher_is_better: frozenset[str],
    unranked: frozenset[str] = frozenset(),
) -> None:
    """Print the table, the best model by each metric in bold, and the paths of what was written."""
    console = Console()
    if not values:
        console.print("nothing was tested: no table.")
        written(folder, console)
        return
    metrics = list(next(iter(values.values())))
    pick = {name: max if name in higher_is_better else min for name in metrics}
    best = {name: pick[name](row[name] for row in values.values() if name in row) for name in metrics}
    cells = {
        model: {
            name: _cell(row.get(name), best[name], len(values) > 1 and name not in unranked)
            for name in metrics
        }
        for model, row in values.items()
    }
    console.print(table(cells, "results", console))
    written(folder, console)


def table(cells: dict[str, dict[str, str]], title: str, console: Console, head: str = "model") -> Group:
    """Lay out `cells` by `head` and column so that no cell is cut.

    A line for each model; where that is too wide for the console a column for each; where that is too wide,
    too, a line for each again, in several tables below each other.
    """
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))

    def upright(some: list[str]) -> Table:
        made = Table(head, *some, title=title, title_justify="left")
        for model, row in cells.items():
            made.add_row(model, *(row.get(column, "-") for column in some))
        return made

    turned = Table(head, *cells, title=title, title_justify="left")
    for column in columns:
        turned.add_row(column, *(row.get(column, "-") for row in cells.values()))
    for whole in (upright(columns), turned):
        if _fits(whole, console):
            return Group(whole)
    parts: list[list[str]] = [columns[:1]]
    for column in columns[1:]:
        if _fits(upright([*parts[-1], column]), console):
            parts[-1].append(column)
        else:
            parts.append([column])
    return Group(*map(upright, parts))


def _fits(made: Table, console: Console) -> bool:
    """Whether no line of the table would be cut or folded."""
    unlimited = console.options.update_width(10**6)
    return Measurement.get(console, unlimited, made).maximum <= console.width


def _cell(value: float | None, best: float, bold: bool) -> str:
    if value is None:
        return "-"
    return f"[bold]{value:.4f}[/]" if bold and value == best else f"{value:.4f}"


def written(folder: Path, console: Console) -> None:
    """Print the paths of the files in a run's folder."""
    kinds = {
        "figures": sorted((folder / "figures").glob("*.png")),
        "metrics": [folder / "metrics.jsonl"],
        "results": [folder / RESULTS],
        "table": sorted(folder.glob("*.csv")),
        "text": sorted(folder.glob("*.txt")),
        "config": [folder / CONFIG],
        "best checkpoint": sorted((folder / SAVES).glob("best*.ckpt")),
        "tracked run": sorted((folder / "wandb").glob("*run-*")),
    }
    for kind, paths in kinds.items():
        for path in paths:
            if path.exists():
                console.print(f"{kind:>16}  {path}", soft_wrap=True, highlight=False)


def predictions(model: TaskModule, values: Any, place: Path) -> None:
    """Write the predictions of a task, if there are any, and print where.

    Args:
        model: The task.
        values: Predictions of all batches.
        place: Folder of the run, or the file that they go to.
    """
    console = Console()
    if place.is_dir():
        paths = model.write_predictions(values, place)
    else:
        paths = [write_atomic(place, model.predictions_text(values))] if values else []
    for path in paths:
        console.print(f"     predictions  {path}", soft_wrap=True, highlight=False)
