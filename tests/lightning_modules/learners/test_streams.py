"""Many streams of one row object: each learns as an object of its own, in memory, on disk, after a crash."""

from __future__ import annotations

import signal
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import DREAMConfig
from dream.errors import CheckpointError, DataError, DREAMError, StateError
from lightning_modules.learners import (
    DREAMAnomalyDetector,
    DREAMClassifier,
    DREAMForecaster,
    DREAMRegressor,
    Streams,
)
from lightning_modules.learners.base import OnlineObject
from lightning_modules.learners.outcome import LAST, Outcome, learn, predict
from lightning_modules.stream import Reading, Updates

SMALL = DREAMConfig.preset("online_learning", hidden_dim=8, rank=2)
MODELS: dict[str, Callable[[], OnlineObject]] = {
    "forecaster": lambda: DREAMForecaster(SMALL, horizon=3),
    "gradient forecaster": lambda: DREAMForecaster(SMALL, updates=Updates("adam"), horizon=2),
    "all weights": lambda: DREAMForecaster(SMALL, updates=Updates("sgd", every=9, replay=4), moves="all"),
    "classifier": lambda: DREAMClassifier(SMALL),
    "regressor": lambda: DREAMRegressor(SMALL),
    "detector": lambda: DREAMAnomalyDetector(SMALL, window=50),
}
KEYS = ["a", "b", 3]


def rows(count: int, seed: int) -> list[tuple[Any, dict[str, float], Any]]:
    """Key, columns and number of each row; the keys come in turn and out of turn."""
    draw = np.random.default_rng(seed)
    values = draw.standard_normal((count, 2)).cumsum(0).round(3).tolist()
    keys = [KEYS[k] for k in draw.integers(0, len(KEYS), count)]
    return [(key, {"u": u, "v": v}, u - v) for key, (u, v) in zip(keys, values, strict=True)]


def target(name: str, number: float) -> Any:
    return {"classifier": number > 0, "regressor": number}.get(name)


def trained(name: str) -> OnlineObject:
    model: Any = MODELS[name]()
    for _, row, number in rows(70, 0):
        wanted = target(name, number)
        model.learn_one(row, *([] if wanted is None else [wanted]))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_every_stream_learns_as_an_object_of_its_own(name: str, tmp_path: Path) -> None:
    model = trained(name)
    own = {key: deepcopy(model) for key in KEYS}
    given = rows(60, 1)
    streams = Streams(model, tmp_path / "streams", most=2)  # one of three is always on disk
    for place, (key, row, number) in enumerate(given):
        wanted = target(name, number)
        assert streams.predict_streams({key: row})[key][:2] == predict(own[key], row)[:2]
        found = streams.learn_streams({key: row}, None if wanted is None else {key: wanted})
        assert found[key][:2] == learn(own[key], row, wanted)[:2]
        if place == 40:
            streams.close()
            streams = Streams(model, tmp_path / "streams", most=2)
    sent = {key: sum(one == key for one, _, _ in given) for key in KEYS}
    assert {key: streams.stream(key).seq for key in KEYS} == sent
    streams.close()


@pytest.mark.parametrize("name", [*MODELS, "resting forecaster", "channels"])
def test_rows_that_are_read_at_once_are_rows_alone(name: str) -> None:
    if name == "channels":
        model: Any = DREAMForecaster(SMALL, Reading("differences", 0.02, True, lags=[0, 3], means=[4]))
        for _, row, _ in rows(70, 0):
            model.learn_one(row)
    else:
        model = trained(name.removeprefix("resting "))
    if "resting" in name:
        model.learner.learning = False
        model.learn_one({"u": 0.0, "v": 0.0})
    streams, own = Streams(model), {key: deepcopy(model) for key in KEYS}
    draw = np.random.default_rng(3)
    for place in range(25):
        given: dict[Any, Any] = {}
        for key in KEYS if place % 4 else KEYS[:2]:  # others are then at other rows
            _, row, number = rows(1, int(draw.integers(1 << 30)))[0]
            given[key] = row | ({} if draw.random() < 0.7 else {"u": None}), target(name, number)
        if place == 9:
            given["a"] = {"u": "high", "v": 0.0}, given["a"][1]
        found = streams.learn_streams(*({key: part[k] for key, part in given.items()} for k in range(2)))
        for key, (row, wanted) in given.items():
            if place == 9 and key == "a":
                assert isinstance(found[key], DREAMError)
            else:
                assert found[key][:2] == learn(own[key], row, wanted)[:2]  # type: ignore[index]
    for key in KEYS:
        ours, alone = (model.learner.tensors() for model in (streams.stream(key).model, own[key]))
        assert all(torch.equal(ours[part].nan_to_num(), alone[part].nan_to_num()) for part in alone)


