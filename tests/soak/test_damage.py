"""Short form of `tests.soak.damage`: a command that reads a damaged text ends with a result or a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak import damage


def test_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    figures = damage.main(["--trials=10"])
    assert sum(count for codes in figures.values() for count in codes.values()) == 10
    assert figures["report"]["0"] >= 3
    assert sum(codes.get("2", 0) for codes in figures.values()) >= 1
    assert not list(tmp_path.iterdir())
