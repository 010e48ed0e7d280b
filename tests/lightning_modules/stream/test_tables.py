"""Rows of a table that are predicted many at a time are those that are predicted one by one."""

from __future__ import annotations

import pytest
import torch

from dream import DREAMConfig, DREAMError
from dream.ops import native
from lightning_modules.stream import Reading, Shape, StreamLearner, StreamNetwork, Updates
from lightning_modules.stream.tables import Table

ROWS = 120


def learner(horizon: int, delay: int) -> StreamLearner:
    torch.manual_seed(0)
    shape, reading = Shape("forecasting", 3, 2, horizon), Reading("running", 0.05, lags=2)
    network = StreamNetwork(shape, reading, DREAMConfig(hidden_dim=6, rank=2))
    return StreamLearner(network, Updates("least_squares", forgetting=0.99), delay=delay)


def rows_with_gaps() -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(ROWS, 3, dtype=torch.float64, generator=draw).cumsum(0)
    rows[40, 1] = torch.nan  # one of two targets
    rows[60:63, :2] = torch.nan  # both
    rows[80, 2] = torch.nan  # what is only read
    return rows


@pytest.mark.parametrize(("horizon", "delay"), [(1, 0), (3, 2), (1, 25)])
def test_a_table_is_its_rows(horizon: int, delay: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(native.kernel(), str):
        pytest.skip("there is no kernel")
    rows = rows_with_gaps()
    one, whole, cut = (learner(horizon, delay) for _ in range(3))
    found = whole.process(rows).predictions
    pieces = torch.cat([cut.process(part).predictions for part in rows.split([47, 3, 70])])
    single = torch.cat([one.process(row[None]).predictions for row in rows])
    torch.testing.assert_close(found, single, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, pieces, rtol=1e-4, atol=1e-4)
    for name, value in one.tensors().items():
        torch.testing.assert_close(whole.tensors()[name], value, rtol=1e-3, atol=1e-4, equal_nan=True)
    monkeypatch.setattr(Table, "outputs", lambda *_: None)
    torch.testing.assert_close(learner(horizon, delay).process(rows).predictions, found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("place", [39, 40, 61, 90])
def test_no_bit_depends_on_a_later_row(place: int) -> None:
    rows = rows_with_gaps()
    other = rows.clone()
    other[place:] = 7 * other[place:].flip(0)
    before, after = (learner(1, 0).process(part).predictions for part in (rows, other))
    assert torch.equal(before[:place], after[:place])


def test_a_table_that_is_refused_leaves_the_learner_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, what, twin = rows_with_gaps(), learner(1, 0), learner(1, 0)
    what.process(rows[:50])
    twin.process(rows[:50])
    solve = type(what.rule).solve  # type: ignore[attr-defined]

    def fails(*_: object) -> None:
        raise DREAMError("not finite")

    monkeypatch.setattr(type(what.rule), "solve", fails)
    with pytest.raises(DREAMError):
        what.process(rows[50:])
    monkeypatch.setattr(type(what.rule), "solve", solve)
    assert torch.equal(what.process(rows[50:]).predictions, twin.process(rows[50:]).predictions)
