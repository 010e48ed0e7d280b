"""Streams: where they are cut, what a batch holds, what the generators do, and what the public sets are known
to give."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import ConfigError, DataError
from lightning_modules.naive import majority_class, previous_label
from lightning_modules.online import DriftingStream, OnlineData, PublicStream, TableStream


def table(folder: Path, rows: int = 400, **columns: Any) -> Path:
    k = np.arange(rows)
    frame = {"a": np.sin(k / 5), "b": k % 7 * 1.0, "word": np.where(k % 3 == 0, "yes", "no")} | columns
    pd.DataFrame(frame).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def small(**options: Any) -> DriftingStream:
    return DriftingStream(
        **{"length": 400, "crop": 32, "context": 8, "crops": 16, "batch_size": 4, "chunk": 50} | options
    )


class TestCut:
    def test_parts_are_shares_or_numbers(self) -> None:
        assert small(warm_up=0.2, validation=0.05).borders == (80, 100, 400)
        assert small(warm_up=100, validation=50, length=300).borders == (100, 150, 300)
        assert small(warm_up=0, validation=0).borders == (0, 0, 400)

    def test_the_first_forecast_is_of_the_streams_first_row(self) -> None:
        data = small(kind="forecasting", horizon=5, warm_up=100, validation=50)
        assert (data.scored.start, data.scored[-1]) == (149, 394)
        assert small(warm_up=100, validation=50).scored == range(150, 400)

    def test_chunks_are_all_rows_in_order(self) -> None:
        data = small(kind="forecasting", horizon=3)
        chunks = list(data.test_dataloader())
        assert torch.equal(torch.cat([chunk.rows[0] for chunk in chunks]), data.values[0])
        assert [int(chunk.start) for chunk in chunks] == list(range(0, 400, 50))
        assert torch.equal(chunks[0].targets[0, :50], data.values[1][:50])
        assert torch.equal(chunks[0].targets[0, 50:], data.values[1][50:53])
        assert chunks[-1].targets[0, 50:].isnan().all()

    def test_training_crops_stay_in_the_warm_up(self) -> None:
        data = small(kind="forecasting", horizon=3, warm_up=120, validation=100)
        batches = list(data.train_dataloader())
        assert len(batches) == 4
        assert max(int(batch.start.max()) for batch in batches) + 32 + 3 <= 120
        val = list(data.val_dataloader())
        starts = torch.cat([batch.start for batch in val]) + data.context
        assert starts.tolist() == [120, 144, 168, 192]
        assert int(starts.max()) + 24 + 3 <= data.borders[1]

    def test_a_short_validation_part_is_one_short_crop(self) -> None:
        (batch,) = small(warm_up=120, validation=10).val_dataloader()
        assert (int(batch.start), batch.rows.shape[1]) == (112, 18)
        assert small(warm_up=120, validation=0).val_dataloader() == []

    def test_the_scale_is_that_of_the_warm_up(self) -> None:
        data = small(kind="forecasting", warm_up=100)
        rows = data.values[0][:100]
        torch.testing.assert_close(rows.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-9, rtol=0)
        torch.testing.assert_close(rows.std(0, correction=0), torch.ones(6, dtype=torch.float64))
        torch.testing.assert_close(
            data.unscale(rows), torch.from_numpy(data.stream.series.values[:100]), rtol=1e-9, atol=1e-9
        )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"warm_up": 1.5}, "`warm_up` must be a number of rows or a share from 0 to below 1; got 1.5"),
            ({"warm_up": 300, "validation": 100}, "must leave rows for the stream; got 300 and 100"),
            ({"horizon": 500, "kind": "forecasting"}, "leaves 300 where more than 500 are needed"),
            ({"rows": 500}, "`rows` must be at most the 400 rows there are; got 500"),
            ({"warm_up": 20}, "`warm_up` must hold a crop of 32 rows"),
            ({"context": 32}, "`context` must be below `crop`, 32; got 32"),
            ({"horizon": 2}, "`horizon` must be 1 for regression; got 2"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            _ = small(**options).borders


class TestGenerator:
    def test_the_same_arguments_give_the_same_stream(self) -> None:
        a, b, other = small().read(), small().read(), small(seed=8).read()
        assert np.array_equal(a.series.values, b.series.values)
        assert not np.array_equal(a.series.values, other.series.values)

    @pytest.mark.parametrize("drift", ["abrupt", "gradual", "recurring"])
    def test_the_rule_changes_where_it_says(self, drift: Any) -> None:
        data = small(drift=drift, drifts=3, length=4000)
        assert data.drift_rows == (1000, 2000, 3000)
        concepts = [set(data.concepts[start : start + 1000].tolist()) for start in (0, 1000, 2000, 3000)]
        expected = {
            "abrupt": [{0}, {1}, {2}, {3}],
            "recurring": [{0}, {1}, {0}, {1}],
            "gradual": [{0}, {0, 1}, {1, 2}, {2, 3}],
        }
        assert concepts == expected[drift]
        if drift == "gradual":
            assert np.mean(data.concepts[1000:1100] == 1) < 0.3
            assert (data.concepts[1500:2000] == 1).all()

    def test_another_concept_has_another_rule(self) -> None:
        data = small(kind="regression", drift="recurring", drifts=3, length=8000)
        x, u = data.stream.series.values, data.stream.truth
        assert u is not None
        design = np.column_stack([x, [np.outer(row, row)[np.triu_indices(6)] for row in x], np.ones(len(x))])
        solved = np.linalg.lstsq(design[:2000], u[:2000], rcond=None)[0]
        error = ((design @ solved - u) ** 2).reshape(4, 2000).mean(1)
        assert error[[0, 2]].max() < 0.011  # the noise's variance
        assert error[[1, 3]].min() > 0.3


class TestTable:
    def test_every_number_is_forecast(self, tmp_path: Path) -> None:
        data = TableStream(str(table(tmp_path)))
        assert (data.task, data.channels, data.inputs) == ("forecasting", 2, 2)

    def test_a_target_comes_first(self, tmp_path: Path) -> None:
        data = TableStream(str(table(tmp_path)), targets=["b"])
        assert (data.stream.series.columns, data.channels) == (("b", "a"), 1)

    def test_a_column_of_words_is_a_class(self, tmp_path: Path) -> None:
        data = TableStream(str(table(tmp_path)), targets=["word"], warm_up=0, validation=0)
        assert (data.task, data.stream.targets, data.inputs) == ("classification", ("no", "yes"), 2)
        assert data.values[1][:4].tolist() == [1, 0, 0, 1]

    def test_a_number_from_the_others(self, tmp_path: Path) -> None:
        data = TableStream(str(table(tmp_path)), targets=["b"], task="regression", warm_up=0, validation=0)
        assert data.stream.series.columns == ("a",)
        assert data.values[1].tolist()[:3] == [[0.0], [1.0], [2.0]]

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"targets": ["c"]}, DataError, "no column `c`"),
            ({"targets": []}, ConfigError, "`targets` must name columns"),
            ({"task": "regression"}, ConfigError, "`targets` must name the column to predict for regression"),
            (
                {"task": "clustering"},
                ConfigError,
                "`task` must be auto, forecasting, regression, classification",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(
        self, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            _ = TableStream(str(table(tmp_path)), **options).task

    def test_truth_values_are_classes(self, tmp_path: Path) -> None:
        data = TableStream(str(table(tmp_path, word=np.arange(400) % 3 == 0)), targets=["word"])
        assert (data.task, data.stream.targets) == ("classification", ("False", "True"))

    def test_a_bad_cell_of_a_column_that_is_read_is_named(self, tmp_path: Path) -> None:
        values = np.arange(400).astype(object)
        values[9] = "oops"
        with pytest.raises(DataError, match="column `b` must hold numbers; row 9 holds 'oops'"):
            _ = TableStream(str(table(tmp_path, b=values)), targets=["word"]).task

    def test_classes_that_never_come_again_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="`a` must hold classes that come again"):
            _ = TableStream(str(table(tmp_path)), targets=["a"], task="classification").task

    def test_what_comes_later_does_not_fill_a_gap(self, tmp_path: Path) -> None:
        gap = np.where(np.arange(400) < 30, np.nan, np.arange(400.0))
        data = TableStream(
            str(table(tmp_path, b=gap)), missing="ffill", warm_up=60, validation=20, crop=32, context=8
        )
        assert data.stream.series.values[:30, 1].tolist() == [44.5] * 30  # the mean of 30 to 59
        late = TableStream(
            str(table(tmp_path, b=gap)), missing="ffill", warm_up=20, validation=20, crop=8, context=0
        )
        with pytest.raises(DataError, match="without a value in the training rows: b"):
            _ = late.stream

    def test_a_row_without_its_class_is_refused(self, tmp_path: Path) -> None:
        words = np.array(["yes", "no"] * 200, dtype=object)
        words[7] = None
        with pytest.raises(DataError, match="column `word` must hold a class in every row; row 7 has none"):
            _ = TableStream(str(table(tmp_path, word=words)), targets=["word"]).task


def real(name: Any, horizon: int = 1) -> OnlineData:
    data = PublicStream(name, horizon=horizon)
    folder = os.environ.get("DREAM_DATA", "")
    if not (Path(folder) / data.protocol.dataset / data.protocol.file).is_file():
        pytest.skip(f"DREAM_DATA names no folder with {data.protocol.dataset}/{data.protocol.file}")
    return data


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "horizon", "mse"),
    [
        ("ETTh2", 1, 0.404),
        ("ETTh2", 48, 2.852),
        ("ETTm1", 24, 1.495),
        ("exchange", 1, 0.0089),
        ("exchange", 48, 0.1648),
    ],
)
def test_repeating_the_last_value_scores_as_known(name: str, horizon: int, mse: float) -> None:
    data = real(name, horizon)
    rows, values = torch.arange(data.scored.start, data.scored.stop), data.values[1]
    total = sum(float((values[rows + h] - values[rows]).square().mean()) for h in range(1, horizon + 1))
    assert total / horizon == pytest.approx(mse, abs=0.5 * 10.0 ** -len(str(mse).split(".")[1]))


@pytest.mark.data
def test_protocols() -> None:
    assert real("ETTh2").borders == (2880, 3600, 14400)
    assert real("ETTm1").borders == (11520, 14400, 57600)
    assert real("WTH").borders == (7012, 8766, 35064)
    assert real("exchange").borders == (1517, 1897, 7588)


@pytest.mark.data
def test_the_previous_label_scores_as_known() -> None:
    labels = real("elec2").values[1]
    assert len(labels) == 45312
    assert float((previous_label(labels) == labels).double().mean()) == pytest.approx(0.8533, abs=5e-5)
    assert float((majority_class(labels, 2) == labels).double().mean()) == pytest.approx(0.5755, abs=3e-4)


def test_naive_labels_wait_for_the_truth() -> None:
    labels = torch.tensor([1, 1, 0, 2, 2, 2])
    assert previous_label(labels).tolist() == [0, 1, 1, 0, 2, 2]
    assert previous_label(labels, delay=2).tolist() == [0, 0, 0, 1, 1, 0]
    assert majority_class(labels, 3).tolist() == [0, 1, 1, 1, 1, 1]
    assert majority_class(labels, 3, delay=1).tolist() == [0, 0, 1, 1, 1, 1]


def test_by_a_schema_inputs_are_those_of_the_training_to_the_last_digit() -> None:
    table = pd.DataFrame(np.random.default_rng(0).standard_normal((400, 3)) / 7, columns=["a", "b", "c"])
    known, other = (TableStream.of(table, targets=["b"], crop=32, context=8) for _ in range(2))
    other.follow(known.schema)
    for mine, theirs in zip(other.values, known.values, strict=True):
        assert torch.equal(mine, theirs)
