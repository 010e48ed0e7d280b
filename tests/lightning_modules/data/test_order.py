from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_modules.data.order import EpochOrder, drawn, in_order, loader, permutation, shuffled


@pytest.fixture(params=[shuffled, lambda count, size: drawn(count, 23, size), in_order])
def order(request: pytest.FixtureRequest) -> EpochOrder:
    torch.manual_seed(5)
    made: EpochOrder = request.param(23, 4)
    return made


class TestEpochOrder:
    def test_it_goes_on_from_any_batch(self, order: EpochOrder) -> None:
        order.set_epoch(3)
        whole = list(order)
        assert [len(key) for key in whole] == [4, 4, 4, 4, 4, 3]
        assert len(order) == 6
        for first in range(6):
            order.first = first
            assert list(order) == whole[first:]
            assert list(order) == whole  # only once
        order.first = 6
        order.set_epoch(4)
        assert len(list(order)) == 6  # a new epoch starts with its first batch

    def test_neither_the_order_nor_the_loader_touches_the_global_generator(self, order: EpochOrder) -> None:
        rows = loader([torch.arange(3)], EpochOrder(1, lambda _: int))
        before = torch.get_rng_state()
        whole = list(order)
        assert torch.equal(next(iter(rows)), torch.arange(3))
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(7)
        assert list(order) == whole


def test_shuffled_holds_every_item_once_and_depends_on_seed_and_epoch() -> None:
    seen = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        order = shuffled(100, 7)
        for epoch in (0, 1):
            order.set_epoch(epoch)
            items = [item for key in order for item in key]
            assert sorted(items) == list(range(100))
            seen.add(tuple(items))
    assert len(seen) == 4


def test_nothing_to_draw_from() -> None:
    assert list(drawn(0, 9, 4)) == []
    assert list(shuffled(0, 4)) == []


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 99, 4096, 5000])
def test_a_permutation_holds_every_item_once_in_any_pieces(count: int) -> None:
    items = permutation(count, torch.Generator().manual_seed(count))
    whole = items(range(count))
    assert sorted(whole.tolist()) == list(range(count))
    assert whole.tolist() == [item for k in range(count) for item in items(range(k, k + 1))][:count]


def test_permutations_are_even() -> None:
    """Items reach all places equally often but for chance, and neighbours are separated."""
    drawn = np.stack(
        [permutation(11, torch.Generator().manual_seed(seed))(range(11)) for seed in range(3000)]
    )
    counts = np.array([np.bincount(column, minlength=11) for column in drawn.T])
    expected = 3000 / 11
    assert (
        (counts - expected) ** 2 / expected
    ).sum() < 100 + 5 * 200**0.5  # chi squared of 100 degrees, 5 deviations
    large = permutation(50_000, torch.Generator().manual_seed(0))(range(50_000))
    assert abs(np.corrcoef(large[1:], large[:-1])[0, 1]) < 0.02
