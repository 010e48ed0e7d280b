"""The number of rows that is enough for every part of a split."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lightning_modules.data.split import enough_rows, split_rows


@pytest.mark.parametrize("split", [[0.7, 0.1, 0.2], [0.6, 0.2, 0.1], [0.34, 0.33, 0.33], [0.9, 0.02, 0.08]])
@pytest.mark.parametrize("needed", [(1, 1, 1), (50, 8, 9), (3, 40, 2)])
def test_it_is_the_fewest(split: list[float], needed: tuple[int, int, int]) -> None:
    def sizes(rows: int) -> list[int]:
        return [part.stop - part.start for part in split_rows(rows, split)]

    found = enough_rows(60, split, needed)
    assert found is not None
    assert (np.array(sizes(found)) >= needed).all()
    assert all((np.array(sizes(rows)) < needed).any() for rows in range(60, found))
    assert enough_rows(60, [40, 10, 10], needed) is None


@pytest.mark.parametrize("split", [[0.999, 0.0005, 0.0005], [1e-9, 0.5, 0.5 - 1e-9], [0.5, 1e-9, 0.5 - 1e-9]])
def test_a_tiny_fraction_takes_no_time(split: list[float]) -> None:
    begin = time.process_time()
    found = enough_rows(10, split, (100, 10, 10))
    assert time.process_time() - begin < 0.5
    assert found is not None
    parts = split_rows(found, split)
    assert [part.stop - part.start for part in parts] >= [100, 10, 10]
