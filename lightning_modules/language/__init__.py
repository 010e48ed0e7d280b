"""Language: what comes next in a text, token by token, learning while it reads.

`module` is the task. `data` is text in lanes, `sets` where it comes from, `vocabulary` its tokens.
`vocabulary_loss` is the loss of many tokens, `generation` writes text, `ngrams` are the naive rivals;
`scores` collects a test, with `plots`."""

from lightning_modules.language.data import LanguageData, LanguageShape, TextBatch
from lightning_modules.language.module import LanguageModule
from lightning_modules.language.sets import PythonDocs, TextFile, TinyShakespeare, WikiText2

__all__ = [
    "LanguageData",
    "LanguageModule",
    "LanguageShape",
    "PythonDocs",
    "TextBatch",
    "TextFile",
    "TinyShakespeare",
    "WikiText2",
]
