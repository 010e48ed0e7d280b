"""Sequences of one's own table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import ConfigError, DataError
from lightning_modules.classification import SequenceTable


def table(sequences: int = 10, steps: int = 7) -> pd.DataFrame:
    """Sequences of two features and two classes, their rows one after the other."""
    random = np.random.default_rng(0)
    rows = sequences * steps
    return pd.DataFrame(
        {
            "id": np.repeat([f"user{k}" for k in range(sequences)], steps),
            "x": random.standard_normal(rows),
            "y": 5 + 3 * random.standard_normal(rows),
            "note": "some words",
            "label": random.choice(["sit", "walk"], rows),
        }
    )


def data_of(frame: pd.DataFrame | None = None, **options: Any) -> SequenceTable:
    return SequenceTable.of(table() if frame is None else frame, **options)


def test_no_sequence_is_in_two_parts() -> None:
    data = data_of()
    assert {part: len(names) for part, names in data.parts.items()} == {
        "test": 2,
        "val": 2,
        "train": 6,
        None: 0,
    }
    names = [name for found in data.parts.values() for name in found]
    assert sorted(names) == sorted(set(table()["id"]))
    assert data_of(seed=1).parts != data.parts


def test_what_a_step_holds() -> None:
    frame = table()
    data = data_of(frame)
    assert data.vocabulary == ("sit", "walk")
    assert (data.shape.features, data.shape.classes, data.shape.inputs) == (2, 2, 4)
    found = data.sequence("test", 0)
    own = frame[frame["id"] == found.name]
    assert [data.vocabulary[k] for k in found.labels] == own["label"].tolist()
    trained = frame[frame["id"].isin(data.parts["train"])][["x", "y"]]
    expected = (own[["x", "y"]] - trained.mean()) / trained.std(ddof=0)
    np.testing.assert_allclose(found.features.numpy(), expected.to_numpy(), rtol=1e-5)


def test_rows_of_sequences_may_alternate(tmp_path: Path) -> None:
    frame = table()
    mixed = pd.concat([frame[k::7] for k in range(7)])  # the first of each, then the second
    path = tmp_path / "a.csv"
    mixed.to_csv(path, index=False)
    one, other = data_of(frame), SequenceTable(str(path))
    assert one.parts == other.parts
    assert torch.equal(one.sequence("val", 1).labels, other.sequence("val", 1).labels)
    torch.testing.assert_close(one.sequence("val", 1).features, other.sequence("val", 1).features)


def test_training_sequences_are_cut_and_others_are_not() -> None:
    data = data_of(steps=3, batch_size=50)
    (batch,) = data.train_dataloader()
    assert sorted(batch.lengths.tolist()) == [1] * 6 + [3] * 12  # type: ignore[union-attr]
    (batch,) = data.test_dataloader()
    assert batch.labels.shape == (2, 7)


def test_a_step_without_a_label_is_not_asked_and_a_sequence_that_ends_so_is_predicted() -> None:
    frame = table()
    frame.loc[1, "label"] = None
    frame.loc[frame["id"] == "user9", "label"] = None
    data = data_of(frame)
    assert data.parts[None] == ["user9"]
    (part,) = [part for part, names in data.parts.items() if part is not None and "user0" in names]
    (labels,) = [data._named("user0").labels.tolist()]
    assert part is not None
    assert labels[1] == -1
    assert -1 not in labels[2:]
    (batch,) = data.predict_dataloader()
    assert batch.names == ["user9"]
    assert (batch.inputs[..., 2:] == 0).all()
    assert next(iter(data_of().predict_dataloader())).names == data_of().parts["test"]


def test_classes_may_be_numbers_with_gaps() -> None:
    frame = table()
    frame["label"] = (frame["label"] == "sit").astype(float)
    frame.loc[0, "label"] = np.nan
    assert data_of(frame).vocabulary == ("0", "1")


def test_labels_need_not_be_inputs() -> None:
    data = data_of(label_delay=None)
    assert data.shape.inputs == 2
    (batch,) = data.test_dataloader()
    assert batch.inputs.shape == (2, 7, 2)


def test_other_tables_are_read_as_the_first() -> None:
    data = data_of()
    schema = data.schema
    frame = table(3)[["label", "y", "x", "id"]]
    other = data_of(frame)
    other.follow(schema)
    own = frame[frame["id"] == "user0"][["x", "y"]].to_numpy()
    mean, scale = (np.array([schema.scales[name][k] for name in ("x", "y")]) for k in (0, 1))
    np.testing.assert_allclose(other._named("user0").features.numpy(), (own - mean) / scale, rtol=1e-5)
    frame.loc[0, "label"] = "fly"
    unknown = data_of(frame)
    unknown.follow(schema)
    with pytest.raises(DataError, match="trained on, sit, walk; unknown to it: fly"):
        unknown.setup()
    with pytest.raises(DataError, match="`label_delay` must be 1, as in the training"):
        data_of(label_delay=2).follow(schema)
    without = data_of(frame.drop(columns="x"))
    without.follow(schema)
    with pytest.raises(DataError, match=r"the features must be those .* missing: x"):
        without.setup()


def gap(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    return frame.assign(**{column: frame[column].where(frame.index != 4)})


@pytest.mark.parametrize(
    ("frame", "options", "error", "message"),
    [
        (
            table(),
            dict(label="lable"),
            ConfigError,
            "`label` must be of the table; there is no column 'lable'",
        ),
        (table(), dict(sequence="user"), ConfigError, "`sequence` must be of the table; there is no"),
        (table(), dict(columns=["z"]), ConfigError, "`columns` must be of the table; there is no column 'z'"),
        (table(), dict(columns=["x", "id"]), ConfigError, "`columns` must not hold `sequence`, 'id'"),
        (table(), dict(test=0.9), ConfigError, "`validation` must be a share above 0, with `test` below 1"),
        (table(), dict(steps=0), ConfigError, "`steps` must be a whole number"),
        (
            table()[["id", "label"]],
            {},
            DataError,
            "no column but the label's and the sequence's holds numbers",
        ),
        (gap(table(), "id"), {}, DataError, "every row must name its sequence; row 4 has none in `id`"),
        (gap(table(), "x"), {}, DataError, "column `x` must have a value in every row; row 4 has none"),
        (
            table().assign(label="sit"),
            {},
            DataError,
            r"at least two classes must occur in `label`; got \['sit'\]",
        ),
        (table(2), {}, DataError, "the train part of its 2 labelled sequences is empty"),
    ],
)
def test_what_makes_no_sense_is_refused(
    frame: pd.DataFrame, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        data_of(frame, **options).setup()
