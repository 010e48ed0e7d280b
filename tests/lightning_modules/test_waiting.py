"""Progress of long work: lines with an estimate where there is no terminal."""

from __future__ import annotations

import time

import pytest

from lightning_modules import waiting


def test_a_pipe_gets_a_line_now_and_then_with_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 4.0, 12.0, 15.0, 30.0, 60.0])
    lines = waiting.Lines()
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    lines.begin()
    for share in (0.1, 0.25, 0.5, 0.75, 1.0):
        lines.tell("converting a.csv", share)
    assert capsys.readouterr().err.splitlines() == [
        "converting a.csv 25%  12 s  about 36 s left",
        "converting a.csv 75%  30 s  about 10 s left",
    ]


def test_waiting_says_it_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "QUIET", 0.0)
    with waiting.waiting("scoring") as tell:
        for share in (0.5, 1.0):
            tell(share)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("scoring 50%  0 s  about 0 s left")
