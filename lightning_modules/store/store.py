"""`StateStore`: the states of millions of streams, on disk, with a bounded part of them in memory.

Shapes: N streams that are read or written together.
"""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from dream import DREAMState
from dream.errors import CheckpointError, DREAMError, StateError
from dream.files import write_atomic
from dream.sealed import FIRST_EDITION, note, read_note, read_sealed, write_sealed
from lightning_modules.calls import Whole, alone, whole
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

KIND = {"format": "dream-store", "version": "2"}  # 1 was of the first edition of the cell
_SHARD = r"(first|[01]+)\.\d+\.safetensors"
_TORN = rf"\.(index\.sealed|{_SHARD})\.[0-9a-f]+\.tmp"


class StateStore(Whole):
    """A mapping from the key of a stream to its tensors; the part that was used last is in memory.

    The streams lie in shards, one safetensors file for at most `shard_size` keys. A shard that outgrows this
    is split in two by the next bit of its keys' hashes (extendible hashing; Fagin, Nievergelt, Pippenger and
    Strong, 1979), so the number of streams need not be known. A shard in memory that has changed is written
    when its room is needed, and by `flush`.

    The files on disk are always those of the last flush, as a whole: after a crash every stream has the state
    that it had then. A `with` block flushes if it ends without an error. One process at a time may use a
    folder, and within it any thread: calls wait for each other. Ctrl-C within a call leaves the store as it
    was before that call or as it is after it; an error of the disk may leave a part of a `put` done.

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
        >>> layer, folder = DREAM(1, 16).eval(), tempfile.mkdtemp()
        >>> with torch.no_grad(), StateStore(folder) as store:
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
        self.pending: Callable[[], None] | None = None
        """Change that is decided; an interrupted call leaves it to be made, from the start, by the next."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / "lock", timeout=0, thread_local=False)
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
            **KIND,
        }
        if path.exists():
            try:
                index = read_note(path)
                _require_index(index)
            except (OSError, ValueError):
                raise CheckpointError(
                    f"{path} is damaged, or no StateStore wrote it. Put back a copy of the whole folder, or "
                    "name another."
                ) from None
            if (version := index.get("version", "1")) != KIND["version"]:  # the first had none
                edition = f", {FIRST_EDITION}" if version == "1" else ""
                raise CheckpointError(
                    f"`folder` must be empty or a StateStore's: {' '.join(KIND.values())}; {self.folder} "
                    f"holds dream-store {str(version)[:80]}{edition}. Nothing was changed."
                )
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
        self._remove_unused()

    def _remove_unused(self) -> None:
        """Delete files that neither the last flush nor a shard uses, such as an interrupted call leaves."""
        used = self.flushed | {name for name in self.files.values() if name}
        for entry in list(self.folder.iterdir()):
            if entry.name not in used and re.fullmatch(rf"{_SHARD}|{_TORN}", entry.name):
                entry.unlink(missing_ok=True)

    def _note(self) -> None:
        """Nothing: what was decided is in `pending`, and all else can be told from what is there."""

    def _recover(self, note: None) -> None:
        if not self._lock.is_locked:  # closed, or the store of the process that this one was forked from
            return
        for bits in [bits for bits in self.files if bits not in self.counts]:  # an unfinished split
            self.held.pop(bits, None)
            self._forget_file(self.files.pop(bits))
        self.held_bytes = 0
        for bits, shard in self.held.items():
            self.counts[bits] = len(shard)
            self.held_bytes += shard.size
        self._remove_unused()
        if self.pending is not None:
            try:
                self.pending()
            except Exception:  # it would fail again
                self.pending = None
                raise
            self.pending = None

    def _decide(self, change: Callable[[], None]) -> None:
        """Make a change that can be made twice; from the first line on an interrupt does not prevent it."""
        self.pending = change
        try:
            change()
        except (DREAMError, MemoryError):  # such as a full disk: it would fail again
            self.pending = None
            raise
        self.pending = None

    def _write_index(self) -> None:
        index = {
            "files": self.files,
            "counts": self.counts,
            "written": self.written,
            "shard_size": self.shard_size,
            **KIND,
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

    @whole
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

    @whole
    def __setitem__(self, key: Key, tensors: Mapping[str, Tensor]) -> None:
        """Keep these tensors of a stream, at least one, in place of those there were.

        Raises:
            StateError: `key` is not one, or a tensor that a file cannot hold.
        """
        bits_of(key)
        require_tensors(tensors)
        self._put([key], {name: value.unsqueeze(0) for name, value in tensors.items()})

    @whole
    def __delitem__(self, key: Key) -> None:
        """Remove a stream.

        Raises:
            KeyError: it is not known.
        """
        self._require_open()
        if self._shard(bits_of(key)).layout(key) is None:
            raise KeyError(key)
        self._decide(partial(self._drop, key))

    def _drop(self, key: Key) -> None:
        bits = self._place(bits_of(key))
        shard = self._load(bits)
        before = shard.size
        shard.drop(key)
        self._count(bits, before)

    def _count(self, bits: str, before: int) -> None:
        """Enter the number of keys of a shard that had `before` bytes, and its bytes."""
        self.counts[bits] = len(self.held[bits])
        self.held_bytes += self.held[bits].size - before

    @whole
    def __contains__(self, key: object) -> bool:
        """Whether a stream is known.

        Raises:
            StateError: `key` is not one.
        """
        self._require_open()
        return self._shard(bits_of(key)).layout(key) is not None  # type: ignore[arg-type] # `bits_of` takes keys only

    @alone
    def __len__(self) -> int:
        self._require_open()
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Key]:
        """All keys, shard by shard.

        Raises:
            StateError: so many were added meanwhile that shards are others.
        """
        for bits in self._all_bits():
            yield from self._keys_of(bits)

    @alone
    def _all_bits(self) -> list[str]:
        return list(self.counts)

    @whole
    def _keys_of(self, bits: str) -> list[Key]:
        self._require_open()
        if bits not in self.counts:
            raise StateError("keys were added while they were being listed; list them first, as list(store).")
        return self._load(bits).keys

    # many streams

    def get(self, keys: Sequence[Key], fresh: Callable[[int], DREAMState]) -> DREAMState:
        """The state of these streams, (N, ...) in this order, on the device of `fresh`.

        Args:
            keys: Keys of the streams, each once.
            fresh: Makes the state of streams that are not known yet, such as `DREAM.init_state`.

        Raises:
            StateError: a stream has other tensors than `fresh` makes, there are no keys, or a key comes
                twice.
            CheckpointError: a stream holds values that no layer reaches.
        """
        self._require_open()
        require_keys(keys)
        start = fresh(len(keys))  # own code, which may take its time
        tensors = dict(start.items())
        layout = layout_of(tensors)
        state = DREAMState(**unpack(self._records(keys, layout, pack(tensors)), layout))
        try:
            state.require_sound()
        except StateError as error:
            key = keys[int((~state.sound()).nonzero()[0, 0])]
            raise CheckpointError(
                f"the state of stream {key!r} in {self.folder} is damaged: {error}"
            ) from None
        return state.to(start.h.device)

    @whole
    def _records(self, keys: Sequence[Key], layout: Layout, content: np.ndarray) -> np.ndarray:
        """`content` (N, B) with the records of the streams that are known in place of those given."""
        self._require_open()
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
        return content

    @whole
    def put(self, keys: Sequence[Key], state: DREAMState) -> None:
        """Keep the samples of `state` as the states of these streams.

        Raises:
            StateError: there are not as many keys as samples, a key comes twice, a tensor is not dense, the
                state holds values that no layer reaches, or the store was closed.
            CheckpointError: a shard cannot be written.
        """
        require_keys(keys)
        if len(keys) != state.batch_size:
            raise StateError(
                f"`keys` must name a stream for each of {state.batch_size} samples; got {len(keys)}."
            )
        tensors = dict(state.items())
        require_tensors(tensors)
        state.require_sound()
        self._put(keys, tensors)

    @whole
    def put_tensors(self, keys: Sequence[Key], tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors (N, ...), whatever they mean, in place of those that these streams had.

        Raises:
            StateError: there are not as many keys as streams, a key comes twice, or a file cannot hold a
                tensor.
            CheckpointError: a shard cannot be written.
        """
        require_keys(keys)
        require_tensors(tensors)
        for name, value in tensors.items():
            if value.shape[:1] != (len(keys),):
                raise StateError(
                    f"`{name}` must have a row for each of {len(keys)} keys; got {(*value.shape,)}."
                )
        self._put(keys, tensors)

    def _put(self, keys: Sequence[Key], tensors: Mapping[str, Tensor]) -> None:
        self._require_open()
        self._decide(partial(self._keep, list(keys), layout_of(tensors), pack(tensors)))

    def _keep(self, keys: Sequence[Key], layout: Layout, content: np.ndarray) -> None:
        """Put records (N, B) into their shards."""
        for bits, places in self._by_shard(keys).items():
            shard = self._load(bits)
            before = shard.size
            shard.put([keys[place] for place in places], layout, content[places])
            self._count(bits, before)
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
            self.held[bits] = self._read(bits)
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
        """Split a shard that holds too many keys by the next bits of their hashes."""
        full = self.held[bits]
        if len(full) <= self.shard_size:
            return
        parts = full.halves(bits, self.shard_size)
        for name, part in parts.items():
            self.files[name] = None
            self.held[name] = part
        others = {name: count for name, count in self.counts.items() if name != bits}
        self.counts = others | {name: len(part) for name, part in parts.items()}  # now they are in use
        self.held.pop(bits)
        self._forget_file(self.files.pop(bits))
        self.held_bytes += sum(part.size for part in parts.values()) - full.size

    def _read(self, bits: str) -> StateShard:
        shard, name = StateShard(), self.files[bits]
        if name is None:
            return shard
        header, tensors = read_sealed(self.folder / name, "a StateStore", KIND)
        try:
            listed = zip(json.loads(header["keys"]), json.loads(header["fields"]), strict=True)
            for number, (keys, names) in enumerate(listed):
                part = {name: tensors[f"{number}.{name}"] for name in names}
                table = RecordTable(keys, pack(part))
                if len(table) != len(keys) or {len(value) for value in part.values()} != {len(keys)}:
                    raise ValueError("keys and states do not match")
                shard.tables[layout_of(part)] = table
            if len(shard) != self.counts[bits] or not all(
                bits_of(key).startswith(bits) for key in shard.keys
            ):
                raise ValueError("its keys are not those that the index names")
        except (ValueError, LookupError, TypeError, AttributeError, StateError) as error:
            raise CheckpointError(f"{self.folder / name} is inconsistent: {error}.") from None
        return shard

    def _write(self, bits: str, shard: StateShard) -> None:
        """Write a changed shard to a new file; that of the last flush stays until the next flush."""
        if not shard.changed:
            return
        tensors: dict[str, Tensor] = {}
        for number, (layout, table) in enumerate(shard.tables.items()):
            values = unpack(table.all(), layout)
            tensors |= {f"{number}.{name}": value for name, value in values.items()}
        self.written += 1
        name = f"{bits or 'first'}.{self.written}.safetensors"
        names = [[part.name for part in layout] for layout in shard.tables]
        header = KIND | {
            "keys": json.dumps([table.keys for table in shard.tables.values()], allow_nan=False),
            "fields": json.dumps(names, allow_nan=False),
        }
        write_sealed(self.folder / name, header, tensors)
        before = self.files[bits]
        self.files[bits] = name
        shard.changed = False
        self._forget_file(before)

    def _forget_file(self, name: str | None) -> None:
        """Delete a file that is no longer used, unless it belongs to the last flush."""
        if name is not None and name not in self.flushed:
            (self.folder / name).unlink(missing_ok=True)

    @whole
    def flush(self) -> None:
        """Write everything that has changed; from here on a crash leaves these files.

        Raises:
            CheckpointError: a file cannot be written; the last flush stays.
            StateError: the store was closed.
        """
        self._require_open()
        for bits, shard in self.held.items():
            self._write(bits, shard)
        names = {name for name in self.files.values() if name}
        before = self.flushed
        self.flushed = before | names  # whichever index an interrupt leaves, its files are kept
        self._write_index()
        self.flushed = names
        for name in before - names:
            (self.folder / name).unlink(missing_ok=True)

    @whole
    def close(self) -> None:
        """Release the folder. Changes since the last flush are lost."""
        self._lock.release()
        self.held.clear()
        self.held_bytes = 0

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


def _require_index(index: Any) -> None:
    """Refuse an index that no flush wrote.

    Raises:
        ValueError: it is none.
    """
    try:
        files, counts = index["files"], index["counts"]
        numbers = [index["written"], index["shard_size"] - 1, *counts.values()]
        fits = (
            files.keys() == counts.keys()
            and all(isinstance(number, int) and number >= 0 for number in numbers)
            and all(re.fullmatch("[01]{0,64}", bits) for bits in files)
            and all(name is None or re.fullmatch(_SHARD, name) for name in files.values())
            # every hash begins with the bits of exactly one shard
            and sum(Fraction(1, 2 ** len(bits)) for bits in files) == 1
            and not any(later.startswith(bits) for bits, later in pairwise(sorted(files)))
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from None
    if not fits:
        raise ValueError("its entries do not fit")


def _listed(layout: Layout) -> str:
    return ", ".join(f"{name} {shape}" for name, _, shape in layout)
