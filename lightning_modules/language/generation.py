"""Text that a language model writes: how it is sampled, and how a terminal shows it."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightning_modules.base import require
from lightning_modules.data.base import require_int
from lightning_modules.language.vocabulary import harmless


@dataclass(frozen=True)
class Sampling:
    """How text is written.

    Args:
        prompt: What it begins with; the beginning of a line if it holds no token. Characters and words that
            the training text does not have are read as the unknown one.
        length: Tokens to write after the prompt.
        temperature: Below 1 the likely is likelier still, above 1 less so; 0 always takes the most likely
            token.
        top_k: Choose among so many of the most likely tokens; among all if not given.
        learn: Whether fast weights go on learning from what the model writes itself. They learn from the
            prompt either way.
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
        require(
            "temperature", self.temperature, 0 <= self.temperature < math.inf, "a finite number of at least 0"
        )
        if self.top_k is not None:
            require_int("top_k", self.top_k)


def choose(scores: Tensor, sampling: Sampling, unknown: int | None = None) -> int:
    """A token drawn from ``softmax(scores / temperature)`` of the `top_k` largest `scores` (V,).

    Draws from torch's global generator; the token `unknown` is never chosen.
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
    """Write `text` to the terminal at once, without what a terminal would obey or cannot show.

    Raises:
        BrokenPipeError: nobody reads on, as in ``dream predict ... | head``; what is written later goes
            nowhere.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(harmless(text).encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # or Python would complain at its end
        raise
