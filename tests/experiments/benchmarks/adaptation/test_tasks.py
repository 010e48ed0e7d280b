"""The tasks: statistics of what they draw, their optima against theory, and how they score."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from experiments.benchmarks.adaptation.baselines import recursive_least_squares, transitions, witten_bell
from experiments.benchmarks.adaptation.protocol import NOT_COUNTED, Batch, Predictor, SequenceTask
from experiments.benchmarks.adaptation.tasks import (
    TASKS,
    autoregressions,
    linear_systems,
    markov,
    recall,
    rule_change,
    speakers,
)
from experiments.benchmarks.adaptation.training import scores


def random(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


ON_FILES = ("systems", "omniglot", "speakers")
DRAWN = [name for name, task in TASKS.items() if issubclass(task, SequenceTask) and name not in ON_FILES]
PROBES = [*DRAWN, *(pytest.param(name, marks=pytest.mark.data) for name in ON_FILES)]


@pytest.fixture
def few_sounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recording at its own speed alone, in fewer streams: features of a recording take a while."""
    monkeypatch.setattr(speakers, "SPEEDS", (1.0,))
    monkeypatch.setattr(speakers, "STREAMS", {"validation": 50, "test": 100})


@pytest.mark.usefixtures("few_sounds")
@pytest.mark.parametrize("name", PROBES)
def test_parts_differ_and_are_drawn_alike_each_time(name: str) -> None:
    task, again = TASKS[name](2), TASKS[name](2)
    assert isinstance(task, SequenceTask)
    assert isinstance(again, SequenceTask)
    for mine, same in zip(task.held_out("test"), again.held_out("test"), strict=True):
        assert torch.equal(mine.inputs, same.inputs)
        assert torch.equal(mine.targets, same.targets)
    least = task.held_out("validation")[0].inputs
    assert not torch.equal(task.held_out("test")[0].inputs[: len(least)], least)
    assert not torch.equal(TASKS[name](3).held_out("test")[0].inputs, task.held_out("test")[0].inputs)


@pytest.mark.usefixtures("few_sounds")
@pytest.mark.parametrize("name", PROBES)
def test_every_metric_and_every_point_of_the_curve_is_scored(name: str) -> None:
    task = TASKS[name](0)
    assert isinstance(task, SequenceTask)
    predict = next(iter(task.baselines().values()))
    found = scores(task, predict)
    assert set(found.values) == {metric.name for metric in task.metrics if metric.share_of is None}
    assert len(found.curve) == len(task.positions)
    assert all(map(math.isfinite, [*found.values.values(), *found.curve]))


# Associative recall


def test_every_key_has_one_value_and_is_asked_for_once() -> None:
    batch = recall.sequences(16, 50, random())
    assert batch.inputs.shape == batch.targets.shape == (50, 48)
    keys, values, queries = batch.inputs[:, :32:2], batch.inputs[:, 1:32:2], batch.inputs[:, 32:]
    assert torch.equal(keys.sort(1).values, queries.sort(1).values)
    assert all(len(row.unique()) == 16 for row in keys)
    assert int(keys.max()) < recall.KEYS <= int(values.min())
    for sample in range(50):
        table = dict(zip(keys[sample].tolist(), values[sample].tolist(), strict=True))
        assert batch.targets[sample, 32:].tolist() == [table[key] for key in queries[sample].tolist()]
    assert (batch.targets[:, :32] == NOT_COUNTED).all()


def test_a_table_of_the_pairs_recalls_all_and_guessing_one_in_64() -> None:
    task = recall.Recall(0)
    found = scores(task, recall.looked_up)
    assert set(found.values.values()) == {1.0}
    guess = torch.zeros(1, 1, 2 * recall.KEYS)
    guess[..., recall.KEYS] = 1
    assert scores(task, lambda batch: guess.expand(*batch.inputs.shape, -1)).values["mean"] == pytest.approx(
        1 / recall.KEYS, abs=0.004
    )


# Markov chains


def test_chains_have_the_entropy_of_their_distribution() -> None:
    """The mean entropy of a row is psi(V a + 1) - psi(a + 1)."""
    _, rows = markov.chains(2000, 1, random())
    size, rate = markov.SYMBOLS, markov.CONCENTRATION
    mean = float(torch.digamma(torch.tensor(size * rate + 1.0)) - torch.digamma(torch.tensor(rate + 1.0)))
    entropies = torch.special.entr(rows).sum(-1)
    assert float(entropies.mean()) == pytest.approx(mean, rel=0.01)


