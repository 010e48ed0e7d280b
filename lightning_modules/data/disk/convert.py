"""`stored_table`: a text or Parquet file of any size as a `StoredSeries`.

It is read once, in blocks, by the rules of `read_table`; each block becomes an Arrow shard. The first block
decides which columns are read. A conversion that was stopped, or has lost a part, resumes with the first
missing shard, since each holds the place in the file at which the next begins.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pooch
import pyarrow

from dream.digests import sha256
from dream.errors import CheckpointError, DataError
from dream.files import atomic, json_text, read_json, write_atomic
from dream.sealed import note, read_note
from lightning_modules.data.dates import UNKNOWN, Stamps, find_formats, require_order
from lightning_modules.data.dialect import (
    UNKNOWN as UNKNOWN_DIALECT,
)
from lightning_modules.data.dialect import Dialect
from lightning_modules.data.disk.blocks import Block, file_blocks
from lightning_modules.data.disk.stored import (
    StoredSeries,
    TableShard,
    digest,
    read_shard,
    require_sha256,
    writing,
)
from lightning_modules.data.series import (
    Roles,
    check_file,
    find_roles,
    full_dialect,
    require_same_columns,
    require_values,
    table_dialect,
    to_series,
)
from lightning_modules.data.zones import Written, one_zone
from lightning_modules.waiting import waiting

logger = logging.getLogger(__name__)

VERSION = 6
BLOCK = 1 << 21
"""Bytes of a file that are read at once, which needs a few times as much memory."""


def cache_folder() -> Path:
    """The folder for files that can be made again: the variable DREAM_CACHE, or else the user's cache."""
    return Path(os.environ.get("DREAM_CACHE") or pooch.os_cache("dream")).expanduser()


def stored_table(
    path: str | Path,
    time_column: str | None = None,
    columns: Sequence[str] | None = None,
    covariates: Sequence[str] = (),
    dialect: Dialect = UNKNOWN_DIALECT,
    stamps: Stamps = UNKNOWN,
) -> StoredSeries:
    """As `read_table`, on disk: converts the file if it has not been, or has changed since.

    Raises:
        DataError: `read_table` would refuse the file, or the cache cannot be written.
    """
    path = check_file(path)
    real = path.resolve()
    stated, dialect = dialect, table_dialect(path, dialect)
    asked = json.dumps([str(real), time_column, columns, list(covariates), dialect, stamps], allow_nan=False)
    folder = cache_folder() / "tables" / f"{real.name.partition('.')[0]}-{digest(asked.encode())[:16]}"
    with writing(folder):
        _forget_other(folder, real)
        if (table := _made(folder)) is None:
            logger.warning("%s: stays on disk; converting it once, in %s.", path, folder)
            dialect = full_dialect(path, dialect, stated)
            table = _Conversion(path, folder, dialect).run(time_column, columns, covariates, stamps)
    shards = tuple(TableShard(*shard) for shard in table["shards"])
    time = np.memmap(folder / "time", dtype="datetime64[ns]", mode="r") if table["time"] else None
    columns, zone, form = tuple(table["columns"]), table["zone"], table["form"]
    dialect = Dialect(*table["dialect"])
    stop = shards[-1].stop
    return StoredSeries(folder, shards, columns, time, str(path), stop, zone, form, table["time"], dialect)


def _made(folder: Path) -> dict[str, Any] | None:
    """Content of `table.sealed`; None if it does not exist, or it or `time` was altered."""
    try:
        table: dict[str, Any] = read_note(folder / "table.sealed")
        if table["time"] is not None:
            require_sha256(folder / "time", table["stamps"])
    except (OSError, ValueError) as error:
        if (folder / "table.sealed").exists():
            logger.warning("%s: made again from the parts that are there.", error)
        return None
    return table


