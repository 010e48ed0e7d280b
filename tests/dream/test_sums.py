"""The list of sums: what differs is named, a run is its user's own, and a kill alters nothing honest."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dream import sums
from dream.errors import CheckpointError
from dream.keys import user_key
from dream.sealed import note, read_note


def a_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    sums.begin(folder)
    sums.write_atomic(folder, "run.json", "{}")
    sums.write_atomic(folder, "own.py", "x = 1\n")
    sums.write_atomic(folder, "config.yaml", "a: 1\n")
    sums.write_atomic(folder, "figures/a.png", b"picture")
    sums.write_atomic(folder, "results.json", '{"results": 1}')
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return a_run(tmp_path / "run")


@pytest.fixture
def other_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which this process is that of another user."""
    return lambda: monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))


def test_a_run_is_as_it_was_written_and_ones_own_wherever_it_is(run: Path) -> None:
    assert sums.differing(run) == []
    assert sums.signed(run)
    moved = run.rename(run.with_name("moved"))
    shutil.copytree(moved, run)
    assert sums.signed(moved)
    assert sums.signed(run)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("results.json", lambda path: path.write_text('{"results": 2}')),
        ("results.json", lambda path: path.unlink()),
        ("config.yaml", lambda path: path.write_text("a: 2\n")),
        ("own.py", lambda path: path.write_text("x = 2\n")),
        ("own.py", lambda path: path.write_text("")),
        ("figures/a.png", lambda path: path.write_bytes(b"pictures")),
        ("run.json", lambda path: path.unlink()),
        ("results.json", lambda path: (path.rename(path.with_suffix(".x")), path.symlink_to("results.x"))),
        ("added.csv", lambda path: path.write_text("1")),
        ("figures/b.png", lambda path: path.write_text("1")),
        ("best.yaml", lambda path: path.write_text("a: 2\n")),
    ],
)
def test_each_file_that_differs_is_named(run: Path, name: str, changes: Callable[[Path], object]) -> None:
    changes(run / name)
    assert sums.differing(run) == [name]
    assert sums.signed(run) == (name.startswith(("results", "figures", "added")))
    assert name in sums.altered(run) if sums.signed(run) else True
    if (run / name).exists():
        with pytest.raises(CheckpointError, match=rf"not as they were written: {name}\. Put back"):
            sums.altered(run, [name])
    else:  # what is not there is not taken for anything
        assert name in sums.altered(run, [name])


def test_what_is_written_later_launders_nothing(run: Path) -> None:
    (run / "config.yaml").write_text("a: 2\n")
    (run / "table.csv").write_text("before")
    with sums.written_by_task(run):
        (run / "origins.csv").write_text("1")
    sums.write_atomic(run, "report.html", "page")
    sums.grow(run, "metrics.jsonl", (0, hashlib.sha256().hexdigest()))
    assert sums.differing(run) == ["config.yaml", "table.csv"]
    assert not sums.signed(run)


def test_a_run_of_another_user_is_never_signed(run: Path, other_user: Callable[[], None]) -> None:
    other_user()
    assert sums.differing(run) == []
    assert not sums.signed(run)
    sums.write_atomic(run, "report.html", "page")
    assert not sums.signed(run)
    assert sums.differing(run) == []


