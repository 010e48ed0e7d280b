"""The store against a plain dictionary, with everything evicted all the time, killed, damaged and fought
over."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from dream import DREAM, DREAMState
from dream.errors import CheckpointError, ConfigError, StateError
from lightning_modules import StateStore
from lightning_modules.store.records import layout_of, pack, unpack

LAYER = DREAM(2, 4)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    # thousands of small files need not outlive a power failure
    monkeypatch.setattr(os, "fsync", lambda _: None)


def some(rows: int) -> DREAMState:
    state = LAYER.init_state(rows).map(torch.rand_like)
    state.U = torch.randn_like(state.U)
    return state


def same(a: DREAMState, b: DREAMState) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class TestRecords:
    def test_tensors_of_many_streams_are_those_of_each(self, tmp_path: Path) -> None:
        values = {"a": torch.randn(3, 2), "b": torch.arange(3)}
        with StateStore(tmp_path, shard_size=2) as store:
            store.put_tensors(["x", 7, "y"], values)
            for place, key in enumerate(["x", 7, "y"]):
                assert {name: value.tolist() for name, value in store[key].items()} == {
                    name: value[place].tolist() for name, value in values.items()
                }
            with pytest.raises(StateError, match="`b` must have a row for each of 2 keys"):
                store.put_tensors(["x", "y"], {"a": torch.zeros(2), "b": torch.zeros(3)})

    @pytest.mark.parametrize("rows", [1, 3])
    def test_any_tensor_comes_back(self, rows: int) -> None:
        tensors = {
            "half": torch.randn(rows, 3).bfloat16(),
            "flags": torch.rand(rows, 2, 2) > 0.5,
            "none": torch.zeros(rows, 0, 4),
            "count": torch.arange(rows),
            "view": torch.randn(5, rows).T.double(),
        }
        back = unpack(pack(tensors), layout_of(tensors))
        assert list(back) == list(tensors)
        for name, value in tensors.items():
            assert back[name].dtype == value.dtype
            assert torch.equal(back[name], value)


class TestAgainstADictionary:
    @pytest.mark.parametrize("memory", [1, 20_000, 1 << 20])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_random_operations(self, tmp_path: Path, memory: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        store, plain = StateStore(tmp_path, shard_size=5, memory=memory), {}
        evicted = 0
        for step in range(60):
            names = [
                int(key) if key % 2 else f"sensor {key}"
                for key in draw.choice(80, draw.integers(1, 12), replace=False)
            ]
            action = draw.choice(["put", "put", "get", "delete", "one", "other", "reopen"])
            if action == "other":  # tensors of another kind for a while
                store[names[0]] = {"a": torch.tensor(step)}
                assert store[names[0]]["a"] == step
                assert len(store) == len(plain | {names[0]: None})
                plain[names[0]] = some(1)
                store.put(names[:1], plain[names[0]])
            if action == "put":
                state = some(len(names))
                store.put(names, state)
                plain |= {name: state[row].clone() for row, name in enumerate(names)}
            elif action == "get":
                state = store.get(names, LAYER.init_state)
                expected = [plain.get(name, LAYER.init_state(1)) for name in names]
                assert same(state, DREAMState.cat(expected))
            elif action == "delete":
                for name in names:
                    if name in plain:
                        del store[name], plain[name]
                    else:
                        with pytest.raises(KeyError):
                            del store[name]
            elif action == "one" and names[0] in plain:
                assert same(DREAMState(**{k: v[None] for k, v in store[names[0]].items()}), plain[names[0]])
            elif action == "reopen":
                store.flush()
                store.close()
                store = StateStore(tmp_path, shard_size=5, memory=memory)
            assert (len(store), set(store)) == (len(plain), set(plain)), step
            assert all((name in store) == (name in plain) for name in names)
            assert store.held_bytes == sum(shard.size for shard in store.held.values())
            assert store.held_bytes <= memory or len(store.held) == 1
            assert all(len(shard) <= 5 for shard in store.held.values())
            evicted += len(store.counts) - len(store.held)
        assert memory == 1 << 20 or evicted > 100
        store.close()

    def test_a_number_is_not_its_text(self, tmp_path: Path) -> None:
        with StateStore(tmp_path) as store:
            store[1], store["1"] = {"a": torch.tensor(1.0)}, {"b": torch.tensor([2, 3])}
        with StateStore(tmp_path) as store:
            assert store[1]["a"].item() == 1
            assert store["1"]["b"].tolist() == [2, 3]

    def test_tensors_that_numpy_does_not_know(self, tmp_path: Path) -> None:
        state = some(2).map(lambda part: part.bfloat16())
        with StateStore(tmp_path) as store:
            store.put(["a", "b"], state)
            store["c"] = {"x": torch.ones(3).to(torch.float8_e4m3fn)}
        with StateStore(tmp_path) as store:
            back = store.get(
                ["a", "b"], lambda rows: LAYER.init_state(rows).map(lambda part: part.bfloat16())
            )
            assert same(back, state)
            assert store["c"]["x"].float().tolist() == [1, 1, 1]

    def test_states_come_on_the_device_and_in_the_order_asked_for(self, tmp_path: Path) -> None:
        state = some(3)
        with StateStore(tmp_path, shard_size=1) as store:
            store.put(["a", "b", "c"], state)
            assert same(store.get(["c", "a"], LAYER.init_state), state[[2, 0]])
            state.h.zero_()
            assert store.get(["a"], LAYER.init_state).h.any()  # what was put is a copy


class TestFootprint:
    def test_memory_is_bounded_while_many_keys_go_by(self, tmp_path: Path) -> None:
        size, memory = 250, 600_000
        most = 0
        with StateStore(tmp_path, shard_size=size, memory=memory) as store:
            for start in range(0, 12_000, 4000):
                store.put(range(start, start + 4000), some(4000))
                most = max(most, store.held_bytes)
                content = sum(
                    table.content.nbytes for shard in store.held.values() for table in shard.tables.values()
                )
                assert content < store.held_bytes
            assert len(store) == 12_000
        assert most <= memory
        whole = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
        assert whole > 4 * memory
        counts = [len(keys_in(path)) for path in tmp_path.glob("*.safetensors")]
        assert max(counts) <= size
        assert sum(counts) == 12_000


def keys_in(path: Path) -> list[Any]:
    """The keys in a shard's file, by another reader."""
    with safe_open(path, framework="pt") as file:
        keys = json.loads(file.metadata()["keys"])
        assert all(len(file.get_tensor(f"{k}.h")) == len(part) for k, part in enumerate(keys))
    return [key for part in keys for key in part]


