"""Many series in one table: the forecasts are those of one table each, and no window reaches across."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import ConfigError, DataError, DREAMConfig
from lightning_modules import DREAMForecaster, ForecastingModule
from lightning_modules.forecasting import TableData
from lightning_modules.forecasting.exported import WindowStep
from tests.lightning_modules.data.test_long_table import shuffled
from tests.lightning_modules.support import small_trainer

NAMES = ("a", "b", "c")


def long_table(lengths: tuple[int, ...] = (150, 120, 140), columns: tuple[str, ...] = ("y",)) -> pd.DataFrame:
    """Waves of other size and level in each series, which begin and end at other times."""
    draw = np.random.default_rng(3)
    parts = []
    for number, rows in enumerate(lengths):
        time = pd.date_range("2024-01-01", periods=rows + 5 * number, freq="h")[5 * number :]
        wave = np.sin(np.arange(rows)[:, None] * 2 * np.pi / 24 + np.arange(len(columns)))
        values = 10.0**number * (wave + 0.1 * draw.normal(size=wave.shape) + number)
        part = pd.DataFrame(values, columns=list(columns)).assign(unique_id=NAMES[number], ds=time)
        parts.append(part.assign(size=float(number), plan=draw.normal(size=rows)))
    table = pd.concat(parts, ignore_index=True)
    return table[["unique_id", "ds", *columns, "size", "plan"]]


def alone(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table[table["unique_id"] == name].drop(columns="unique_id").reset_index(drop=True)


SMALL: dict[str, Any] = {"look_back": 24, "horizon": 6, "batch_size": 8, "stride": 6, "targets": ["y"]}


def panel(table: pd.DataFrame, **options: Any) -> TableData:
    return TableData.of(table, id="unique_id", **{**SMALL, **options})


def module_for(data: TableData, **settings: Any) -> ForecastingModule:
    torch.manual_seed(0)
    config = DREAMConfig(hidden_dim=8, rank=2)
    return ForecastingModule.for_data(data, config=config, **{"patch": 6, **settings})


CASES: dict[str, dict[str, Any]] = {
    "windows": {},
    "rolling": {"rolling": True},
    "known": {"known_covariates": ["plan"], "calendar": ["hour"]},
    "covariates": {"covariates": ["plan"], "timespans": True},
    "mask": {"missing": "mask"},
    "model": {"missing": "model", "rolling": True},
}


@pytest.mark.parametrize("case", CASES)
def test_three_series_in_one_table_equal_three_tables(case: str, tmp_path: Path) -> None:
    """Numbers, parts, metrics and forecasts of each are those of its own table, read by the same weights."""
    options, table = CASES[case], long_table()
    if options.get("missing"):
        table.loc[[60, 61, 100, 200, 390], "y"] = np.nan
    if "known_covariates" in options:
        table.loc[table.groupby("unique_id").tail(6).index, "y"] = np.nan
    data = panel(shuffled(table), **options)
    module = module_for(data).eval()
    trainer = small_trainer(tmp_path)
    trainer.test(module, data, verbose=False)
    forecast = module.prediction_table(trainer.predict(module, data)).set_index("unique_id")
    for number, name in enumerate(NAMES):
        one = TableData.of(alone(table, name), **{**SMALL, **options})
        assert data.members[number].parts == one.parts
        first, rows = int(data.starts[number]), len(one.series)
        for field, mine, other in zip(
            one.prepared.tables._fields, data.prepared.tables, one.prepared.tables, strict=True
        ):
            if other is not None:
                mine = mine[first : first + len(other)]
                if field == "timespans":  # the median step is that of all
                    torch.testing.assert_close(mine, other)
                else:
                    assert torch.equal(mine.nan_to_num(9.9), other.nan_to_num(9.9)), field
        own = module_for(one).eval()
        own.load_state_dict(module.state_dict())
        trainer.test(own, one, verbose=False)
        expected = next(iter(own.results.values()))
        assert module.by_series[name] == pytest.approx(expected, rel=1e-4)
        table_of_one = own.prediction_table(trainer.predict(own, one))
        assert forecast.loc[name, "ds"].tolist() == table_of_one["time"].tolist()
        np.testing.assert_allclose(forecast.loc[name, "yhat"], table_of_one["y"], rtol=1e-5)
        assert rows == len(data.members[number].series)
    means = pd.DataFrame(module.by_series.values()).mean()
    assert next(iter(module.results.values())) == pytest.approx(means.to_dict(), rel=1e-6)


def test_no_window_holds_rows_of_two_series() -> None:
    """Values tell their series: batches of training, validation and test keep to one."""
    table = long_table((150, 120, 30))
    table["y"] = table["unique_id"].map({"a": 100.0, "b": 200.0, "c": 300.0})
    data = panel(table, scaling="global", split=[0.6, 0.2, 0.2])
    seen = set()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            rows = data.unscale(torch.cat([batch.past, batch.future], 1), batch.origin)[..., 0]
            assert (rows == rows[:, :1]).all()
            seen |= set(rows.flatten().round().tolist())
            local = data.rows_of(batch)
            assert (local >= 0).all()
    assert seen == {100.0, 200.0, 300.0}
    assert len(data._windows("train")) == (90 - 29) + (72 - 29) + 0  # c is too short to be trained on
    assert len(data._windows("test")) == (30 - 5) + (24 - 5) + 1


def test_scaling_by_series_or_of_all_together() -> None:
    table = long_table()
    own, shared = (panel(table, scaling=kind) for kind in ("series", "global"))
    for number, member in enumerate(own.members):
        train = member.values_of(member.parts.train)[:, 0]
        scaler = own.prepared.scalers[number]
        np.testing.assert_allclose((scaler.mean[0], scaler.scale[0]), (train.mean(), train.std()))
    rows = np.concatenate([member.values_of(member.parts.train)[:, 0] for member in own.members])
    for scaler in shared.prepared.scalers:
        np.testing.assert_allclose((scaler.mean[0], scaler.scale[0]), (rows.mean(), rows.std()))
    assert set(shared.schema.scales) == {"y"}
    assert not shared.schema.series["a"].scales
    assert not own.schema.scales
    assert set(own.schema.series["a"].scales) == {"y"}


@pytest.mark.parametrize("missing", ["error", "mask", "model"])
def test_static_columns_are_inputs_that_the_forecast_depends_on(missing: str) -> None:
    table = long_table()
    data = panel(table, static=["size"], missing=missing)
    assert (data.shape.known, data.shape.static, data.shape.inputs) == (1, 1, 2)
    batch = next(iter(data.train_dataloader()))
    numbers = data.numbers_of(batch.origin)
    expected = torch.tensor([-1.0, 0.0, 1.0])[numbers] * 1.5**0.5  # of 0, 1 and 2
    torch.testing.assert_close(batch.past[:, :, 1], expected[:, None].expand(-1, 24))
    torch.testing.assert_close(batch.known[..., 0], expected[:, None].expand(-1, 6))
    module = module_for(data).eval()
    module.prepare(data)
    moved = batch._replace(past=batch.past.clone(), known=batch.known + 1)
    moved.past[:, :, 1] += 1
    assert not torch.allclose(module.on(batch).future, module.on(moved).future)


def test_the_form_of_forecasts(tmp_path: Path) -> None:
    """The same columns whatever the input calls its own; several targets stand below each other."""
    table = long_table(columns=("y", "z")).rename(columns={"unique_id": "shop", "ds": "when"})
    data = TableData.of(table, id="shop", **{**SMALL, "targets": ["y", "z"]})
    module = module_for(data, loss="mae", quantiles=[0.1, 0.5, 0.9])
    found = module.prediction_table(small_trainer(tmp_path).predict(module, data))
    assert list(found) == ["unique_id", "ds", "target", "yhat", "yhat_q0.1", "yhat_q0.9"]
    assert len(found) == 3 * 6 * 2
    assert found["target"].tolist() == ["y", "z"] * 18
    assert found["unique_id"].tolist() == [name for name in NAMES for _ in range(12)]
    last = table.groupby("shop")["when"].max()
    for name, rows in found.groupby("unique_id"):
        ahead = pd.date_range(last[name], periods=7, freq="h")[1:]
        assert rows["ds"].tolist() == [stamp for stamp in ahead for _ in range(2)]


def test_series_that_training_never_saw_are_served_by_their_own_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A series of another size is forecast as the one of which it is a multiple."""
    table = long_table()
    data = panel(table)
    module, trainer = module_for(data), small_trainer(tmp_path)
    trainer.fit(module, data)
    known = table[table["unique_id"] == "a"]
    new = known.assign(unique_id="new", y=1000 * known["y"])
    both = panel(pd.concat([new, known], ignore_index=True))
    found = module.prediction_table(trainer.predict(module, both)).set_index("unique_id")["yhat"]
    assert "1 of 2 series were not in the training (new); they are scaled each by its own rows" in caplog.text
    again = module.prediction_table(trainer.predict(module, panel(table))).set_index("unique_id")["yhat"]
    np.testing.assert_allclose(found["a"], again["a"], rtol=1e-5)
    np.testing.assert_allclose(found["new"] / 1000, again["a"], rtol=0.05, atol=0.05)
    trainer.test(module, both, verbose=False)
    assert set(module.by_series) == {"a", "new"}
    assert module.by_series["new"]["mase"] == pytest.approx(module.by_series["a"]["mase"], rel=1e-3)


