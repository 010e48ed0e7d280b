from __future__ import annotations

import os
import pickle
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import dream
from dream.errors import CheckpointError, ConfigError
from lightning_modules import ForecastingModule
from lightning_modules.run import checkpoints


def content(**changes: Any) -> dict[str, Any]:
    """A minimal checkpoint."""
    weights = {"w": torch.arange(30_000.0)}
    return {
        "dream": checkpoints.identity("Task"),
        "state_dict": weights,
        "hyper_parameters": {"a": 1},
    } | changes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    checkpoints.write(content(), tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def test_it_comes_back_with_its_sum_beside_it(path: Path) -> None:
    assert torch.equal(checkpoints.read(path, "Task")["state_dict"]["w"], torch.arange(30_000.0))
    assert {file.name for file in path.parent.iterdir()} == {"best.ckpt", "best.ckpt.sha256"}
    said = subprocess.run(
        ["sha256sum", "--check", "best.ckpt.sha256"], cwd=path.parent, capture_output=True, text=True
    )
    assert said.stdout == "best.ckpt: OK\n"


@pytest.mark.parametrize("killed_at", [1, 2, 3, 4, 5, 6])
def test_a_write_that_ends_anywhere_leaves_the_old_or_the_new(
    path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    calls = 0

    def one_more(_: int) -> None:
        nonlocal calls
        calls += 1
        if calls == killed_at:
            raise Killed

    monkeypatch.setattr("os.fsync", one_more)
    with pytest.raises(Killed):  # each of three files is flushed, and then its folder
        checkpoints.write(content(hyper_parameters={"a": 2}), path)
    assert checkpoints.intact(path)
    assert checkpoints.read(path)["hyper_parameters"] == {"a": 1 if killed_at < 4 else 2}


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:5000] + b"x" + data[5001:], lambda data: b""]
)
def test_a_damaged_file_is_named(path: Path, damage: Any) -> None:
    path.write_bytes(damage(path.read_bytes()))
    assert not checkpoints.intact(path)
    with pytest.raises(CheckpointError, match=r"best\.ckpt is damaged: its SHA-256"):
        checkpoints.read(path)
    checkpoints.sums_file(path).unlink()
    if path.stat().st_size in (0, 121_000):
        with pytest.raises(CheckpointError, match="must be a checkpoint that `dream fit` wrote"):
            checkpoints.read(path)


