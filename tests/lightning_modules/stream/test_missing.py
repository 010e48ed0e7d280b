"""Rows with gaps in the stream engine: what the core reads, what moves, and what is learnt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dream import DREAMConfig
from lightning_modules.stream import Reading, Shape, StreamLearner, StreamNetwork, Updates
from lightning_modules.stream.normalizers import Normalizer
from lightning_modules.stream.rules import head_loss
from lightning_modules.stream.seasonal import SeasonalProfile

NAN = torch.nan


def network(core: Any = "dream", task: Any = "forecasting", **reading: Any) -> StreamNetwork:
    torch.manual_seed(3)
    shape = Shape(task, 2, 1, 2 if task == "forecasting" else 1, season=4)
    settings = dict(normalization="running", rate=0.05, lags=[0, 1], means=[3], profile_rate=0.2) | reading
    return StreamNetwork(shape, Reading(**settings), DREAMConfig(hidden_dim=6, rank=2), core)


def rows(gaps: bool = True) -> Tensor:
    values = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(0)
    if gaps:
        values[[0, 9, 10, 25], 0] = NAN
        values[[9, 30], 1] = NAN
    return values


@pytest.mark.parametrize("normalization", ["running", "differences", "none"])
def test_dream_reads_a_gap_as_not_observed_and_a_rival_the_last_known_value(normalization: Any) -> None:
    dream, lstm = (network(core, normalization=normalization) for core in ("dream", "lstm"))
    x = rows()
    seen, rival = (net.relate(x[None], net.init_state())[0].seen[0, :, 0] for net in (dream, lstm))
    gaps = x.isnan()
    # columns, their averages, and two expected changes of the target
    unknown = torch.cat([gaps, gaps, gaps[:, :1], gaps[:, :1]], 1)
    assert torch.equal(seen.isnan(), unknown)
    assert rival.isfinite().all()
    assert torch.equal(seen[~unknown], rival[~unknown])
    if normalization == "differences":
        assert not rival[:, :2][gaps].any()
    else:
        torch.testing.assert_close(rival[10, 0], rival[8, 0])  # of row 8, with the statistics of then


def test_the_normaliser_and_the_profile_do_not_move() -> None:
    for kind in ("running", "differences", "none"):
        normalizer = Normalizer(kind, 0.05)
        _, state = normalizer(rows(False)[None], normalizer.init_state(1, 2))
        _, after = normalizer(torch.full((1, 3, 2), NAN, dtype=torch.float64), state)
        for (name, one), (_, other) in zip(state.items(), after.items(), strict=True):
            assert torch.equal(one, other), (kind, name)


def test_a_profile_counts_the_visits_that_it_saw() -> None:
    """Slot 1 of 4 is missing in the first season: its first value then counts alone, as a first one does."""
    profile = SeasonalProfile(4, 0.2, 2)
    x = torch.arange(8.0, dtype=torch.float64).view(1, 8, 1)
    x[0, 1] = NAN
    changes, state = profile(x, profile.init_state(1, 1))
    assert changes.isfinite().all()
    assert state.visits[0, :, 0].tolist() == [2, 1, 2, 2]
    assert (state.row.item(), state.rows.item()) == (8, 7)
    level = float(torch.tensor([0.0, 2.0, 3.0, 4.0, 5.0]).mean())  # at row 5, all rows so far evenly
    assert state.profile[0, 1, 0].item() == pytest.approx(5 - level)


def test_chunks_are_the_whole() -> None:
    net = network().double().eval()
    whole, state = net.features(rows()[None], net.init_state())
    parts, carried = [], net.init_state()
    for part in rows().split([9, 1, 1, 20, 9]):
        features, carried = net.features(part[None], carried)
        parts.append(features.values)
    torch.testing.assert_close(torch.cat(parts, 1), whole.values)
    for (name, one), other in zip(state.tensors().items(), carried.tensors().values(), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, msg=name)


def test_the_head_learns_from_no_gap() -> None:
    """Least squares: rows whose targets are all missing are those of a weight of 0."""
    updates = Updates("least_squares", every=1, forgetting=0.9, ridge=0.01)
    x = rows()
    learner = StreamLearner(network(), updates)
    learner.process(x)
    twin = network().eval()
    with torch.no_grad():
        features, _ = twin.features(x[None], twin.init_state())
    known = len(x) - 2
    future = x[1:, :1].unfold(0, 2, 1).transpose(1, 2)[:known, :, 0]  # (M, H)
    wanted = (future - features.level[0, :known]) / features.scale[0, :known]
    weight, bias = torch.zeros_like(twin.head.weight[0]).double(), torch.zeros(2).double()
    z = torch.cat([features.values[0, :known, 0].double(), torch.ones(known, 1)], 1)
    gram, moment = torch.zeros(z.shape[1], z.shape[1]).double(), torch.zeros(z.shape[1], 2).double()
    for row, y in zip(z, wanted, strict=True):
        row = row * ~y.isnan().all()
        y = torch.where(y.isnan(), (weight @ row[:-1] + bias), y)  # a single one: what the head predicts
        gram = 0.9 * gram + row.outer(row)
        moment = 0.9 * moment + row.outer(y)
        pull = 1 + 0.01 * gram.diagonal().mean()
        solved = torch.linalg.solve(gram + pull * torch.eye(len(gram)), moment).T
        weight, bias = solved[:, :-1].float().double(), solved[:, -1].float().double()
    torch.testing.assert_close(learner.network.head.weight[0].double(), weight, rtol=1e-3, atol=1e-4)
    assert wanted.isnan().all(1).any()
    assert (wanted.isnan().any(1) & ~wanted.isnan().all(1)).any()


def test_the_loss_of_the_head_is_that_of_known_targets() -> None:
    net, outputs = network(), torch.randn(5, 1, 2, requires_grad=True)
    wanted = torch.randn(5, 1, 2)
    wanted[1, 0, 0] = wanted[3] = NAN
    known = ~wanted.isnan()
    loss = head_loss(net, outputs, wanted)
    torch.testing.assert_close(loss, (outputs - wanted)[known].square().mean())
    loss.backward()
    assert outputs.grad is not None
    assert torch.equal(outputs.grad != 0, known)
    assert head_loss(net, outputs, torch.full_like(wanted, NAN)) == 0


@pytest.mark.parametrize("core", ["dream", "gru", "linear"])
@pytest.mark.parametrize("task", ["forecasting", "regression"])
@pytest.mark.parametrize("rule", ["adam", "sgd", "least_squares"])
def test_missing_targets_leave_everything_finite(core: Any, task: Any, rule: Any) -> None:
    net = network(core, task)
    learner = StreamLearner(net, Updates(rule, replay=4, every=2), delay=1)
    targets = None if task == "forecasting" else torch.where(rows()[:, :1] > 1, NAN, rows(False)[:, :1])
    steps = learner.process(rows(), targets)
    assert steps.predictions.isfinite().all()
    assert all(value.isfinite().all() for name, value in net.state_dict().items())


def test_all_weights_learn_from_known_targets_only() -> None:
    learner = StreamLearner(network(), Updates("adam", every=5, replay=10), "all")
    assert learner.process(rows()).predictions.isfinite().all()
    assert all(weight.isfinite().all() for weight in learner.network.parameters())