def test_series_that_are_too_short_are_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = panel(long_table((150, 120, 20)))
    module = module_for(data)
    found = module.prediction_table(small_trainer(tmp_path).predict(module, data))
    assert found["unique_id"].unique().tolist() == ["a", "b"]
    assert "no forecast of 1 of 3 series, which have fewer rows than the 24" in caplog.text
    with pytest.raises(DataError, match="no series has a training part of 106 rows"):
        panel(long_table(), look_back=100).train_dataloader()


def test_dates_cut_all_series_at_the_same_time_and_later_ones_are_scaled_by_their_first_rows() -> None:
    table = long_table()
    late = table["unique_id"] == "c"
    table.loc[late, "ds"] += pd.Timedelta("5D")
    data = panel(table, split=["2024-01-05", "2024-01-06"])
    a, _, c = data.members
    assert a.series.time[a.parts.val.start] == np.datetime64("2024-01-05")
    assert c.parts.train == slice(0, 0)
    first = c.values_of(slice(24))[:, 0]
    np.testing.assert_allclose(data.prepared.scalers[2].mean, first.mean())
    assert data.season_errors[2].isnan().all()
    assert not data.season_errors[:2].isnan().any()


def test_series_of_other_frequencies_go_on_by_their_own(caplog: pytest.LogCaptureFixture) -> None:
    table = long_table()
    late = table["unique_id"] == "c"
    table.loc[late, "ds"] = pd.date_range("2024-01-01", periods=140, freq="15min")
    data = panel(table)
    assert [str(data.ahead(k)[1] - data.ahead(k)[0]) for k in range(3)] == [
        "3600000000000 nanoseconds",
        "3600000000000 nanoseconds",
        "900000000000 nanoseconds",
    ]
    assert (
        "the series differ in frequency; 2 have h, others 15min: c. Each goes on by its own." in caplog.text
    )


