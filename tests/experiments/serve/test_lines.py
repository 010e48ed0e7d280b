"""`dream serve` on standard input: a row on each line, an answer on each."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from starlette.requests import Request

from dream.errors import CheckpointError
from experiments.cli import main
from experiments.serve.batches import Batches, BusyError
from experiments.serve.lines import serve_lines
from experiments.serve.service import Asked, Service, asked
from experiments.serve.web import Limits, _answered, make_app
from lightning_modules.learners import (
    DREAMAnomalyDetector,
    DREAMClassifier,
    DREAMForecaster,
    DREAMRegressor,
    Streams,
)
from tests.experiments.support import in_fork
from tests.soak.service import trained

Answers = list[dict[str, Any]]


def answers(service: Service, feed: Callable[[io.BufferedWriter], None], most: int = 1000) -> Answers:
    """Answers to what `feed` writes into a pipe, from a thread of its own."""
    reading, writing = os.pipe()
    out = io.BytesIO()

    def write() -> None:
        with open(writing, "wb") as file:  # noqa: PTH123 - a descriptor
            feed(file)

    thread = Thread(target=write)
    thread.start()
    with open(reading, "rb") as file:  # noqa: PTH123
        assert serve_lines(service, file, out, most) == 0
    thread.join()
    return [json.loads(line) for line in out.getvalue().splitlines()]


def lines(*rows: Any) -> Callable[[io.BufferedWriter], None]:
    return lambda file: file.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows)) and None


def test_every_line_has_its_answer_in_order(tmp_path: Path) -> None:
    with Streams(trained(), tmp_path) as streams:
        rows = [{"key": key, "x": {"u": 1.0, "v": None}} for key in ("a", "b", "a")]
        found = answers(Service(streams, 0.5, 2), lines(*rows, {"key": "a", "seq": 2, "x": {"u": 1.0}}))
    assert [(one["key"], one["seq"]) for one in found] == [("a", 1), ("b", 1), ("a", 2), ("a", 2)]
    assert [len(one["prediction"]) for one in found[:3]] == [2, 2, 2]
    assert found[3]["repeated"]
    with Streams(trained(), tmp_path) as streams:
        again = streams.predict_streams({"a": None})["a"]
        assert again[0] == found[2]["prediction"]
        assert again[2:4] == (2, 2)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "a row in JSON"),
        ("[" * 100_000, "bytes"),
        ("[]", "must be an object"),
        ('{"key": 1.5}', "`key` must be a text or a whole number"),
        ('{"key": "a", "sec": 1}', "Did you mean `seq`?"),
        ('{"key": "a", "seq": 0}', "`seq` must be a whole number from 1"),
        ('{"key": "a", "seq": true}', "`seq` must be a whole number from 1"),
        ('{"key": "a", "seq": 1.0}', "`seq` must be a whole number from 1"),
        ('{"key": "a", "seq": NaN}', "`seq` must be a whole number from 1"),
        ('{"key": "\\ud800"}', "a text that UTF-8 can hold"),
        ('{"key": "a", "x": {"u": 1%s}}' % ("0" * 400), "must be a finite number"),
        ('{"key": "a", "x": {"u": {"u": 1}}}', "must be a finite number"),
        ('{"key": "%s"}' % ("a" * 1001), "at most 1000 characters"),
        ('{"key": "a", "x": {"w": 1}}', "`w` is none"),
        ('{"%s": 1}' % ("w" * 999), f"`{'w' * 100}...` is none"),
        ('{"key": "a", "x": {"u": "high"}}', "must be a finite number"),
        ('{"key": "a", "x": {"u": 1e400}}', "must be a finite number"),
        ('{"key": "a", "x": {"v": 1}, "y": 3}', "must name columns, `y` those that are forecast"),
    ],
)
def test_a_line_that_is_refused_gets_a_sentence_and_the_next_is_answered(line: str, why: str) -> None:
    good = json.dumps({"key": "a", "x": {"u": 1.0, "v": 2.0}})
    found = answers(
        Service(Streams(trained()), 0.5, 1000), lambda file: file.write(f"{line}\n{good}\n".encode()), 1100
    )
    assert why in found[0]["error"]
    assert found[1]["seq"] == 1
    assert len(found) == 2


def test_rows_without_their_target_are_predicted() -> None:
    classifier, regressor = DREAMClassifier(), DREAMRegressor()
    for k in range(30):
        classifier.learn_one({"a": k % 2}, bool(k % 2))
        regressor.learn_one({"a": k % 2}, k % 2)
    for model, kind in ((classifier, bool), (regressor, float)):
        service = Service(Streams(model), 0.5, 1000)
        found = answers(service, lines({"key": 1, "x": {"a": 1}}, {"key": 1, "x": {"a": 1}, "y": 1}))
        assert [one["seq"] for one in found] == [0, 1]
        assert [type(one["prediction"]) for one in found] == [kind, kind]


def test_a_forecaster_of_one_number_with_columns_beside_it() -> None:
    model = DREAMForecaster()
    for k in range(30):
        model.learn_one(float(k % 3), {"a": k % 2})
    given = {"key": 1, "y": 2.0, "x": {"a": 1}}, {"key": 2, "x": {"y": 2.0, "a": 1}}
    found = answers(Service(Streams(model), 0.5, 1000), lines(*given))
    own = model.learn_one(2.0, {"a": 1}).forecast()
    assert [one["prediction"] for one in found] == [own, own]


def test_a_detector_tells_score_threshold_flag_alarm_and_cause() -> None:
    model = DREAMAnomalyDetector(window=100)
    for k in range(200):
        model.learn_one({"a": k * 37 % 100 / 100, "b": k * 31 % 100 / 100})
    service = Service(Streams(model), None, 1000)  # the detector knows no threshold
    usual, odd = answers(
        service, lines({"key": 1, "x": {"a": 0.4, "b": 0.2}}, {"key": 1, "x": {"a": 0.5, "b": 9.0}})
    )
    assert (usual["flag"], usual["alarm"], usual["threshold"]) == (False, False, 0.4)
    assert (odd["flag"], odd["alarm"], odd["cause"]["column"]) == (True, True, "b")
    assert odd["score"] > 0.4 > usual["score"]


def test_a_disk_that_refuses_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Streams[Any]) -> None:
        raise CheckpointError("the disk is full.")

    row = asked("learn", {"key": "a", "x": {"u": 1.0, "v": 2.0}})
    with Streams(trained(), tmp_path) as streams:
        service = Service(streams, 0.5, 1)
        with monkeypatch.context() as patch:
            patch.setattr(Streams, "flush", refuse)
            assert [one["flushed"] for one in service.answer([row, row])] == [0, 0]
        assert (service.failure, service.failures) == ("the disk is full.", 1)
        assert "the next flush is tried" in capsys.readouterr().err
        assert [one["flushed"] for one in service.answer([row])] == [0]
        service.next_flush = 0.0
        assert [one["flushed"] for one in service.answer([row])] == [4]
        assert service.failure is None


def status(service: Service, row: Asked) -> int:
    """Status of an answer over HTTP."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps({"key": row.key, "x": row.x}).encode()}

    batches = Batches(service, 10)
    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    found = asyncio.run(_answered(request, row.operation, batches, Limits(1000, 10, 10.0)))
    batches.stop()
    return found.status_code