def test_a_list_from_elsewhere_makes_nothing_ones_own(tmp_path: Path, run: Path) -> None:
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "config.yaml").write_text("evil: true")
    shutil.copy(run / sums.SUMS, evil)
    assert not sums.signed(evil)
    shutil.copytree(run, evil, dirs_exist_ok=True)
    assert sums.signed(evil)
    begun = tmp_path / "begun"  # a list of hardly anything, as of a run that was stopped at once
    begun.mkdir()
    sums.begin(begun)
    shutil.copy(begun / sums.SUMS, evil)
    assert not sums.signed(evil)
    (evil / "config.yaml").unlink()  # then there is nothing that would be run or set
    assert sums.signed(evil)
    shutil.copy(run / sums.SUMS, evil)
    assert not sums.signed(evil)
    (evil / sums.SUMS).unlink()
    assert not sums.signed(evil)
    assert sums.differing(evil) == []
    sums.begin(evil)  # not in a folder with files
    sums.write_atomic(evil, "config.yaml", "a: 1")
    assert sums.read(evil) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        note([]),
        note({"format": 2}),
        note({"format": 1, "files": {"../x": []}, "growing": [], "by_tasks": [], "writing": False}),
        note({"format": 1, "files": {"a": [[1]]}, "growing": [], "by_tasks": [], "writing": False}),
        note({"format": 1, "files": {}, "growing": 0, "by_tasks": [], "writing": False, "signature": None}),
        note({"format": 1, "files": {}, "growing": [], "by_tasks": [], "writing": False, "signature": 3}),
    ],
)
def test_a_damaged_list_is_refused_by_a_sentence(run: Path, content: bytes) -> None:
    (run / sums.SUMS).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"sums\.sealed must be the list of sums that dream wrote"):
        sums.read(run)
    assert sums.differing(run) == [sums.SUMS]
    assert not sums.signed(run)
    with pytest.raises(CheckpointError, match=r"delete that file"):
        sums.write_atomic(run, "results.json", "{}")
    assert (run / "results.json").read_text() == '{"results": 1}'


def test_a_list_that_is_a_link_or_a_pipe_is_refused(run: Path) -> None:
    elsewhere = (run / sums.SUMS).rename(run.with_name("elsewhere"))
    (run / sums.SUMS).symlink_to(elsewhere)
    assert sums.differing(run) == [sums.SUMS]
    (run / sums.SUMS).unlink()
    os.mkfifo(run / sums.SUMS)
    assert sums.differing(run) == [sums.SUMS]


def test_a_forged_list_has_no_signature(run: Path) -> None:
    content = read_note(run / sums.SUMS)
    new = b"a: 2\n"
    (run / "config.yaml").write_bytes(new)
    content["files"]["config.yaml"] = [[len(new), hashlib.sha256(new).hexdigest()]]
    for signature in (content["signature"], "0" * 64, "", None, "\N{SNOWMAN}"):
        (run / sums.SUMS).write_bytes(note({**content, "signature": signature}))
        assert not sums.signed(run)


def test_what_was_read_is_what_is_checked(run: Path) -> None:
    found = sums.read(run)
    assert found is not None
    assert found.allows("own.py", b"x = 1\n")
    assert not found.allows("own.py", b"x = 2\n")
    assert not found.allows("other.py", b"x = 1\n")


