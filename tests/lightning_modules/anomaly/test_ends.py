"""Several streams: each goes on where its own rows ended, whatever stood beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dream.errors import CheckpointError, ConfigError
from lightning_modules import AnomalyModule
from lightning_modules.anomaly import AnomalyStream
from lightning_modules.anomaly.verdicts import Verdict
from lightning_modules.learners import DREAMAnomalyDetector
from lightning_modules.run import checkpoints, streams
from tests.lightning_modules.anomaly.test_module import Streams, module
from tests.lightning_modules.support import small_trainer

VALUES = np.random.default_rng(3).normal(size=(400, 4)).cumsum(0)
CLOSE = {"rel": 1e-4, "abs": 1e-5}


def stream(name: str, rows: int, training: int) -> AnomalyStream:
    number = "pqr".index(name)
    return AnomalyStream(name, VALUES[:rows, [number, number + 1]], ("a", "b"), training)


TODAY = [stream("p", 240, 110), stream("q", 300, 150)]
TOMORROW = [stream("q", 300, 120), stream("r", 250, 120), stream("p", 290, 120)]
"""One has no new row, one is new, and one goes on; their training parts are those of before."""


def predicted(model: AnomalyModule, data: Streams, folder: Path) -> dict[str, Verdict]:
    (found,) = [small_trainer(folder).predict(model, data)]
    assert found is not None
    verdicts = model._predicted(found)
    model.ends = model.stream_ends(found)
    return dict(zip([one.name for one in data.predicted], verdicts, strict=True))


@pytest.fixture
def tested(tmp_path: Path) -> AnomalyModule:
    model, data = module(), Streams(TODAY, chunk=64)
    trainer = small_trainer(tmp_path)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    return model


def test_streams_that_end_at_different_rows_go_on(tested: AnomalyModule, tmp_path: Path) -> None:
    assert {name: end.place.rows for name, end in tested.ends.items()} == {"p": 240, "q": 300}
    alone = {}
    for one in TOMORROW:
        data = Streams([replace(one, training={"p": 110, "q": 150, "r": 120}[one.name])])
        model = module()
        model.load_state_dict(tested.state_dict())
        alone[one.name] = predicted(model, data, tmp_path)[one.name], model.ends[one.name]
    data = Streams(TOMORROW, chunk=7)
    data.go_on({name: end.place for name, end in tested.ends.items()})
    tested.go_on(tested.ends)
    found = predicted(tested, data, tmp_path)
    assert list(found) == ["r", "p"]
    assert found["r"].score == pytest.approx(alone["r"][0].score, **CLOSE)
    assert found["p"].score == pytest.approx(alone["p"][0].score[240:], **CLOSE)
    assert found["p"].threshold == pytest.approx(alone["p"][0].threshold, **CLOSE)
    assert found["p"].alarm == pytest.approx(alone["p"][0].alarm[240:], **CLOSE)
    for name, end in tested.ends.items():
        wanted = alone[name][1]
        assert end.place == wanted.place
        assert end.tensors.keys() == wanted.tensors.keys()
        for field, value in end.tensors.items():
            torch.testing.assert_close(value, wanted.tensors[field], rtol=1e-3, atol=1e-4, equal_nan=True)


def test_a_detector_goes_on_with_the_stream_that_is_named(tested: AnomalyModule, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    small = small_trainer(tmp_path)
    small.strategy.connect(tested)
    small.save_checkpoint(tmp_path / "plain.ckpt")
    content = checkpoints.load(tmp_path / "plain.ckpt")
    checkpoints.write(content | {"dream": checkpoints.identity("AnomalyModule")}, checkpoint)
    run = checkpoint.parent.parent
    data = Streams(TOMORROW)
    data.go_on({name: end.place for name, end in tested.ends.items()})
    tested.go_on(tested.ends)
    wanted = predicted(tested, data, tmp_path)["p"].score
    model = DREAMAnomalyDetector.from_run(run, stream="p")
    assert model.threshold == AnomalyModule.load_from_checkpoint(checkpoint).ends["p"].facts["threshold"]
    found = []
    for row in VALUES[240:290, [0, 1]]:
        found.append(model.judge_one(dict(zip("ab", row, strict=True))).score)
        model.learn_one(dict(zip("ab", row, strict=True)))
    assert found == pytest.approx(wanted, **CLOSE)
    # what learnt rows have left in the run comes before the run's own test, for streams by name
    streams.write(run, checkpoints.digest(checkpoint), tested.ends)
    assert streams.newest(checkpoint, {}).keys() == {"p", "q", "r"}
    later = DREAMAnomalyDetector.from_run(run, stream="p")
    row = {"a": 1.0, "b": -2.0}
    assert later.judge_one(row).score == pytest.approx(model.judge_one(row).score, **CLOSE)
    assert DREAMAnomalyDetector.from_run(run, stream="r").watch.training == 120  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="one of the run's, p, q, r; got 'x'"):
        DREAMAnomalyDetector.from_run(run, stream="x")
    with pytest.raises(CheckpointError, match="began with the weights of another checkpoint"):
        streams.read(run, "0" * 64)
