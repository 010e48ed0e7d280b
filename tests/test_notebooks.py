"""Every notebook of docs/notebooks runs from top to bottom and supports its claim; its file is clean."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from experiments.new import TASKS

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
Results = dict[str, dict[str, float]]


def lower(metric: str, *rivals: str) -> Callable[[Results], bool]:
    return lambda results: results["DREAM"][metric] < min(results[rival][metric] for rival in rivals)


def higher(metric: str, *rivals: str) -> Callable[[Results], bool]:
    return lambda results: results["DREAM"][metric] > max(results[rival][metric] for rival in rivals)


HOLDS: dict[str, Callable[[Results], bool]] = {
    "forecasting": lower("mse", "repeat-last", "seasonal-naive"),
    "anomaly": higher("roc_auc", "repeat-last", "windowed Gaussian"),
    "online": lambda results: (
        results["DREAM, fast weights + head"]["mse"]
        < min(results[name]["mse"] for name in ("DREAM, frozen", "repeat-last"))
    ),
    "language": lower("nats", "DREAM, plasticity off", "unigram", "bigram"),
    "classification": higher("accuracy", "DREAM, plasticity off", "nearest neighbour", "nearest mean"),
    "speech": higher("accuracy", "nearest mean"),
}
"""Claims of the notebooks: DREAM ahead of these rivals."""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookClient]:
    """One kernel for all notebooks, in an empty folder: the imports take longer than most of them."""
    home = tmp_path_factory.mktemp("notebooks")
    client = NotebookClient(
        nbformat.v4.new_notebook(), kernel_name="python3", resources={"metadata": {"path": str(home)}}
    )
    client.timeout = 200
    with client.setup_kernel():
        yield client
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("task", TASKS)
def test_it_runs_and_dream_beats_its_rivals(task: str, kernel: NotebookClient) -> None:
    notebook = nbformat.read(FOLDER / f"{task}.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    last = nbformat.v4.new_code_cell("print(results.to_json(orient='index'))")
    kernel.nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("%reset -f"), *cells, last])
    for number, cell in enumerate(kernel.nb.cells):
        kernel.execute_cell(cell, number)
    results = json.loads(last.outputs[0].text)
    assert HOLDS[task](results), results
    assert all(output.output_type != "stream" for cell in cells for output in cell.outputs)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_committed_was_run_and_holds_nothing_of_one_machine(task: str) -> None:
    text = (FOLDER / f"{task}.ipynb").read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert 8 <= len(notebook.cells) <= 14
    assert {output.output_type for output in outputs(notebook)} <= {"execute_result", "display_data"}
    assert 1 <= sum("image/png" in output.data for output in outputs(notebook)) <= 2
    shown = "".join(str(output.data.get("text/plain", "")) for output in outputs(notebook))
    assert "DREAM" in shown
    assert not re.search(r"/(home|root|tmp|work|usr)/|0x[0-9a-f]{6}", text)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def outputs(notebook: nbformat.NotebookNode) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
