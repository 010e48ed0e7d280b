from __future__ import annotations

from pathlib import Path

import pytest

from dream.errors import ConfigError, DataError
from experiments import data_command
from experiments.data_command import main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DREAM_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_path(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["path"]) == 0
    assert capsys.readouterr().out == f"{folder}\n"


def test_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for text in ("ett", "not here", "15.4 MB", "CC BY-ND 4.0"):
        assert text in out
    (folder / "ett").mkdir()
    (folder / "ett" / "ETTh1.csv").touch()
    main(["list"])
    assert "1 of 4 files in" in capsys.readouterr().out
    for name in ("ETTh2.csv", "ETTm1.csv", "LICENSE.txt"):
        (folder / "ett" / name).touch()
    main(["list"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "transformer temperature" in line]
    assert "not here" not in line
    assert " of 4" not in line


def test_get_prints_the_files(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[object, ...]] = []

    def download(*arguments: object) -> list[Path]:
        asked.append(arguments)
        return [Path("x") / "ett" / "ETTh1.csv"]

    monkeypatch.setattr(data_command, "download", download)
    assert main(["get", "ett", "--folder", "x", "--mirror", "http://127.0.0.1:9"]) == 0
    assert asked == [("ett", Path("x"), "http://127.0.0.1:9")]
    assert capsys.readouterr().out == f"{Path('x') / 'ett' / 'ETTh1.csv'}\n"


def test_errors_are_left_to_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no data set `et`. Did you mean `ett`?"):
        main(["get", "et"])
    with pytest.raises(DataError, match="no connection"):
        main(["get", "ett", "--folder", str(tmp_path), "--mirror", "http://127.0.0.1:9"])


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "usage: dream data" in capsys.readouterr().err