def test_the_long_form_is_known_by_its_columns(caplog: pytest.LogCaptureFixture) -> None:
    data = TableData.of(long_table(), look_back=24, horizon=6)
    assert data.many
    assert data.many
    assert "unique_id, ds and y are read as many series: `--data.id=unique_id`" in caplog.text


def test_a_checkpoint_keeps_what_it_takes(tmp_path: Path) -> None:
    """Schema of ids, static columns and scales: another process forecasts another file bit for bit."""
    table = long_table()
    data = panel(table, static=["size"], calendar=["hour"])
    module, trainer = module_for(data), small_trainer(tmp_path)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    later = table[table["unique_id"] != "b"].groupby("unique_id").tail(60)
    here = module.prediction_table(trainer.predict(module, panel(later, static=["size"], calendar=["hour"])))
    loaded = ForecastingModule.load_from_checkpoint(tmp_path / "some.ckpt")
    path = tmp_path / "later.csv"
    later[later.columns[::-1]].to_csv(path, index=False)
    file = TableData(path=str(path), id="unique_id", static=["size"], calendar=["hour"], **SMALL)
    there = loaded.prediction_table(small_trainer(tmp_path).predict(loaded, file))
    pd.testing.assert_frame_equal(here, there, check_exact=True)
    assert loaded.schema.columns["id"] == ("unique_id",)
    assert loaded.schema.columns["static"] == ("size",)
    whole = module.prediction_table(trainer.predict(module, panel(table, static=["size"], calendar=["hour"])))
    known = whole[whole["unique_id"] != "b"].reset_index(drop=True)
    pd.testing.assert_frame_equal(here, known, rtol=1e-5)