def fill(folder: Path, steps: int) -> StateStore:
    """All states hold a tenth of the number of the step; flushed after step 3."""
    store = StateStore(folder, shard_size=7, memory=3000)
    for step in range(1, steps + 1):
        store.put(
            range(100), LAYER.init_state(100).map(lambda value, step=step: torch.full_like(value, step / 10))
        )
        if step == 3:
            store.flush()
    return store


class TestCrash:
    @pytest.mark.parametrize("steps", [1, 3, 5])
    def test_what_was_not_flushed_is_gone(self, tmp_path: Path, steps: int) -> None:
        fill(tmp_path, steps).close()
        self.check(tmp_path, 3 if steps >= 3 else None)

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_the_last_flush_is_whole_after_a_kill(self, tmp_path: Path) -> None:
        child = os.fork()
        if child == 0:
            fill(tmp_path, 5)
            os.kill(os.getpid(), signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        self.check(tmp_path, 3)

    def check(self, folder: Path, step: int | None) -> None:
        with StateStore(folder) as store:
            assert len(store) == (100 if step else 0)
            if step:
                assert all((part == step / 10).all() for part in store.get(range(100), LAYER.init_state))
            left = {path.name for path in folder.glob("*.safetensors")}
            assert left == {name for name in store.files.values() if name}

    def test_a_closed_store_leaves_the_next_one_alone(self, tmp_path: Path) -> None:
        stale = fill(tmp_path, 3)
        stale.close()
        with StateStore(tmp_path) as store:
            store.put(range(100), some(100))
            store.flush()
            for use in (
                lambda: stale["a"],
                lambda: stale.__setitem__("a", {"x": torch.ones(1)}),
                lambda: stale.__delitem__(1),
                lambda: 1 in stale,
                lambda: len(stale),
                lambda: list(stale),
                lambda: stale.get([1], LAYER.init_state),
                lambda: stale.put([1], some(1)),
                stale.flush,
            ):
                with pytest.raises(StateError, match="is closed; open it again"):
                    use()
            state = store.get(range(100), LAYER.init_state)
        with StateStore(tmp_path) as store:
            assert same(store.get(range(100), LAYER.init_state), state)

    def test_closing_in_the_block_is_the_end_of_it(self, tmp_path: Path) -> None:
        with StateStore(tmp_path) as store:
            store["a"] = {"x": torch.tensor(1)}
            store.flush()
            store["a"] = {"x": torch.tensor(2)}
            store.close()
        with StateStore(tmp_path) as store:
            assert store["a"]["x"] == 1

    def test_an_error_in_the_block_leaves_the_last_flush(self, tmp_path: Path) -> None:
        with StateStore(tmp_path) as store:
            store["a"] = {"x": torch.tensor(1)}
        with contextlib.suppress(ZeroDivisionError), StateStore(tmp_path) as store:
            store["a"] = {"x": torch.tensor(2)}
            raise ZeroDivisionError
        with StateStore(tmp_path) as store:
            assert store["a"]["x"] == 1


class TestRefusals:
    def test_a_damaged_shard_is_named(self, tmp_path: Path) -> None:
        with StateStore(tmp_path, shard_size=10) as store:
            store.put(range(40), some(40))
        path = min(tmp_path.glob("*.safetensors"))
        content = path.read_bytes()
        for damaged in (content[:-9], content[:-1] + bytes([content[-1] ^ 1])):
            path.write_bytes(damaged)
            with (
                pytest.raises(CheckpointError, match=rf"{path.name}.* is damaged"),
                StateStore(tmp_path) as store,
            ):
                list(store)
        index = tmp_path / "index.sealed"
        content = index.read_bytes()
        index.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        with pytest.raises(CheckpointError, match=r"index\.sealed is damaged"):
            StateStore(tmp_path)

    @pytest.mark.parametrize("lost", ["index.sealed", "*.safetensors"])
    def test_nothing_is_deleted_where_a_part_is_lost(self, tmp_path: Path, lost: str) -> None:
        with StateStore(tmp_path, shard_size=10) as store:
            store.put(range(40), some(40))
        min(tmp_path.glob(lost)).unlink()
        (tmp_path / "0.9.safetensors").write_bytes(b"of a later flush")
        left = sorted(path.name for path in tmp_path.iterdir())
        wanted = (
            r"not the index\.sealed that names"
            if lost == "index.sealed"
            else r"index\.sealed names .* is not there"
        )
        for _ in range(2):
            with pytest.raises(CheckpointError, match=wanted + r".*Put back a copy .* Nothing was changed"):
                StateStore(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == left

    def test_a_store_that_was_never_flushed_is_one(self, tmp_path: Path) -> None:
        (tmp_path / ".index.sealed.7.tmp").write_text("torn")
        fill(tmp_path, 1).close()
        assert list(tmp_path.glob("*.safetensors"))
        (tmp_path / ".notes.tmp").write_text("mine")
        with StateStore(tmp_path) as store:
            assert len(store) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.tmp", "index.sealed", "lock"]

    def test_another_process_is_refused(self, tmp_path: Path) -> None:
        with StateStore(tmp_path), pytest.raises(StateError, match="one process at a time"):
            StateStore(tmp_path)
        StateStore(tmp_path).close()

    def test_a_folder_of_other_files_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(b"mine")
        with pytest.raises(CheckpointError, match=r"must be empty .* holds model\.safetensors"):
            StateStore(tmp_path)
        assert (tmp_path / "model.safetensors").read_bytes() == b"mine"

    def test_a_full_disk_keeps_the_last_flush(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        state = some(40)
        with StateStore(tmp_path, shard_size=10) as store:
            store.put(range(40), state)
        store = StateStore(tmp_path)
        store.put(range(40), some(40))

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("dream.sealed.write_atomic", full)
            with pytest.raises(CheckpointError, match="No space left on device"):
                store.flush()
        store.close()
        with StateStore(tmp_path) as store:
            assert same(store.get(range(40), LAYER.init_state), state)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (
                lambda store: store.put(["a"], some(2)),
                "`keys` must name a stream for each of 2 samples; got 1",
            ),
            (
                lambda store: store.put(["a", "b", "a"], some(3)),
                "`keys` must name each stream once; 'a' comes twice",
            ),
            (
                lambda store: store.get([True], LAYER.init_state),
                "`key` must be a text or a whole number; got True",
            ),
            (lambda store: True in store, "`key` must be a text or a whole number; got True"),
            (lambda store: 1.0 in store, "`key` must be a text or a whole number; got 1.0"),
            (
                lambda store: store.put([["a"]], some(1)),
                r"`key` must be a text or a whole number; got \['a'\]",
            ),
            (lambda store: store["\ud800"], "`key` must be a text that UTF-8 can hold.*surrogates"),
            (
                lambda store: store.put([10**5000], some(1)),
                r"`key` must be .*at most 4,300 digits\).*got one that cannot",
            ),
            (
                lambda store: store.put("a", some(1)),
                "`keys` must be a list of keys, for one stream too; got 'a'",
            ),
            (
                lambda store: store.get(iter(["a"]), LAYER.init_state),
                "`keys` must be a list of keys.*list_iterator",
            ),
            (lambda store: store.get([], LAYER.init_state), "`keys` must name at least one stream; got none"),
            (
                lambda store: store.__setitem__("a", {}),
                "must be a dictionary of tensors, at least one; got {}",
            ),
            (
                lambda store: store.__setitem__("a", torch.ones(1)),
                r"must be a dictionary of tensors.*got tensor\(",
            ),
            (lambda store: store.__setitem__("a", {"x": 3}), "must be tensors; `x` is of type int"),
            (
                lambda store: store.__setitem__("a", {"\ud800": torch.ones(1)}),
                "names of tensors must be printable texts",
            ),
            (lambda store: store.__setitem__("a", {"x": torch.ones(1).cdouble()}), "`x` is torch.complex128"),
            (
                lambda store: store.__setitem__("a", {"x": torch.ones(1).to_sparse()}),
                "`x` is .*torch.sparse_coo",
            ),
            (lambda store: store.__setitem__("a", {"x": torch.ones(1, device="meta")}), "`x` is .* on meta"),
            (
                lambda store: store.get(["known"], DREAM(2, 5).init_state),
                r"'known' carries h \(4,\).* makes h \(5,\)",
            ),
        ],
    )
    def test_what_does_not_fit(self, tmp_path: Path, call: Any, message: str) -> None:
        with StateStore(tmp_path) as store:
            store.put(["known"], some(1))
            with pytest.raises(StateError, match=message):
                call(store)
        with pytest.raises(StateError, match="is closed"):
            store["known"]

    @pytest.mark.parametrize("settings", [{"shard_size": 0}, {"memory": 1.5}, {"memory": True}])
    def test_settings(self, tmp_path: Path, settings: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match="must be a whole number of at least 1"):
            StateStore(tmp_path, **settings)
