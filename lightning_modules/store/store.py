"""`StateStore`: the states of millions of streams, on disk, with a bounded part of them in memory.

Shapes: N streams that are read or written together.
"""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout
from torch import Tensor

from dream import DREAMState
from dream.errors import CheckpointError, StateError
from dream.files import write_atomic
from dream.sealed import note, read_note, read_sealed, write_sealed
from lightning_modules.checks import require_int
from lightning_modules.store.keys import Key, bits_of, require_keys
from lightning_modules.store.records import (
    Layout,
    RecordTable,
    StateShard,
    layout_of,
    pack,
    require_tensors,
    unpack,
)

KIND = {"format": "dream-store", "version": "1"}
_SHARD = r"(first|[01]+)\.\d+\.safetensors"
_TORN = rf"\.(index\.sealed|{_SHARD})\.[0-9a-f]+\.tmp"


class StateStore:
    """A mapping from the key of a stream to its tensors; the part that was used last is in memory.

    The streams lie in shards, one safetensors file for at most `shard_size` keys. A shard that outgrows this
    is split in two by the next bit of its keys' hashes (extendible hashing; Fagin, Nievergelt, Pippenger and
    Strong, 1979), so the number of streams need not be known. A shard in memory that has changed is written
    when its room is needed, and by `flush`.

    The files on disk are always those of the last flush, as a whole: after a crash every stream has the state
    that it had then. A `with` block flushes if it ends without an error. One process at a time may use a
    folder.

    Args:
        folder: Folder of the files; created if it does not exist.
        shard_size: Largest number of keys in one file; fixed when the store is created.
        memory: Bytes of shards to hold in memory, at most; one shard is held in any case.

    Raises:
        StateError: another process uses the folder; later, the store was closed, or a key is not one.
        CheckpointError: the folder holds something else, or its files were damaged, altered or lost.

    Example, two pumps read by one layer, each with fast weights of its own:
        >>> import tempfile, torch
        >>> from dream import DREAM
        >>> layer, folder = DREAM(1, 16), tempfile.mkdtemp()
        >>> with StateStore(folder) as store:
        ...     state = store.get(["pump-1", "pump-2"], layer.init_state)
        ...     _, state = layer(torch.randn(2, 5, 1), state)
        ...     store.put(["pump-1", "pump-2"], state)
        >>> with StateStore(folder) as store:
        ...     again = store.get(["pump-2"], layer.init_state)
        >>> torch.equal(again.U, state[1].U)
        True

    And a forecaster for each of them, with a head of its own:
        >>> from dream import DREAMConfig
        >>> from lightning_modules.stream import Reading, Shape, StreamLearner, StreamNetwork, Updates
        >>> def learner():
        ...     shape, reading = Shape("forecasting", 1, 1, 1), Reading("differences")
        ...     network = StreamNetwork(shape, reading, DREAMConfig(hidden_dim=8))
        ...     return StreamLearner(network, Updates("least_squares"))
        >>> with StateStore(folder) as store:
        ...     for row in range(3):
        ...         for key in ("pump-3", "pump-4"):
        ...             model = learner()
        ...             if key in store:
        ...                 model.load(store[key])
        ...             steps = model.process(torch.full((1, 1), float(row), dtype=torch.float64))
        ...             store[key] = model.tensors()
        ...     model.load(store["pump-3"])
        >>> model.row
        3
    """

    def __init__(
        self, folder: str | os.PathLike[str], shard_size: int = 4096, memory: int = 256 << 20
    ) -> None:
        for name, value in (("shard_size", shard_size), ("memory", memory)):
            require_int(name, value)
        self.folder = Path(folder)
        self.shard_size = shard_size
        self.memory = memory
        self.held: OrderedDict[str, StateShard] = OrderedDict()
        """Shards in memory by the bits that their keys' hashes begin with, the one used last at the end."""
        self.held_bytes = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / "lock", timeout=0)
            self._lock.acquire()
        except Timeout:
            raise StateError(
                f"`folder` must be used by one process at a time; another one uses {self.folder}."
            ) from None
        except OSError as error:
            raise CheckpointError(f"`folder` must be writable: {self.folder}; {error.strerror}.") from None
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> None:
        """Open the files of the last flush and remove later ones; a new store starts with an empty flush."""
        path = self.folder / "index.sealed"
        found = {entry.name for entry in self.folder.iterdir()}
        index: dict[str, Any] = {
            "files": {"": None},
            "counts": {"": 0},
            "written": 0,
            "shard_size": self.shard_size,
        }
        if path.exists():
            try:
                index = read_note(path)
            except (OSError, ValueError):
                raise CheckpointError(
                    f"{path} is damaged, or no StateStore wrote it. Put back a copy of the whole folder, or "
                    "name another."
                ) from None
        elif foreign := sorted(name for name in found if name != "lock" and not re.fullmatch(_TORN, name)):
            if re.fullmatch(_SHARD, foreign[0]):
                raise CheckpointError(
                    f"{self.folder} holds parts of a StateStore, such as {foreign[0]}, but not the "
                    "index.sealed that names the valid ones. Put back a copy of the whole folder, or name "
                    "another. Nothing was changed."
                )
            raise CheckpointError(
                f"`folder` must be empty or a StateStore's; {self.folder} holds {foreign[0]}."
            )
        self.shard_size = int(index["shard_size"])
        self.written = int(index["written"])
        """Number of shard files written so far; part of their names."""
        self.files: dict[str, str | None] = index["files"]
        """Current file of each shard by its bits; None for a shard that was never written."""
        self.counts: dict[str, int] = index["counts"]
        """Number of keys of each shard by its bits."""
        self.flushed = {name for name in self.files.values() if name}
        """Files of the last flush."""
        if lost := sorted(self.flushed - found):
            raise CheckpointError(
                f"{path} names {lost[0]}, which is not there. Put back a copy of the whole folder, or name "
                "another. Nothing was changed."
            )
        if not path.exists():
            self._write_index()
        for name in found - self.flushed:
            if re.fullmatch(rf"{_SHARD}|{_TORN}", name):
                (self.folder / name).unlink()

    def _write_index(self) -> None:
        index = {
            "files": self.files,
            "counts": self.counts,
            "written": self.written,
            "shard_size": self.shard_size,
        }
        try:
            write_atomic(self.folder / "index.sealed", note(index))
        except OSError as error:
            raise CheckpointError(f"`folder` must be writable: {self.folder}; {error.strerror}.") from None

    def _require_open(self) -> None:
        """Refuse to use a closed store: its folder may be another process's by now."""
        if not self._lock.is_locked:
            raise StateError(f"the store in {self.folder} is closed; open it again.")

    # one stream

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        """The tensors of a stream.

        Raises:
            KeyError: it is not known.
        """
        self._require_open()
        shard = self._shard(bits_of(key))
        if (layout := shard.layout(key)) is None:
            raise KeyError(key)
        return {name: value[0] for name, value in unpack(shard.tables[layout].of([key]), layout).items()}

    def __setitem__(self, key: Key, tensors: Mapping[str, Tensor]) -> None:
        """Keep these tensors of a stream, at least one, in place of those there were.

        Raises:
            StateError: a tensor that a file cannot hold.
        """
        require_tensors(tensors)
        self._put([key], {name: value.unsqueeze(0) for name, value in tensors.items()})

    def __delitem__(self, key: Key) -> None:
        """Remove a stream.

        Raises:
            KeyError: it is not known.
        """
        self._require_open()
        bits = self._place(bits_of(key))
        shard = self._load(bits)
        before = shard.size
        shard.drop(key)
        self.counts[bits] -= 1
        self.held_bytes += shard.size - before

    def __contains__(self, key: object) -> bool:
        """Whether a stream is known.

        Raises:
            StateError: `key` is not one.
        """
        self._require_open()
        return self._shard(bits_of(key)).layout(key) is not None  # type: ignore[arg-type] # `bits_of` takes keys only

    def __len__(self) -> int:
        self._require_open()
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Key]:
        """All keys, shard by shard; none may be added or removed meanwhile."""
        for bits in list(self.counts):
            self._require_open()
            yield from self._load(bits).keys

    # many streams

    def get(self, keys: Sequence[Key], fresh: Callable[[int], DREAMState]) -> DREAMState:
        """The state of these streams, (N, ...) in this order, on the device of `fresh`.

        Args:
            keys: Keys of the streams, each once.
            fresh: Makes the state of streams that are not known yet, such as `DREAM.init_state`.

        Raises:
            StateError: a stream has other tensors than `fresh` makes, there are no keys, or a key comes
                twice.
        """
        self._require_open()
        require_keys(keys)
        state = fresh(len(keys))
        tensors = dict(state.items())
        layout, content = layout_of(tensors), pack(tensors)
        for bits, places in self._by_shard(keys).items():
            shard = self._load(bits)
            named = {keys[place]: place for place in places}
            for found, table in shard.tables.items():
                known = [key for key in named if key in table.places]
                if known and found != layout:
                    raise StateError(
                        f"`fresh` must make what the streams carry; stream {known[0]!r} carries "
                        f"{_listed(found)} and `fresh` makes {_listed(layout)}. Was the store filled by "
                        "another layer?"
                    )
                if known:
                    content[[named[key] for key in known]] = table.of(known)
        return DREAMState(**unpack(content, layout)).to(state.h.device)

    def put(self, keys: Sequence[Key], state: DREAMState) -> None:
        """Keep the samples of `state` as the states of these streams.

        Raises:
            StateError: there are not as many keys as samples, a key comes twice, a tensor is not dense, or
                the store was closed.
            CheckpointError: a shard cannot be written.
        """
        require_keys(keys)
        if len(keys) != state.batch_size:
            raise StateError(
                f"`keys` must name a stream for each of {state.batch_size} samples; got {len(keys)}."
            )
        tensors = dict(state.items())
        require_tensors(tensors)
        self._put(keys, tensors)

    def _put(self, keys: Sequence[Key], tensors: Mapping[str, Tensor]) -> None:
        self._require_open()
        layout, content = layout_of(tensors), pack(tensors)
        for bits, places in self._by_shard(keys).items():
            shard = self._load(bits)
            before = shard.size
            shard.put([keys[place] for place in places], layout, content[places])
            self.counts[bits] = len(shard)
            self.held_bytes += shard.size - before
            self._split(bits)
            self._make_room()

    # shards

    def _by_shard(self, keys: Sequence[Key]) -> dict[str, list[int]]:
        """Positions in `keys`, by shard; shards that are in memory come first."""
        found: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            found.setdefault(self._place(bits_of(key)), []).append(place)
        return dict(sorted(found.items(), key=lambda item: item[0] not in self.held))

    def _place(self, bits: str) -> str:
        """The shard of a key whose hash has these bits."""
        return next(bits[:length] for length in range(len(bits) + 1) if bits[:length] in self.counts)

    def _shard(self, bits: str) -> StateShard:
        return self._load(self._place(bits))

    def _load(self, bits: str) -> StateShard:
        """The shard of these bits, from memory or disk; it then counts as the one used last."""
        if bits not in self.held:
            self.held[bits] = self._read(self.files[bits])
            self.held_bytes += self.held[bits].size
        self.held.move_to_end(bits)
        self._make_room()
        return self.held[bits]

    def _make_room(self) -> None:
        """Write the shards that were used least recently and drop them from memory, until the rest fits."""
        while self.held_bytes > self.memory and len(self.held) > 1:
            bits, shard = next(iter(self.held.items()))
            self._write(bits, shard)
            self.held_bytes -= self.held.pop(bits).size

    def _split(self, bits: str) -> None:
        """Split a shard that holds too many keys by the next bit of their hashes, recursively."""
        if len(self.held[bits]) <= self.shard_size:
            return
        whole = self.held.pop(bits)
        self.held_bytes -= whole.size
        del self.counts[bits]
        self._forget_file(self.files.pop(bits))
        halves = {bits + bit: StateShard(changed=True) for bit in "01"}
        for layout, table in whole.tables.items():
            names = [bits_of(key)[: len(bits) + 1] for key in table.keys]
            for name, half in halves.items():
                if keys := [key for key, place in zip(table.keys, names, strict=True) if place == name]:
                    half.tables[layout] = RecordTable(keys, table.of(keys))
        for name, half in halves.items():
            self.held[name], self.files[name], self.counts[name] = half, None, len(half)
            self.held_bytes += half.size
        for name in halves:
            self._split(name)

    def _read(self, name: str | None) -> StateShard:
        shard = StateShard()
        if name is None:
            return shard
        header, tensors = read_sealed(self.folder / name, "a StateStore", KIND)
        listed = zip(json.loads(header["keys"]), json.loads(header["fields"]), strict=True)
        for number, (keys, names) in enumerate(listed):
            part = {name: tensors[f"{number}.{name}"] for name in names}
            shard.tables[layout_of(part)] = RecordTable(keys, pack(part))
        return shard

    def _write(self, bits: str, shard: StateShard) -> None:
        """Write a changed shard to a new file; that of the last flush stays until the next flush."""
        if not shard.changed:
            return
        tensors: dict[str, Tensor] = {}
        for number, (layout, table) in enumerate(shard.tables.items()):
            values = unpack(table.content[: len(table)], layout)
            tensors |= {f"{number}.{name}": value for name, value in values.items()}
        self.written += 1
        name = f"{bits or 'first'}.{self.written}.safetensors"
        names = [[part.name for part in layout] for layout in shard.tables]
        header = KIND | {
            "keys": json.dumps([table.keys for table in shard.tables.values()]),
            "fields": json.dumps(names),
        }
        write_sealed(self.folder / name, header, tensors)
        self._forget_file(self.files[bits])
        self.files[bits], shard.changed = name, False

    def _forget_file(self, name: str | None) -> None:
        """Delete a file that is no longer used, unless it belongs to the last flush."""
        if name is not None and name not in self.flushed:
            (self.folder / name).unlink(missing_ok=True)

    def flush(self) -> None:
        """Write everything that has changed; from here on a crash leaves these files.

        Raises:
            CheckpointError: a file cannot be written; the last flush stays.
            StateError: the store was closed.
        """
        self._require_open()
        for bits, shard in self.held.items():
            self._write(bits, shard)
        self._write_index()
        old, self.flushed = self.flushed, {name for name in self.files.values() if name}
        for name in old - self.flushed:
            (self.folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Release the folder. Changes since the last flush are lost."""
        self.held.clear()
        self.held_bytes = 0
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._lock.is_locked:
                self.flush()
        finally:
            self.close()


def _listed(layout: Layout) -> str:
    return ", ".join(f"{name} {shape}" for name, _, shape in layout)
