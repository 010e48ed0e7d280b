"""Columns of words as covariates: in windows, known ahead, in streams and row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import DREAMConfig
from dream.errors import ConfigError, DataError
from lightning_modules import DREAMForecaster, ForecastingModule, OnlineModule
from lightning_modules.data.categories import LEAST, MOST, Category, expanded_row, learn_category, word_of
from lightning_modules.forecasting import TableData
from lightning_modules.online import TableStream
from tests.lightning_modules.support import small_trainer

ROWS, AHEAD = 300, 6
WORDS = np.array(["sun", "rain", "snow"])
KIND = np.random.default_rng(0).integers(0, 3, ROWS + AHEAD)
LOAD = np.random.default_rng(1).standard_normal(ROWS + AHEAD) * 0.1 + np.array([0.0, 2.0, -2.0])[KIND]


def table(rows: int = ROWS, ahead: int = 0) -> pd.DataFrame:
    """Hours of a load that the weather decides; of the rows ahead the weather alone."""
    count = rows + ahead
    frame = pd.DataFrame(
        {
            "time": pd.date_range("2024-01-01", periods=count, freq="h"),
            "load": LOAD[:count],
            "weather": WORDS[KIND[:count]],
        }
    )
    frame.loc[rows:, "load"] = np.nan
    return frame


def windows(frame: pd.DataFrame, **options: Any) -> TableData:
    settings: dict[str, Any] = dict(look_back=24, horizon=AHEAD, known_covariates=["weather"], batch_size=16)
    return TableData.of(frame, **settings | options)


def module_for(data: TableData, **options: Any) -> ForecastingModule:
    settings: dict[str, Any] = dict(config=DREAMConfig(hidden_dim=8, rank=2), patch=4, lr=0.02)
    return ForecastingModule.for_data(data, **settings | options)


def test_a_category_is_learnt_from_its_training_rows() -> None:
    column = pd.Series(["b"] * 6 + ["a"] * 6 + [" a ", "c", None, ""], name="kind")
    category = learn_category(column, Path("t.csv"))
    assert category == Category(("a", "b"), (7 / 16, 6 / 16, 3 / 16))
    assert category.columns("kind") == ["kind=a", "kind=b", "kind=(others)"]
    found = category.indicators(["a", "b", "c", "", "never"])
    assert found.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]]


def test_what_was_never_seen_is_the_mean_where_nothing_was_rare() -> None:
    category = learn_category(pd.Series(["a"] * 6 + ["b"] * 2 + ["b"] * 4), Path("t.csv"))
    assert category.columns("kind") == ["kind=a", "kind=b"]
    assert category.indicators(["never", "b"]).tolist() == [[0.5, 0.5], [0, 1]]


def test_many_words_and_texts() -> None:
    many = pd.Series([f"w{k}" for k in range(100)] * LEAST)
    assert len(learn_category(many, Path("t.csv")).words) == MOST
    with pytest.raises(DataError, match="categories that come again; of its 50 training rows 50 differ"):
        learn_category(pd.Series([f"text {k}" for k in range(50)], name="note"), Path("t.csv"))


@pytest.mark.parametrize(
    ("value", "word"),
    [(1.0, "1"), (np.float64(2), "2"), (True, "True"), (None, ""), (pd.NA, ""), (" x ", "x")],
)
def test_words(value: Any, word: str) -> None:
    assert word_of(value) == word


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("missing", ["error", "mask", "model"])
def test_windows_read_indicators_as_they_are(known: bool, missing: str) -> None:
    role = (
        dict(known_covariates=["weather"]) if known else dict(covariates=["weather"], known_covariates=None)
    )
    data = windows(table(ahead=AHEAD if known else 0), **role, missing=missing)
    made = ("weather=rain", "weather=snow", "weather=sun")
    assert set(data.columns) == {"load", *made}
    assert data.shape.absolute == (1, 2, 3)
    assert (data.shape.covariates, data.shape.known) == ((0, 3) if known else (3, 0))
    module = module_for(data)
    module.prepare(data)
    module.core.trace = seen = Seen(module.core.trace)  # type: ignore[method-assign,assignment]
    batch = next(iter(data.train_dataloader()))
    module.on(batch)
    width = seen.read.shape[-1] // 4
    patches = seen.read.unflatten(-1, (4, width))[..., 1:4]
    torch.testing.assert_close(patches.flatten(1, 2), batch.past[..., 1:4])


class Seen:
    """A core's trace that keeps what it read."""

    def __init__(self, trace: Any) -> None:
        self.trace = trace

    def __call__(self, read: torch.Tensor, **options: Any) -> Any:
        self.read = read
        return self.trace(read, **options)


def test_the_future_weather_decides_the_forecast(tmp_path: Path) -> None:
    data = windows(table(ahead=AHEAD))
    torch.manual_seed(0)
    module = module_for(data)
    small_trainer(tmp_path, max_epochs=12).fit(module, data)
    table_ahead = module.prediction_table(small_trainer(tmp_path).predict(module, data))  # type: ignore[arg-type]
    wanted = np.array([0.0, 2.0, -2.0])[KIND[ROWS:]]
    assert np.abs(table_ahead["load"] - wanted).mean() < 0.7  # without the weather 1.6
    assert data.schema.categories["weather"].words
    other = table(ahead=AHEAD)
    other.loc[ROWS:, "weather"] = ["hail", *other["weather"][ROWS + 1 :]]
    later = windows(other)
    later.follow(module.schema)
    changed = module.prediction_table(small_trainer(tmp_path).predict(module, later))  # type: ignore[arg-type]
    difference = (changed["load"] - table_ahead["load"]).abs()
    assert difference[0] > 0
    assert difference[1:].max() == 0
    assert later.whole.values[ROWS, 1:].tolist() == list(data.schema.categories["weather"].shares[:-1])


