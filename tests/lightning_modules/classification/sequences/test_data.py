"""Whole sequences: parts, scales, missing values, batches."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import ConfigError, DataError
from lightning_modules.classification import Motions, SequenceBatch, SequenceData
from lightning_modules.classification.sequences.data import by_itself, stretches
from tests.lightning_modules.classification.sequences.support import data_of, table


def first(data: SequenceData) -> SequenceBatch:
    data.setup()
    found: SequenceBatch = next(iter(data.test_dataloader()))
    return found


def test_parts_are_spread_evenly_over_the_classes() -> None:
    data = data_of(table(40), test=0.25, validation=0.2)
    counts = {part: Counter(one.label for one in found) for part, found in data.sequences.items()}
    assert counts == {
        "train": {"low": 12, "high": 12},
        "val": {"low": 3, "high": 3},
        "test": {"low": 5, "high": 5},
        "predict": {},
    }
    names = [{one.name for one in found} for found in data.sequences.values()]
    assert len(set.union(*names)) == sum(map(len, names)) == 40
    assert data_of(table(40), seed=1).sequences["test"] != data.sequences["test"]


def test_a_subject_is_in_one_part_only() -> None:
    data = data_of(table(40), group="who", test=0.3)
    subjects = [{one.group for one in data.sequences[part]} for part in ("train", "val", "test")]
    assert len(set.union(*subjects)) == sum(map(len, subjects)) == 10
    assert [len(found) for found in subjects] == [6, 1, 3]
    assert Counter(one.label for one in data.sequences["test"]) == {"low": 6, "high": 6}


def test_parts_of_the_source_stay() -> None:
    frame = table().assign(part=lambda rows: np.where(rows["who"] == "p0", "test", "train"))
    frame.loc[frame["unique_id"] == "s7", "part"] = "val"
    data = data_of(frame, part="part")
    assert [one.name for one in data.sequences["test"]] == ["s0", "s1", "s2", "s3"]
    assert [one.name for one in data.sequences["val"]] == ["s7"]
    assert len(data.sequences["train"]) == 11


def test_columns_are_standardised_by_the_training_part() -> None:
    frame, data = table(), data_of()
    trained = frame[frame["unique_id"].isin([one.name for one in data.sequences["train"]])][["x", "y"]]
    batch = first(data)
    own = frame[frame["unique_id"] == batch.names[0]][["x", "y"]]
    expected = (own - trained.mean()) / trained.std(ddof=0)
    steps = int(batch.lengths[0])
    assert steps == len(own)
    np.testing.assert_allclose(batch.inputs[0, :steps], expected, rtol=1e-5)
    assert (batch.inputs[0, steps:] == 0).all()
    assert batch.labels.tolist() == [1 - int(name[1:]) % 2 for name in batch.names]  # high comes first
    assert data.schema.scales["x"] == pytest.approx((trained["x"].mean(), trained["x"].std(ddof=0)))


def test_each_sequence_by_itself_has_no_level_and_no_scale() -> None:
    data = data_of(per_sequence=True)
    data.setup()
    for one in data.samples["train"]:
        np.testing.assert_allclose(one.inputs.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(one.inputs.std(0, correction=0), 1, rtol=1e-5)
    assert data.schema.scales == {}
    values = np.array([[3.0, np.nan, 1e9], [3.0, 2.0, 1e9 + 1e-3], [3.0, 4.0, 1e9]])
    np.testing.assert_allclose(by_itself(values), [[0, np.nan, 0], [0, -1, 0], [0, 1, 0]], atol=1e-3)
    with pytest.raises(DataError, match="`per_sequence` must be True, as in the training of the checkpoint"):
        data_of().follow(data.schema)


@pytest.mark.parametrize("missing", ["ffill", "mask", "model"])
def test_gaps_are_filled_within_a_sequence(missing: Any) -> None:
    frame = table(16, 5, 5)
    frame.loc[frame["unique_id"] == "s0", "x"] = [np.nan, 1, np.nan, 3, np.nan]
    frame.loc[frame["unique_id"] == "s1", "y"] = np.nan
    data = data_of(frame, missing=missing)
    data.setup()
    samples = {one.name: one for part in data.samples.values() for one in part}
    mean, scale = data.schema.scales["x"]
    np.testing.assert_allclose(
        samples["s0"].inputs[:, 0], (np.array([1, 1, 1, 3, 3]) - mean) / scale, rtol=1e-5
    )
    assert (samples["s1"].inputs[:, 1] == 0).all()
    assert data.shape.inputs == (4 if missing == "mask" else 2)
    if missing == "mask":
        np.testing.assert_allclose(samples["s0"].inputs[:, 2], [1, 0, 0.5, 0, 0.5])
        assert (samples["s1"].inputs[:, 3] == 1).all()
    batch = data.batch([samples["s0"]])
    assert (batch.observed is not None) == (missing == "model")
    if batch.observed is not None:
        assert batch.observed[0, :, 0].tolist() == [False, True, False, True, False]


def test_gaps_are_refused_otherwise() -> None:
    frame = table()
    frame.loc[3, "x"] = np.nan
    with pytest.raises(DataError, match=r"values are missing \(x 1\).*missing=ffill"):
        data_of(frame).setup()


def test_every_sequence_comes_once_in_batches_of_similar_length() -> None:
    data = data_of(table(40, 1, 30))
    data.setup()
    batches = list(data.train_dataloader())
    names = [name for batch in batches for name in batch.names]
    assert sorted(names) == sorted(one.name for one in data.sequences["train"])
    spans = [int(batch.lengths.max() - batch.lengths.min()) for batch in batches]
    assert np.mean(spans) < 10
    lengths = [int(length) for batch in data.val_dataloader() for length in batch.lengths]
    assert lengths == sorted(lengths)


def test_the_means_of_stretches_are_those_of_any_length() -> None:
    assert stretches(torch.arange(32.0)[:, None]).tolist() == [2 * k + 0.5 for k in range(16)]
    assert stretches(torch.tensor([[3.0, 5.0]])).tolist() == [3.0] * 16 + [5.0] * 16


def test_motions_are_the_same_each_time_and_of_new_people() -> None:
    data = Motions(people=8, takes=2)
    data.setup()
    assert [len(found) for found in data.sequences.values()] == [60, 12, 24, 0]
    people = [{one.group for one in data.sequences[part]} for part in ("train", "val", "test")]
    assert [len(found) for found in people] == [5, 1, 2]
    assert not people[0] & people[2]
    again = Motions(people=8, takes=2)
    assert again.fingerprint == data.fingerprint
    assert Motions(people=8, takes=2, seed=1).fingerprint != data.fingerprint


def only(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    return frame[frame["unique_id"].isin([f"s{k}" for k in range(count)])]


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (only(table(), 2), {}, r"the train part of its 2 labelled sequences is empty\. Bring more seq"),
        (table(), {"group": "who", "test": 0.9}, "Bring more subjects|has none"),
        (table().assign(label="one"), {}, r"at least two classes must occur; got \['one'\]"),
        (table().assign(label=None), {}, "no sequence has a label to learn"),
        (
            table().assign(label=lambda rows: rows["unique_id"]),
            {},
            r"every class must have a training sequence; s\d+ has none",
        ),
    ],
)
def test_too_little_is_refused(frame: pd.DataFrame, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        data_of(frame, **options).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_sequence": "yes"}, "`per_sequence` must be true or false; got 'yes'"),
        ({"missing": "zero"}, "`missing` must be error, ffill, mask or model; got 'zero'"),
        ({"test": 1.0}, r"`test` must be a share above 0 and below 1; got 1\.0"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1; got 0"),
        ({"columns": ["x", "label"]}, "`columns` must not hold `label`, 'label'; leave it out"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        data_of(**options)
