"""`Vocabulary`: text to numbers and back, whatever the text; what a terminal is shown."""

from __future__ import annotations

from unicodedata import category

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dream.errors import ConfigError, DataError
from lightning_modules.language.vocabulary import (
    Decoder,
    Vocabulary,
    characters,
    cut,
    cut_text,
    harmless,
    require_unit,
)

ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(ANY, st.sampled_from(["bytes", "chars"]))
def test_decoding_undoes_encoding(text: str, unit: str) -> None:
    pieces = cut_text(require_unit(unit), text)
    vocabulary = Vocabulary.of(require_unit(unit), pieces)
    assert vocabulary.decode(vocabulary.encode(pieces)) == text
    assert characters(vocabulary.unit, pieces) == len(text)


@given(st.lists(st.sampled_from(["a", "bc", "\n", "d,", "\N{EURO SIGN}"]), max_size=30))
def test_words_come_back_with_single_spaces(words: list[str]) -> None:
    pieces = cut_text("words", " ".join(words))
    vocabulary = Vocabulary.of("words", pieces)
    text = "\n".join(" ".join(line.split()) for line in " ".join(words).split("\n"))
    assert vocabulary.decode(vocabulary.encode(pieces)) == text
    assert characters("words", pieces) == len(text)


def test_bytes_are_any_file() -> None:
    content = bytes(range(256))
    tokens = Vocabulary("bytes").encode(cut("bytes", content, "it"))
    assert tokens.tolist() == list(range(256))
    assert characters("bytes", tokens) == 256
    assert Vocabulary("bytes").unknown is None


def test_characters_of_bytes_are_those_of_their_text_even_where_it_is_cut() -> None:
    held = np.frombuffer("a\N{EURO SIGN}b".encode(), np.uint8)
    assert [characters("bytes", held[:stop]) for stop in range(6)] == [0, 1, 2, 2, 2, 3]
    assert characters("bytes", np.array([0xFF, 0x80, 0x80, 0x80, 0x80], np.uint8)) == 5


def test_characters_of_a_text_that_begins_and_ends_within_one() -> None:
    held = np.frombuffer("x\N{CYRILLIC SMALL LETTER ZHE}\N{EURO SIGN}y\N{FOX FACE}z".encode(), np.uint8)
    places = np.array([0, 1, 3, 6, 7, 11])  # where a character begins
    for start in range(len(held)):
        for stop in range(start, len(held) + 1):
            assert characters("bytes", held[start:stop]) == ((start <= places) & (places < stop)).sum(), (
                start,
                stop,
            )
    latin = np.frombuffer("Stra\xdfe, \xbfqu\xe9?".encode("latin-1"), np.uint8)
    assert characters("bytes", latin) == 13


def test_what_the_training_text_does_not_have_is_unknown() -> None:
    chars = Vocabulary.of("chars", "banana")
    assert chars.symbols == ("\N{REPLACEMENT CHARACTER}", "a", "b", "n")
    assert chars.encode("bax\N{REPLACEMENT CHARACTER}").tolist() == [2, 1, 0, 0]
    words = Vocabulary.of("words", cut_text("words", "the cat <unk> the dog\nthe cat\n"))
    assert words.symbols == ("<unk>", "the", "<eos>", "cat", "dog")
    assert words.encode(cut_text("words", "a cat <unk>\n")).tolist() == [0, 3, 0, 2]
    assert chars.unknown == words.unknown == 0


def test_a_vocabulary_keeps_the_most_frequent_words() -> None:
    pieces = cut_text("words", "b b b c c a a d\n")
    vocabulary = Vocabulary.of("words", pieces, 4)
    assert vocabulary.symbols == ("<unk>", "b", "a", "c")
    assert vocabulary.decode(vocabulary.encode(pieces)) == "b b b c c a a <unk> <unk>"


def test_it_is_kept_as_plain_values() -> None:
    vocabulary = Vocabulary.of("words", cut_text("words", "a b\n"))
    again = Vocabulary.from_plain(vocabulary.plain())
    assert again == vocabulary
    assert again != Vocabulary.of("chars", "a b\n")
    assert again != Vocabulary.of("words", cut_text("words", "a c\n"))


def test_no_half_character_is_shown() -> None:
    decoder = Decoder(Vocabulary("bytes"))
    assert [decoder.feed(byte) for byte in "a\N{EURO SIGN}b".encode()] == ["a", "", "", "\N{EURO SIGN}", "b"]
    assert decoder.end() == ""
    assert [decoder.feed(byte) for byte in b"\xe2\x82x"] == ["", "", "\N{REPLACEMENT CHARACTER}x"]
    assert decoder.feed(0xE2) == ""
    assert decoder.end() == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("before", "text"), [("", "a b\na"), ("see", " a b\na"), ("see ", "a b\na"), ("see\n", "a b\na")]
)
def test_words_are_kept_apart_from_what_stands_before_them(before: str, text: str) -> None:
    vocabulary = Vocabulary.of("words", ["a", "b", "<eos>"])
    decoder = Decoder(vocabulary, before)
    assert "".join(map(decoder.feed, vocabulary.encode(["a", "b", "<eos>", "a"]))) == text


@given(st.binary(max_size=30))
def test_bytes_that_are_no_text_are_shown_all_the_same(content: bytes) -> None:
    shown = Vocabulary("bytes").decode(list(content))
    assert shown == content.decode("utf-8", "replace")


@given(st.text(max_size=30))
def test_a_terminal_is_given_no_orders(text: str) -> None:
    assert all(sign.isprintable() or sign in "\n\t" or category(sign) == "Zs" for sign in harmless(text))


def test_what_can_be_shown_is() -> None:
    plain = "a\tb\nGr\xfc\xdfe, \N{EURO SIGN}\N{NO-BREAK SPACE}5\N{IDEOGRAPHIC SPACE}\\n"
    assert harmless(plain) == plain
    assert harmless("\x1b[2Ja\r\x9b\N{RIGHT-TO-LEFT OVERRIDE}") == "\\x1b[2Ja\\r\\x9b\\u202e"


def test_a_byte_order_mark_is_no_character() -> None:
    assert cut("chars", b"\xef\xbb\xbfab", "it") == "ab"


@pytest.mark.parametrize("content", [b"ab\xff", b"ab\0"])
def test_what_is_no_text_is_refused_by_its_byte(content: bytes) -> None:
    with pytest.raises(
        DataError, match=r"^it: .*byte 2 is (0xff|NUL).*`data.unit=bytes`, which takes any file\.$"
    ):
        cut("words", content, "it")


def test_other_units_are_refused() -> None:
    with pytest.raises(ConfigError, match="`unit` must be bytes, chars or words; got 'letters'"):
        require_unit("letters")