def test_the_bayesian_predictor_nears_the_entropy_rate_and_is_below_all_others() -> None:
    symbols, rows = markov.chains(64, 4000, random())
    predictor = markov.Markov(0).optimum()
    batch = markov.batch_of(symbols)
    late = slice(2000, None)
    nats = -predictor(batch).gather(2, batch.targets[..., None])[..., 0]
    entropies = torch.special.entr(rows).sum(-1)
    rate = entropies.gather(1, batch.inputs[:, late]).mean()
    assert float(nats[:, late].mean()) == pytest.approx(float(rate), abs=0.02)
    task = markov.Markov(0)
    best = scores(task, predictor).values["loss"]
    for name, predict in task.baselines().items():
        assert best < scores(task, predict).values["loss"], name


def test_counts_are_of_the_past_and_probabilities_of_one() -> None:
    symbols = torch.tensor([[0, 1, 0, 1, 0, 2, 0]])
    assert transitions(symbols, 3)[0].tolist() == [
        [0, 0, 0],
        [0, 0, 0],
        [0, 1, 0],
        [1, 0, 0],
        [0, 2, 0],
        [0, 0, 0],
        [0, 2, 1],
    ]
    shares = witten_bell(symbols, 3).exp()
    torch.testing.assert_close(shares.sum(-1), torch.ones(1, 7, dtype=torch.float64))
    assert shares[0, 0].tolist() == [0.5, 0.25, 0.25]  # nothing followed: the unigram with 1 added
    torch.testing.assert_close(shares[0, 6], torch.tensor([10, 26, 14]).double() / 50)


# Linear systems


def test_autoregressions_are_stable_and_oscillators_turn_each_pair() -> None:
    drawn = linear_systems.autoregressions(200, random())
    assert float(torch.linalg.eigvals(drawn).abs().max()) < linear_systems.LARGEST
    found = torch.linalg.eigvals(linear_systems.oscillators(200, random()))
    low, high = linear_systems.RHO
    assert low <= float(found.abs().min()) <= float(found.abs().max()) <= high
    low, high = linear_systems.THETA
    assert low <= float(found.angle().abs().min()) <= float(found.angle().abs().max()) <= high + 1e-6


def test_systems_follow_their_matrices_and_are_redrawn_every_40_to_80_steps() -> None:
    batch = linear_systems.systems(64, random())
    fresh = batch.facts["fresh"]
    assert fresh[:, 0].all()
    for row in fresh[:, 1:]:
        gaps = (row.nonzero()[:, 0] + 1).diff()
        assert ((gaps >= linear_systems.SHORTEST) & (gaps <= linear_systems.LONGEST)).all()
    age = linear_systems.since(fresh)
    assert torch.equal(age == 0, fresh)
    # who fits each system to all of its own steps is left with the noise, less what 64 weights take away
    left = []
    for sample in range(64):
        at = (age[sample] == 0).nonzero()[:, 0].tolist()
        for first, last in zip(at, [*at[1:], fresh.shape[1]], strict=True):
            x, y = batch.inputs[sample, first:last], batch.targets[sample, first:last]
            if last - first >= linear_systems.SHORTEST:
                weights = torch.linalg.lstsq(x, y).solution
                freedom = (last - first - linear_systems.COLUMNS) * linear_systems.COLUMNS
                left.append(float((y - x @ weights).square().sum()) / freedom)
    assert sum(left) / len(left) == pytest.approx(linear_systems.NOISE, rel=0.03)


def test_the_grid_is_the_posterior_of_the_oscillators() -> None:
    """Against the sums written out, at one step of one sample."""
    batch = linear_systems.systems(2, random())
    x, y, fresh = (part[1:] for part in (batch.inputs, batch.targets, batch.facts["fresh"]))
    found = linear_systems.on_grid(x, y, fresh)[0, 30, :2]
    begun = 30 - int(linear_systems.since(fresh)[0, 30])
    weights, predictions = [], []
    for rho in 0.85 + 0.12 * (torch.arange(16).double() + 0.5) / 16:
        for theta in 0.1 + 1.4 * (torch.arange(64).double() + 0.5) / 64:
            turn = rho * torch.tensor([[theta.cos(), theta.sin()], [-theta.sin(), theta.cos()]])
            errors = y[0, begun:30, :2].double() - x[0, begun:30, :2].double() @ turn.mT
            weights.append(-errors.square().sum() / 2 / linear_systems.NOISE)
            predictions.append(turn @ x[0, 30, :2].double())
    expected = torch.stack(weights).softmax(0) @ torch.stack(predictions)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_who_knows_prior_and_redraws_is_below_all_others_and_late_near_the_noise() -> None:
    task = linear_systems.LinearSystems(0)
    best = scores(task, task.optimum())
    for name, predict in task.baselines().items():
        found = scores(task, predict)
        assert all(best.values[key] < value for key, value in found.values.items()), name
    assert linear_systems.NOISE < best.curve[-1] < 1.3 * linear_systems.NOISE
    assert best.curve[0] > 2 * linear_systems.NOISE


