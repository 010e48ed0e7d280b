"""Counted language models against counts by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_modules.language import ngrams
from lightning_modules.language.ngrams import NGrams

A, B, C, D = range(4)


@pytest.mark.parametrize("block", [1, 2, 5, 1 << 20])
def test_counted_by_hand(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "BLOCK", block)
    counted = NGrams(np.array([A, B, A, B, A, C]), 4)
    share = {A: 4 / 10, B: 3 / 10, C: 2 / 10, D: 1 / 10}
    assert counted.unigram(np.array([A, B, C, D])) == pytest.approx(
        [-math.log(share[k]) for k in (A, B, C, D)]
    )
    # after A: B twice, C once, two different ones; after C and D: nothing is known
    expected = [(2 + 2 * share[B]) / 5, (1 + 2 * share[C]) / 5, (0 + 2 * share[A]) / 5, share[A], share[B]]
    found = counted.bigram(np.array([A, A, A, C, D]), np.array([B, C, A, A, B]))
    assert found == pytest.approx([-math.log(p) for p in expected])


def test_probabilities_sum_to_one() -> None:
    random = np.random.default_rng(0)
    counted = NGrams(random.integers(0, 9, 200).astype(np.uint8), 11)
    every = np.arange(11)
    assert np.exp(-counted.unigram(every)).sum() == pytest.approx(1)
    for before in every:
        assert np.exp(-counted.bigram(np.full(11, before), every)).sum() == pytest.approx(1)


def test_a_text_that_repeats_itself_is_known() -> None:
    counted = NGrams(np.tile([A, B, C], 1000), 4)
    assert counted.bigram(np.array([A, B, C]), np.array([B, C, A])).max() < 0.001