def test_streams_of_training_begin_with_their_series_and_stay_in_it(tmp_path: Path) -> None:
    """Side by side run series of similar length; every item goes on where the one before ended."""
    table = long_table()
    table["y"] = table["unique_id"].map({"a": 100.0, "b": 200.0, "c": 300.0})
    data = panel(table, scaling="global", streams=True, batch_size=2)
    items = list(data.train_dataloader())
    assert [bool(item.reset[0]) for item in items].count(True) == 2
    ended: torch.Tensor | None = None
    for item in items:
        rows = data.unscale(item.past, item.origin[:, 0])[..., 0]
        assert (rows == rows[:, :1]).all()
        if not item.reset.all():
            assert ended is not None
            assert torch.equal(item.past[:, :24], ended)
        ended = item.past[:, -24:]
    trained = data.numbers_of(torch.cat([item.origin.flatten() for item in items]))
    assert np.bincount(trained).tolist() == [12, 8, 8]  # as many as the shorter one of a pair
    module = module_for(data)
    small_trainer(tmp_path).fit(module, data)
    with pytest.raises(DataError, match="no series has as many"):
        panel(long_table(), streams=True, look_back=90).train_dataloader()


def test_row_objects_and_exports_take_runs_that_scale_all_alike(tmp_path: Path) -> None:
    for scaling in ("series", "global"):
        data = panel(long_table(), scaling=scaling)
        module = module_for(data)
        small_trainer(tmp_path).fit(module, data)
        if scaling == "series":
            with pytest.raises(ConfigError, match=r"scales each of 3 series by itself\. Train with"):
                DREAMForecaster.from_run(module, state="fresh")
            with pytest.raises(ConfigError, match="scales each series by itself"):
                WindowStep(module)
            continue
        rows = alone(long_table(), "a")["y"]
        forecaster = DREAMForecaster.from_run(module, state="fresh")
        for value in rows:
            forecaster.learn_one({"y": value})
        found = module.prediction_table(small_trainer(tmp_path).predict(module, data)).set_index("unique_id")
        ahead = [row["y"] for row in forecaster.forecast()]
        np.testing.assert_allclose(ahead, found.loc["a", "yhat"], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": [120, 20, 20]}, "series a: `split` must be three positive row counts .* the 150 rows"),
        ({"split": ["2020-01-01", "2020-02-01"]}, "no series has a row in the training part"),
        ({"split": [0.9, 0.05, 0.05], "horizon": 12}, "rows enough for a window of the validation part"),
        ({"static": ["plan"]}, "static column `plan` must hold one value for each series"),
        ({"covariates": ["plan"], "categories": ["plan"]}, "`categories` must be left out for several"),
        (
            {"id": None, "static": ["size"], "time_column": "ds"},
            "`static` must be left out for a single series",
        ),
    ],
)
def test_refusals_name_the_series_and_what_to_change(options: dict[str, Any], message: str) -> None:
    table = long_table().rename(columns={"unique_id": "shop"})
    with pytest.raises((ConfigError, DataError), match=message):
        TableData.of(table, **{"id": "shop", **SMALL, **options}).setup("fit")


@pytest.mark.parametrize("missing", ["ffill", "mask", "model"])
def test_a_covariate_without_a_value_in_one_series_is_read_as_the_mean_of_all(missing: str) -> None:
    table = long_table()
    table.loc[table["unique_id"] == "b", "plan"] = np.nan
    data = panel(table, covariates=["plan"], missing=missing)
    first = int(data.starts[1])
    rows = data.prepared.values[first : first + len(data.members[1].series), :2]
    assert rows.isfinite().all()
    assert (rows[:, 1] == 0).all()