def test_least_squares_without_forgetting_is_the_posterior_mean() -> None:
    z, y = torch.randn(2, 30, 3, dtype=torch.float64), torch.randn(2, 30, 2, dtype=torch.float64)
    fresh = torch.zeros(2, 30, dtype=torch.bool)
    fresh[1, 10] = True
    found = recursive_least_squares(z, y, 0.7, fresh=fresh)
    torch.testing.assert_close(found[:, 0], torch.zeros(2, 2, dtype=torch.float64))
    for sample, first in ((0, 0), (1, 10)):
        past, seen = z[sample, first:29], y[sample, first:29]
        weights = torch.linalg.solve(past.mT @ past + 0.7 * torch.eye(3), past.mT @ seen)
        torch.testing.assert_close(found[sample, 29], weights.mT @ z[sample, 29])


# Autoregressions


def test_series_have_the_poles_and_the_variance_of_their_recipe() -> None:
    weights = autoregressions.coefficients(5000, random())
    modulus = (-weights[:, 1]).sqrt()
    low, high = autoregressions.MODULUS
    assert low <= float(modulus.min()) <= float(modulus.max()) <= high
    assert float(modulus.mean()) == pytest.approx((low + high) / 2, abs=0.003)
    batch = autoregressions.series(64, 800, random())
    assert batch.inputs.shape == batch.targets.shape == (64, 800, 1)
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    # who fits each segment to all of its own rows is left with the innovations
    left = []
    for sample in range(64):
        begin = int((batch.facts["age"][sample] == 0).nonzero()[0])
        x = torch.cat([batch.inputs[sample, :1], batch.targets[sample]]).double()[:, 0]
        part = x[begin - 1 if begin else 0 : begin + autoregressions.SEGMENT + 1]
        lags, target = torch.stack([part[1:-1], part[:-2]], -1), part[2:]
        fitted = torch.linalg.lstsq(lags, target[:, None]).solution[:, 0]
        left.append(float((target - lags @ fitted).square().sum()) / (len(target) - 2))
    assert sum(left) / len(left) == pytest.approx(autoregressions.INNOVATION**2, rel=0.03)
    assert 0.5 < float(batch.inputs.var()) < 2


def test_nobody_comes_below_the_innovations() -> None:
    task = autoregressions.Autoregressions(0)
    for predict in task.baselines().values():
        found = scores(task, predict)
        assert 1 < found.values["late in a segment"] < found.values["MSE"]


# Change of a rule


def test_streams_keep_their_variance_and_whoever_knows_the_rule_errs_by_the_noise() -> None:
    drawn = random()
    rules = [rule_change.rotations(1, drawn), rule_change.rotations(64, drawn)]
    x = rule_change.streams(rules, (300, 600), 64, drawn)
    assert x.shape == (64, 600, rule_change.COLUMNS)
    torch.testing.assert_close(x.var((0, 1)), torch.ones(rule_change.COLUMNS), rtol=0.05, atol=0)
    for rule, rows in zip(rules, (slice(1, 300), slice(301, 600)), strict=True):
        before = x[:, rows.start - 1 : rows.stop - 1]
        error = (x[:, rows] - rule_change.MEMORY * before @ rule.mT).square().mean()
        assert float(error) == pytest.approx(rule_change.NOISE, rel=0.02)


def test_stretches_are_means_of_their_rows() -> None:
    task, last = rule_change.RuleChange(0), rule_change.CHANGES[-1]
    rows = torch.arange(1, last).double().sqrt().view(1, -1, 1)
    batch = Batch(rows, torch.zeros_like(rows))
    found = task.score([rows], [batch]).values
    assert [found[name] for name in rule_change.SPANS] == pytest.approx([224.5, 409.5, 899.5, 1209.5, 1499.5])


def test_who_knows_both_rules_errs_by_the_noise_in_every_stretch() -> None:
    task = rule_change.RuleChange(0)
    drawn = task.random("test")
    count = rule_change.STREAMS["test"]
    rules = [task.usual, rule_change.rotations(count, drawn), task.usual]
    ends = (*rule_change.CHANGES,)

    def knowing(batch: Batch) -> Tensor:
        parts, first = [], 0
        for rule, last in zip(rules, ends, strict=True):
            parts.append(rule_change.MEMORY * batch.inputs[:, max(first - 1, 0) : last - 1] @ rule.mT)
            first = last
        return torch.cat(parts, 1)

    predict: Predictor = knowing
    for name, value in scores(task, predict).values.items():
        assert value == pytest.approx(rule_change.NOISE, rel=0.1 if "20" in name else 0.02), name
