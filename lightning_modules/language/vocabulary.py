"""`Vocabulary`: text as numbers, by bytes, characters or words.

The pieces of a text are an array of bytes, a string of characters, or a list of words.
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
    """Pieces of a file.

    Bytes may be anything. Characters and words must be UTF-8; words are separated by white space, and each
    line ends with the word ``<eos>``.

    Args:
        unit: Kind of the pieces.
        content: Content of the file.
        name: Name of the file in messages.

    Raises:
        DataError: the file is empty or, for characters and words, not UTF-8 text.
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
    """Pieces of a text."""
    if unit == "bytes":
        return np.frombuffer(text.encode(), np.uint8)
    return text if unit == "chars" else text.replace("\n", f" {LINE_END} ").split()


def characters(unit: Unit, pieces: Pieces) -> int:
    """Number of characters in `pieces`.

    Bytes may begin and end within a character; each counts as one if they are not UTF-8. Between two words of
    a line there is one space."""
    if unit == "chars":
        return len(pieces)
    if unit == "words":
        return len(_written(list(pieces)))
    held = np.asarray(pieces)
    begins = held & 0xC0 != 0x80
    within = int(np.logical_and.accumulate(~begins[:3]).sum())  # bytes of a character that began before
    try:  # an incremental decoder accepts half a character at the end
        codecs.getincrementaldecoder("utf-8")().decode(held[within:].tobytes())
    except UnicodeDecodeError:
        return len(held)
    return int(begins.sum())


def _written(words: Sequence[str]) -> str:
    return re.sub(f" ?{LINE_END} ?", "\n", " ".join(words))


class Vocabulary:
    """Numbered symbols of a text.

    Args:
        unit: `bytes`: all 256; `chars`: characters; `words`: words.
        symbols: Characters or words; number 0 stands for all others.
    """

    def __init__(self, unit: Unit, symbols: Sequence[str] = ()) -> None:
        self.unit: Unit = unit
        self.symbols = tuple(symbols)
        self._numbers = {symbol: number for number, symbol in enumerate(self.symbols)}
        self._codes = np.array([ord(symbol) for symbol in self.symbols] if unit == "chars" else [], np.uint32)

    @classmethod
    def of(cls, unit: Unit, pieces: Pieces, size: int | None = None) -> Vocabulary:
        """Vocabulary of a training text.

        Args:
            unit: Kind of the pieces.
            pieces: The text.
            size: Number of words to keep, the most frequent ones, including the one for unknown words; all if
                None.
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

    __hash__ = None  # type: ignore[assignment] # large, and compared by value

    @property
    def unknown(self) -> int | None:
        """Number of the symbol for everything outside the vocabulary; None if nothing is."""
        return None if self.unit == "bytes" else 0

    def plain(self) -> dict[str, Any]:
        """Vocabulary as plain values, for `from_plain`."""
        return {"unit": self.unit, "symbols": list(self.symbols)}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Vocabulary:
        """Vocabulary from the values that `plain` returned."""
        return cls(values["unit"], values["symbols"])

    def encode(self, pieces: Pieces) -> np.ndarray:
        """Numbers (T,) of `pieces`."""
        if self.unit == "bytes":
            return np.asarray(pieces, np.uint8)
        if self.unit == "words":
            return np.fromiter((self._numbers.get(word, 0) for word in pieces), np.int32, len(pieces))
        codes = np.frombuffer(str(pieces).encode("utf-32-le"), "<u4")
        order = np.argsort(self._codes)
        place = order[np.searchsorted(self._codes, codes, sorter=order).clip(max=len(order) - 1)]
        return np.where(self._codes[place] == codes, place, 0).astype(np.int32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text of these numbers; bytes that are not UTF-8 become replacement characters."""
        decoder = Decoder(self)
        return "".join([*(decoder.feed(int(token)) for token in tokens), decoder.end()])


class Decoder:
    """Decoder of numbers into text, one by one, that never returns half a character.

    Args:
        vocabulary: Vocabulary of the numbers.
        after: Text before the first number, to be separated from a word.
    """

    def __init__(self, vocabulary: Vocabulary, after: str = "") -> None:
        self.vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._within = not after[-1:].isspace() and after != ""

    def feed(self, token: int) -> str:
        """Text that `token` completes; empty if none."""
        if self.vocabulary.unit == "bytes":
            return self._utf8.decode(bytes([token]))
        symbol = self.vocabulary.symbols[token]
        if self.vocabulary.unit == "chars":
            return symbol
        space = " " if self._within else ""
        self._within = symbol != LINE_END
        return space + symbol if self._within else "\n"

    def end(self) -> str:
        """Replacement for a character that was never completed; empty if there is none."""
        return self._utf8.decode(b"", final=True)


def harmless(text: str) -> str:
    """`text` for a terminal: signs other than printable ones, spaces, line ends and tabs are escaped."""
    return "".join(sign if _shown(sign) else repr(sign)[1:-1] for sign in text)


def _shown(sign: str) -> bool:
    # Python takes only one kind of space for printable
    return sign.isprintable() or sign in "\n\t" or unicodedata.category(sign) == "Zs"


def require_unit(unit: str) -> Unit:
    """Return `unit` if it is one.

    Raises:
        ConfigError: it is not.
    """
    for known in get_args(Unit):
        if unit == known:
            return known
    raise ConfigError(f"`unit` must be bytes, chars or words; got {unit!r}.", key="unit")