def test_a_later_file_is_read_by_the_words_of_the_training() -> None:
    learned = windows(table())
    later = windows(table().assign(weather="rain"))
    later.follow(learned.schema)
    assert later.columns == learned.columns
    assert (
        later.whole.values[:, 1:].tolist()
        == [[1.0 * (n == "weather=rain") for n in learned.columns[1:]]] * ROWS
    )
    numbers = windows(table().assign(weather=KIND[:ROWS]))
    numbers.follow(learned.schema)  # whose column holds numbers now
    assert numbers.columns == learned.columns


def test_numbers_and_truth_values() -> None:
    flags = table().assign(weather=KIND[:ROWS] == 1)
    assert windows(flags).columns == ("load", "weather")
    assert set(windows(flags).whole.values[:, 1]) == {0, 1}
    words = table().assign(weather=np.where(KIND[:ROWS] == 1, "TRUE", "FALSE"))
    assert windows(words).whole.values[:, 1].tolist() == (KIND[:ROWS] == 1).tolist()
    codes = table().assign(weather=KIND[:ROWS])
    assert windows(codes).columns == ("load", "weather")
    asked = windows(codes, categories=["weather"])
    assert set(asked.columns) == {"load", "weather=0", "weather=1", "weather=2"}
    categorical = table().assign(weather=pd.Categorical(table()["weather"]))
    assert windows(categorical).columns == windows(table()).columns
    with pytest.raises(ConfigError, match="`categories` must name `covariates` or `known_covariates`"):
        windows(codes, categories=["load"])


def test_one_broken_number_makes_no_category() -> None:
    broken = table().assign(weather=[*map(str, range(ROWS - 1)), "broken"])
    with pytest.raises(DataError, match="`weather` must hold numbers; row 299 holds 'broken'"):
        windows(broken).setup("fit")


def test_a_table_on_disk_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAM_CACHE", str(tmp_path / "cache"))
    table().to_csv(tmp_path / "t.csv", index=False)
    options: dict[str, Any] = dict(look_back=24, horizon=4, known_covariates=["weather"], mapped=True)
    with pytest.raises(ConfigError, match="`mapped` must be false for columns of categories"):
        TableData(str(tmp_path / "t.csv"), **options, categories=["weather"]).setup("fit")


def stream(frame: pd.DataFrame, **options: Any) -> TableStream:
    settings: dict[str, Any] = dict(crop=24, context=8, crops=16, categories=["weather"], warm_up=0.4)
    return TableStream.of(frame, **settings | options)


def test_a_stream_reads_them_where_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    data = stream(table())
    assert data.stream.targets == ("load",)
    assert set(data.stream.series.columns[1:]) == {"weather=rain", "weather=snow", "weather=sun"}
    assert stream(table(), categories=None).stream.series.columns == ("load",)
    assert "left out: weather" in caplog.text
    classes = stream(table().assign(state=LOAD[:ROWS] > 1), targets=["state"])
    assert classes.task == "classification"
    assert len(classes.stream.series.columns) == 4
    with pytest.raises(ConfigError, match="`categories` are learnt from the warm-up part"):
        stream(table(), warm_up=0).setup("fit")
    with pytest.raises(DataError, match=r"no column `wether`\. Did you mean `weather`"):
        stream(table(), categories=["wether"]).setup("fit")


@pytest.mark.parametrize("kind", ["online", "windows"])
def test_a_row_object_takes_words(kind: str, tmp_path: Path) -> None:
    if kind == "online":
        data: Any = stream(table(), targets=["load"], task="forecasting")
        module: Any = OnlineModule.for_data(data, config=DREAMConfig(hidden_dim=8, rank=2))
    else:
        data = windows(table(), covariates=["weather"], known_covariates=None)
        module = module_for(data)
    trainer = small_trainer(tmp_path)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    one, many = (DREAMForecaster.from_run(module, state="fresh") for _ in range(2))
    rows = table()[-40:]
    words = [*rows["weather"][:-1], "hail"]
    for load, word in zip(rows["load"], words, strict=True):
        one.learn_one({"load": load}, {"weather": word})
    many.learn_many(rows[["load"]], pd.DataFrame({"weather": words}, rows.index))
    one.save(tmp_path / "it.safetensors")
    again = DREAMForecaster.load(tmp_path / "it.safetensors")
    again.learn_one({"load": 1.0}, {"weather": "sun"})
    many.learn_one({"load": 1.0}, {"weather": "sun"})
    found, wanted = ([row["load"] for row in each.forecast()] for each in (again, many))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_row_of_words() -> None:
    category = Category(("a", "b"), (0.5, 0.25, 0.25))
    assert expanded_row({"x": 1, "kind": "b"}, {"kind": category}) == {
        "x": 1,
        "kind=a": 0,
        "kind=b": 1,
        "kind=(others)": 0,
    }