def test_a_full_disk_refuses_the_rows_that_need_room_and_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    model, draw = trained(), random.Random(0)
    calm = Service(Streams(model), 0.5, 1000)
    with Streams(model, tmp_path, most=2) as streams:
        assert streams.store is not None
        streams.store.memory = streams.store.shard_size = 1  # or the store takes some streams all the same
        service = Service(streams, 0.5, 1000)
        waiting: list[Asked] = []
        done: Counter[str] = Counter()
        for place in range(60):
            waiting.append(asked("learn", {"key": draw.choice("abcde"), "x": {"u": draw.random(), "v": 1.0}}))
            with monkeypatch.context() as patch:
                if is_full := 15 <= place < 45:
                    patch.setattr("dream.sealed.write_atomic", refuse)
                (answer,) = service.answer(waiting[:1])
                if "error" not in answer:
                    (row,) = waiting[:1]
                    assert answer["prediction"] == calm.answer([row])[0]["prediction"]
                    del waiting[0]
                    done[row.key, is_full] += 1
                    continue
                assert is_full
                assert answer["retry"]
                assert status(service, waiting[0]) == 503
                assert "No space left on device" in answer["error"]
                assert "No space left on device" in (service.trouble or "")
                with pytest.raises(CheckpointError, match="No space left on device"):
                    service.drift(waiting[0].key)
                assert len(streams.held) <= 3
                waiting.sort(key=lambda row: row.key not in streams.held)  # those in memory go on
        assert sum(count for (_, is_full), count in done.items() if is_full) > 5
        left = waiting or [asked("predict", {"key": "a"})]
        found, wanted = service.answer(left), calm.answer(left)
        assert [one["prediction"] for one in found] == [one["prediction"] for one in wanted]
        assert service.trouble is None
        assert service.counts()["learn", "failed"] > 3
    with Streams(model, tmp_path) as streams:
        assert {key: streams.stream(key).seq for key in "abcde"} == {
            key: calm.streams.stream(key).seq for key in "abcde"
        }


