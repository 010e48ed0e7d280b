"""Streams to watch: chunks, tables with labels, benchmarks, the generated plant."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dream.errors import ConfigError, DataError
from lightning_modules.anomaly import (
    AnomalyData,
    AnomalyStream,
    AnomalyTable,
    NABData,
    PlantedAnomalies,
    SKABData,
)
from lightning_modules.anomaly.planted import KINDS
from lightning_modules.anomaly.verdicts import Verdict, score_table
from lightning_modules.data.catalogue import data_path, dataset


class Two(AnomalyData):
    """Streams of 130 and 250 rows, whose values are their row numbers."""

    def read(self) -> list[AnomalyStream]:
        values = [np.arange(rows, dtype=float)[:, None] for rows in (130, 250)]
        return [
            AnomalyStream(str(len(rows)), rows, ("a",), 100, np.arange(len(rows)) % 60 == 5)
            for rows in values
        ]


def test_chunks_cover_every_stream_once_and_in_order() -> None:
    batches = list(Two(chunk=64).test_dataloader())
    assert [batch.start for batch in batches] == [0, 64, 128, 130, 192]
    assert [batch.lengths.tolist() for batch in batches] == [[64, 64], [64, 64], [2, 2], [0, 62], [0, 58]]
    ends = [batch.ends.tolist() for batch in batches]
    assert ends == [[False, False]] * 2 + [[True, False], [False, False], [False, True]]
    seen = torch.cat([batch.values[1, :, 0] for batch in batches])
    assert seen.tolist() == list(range(250))
    assert batches[2].values[0, :, 0].tolist() == [128, 129]
    assert (batches[3].values[0] == 129).all()
    assert batches[3].counted[0].sum() == 0
    assert batches[3].training.tolist() == [100, 100]


def test_training_and_validation_share_the_training_part() -> None:
    data = Two(train_chunk=30, chunk=64, validation=0.25)
    trained = sum(int(batch.counted.sum()) for batch in data.train_dataloader())
    validated = list(data.val_dataloader())
    assert trained == 2 * 75
    assert [int(batch.counted.sum()) for batch in validated] == [0, 2 * 25]
    assert max(batch.values.max() for batch in validated) == 99  # nothing after the training part


def test_a_training_part_must_be_long_enough_and_leave_something() -> None:
    for training in (50, 130):

        class Wrong(Two):
            def read(self) -> list[AnomalyStream]:
                return [AnomalyStream("wrong", np.zeros((130, 1)), ("a",), training)]  # noqa: B023 - used within the loop

        with pytest.raises(
            DataError, match=rf"wrong: the training part must have at least 100 rows.*it has {training} of"
        ):
            Wrong().setup()


def table(folder: Path, text: str) -> str:
    path = folder / "table.csv"
    path.write_text(text)
    return str(path)


ROWS = "".join(
    f"2024-01-01 00:{row // 60:02}:{row % 60:02};{row};{row % 7};{row // 150}\n" for row in range(200)
)


def test_a_table_with_labels_and_another_separator(tmp_path: Path) -> None:
    path = table(tmp_path, "when;a;b;wrong\n" + ROWS)
    (stream,) = AnomalyTable(path, label_column="wrong", separator=";", training=120).streams
    assert (stream.columns, stream.training, stream.windows) == (("a", "b"), 120, [(150, 199)])
    assert str(stream.times[61]) == "2024-01-01T00:01:01.000000000"
    (stream,) = AnomalyTable(path, columns=["b"], separator=";", training=0.6).streams
    assert (stream.columns, stream.training, stream.label) == (("b",), 120, None)


def test_a_label_is_0_or_1(tmp_path: Path) -> None:
    data = AnomalyTable(table(tmp_path, "when;a;b;wrong\n" + ROWS), label_column="b", separator=";")
    with pytest.raises(DataError, match="label column `b` must be 0 or 1; row 2 holds 2"):
        data.setup()


def test_missing_values_and_labels(tmp_path: Path) -> None:
    path = table(tmp_path, "a,wrong\n" + "1,0\n" * 150 + ",1\n" + "2,0\n" * 50)
    with pytest.raises(DataError, match=r"values are missing \(a 1\)"):
        AnomalyTable(path, label_column="wrong", training=0.6).setup()
    (stream,) = AnomalyTable(path, label_column="wrong", training=0.6, missing="ffill").streams
    assert stream.values[150] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"training": 0}, "`training` must be a share above 0 and below 1, or a number of rows; got 0"),
        ({"training": 1.5}, "`training` must be"),
        (
            {"columns": ["a"], "label_column": "a"},
            "`label_column` must not be one of the columns to watch; 'a' is both",
        ),
        ({"separator": ", "}, "`separator` must be one character"),
        ({"missing": "drop"}, "`missing` must be"),
        (
            {"training": math.inf},
            "`training` must be a share above 0 and below 1, or a number of rows; got inf",
        ),
        ({"validation": 0}, "`validation` must be a share"),
        ({"chunk": 0}, "`chunk` must be a whole number"),
    ],
)
def test_settings_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AnomalyTable("table.csv", **options)  # type: ignore[arg-type]


def test_the_plant_is_the_same_every_time_and_labelled_where_it_was_planted() -> None:
    plant, again = PlantedAnomalies(), PlantedAnomalies()
    (stream,), (other,) = plant.streams, again.streams
    assert (stream.values == other.values).all()
    assert stream.windows == [(one.first, one.last) for one in plant.planted]
    assert not stream.label[: stream.training].any()  # type: ignore[index]
    assert {one.kind for one in plant.planted} == set(KINDS)
    assert not (PlantedAnomalies(seed=6).streams[0].values == stream.values).any()


def test_the_change_of_regime_is_not_labelled() -> None:
    plant = PlantedAnomalies()
    (change,), (stream,) = plant.drift_rows, plant.streams
    assert not any(one.first <= change <= one.last for one in plant.planted)
    moved = np.abs(stream.values[change:].mean(0) - stream.values[:change].mean(0))
    assert (moved > stream.values[:change].std(0)).any()


def test_what_was_planted_is_there() -> None:
    plant = PlantedAnomalies()
    values = plant.streams[0].values
    steps = np.abs(np.diff(values, axis=0))
    usual = np.median(steps, 0)
    for one in plant.planted:
        inside = values[one.first : one.last + 1, one.column]
        if one.kind == "flat line":
            assert (inside == inside[0]).all()
        elif one.kind in ("spike", "shift"):
            assert steps[one.first - 1, one.column] > 5 * usual[one.column]
        elif one.kind == "noise":
            assert np.abs(np.diff(inside)).mean() > 5 * usual[one.column]


def test_too_many_anomalies_are_refused() -> None:
    with pytest.raises(ConfigError, match="`rows` must be a whole number of at least 3000"):
        PlantedAnomalies(rows=2000, anomalies=20)


def benchmark(name: str) -> None:
    if not (Path(os.environ["DREAM_DATA"]) / name).is_dir():
        pytest.skip(f"DREAM_DATA has no {name}/")


@pytest.mark.data
def test_nab_is_whole() -> None:
    benchmark("nab")
    data = NABData()
    assert len(data.streams) == 58
    assert sum(len(stream.values) for stream in data.streams) == 365_558
    assert sum(len(stream.windows) for stream in data.streams) == 116
    assert {stream.training for stream in data.streams} >= {750, 604, 169}
    assert len(NABData(groups=["realTraffic"]).streams) == 7
    with pytest.raises(ConfigError, match="`groups` must name groups of NAB"):
        NABData(groups=["nowhere"]).setup()


@pytest.mark.data
def test_skab_is_whole() -> None:
    benchmark("skab")
    streams = SKABData().streams
    assert len(streams) == 34
    assert sum(len(stream.values) for stream in streams) == 37_401
    assert sum(int(stream.label.sum()) for stream in streams if stream.label is not None) == 13_067
    assert {(stream.training, len(stream.columns)) for stream in streams} == {(400, 8)}


@pytest.mark.parametrize("data", [NABData, SKABData])
def test_a_missing_benchmark_names_the_remedy(
    data: type[AnomalyData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREAM_DATA", str(tmp_path))
    with pytest.raises(DataError, match="set DREAM_DATA to the folder that holds"):
        data().setup()


def test_the_benchmarks_are_in_the_catalogue_file_by_file() -> None:
    nab, skab = dataset("nab").files, dataset("skab").files
    assert len([file for file in nab if file.startswith("data/")]) == 58
    assert len([file for file in skab if file.startswith(("valve1/", "valve2/", "other/"))]) == 34
    assert nab["labels/combined_windows.json"].url.endswith("/labels/combined_windows.json")
    assert skab["valve1/0.csv"].url.endswith("/data/valve1/0.csv")


@pytest.mark.data
@pytest.mark.parametrize("name", ["nab", "skab"])
def test_what_is_there_is_what_its_publisher_offers(name: str) -> None:
    benchmark(name)
    for file, origin in dataset(name).files.items():
        content = data_path(name, file).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (origin.size, origin.sha256), file


def test_scores_keep_the_zone_of_the_stamps() -> None:
    time = pd.date_range("2024-10-26", periods=200, freq="h", tz="Europe/Berlin")
    data = AnomalyTable.of(pd.DataFrame({"time": time, "a": np.arange(200.0) % 7}), training=100)
    (stream,) = data.streams
    said = "2024-10-26T00:00:00+02:00 to 2024-11-03T06:00:00+01:00 in Europe/Berlin, h, even"
    assert dict(data.describe())["time"] == said
    none = np.zeros(200)
    table = score_table([stream], [Verdict(none, none, 0.5, none > 0, none > 0)])
    assert table["time"].tolist() == time.tolist()
    assert (data.schema.zone, data.schema.time_format) == ("Europe/Berlin", None)
