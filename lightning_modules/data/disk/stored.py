"""`StoredSeries`: a series on disk as Arrow shards, and arrays prepared from it as memory maps.

Shapes: T rows, D columns.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from filelock import FileLock

from dream.digests import sha256
from dream.errors import DataError
from dream.files import write_atomic
from dream.sealed import note, read_note
from lightning_modules.data.dialect import Dialect
from lightning_modules.data.fingerprint import Fingerprint, content_sum
from lightning_modules.data.series import Series

logger = logging.getLogger(__name__)

Pieces = Iterator[dict[str, np.ndarray]]
"""Rows of named arrays, one after another."""


class TableShard(NamedTuple):
    """An Arrow file with some of a table's rows; half of its SHA-256 is part of its name."""

    name: str
    first: int
    """Number of its first row."""
    stop: int
    """Number of the row after its last."""


@dataclass(frozen=True, eq=False)
class StoredSeries:
    """Rows in time order, on disk; a `Series` that is only ever read block by block."""

    folder: Path
    shards: tuple[TableShard, ...]
    columns: tuple[str, ...]
    time: np.ndarray | None
    """datetime64[ns] (T,), a memory map."""
    source: str
    rows: int
    zone: str | None = None
    form: str | None = None
    time_column: str | None = None
    """Zone, format and column of the time stamps, as those of a `Series`."""
    dialect: Dialect | None = None
    """How the file is written."""

    def __len__(self) -> int:
        return self.rows

    def head(self, rows: int) -> StoredSeries:
        """The first rows."""
        return replace(self, rows=rows, time=None if self.time is None else self.time[:rows])

    def ordered(self, columns: Sequence[str]) -> StoredSeries:
        """The same columns in this order."""
        return replace(self, columns=tuple(columns))

    @property
    def fingerprint(self) -> Fingerprint:
        """Checksums of the content, see `TaskData.fingerprint`; nothing is read for them.

        The names of the shards hold those of values and time stamps.
        """
        return {
            "rows": content_sum(len(self)),
            "columns": content_sum(self.columns),
            "values": content_sum([shard.name for shard in self.shards]),
        }

    def blocks(self, rows: slice) -> Iterator[Series]:
        """Pieces of these rows, one for each shard.

        Raises:
            DataError: a shard was altered.
        """
        start, stop, _ = rows.indices(len(self))
        for shard in self.shards:
            first, last = max(start, shard.first), min(stop, shard.stop)
            if first < last:
                values = self._load(shard)[first - shard.first : last - shard.first]
                time = None if self.time is None else self.time[first:last]
                yield Series(values, self.columns, time, self.source, self.zone, self.form, self.time_column)

    def _load(self, shard: TableShard) -> np.ndarray:
        """The values of a shard, (rows, D)."""
        table = read_shard(self.folder / shard.name)
        return np.stack([table[name].to_numpy() for name in self.columns], axis=1)

    def keep(self, recipe: str, pieces: Pieces) -> dict[str, np.ndarray]:
        """The arrays in `pieces` as read-only memory maps, written once for each `recipe`.

        They are written again if they were altered.

        Raises:
            DataError: they cannot be written.
        """
        folder = self.folder / f"prepared-{digest(recipe.encode())}"
        with writing(self.folder):
            if (arrays := _mapped(folder)) is None:
                unfinished = self.folder / "prepared.part"
                for old in (unfinished, folder):
                    shutil.rmtree(old, ignore_errors=True)
                unfinished.mkdir()
                _write(pieces, unfinished)
                unfinished.rename(folder)
                arrays = _mapped(folder)
        if arrays is None:
            raise DataError(f"{folder}: another program alters it. Set DREAM_CACHE to another folder.")
        return arrays


def read_shard(path: Path) -> pyarrow.Table:
    """The rows in an Arrow file that has half of its SHA-256 in its name.

    Raises:
        DataError: the file is missing or was altered.
    """
    try:
        with pyarrow.memory_map(str(path)) as file:
            content = file.read_buffer()
    except (OSError, pyarrow.ArrowInvalid):  # an empty file cannot be mapped
        content = b""
    if digest(content) not in path.name:
        raise DataError(
            f"{path}: this part of a converted file is missing or was altered. Delete the folder "
            f"{path.parent} and run again, which converts the file again."
        )
    return pyarrow.ipc.open_file(content).read_all()


def in_memory(pieces: Pieces) -> dict[str, np.ndarray]:
    """The arrays in `pieces`, each as a whole."""
    parts: dict[str, list[np.ndarray]] = {}
    for piece in pieces:
        for name, rows in piece.items():
            parts.setdefault(name, []).append(rows)
    return {name: rows[0] if len(rows) == 1 else np.concatenate(rows) for name, rows in parts.items()}


def _write(pieces: Pieces, folder: Path) -> None:
    """Write the arrays in `pieces` as raw files, which are on disk when this returns."""
    shapes: dict[str, tuple[str, list[int]]] = {}
    sums: defaultdict[str, Any] = defaultdict(hashlib.sha256)
    with ExitStack() as stack:
        files = {}
        for piece in pieces:
            for name, rows in piece.items():
                if name not in files:
                    files[name] = stack.enter_context((folder / name).open("wb"))
                    shapes[name] = (rows.dtype.str, [0, *rows.shape[1:]])
                content = np.ascontiguousarray(rows).data
                files[name].write(content)
                sums[name].update(content)
                shapes[name][1][0] += len(rows)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    arrays = {name: (*shape, sums[name].hexdigest()) for name, shape in shapes.items()}
    write_atomic(folder / "arrays.sealed", note(arrays))


def _mapped(folder: Path) -> dict[str, np.ndarray] | None:
    """Memory maps of the arrays that `_write` wrote to `folder`; None if one is missing or altered."""
    if not folder.exists():
        return None
    arrays: dict[str, np.ndarray] = {}
    try:
        for name, (dtype, shape, checksum) in read_note(folder / "arrays.sealed").items():
            require_sha256(folder / name, checksum)
            arrays[name] = np.memmap(folder / name, dtype=dtype, mode="r", shape=tuple(shape))
    except (OSError, ValueError) as error:
        logger.warning("%s: %s is made again.", error, folder)
        return None
    return arrays


def require_sha256(path: Path, expected: str) -> None:
    """Read a whole file and compare its SHA-256.

    Raises:
        OSError: it cannot be read.
        ValueError: its SHA-256 is another.
    """
    with path.open("rb") as file:
        if sha256(file) != expected:
            raise ValueError(f"{path} is damaged")


def digest(content: bytes | memoryview | pyarrow.Buffer) -> str:
    """Half of the SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()[:32]


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Create `folder` and lock it; other processes wait.

    Raises:
        DataError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            yield
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}). What is done is kept and the same "
            "command resumes from there: make room, or set DREAM_CACHE to a folder with more."
        ) from error
