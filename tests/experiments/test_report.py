"""`dream report` without a browser: what the page says of folders whose content is known, whole, partial or
hostile."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dream.files import json_text
from experiments import records
from experiments.cli import main
from experiments.report import render
from experiments.report.charts import Charts
from experiments.report.folder import (
    POINTS,
    ComparisonFolder,
    Curve,
    RunFolder,
    SweepFolder,
    mean_line,
)
from experiments.report.page import files
from experiments.report.tables import comparison_table, run_table, trial_table
from lightning_modules.tables import csv_text

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)
EVIL = "<script>alert('x')</script>"
RESULTS = {
    "DREAM": {"mse": 0.25, "accuracy": 0.5, "coverage": 0.8},
    EVIL: {"mse": 0.125, "accuracy": 0.25, "coverage": 0.9},
    "lost": {"mse": float("nan"), "accuracy": 0.125},
}
ENDED = {
    "results": RESULTS,
    "experiment": f"mine & {EVIL}",
    "command": ["dream", "fit", "-c", "a b.yaml"],
    "seed": 3,
    "epochs": 2,
    "seconds": 4.5,
    "parameters": 12345,
    "higher_is_better": ["accuracy"],
    "unranked": ["coverage"],
    "monitor": "val/mse",
    "commit": "0123abc",
    "versions": {"dream": "0.1.0", "torch": "2.13.0"},
    "device": "x86_64",
}


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def made(folder: Path, **files: Any) -> Path:
    """A run's folder with these files, texts as they are and everything else as JSON."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    layer = {"surprise_counts": [3, 1, 0, 4], "place": [0, 2], "surprise": [0.5, 0.25], "u_norm": [1.0, 2.0]}
    return made(
        tmp_path / f"run {EVIL.replace('/', '')}",
        run_json={"command": ["fit", "-c", "a b.yaml"], "started": "2026-01-02 03:04:05"},
        results_json=ENDED,
        metrics_jsonl=lines(
            {"step": 9, "train/loss": 2.0, "dream/layer_0/surprise": 0.5, "dream/layer_0/u_norm": 0.75},
            {"step": 19, "train/loss": 1.0, "dream/layer_0/surprise": "nan", "dream/layer_0/u_norm": 1.5},
            {"step": 19, "val/mse": 0.5},
            {"step": 29, "train/loss": float("nan")},
        )
        + '{"step": 39, "train/lo',
        layers_json={"places": "steps", "layers": [layer]},
        remarks_json={
            "window": 2,
            "remarks": [{"step": 7, "symptom": f"Doesn't {EVIL}", "adjustment": "increase `rank`"}],
        },
        config_yaml=f"data:\n  path: {EVIL}\n",
        figures__stream_png=PIXEL,
        figures__torn_png=PIXEL[:20],
        text_txt=f"Once {EVIL}",
        forecast_csv=f"time,{EVIL}\n1,2\n",
    )


def test_a_run_is_told_as_it_was(run: Path) -> None:
    text = render(run)
    page = Page(text)
    for fact in (
        "dream fit -c 'a b.yaml'",
        "2026-01-02 03:04:05",
        "12,345",
        "0123abc",
        "dream 0.1.0, torch 2.13.0",
        "4.5",
    ):
        assert fact in page.text, fact
    assert "Not finished" not in page.text
    titles = [title for title in re.findall(r"<h3>(.*?)</h3>", text) if "." not in title]
    assert titles == ["train/loss", "val/mse", "stream", "Surprise in training", "Fast weights in training",
                      "Surprise over the test", "Fast weights over the test", "Gate"]  # fmt: skip
    assert [tag["alt"] for name, tag in page.tags if name == "img"] == [
        "stream. " + str(text.split("stream. ")[1].split('"')[0])
    ]
    assert "figures/torn.png is damaged, it is no PNG." in page.text
    assert "Step 7: Doesn't" in page.text
    assert "<code>rank</code>" in text
    assert "Once <script>" in page.text
    assert "data:\n  path: <script>" in page.text


