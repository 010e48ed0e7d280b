"""Dialects of tables: encoding, the sign between values, and how numbers are written; stated, or found."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pandas as pd

from dream.errors import ConfigError, DataError, shown
from lightning_modules.data.limits import require_header, tell_repeated
from lightning_modules.data.notation import DECIMALS, THOUSANDS, Evidence, evidence, to_plain
from lightning_modules.data.packed import PACKED, Transcoded, Unpacked
from lightning_modules.data.time_column import is_text

logger = logging.getLogger(__name__)

SEPARATORS = (",", ";", "\t", "|")
"""Signs between values that are found out; others can be stated."""
EXCEL = re.compile(rb'\s*"?sep=(.)"?\s*?\r?\n', re.IGNORECASE)
"""The line by which Excel is told the separator."""
_NAMES = {"\t": "tab", " ": "space", "\u00a0": "space", "\u202f": "space"}
_ROWS = 200  # that a dialect is found in
_LINES = 20  # of text that are read for that at least
_BYTES = 1 << 16  # likewise
_LONGEST = 1 << 23  # bytes of text without as many lines
_MARKS = {
    (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE): "utf-32",
    (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE): "utf-16",
    (codecs.BOM_UTF8,): "utf-8",
}
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


class Dialect(NamedTuple):
    """How a table is written; what is None is not known."""

    separator: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    """Empty where numbers have no such sign."""
    encoding: str | None = None
    learned: Sequence[str | None] | None = None
    """The four of a run's training, by which other tables are read where nothing shows another."""

    @property
    def usual(self) -> Dialect:
        """The stated parts, and where nothing is stated, those of the training."""
        known = self.learned or (None,) * 4
        stated = self[:4]
        return Dialect(
            *(mine if mine is not None else other for mine, other in zip(stated, known, strict=True))
        )


UNKNOWN = Dialect()
"""The dialect of a table of which nothing is known."""
PLAIN = Dialect(",", ".", "", "utf-8")
"""That of tables as most programs write them."""


def dialect_as(
    separator: str | None, decimal: str | None, thousands: str | None, encoding: str | None
) -> Dialect:
    """A stated dialect.

    Raises:
        ConfigError: one of its parts is none.
    """
    separator = {"\\t": "\t", "tab": "\t"}.get(separator or "", separator)
    if separator is not None and (len(separator) != 1 or separator.isalnum() or separator in "\r\n\"'.+-"):
        raise ConfigError(
            f"`separator` must be one character such as ';', or tab; got {separator!r}.", key="separator"
        )
    if decimal is not None and decimal not in DECIMALS:
        raise ConfigError(f"`decimal` must be '.' or ','; got {decimal!r}.", key="decimal")
    if thousands not in (None, "", *THOUSANDS) or (thousands and thousands == decimal):
        raise ConfigError(
            "`thousands` must be '.', ',', a space, an apostrophe, an underscore or '' for none, and differ "
            f"from `decimal`; got {thousands!r}.",
            key="thousands",
        )
    try:
        encoding = None if encoding is None else codecs.lookup(encoding).name
        io.TextIOWrapper(io.BytesIO(), encoding or "utf-8")
    except (LookupError, ValueError):  # ValueError: of a name with a NUL
        raise ConfigError(
            f"`encoding` must be one of text, such as utf-8, cp1252 or utf-16; got {encoding!r}.",
            key="encoding",
        ) from None
    return Dialect(separator, decimal, thousands, encoding)


