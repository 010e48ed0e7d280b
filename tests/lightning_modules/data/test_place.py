"""How far a stream was read, and which rows of a longer file are new."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dream.errors import ConfigError, DataError
from lightning_modules.anomaly import AnomalyTable
from lightning_modules.data.place import Place, StreamEnd
from lightning_modules.forecasting import TableData
from tests.lightning_modules.anomaly.test_module import Streams

TIME = pd.date_range("2024-01-31", periods=30, freq="h").to_numpy("datetime64[us]")


def test_rows_are_new_by_their_time() -> None:
    place = Place().after(TIME, 0, 20)
    assert (place.rows, str(place), place.name()) == (20, "2024-01-31 19:00:00", "2024-01-31T19:00:00")
    assert (Place(7).name(), Place().name()) == (6, None)
    assert place.first_new(TIME, 30, "x.csv") == 20
    assert place.first_new(TIME[15:], 15, "x.csv") == 5
    assert place.first_new(TIME[25:], 5, "x.csv") == 0
    assert place.first_new(TIME, 10, "x.csv") == 10
    assert place.after(TIME[15:], 5, 10).rows == 30
    assert place.after(TIME, 20, 0) is place
    assert Place().first_new(TIME, 30, "x.csv") == 0


def test_a_place_is_told_in_the_zone_of_its_stamps() -> None:
    place = Place().after(TIME, 0, 20, zone="Europe/Berlin")
    assert (str(place), place.name()) == ("2024-01-31 20:00:00+01:00", "2024-01-31T20:00:00+01:00")
    again = StreamEnd.from_plain(StreamEnd(place, {}).plain(), "x")
    assert again.place == place
    earlier = '{"rows": 20, "last": 1706727600000000000, "training": 0}'  # without a zone
    assert StreamEnd.from_plain(StreamEnd(place, {}).plain() | {"place": earlier}, "x").place == replace(
        place, zone=None
    )


def test_without_time_rows_are_new_by_their_number() -> None:
    place = Place().after(None, 0, 20)
    assert str(place) == "row 19"
    assert place.first_new(None, 30, "x.csv") == place.first_new(None, 20, "x.csv") == 20
    with pytest.raises(DataError, match=r"x\.csv: without time .* after the 20 rows .* there are 19\."):
        place.first_new(None, 19, "x.csv")
    with pytest.raises(DataError, match="of the run had no time stamps, and the rows here have them"):
        place.first_new(TIME, 30, "x.csv")
    with pytest.raises(DataError, match="of the run had time stamps, and the rows here have none"):
        Place(20, 0).first_new(None, 30, "x.csv")


def test_only_tasks_that_learn_from_a_stream_go_on() -> None:
    table = pd.DataFrame(np.zeros((300, 1)), columns=["a"])
    with pytest.raises(ConfigError, match=r"`--learn` must be given for a task that learns .* TableData"):
        TableData.of(table).go_on({"": Place()})
    one = AnomalyTable.of(table, training=150)
    one.go_on({"yesterday.csv": Place(200, None, 150)})  # the only one there is, whatever its name
    assert (one.streams[0].begin, len(one.predicted[0].values), one.streams[0].training) == (200, 100, 150)
    (batch,) = one.predict_dataloader()
    assert (batch.before.tolist(), batch.begins, batch.values.shape[1]) == ([200], False, 100)


def test_each_of_several_streams_goes_on_by_its_name() -> None:
    several = Streams()
    several.go_on({"of 240": Place(240, None, 130), "gone": Place(7)})
    whole, new = several.streams
    assert (whole.begin, whole.training, new.begin, new.training) == (240, 130, 0, 120)
    assert [stream.name for stream in several.predicted] == ["of 300"]
    several = Streams()
    several.go_on({"of 240": Place(240), "of 300": Place(300)})
    assert len(several.predict_dataloader()) == 0