def test_a_growing_file_is_known_by_its_first_bytes(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_bytes(b"one\n")
    sums.grow(run, path.name, (4, hashlib.sha256(b"one\n").hexdigest()))
    path.write_bytes(b"one\ntwo\n")
    assert sums.differing(run) == []
    sums.grow(run, path.name, (4, hashlib.sha256(b"one\n").hexdigest()), whole=True)
    assert sums.differing(run) == [path.name]
    path.write_bytes(b"One\n")
    assert sums.differing(run) == [path.name]


def a_life(folder: Path) -> None:
    """All that is done with the files of a run."""
    folder.mkdir(exist_ok=True)
    sums.begin(folder)
    sums.write_atomic(folder, "run.json", "{}")
    sums.grow(folder, "metrics.jsonl", (0, hashlib.sha256().hexdigest()))
    (folder / "metrics.jsonl").write_bytes(b"line\n")
    sums.grow(folder, "metrics.jsonl", (5, hashlib.sha256(b"line\n").hexdigest()))
    for time in range(2):
        with sums.written_by_task(folder):
            (folder / "own.csv").write_text(f"{time}")
            os.fsync(os.open(folder, os.O_RDONLY))  # a place to be killed at, the file half written
            (folder / "own.csv").write_text(f"{time} {time}")
        sums.write_atomic(folder, "figures/a.png", f"{time}")
    sums.write_atomic(folder, "config.yaml", "a: 1")
    sums.write_atomic(folder, "own/code.py", "x = 1")
    sums.grow(folder, "metrics.jsonl", (5, hashlib.sha256(b"line\n").hexdigest()), whole=True)
    sums.write_atomic(folder, "results.json", "{}")


def lives(folder: Path, limit: int) -> bool:
    """Whether `a_life` came to its end in a process that SIGKILL ends at operation `limit` on files."""
    if (pid := os.fork()) == 0:
        calls = itertools.count(1)

        def counted(before: Callable[..., object]) -> Callable[..., object]:
            def called(*args: object, **kwargs: object) -> object:
                if next(calls) == limit:
                    os.kill(os.getpid(), signal.SIGKILL)
                return before(*args, **kwargs)

            return called

        os.fsync = lambda _: None  # a killed process loses nothing without it
        for name in ("replace", "fsync", "unlink", "mkdir", "open"):
            setattr(os, name, counted(getattr(os, name)))
        code = 1
        try:
            a_life(folder)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def test_a_kill_at_any_operation_alters_nothing(tmp_path: Path) -> None:
    a_life(tmp_path / "whole")  # what is loaded by now is not loaded in each fork
    for limit in itertools.count(1, 3):
        folder = tmp_path / str(limit)
        ended = lives(folder, limit)
        if (folder / sums.SUMS).exists():
            assert sums.differing(folder) == [], limit
            assert sums.signed(folder), limit
        if ended:
            break
        if limit % 15 == 1:  # it goes on later, and is killed again
            lives(folder, 2 * limit + 1)
            assert sums.differing(folder) == [], limit
    assert limit > 80


def test_writers_at_once_lose_no_entry(run: Path) -> None:
    def write(first: int) -> None:
        for number in range(5):
            sums.write_atomic(run, f"{first}-{number}.json", f"{number}")
            sums.write_atomic(run, "results.json", f"{first} {number}")  # the same of all

    threads = [threading.Thread(target=write, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums.differing(run) == []
    assert len(sums.read(run).files) == 5 + 20  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["../x.json", "/x.json", "a/../../x", "", ".", "a//b", "a\0b"])
def test_a_name_stays_below_the_folder(run: Path, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        sums.write_atomic(run, name, "x")


class TestKey:
    def test_it_is_made_for_this_user_alone(self, tmp_path: Path, other_user: Callable[[], None]) -> None:
        other_user()
        key, path = user_key(), tmp_path / "other" / "dream" / "key"
        assert key is not None
        assert path.read_bytes() == key
        assert len(key) == 32
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert [found.name for found in path.parent.iterdir()] == ["key"]

    def test_processes_at_once_make_one(self, tmp_path: Path, other_user: Callable[[], None]) -> None:
        other_user()
        children = []
        for number in range(8):
            if (pid := os.fork()) == 0:
                try:
                    (tmp_path / f"{number}.key").write_bytes(user_key() or b"")
                finally:
                    os._exit(0)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)
        keys = {path.read_bytes() for path in tmp_path.glob("*.key")}
        assert len(keys) == 1
        assert len(keys.pop()) == 32

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda path: path.chmod(0o644), "others have access to it"),
            (lambda path: path.write_bytes(b"short"), "it does not hold 32 bytes"),
            (lambda path: path.write_bytes(bytes(33)), "it has more than 32 bytes"),
            (lambda path: path.parent.chmod(0o777), "others have access to it"),
            (lambda path: (path.rename(path.with_name("k")), path.symlink_to("k")), "it is a link"),
            (lambda path: (path.unlink(), path.parent.rmdir(), path.parent.write_text("")), "exists"),
        ],
    )
    def test_one_that_cannot_be_trusted_signs_nothing(
        self,
        tmp_path: Path,
        other_user: Callable[[], None],
        caplog: pytest.LogCaptureFixture,
        damage: Callable[[Path], object],
        reason: str,
    ) -> None:
        path = tmp_path / "other" / "dream" / "key"
        path.parent.mkdir(parents=True, mode=0o700)
        path.write_bytes(bytes(32))
        path.chmod(0o600)
        damage(path)
        other_user()
        unsigned = a_run(tmp_path / "unsigned")
        assert not sums.signed(unsigned)
        assert sums.differing(unsigned) == []
        (unsigned / "results.json").write_text("{}")
        assert sums.differing(unsigned) == ["results.json"]
        lines = [record.message for record in caplog.records if "not signed" in record.message]
        assert len(lines) == 1
        assert reason in lines[0]
