"""The schema of data: what a checkpoint keeps of it, and what it refuses."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream.errors import CheckpointError, ConfigError, DataError
from lightning_modules.anomaly import AnomalyTable
from lightning_modules.data import TaskData
from lightning_modules.data.schema import Schema, step_quartiles
from lightning_modules.forecasting import TableData
from lightning_modules.online import TableStream

HOUR = 3600e9
SCHEMA = Schema(
    columns={"targets": ("b", "a"), "covariates": ()},
    scales={"a": (1 / 3, 0.1), "b": (-2.0, 1e-300)},
    units={"a": "MW"},
    season_errors={"a": 0.25},
    steps=(HOUR, HOUR, HOUR),
    vocabulary=["yes", "no"],
    settings={"season": 24, "mfcc": {"hop": 0.01}},
)


def stamps(rows: int, every: str) -> np.ndarray:
    return pd.date_range("2024-01-31", periods=rows, freq=every).to_numpy()


def test_it_comes_back_from_a_file_that_holds_plain_values_only(tmp_path: Any) -> None:
    torch.save(SCHEMA.plain(), tmp_path / "a.ckpt")
    assert Schema.from_plain(torch.load(tmp_path / "a.ckpt", weights_only=True)) == SCHEMA


@pytest.mark.parametrize(
    "damage",
    [
        {"scales": {"a": [0.0, 0.0]}},
        {"scales": {"a": [float("nan"), 1.0]}},
        {"steps": [1.0]},
        {"columns": ["a"]},
        {"colums": {}},
    ],
)
def test_a_damaged_one_is_refused_by_place(damage: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=f"must hold the schema of its data; `{next(iter(damage))}"):
        Schema.from_plain(SCHEMA.plain() | damage)
    with pytest.raises(CheckpointError, match="`schema` is damaged"):
        Schema.from_plain(None)


def test_columns_come_in_its_order() -> None:
    assert SCHEMA.ordered("targets", ["a", "b"], "x.csv") == ("b", "a")
    assert SCHEMA.ordered("covariates", [], "x.csv") == SCHEMA.ordered("calendar", [], "x.csv") == ()
    scaler = SCHEMA.scaler(("b", "a"))
    assert (scaler.mean.tolist(), scaler.scale.tolist()) == ([-2, 1 / 3], [1e-300, 0.1])


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (["a"], "b, a; missing: b. Rename"),
        (["a", "b", "c"], "b, a; unknown to it: c. Rename"),
        (["a", "B"], "b, a; missing: b; unknown to it: B. Rename"),
    ],
)
def test_columns_that_differ_are_named(found: list[str], said: str) -> None:
    with pytest.raises(DataError, match=r"x\.csv: the targets must be those") as refused:
        SCHEMA.ordered("targets", found, "x.csv")
    assert said in str(refused.value)
    with pytest.raises(DataError, match="trained on, none; unknown to it: a"):
        SCHEMA.ordered("known_covariates", ["a"], "x.csv")


@pytest.mark.parametrize(("learned", "other"), [("h", "15min"), ("15min", "h"), ("D", "W"), ("MS", "QS")])
def test_another_frequency_is_refused(learned: str, other: str) -> None:
    schema = Schema(steps=step_quartiles([stamps(40, learned)]))
    with pytest.raises(DataError, match=r"x\.csv: rows must be .* apart, as those that the checkpoint"):
        schema.require_steps(stamps(40, other), "x.csv")
    for rows in (1, 2, 3, 30):
        schema.require_steps(stamps(rows, learned), "x.csv")


def test_uneven_steps_are_compared_by_their_quartiles(caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(0)
    time = stamps(1, "h") + (random.exponential(HOUR, 5000).cumsum()).astype("timedelta64[ns]")
    steps = np.diff(time[:4000]).astype(np.int64)
    schema = Schema(steps=step_quartiles([time[:4000]]))
    assert schema.steps == tuple(np.quantile(steps, (0.25, 0.5, 0.75)))
    schema.require_steps(time[4000:4100], "x.csv")
    with pytest.raises(DataError, match="apart"):
        schema.require_steps(time[:1] + 3 * (time[4000:] - time[0]), "x.csv")
    with caplog.at_level(logging.WARNING):
        schema.require_steps(None, "x.csv")
    assert "x.csv: the rows have no time stamps; they are taken to be 0 days 00:4" in caplog.text


def test_steps_of_several_streams_and_of_none() -> None:
    assert step_quartiles([]) is step_quartiles([stamps(1, "h")]) is None
    repeated = np.concatenate([stamps(3, "h"), stamps(3, "h")])  # steps back, as in some recordings
    assert step_quartiles([repeated, stamps(9, "2h"), stamps(0, "h")]) == (HOUR, 1.5 * HOUR, 2 * HOUR)


def test_only_some_of_very_many_steps_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.data.schema._STEPS", 5)
    time = np.concatenate([stamps(50, "h"), stamps(50, "h")[-1] + np.arange(1, 51) * np.timedelta64(2, "h")])
    assert step_quartiles([time]) == (HOUR, 2 * HOUR, 2 * HOUR)  # rows 0, 24, 49, 74 and 98


def test_settings_that_differ_are_named() -> None:
    SCHEMA.require_settings({"season": 24, "mfcc": {"hop": 0.01}}, "the data")
    with pytest.raises(DataError, match=r"the data: `mfcc` must be \{'hop': 0.01\}, as in the training"):
        SCHEMA.require_settings({"season": 24, "mfcc": {"hop": 0.02}}, "the data")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda rows: rows, []),
        (lambda rows: rows * 9 / 5, []),
        (lambda rows: rows + np.array([0, 20]), ["b"]),
        (lambda rows: rows * [1000, 1], ["a"]),
        (lambda rows: rows / 1000, ["a", "b"]),
        (lambda rows: rows * 0, []),  # nothing happens at night
        (lambda rows: rows[:20] / 1000, []),  # nor in a few rows
    ],
)
def test_columns_that_seem_to_be_in_another_unit_are_named(
    change: Any, named: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    rows = np.random.default_rng(0).standard_normal((300, 2))
    schema = Schema(scales={"a": (100.0, 2.0), "b": (0.0, 1.0)})
    with caplog.at_level(logging.WARNING):
        schema.warn_of_scale(change(rows), ["a", "b"], "x.csv")
    assert [name for name in "ab" if f"`{name}` has the median" in caplog.text] == named
    assert len(caplog.records) == bool(named)
    if named == ["a"]:
        assert "in training its mean was 100 and its deviation 2." in caplog.text


@pytest.mark.parametrize("read", ["forecasting", "online", "regression"])
def test_tables_in_another_unit_are_named_once(read: str, caplog: pytest.LogCaptureFixture) -> None:
    table = pd.DataFrame(np.random.default_rng(0).standard_normal((300, 2)) + 5, columns=["a", "b"])

    def data(table: pd.DataFrame) -> TaskData:
        if read == "forecasting":
            return TableData.of(table, look_back=8, horizon=2, season=2)
        targets = {"targets": ["a"], "task": "regression"} if read == "regression" else {}
        return TableStream.of(table, crop=16, context=4, **targets)

    other = data(table.assign(a=table["a"] * 1000))
    other.follow(data(table).schema)
    for _ in range(2):
        other.setup()
    assert [record.message.count("`a` has the median") for record in caplog.records] == [1]


def test_columns_in_another_unit_are_refused() -> None:
    for units in ({}, {"a": "MW"}, {"b": "K"}):
        SCHEMA.require_units(units, "x.csv")
    with pytest.raises(DataError, match=r"x\.csv: column `a` must be in MW, .* `units` names kW\. Convert"):
        SCHEMA.require_units({"a": "kW"}, "x.csv")


@pytest.mark.parametrize("kind", [TableData, TableStream, AnomalyTable])
def test_units_are_those_of_columns(kind: Any) -> None:
    table = pd.DataFrame(np.random.default_rng(0).standard_normal((1000, 2)), columns=["a", "b"])
    assert kind.of(table, units={"b": "MW"}).schema.units == {"b": "MW"}
    with pytest.raises(ConfigError, match=r"`units` must name columns that are read; got `c`\."):
        _ = kind.of(table, units={"c": "MW"}).schema
    other = kind.of(table, units={"b": "kW"})
    with pytest.raises(DataError, match="column `b` must be in MW"):
        other.follow(kind.of(table, units={"b": "MW"}).schema)
