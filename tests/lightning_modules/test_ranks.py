"""Several processes train as one does: the samples of each, and the gradients of every step."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from dream import DREAMConfig, DREAMState
from dream.errors import ConfigError
from experiments import launch
from lightning_modules import ranks
from lightning_modules.data import TaskData
from lightning_modules.data.order import in_order, shuffled
from tests.lightning_modules.support import small_data, small_module, small_trainer
from tests.soak import ranks as soak


def among(data: TaskData, rank: int, world: int) -> Any:
    """`data` as one of several processes sees it."""
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world)  # type: ignore[assignment]
    return data


@pytest.mark.parametrize(("rows", "group"), [(7, 1), (12, 2), (9, 3)])
def test_rows_are_dealt_out_and_put_together_again(
    rows: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DREAMConfig(input_dim=3, hidden_dim=64, rank=4)
    state = DREAMState.fresh(config, rows, torch.ones(3)).map(torch.rand_like)
    values = torch.arange(rows * 2.0).view(rows, 2)
    monkeypatch.setattr(ranks, "world_size", lambda: 3)
    hands: list[tuple[Tensor, DREAMState]] = []
    for rank in range(3):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        hands.append((ranks.mine(values, group), ranks.mine(state, group)))
    assert hands[1][0].tolist() == values[[k for k in range(rows) if k // group % 3 == 1]].tolist()
    monkeypatch.setattr(ranks, "gather", lambda own: [hand[isinstance(own, DREAMState)] for hand in hands])
    assert torch.equal(ranks.whole(hands[0][0], group), values)
    assert all(torch.equal(a, b) for a, b in zip(ranks.whole(hands[2][1], group), state, strict=True))


def test_alone_nothing_changes() -> None:
    counts, prior = torch.tensor([3, 4]), torch.rand(5)
    before = prior.clone()
    ranks.mean_over_ranks_([prior], weight=0)
    assert torch.equal(prior, before)
    assert ranks.mean(counts).tolist() == [3, 4]
    assert ranks.gather("a") == ["a"]
    assert not ranks.anywhere(False)
    assert torch.equal(ranks.whole(prior), prior)


@pytest.mark.parametrize("order", [in_order, shuffled])
def test_the_parts_of_a_batch_are_the_batch(order: Any) -> None:
    whole = list(order(10, 4))
    parts = [list(order(10, 4).shared(rank, 3)) for rank in range(3)]
    together = [sorted(item for part in batch for item in part) for batch in zip(*parts, strict=True)]
    assert together == [sorted(batch) for batch in whole]
    assert parts[2][-1] == []  # the last batch has two items


def test_a_process_without_rows_gets_one_that_does_not_count() -> None:
    batches = [list(among(soak.forecasting()[1], rank, 2).train_dataloader()) for rank in (0, 1)]
    assert [len(batch.past) for batch in batches[0]] == [7, 7, 7, 7, 1]
    assert [len(batch.past) for batch in batches[1]] == [6, 6, 6, 6, 1]
    assert [batch.spare for batch in batches[1]] == [False] * 4 + [True]
    assert batches[1][-1].future.isnan().all()
    crops = list(among(soak.online()[1], 1, 2).train_dataloader())
    assert [batch.spare for batch in crops] == [False, False, True]
    words = list(among(soak.speech()[1], 1, 2).train_dataloader())
    assert sorted(batch.spare for batch in words) == [False, False, False, True]


def test_streams_are_dealt_out_and_all_processes_take_as_many_steps() -> None:
    whole = list(soak.anomaly()[1].train_dataloader())
    parts = [list(among(soak.anomaly()[1], rank, 2).train_dataloader()) for rank in (0, 1)]
    assert len(parts[0]) == len(parts[1]) == len(whole)
    for one, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(one.values[[0, 2, 1]], torch.cat([first.values, second.values]))
        assert torch.equal(one.counted[[0, 2, 1]], torch.cat([first.counted, second.counted]))
    lanes = soak.CASES["forecasting, streams"]
    streams = [
        list(data.train_dataloader())
        for data in (lanes()[1], among(lanes()[1], 0, 2), among(lanes()[1], 1, 2))
    ]
    for one, first, second in zip(*streams, strict=True):
        assert torch.equal(one.origin[[0, 2, 1]], torch.cat([first.origin, second.origin]))


@pytest.mark.parametrize(
    ("data", "name"), [(soak.anomaly()[1], "streams"), (small_data(streams=True, batch_size=3), "batch_size")]
)
def test_more_processes_than_streams_are_refused(data: TaskData, name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"`{name}` must give each of the 4 processes a stream; there are 3"
    ):
        among(data, 3, 4).train_dataloader()


def test_two_processes_take_the_steps_of_one_also_after_a_stop(tmp_path: Path) -> None:
    one, two = soak.train_all(double=True), soak.in_processes(2, double=True, stopped_in=tmp_path)
    whole, alone = one[soak.STREAMS], soak.train(soak.STREAMS, True, stopped_in=tmp_path, resumes=True)
    assert 0 < soak.STOP < len(whole.gradients) // soak.EPOCHS
    for trace in (two.pop(soak.RESUMED), alone):
        # not that of float64: the Trainer loads weights before it makes them double
        rest = whole._replace(gradients=whole.gradients[soak.STOP :])
        assert soak.difference(rest, trace) < soak.LIMITS["float32"]
        assert torch.allclose(whole.weights, trace.weights, rtol=0, atol=1e-6)
    assert two.keys() == one.keys() | {name + soak.OWN for name in one}
    for name, trace in two.items():
        alone = one[name.removesuffix(soak.OWN)]
        assert len(alone.gradients) > 2
        assert soak.difference(alone, trace) < 1e-9, name
        assert torch.allclose(alone.weights, trace.weights, rtol=0, atol=1e-6), name
        assert alone.metrics.keys() == trace.metrics.keys()
        ours, theirs = (np.array(list(held.metrics.values())) for held in (trace, alone))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=name)


def test_a_strategy_that_trains_otherwise_is_refused(tmp_path: Path) -> None:
    for strategy, message in (
        ("ddp", "`strategy` must be `ddp_find_unused_parameters_true` for this model"),
        (ModelParallelStrategy(process_group_backend="gloo"), "got ModelParallelStrategy"),
    ):
        model, data = soak.anomaly()
        trainer = small_trainer(tmp_path, strategy=strategy, devices=1)
        with launch.variables_kept(), ExitStack() as stack:
            stack.callback(lambda: dist.is_initialized() and dist.destroy_process_group())
            with pytest.raises(ConfigError, match=message):
                trainer.fit(model, datamodule=data)


def test_batches_that_the_trainer_would_order_are_refused(tmp_path: Path) -> None:
    data = small_data()
    with pytest.raises(ConfigError, match=r"`overfit_batches` is not for these tasks.*got 2"):
        small_trainer(tmp_path, overfit_batches=2).fit(small_module(data), datamodule=data)
