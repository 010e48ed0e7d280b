"""Parts of labelled samples: spread over classes, and whole subjects."""

from __future__ import annotations

from collections import Counter

import numpy as np

from lightning_modules.data.split import spread, spread_groups


def test_a_share_is_spread_evenly_over_the_keys() -> None:
    keys = [(label,) for label in "aaaaaaaabbbb"]
    taken = spread([*keys, None], 0.25, 0)
    assert Counter(keys[place] for place in taken) == {("a",): 2, ("b",): 1}
    assert taken == spread([*keys, None], 0.25, 0)
    assert len({tuple(spread(keys, 0.25, seed)) for seed in range(9)}) > 1
    assert len(spread(keys, 0.01, 0)) == 1
    assert spread([None, None], 0.5, 0) == []


def test_groups_are_taken_whole_and_keep_the_shares_of_the_classes() -> None:
    random = np.random.default_rng(0)
    groups = [f"g{k}" for k in random.integers(0, 30, 600)]
    labels = ["a" if int(group[1:]) % 3 else random.choice(["a", "b"]) for group in groups]
    taken = spread_groups(labels, groups, 0.25, 0)
    inside = {groups[place] for place in taken}
    assert sorted(taken) == [place for place, group in enumerate(groups) if group in inside]
    counts = Counter(labels[place] for place in taken)
    assert abs(counts["a"] - 0.25 * labels.count("a")) < 15
    assert abs(counts["b"] - 0.25 * labels.count("b")) < 15
    assert len({tuple(spread_groups(labels, groups, 0.25, seed)) for seed in range(4)}) > 1


def test_one_group_is_always_left_and_one_always_taken() -> None:
    assert spread_groups(["a", "b"], ["g", "h"], 0.99, 0) in ([0], [1])
    assert len(spread_groups(["a"] * 9, list("ggggggggh"), 0.01, 0)) == 1
    assert spread_groups(["a", "b"], ["g", "g"], 0.5, 0) == []