def test_a_disk_that_is_full_leaves_the_old_file(path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(
            CheckpointError,
            match=r"best\.ckpt could not be written: File too large\. Free or change the disk",
        ):
            checkpoints.write(content(hyper_parameters={"a": 2}), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoints.read(path)["hyper_parameters"] == {"a": 1}
    assert {file.name for file in path.parent.iterdir()} == {"best.ckpt", "best.ckpt.sha256"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(path: Path) -> None:
    path.parent.chmod(0o500)
    with pytest.raises(CheckpointError, match="could not be written: Permission denied"):
        checkpoints.write(content(), path)
    assert checkpoints.intact(path)


class Trap:
    """Object that leaves a file behind when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("kind", ["zip", "pickle", "legacy"])
def test_a_crafted_pickle_is_refused_and_not_run(kind: str, tmp_path: Path) -> None:
    path, target = tmp_path / "a.ckpt", tmp_path / "trapped"
    crafted = content(callbacks=Trap(target))
    if kind == "pickle":
        path.write_bytes(pickle.dumps(crafted))
    else:
        torch.save(crafted, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match="`ckpt_path` must be a checkpoint that `dream fit` wrote"):
        checkpoints.read(path)
    assert not target.exists()
    torch.load(path, weights_only=False) if kind != "pickle" else pickle.loads(path.read_bytes())
    assert target.exists()  # the trap was a real one


@pytest.mark.parametrize("url", ["http://127.0.0.1/a.ckpt", "https://127.0.0.1/a.ckpt", "s3://bucket/a.ckpt"])
def test_urls_are_refused(url: str) -> None:
    with pytest.raises(CheckpointError, match="must be a local file; got"):
        checkpoints.read(url)


@pytest.mark.parametrize(
    "settings",
    [
        {"class_path": "subprocess.Popen"},
        {"config": {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}},
        {"_instantiator": "lightning.pytorch.cli.instantiate_module", "_class_path": "subprocess.Popen"},
        {"shape": {"dict_kwargs": {}}},
        {"config.class_path": "subprocess.Popen"},
        {3: "x"},
        ["class_path"],
    ],
)
def test_settings_that_name_what_to_build_are_refused(settings: Any, tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    checkpoints.write(content(hyper_parameters=settings), path)
    with pytest.raises(CheckpointError, match=r"the settings in .*best.ckpt must be"):
        checkpoints.read(path)
    with pytest.raises(CheckpointError, match=r"the settings in .*best.ckpt must be"):
        ForecastingModule.load_from_checkpoint(path)


def test_a_module_is_loaded_from_a_file_here_and_runs_nothing(path: Path) -> None:
    with pytest.raises(CheckpointError, match="`ckpt_path` must be a local file; got http"):
        ForecastingModule.load_from_checkpoint("http://127.0.0.1:1/best.ckpt")
    with pytest.raises(ConfigError, match="`weights_only` must be True"):
        ForecastingModule.load_from_checkpoint(path, weights_only=False)


def test_another_format_or_task_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    checkpoints.write(content(dream={"format": 7, "version": "9.9", "task": "Task"}), path)
    with pytest.raises(
        CheckpointError, match=rf"format 7, written by dream 9\.9; dream {dream.__version__} reads format 5"
    ):
        checkpoints.read(path)
    checkpoints.write(content(dream={"format": 3, "version": "0.1", "task": "Task"}), path)
    with pytest.raises(
        CheckpointError, match=r"format 3, written by the first edition of the cell in dream 0\.1; .*or train"
    ):
        checkpoints.read(path)
    checkpoints.write(content(dream={"format": 4, "version": "0.1", "task": "Task"}), path)
    held = checkpoints.read(path, "Task")  # its weights
    with pytest.raises(CheckpointError, match=r"0\.1 in format 4, .* the weights, but not all by which new"):
        checkpoints.require_complete(held, path)
    checkpoints.write(content(), path)
    checkpoints.require_complete(checkpoints.read(path), path)
    with pytest.raises(
        CheckpointError, match=r"holds a Task; here is a OnlineModule\. Use the configuration"
    ):
        checkpoints.read(path, "OnlineModule")
    torch.save({"state_dict": {}, "hyper_parameters": {}}, tmp_path / "old.ckpt")
    with pytest.raises(CheckpointError, match=r"must be a checkpoint that `dream fit` wrote; .*: 'dream'"):
        checkpoints.read(tmp_path / "old.ckpt")


def test_the_newest_intact_one_is_used_and_the_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert checkpoints.newest(tmp_path) is None
    for step in (9, 10, 200):
        checkpoints.write(content(step=step), tmp_path / checkpoints.STEP.format(step))
    newest = tmp_path / checkpoints.STEP.format(200)
    assert checkpoints.newest(tmp_path) == newest
    newest.write_bytes(newest.read_bytes()[:-7])
    assert checkpoints.newest(tmp_path) == tmp_path / checkpoints.STEP.format(10)
    assert "step-00000200.ckpt is damaged" in caplog.text


@pytest.mark.gpu
def test_saved_on_a_gpu_it_loads_on_the_cpu(tmp_path: Path) -> None:
    checkpoints.write(content(state_dict={"w": torch.ones(3, device="cuda")}), tmp_path / "a.ckpt")
    assert checkpoints.read(tmp_path / "a.ckpt")["state_dict"]["w"].device.type == "cpu"
