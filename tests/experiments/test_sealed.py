"""Runs whose files were altered are named by whoever reads them; a run without its folder ends."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dream import sums
from dream.errors import CheckpointError, DataError
from experiments import comparison, folders, report
from experiments.cli import main as dream
from lightning_modules.base import TaskModule
from lightning_modules.checks import require_there
from lightning_modules.run.saving import SaveProgress
from lightning_modules.run.tracking import JSONLLogger
from tests.experiments.support import SMALL, forked, in_fork

FIT = ["fit", "-c", "forecasting", *SMALL, "--trainer.limit_train_batches=3"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    ended = forked(*FIT, "--run.name=a", folder=folder, WANDB_MODE="disabled")
    assert ended.returncode == 0, ended.stderr
    return folder / "runs" / "a"


@pytest.fixture
def run(fitted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fitted, tmp_path / "runs" / "a"))


def refused(run: Path, *arguments: str) -> str:
    ended = forked(*arguments, folder=run.parents[1], WANDB_MODE="disabled")
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr.strip().splitlines()[-1]


def test_all_that_a_run_left_is_listed_and_signed(run: Path) -> None:
    found = sums.read(run)
    assert found is not None
    left = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    unlisted = {name for name in left - found.files.keys() if not name.startswith("checkpoints/")}
    assert unlisted == {sums.SUMS, ".lock"}
    assert not found.growing
    assert not found.writing
    assert all(len(some) == 1 for some in found.files.values())
    assert sums.differing(run) == []
    assert sums.signed(run)


def test_an_altered_configuration_is_neither_tested_nor_predicted_nor_resumed(run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    (run / "results.json").unlink()
    for words in (["test", "--ckpt_path=runs/a"], ["predict", "--ckpt_path=runs/a/checkpoints/best.ckpt"]):
        said = refused(run, *words)
        assert "runs/a holds files that are not as they were written: config.yaml, results.json" in said
        assert "runs/a/sums.sealed: nothing there is checked then" in said
    assert "config.yaml" in refused(run, *FIT, "--run.name=a", "--resume")
    assert sorted(path.name for path in run.parent.iterdir()) == ["a"]


@pytest.mark.parametrize("name", ["results.json", "metrics.jsonl", "run.json"])
def test_a_run_is_not_resumed_with_an_altered_text(run: Path, name: str) -> None:
    (run / name).write_bytes((run / name).read_bytes().replace(b"0", b"1"))
    with pytest.raises(CheckpointError, match=name):
        folders.require_as_written(run, name)
    assert name in refused(run, *FIT, "--run.name=a", "--resume")


def test_what_is_not_used_is_named_in_a_note(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "layers.json").write_text("{}")
    folders.require_as_written(run)
    assert "note: " in (said := capsys.readouterr().err)
    assert "layers.json" in said
    (run / sums.SUMS).unlink()
    folders.require_as_written(run)
    assert "are not sealed" in capsys.readouterr().err


def test_a_report_says_at_its_top_what_was_altered(run: Path) -> None:
    assert dream(["report", str(run)]) == 0
    assert sums.differing(run) == []
    assert sums.signed(run)
    assert "report.html" in sums.read(run).files  # type: ignore[union-attr]
    page = (run / "report.html").read_text()
    assert "Altered." not in page
    assert "Not sealed" not in page
    text = (run / "results.json").read_text()
    (run / "results.json").write_text(text.replace('"mse": 0', '"mse": 9'))
    head = report.render(run).partition("<h2>Results")[0]
    assert "Altered." in head
    assert "<code>results.json</code>" in head
    (run / sums.SUMS).unlink()
    assert "Not sealed" in report.render(run).partition("<h2>Results")[0]


def test_a_report_leaves_the_list_of_another_user(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run / sums.SUMS).read_bytes()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    assert dream(["report", str(run)]) == 0
    assert (run / sums.SUMS).read_bytes() == before


def test_a_table_refuses_an_altered_cell(run: Path) -> None:
    cell = run.rename(run.with_name("dream-seed0"))
    assert comparison.record(cell.parent, "dream", 0)
    (cell / "results.json").write_text((cell / "results.json").read_text().replace("0.", "1."))
    with pytest.raises(CheckpointError, match=r"results\.json\. .* Or delete .*dream-seed0"):
        comparison.record(cell.parent, "dream", 0)


def test_lines_are_added_only_to_what_was_written(tmp_path: Path) -> None:
    sums.begin(tmp_path)
    logger = JSONLLogger(tmp_path)
    for step in range(3):
        logger.log_metrics({"loss": 0.5}, step)
    logger.seal()
    logger.log_metrics({"loss": 0.5}, 3)
    assert sums.differing(tmp_path) == []
    held = logger.path.read_bytes()
    later = JSONLLogger(tmp_path)
    later.cut(held.index(b"\n") + 1)
    assert sums.differing(tmp_path) == []
    assert logger.path.read_bytes().count(b"\n") == 1
    later.log_metrics({"loss": 0.25}, 1)
    later.seal(whole=True)
    assert sums.differing(tmp_path) == []
    logger.path.write_bytes(held)
    assert sums.differing(tmp_path) == ["metrics.jsonl"]
    for write in (lambda: JSONLLogger(tmp_path).log_metrics({}, 0), lambda: JSONLLogger(tmp_path).cut(4)):
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl was changed since it was written"):
            write()
    assert logger.path.read_bytes() == held


def test_lines_that_were_deleted_end_the_run(tmp_path: Path) -> None:
    logger = JSONLLogger(tmp_path / "run")
    logger.log_metrics({"loss": 0.5}, 0)
    logger.path.unlink()
    for work in (lambda: logger.log_metrics({"loss": 0.5}, 1), logger.sync, logger.seal):
        with pytest.raises(DataError, match=r"metrics\.jsonl is gone"):
            work()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(DataError, match=r"the folder .*run is gone"):
        logger.log_metrics({"loss": 0.5}, 1)
    assert not (tmp_path / "run").exists()


def _without_folder(argument: tuple[list[str], str, str, int]) -> int:
    """`dream`, whose folder is deleted at a call of a method of the task."""
    words, folder, name, number = argument
    before: Callable[..., Any] = getattr(TaskModule, name)
    calls = 0

    def called(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            shutil.rmtree(folder)
        return before(*args, **kwargs)

    setattr(TaskModule, name, called)
    from experiments import ending

    return ending.ended(lambda: dream(words))


SPACE = "model.lr: [0.001, 0.002]\n"


@pytest.mark.parametrize(
    ("words", "folder", "name", "number"),
    [
        ([*FIT, "--run.name=b"], "runs/b", "training_step", 6),
        ([*FIT, "--run.name=b"], "runs/b", "on_test_end", 1),
        (["test", "--ckpt_path=runs/a", "--run.name=b"], "runs/b", "on_test_batch_start", 1),
        (["compare", *FIT[1:], "--models=dream", "--seeds=2", "--folder=c"], "c", "training_step", 2),
        (
            ["compare", *FIT[1:], "--models=dream", "--seeds=2", "--folder=c"],
            "c/dream-seed0",
            "training_step",
            2,
        ),
        (
            ["sweep", *FIT[1:], "--space=s.yaml", "--trials=2", "--folder=c"],
            "c/trial-0000",
            "training_step",
            2,
        ),
    ],
)
def test_a_command_whose_folder_was_deleted_ends_and_says_so(
    run: Path, words: list[str], folder: str, name: str, number: int
) -> None:
    home = run.parents[1]
    (home / "s.yaml").write_text(SPACE)
    ended: subprocess.CompletedProcess[str] = in_fork(
        _without_folder, (words, folder, name, number), folder=home, WANDB_MODE="disabled"
    )
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert f"the folder {folder}" in ended.stderr
    assert "is gone: it was deleted or moved" in ended.stderr
    assert not (home / folder).exists()


def test_what_others_write_is_no_folder_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / ".lock").touch()
    with pytest.raises(DataError, match="is gone"):
        require_there(tmp_path)
    (tmp_path / "run.json").touch()
    require_there(tmp_path)


def test_a_save_that_others_delete_at_once_ends_the_run_in_a_sentence(tmp_path: Path) -> None:
    saving = SaveProgress()
    saving.folder = tmp_path / "run" / "checkpoints"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").touch()
    trainer = SimpleNamespace(
        global_step=3,
        is_global_zero=True,
        loggers=[],
        save_checkpoint=lambda path: path.parent.mkdir(exist_ok=True),  # and it is deleted
    )
    with pytest.raises(DataError, match=r"the folder .*run/checkpoints is gone"):
        saving.save(trainer)  # type: ignore[arg-type]


def test_a_run_without_its_facts_is_passed_over_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, command = folders.RunSettings(folder=str(tmp_path)), ["fit", "-c", "forecasting"]
    for name in ("whole", "bare"):
        (tmp_path / name / folders.SAVES).mkdir(parents=True)
    folders.write_run(tmp_path / "whole", command)
    assert folders.earlier_run(settings, [*command, "--resume"]) == tmp_path / "whole"
    assert caplog.messages == [
        f"{tmp_path / 'bare'} has no run.json and is passed over; put it back to go on with it."
    ]
