"""Keys of streams, and the hashes that assign them to shards."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from dream.errors import StateError, shown

Key = str | int
"""Key of a stream."""


def bits_of(key: object) -> str:
    """The 64 bits of a hash of `key`, the same on every machine; a text and a number never count as equal.

    Raises:
        StateError: `key` is neither a text nor a whole number.
    """
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise StateError(f"`key` must be a text or a whole number; got {shown(key)}.")
    try:
        content = b"s" + key.encode() if isinstance(key, str) else b"i%d" % key
    except ValueError as error:
        raise StateError(
            "`key` must be a text that UTF-8 can hold or a whole number that Python can print (at most 4,300 "
            f"digits); got one that cannot: {error}."
        ) from None
    return _bits(content)


@lru_cache(1 << 14)  # a call asks several times
def _bits(content: bytes) -> str:
    return f"{int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), 'big'):064b}"


def require_keys(keys: Sequence[Key]) -> None:
    """Refuse an empty list, a key that comes twice, and anything that is not a key.

    Raises:
        StateError: naming the first such key.
    """
    if isinstance(keys, str) or not isinstance(keys, Sequence):
        raise StateError(f"`keys` must be a list of keys, for one stream too; got {shown(keys)}.")
    found: set[Key] = set()
    for key in keys:
        bits_of(key)
        if key in found:
            raise StateError(f"`keys` must name each stream once; {key!r} comes twice.")
        found.add(key)
    if not found:
        raise StateError("`keys` must name at least one stream; got none.")