def test_a_crash_goes_back_to_the_last_flush_of_all_streams(tmp_path: Path) -> None:
    model = trained("forecaster")
    given = rows(40, 2)
    whole = Streams(model)
    wanted = [whole.learn_streams({key: row}) for key, row, _ in given]
    streams = Streams(model, tmp_path, most=2)
    for key, row, _ in given[:25]:
        streams.learn_streams({key: row})
    streams.flush()
    for key, row, _ in given[25:33]:  # some of which push others out of memory
        streams.learn_streams({key: row})
    assert streams.store is not None
    streams.store.close()  # as a process that is killed does
    again = Streams(model, tmp_path, most=2)
    for place, (key, row, _) in enumerate(given):
        if place >= 25:
            assert again.learn_streams({key: row})[key][:3] == wanted[place][key][:3]
    again.close()


def test_what_is_on_disk_is_known_also_of_streams_that_left_memory(tmp_path: Path) -> None:
    with Streams(trained("forecaster"), tmp_path, most=1) as streams:
        for key in ("a", "b", "a"):
            streams.learn_streams({key: {"u": 1.0, "v": 2.0}})
        assert (streams.stream("a").seq, streams.stream("a").flushed) == (2, 0)
        streams.flush()
        assert (streams.stream("a").flushed, streams.stream("b").flushed) == (2, 1)


def test_refused_rows_of_new_streams_take_no_room(tmp_path: Path) -> None:
    row, bad = {"u": 1.0, "v": 2.0}, {"u": "high", "v": 2.0}
    streams = Streams(trained("forecaster"), most=2)
    for number in range(5):
        assert isinstance(streams.learn_streams({number: bad})[number], DataError)
        refused = streams.learn_streams({number: row, -1: bad, "a": row}, seqs={number: 0})
        assert isinstance(refused[number], DataError)
    assert streams.stream("a").seq == 5
    assert isinstance(streams.learn_streams({"b": row})["b"], Outcome)
    assert isinstance(streams.learn_streams({"c": row})["c"], StateError)
    with Streams(trained("forecaster"), tmp_path, most=1) as kept:
        for key, given in (("a", row), ("b", row), ("a", bad), ("a", row)):
            kept.learn_streams({key: given})
        assert {key: kept.stream(key).seq for key in "ab"} == {"a": 2, "b": 1}


def test_after_an_interrupt_only_the_last_flush_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"u": 1.0, "v": 2.0}
    streams = Streams(trained("forecaster"), tmp_path)
    streams.learn_streams({"a": row})
    streams.flush()
    with monkeypatch.context() as patch:
        patch.setattr(
            "lightning_modules.learners.change.Change.add", lambda *_: signal.raise_signal(signal.SIGINT)
        )
        with pytest.raises(KeyboardInterrupt):
            streams.learn_streams({"a": row, "b": row})
    for call in (lambda: streams.learn_streams({"a": row}), streams.flush, streams.close):
        with pytest.raises(StateError, match="was interrupted"):
            call()
    with Streams(trained("forecaster"), tmp_path) as again:
        assert [again.stream(key).seq for key in "ab"] == [1, 0]


def test_a_row_that_comes_twice_is_learnt_once() -> None:
    streams, row = Streams(trained("forecaster")), {"u": 1.0, "v": 2.0}
    first = streams.learn_streams({"a": row}, seqs={"a": 7})["a"]
    before = streams.predict_streams({"a": None})
    assert streams.learn_streams({"a": row}, seqs={"a": 7})["a"] == Outcome(seq=7, repeated=True)
    assert streams.learn_streams({"a": row}, seqs={"a": 3})["a"] == Outcome(seq=3, repeated=True)
    assert streams.predict_streams({"a": None}) == before == {"a": first}


