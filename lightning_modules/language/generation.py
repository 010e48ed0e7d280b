"""Text written by a language model: how it is sampled, and how a terminal shows it."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightning_modules.checks import require, require_int
from lightning_modules.language.vocabulary import harmless


@dataclass(frozen=True)
class Sampling:
    """Settings of text generation.

    Args:
        prompt: Beginning of the text; the beginning of a line if it holds no token. Characters and words that
            the training text lacks are read as the unknown one.
        length: Number of tokens to write after the prompt.
        temperature: Below 1 likely tokens become more likely, above 1 less; 0 always takes the likeliest one.
        top_k: Number of the likeliest tokens to choose from; all if not given.
        learn: Whether fast weights keep learning from the text that the model writes. They learn from the
            prompt in any case.
    """

    prompt: str = ""
    length: int = 500
    temperature: float = 1.0
    top_k: int | None = None
    learn: bool = False

    def __post_init__(self) -> None:
        whole = not any(0xD800 <= ord(sign) < 0xE000 for sign in self.prompt)
        require("prompt", self.prompt, whole, "text that UTF-8 can write, without surrogates")
        require_int("length", self.length)
        finite = 0 <= self.temperature < math.inf
        require("temperature", self.temperature, finite, "a finite number of at least 0")
        if self.top_k is not None:
            require_int("top_k", self.top_k)


def choose(scores: Tensor, sampling: Sampling, unknown: int | None = None) -> int:
    """Draw a token from ``softmax(scores / temperature)`` of the `top_k` largest `scores` (V,).

    Uses torch's global generator, and never chooses the token `unknown`.
    """
    scores = scores.cpu().double()
    if unknown is not None:
        scores[unknown] = -math.inf
    if sampling.temperature == 0:
        return int(scores.argmax())
    kept, tokens = scores.topk(min(sampling.top_k or len(scores), len(scores)))
    share = ((kept - kept[0]) / sampling.temperature).softmax(0)
    return int(tokens[torch.multinomial(share, 1)])


def show(text: str) -> None:
    """Write `text` to the terminal at once, without control sequences and characters that it cannot show.

    Raises:
        BrokenPipeError: the reader has closed the pipe, as in ``dream predict ... | head``. Later output is
            discarded.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(harmless(text).encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # or Python would report an error on exit
        raise