def test_nothing_is_run_loaded_or_counted_twice(run: Path) -> None:
    text = render(run)
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & {name for name, _ in page.tags}
    for name, tag in page.tags:
        for key in ("src", "href", "xlink:href"):
            if tag.get(key) is not None:
                assert str(tag[key]).startswith(("data:", "#")), (name, tag)
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    ids = [tag["id"] for _, tag in page.tags if "id" in tag]
    assert len(ids) == len(set(ids))
    used = {str(tag["xlink:href"])[1:] for _, tag in page.tags if "xlink:href" in tag}
    used |= set(re.findall(r"url\(#(.*?)\)", text))
    assert used
    assert used <= set(ids)


def test_names_in_charts_are_text() -> None:
    name, line = f'{EVIL} & "$x$"', [(0.0, 1.0), (1.0, 2.0)]
    for chart in (
        Charts().lines(name, "", {name: line, "b": line}, name, name),
        Charts().histogram(
            name, "", {name: [1, 2], "b": [2, 1]}, {name: [0, 1, 2], "b": [0, 1, 2]}, name, name
        ),
    ):
        page = Page(chart.svg)
        assert "script" not in {tag for tag, _ in page.tags}
        assert page.text.count(name) == 3
        assert page.tags[0][1]["aria-label"] == name


def test_the_table_holds_the_results_and_marks_the_best(run: Path) -> None:
    found = run_table(RunFolder(run))
    assert found is not None
    assert found.columns == ["mse ↓", "accuracy ↑", "coverage"]
    for model, row in found.rows.items():
        for cell, value in zip(row, RESULTS[model].values(), strict=False):
            assert (cell.text, cell.exact) == (f"{value:.4g}", repr(value))
    assert [[cell.best for cell in row] for row in found.rows.values()] == [
        [False, True, False], [True, False, False], [False, False, False]
    ]  # fmt: skip
    assert found.rows["lost"][2].text == "-"


def test_where_no_direction_was_recorded_nothing_is_the_best(run: Path) -> None:
    older = {
        name: value
        for name, value in ENDED.items()
        if name not in ("higher_is_better", "unranked", "monitor")
    }
    (run / "results.json").write_text(json.dumps(older))
    found = run_table(RunFolder(run))
    assert found is not None
    assert found.columns == ["mse", "accuracy", "coverage"]
    assert not any(cell.best for row in found.rows.values() for cell in row)
    assert "was not recorded, so none is marked" in found.note
    assert "<h3>val/mse</h3>" in render(run)


def test_curves_are_the_points_that_were_logged(run: Path) -> None:
    found = RunFolder(run)
    metrics, lost = found.metrics, found.lost
    assert metrics["train/loss"] == [(9.0, 2.0), (19.0, 1.0)]
    assert metrics["dream/layer_0/surprise"] == [(9.0, 0.5)]
    assert lost == {"dream/layer_0/surprise": 1, "train/loss": 1}
    assert (
        "Left out, since they are not finite: 1 of dream/layer_0/surprise, 1 of train/loss."
        in Page(render(run)).text
    )
    assert mean_line([[(1.0, 2.0), (2.0, 4.0)], [(1.0, 4.0)], []]) == [(1.0, 3.0)]
    assert mean_line([[(1.0, 2.0), (2.0, 4.0), (9.0, 0.0)], [(0.0, 1.0), (4.0, 5.0)]]) == [
        (1.0, 2.0),
        (2.0, 3.5),
    ]
    assert mean_line([]) == mean_line([[(1.0, 2.0)], [(3.0, 4.0)]]) == []


def test_a_long_run_makes_no_longer_lines() -> None:
    series = Curve()
    for step in range(100_000):
        series.add(step, step % 2)
    assert POINTS <= len(series.line) <= 2 * POINTS + 1
    assert all(value == 0.5 for _, value in series.line[:-1])
    steps = [step for step, _ in series.line]
    assert steps == sorted(steps)
    assert sum(number for *_, number in series.points) == 100_000


