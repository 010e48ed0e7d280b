"""Feather files, which are those of Arrow, read as `pyarrow.parquet.ParquetFile` reads Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow

from lightning_modules.data.limits import require_unpacked

ENDINGS = (".feather", ".arrow")
"""Endings of their names."""


class FeatherFile:
    """A Feather file; all of it is passed over once, to bound it and to count its rows.

    Args:
        path: The file.
        source: The same, opened.

    Raises:
        DataError: it unpacks to far more than its size.
    """

    def __init__(self, path: Path, source: pyarrow.NativeFile) -> None:
        self.reader = pyarrow.ipc.open_file(source)
        self.schema_arrow = self.reader.schema
        rows = unpacked = 0
        for batch in self._batches():
            rows, unpacked = rows + batch.num_rows, unpacked + batch.nbytes
            require_unpacked(unpacked, path)
        self.metadata = SimpleNamespace(num_rows=rows)

    def _batches(self) -> Iterator[pyarrow.RecordBatch]:
        return (self.reader.get_batch(number) for number in range(self.reader.num_record_batches))

    def read(self) -> pyarrow.Table:
        """All rows."""
        return self.reader.read_all()

    def iter_batches(self, batch_size: int) -> Iterator[pyarrow.RecordBatch]:
        """The rows in pieces of at most `batch_size`, the same each time."""
        for batch in self._batches():
            for first in range(0, batch.num_rows, batch_size):
                yield batch.slice(first, batch_size)
