"""Where texts come from: Python's own documentation, your files, and two public sets."""

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
    """The content of a file, which the setting `key` names.

    Raises:
        DataError: it is not there, is no file, or cannot be read.
    """
    file = local(path)
    if not file.is_file():
        kind = (
            "is a folder, not a file"
            if file.is_dir()
            else "is no plain file"
            if file.exists()
            else "no such file"
        )
        raise DataError(f"{file}: {kind}. Check `{key}`.")
    try:
        return Text(file.name, file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}.") from error


class PythonDocs(LanguageData):
    """The help topics that come with Python: about 370,000 characters of technical English; needs no file.

    Several topics quote others at length, so each paragraph is kept where it stands first, and none is in two
    parts."""

    def read(self) -> Mapping[str, Text]:
        from pydoc_data.topics import topics

        paragraphs = dict.fromkeys("\n\n".join(topics[name] for name in sorted(topics)).split("\n\n"))
        name = f"help topics of Python {platform.python_version()}"
        return {"train": Text(name, "\n\n".join(paragraphs).encode())}


class TextFile(LanguageData):
    """Your own text; with `unit` bytes any file at all.

    Args:
        path: The text to train on, of which the validation and test parts are cut off where they are not
            given.
        val_path: A text of its own to validate with.
        test_path: A text of its own to test with.
    """

    def __init__(
        self, path: str, val_path: str | None = None, test_path: str | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.paths = {"train": path} | {
            k: v for k, v in (("val", val_path), ("test", test_path)) if v is not None
        }

    def read(self) -> Mapping[str, Text]:
        return {
            part: read_file(path, "path" if part == "train" else f"{part}_path")
            for part, path in self.paths.items()
        }


class TinyShakespeare(LanguageData):
    """A million characters of Shakespeare; the last 10 % are what others call the validation part, and are
    the test here.

    The share that picks the best epoch is taken from the beginning of what others train on. The end would not
    do: it has the beginning of the play with which the test part goes on, and so the only training text with
    its names."""

    def read(self) -> Mapping[str, Text]:
        name, content = read_file(data_path("tiny_shakespeare", "input.txt"))
        start, stop = int(self.validation * len(content)), int((1 - self.test) * len(content))
        parts = {"train": slice(start, stop), "val": slice(start), "test": slice(stop, None)}
        return {part: Text(name, content[places]) for part, places in parts.items()}


class WikiText2(LanguageData):
    """Two million words of Wikipedia articles in the publisher's three parts; rare words are `<unk>` in it
    already."""

    def read(self) -> Mapping[str, Text]:
        files = {"train": "train.txt", "val": "valid.txt", "test": "test.txt"}
        return {part: read_file(data_path("wikitext2", file)) for part, file in files.items()}