@pytest.mark.parametrize("written", [json.dumps, json_text], ids=["earlier versions", "this one"])
def test_numbers_that_json_does_not_have_are_shown(tmp_path: Path, written: Callable[[Any], str]) -> None:
    results = {"mine": {"ppl": math.inf, "mse": math.nan}, "other": {"ppl": 3.5, "mse": 2.5}}
    layer = {
        "surprise_counts": [1, 1],
        "place": [0, 1],
        "surprise": [0.5, math.nan],
        "u_norm": [1.0, math.inf],
    }
    files = {
        "results_json": {**ENDED, "results": results},
        "layers_json": {"places": "steps", "layers": [layer]},
    }
    text = Page(
        render(made(tmp_path / "run", **{name: written(content) for name, content in files.items()}))
    ).text
    assert all(word in text for word in ("inf", "nan", "3.5", "2.5"))
    assert "damaged" not in text
    found = records.read(tmp_path / "run" / "results.json", records.Ended)["results"]
    assert repr(found) == repr(results)


@pytest.mark.parametrize("name", ["run_json", "results_json", "metrics_jsonl"])
def test_what_is_missing_is_said(tmp_path: Path, name: str) -> None:
    contents = {
        "run_json": {"command": ["fit"]},
        "results_json": {"results": {}},
        "metrics_jsonl": "\n[]\n{}\nnull\n",
    }
    text = Page(render(made(tmp_path / "run", **{name: contents[name]}))).text
    assert "not recorded" in text
    assert "Not recorded: nothing was tested to its end." in text
    assert "Not recorded: no training step was logged." in text
    assert "Not recorded: no figure was left." in text
    assert "Not recorded: the advisor watches DREAM layers while they train." in text
    assert "Training: not recorded." in text
    assert ("Not finished" in text) is (name != "results_json")


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "null", '{"results": 3, "layers": 5, "remarks": 7, "versions": []}', "\0\xff"]
)
def test_damaged_files_are_no_crash(tmp_path: Path, content: str) -> None:
    names = (
        "run_json",
        "results_json",
        "metrics_jsonl",
        "layers_json",
        "remarks_json",
        "config_yaml",
        "forecast_csv",
    )
    assert "Not recorded" in render(made(tmp_path / "run", **dict.fromkeys(names, content)))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "results.json",
            {"results": {"a": {"mse": "x"}}},
            "at 'results.a.mse': Input should be a valid number",
        ),
        ("results.json", {"seconds": []}, "at 'seconds': Input should be a valid number; got []."),
        ("layers.json", {"layers": [{"plasticity": {"counts": [1]}}]}, "borders': Field required"),
        (
            "layers.json",
            {"layers": [{"tonic": {"counts": [1, 2], "borders": [0, 1]}}]},
            "one more than `counts`",
        ),
        ("layers.json", {"layers": [{"place": [0, 1], "surprise": [0.5]}]}, "must be of one length"),
        ("remarks.json", {"remarks": [1]}, "at 'remarks.0'"),
        ("run.json", "[" * 100_000, "it is no JSON"),
        ("metrics.jsonl", '{"step": 1, "train/loss": 1}\n[[\n{"a": 1}\n{"st', "2 lines, first line 2."),
        ("metrics.jsonl", "[" * 100_000 + "\n", "1 lines, first line 1."),
        ("metrics.jsonl", "x" * 2**21, "a line has more than 1,048,576 bytes"),
        ("text.csv", 'a,"b\r' * 10 + "x" * 200_000, "it is no CSV"),
    ],
)
def test_what_cannot_be_shown_is_named(run: Path, name: str, content: Any, said: str) -> None:
    assert name not in Page(render(run)).text.split("Not shown.")[1].partition("Results")[0]
    (run / name).write_text(content if isinstance(content, str) else json.dumps(content))
    page = Page(render(run)).text
    named = page.split("Not shown.")[1].partition("Results")[0]
    assert name in named
    assert said in named


def test_damage_in_one_run_of_a_comparison_is_named_beside_the_others(tmp_path: Path) -> None:
    folder = made(tmp_path / "cmp", plan_json={"experiment": [""], "flags": []})
    for seed, mse in enumerate((1e308, 1e308, "x")):
        ended = {**ENDED, "results": {"DREAM": {"mse": mse}}}
        made(folder / f"dream-seed{seed}", run_json={"started": "now"}, results_json=ended)
    (folder / "comparison.json").write_text('{"cells": [["dream", "x"]]}')
    found = comparison_table(ComparisonFolder(folder))
    assert found is not None
    assert found.rows["DREAM"][0].text == "1e+308"  # though the sum of both is beyond any number
    page = Page(render(folder)).text
    assert "comparison.json is damaged, at 'cells.0.1'" in page
    assert "dream-seed2/results.json is damaged, at 'results.DREAM.mse'" in page


