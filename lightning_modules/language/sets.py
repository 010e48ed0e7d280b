"""Texts: Python's own documentation, your own files, and two public sets."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dream.errors import DataError
from lightning_modules.data.catalogue import data_path
from lightning_modules.data.limits import local
from lightning_modules.language.data import LanguageData, Text


def read_file(path: str | Path, key: str = "path") -> Text:
    """Content of a file, which the setting `key` names.

    Raises:
        DataError: the file does not exist, is no plain file, or cannot be read.
    """
    file = local(path)
    if not file.is_file():
        kind = "no such file"
        if file.exists():
            kind = "is a folder, not a file" if file.is_dir() else "is no plain file"
        raise DataError(f"{file}: {kind}. Check `{key}`.")
    try:
        return Text(file.name, file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}.") from error


class PythonDocs(LanguageData):
    """The help topics that come with Python: about 370,000 characters of technical English; needs no file.

    Topics quote each other at length, so only the first copy of each paragraph is kept: none is in two
    parts."""

    def read(self) -> Mapping[str, Text]:
        from pydoc_data.topics import topics

        paragraphs = dict.fromkeys("\n\n".join(topics[name] for name in sorted(topics)).split("\n\n"))
        name = f"help topics of Python {platform.python_version()}"
        return {"train": Text(name, "\n\n".join(paragraphs).encode())}


class TextFile(LanguageData):
    """Your own text; with `unit` bytes any file at all.

    Args:
        path: Text to train on; validation and test parts that are not given are cut off from it.
        val_path: Separate text for validation.
        test_path: Separate text for the test.
    """

    def __init__(
        self, path: str, val_path: str | None = None, test_path: str | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.path = path
        self.val_path = val_path
        self.test_path = test_path

    def read(self) -> Mapping[str, Text]:
        train = ("path", self.path)
        named = {"train": train, "val": ("val_path", self.val_path), "test": ("test_path", self.test_path)}
        return {part: read_file(path, key) for part, (key, path) in named.items() if path is not None}


class TinyShakespeare(LanguageData):
    """A million characters of Shakespeare, of which the last 10 %, usually the validation part, are the test.

    The share that picks the best epoch is taken from the beginning of the usual training part, and not from
    its end: the play with which the test part continues begins there, and it is the only training text with
    the names in that play."""

    def read(self) -> Mapping[str, Text]:
        name, content = read_file(data_path("tiny_shakespeare", "input.txt"))
        start, stop = int(self.validation * len(content)), int((1 - self.test) * len(content))
        parts = {"train": slice(start, stop), "val": slice(start), "test": slice(stop, None)}
        return {part: Text(name, content[places]) for part, places in parts.items()}


class WikiText2(LanguageData):
    """Two million words of Wikipedia articles in the publisher's three parts, with `<unk>` for rare words."""

    def read(self) -> Mapping[str, Text]:
        files = {"train": "train.txt", "val": "valid.txt", "test": "test.txt"}
        return {part: read_file(data_path("wikitext2", file)) for part, file in files.items()}
