"""A table in a file, block by block, starting at any block."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pandas as pd
import pyarrow

from dream.errors import DataError
from lightning_modules.data.dialect import EXCEL, Dialect, in_plain_numbers, open_text
from lightning_modules.data.series import PARQUET, open_parquet, parse_parquet, parse_text, readable

_LONGEST = 64  # blocks in which no row may end; an unclosed quote makes such


class Block(NamedTuple):
    """Some rows of a file."""

    frame: pd.DataFrame
    """Its index numbers the rows from the file's first on."""
    stop: int
    """Start of the next block: a byte of (unpacked) text, or a row of Parquet."""
    done: float
    """Share of the file that has been read."""


def file_blocks(
    path: Path, dialect: Dialect, start: int, rows: int, size: int, texts: Collection[str] = ()
) -> Iterator[Block]:
    """Rows of a text or Parquet file in blocks of about `size` bytes.

    Args:
        path: The file, checked by `check_file`.
        dialect: How it is written.
        start: Where to begin: 0, or the `stop` of a block.
        rows: Rows before `start`.
        size: Bytes of text, or of the numbers in the rows of Parquet; a block holds at least one row.
        texts: Columns of text that are read as they are written.

    Raises:
        DataError: the file cannot be read.
    """
    packed = path.name.lower().endswith(PARQUET)
    if packed:
        blocks = _parquet_blocks(path, dialect, start, size)
    else:
        blocks = _text_blocks(path, dialect, start, rows, size, texts)
    for block in blocks:
        if len(block.frame):
            block.frame.index = pd.RangeIndex(rows, rows + len(block.frame))
            rows += len(block.frame)
            yield block


def _text_blocks(
    path: Path, dialect: Dialect, start: int, rows: int, size: int, texts: Collection[str]
) -> Iterator[Block]:
    total = path.stat().st_size
    separator = str(dialect.separator)
    with open_text(path, str(dialect.encoding)) as (file, raw):
        with readable(path):
            header = _header(file, path, separator, size)
            place = max(start, len(header))
            file.seek(place)
        rest, more = b"", True
        while more:
            with readable(path, rows):
                # up to a multiple of `size`, so that blocks end where they do without a stop
                chunk = file.read(size - (place + len(rest) - len(header)) % size)
                more = bool(chunk)
                rest += chunk
                cut = _end_of_rows(rest, separator) if more else len(rest)
                if more and not cut:
                    if len(rest) > _LONGEST * size:
                        raise DataError(
                            f"{path}: row {rows} does not end within {len(rest)} bytes. Is a quote left open?"
                        )
                    continue
                frame = parse_text(BytesIO(header + rest[:cut]), path, dialect, texts)
            place, rest = place + cut, rest[cut:]
            rows += len(frame)
            yield Block(frame, place, raw.tell() / total)


def _header(file: BinaryIO, path: Path, separator: str, size: int) -> bytes:
    """Everything up to the end of the first line that is not blank, and not the one for Excel."""
    text = b""
    while chunk := file.read(size):
        text += chunk
        if len(text) > _LONGEST * size:
            raise DataError(f"{path}: its first line does not end within {len(text)} bytes. Is it a table?")
        plain = _without_quoted(text, separator)
        told = EXCEL.match(plain)
        if found := re.compile(rb"\s*[^\s][^\n]*\n").match(plain, told.end() if told else 0):
            return text[: found.end()]
    return text


def _end_of_rows(text: bytes, separator: str) -> int:
    """End of the last complete row in `text`."""
    return _without_quoted(text, separator).rfind(b"\n") + 1


def _without_quoted(text: bytes, separator: str) -> bytes:
    """`text` with all quoted values, which may hold ends of lines, overwritten.

    A quote in the middle of a value does not open one.
    """
    if b'"' not in text:
        return text
    quoted = rb'(?:^|(?<=[\n%b]))"[^"]*+(?:""[^"]*+)*+(?:"|\Z)' % re.escape(separator.encode())
    return re.sub(quoted, lambda found: b"-" * len(found[0]), text)


def _parquet_blocks(path: Path, dialect: Dialect, start: int, size: int) -> Iterator[Block]:
    with readable(path), open_parquet(path, memory_map=True) as file:
        rows = max(size // (8 * max(len(file.schema_arrow.names), 1)), 1)
        stop = 0
        # from the first row, so that blocks, which span groups of rows, end where they do without a stop
        for batch in file.iter_batches(batch_size=rows):
            first, stop = stop, stop + batch.num_rows
            if stop > start:
                table = pyarrow.Table.from_batches([batch])
                frame = in_plain_numbers(parse_parquet(table, path), dialect)
                yield Block(frame.iloc[max(start - first, 0) :].copy(), stop, stop / file.metadata.num_rows)
