"""`Vocabulary`: text as numbers, by bytes, characters or words.

Pieces are what a text is cut into: an array of bytes, a string of characters, or a list of words.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from dream.errors import ConfigError, DataError

Unit = Literal["bytes", "chars", "words"]
Pieces = np.ndarray | str | list[str]

LINE_END, UNKNOWN_WORD, UNKNOWN_CHARACTER = "<eos>", "<unk>", "\N{REPLACEMENT CHARACTER}"


def cut(unit: Unit, content: bytes, name: str) -> Pieces:
    """The pieces of a file.

    Bytes may be anything. Characters and words are read as UTF-8; words are what white space separates, and
    each line ends with the word ``<eos>``.

    Args:
        unit: What a piece is.
        content: Of the file.
        name: Of the file, for messages.

    Raises:
        DataError: it is empty; for characters and words, it is no text in UTF-8.
    """
    if not content:
        raise DataError(f"{name}: is empty. Name a file that holds text.")
    if unit == "bytes":
        return np.frombuffer(content, np.uint8)
    remedy = "Save it as text in UTF-8, or read it with `data.unit=bytes`, which takes any file."
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: not UTF-8 text: byte {error.start} is 0x{content[error.start]:02x} ({error.reason}). "
            f"{remedy}"
        ) from None
    if "\0" in text:
        place = content.index(b"\0")
        raise DataError(
            f"{name}: byte {place} is NUL, so it is no text, or text of another encoding. {remedy}"
        )
    return cut_text(unit, text)


def cut_text(unit: Unit, text: str) -> Pieces:
    """The pieces of a text."""
    if unit == "bytes":
        return np.frombuffer(text.encode(), np.uint8)
    return text if unit == "chars" else text.replace("\n", f" {LINE_END} ").split()


def characters(unit: Unit, pieces: Pieces) -> int:
    """How many characters `pieces` are: bytes, those that begin one in UTF-8, or each byte where they are no
    text; words, with one space between two of a line. Bytes may begin and end within a character."""
    if unit == "chars":
        return len(pieces)
    if unit == "words":
        return len(_written(list(pieces)))
    held = np.asarray(pieces)
    begins = held & 0xC0 != 0x80
    within = int(np.logical_and.accumulate(~begins[:3]).sum())  # bytes of a character that began before
    try:
        codecs.getincrementaldecoder("utf-8")().decode(
            held[within:].tobytes()
        )  # which waits for the rest of the last one
    except UnicodeDecodeError:
        return len(held)
    return int(begins.sum())


def _written(words: Sequence[str]) -> str:
    return re.sub(f" ?{LINE_END} ?", "\n", " ".join(words))


class Vocabulary:
    """The symbols that a text is made of, each with a number.

    Args:
        unit: `bytes`: all 256; `chars`: characters; `words`: words.
        symbols: Of characters and words: number 0 stands for all that are not among them.
    """

    def __init__(self, unit: Unit, symbols: Sequence[str] = ()) -> None:
        self.unit: Unit = unit
        self.symbols = tuple(symbols)
        self._numbers = {symbol: number for number, symbol in enumerate(self.symbols)}
        self._codes = np.array([ord(symbol) for symbol in self.symbols] if unit == "chars" else [], np.uint32)

    @classmethod
    def of(cls, unit: Unit, pieces: Pieces, size: int | None = None) -> Vocabulary:
        """The vocabulary of a training text.

        Args:
            unit: What a piece is.
            pieces: The text.
            size: Of words: the most frequent ones, so many with the one for unknown words; all if None.
        """
        if unit == "bytes":
            return cls(unit)
        if unit == "chars":
            return cls(unit, [UNKNOWN_CHARACTER, *sorted(set(pieces) - {UNKNOWN_CHARACTER})])
        counts = Counter(pieces)
        del counts[UNKNOWN_WORD]
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(unit, [UNKNOWN_WORD, *ordered][:size])

    def __len__(self) -> int:
        return 256 if self.unit == "bytes" else len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and (self.unit, self.symbols) == (other.unit, other.symbols)

    __hash__ = None  # type: ignore[assignment] # as of anything that is compared by value and large

    @property
    def unknown(self) -> int | None:
        """The number that stands for what is not in the vocabulary; None where all is."""
        return None if self.unit == "bytes" else 0

    def plain(self) -> dict[str, Any]:
        """This vocabulary as plain values, for `from_plain`."""
        return {"unit": self.unit, "symbols": list(self.symbols)}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Vocabulary:
        """What `plain` wrote."""
        return cls(values["unit"], values["symbols"])

    def encode(self, pieces: Pieces) -> np.ndarray:
        """The numbers of `pieces`, (T,)."""
        if self.unit == "bytes":
            return np.asarray(pieces, np.uint8)
        if self.unit == "words":
            return np.fromiter((self._numbers.get(word, 0) for word in pieces), np.int32, len(pieces))
        codes = np.frombuffer(str(pieces).encode("utf-32-le"), "<u4")
        order = np.argsort(self._codes)
        place = order[np.searchsorted(self._codes, codes, sorter=order).clip(max=len(order) - 1)]
        return np.where(self._codes[place] == codes, place, 0).astype(np.int32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of these numbers; bytes that are no UTF-8 become replacement characters."""
        decoder = Decoder(self)
        return "".join([*(decoder.feed(int(token)) for token in tokens), decoder.end()])


class Decoder:
    """Text out of numbers, one by one; never half a character.

    Args:
        vocabulary: What the numbers mean.
        after: The text before, from which a word must be kept apart.
    """

    def __init__(self, vocabulary: Vocabulary, after: str = "") -> None:
        self.vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._within = not after[-1:].isspace() and after != ""

    def feed(self, token: int) -> str:
        """The text that `token` completes, which may be none."""
        if self.vocabulary.unit == "bytes":
            return self._utf8.decode(bytes([token]))
        symbol = self.vocabulary.symbols[token]
        if self.vocabulary.unit == "chars":
            return symbol
        space, self._within = " " if self._within else "", symbol != LINE_END
        return space + symbol if self._within else "\n"

    def end(self) -> str:
        """What stands for a character that was never completed."""
        return self._utf8.decode(b"", final=True)


def harmless(text: str) -> str:
    """`text` as a terminal may show it: what is neither printable nor a space, line end or tab, as Python
    writes it."""
    return "".join(sign if _shown(sign) else repr(sign)[1:-1] for sign in text)


def _shown(sign: str) -> bool:
    return (
        sign.isprintable() or sign in "\n\t" or unicodedata.category(sign) == "Zs"
    )  # Python escapes all spaces but one


def require_unit(unit: str) -> Unit:
    """`unit` if it is one.

    Raises:
        ConfigError: it is none.
    """
    for known in get_args(Unit):
        if unit == known:
            return known
    raise ConfigError(f"`unit` must be bytes, chars or words; got {unit!r}.", key="unit")
