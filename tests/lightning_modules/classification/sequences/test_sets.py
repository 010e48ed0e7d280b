"""Labelled sequences of one's own: tables and arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import ConfigError, DataError
from lightning_modules.classification import LabelledTable
from lightning_modules.naive import nearest_mean
from tests.lightning_modules.classification.sequences.support import data_of, table


def test_a_file_and_a_frame_are_the_same(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "a.csv", index=False)
    table().to_parquet(tmp_path / "a.parquet")
    frame = data_of()
    for name in ("a.csv", "a.parquet"):
        assert LabelledTable(str(tmp_path / name), batch_size=4).fingerprint == frame.fingerprint


def test_columns_have_any_name_and_rows_may_alternate() -> None:
    frame = table().rename(columns={"unique_id": "device", "label": "state"})
    mixed = pd.concat([frame[k::7] for k in range(7)]).sort_index(kind="stable", key=lambda rows: rows % 5)
    mixed = mixed.groupby("device", sort=False, group_keys=False)[frame.columns.tolist()].apply(
        lambda rows: rows.sort_index()
    )
    data = data_of(mixed, id="device", label="state", columns=["y"])
    assert data.columns == ("y",)
    assert data.vocabulary == ("high", "low")
    own = {one.name: one for part in data.sequences.values() for one in part}
    np.testing.assert_array_equal(own["s3"].values[:, 0], frame[frame["device"] == "s3"]["y"])


def test_a_label_may_stand_in_one_row_only() -> None:
    frame = table()
    repeated = frame.duplicated("unique_id")
    frame.loc[repeated, "label"] = None
    whole = data_of()
    data = data_of(frame)
    assert data.fingerprint == whole.fingerprint


def test_sequences_without_a_label_are_to_be_predicted() -> None:
    frame = table()
    frame.loc[frame["unique_id"].isin(["s3", "s4"]), "label"] = None
    data = data_of(frame)
    data.setup()
    assert [one.name for one in data.sequences["predict"]] == ["s3", "s4"]
    names = [name for batch in data.predict_dataloader() for name in batch.names]
    assert sorted(names) == ["s3", "s4"]
    new = data_of(frame[frame["unique_id"] == "s0"].drop(columns="label"))
    new.follow(data.schema)
    new.setup()
    (batch,) = new.predict_dataloader()
    assert batch.names == ["s0"]
    assert batch.labels.tolist() == [-1]


def test_other_data_follow_the_schema() -> None:
    data = data_of()
    other = data_of(table()[["y", "label", "x", "unique_id"]])
    other.follow(data.schema)
    assert other.columns == ("x", "y")
    unknown = data_of(table().replace("high", "higher"))
    unknown.follow(data.schema)
    with pytest.raises(DataError, match="trained on, high, low; unknown to it: higher"):
        unknown.setup()
    lacking = data_of(table().drop(columns="x"))
    lacking.follow(data.schema)
    with pytest.raises(DataError, match=r"the features must be those .* missing: x"):
        lacking.setup()


def test_arrays_are_as_a_table() -> None:
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((steps, 2)) for steps in (1, 5, 3, 4, 2, 6, 7, 2)]
    data = LabelledTable.of_arrays(arrays, labels=[1, 0, 1, 0, 1, 0, 1, 0], test=0.25, validation=0.34)
    data.setup()
    assert data.vocabulary == ("0", "1")
    assert data.columns == ("column_1", "column_2")
    own = {one.name: one.values for part in data.sequences.values() for one in part}
    for number, values in enumerate(arrays):
        np.testing.assert_array_equal(own[str(number)], values)
    cube = LabelledTable.of_arrays(
        random.standard_normal((8, 5, 2)), [*"abababa", None], groups=[1, 2, 3, 4, 5, 6, 7, 8], test=0.3
    )
    assert [one.name for one in cube.sequences["predict"]] == ["7"]
    assert {one.group for one in cube.sequences["test"]} <= set("12345678")
    lines = LabelledTable.of_arrays([np.arange(3.0), np.arange(4.0)])
    assert lines.columns == ("column_1",)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ([np.zeros((3, 2)), np.zeros((0, 2))], {}, r"number 1 has the shape \(0, 2\)"),
        ([np.zeros((3, 2)), np.zeros((3, 1))], {}, r"of as many columns, .* number 1 has the shape \(3, 1\)"),
        ([], {}, "`sequences` must hold one or more; got none"),
        ([np.zeros(3)], {"labels": ["a", "b"]}, "`labels` must hold one for each of the 1 sequences; got 2"),
        ([np.zeros(3)], {"groups": []}, "`groups` must hold one for each of the 1 sequences; got 0"),
    ],
)
def test_other_arrays_are_refused(arrays: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        LabelledTable.of_arrays(arrays, **options)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda rows: rows.drop(columns="unique_id"), {}, ConfigError, "`id` must be of the table; there is"),
        (lambda rows: rows.drop(columns="label"), {}, ConfigError, "`label` must be of the table"),
        (lambda rows: rows, {"group": "whom"}, ConfigError, "no column 'whom'. .*`who`"),
        (
            lambda rows: rows.assign(label=["low", "high"] * (len(rows) // 2) + ["low"] * (len(rows) % 2)),
            {},
            DataError,
            r"`label` must hold one value in all rows of a sequence; s0 has high, low.*on_steps_csv",
        ),
        (
            lambda rows: rows.assign(part="later"),
            {"part": "part"},
            DataError,
            "`part` must be train, val or test; sequence s0 holds 'later'",
        ),
        (lambda rows: rows.drop(columns=["x", "y"]), {}, DataError, "no column but .* holds numbers to read"),
        (lambda rows: rows.assign(unique_id=[None, *rows["unique_id"][1:]]), {}, DataError, "row 0 has none"),
    ],
)
def test_other_tables_are_refused(change: Any, options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        data_of(change(table()), **options).setup()


def test_the_nearest_mean_is_the_nearest_centroid_of_scikit_learn() -> None:
    path = Path(__file__).parents[3] / "peers" / "aeon.json"
    found = json.loads(path.read_text())["unit_test"]
    known, asked = (torch.tensor(found[part]["values"]) for part in ("training", "test"))
    names = sorted(set(found["training"]["labels"]))
    labels = torch.tensor([names.index(label) for label in found["training"]["labels"]])
    guesses = [names[k] for k in nearest_mean(known, labels, asked)]
    assert guesses == found["nearest_centroid"]