def _forget_other(folder: Path, path: Path) -> None:
    """Empty the folder if the content of the file is another than the one that was converted.

    The file is read only if its state on disk is another, as that of a copy is.
    """
    state, known = path.stat(), folder / "source.json"
    # a program can set the time of a change of the content, but not that of a change of the state
    times = [state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
    source = {"version": VERSION, "path": str(path), "bytes": state.st_size, "changed": times}
    try:
        before = read_json(known)
    except (FileNotFoundError, CheckpointError):
        before = {}
    if {**before, "sha256": None} == {**source, "sha256": None}:
        return
    with path.open("rb") as file:
        source["sha256"] = sha256(file)
    if {**before, "changed": times} != source:
        for old in [entry for entry in folder.iterdir() if entry.name != "lock"]:
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    write_atomic(known, json_text(source))


class _Conversion:
    """Conversion of one file into one folder."""

    def __init__(self, path: Path, folder: Path, dialect: Dialect) -> None:
        self.path = path
        self.folder = folder
        self.dialect = dialect
        self.shards: list[TableShard] = []
        self.stop = 0
        self.last: np.datetime64 | None = None
        self.zones: list[Written] = []

    def run(
        self,
        time_column: str | None,
        columns: Sequence[str] | None,
        covariates: Sequence[str],
        stamps: Stamps,
    ) -> dict[str, Any]:
        """Write the shards, `time` and last `table.sealed`; returns the content of that."""
        for torn in self.folder.glob(".*.tmp"):
            torn.unlink()
        roles = self._roles()
        known = self._find_done(roles)
        rows = self.shards[-1].stop if self.shards else 0
        with waiting(f"converting {self.path.name}") as progress:
            for block in file_blocks(self.path, self.dialect, self.stop, rows, BLOCK):
                if roles is None:
                    roles = find_roles(block.frame, self.path, time_column, columns, covariates, stamps)
                    if roles.time is not None and len(roles.formats) > 1:
                        roles = roles._replace(formats=self._formats(roles.time, roles.formats))
                    write_atomic(self.folder / "roles.sealed", note(roles._asdict()))
                elif columns is None:
                    require_same_columns(block.frame, self.path, roles, covariates)
                known.append(self._add(block, roles))
                progress(block.done)
        if roles is None or not self.shards:
            raise DataError(f"{self.path}: there are column names but no rows.")
        require_values(np.any(known, axis=0), roles.columns, self.path)
        checksum = None if roles.time is None else self._write_time(roles.time)
        table = {
            "columns": roles.columns,
            "time": roles.time,
            "stamps": checksum,
            "zone": one_zone(self.zones),
            "form": roles.formats[0] if roles.formats else None,
            "dialect": self.dialect,
            "shards": self.shards,
        }
        write_atomic(self.folder / "table.sealed", note(table))
        return table

    def _formats(self, column: str, formats: tuple[str | None, ...]) -> tuple[str | None, ...]:
        """The format of the time stamps, from as many rows as it takes to tell.

        Raises:
            DataError: no row tells.
        """
        parts: list[pd.Series] = []
        for block in file_blocks(self.path, self.dialect, 0, 0, BLOCK):
            parts.append(block.frame[column])
            if len(formats := find_formats(pd.concat(parts), formats)) == 1:
                return formats
        require_order(pd.concat(parts), formats, self.path)
        return formats

    def _roles(self) -> Roles | None:
        """The roles that the first block determined; None if they are not known."""
        try:
            found = read_note(self.folder / "roles.sealed")
        except (OSError, ValueError):
            return None
        return Roles(found["time"], tuple(found["columns"]), tuple(found["formats"]), found["zone"])

    def _find_done(self, roles: Roles | None) -> list[list[bool]]:
        """Resume after the shards up to the first missing one; returns which columns hold a value in each.

        Shards after a gap are deleted, and all of them if the roles of the columns are not known.
        """
        known, useless = [], []
        for path in sorted(self.folder.glob("*.arrow")):
            if roles is None or not path.name.startswith(f"{len(self.shards):06d}-"):
                useless.append(path)
                continue
            table = read_shard(path)
            facts = json.loads(table.schema.metadata[b"dream"])
            first = self.shards[-1].stop if self.shards else 0
            self.shards.append(TableShard(path.name, first, first + len(table)))
            self.stop = facts["stop"]
            known.append(facts["known"])
            self.zones.append(_as_written(facts["zone"]))
            if facts["time"] is not None:
                self.last = table[facts["time"]].to_numpy()[-1]
        if useless:
            logger.warning(
                "%s: made again from here on, since the part before is missing or was altered.", useless[0]
            )
        for path in useless:
            path.unlink()
        return known

    def _add(self, block: Block, roles: Roles) -> list[bool]:
        """Write a block as a shard; returns which columns hold a value in it."""
        series, written = to_series(block.frame, roles, self.path, self.last)
        if self.zones and (written is None) != (self.zones[0] is None):
            raise DataError(
                f"{self.path}: time column `{roles.time}` must hold times that are all with a zone or all "
                f"without; from row {block.frame.index[0]} on they are as they were not before. Write all "
                "with their zone."
            )
        self.zones.append(written)
        known = (~np.isnan(series.values)).any(axis=0).tolist()
        columns = dict(zip(series.columns, series.values.T, strict=True))
        if roles.time is not None and series.time is not None:
            columns[roles.time] = series.time
            self.last = series.time[-1]
        facts = json_text({"stop": block.stop, "known": known, "time": roles.time, "zone": written})
        table = pyarrow.table(columns).replace_schema_metadata({"dream": facts})
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        content = sink.getvalue().to_pybytes()
        first = self.shards[-1].stop if self.shards else 0
        shard = TableShard(f"{len(self.shards):06d}-{digest(content)}.arrow", first, first + len(series))
        write_atomic(self.folder / shard.name, content)
        self.shards.append(shard)
        self.stop = block.stop
        return known

    def _write_time(self, column: str) -> str:
        """Write the time stamps of all shards to one file, for searches; returns its SHA-256."""
        with atomic(self.folder / "time") as file:
            for shard in self.shards:
                file.write(read_shard(self.folder / shard.name)[column].to_numpy().view(np.int64).data)
            return sha256(file)


def _as_written(plain: Any) -> Written:
    """The zone of rows, from JSON."""
    return tuple((stamp, seconds) for stamp, seconds in plain) if isinstance(plain, list) else plain