@pytest.mark.parametrize("seq", [0, -1, 2**63, 1.0, True, "5"])
def test_a_number_of_a_row_that_is_none_is_refused_alone(seq: Any, tmp_path: Path) -> None:
    row = {"u": 1.0, "v": 2.0}
    with Streams(trained("forecaster"), tmp_path) as streams:
        found = streams.learn_streams({"a": row, "b": row}, seqs={"a": seq, "b": LAST})
        assert isinstance(found["a"], DataError)
        assert isinstance(streams.learn_streams({"b": row})["b"], DataError)  # no number is left
        assert isinstance(streams.learn_streams({True: row})[True], StateError)
        assert streams.learn_streams({"a": row})["a"][2:4] == (1, 0)


@pytest.mark.parametrize("row", [pd.Series({"u": 1.0, "v": 2.0}), 5.0, "u", [1.0, 2.0]])
def test_a_row_of_many_is_taken_or_refused_as_alone(row: Any) -> None:
    resting = trained("forecaster")
    assert resting.learner is not None
    resting.learner.learning = False
    many, one = Streams(resting), Streams(resting)
    for _ in range(2):  # from the second on rows are read at once
        found, alone = many.learn_streams({"a": row, "b": row})["a"], one.learn_streams({"a": row})["a"]
    assert isinstance(found, Outcome) == isinstance(row, pd.Series)
    assert isinstance(found, DataError) or found == alone


def test_one_refused_row_leaves_the_others_and_its_own_stream(tmp_path: Path) -> None:
    streams = Streams(trained("detector"))
    found = streams.learn_streams({"a": {"u": "x"}, "b": {"u": 1.0, "v": 0.0}, 2.5: {"u": 1.0}})  # type: ignore[dict-item]
    assert isinstance(found["a"], DREAMError)
    assert isinstance(found["b"], Outcome)
    assert isinstance(found[2.5], StateError)  # type: ignore[index]
    assert (streams.stream("a").seq, streams.stream("b").seq) == (0, 1)


def test_streams_refuse_what_would_not_be_theirs(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="must know its columns"):
        Streams(DREAMForecaster())
    model = trained("forecaster")
    Streams(model, tmp_path).close()
    learn(model, {"u": 0.0, "v": 0.0}, None)
    with pytest.raises(CheckpointError, match="another model"):
        Streams(model, tmp_path)
    few = Streams(model, most=1)
    assert not isinstance(few.learn_streams({"a": {"u": 0.0, "v": 0.0}})["a"], DREAMError)
    assert isinstance(few.learn_streams({"b": {"u": 0.0, "v": 0.0}})["b"], StateError)


def test_a_change_is_seen_in_its_stream_alone() -> None:
    model = forecaster_of_waves()
    streams = Streams(model)
    for k in range(300):
        jump = 1.0 if k < 280 else 9.0
        rows = {key: np.sin(k / 3) * (jump if key == "b" else 1.0) for key in "abc"}
        streams.learn_streams(rows)
    sizes = {key: stream.change.size for key, stream in streams}
    assert max(sizes, key=lambda key: sizes[key]) == "b"
    assert sizes["a"] == sizes["c"] < sizes["b"]


def test_a_change_goes_on_from_disk_and_counts_from_its_40th_row(tmp_path: Path) -> None:
    model = forecaster_of_waves()
    draw = np.random.default_rng(4).standard_normal(60).tolist()
    whole, streams, sizes = Streams(model), Streams(model, tmp_path), []
    for place, value in enumerate(draw):
        if place in (20, 50):
            streams.close()
            streams = Streams(model, tmp_path)
        whole.learn_streams({"a": value})
        streams.learn_streams({"a": value})
        assert streams.stream("a").change.values() == whole.stream("a").change.values()
        sizes.append(whole.stream("a").change.size)
    streams.close()
    assert not any(sizes[:39])
    assert all(sizes[39:])


def forecaster_of_waves() -> DREAMForecaster:
    model = DREAMForecaster(SMALL)
    for k in range(50):
        model.learn_one(float(np.sin(k / 3)))
    return model
