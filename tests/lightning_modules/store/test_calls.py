"""A store that several threads use, that Ctrl-C interrupts, that is forked, and whose files another writer
sealed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dream import DREAM, DREAMState
from dream.errors import CheckpointError, StateError
from dream.sealed import note, read_note, read_sealed, write_sealed
from lightning_modules import StateStore
from lightning_modules.store.store import KIND
from tests.lightning_modules.interrupts import interrupted

LAYER = DREAM(2, 4)
STATE = LAYER.init_state(40).map(torch.rand_like)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    # thousands of small files need not outlive a power failure
    monkeypatch.setattr(os, "fsync", lambda _: None)


def some(number: float) -> dict[str, Tensor]:
    return {"x": torch.full((3,), float(number))}


def content(store: StateStore) -> dict[Any, Any]:
    """All that a store holds; its own numbers must agree with it."""
    found = {}
    for key in store:
        assert key not in found
        found[key] = {name: value.tolist() for name, value in store[key].items()}
    assert len(found) == len(store)
    assert store.held_bytes == sum(shard.size for shard in store.held.values())
    return found


OPERATIONS: dict[str, Callable[[StateStore], Any]] = {
    "one": lambda store: store.__setitem__(3, some(-1)),
    "new": lambda store: store.__setitem__("new", some(-1)),
    "many": lambda store: store.put(range(20, 60), STATE),
    "other tensors": lambda store: store.__setitem__(4, {"y": torch.zeros(2, dtype=torch.int64)}),
    "remove": lambda store: store.__delitem__(5),
    "read": lambda store: (store[29], 28 in store, list(store)),
    "flush": lambda store: store.flush(),
}


@pytest.mark.parametrize("memory", [1, 1 << 20], ids=["one shard in memory", "all in memory"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_ctrl_c_leaves_the_store_before_or_after_a_call(tmp_path: Path, name: str, memory: int) -> None:
    operation, folder = OPERATIONS[name], tmp_path / "store"
    with StateStore(tmp_path / "first", shard_size=5, memory=memory) as store:
        for key in range(30):
            store[key] = some(key)

    def opened() -> StateStore:
        """Some streams were changed since the last flush."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "first", folder)
        store = StateStore(folder, memory=memory)
        for key in range(6):
            store[key] = some(key + 0.25)
        return store

    store = opened()
    before = content(store)
    store.close()
    store = opened()
    size = interrupted(lambda: operation(store), float("inf"))
    after = content(store)
    store.close()
    assert size is not None
    for at in (*range(1, size, max(size // 7, 1)), *range(size - 4, size)):
        store = opened()
        interrupted(lambda store=store: operation(store), at)
        found = content(store)
        assert found in (before, after), at
        store.flush()
        left = {path.name for path in folder.iterdir()}
        assert left == {"index.sealed", "lock"} | {file for file in store.files.values() if file}
        store.close()
        with StateStore(folder, memory=memory) as again:
            assert content(again) == found


def test_what_was_put_is_never_what_memory_held_before(tmp_path: Path) -> None:
    with StateStore(tmp_path) as store:
        store["a"] = some(1)
        size = interrupted(lambda: store.__setitem__("b", some(2)), float("inf"))
        assert size is not None
        for at in range(1, size, 7):
            interrupted(lambda at=at: store.__setitem__(at, some(at)), at)
    with StateStore(tmp_path) as store:
        found = {key: value for key, value in content(store).items() if isinstance(key, int)}
    assert len(found) > 30
    assert found == {key: {"x": [key] * 3} for key in found}


@pytest.mark.parametrize("memory", [1, 1 << 20])
def test_threads(tmp_path: Path, memory: int) -> None:
    errors: list[BaseException] = []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def work(number: int) -> None:
        try:
            keys = [f"{number} {k}" for k in range(10)]
            for step in range(4):
                state = STATE[list(range(10))].map(lambda value, by=1 + number + step: value / by)
                store.put(keys, state)
                found = store.get(keys, LAYER.init_state)
                assert all(torch.equal(a, b) for a, b in zip(found, state, strict=True))
                store[f"{number} one"] = some(step)
                assert store[f"{number} one"]["x"][0] == step
                assert keys[0] in store
                if step == 1:
                    store.flush()
                    del store[f"{number} one"]
        except BaseException as error:
            errors.append(error)

    with StateStore(tmp_path, shard_size=5, memory=memory) as store:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)
        assert errors == []
        found = content(store)
    assert len(found) == 44
    with StateStore(tmp_path) as store:
        assert content(store) == found


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_does_not_use_it_and_does_not_release_it(tmp_path: Path) -> None:
    with StateStore(tmp_path) as store:
        store["a"] = some(1)
        if (child := os.fork()) == 0:
            signal.alarm(20)
            try:
                store["a"] = some(2)
            except StateError as error:
                store.close()
                os._exit(0 if "is closed" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        if (child := os.fork()) == 0:
            signal.alarm(20)
            try:
                StateStore(tmp_path)
            except StateError as error:
                os._exit(0 if "one process at a time" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store["a"]["x"].tolist() == [1, 1, 1]


def test_a_full_disk_ends_a_put_and_no_later_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StateStore(tmp_path, shard_size=5, memory=1)
    for key in range(30):
        store[key] = some(key)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dream.sealed.write_atomic", full)
        with pytest.raises(CheckpointError, match="No space left"):
            store.put(range(30, 60), STATE[list(range(30))])
    found = content(store)
    assert {key: value for key, value in found.items() if key < 30} == {k: {"x": [k] * 3} for k in range(30)}
    store.flush()
    store.close()
    with StateStore(tmp_path) as store:
        assert content(store) == found


def filled(folder: Path) -> Path:
    """A store with one shard; its file."""
    with StateStore(folder) as store:
        store.put(range(4), STATE[[0, 1, 2, 3]])
    (path,) = folder.glob("*.safetensors")
    return path


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_state_that_no_layer_reaches_is_named(tmp_path: Path, value: float) -> None:
    path = filled(tmp_path)
    header, tensors = read_sealed(path, "test", KIND)
    tensors["0.error_var"][2, 1] = value
    write_sealed(path, header, tensors)
    with StateStore(tmp_path) as store:
        assert torch.equal(store.get([0, 1, 3], LAYER.init_state).h, STATE.h[[0, 1, 3]])
        with pytest.raises(
            CheckpointError, match=r"stream 2 in .* is damaged: `state\.error_var` must be from 0"
        ):
            store.get([1, 2], LAYER.init_state)
        bad = DREAMState(**{name: part[[0]].clone() for name, part in STATE.items()})
        bad.error_var[0, 0] = value
        with pytest.raises(StateError, match=r"`state\.error_var` must be from 0"):
            store.put([9], bad)
        assert 9 not in store


@pytest.mark.parametrize(
    "change",
    [
        lambda header, tensors: header.update(keys="["),
        lambda header, tensors: header.update(keys=json.dumps([[0, 1, 2, [3]]])),
        lambda header, tensors: header.update(keys=json.dumps([[0, 1, 2, 2]])),
        lambda header, tensors: header.update(keys=json.dumps([[0, 1, 2]])),
        lambda header, tensors: header.update(keys=json.dumps([[0, 1, 2, True]])),
        lambda header, tensors: header.update(keys=json.dumps([[0, 1, 2, 3], [4]])),
        lambda header, tensors: header.update(fields=json.dumps([["none"]])),
        lambda header, tensors: header.update(fields=json.dumps([[]])),
        lambda header, tensors: header.pop("fields"),
        lambda header, tensors: tensors.update({"0.h": torch.zeros(3, 4)}),
        lambda header, tensors: tensors.update({"0.h": torch.tensor(1.0)}),
    ],
)
def test_a_shard_that_no_flush_wrote(tmp_path: Path, change: Callable[..., Any]) -> None:
    path = filled(tmp_path)
    header, tensors = read_sealed(path, "test", KIND)
    change(header, tensors)
    write_sealed(path, header, tensors)
    with (
        StateStore(tmp_path) as store,
        pytest.raises(CheckpointError, match=rf"{path.name} is inconsistent: "),
    ):
        store.get([1], LAYER.init_state)


def test_a_store_of_the_first_edition_of_the_cell_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = filled(tmp_path)
    header, tensors = read_sealed(path, "test", KIND)
    write_sealed(path, header | {"version": "1"}, tensors)
    stated = r"dream-store 2; .* holds dream-store 1, of the first edition of the cell"
    with StateStore(tmp_path) as store, pytest.raises(CheckpointError, match=stated):
        store.get([1], LAYER.init_state)
    index = tmp_path / "index.sealed"
    first = {name: value for name, value in read_note(index).items() if name not in KIND}
    index.write_bytes(note(first))
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=stated):
        StateStore(tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    index.write_bytes(note(first | {"version": "3"}))
    with pytest.raises(CheckpointError, match=r"holds dream-store 3\. Nothing"):
        StateStore(tmp_path)


@pytest.mark.parametrize(
    "entries",
    [
        {"files": {"": "../../elsewhere.1.safetensors"}},
        {"files": {"": "/etc/passwd"}},
        {"files": {"0": None}, "counts": {"0": 0}},
        {"files": {"": None, "0": None}, "counts": {"": 0, "0": 0}},
        {"files": {"": None}, "counts": {"": -1}},
        {"files": {"": None}, "counts": {"1": 0}},
        {"files": [], "counts": []},
        {"shard_size": 0},
        {"shard_size": 2.5},
        {"written": "7"},
    ],
)
def test_an_index_that_no_flush_wrote(tmp_path: Path, entries: dict[str, Any]) -> None:
    path = filled(tmp_path)
    index = tmp_path / "index.sealed"
    for content in (read_note(index) | entries, [entries], None):
        index.write_bytes(note(content))
        with pytest.raises(CheckpointError, match=r"index\.sealed is damaged"):
            StateStore(tmp_path)
    assert path.exists()