def _serve_into(model: str) -> int:
    """Serve one line of standard input into a device that is full."""
    os.dup2(os.open("rows", os.O_RDONLY), 0)
    sys.stdin = open(0)  # noqa: SIM115 - as long as the process lives
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    return main(["serve", model])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_answers_that_cannot_be_written_end_it_with_a_sentence(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    (tmp_path / "rows").write_text(json.dumps({"key": "a", "x": {"u": 1.0}}) + "\n")
    done = in_fork(_serve_into, "model", folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "dream: the output could not be written: No space left on device." in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_no_default_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    assert "(default: 10.0)" in text
    assert "None" not in text


def test_sigterm_ends_it_after_the_answers(tmp_path: Path) -> None:
    def feed(file: io.BufferedWriter) -> None:
        lines({"key": "a", "x": {"u": 1.0, "v": 2.0}})(file)
        file.flush()
        while not service.rows:
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    with Streams(trained(), tmp_path) as streams:
        service = Service(streams, 0.5, 1000)
        assert [one["seq"] for one in answers(service, feed)] == [1]


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("--flush-every=0", "--flush-every"),
        ("--http=99999", "from 0 to 65535"),
        ("--timeout=nan", "a number of seconds"),
        ("--threshold=2", "from 0 to 1"),
        ("--token=", "--token"),
    ],
)
def test_flags_that_are_out_of_range(flag: str, why: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["serve", str(tmp_path / "model"), flag]) == 2
    assert why in capsys.readouterr().err


def test_no_file_of_a_row_object(tmp_path: Path, capsys: Any) -> None:
    assert main(["serve", str(tmp_path / "model")]) == 2
    assert "the `save` of a row object" in capsys.readouterr().err


def test_http_without_its_packages(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.serve.command.find_spec", lambda name: None)
    assert main(["serve", str(tmp_path / "model"), "--http=0"]) == 2
    assert "dream-memory[serve]" in capsys.readouterr().err


def test_a_defect_ends_the_thread_of_the_rows_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    service, told = Service(Streams(trained()), 0.5, 1000), []
    batches = Batches(service, 10, lambda: told.append(True))
    monkeypatch.setattr(service, "answer", lambda rows: 1 / 0)
    future = batches.submit([asked("learn", {"key": "a"})])
    with pytest.raises(ZeroDivisionError):
        future.result(10)
    batches.stop()
    assert told == [True]
    assert isinstance(batches.defect, ZeroDivisionError)
    with pytest.raises(BusyError, match="it stops"):
        batches.submit([asked("learn", {"key": "a"})])
    app = make_app(service, batches, Limits(1000, 10, 1.0), None)
    (health,) = [route.endpoint for route in app.routes if getattr(route, "path", "") == "/health"]
    found = asyncio.run(health())
    assert found.status_code == 503
    assert "ZeroDivisionError" in json.loads(found.body)["error"]


def test_rows_that_nobody_waits_for_are_not_learnt() -> None:
    service = Service(Streams(trained()), 0.5, 1000)
    batches = Batches(service, 10)
    with service.lock:  # as a batch that takes long
        first = batches.submit([asked("learn", {"key": "a", "x": {"u": 1.0}})])
        while batches.rows:
            pass
        late = batches.submit([asked("learn", {"key": "b", "x": {"u": 1.0}})] * 10)
        with pytest.raises(BusyError, match="10 rows wait of at most 10"):
            batches.submit([asked("learn", {"key": "c"})])
        assert late.cancel()
    assert first.result(10)[0]["seq"] == 1
    batches.stop()
    assert not service.streams.known("b")