@pytest.mark.parametrize("trials", [[1], [{"trial": "x"}], [{"trial": 0, "value": 1, "folder": "../run"}]])
def test_a_damaged_sweep_is_named(tmp_path: Path, trials: list[Any]) -> None:
    folder = made(
        tmp_path / "sw", plan_json={"space": ""}, sweep_json={"monitor": "val/mse", "trials": trials}
    )
    assert "sweep.json is damaged, at 'trials.0" in Page(render(folder)).text


def test_an_advisor_without_remarks_says_so(tmp_path: Path) -> None:
    rows = [{"step": step, "train/loss": 1.0} for step in range(5)]
    silent = {"window": 5, "remarks": []}
    run = made(tmp_path / "run", run_json={"command": []}, metrics_jsonl=lines(*rows), remarks_json=silent)
    assert "None: none of the guide's five symptoms was seen." in Page(render(run)).text
    (run / "metrics.jsonl").write_text(lines(*rows[1:]))
    assert (
        "None: the run had fewer logging steps than the 5 that a symptom must last." in Page(render(run)).text
    )


def test_a_comparison_is_the_mean_over_its_seeds(tmp_path: Path) -> None:
    folder = made(tmp_path / "compare", plan_json={"experiment": [""], "flags": ["--model.lr=0.1"]})
    for place, (model, seed, mse) in enumerate(
        [("dream", 0, 1.0), ("lstm", 0, 3.0), ("dream", 1, 2.0), ("lstm", 1, 5.0)]
    ):
        ended = {**ENDED, "results": {model.upper(): {"mse": mse}, "naive": {"mse": 9.0}}, "seed": seed}
        curve = lines({"step": 1, "train/loss": mse})
        started = {"command": ["fit"], "started": f"2026-01-01 00:00:0{place}"}
        made(folder / f"{model}-seed{seed}", run_json=started, results_json=ended, metrics_jsonl=curve)
    (folder / "lstm-seed1" / "results.json").unlink()
    found = comparison_table(ComparisonFolder(folder))
    assert found is not None
    texts = {name: [cell.text for cell in row] for name, row in found.rows.items()}
    assert texts == {
        "DREAM": ["1.5 ± 0.71", "12,345", "4"],
        "LSTM": ["3", "12,345", "4"],
        "naive": ["9", "-", "-"],
    }
    assert [cell.best for cell in found.rows["DREAM"]] == [True, False, False]
    text = Page(render(folder)).text
    assert "3 of 4 have ended" in text
    assert "--model.lr=0.1" in text
    assert "the same command does the others" in text
    made_of = {"cells": [["dream", 0], ["lstm", 0], ["dream", 1], ["lstm", 1], ["gru", 1]]}
    (folder / "comparison.json").write_text(json.dumps(made_of))
    assert "3 of 5 have ended" in Page(render(folder)).text
    made_of["cells"][3:] = []
    (folder / "comparison.json").write_text(json.dumps(made_of))
    (folder / "lstm-seed1" / "run.json").unlink()
    assert "Not finished" not in render(folder)


def test_a_comparison_shows_what_its_first_run_drew_and_wrote(tmp_path: Path) -> None:
    folder = made(tmp_path / "compare", plan_json={"experiment": [""], "flags": []}, comparison_png=PIXEL)
    for model in ("dream", "lstm"):
        made(
            folder / f"{model}-seed0",
            run_json={"started": model},
            results_json=ENDED,
            figures__stream_png=PIXEL,
            text_txt=f"of {model}",
        )
    text = render(folder)
    titles = re.findall(r"<h3>(.*?)</h3>", text)
    assert [title for title in titles if ":" in title or title == "comparison"] == [
        "comparison", "dream-seed0: stream", "dream-seed0: text.txt"
    ]  # fmt: skip
    assert "of dream" in text
    assert "of lstm" not in text