@contextmanager
def open_text(path: Path, encoding: str = "utf-8") -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open a file of text: its content in UTF-8, unpacked if its name says that it is packed; and the file.

    Raises:
        DataError: while it is read, if it unpacks to far more than its size.
    """
    with path.open("rb") as raw:
        unpacked = path.suffix.lower() in PACKED
        plain = encoding in ("utf-8", "utf-8-sig", "ascii")
        if plain and not unpacked:
            yield raw, raw
            return

        def begin() -> BinaryIO:
            raw.seek(0)
            return Unpacked(path, raw) if unpacked else raw  # type: ignore[return-value]

        with io.BufferedReader(Unpacked(path, raw) if plain else Transcoded(begin, encoding)) as content:
            yield content, raw


def find_dialect(path: Path, stated: Dialect = UNKNOWN, quiet: bool = False) -> Dialect:
    """The dialect of a file of text, by its first rows; unless `quiet`, what differs from the plain one is
    logged.

    What is stated holds; for a table that a trained model reads, whatever its rows do not contradict, and how
    it writes numbers only if it separates values as the training did.

    Args:
        path: The file.
        stated: What is known of it.

    Raises:
        DataError: its first line is no header, or numbers such as 1,234 could be of two sizes.
        UnicodeDecodeError: it is no text.
    """
    with open_text(path) as (file, _):
        content, complete = _sample(file)
        encoding = _encoding(content, complete, stated, path)
    text = codecs.getincrementaldecoder(encoding)("strict" if complete else "ignore").decode(content)
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise pd.errors.EmptyDataError("no columns")
    told = EXCEL.match(text.encode()[:32])
    text = text[told.end() :] if told else text
    separator = _separator(text, complete, stated, told[1].decode() if told else None, path)
    header, rows = _rows(text, separator, complete)
    _require_header(header, separator, path)
    columns = list(itertools.zip_longest(*rows, fillvalue=""))
    same = stated.learned is None or separator == stated.usual.separator
    decimal, thousands = _notation(evidence(columns), stated if same else UNKNOWN, path, separator)
    found = Dialect(separator, decimal, thousands, encoding)
    if not quiet:
        _tell(found, stated, path)
        tell_repeated(header, path)
    return found


def with_encoding(path: Path, dialect: Dialect, stated: Dialect) -> Dialect:
    """The dialect of a file whose first rows have this one, by all of its letters.

    Raises:
        UnicodeDecodeError: it is no text.
    """
    if dialect.encoding != "utf-8" or (stated.encoding is not None and stated.learned is None):
        return dialect
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_text(path) as (file, _):
        try:
            while content := file.read(_BYTES):
                decoder.decode(content)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            if _NO_TEXT.search(error.object):
                raise
        else:
            return dialect
    found = dialect._replace(encoding="cp1252")
    _tell(
        found,
        stated._replace(separator=found.separator, decimal=found.decimal, thousands=found.thousands),
        path,
    )
    return found


def frame_dialect(frame: pd.DataFrame, path: Path, stated: Dialect = UNKNOWN) -> Dialect:
    """The notation of numbers in columns of texts, of a table without another dialect; see `find_dialect`."""
    columns = [frame[name].dropna().head(_ROWS) for name in frame.columns if is_text(frame[name])]
    texts = [column.astype(str).tolist() for column in columns]
    decimal, thousands = _notation(evidence(texts), stated, path, None)
    found = PLAIN._replace(decimal=decimal, thousands=thousands)
    _tell(found, stated._replace(separator=",", encoding="utf-8"), path)
    return found


def in_plain_numbers(frame: pd.DataFrame, dialect: Dialect, texts: Collection[str] = ()) -> pd.DataFrame:
    """A table in which columns of texts, but `texts`, are numbers if all of their values are, so written."""
    if (dialect.decimal, dialect.thousands) == (".", ""):
        return frame
    assert dialect.decimal is not None
    found = {
        str(name): to_plain(frame[name], dialect.decimal, dialect.thousands or "")
        for name in frame.columns
        if name not in texts and is_text(frame[name])
    }
    return frame.assign(**found) if found else frame


def _sample(file: BinaryIO) -> tuple[bytes, bool]:
    """The first rows of a file, and whether they are all of it."""
    content, more = b"", b""
    while len(content) < _LONGEST and (more := file.read(_BYTES)):
        content += more
        if content.count(b"\n") >= _LINES:
            break
    return content, not more


def _encoding(content: bytes, complete: bool, stated: Dialect, path: Path) -> str:
    """The encoding of a text: by its mark, as stated, UTF-8 if it can be, or that of western Windows."""
    for marks, name in _MARKS.items():
        if content.startswith(marks):
            return name
    usual = stated.usual.encoding
    if stated.learned is None and usual is not None:
        if not _fits(content, usual):
            raise DataError(
                f"{path}: the text must be in {usual}, as `encoding` states; it is not. Leave "
                "`data.encoding` out."
            )
        return usual
    even, odd = content[::2].count(0), content[1::2].count(0)
    if max(even, odd) > 0.3 * len(content) / 2 and min(even, odd) < 0.1 * max(even, odd):
        return "utf-16-be" if even > odd else "utf-16-le"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(content, final=complete)
    except UnicodeDecodeError:
        if _NO_TEXT.search(content):
            raise
        for name in filter(None, (usual, "cp1252")):
            if name != "utf-8" and _fits(content, name):
                return name
        return "iso8859-1"
    return usual if usual is not None and content.isascii() and _fits(content, usual) else "utf-8"


def _fits(content: bytes, encoding: str) -> bool:
    """Whether the start of a text can be in an encoding; of letters of ASCII only, if they stay these."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(content)
    except UnicodeError:  # of UTF-16 without its mark
        return False
    return not content.isascii() or text == content.decode("ascii")


