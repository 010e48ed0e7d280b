"""A table of many series on the command line: fit, test, rolling test, predict and report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.cli import main
from tests.soak import processes

SERIES, ROWS = 12, 90
QUICK = [
    *("--model.config.hidden_dim=8", "--model.config.rank=2", "--trainer.max_epochs=1", "--model.patch=6"),
    *("--data.look_back=24", "--data.horizon=4", "--data.batch_size=64", "--data.calendar=[weekday]"),
    *("--trainer.accelerator=cpu", "--run.wandb=disabled"),
]


def long_table(series: int = SERIES, rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    return pd.concat(
        pd.DataFrame(
            {
                "shop": f"shop {number:02d}",
                "day": pd.date_range("2024-01-01", periods=rows),
                "sold": 10.0**number % 997 * (2 + np.sin(np.arange(rows) * 2 * np.pi / 7))
                + draw.normal(size=rows).round(4),
                "floor": 100 * number,
            }
        )
        for number in range(series)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    long_table().sample(frac=1, random_state=0).to_csv(folder / "shops.csv", index=False)
    flags = ["-c", "forecasting_csv", "--data.path=shops.csv", "--data.id=shop", "--data.static=[floor]"]
    assert processes.run(folder, ["fit", *flags, *QUICK, "--run.name=shops"]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_results_hold_each_series_and_their_mean(folder: Path) -> None:
    ended = json.loads((folder / "runs/shops/results.json").read_text())
    assert sorted(ended["series"]) == [f"shop {number:02d}" for number in range(SERIES)]
    means = pd.DataFrame(ended["series"].values()).mean()
    assert ended["results"]["DREAM"] == pytest.approx(means.to_dict())
    assert set(ended["results"]["DREAM"]) == {"mse", "mae", "mase", "mse_data", "mae_data"}


def test_the_report_lists_the_ten_worst(folder: Path) -> None:
    assert main(["report", "runs/shops"]) == 0
    page = (folder / "runs/shops/report.html").read_text()
    ended = json.loads((folder / "runs/shops/results.json").read_text())["series"]
    worst = sorted(ended, key=lambda name: -ended[name]["mase"])
    places = [page.find(f'<th scope="row">{name}</th>') for name in worst]
    assert places[:10] == sorted(places[:10])
    assert min(places[:10]) > 0
    assert places[10:] == [-1, -1]
    assert "by mase: 10 of 12" in page


def test_a_new_file_of_other_series_is_forecast_in_the_same_form(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new = long_table(3, 40, seed=1).replace({"shop": {"shop 02": "a new one"}})
    new[["sold", "floor", "shop", "day"]].to_parquet(folder / "new.parquet")
    arguments = ["predict", "--ckpt_path", "runs/shops", "--data.path=new.parquet", "--output=new.csv"]
    assert main([*arguments, "--trainer.accelerator=cpu"]) == 0
    assert "1 of 3 series were not in the training (a new one)" in caplog.text
    table = pd.read_csv("new.csv", parse_dates=["ds"])
    names = ("a new one", "shop 00", "shop 01")
    assert list(table) == ["unique_id", "ds", "yhat"]
    assert table["unique_id"].tolist() == [name for name in names for _ in range(4)]
    assert table["ds"].tolist() == list(pd.date_range("2024-02-10", periods=4)) * 3
    before = Path("new.csv").read_bytes()
    new.sample(frac=1, random_state=2).to_csv(folder / "new.txt", index=False)
    assert main([*arguments[:3], "--data.path=new.txt", "--output=new.csv", "--trainer.accelerator=cpu"]) == 0
    assert Path("new.csv").read_bytes() == before


def test_a_rolling_test_carries_a_state_for_each_series(folder: Path) -> None:
    rolling = ["--data.rolling=true", "--data.stride=6", "--run.name=rolling", "--run.wandb=disabled"]
    assert main(["test", "--ckpt_path", "runs/shops", *rolling, "--trainer.accelerator=cpu"]) == 0
    origins = pd.read_csv(folder / "runs/rolling/origins.csv")
    assert list(origins)[:3] == ["unique_id", "row", "time"]
    assert origins.groupby("unique_id")["row"].apply(list).tolist() == [[72, 78, 84]] * SERIES


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data.path=shops.csv"], "`shop` tells apart. Name it: `--data.id=shop`"),
        (["--data.path=shops.csv", "--data.id=store"], "no column `store`"),
        (
            ["--data.path=shops.csv", "--data.id=shop", "--data.mapped=true"],
            "`data.mapped` must be false or null",
        ),
        (
            ["--data.path=shops.csv", "--data.id=shop", "--data.scaling=own"],
            "`data.scaling` must be series or global",
        ),
        (["--data.path=shops.csv", "--data.id=shop", "--data.static=[sold]"], "`sold` must hold one value"),
    ],
)
def test_refusals_say_what_to_do(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-c", "forecasting_csv", *flags, *QUICK]) == 2
    found = capsys.readouterr().err
    assert said in " ".join(found.split())
    assert "elete" not in found
