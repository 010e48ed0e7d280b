"""A run that is killed, stopped, torn or starved goes on as if nothing had been.

The soak `kills` kills runs of the other tasks, too, and at random moments."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.soak import processes
from tests.soak.kills import ONLINE, STREAMS


def whole(command: list[str], folder: Path) -> dict[str, Any]:
    """What the command comes to if nobody disturbs it."""
    assert processes.run(folder, [*command, "--run.name=whole"]) == 0, (folder / "said.txt").read_text()
    return processes.left(folder / "runs" / "whole")


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("streams")
    return folder, whole(STREAMS, folder)


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("online")
    return folder, whole(ONLINE, folder)


def go_on(
    folder: Path, command: list[str], name: str, place: str = "", at: float = 0, sent: int = signal.SIGKILL
) -> int:
    return processes.run(folder, [*command, f"--run.name={name}", "--resume"], place, at, sent)


def said(folder: Path) -> str:
    return (folder / "said.txt").read_text()


def test_killed_in_a_step_a_save_a_validation(streams: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = streams
    for place, at in (("step", 3), ("save", 7), ("validation", 1), ("layers", 1)):
        assert go_on(folder, STREAMS, "killed", place, at) == -signal.SIGKILL, (place, said(folder))
    assert go_on(folder, STREAMS, "killed") == 0, said(folder)
    assert processes.differences(expected, processes.left(folder / "runs" / "killed")) == []


def test_killed_before_anything_is_written(streams: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = streams
    for at in (1, 2, 3, 4):  # the first files of a run, each flushed and then its folder
        assert go_on(folder, STREAMS, "early", "save", at) == -signal.SIGKILL, (at, said(folder))
    assert go_on(folder, STREAMS, "early") == 0, said(folder)
    assert processes.differences(expected, processes.left(folder / "runs" / "early")) == []
    assert not list((folder / "runs" / "early").rglob("*.tmp"))


def test_killed_in_the_online_stream(online: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = online
    for place, at in (("step", 3), ("validation", 1), ("stream", 2), ("save", 3), ("layers", 1)):
        assert go_on(folder, ONLINE, "killed", place, at) == -signal.SIGKILL, (place, said(folder))
    assert go_on(folder, ONLINE, "killed") == 0, said(folder)
    assert processes.differences(expected, processes.left(folder / "runs" / "killed")) == []


def test_a_signal_saves_within_a_step(online: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = online
    command = [*ONLINE, "--save.every_minutes=60"]  # nothing but the signal asks for a save within an epoch
    saves = folder / "runs" / "stopped" / "checkpoints"
    for place, at, sent, code, file in (
        ("step", 3, signal.SIGTERM, 143, "step-00000003.ckpt"),
        ("validation", 1, signal.SIGINT, 130, "step-00000004.ckpt"),
        ("stream", 2, signal.SIGTERM, 143, "test.ckpt"),
        ("stream", 2, signal.SIGINT, 130, "test.ckpt"),
    ):
        before = (saves / file).read_bytes() if (saves / file).exists() else b""
        assert go_on(folder, command, "stopped", place, at, sent) == code, (place, said(folder))
        assert (saves / file).read_bytes() != before
        done = "dream: interrupted; what is done is in runs/stopped; the same command goes on with it."
        assert said(folder).splitlines()[-1] == done
    assert go_on(folder, command, "stopped") == 0, said(folder)
    assert processes.differences(expected, processes.left(folder / "runs" / "stopped")) == []
    assert not (saves / "test.ckpt").exists()


def test_a_torn_save_is_named_and_the_one_before_serves(streams: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = streams
    assert go_on(folder, STREAMS, "torn", "step", 7) == -signal.SIGKILL
    older, newest = sorted((folder / "runs" / "torn" / "checkpoints").glob("step-*.ckpt"))
    content = newest.read_bytes()
    newest.write_bytes(content[:-100])
    altered = bytearray(content)
    altered[len(altered) // 2] ^= 1
    assert go_on(folder, STREAMS, "torn") == 0, said(folder)
    assert f"{newest.relative_to(folder)} is damaged" in said(folder)
    assert f"going on from {older.relative_to(folder)}" in said(folder)
    assert processes.differences(expected, processes.left(folder / "runs" / "torn")) == []


def test_nothing_intact_is_an_error_and_nothing_is_lost(streams: tuple[Path, dict[str, Any]]) -> None:
    folder = streams[0]
    assert go_on(folder, STREAMS, "damaged", "step", 5) == -signal.SIGKILL
    saves = list((folder / "runs" / "damaged" / "checkpoints").glob("step-*.ckpt"))
    for path in saves:
        path.write_bytes(path.read_bytes()[:50])
    assert go_on(folder, STREAMS, "damaged") == 2
    assert "must hold an intact checkpoint; all 2 are damaged" in said(folder).splitlines()[-1]
    assert all(path.stat().st_size == 50 for path in saves)


def test_a_full_disk_stops_the_run_and_leaves_the_save_before(
    streams: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, expected = tmp_path, streams[1]  # where what was said is short enough for the disk, too
    assert go_on(folder, STREAMS, "full", "step", 5) == -signal.SIGKILL
    saves = folder / "runs" / "full" / "checkpoints"
    before = {path.name: path.read_bytes() for path in saves.iterdir() if path.name.startswith("step")}
    command = [*STREAMS, "--run.name=full", "--resume"]
    assert processes.run(folder, command, largest_file=10_000) == 2
    assert "could not be written: File too large. Free or change the disk" in said(folder).splitlines()[-1]
    assert {
        path.name: path.read_bytes() for path in saves.iterdir() if path.name.startswith("step")
    } == before
    assert not [path.name for path in saves.iterdir() if path.name.endswith(".tmp")]
    assert go_on(folder, STREAMS, "full") == 0
    assert processes.differences(expected, processes.left(folder / "runs" / "full")) == []


def test_resume_without_a_name_finds_the_run_of_the_same_command(
    streams: tuple[Path, dict[str, Any]],
) -> None:
    folder, expected = streams
    command = [*STREAMS, "--run.folder=unnamed"]
    # there is none yet: it starts
    assert processes.run(folder, [*command, "--resume"], "step", 5) == -signal.SIGKILL
    # newer, but another command
    assert processes.run(folder, [*command, "--seed=1"], "step", 3) == -signal.SIGKILL
    assert processes.run(folder, [*command, "--resume"]) == 0, said(folder)
    ended = [path.parent for path in (folder / "unnamed").glob("*/results.json")]
    assert len(list((folder / "unnamed").iterdir())) == 2
    assert processes.differences(expected, processes.left(ended[0])) == []


def test_other_settings_are_refused_and_named(streams: tuple[Path, dict[str, Any]]) -> None:
    folder = streams[0]
    assert go_on(folder, STREAMS, "other", "step", 3) == -signal.SIGKILL
    assert go_on(folder, [*STREAMS, "--model.config.rank=3", "--seed=4"], "other") == 2
    line = said(folder).splitlines()[-1]
    assert "`seed` 0 there and 4 here" in line
    assert "`model.init_args.config.rank` 2 there and 3 here" in line


def test_a_run_that_has_ended_shows_what_came_out(streams: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = streams
    files = {path: path.stat().st_mtime_ns for path in (folder / "runs" / "whole").rglob("*")}
    assert go_on(folder, STREAMS, "whole") == 0
    assert "the run in runs/whole has ended" in said(folder)
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs" / "whole").rglob("*")} == files
    assert (
        json.loads((folder / "runs" / "whole" / "results.json").read_text())["results"] == expected["results"]
    )
    assert go_on(folder, [*STREAMS, "--seed=5"], "whole") == 2
    assert "`seed` 0 there and 5 here" in said(folder).splitlines()[-1]


def test_one_seed_two_runs_one_result(streams: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = streams
    assert processes.run(folder, [*STREAMS, "--run.name=second"]) == 0
    assert processes.differences(expected, processes.left(folder / "runs" / "second")) == []


def test_a_run_that_was_moved_keeps_its_best(streams: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = streams
    first = [*STREAMS, "--save.every_n_steps=1000", "--run.name=moved"]
    assert processes.run(folder, first, "validation", 3) == -signal.SIGKILL  # two epochs are judged
    (folder / "elsewhere").mkdir()
    (folder / "runs" / "moved").rename(folder / "elsewhere" / "moved")
    assert processes.run(folder, [*first, f"--run.folder={folder / 'elsewhere'}", "--resume"]) == 0, said(
        folder
    )
    moved = processes.left(folder / "elsewhere" / "moved")
    assert moved["checkpoints"]["best.ckpt"]["epoch"] == expected["checkpoints"]["best.ckpt"]["epoch"]
    assert (moved["metrics"], moved["results"]) == (expected["metrics"], expected["results"])


def test_a_damaged_newer_save_never_costs_the_good_one(streams: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = streams
    saves = folder / "runs" / "one" / "checkpoints"
    assert go_on(folder, STREAMS, "one", "step", 7) == -signal.SIGKILL
    newest = max(saves.glob("step-*.ckpt"))
    newest.write_bytes(b"torn")
    assert (
        go_on(folder, [*STREAMS, "--save.keep=1", "--save.every_n_steps=1"], "one", "step", 2)
        == -signal.SIGKILL
    )
    (left,) = saves.glob("step-*.ckpt")
    assert left.name < newest.name
    assert go_on(folder, STREAMS, "one") == 0, said(folder)
    assert processes.differences(expected, processes.left(folder / "runs" / "one")) == []


def test_a_run_that_starts_from_a_checkpoint_writes_its_own_metrics(
    streams: tuple[Path, dict[str, Any]],
) -> None:
    folder = streams[0]
    start = min((folder / "runs" / "whole" / "checkpoints").glob("step-*.ckpt"))
    command = [*STREAMS, f"--ckpt_path={start}", "--trainer.max_epochs=5", "--save.every_n_steps=1000"]
    assert go_on(folder, command, "further", "step", 3) == -signal.SIGKILL  # before its first save
    assert go_on(folder, command, "further") == 0, said(folder)
    rows = [
        json.loads(line) for line in (folder / "runs" / "further" / "metrics.jsonl").read_text().splitlines()
    ]
    trained = [row["step"] for row in rows if "train/loss" in row]
    assert len(trained) == len(set(trained)) > 5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", b"a: [", "config.yaml must hold the settings of the run; it is damaged"),
        ("config.yaml", b"", "config.yaml must hold the settings of the run; it is damaged"),
        ("checkpoints/best.ckpt", b"x", "best.ckpt is damaged: its SHA-256 is not in best.ckpt.sha256"),
        (
            "checkpoints/best.ckpt.sha256",
            b"\xff\xfe",
            "best.ckpt is damaged: its SHA-256 is not in best.ckpt.sha256",
        ),
    ],
)
def test_damage_beside_the_saves_is_named(
    name: str, content: bytes, message: str, streams: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(streams[0] / "runs" / "whole", tmp_path / "runs" / "whole")
    (tmp_path / "runs" / "whole" / "results.json").unlink()
    (tmp_path / "runs" / "whole" / "sums.sealed").unlink()  # as in a run from before there was one
    (tmp_path / "runs" / "whole" / name).write_bytes(content)
    assert go_on(tmp_path, STREAMS, "whole") == 2
    assert message in said(tmp_path).splitlines()[-1]


TABLE = [
    *("fit", "-c", "forecasting_csv", "--data.path=table.csv", "--data.look_back=16", "--data.horizon=4"),
    *("--data.batch_size=16", "--model.patch=8", "--model.config.hidden_dim=8", "--model.config.rank=2"),
    *("--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--save.every_n_steps=2"),
    "--trainer.log_every_n_steps=1",
]


def write_table(folder: Path) -> str:
    rows = [f"{number % 7 + number / 100:.2f},{number % 5}" for number in range(300)]
    text = "\n".join(["a,b", *rows]) + "\n"
    (folder / "table.csv").write_text(text)
    return text


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_goes_on_only_with_all_that_it_was_started_with(tmp_path: Path) -> None:
    text, run = write_table(tmp_path), tmp_path / "runs" / "table"
    assert go_on(tmp_path, TABLE, "table", "step", 6) == -signal.SIGKILL, said(tmp_path)
    (save, *_) = sorted((run / "checkpoints").glob("step-*.ckpt"), reverse=True)
    lines = (run / "metrics.jsonl").read_bytes()
    held = torch.load(save, weights_only=True)
    length = held["progress"]["metrics"]
    assert 100 < length < len(lines)
    assert set(held["fingerprint"]) == {"rows", "columns", "time", "values"}
    long, table = f"{length} bytes of them; ", tmp_path / "table.csv"
    for file, content, message in (
        (table, text.replace("\n6.20,", "\n6.21,"), "since runs/table was begun; what differs: values. Put"),
        (table, text + "1.00,1\n", "what differs: rows, values. Put the data back, or start anew"),
        (run / "metrics.jsonl", lines[: length - 1], "are not as they were written: metrics.jsonl. Put back"),
        (run / "metrics.jsonl", None, f"{long}it is missing or empty. Put the file back, or start anew"),
        (run / "config.yaml", None, "are not as they were written: config.yaml. Put back"),
        (run / "run.json", None, "runs/table has no run.json that can be read. Put it back, or choose"),
    ):
        before = file.read_bytes()
        file.unlink() if content is None else file.write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
        left = contents(run)
        assert go_on(tmp_path, TABLE, "table") == 2, file
        assert message in said(tmp_path).splitlines()[-1]
        assert contents(run) == left
        file.write_bytes(before)
    (tmp_path / "table.csv").write_text(text)  # at another time
    assert go_on(tmp_path, TABLE, "table") == 0, said(tmp_path)
    assert processes.run(tmp_path, [*TABLE, "--run.name=whole"]) == 0
    whole, found = (processes.left(tmp_path / "runs" / name) for name in ("whole", "table"))
    assert processes.differences(whole, found) == []


def test_a_save_itself_knows_its_data(tmp_path: Path) -> None:
    """Also where another `run.json` was put beside it, and in a test that was interrupted."""
    text, command = write_table(tmp_path), [*TABLE[1:], "--run.name=table", "--resume"]
    online = ["fit", "-c", "online_csv", "--data.path=table.csv", "--data.warm_up=0", "--data.validation=0"]
    online += ["--data.chunk=50", *TABLE[8:11], "--run.name=table", "--resume", "--save.every_minutes=1e-5"]
    for words, place in ((["fit", *command], "step"), (online, "stream")):
        assert processes.run(tmp_path, words, place, 4) == -signal.SIGKILL, said(tmp_path)
        facts = json.loads((tmp_path / "runs" / "table" / "run.json").read_text())
        del facts["data"]
        (tmp_path / "runs" / "table" / "run.json").write_text(json.dumps(facts))
        (tmp_path / "runs" / "table" / "sums.sealed").unlink()  # with it, the other run.json is refused
        (tmp_path / "table.csv").write_text(text.replace("\n6.20,", "\n6.21,"))
        assert processes.run(tmp_path, words) == 2
        assert "what differs: values" in said(tmp_path).splitlines()[-1]
        (tmp_path / "table.csv").write_text(text)
        assert processes.run(tmp_path, words) == 0, said(tmp_path)
        shutil.rmtree(tmp_path / "runs")
