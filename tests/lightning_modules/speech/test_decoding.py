"""Decoding against all alignments there are."""

from __future__ import annotations

from collections import defaultdict
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn.functional import ctc_loss

from lightning_modules.speech.decoding import BLANK, beam_search, greedy


def log_probs(steps: int, tokens: int, seed: int, sharp: float = 1.0) -> np.ndarray:
    scores = sharp * np.random.default_rng(seed).standard_normal((steps, tokens))
    return scores - np.log(np.exp(scores).sum(1, keepdims=True))


def said(alignment: tuple[int, ...]) -> tuple[int, ...]:
    """Without repeats, then without blanks."""
    kept = [token for token, before in zip(alignment, (None, *alignment), strict=False) if token != before]
    return tuple(token for token in kept if token != BLANK)


def everything(values: np.ndarray) -> dict[tuple[int, ...], float]:
    """The probability of all that can be said, over all alignments."""
    found: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for alignment in product(range(values.shape[1]), repeat=len(values)):
        found[said(alignment)] += float(
            np.exp(sum(values[step, token] for step, token in enumerate(alignment)))
        )
    return dict(found)


@pytest.mark.parametrize("seed", range(12))
def test_beam_search_finds_the_likeliest_and_its_probability(seed: int) -> None:
    values = log_probs(5, 3 + seed % 2, seed, sharp=1 + seed / 6)
    every = everything(values)
    tokens, score = beam_search(values, width=len(every))
    best = max(every, key=lambda text: every[text])
    assert tuple(tokens) == best
    assert np.exp(score) == pytest.approx(every[best], rel=1e-9)
    assert sum(every.values()) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_the_score_is_that_of_the_loss(seed: int) -> None:
    values = log_probs(9, 5, seed, sharp=3.0)
    tokens, score = beam_search(values, width=300)
    loss = ctc_loss(
        torch.from_numpy(values)[:, None], torch.tensor([tokens]), [9], [len(tokens)], reduction="none"
    )
    assert -score == pytest.approx(float(loss[0]), rel=1e-4)  # tokens below LEAST are left out


def test_a_narrow_beam_says_no_more_than_there_is() -> None:
    values = log_probs(6, 4, 3)
    every = everything(values)
    tokens, score = beam_search(values, width=2)
    assert np.exp(score) <= every[tuple(tokens)] + 1e-12


def test_the_best_alignment_is_not_the_best_text() -> None:
    """Graves' example: blank is likeliest at both steps, yet one `a` is likelier over its three
    alignments."""
    values = np.log(np.array([[0.6, 0.4], [0.6, 0.4]]))
    assert greedy(values) == []
    tokens, score = beam_search(values, width=4)
    assert tokens == [1]
    assert np.exp(score) == pytest.approx(2 * 0.24 + 0.16)


def test_repeats_need_a_blank_between_them() -> None:
    certain = np.log(np.full((5, 3), 1e-4))
    for step, token in enumerate((1, 1, 0, 1, 2)):
        certain[step, token] = np.log(1 - 2e-4)
    assert greedy(certain) == [1, 1, 2]
    assert beam_search(certain, width=4)[0] == [1, 1, 2]


def test_the_likeliest_alignment() -> None:
    for seed in range(5):
        values = log_probs(4, 3, seed)
        best = max(
            product(range(3), repeat=4),
            key=lambda path: sum(values[t, token] for t, token in enumerate(path)),
        )
        assert tuple(greedy(values)) == said(best)


def test_nothing_is_said_in_no_time() -> None:
    assert beam_search(np.zeros((0, 3)), width=3) == ([], 0.0)
    assert greedy(np.zeros((0, 3))) == []
