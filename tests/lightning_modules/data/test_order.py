from __future__ import annotations

import pytest
import torch

from lightning_modules.data.order import EpochOrder, drawn, in_order, loader, shuffled


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
        rows = loader([torch.arange(3)], EpochOrder(1, lambda _: [0]))
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
