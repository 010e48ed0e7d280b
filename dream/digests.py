"""Sizes and SHA-256 of files, whole or of their first bytes."""

from __future__ import annotations

import hashlib
import os
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import Any

from dream.files import opened

Sum = tuple[int, str]
"""Size and SHA-256 of a file."""


def sha256(file: BufferedReader | BufferedRandom) -> str:
    """The SHA-256 of a whole file, in hexadecimal digits."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def begun(file: BufferedReader, length: int) -> tuple[int, Any]:
    """Number of bytes that `file` has of its next `length` ones, and their SHA-256 so far."""
    digest, left = hashlib.sha256(), length
    while left and (part := file.read(min(left, 2**20))):
        digest.update(part)
        left -= len(part)
    return length - left, digest


def has(path: Path, one: Sum | None, growing: bool = False) -> bool:
    """Whether a file has this sum, or its first bytes have."""
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            if one is None or size < one[0] or (size > one[0] and not growing):
                return False
            read_, digest = begun(file, one[0])
            return (read_, digest.hexdigest()) == one
    except FileNotFoundError:
        return one is None or (growing and one[0] == 0)
    except OSError:
        return False


def sum_of(path: Path) -> Sum | None:
    """Return the sum of a file; None where it cannot be read."""
    try:
        with opened(path) as file:
            size, digest = begun(file, os.fstat(file.fileno()).st_size)
    except OSError:
        return None
    return size, digest.hexdigest()


def stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is written: its number, size and time."""
    found = path.lstat()
    return found.st_ino, found.st_size, found.st_mtime_ns
