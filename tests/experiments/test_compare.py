"""`dream compare`: every model and seed once, one table, nothing run twice, nothing lost."""

from __future__ import annotations

import io
import json
import math
import signal
import statistics
import time
from pathlib import Path

import pytest
from rich.console import Console

from dream.errors import ConfigError
from experiments import baselines, comparison, run
from experiments.cli import main
from experiments.compare import parse
from experiments.invocation.arguments import Invocation
from experiments.summary import table
from tests.experiments.support import SMALL, TINY, start, wandb_config

BRIEF = ["compare", "-c", "forecasting", *SMALL, "--trainer.max_epochs=1", "--trainer.limit_train_batches=3"]


def test_it_runs_each_cell_once_and_tables_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["dream"])
    monkeypatch.chdir(tmp_path)
    command = [*BRIEF, "--models", "dream,lstm", "linear", "--seeds", "2"]
    assert main(command) == 0
    said = capsys.readouterr()
    folder = tmp_path / "runs" / "compare-forecasting"
    files = {
        (m, s): folder / f"{m}-seed{s}" / "results.json" for m in ("dream", "lstm", "linear") for s in (0, 1)
    }
    records = {cell: json.loads(path.read_text()) for cell, path in files.items()}
    shown = json.loads((folder / "comparison.json").read_text())
    assert sorted(map(tuple, shown["cells"])) == sorted(files)
    assert list(shown["results"]) == ["DREAM", "LSTM", "linear", "repeat-last", "seasonal-naive"]
    for title, model in (("DREAM", "dream"), ("LSTM", "lstm"), ("linear", "linear")):
        values = [records[model, seed]["results"][title]["mse"] for seed in (0, 1)]
        assert values[0] != values[1]
        assert shown["results"][title]["mse"] == pytest.approx(statistics.fmean(values))
        assert f"{statistics.fmean(values):.4g} ± {statistics.stdev(values):.2g}" in said.out
        assert shown["rows"][title]["parameters"] == records[model, 0]["parameters"]
        assert f"{title}: mse {values[0]:.4g}" in said.err
    assert shown["rows"]["DREAM"]["parameters"] > shown["rows"]["LSTM"]["parameters"] > 0
    assert shown["rows"]["repeat-last"]["parameters"] is None
    assert (folder / "comparison.png").stat().st_size > 5000
    assert "[6/6] linear, seed 1, about" in said.err
    tracked = sorted(folder.glob("*/wandb/offline-run-*/*.wandb"))
    assert len(tracked) == 6
    assert wandb_config(tracked[0])["run"]["group"] == "compare-forecasting"
    assert len(list(folder.glob("wandb/offline-run-*/*.wandb"))) == 1

    before = {path: path.stat().st_mtime_ns for path in files.values()}
    files["lstm", 1].unlink()  # as an interrupted run leaves it
    assert main(command) == 0
    said = capsys.readouterr()
    assert "[6/6] lstm, seed 1\n" in said.err
    assert said.err.count("[") == 1
    assert {path for path in files.values() if path.stat().st_mtime_ns != before[path]} == {files["lstm", 1]}
    again = json.loads(files["lstm", 1].read_text())
    assert again["results"] == records["lstm", 1]["results"]

    assert main([*command, "--model.lr=0.5"]) == 2
    assert "holds runs with other settings. Give --folder=NEW" in capsys.readouterr().err


def test_an_interrupted_comparison_keeps_what_is_done(tmp_path: Path) -> None:
    process = start(*BRIEF, "--models", "linear", "rnn", "--seeds=50", "--folder=cut", folder=tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "rnn-seed0").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "interrupted" in said
    assert "of 100 runs are done; the same command does the others." in out
    assert "linear" in json.loads((tmp_path / "cut" / "comparison.json").read_text())["results"]


def fake_fit(words: list[str]) -> int:
    """Leaves what `dream fit` leaves, at once; refuses ``--bad``."""
    if "--bad" in words:
        raise ConfigError("`bad` is not a setting.")
    flags = dict(word.removeprefix("--").split("=") for word in words if "=" in word)
    cell = Path(flags["run.folder"]) / flags["run.name"]
    cell.mkdir(parents=True)
    (cell / "config.yaml").write_text("run: {wandb: disabled, project: dream}")
    record = {"results": {flags.get("model.core", "dream"): {"mse": 1.0}}, "seconds": 1.0, "parameters": 5}
    (cell / "results.json").write_text(json.dumps(record))
    return 0


@pytest.fixture
def fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells that were run, in a folder of the test's own, by `fake_fit`."""
    names: list[str] = []

    def fit(invocation: Invocation) -> int:
        words = invocation.argv
        names.extend(word.removeprefix("--run.name=") for word in words if word.startswith("--run.name="))
        return fake_fit(words)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "execute", fit)
    return names


TWO = ["compare", "-c", "forecasting", "--models", "dream,lstm", "--seeds=1"]


def test_a_refused_setting_claims_nothing(fits: list[str], tmp_path: Path) -> None:
    assert main([*TWO, "--bad"]) == 2
    assert not list(tmp_path.iterdir())
    assert main(TWO) == 0
    assert fits == ["dream-seed0", "dream-seed0", "lstm-seed0"]


