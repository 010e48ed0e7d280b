"""Links, pipes and endless files in a folder from elsewhere: nothing is read or written through them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.cli import main
from tests.experiments.support import SMALL

KEY = "the key of its owner"
FIT = ["fit", "-c", "forecasting", *SMALL, "--trainer.max_epochs=1", "--run.name=a"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "disabled")
        patch.setattr("sys.argv", ["dream"])
        assert main(FIT) == 0
    return folder / "runs"


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, below a folder that is a link, beside what a link may lead to."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("key", "a.png", ".a.tmp", "run.json", "best.ckpt"):
        (home / name).write_text(KEY)
    shutil.copytree(whole, tmp_path / "scratch")
    (tmp_path / "runs").symlink_to("scratch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("sys.argv", ["dream"])
    return tmp_path / "runs" / "a"


def link(path: Path) -> None:
    path.symlink_to(Path("home/key").resolve())


def link_to_folder(path: Path) -> None:
    path.symlink_to(Path("home").resolve())


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


def replaced(path: Path, by: Callable[[Path], None]) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    by(path)


@pytest.mark.parametrize("by", [link, endless, os.mkfifo, hole])
def test_a_report_shows_nothing_of_what_a_link_leads_to(
    run: Path, by: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["results.json", "run.json", "layers.json", "remarks.json", "metrics.jsonl", "x.csv", "x.txt"]
    for name in [*texts, "config.yaml", "figures/forecasts.png"]:
        replaced(run / name, by)
    assert main(["report", "runs/a"]) == 0
    page = (run / "report.html").read_text()
    assert KEY not in page
    # the beginning of a text of any size can be shown
    left_out = {"x.csv", "x.txt", "config.yaml"} if by is hole else set()
    for name in {*texts, "config.yaml", "forecasts.png"} - left_out:
        assert f"{name} " in page.split("Not shown.")[1].split("</ul>")[0], name
    assert KEY not in "".join(capsys.readouterr())


def test_a_report_is_not_written_through_a_link(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link(run / "report.html")
    assert main(["report", "runs/a"]) == 2
    assert "`--output` must be a file that can be written" in capsys.readouterr().err
    assert Path("home/key").read_text() == KEY


@pytest.mark.parametrize(
    ("name", "by", "command"),
    [
        ("config.yaml", link, "test"),
        ("checkpoints", link_to_folder, "test"),
        ("checkpoints/best.ckpt", link, "test"),
        ("checkpoints/best.ckpt", endless, "predict"),
        ("checkpoints/best.ckpt.sha256", os.mkfifo, "test"),
        ("run.json", link, "resume"),
        ("config.yaml", link, "resume"),
        ("metrics.jsonl", link, "resume"),
        ("metrics.jsonl", os.mkfifo, "resume"),
        ("checkpoints", link_to_folder, "resume"),
        ("checkpoints/step-00000008.ckpt", link, "resume"),
        ("figures", link_to_folder, "resume"),
        ("results.json", link, "resume"),
        (".lock", link, "resume"),
    ],
)
def test_a_run_is_not_read_or_written_through_a_link(
    run: Path, name: str, by: Callable[[Path], None], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in Path("home").iterdir()}
    if command == "resume":
        (run / "results.json").unlink()
    replaced(run / name, by)
    words = [*FIT, "--resume"] if command == "resume" else [command, "--ckpt_path=runs/a", "--run.name=t"]
    assert main(words) == 2
    said = "".join(capsys.readouterr())
    assert Path(name).name in said
    assert KEY not in said
    assert {path: path.read_bytes() for path in Path("home").iterdir()} == before
    assert not Path("runs/t").exists()


def test_files_half_written_are_removed_in_the_run_alone(run: Path) -> None:
    (run / "results.json").unlink()
    (run / ".a.tmp").write_text("half")
    link_to_folder(run / "elsewhere")
    link(run / ".link.tmp")
    assert main([*FIT, "--resume"]) == 0
    assert Path("home/.a.tmp").read_text() == KEY
    assert Path("home/key").read_text() == KEY
    assert not (run / ".a.tmp").exists()
    assert json.loads((run / "results.json").read_text())["results"]


def test_a_cell_that_is_a_link_is_neither_shown_nor_run(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("cmp").mkdir()
    Path("cmp/plan.json").write_text('{"experiment": [""], "flags": []}')
    Path("cmp/dream-seed0").symlink_to(run.resolve())
    assert main(["report", "cmp"]) == 0
    page = Path("cmp/report.html").read_text()
    assert "dream-seed0 could not be read: it is a link" in page
    assert "repeat-last" not in page
    words = ["compare", "-c", "forecasting", "--models", "dream", "--seeds", "1", "--folder=cmp"]
    assert main(words) == 2
    assert "cmp/dream-seed0 could not be read or written: it is a link" in capsys.readouterr().err
    assert (run / "results.json").is_file()
