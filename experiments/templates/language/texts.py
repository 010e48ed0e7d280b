"""Texts of one's own, cut into tokens in one's own way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from dream.errors import DataError
from lightning_modules.language import LanguageData
from lightning_modules.language.data import Text

KINDS = (".txt", ".md", ".rst")


def tokenise(text: str) -> str:
    """`text` with a space between tokens: words in lower case without their ending `s`, and each sign by
    itself.

    What `data.unit: words` takes for a word is what stands between two spaces; a line end stays one. A prompt
    of ``dream predict`` is written the same way."""
    tokens = re.findall(r"\n|\w+|[^\w\s]", text.lower())
    return " ".join(token[:-1] if re.fullmatch(r"\w\w+[^su]s", token) else token for token in tokens)


class MyTexts(LanguageData):
    """All texts in a folder, or without one the help that comes with Python. Put your own source into `read`.

    Args:
        folder: Its files that end in .txt, .md or .rst are read, one after the other; null for Python's help.
    """

    def __init__(self, folder: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder

    def read(self) -> Mapping[str, Text]:
        """The text to train on; validation and test part are cut off its end where `val` and `test` are not
        given."""
        if self.folder is None:
            return {"train": self._text("help topics of Python", [topics[name] for name in sorted(topics)])}
        files = [path for path in sorted(Path(self.folder).rglob("*")) if path.suffix in KINDS]
        if not files:
            raise DataError(f"{self.folder}: no file ends in {', '.join(KINDS)}. Check `data.folder`.")
        return {"train": self._text(self.folder, [path.read_text(encoding="utf-8") for path in files])}

    def _text(self, name: str, texts: list[str]) -> Text:
        return Text(name, tokenise("\n".join(texts)).encode())
