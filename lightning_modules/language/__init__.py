"""Language: predict the next token of a text, learning while reading.

The task is `module`. Texts come from `sets` (your own files, public data); `vocabulary` turns them into
tokens, and `data` cuts them into chunks. `vocabulary_loss` computes the loss over a large vocabulary, and
`generation` writes text. `record` collects a test, with the naive rivals of `ngrams`, for `plots`."""

from lightning_modules.language.data import LanguageData, LanguageShape, TextBatch
from lightning_modules.language.module import LanguageModule, LanguageSettings
from lightning_modules.language.sets import PythonDocs, TextFile, TinyShakespeare, WikiText2

__all__ = [
    "LanguageData",
    "LanguageModule",
    "LanguageSettings",
    "LanguageShape",
    "PythonDocs",
    "TextBatch",
    "TextFile",
    "TinyShakespeare",
    "WikiText2",
]
