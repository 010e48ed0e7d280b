"""Short form of `tests.soak.fuzz`: any file or setting yields a result or a DREAMError."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak import fuzz


def test_fuzz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dream"])
    figures = fuzz.main(["--examples=40"])
    assert sum(figures["dream check"].values()) >= 5
    for part in fuzz.readers("t.csv"):
        assert sum(figures[part].values()) >= 40
        assert set(figures[part]) == {"read", "refused"}, part  # both were met
    assert figures["DREAMConfig"]["refused"] > 20
    assert figures["YAML"]["refused"] > 20
    assert not list(tmp_path.iterdir())