def test_values_of_the_validation_are_called_so(run: Path) -> None:
    assert "nothing was tested" not in render(run)
    (run / "results.json").write_text(json.dumps({**ENDED, "part": "validation"}))
    assert "Of the validation part: nothing was tested." in Page(render(run)).text


def test_the_command_writes_the_page_and_says_where(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run}/report.html\n"
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert shown == []
    assert main(["report", str(run), "--output", str(tmp_path / "other.html"), "--open"]) == 0
    assert shown == [(tmp_path / "other.html").as_uri()]
    odd = run.rename(tmp_path / "caf\udce9")  # a name that is no UTF-8
    assert main(["report", str(odd), "--output", str(tmp_path / "odd.html")]) == 0
    assert main(["report", str(odd), "--output", str(tmp_path / "no" / "other.html")]) == 2
    assert "`--output` must be a file that can be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "what"),
    [("", "is empty or holds something else"), ("nothing", "is not there"), ("notes.txt", "is a file")],
)
def test_another_folder_is_refused(
    tmp_path: Path, name: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["report", str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert "`dream report` takes the folder of a run, a comparison or a sweep" in said
    assert f"{tmp_path / name} {what}." in said
    assert not (tmp_path / "report.html").exists()
    made(tmp_path / "mine", run_json={})
    assert main(["report", str(tmp_path / name)]) == 2
    assert f"such as {tmp_path / 'mine'};" in capsys.readouterr().err


def test_a_sweep_is_its_trials_best_first(tmp_path: Path) -> None:
    trials = [
        {"trial": 0, "state": "pruned", "value": 0.75, "params": {"model.lr": 0.1}, "epochs": {"0": 0.75}},
        {"trial": 1, "state": "failed", "value": None, "params": {"model.lr": EVIL}, "epochs": {}},
        {
            "trial": 2,
            "state": "complete",
            "value": 0.5,
            "params": {"model.lr": 1.0},
            "epochs": {"0": 0.6, "1": 0.5},
            "seconds": 4.2,
            "folder": "trial-0002",
        },
    ]
    swept = {"monitor": "val/mse", "mode": "min", "importance": {"model.lr": 1.0}, "trials": trials}
    folder = made(tmp_path / "sweep", plan_json={"space": "model.lr: [1]", "flags": []}, sweep_json=swept)
    made(folder / "trial-0002", results_json=ENDED, metrics_jsonl=lines({"step": 1, "train/loss": 0.5}))
    found = trial_table(SweepFolder(folder))
    assert found is not None
    assert found.columns == ["val/mse ↓", "state", "model.lr", "seconds"]
    assert {name: [cell.text for cell in row] for name, row in found.rows.items()} == {
        "2": ["0.5", "complete", "1", "4.2"],
        "0": ["0.75", "pruned", "0.1", "-"],
        "1": ["-", "failed", EVIL, "-"],
    }
    assert [row[0].best for row in found.rows.values()] == [True, False, False]
    text = render(folder)
    assert re.findall(r"<h3>(.*?)</h3>", text) == ["val/mse of the trials", "train/loss"]
    assert "of the best trial, trial-0002." in text
    assert "1 complete, 1 pruned, 1 failed" in text
    assert "<script" not in text
    (folder / "sweep.json").unlink()
    assert "Not recorded: nothing was tested to its end." in render(folder)


def test_cells_that_were_written_as_texts_are_shown_as_they_were(tmp_path: Path) -> None:
    table = pd.DataFrame({"=load": [-1.5], "said": ["+1 or =2"], "heard": ["'quoted'"]})
    (tmp_path / "heard.csv").write_text(csv_text(table))
    assert (tmp_path / "heard.csv").read_text() == "'=load,said,heard\n-1.5,'+1 or =2,'quoted'\n"
    (shown,) = files(RunFolder(tmp_path))
    assert (shown["columns"], shown["rows"]) == (
        ["=load", "said", "heard"],
        [["-1.5", "+1 or =2", "'quoted'"]],
    )