def _separator(text: str, complete: bool, stated: Dialect, told: str | None, path: Path) -> str:
    """The sign between the values: that by which most rows are as wide as the header, of those the widest."""
    scores = {}
    for sign in dict.fromkeys([*filter(None, (stated.usual.separator, told)), *SEPARATORS]):
        header, rows = _rows(text, sign, complete)
        fits = [len(row) >= len(header) and not any(row[len(header) :]) for row in rows]
        scores[sign] = (round(sum(fits) / len(fits), 2) if fits else 1.0, len(header))
    scores = {sign: score for sign, score in scores.items() if score[1] > 1}
    best = max(scores, key=lambda sign: scores[sign], default=",")
    usual = stated.usual.separator or told
    if usual is None:
        return best
    if usual in scores or not scores:
        return usual
    if stated.learned is None and stated.separator is not None:
        raise DataError(
            f"{path}: values must be separated by {usual!r}, as `separator` states; the first line uses "
            f"{best!r}. Leave `data.separator` out, or state {best!r}."
        )
    return best


def _rows(text: str, separator: str, complete: bool) -> tuple[list[str], list[list[str]]]:
    """Names and first rows of a text; a last row that may be cut off is left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows = []
    try:
        for row in reader:
            if row and (len(row) > 1 or row[0].strip()):
                rows.append(row)
            if len(rows) > _ROWS:
                break
        else:
            rows = rows if complete or len(rows) < 2 else rows[:-1]
    except csv.Error:  # a field that does not end, or a NUL: the reader of all rows tells where
        pass
    return (rows[0], rows[1:]) if rows else ([""], [])


def _require_header(header: Sequence[str], separator: str, path: Path) -> None:
    if len(header) == 1 and header[0].lstrip().startswith("#"):
        raise DataError(
            f"{path}: the first line must name the columns; it is {shown(header[0])}. Delete the lines "
            "before the names."
        )
    require_header(header, path)


def _notation(found: Evidence, stated: Dialect, path: Path, separator: str | None) -> tuple[str, str]:
    """Decimal sign and the sign between thousands; empty if there is none.

    Raises:
        DataError: numbers such as 1,234 could be of two sizes.
    """
    usual = stated.usual if stated.learned is None or len(found.decimal) != 1 else Dialect()
    decimal, thousands = usual.decimal, usual.thousands
    if decimal is None and len(found.decimal) == 1:
        decimal = next(iter(found.decimal))
    if decimal is None and thousands in DECIMALS:
        decimal = "," if thousands == "." else "."
    both = found.thousands & set(DECIMALS)
    if decimal is None and len(both) == 1:
        decimal = "." if "," in both else ","
    if decimal is None and "," in found.either and not found.decimal and separator == ";":
        decimal = ","  # which is why values are separated so
    if decimal is None and "," in found.either and not found.decimal:
        raise DataError(
            f"{path}: numbers such as 1,234 may be one and a bit, or over a thousand; no row shows which. "
            "State `--data.decimal=,` or `--data.thousands=,`."
        )
    decimal = decimal or "."
    if thousands is None:
        shown_signs = found.thousands - {decimal}
        other = "." if decimal == "," else ","
        thousands = next(iter(shown_signs)) if len(shown_signs) == 1 else ""
        if not thousands and not shown_signs and other in found.either:
            thousands = other
    return decimal, "" if thousands == decimal else thousands


def _tell(found: Dialect, stated: Dialect, path: Path) -> None:
    """Log what was found and is neither stated, nor as in training, nor as in most tables."""
    expected = zip(found[:4], stated[:4], stated.learned or PLAIN[:4], strict=True)
    new = [there is not None and there not in (told, usual) for there, told, usual in expected]
    texts = {
        "separator": f"{_named(found.separator)} between values",
        "decimal": f"{_named(found.decimal)} as the decimal sign",
        "thousands": f"{_named(found.thousands)} between thousands" if found.thousands else "plain thousands",
        "encoding": f"the encoding {found.encoding}",
    }
    said = {flag: text for (flag, text), differs in zip(texts.items(), new, strict=True) if differs}
    if said:
        logger.warning(
            "%s: read with %s, %s; %s can state otherwise.",
            path,
            " and ".join(said.values()),
            "as its rows show" if stated.learned is None else "other than in training, as its rows show",
            " and ".join(f"`data.{flag}`" for flag in said),
        )


def _named(sign: str | None) -> str:
    return _NAMES.get(sign or "", f"'{sign}'")