def test_the_order_of_values_is_part_of_the_settings(
    fits: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TWO, "--data.rows", "400", "--data.horizon", "8"]) == 0
    assert main([*TWO, "--data.rows", "8", "--data.horizon", "400"]) == 2
    assert "holds runs with other settings" in capsys.readouterr().err


def test_a_damaged_cell_is_run_again(fits: list[str]) -> None:
    assert main([*TWO, "--folder=my runs, all"]) == 0
    folder = Path("my runs, all")
    (folder / "dream-seed0" / "results.json").write_text('{"resul')
    (folder / "lstm-seed0" / "config.yaml").unlink()
    assert main([*TWO, "--folder=my runs, all"]) == 0
    assert fits == ["dream-seed0", "lstm-seed0"] * 2


def test_a_run_that_fails_leaves_the_table_of_the_others(
    fits: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TWO[:-2], "dream", "--seeds=1"]) == 0
    monkeypatch.setattr(run, "execute", lambda invocation: fake_fit([*invocation.argv, "--bad"]))
    capsys.readouterr()
    assert main(TWO) == 2
    said = capsys.readouterr()
    assert "1 of 2 runs are done" in said.out
    assert "`bad` is not a setting" in said.err


def test_what_runs_nothing_ends_without_a_table(
    fits: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "execute", lambda _: 0)  # as --print_config
    assert main(TWO) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("models", "width", "tables"), [(9, 60, 9), (2, 60, 1), (9, 200, 1)])
def test_no_cell_of_a_table_is_cut(models: int, width: int, tables: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    cells = {
        f"the model {k}": {f"metric {m}": f"{k}.{m}234 ± 0.00123" for m in range(9)} for k in range(models)
    }
    console.print(table(cells, "title", console))
    text = console.export_text()
    assert all(value in text for row in cells.values() for value in row.values())
    assert text.count("title") <= tables


def test_rows_are_gathered_over_seeds() -> None:
    def record(own: str, value: float, naive: float) -> dict[str, object]:
        return {"results": {own: {"mse": value}, "naive": {"mse": naive}}, "seconds": 2.0, "parameters": 7}

    rows = comparison.gather(
        [(0, record("A", 1.0, 5.0)), (0, record("B", 2.0, 5.0)), (1, record("A", 3.0, 6.0))]
    )
    assert list(rows) == ["A", "B", "naive"]
    assert rows["A"].of("mse") == [1.0, 3.0]
    assert rows["B"].of("mse") == [2.0]
    assert rows["naive"].of("mse") == [5.0, 6.0]
    assert (rows["A"].parameters, rows["naive"].parameters) == (7, None)
    assert comparison.written([1.0, 3.0]) == "2 ± 1.4"
    assert comparison.written([5.0, 5.0]) == "5"
    assert [comparison.written([value, 1.0]) for value in (math.nan, math.inf)] == ["nan", "inf"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "-c must name an experiment"),
        (["-c", "forecasting", "--models", "lstn"], "got 'lstn'. Did you mean `lstm`?"),
        (["-c", "forecasting", "--models"], "`--models` must name at least one of dream, "),
        (
            ["-c", "forecasting", "--seeds", "none"],
            "`--seeds` must be a whole number from 1 to 10000; got 'none'",
        ),
        (["-c", "forecasting", "--seeds=0"], "`--seeds` must be a whole number from 1 to 10000; got '0'"),
        (
            ["-c", "forecasting", "--folder"],
            "`--folder` must be one folder, in quotes if there are spaces in it; got []",
        ),
        (["-c", "forecasting", "--folder", "my", "runs"], "`--folder` must be one folder"),
        (["-c", "forecasting", "--seed=3"], "`--seed` is set by compare for each run"),
        (["-c", "forecasting", "--model.core=gru"], "`--model.core` is set by compare for each run"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(words)
    assert message in str(refused.value)


def test_the_defaults() -> None:
    plan = parse(["-c", "forecasting", "--model.lr=0.1"])
    assert plan.models == list(baselines.MODELS)
    assert len(plan.cells) == 3 * len(baselines.MODELS)
    assert (plan.invocation.flags, plan.folder) == (["--model.lr=0.1"], Path("runs/compare-forecasting"))


def test_a_comparison_goes_on_only_with_the_data_it_was_begun_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["dream"])
    monkeypatch.chdir(tmp_path)
    text = "\n".join(["a", *(f"{number % 7}.{number % 10}" for number in range(300))])
    (tmp_path / "table.csv").write_text(text)
    command = ["compare", "-c", "forecasting_csv", "--models=dream", *TINY]
    assert main([*command, "--seeds=1"]) == 0
    folder = tmp_path / "runs" / "compare-forecasting_csv"
    before = (folder / "comparison.json").read_bytes()
    (tmp_path / "table.csv").write_text(text.replace("\n6.6", "\n6.7", 1))
    capsys.readouterr()
    assert main([*command, "--seeds=2"]) == 2
    assert "the data have changed since runs/compare-forecasting_csv was begun" in capsys.readouterr().err
    assert not (folder / "dream-seed1").exists()
    assert json.loads((folder / "comparison.json").read_bytes())["results"] == json.loads(before)["results"]
    (tmp_path / "table.csv").write_text(text)
    assert main([*command, "--seeds=2"]) == 0
