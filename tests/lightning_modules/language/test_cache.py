"""The output cache: its numbers, what it may see, whose past it reads, and how gate and temperature are
chosen."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dream.errors import ConfigError
from lightning_modules import LanguageModule
from lightning_modules.language import LanguageShape, cache
from lightning_modules.language.cache import GATES, TEMPERATURES, ChoiceByLoss, OutputCache, mixed
from lightning_modules.language.data import IGNORED
from tests.lightning_modules.language.test_module import CONFIG, Letters, judged, module
from tests.lightning_modules.support import small_trainer

ONE = torch.ones(1)


def drawn(streams: int = 3, steps: int = 40, symbols: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Features, targets and losses of chunks."""
    torch.manual_seed(0)
    features = torch.randn(streams, steps, 4)
    return features, torch.randint(symbols, (streams, steps)), torch.rand(streams, steps) * 3


def read(
    held: OutputCache, part: tuple[Tensor, Tensor, Tensor], reset: bool, temperatures: Tensor = ONE
) -> Tensor:
    return held.read(*part, torch.full((len(part[0]),), reset), temperatures)


def by_hand(part: tuple[Tensor, Tensor, Tensor], capacity: int, temperature: float = 1.0) -> np.ndarray:
    """``ln P_cache``, position by position."""
    features, targets, nats = (values.double().numpy() for values in part)
    found = -nats
    for n, t in np.ndindex(*targets.shape):
        past = [i for i in range(max(t - capacity, 0), t) if targets[n, i] >= 0]
        if not past:
            continue
        keys = features[n] / np.linalg.norm(features[n], axis=-1, keepdims=True)
        shares = np.exp(keys[past] @ keys[t] / temperature)
        matching = shares[targets[n, past] == targets[n, t]].sum()
        found[n, t] = math.log(matching / shares.sum()) if matching else -math.inf
    return found


def test_a_case_computed_by_hand() -> None:
    # keys 1, 1, -1, 1 on a line, whose lengths do not count; the tokens after them are 7, 8, 7, 7
    features = torch.tensor([1.0, 2.0, -3.0, 0.5]).view(1, 4, 1)
    part = (features, torch.tensor([[7, 8, 7, 7]]), torch.tensor([[0.5, 0.6, 0.7, 0.8]]))
    logs = read(OutputCache(3), part, True, torch.tensor([2.0]))[0, 0]
    near, far = math.exp(0.5), math.exp(-0.5)
    assert logs[0].item() == -0.5  # nothing is held, so that the model's own prediction stands
    assert logs[1].item() == -math.inf  # only a 7 is held
    assert logs[2].item() == pytest.approx(math.log(1 / 2))
    assert logs[3].item() == pytest.approx(math.log((near + far) / (2 * near + far)))
    nats = mixed(part[2], logs.view(1, 4), part[1], torch.tensor(0.25))[0]
    assert nats[0].item() == pytest.approx(0.5)
    assert nats[1].item() == pytest.approx(-math.log(0.75 * math.exp(-0.6)))
    assert nats[2].item() == pytest.approx(-math.log(0.75 * math.exp(-0.7) + 0.25 / 2))


@pytest.mark.parametrize("capacity", [1, 7, 100])
@pytest.mark.parametrize("at_once", [1, 50, 1 << 20])
def test_it_follows_its_equations(capacity: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SIMILARITIES", at_once)
    features, targets, nats = drawn()
    targets[1, 11:13] = IGNORED
    part = (features, targets, nats)
    logs = read(OutputCache(capacity), part, True, torch.tensor([0.1, 1.0]))
    for values, temperature in zip(logs, (0.1, 1.0), strict=True):
        expected = by_hand(part, capacity, temperature)
        counted = targets.numpy() >= 0
        np.testing.assert_allclose(values.numpy()[counted], expected[counted], rtol=1e-4, atol=1e-5)
    assert (mixed(nats, logs, targets, torch.tensor(0.3))[:, targets == IGNORED] == 0).all()


@pytest.mark.parametrize("borders", [[1] * 40, [3, 30, 7], [39, 1]])
def test_a_text_read_in_chunks_is_the_text_read_at_once(borders: list[int]) -> None:
    whole, held = drawn(), OutputCache(6)
    chunks = zip(*(values.split(borders, 1) for values in whole), strict=True)
    found = [read(held, chunk, number == 0) for number, chunk in enumerate(chunks)]
    torch.testing.assert_close(torch.cat(found, 2), read(OutputCache(6), whole, True))


def test_streams_are_apart_and_begin_with_nothing() -> None:
    whole, held = drawn(), OutputCache(6)
    together = read(held, whole, True)
    for n in range(3):
        alone = tuple(values[n : n + 1] for values in whole)
        torch.testing.assert_close(read(OutputCache(6), alone, True)[:, 0], together[:, n])
    begun = held.read(*whole, torch.tensor([False, True, False]), ONE)
    torch.testing.assert_close(begun[:, 1], together[:, 1])
    assert not torch.equal(begun[:, 0], together[:, 0])


def test_what_it_holds_is_bounded() -> None:
    held = OutputCache(6)
    for number in range(5):
        read(held, drawn(), number == 0)
    assert held._keys.shape == (3, 6, 4)
    assert held._keys.untyped_storage().nbytes() == 4 * 3 * 6 * 4


def test_gate_0_is_the_model() -> None:
    part = drawn()
    logs = read(OutputCache(6), part, True)
    assert torch.equal(mixed(part[2], logs[0], part[1], torch.tensor(0.0)), part[2])


def test_probabilities_sum_to_1() -> None:
    part, symbols = drawn(1, 20), 5
    logits = torch.randn(symbols).log_softmax(0)
    for last in (0, 1, 19):
        total = 0.0
        for token in range(symbols):
            targets = part[1].clone()
            targets[0, last] = token
            nats = -logits[targets]
            logs = read(OutputCache(6), (part[0], targets, nats), True)[0]
            total += mixed(nats, logs, targets, torch.tensor(0.4)).neg().exp()[0, last].item()
        assert total == pytest.approx(1.0, rel=1e-5)


def test_the_choice_has_the_least_loss() -> None:
    loss, part = ChoiceByLoss("cpu"), drawn(2, 200)
    part[1][:, 7] = IGNORED
    # the same features come with the same targets half of the time
    part[0][:, 100:] = part[0][:, :100]
    part[1][:, 100::2] = part[1][:, :100:2]
    logs = read(OutputCache(150), part, True, loss.temperatures)
    for chunk in (slice(0, 90), slice(90, None)):
        loss.add(part[2][:, chunk], logs[..., chunk], part[1][:, chunk])
    gate, temperature = loss.best(loss.total)
    totals = {
        (g, t): mixed(part[2], logs[k], part[1], torch.tensor(g)).sum().item()
        for g in GATES
        for k, t in enumerate(TEMPERATURES)
    }
    assert min(totals, key=lambda pair: totals[pair]) == pytest.approx((gate.item(), temperature.item()))
    assert 0 < gate < max(GATES)


def repetitive(**options: object) -> Letters:
    """A text of verses of their own, each repeated before the next one."""
    random = np.random.default_rng(3)
    verses = ["".join(random.permutation(list("abcdefgh"))) for _ in range(40)]
    return Letters("".join(verse * 6 for verse in verses), **options)


@pytest.mark.parametrize("core", ["dream", "lstm"])
def test_a_test_reports_it_beside_the_model(core: str, tmp_path: Path) -> None:
    data = repetitive(chunk=64)
    plain = judged(module(data, core=core), data, tmp_path)
    model = module(data, core=core, cache=50)
    found = judged(model, data, tmp_path)
    row = f"{model.title}, output cache"
    assert list(found) == [*list(plain)[:-2], row, "unigram", "bigram"]
    for name, nats in plain.items():
        assert (found[name] == nats).all(), name
    assert model.choice is not None
    assert model.choice.gate > 0
    assert model.results[row]["nats"] < model.results[model.title]["nats"]
    assert model.trainer.callback_metrics["test/cache_gate"] == model.choice.gate
    whole = judged(module(repetitive(chunk=1000), core=core, cache=50), repetitive(chunk=1000), tmp_path)
    np.testing.assert_allclose(found[row], whole[row], rtol=1e-3, atol=1e-4)


def test_the_future_does_not_change_the_past(tmp_path: Path) -> None:
    whole = Letters()
    text = whole.read()["train"].content.decode()
    changed = Letters(text[:350] + "".join(sorted(text[350:])))
    before, after = (judged(module(data, cache=40), data, tmp_path) for data in (whole, changed))
    row = "DREAM, output cache"
    # the test part begins with letter 300, token 1 being the first
    assert (before[row][:49] == after[row][:49]).all()
    assert (before[row][49:] != after[row][49:]).mean() > 0.3


def test_a_checkpoint_without_a_cache_is_tested_with_one(tmp_path: Path) -> None:
    data = repetitive()
    model = module(data)
    trainer = small_trainer(tmp_path, limit_train_batches=2)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    again = LanguageModule.load_from_checkpoint(tmp_path / "it.ckpt", cache=50)
    again.prepare(data)
    assert "DREAM, output cache" in judged(again, data, tmp_path)


@pytest.mark.parametrize("size", [-1, 2.5, True])
def test_what_is_refused(size: object) -> None:
    with pytest.raises(ConfigError, match="`cache` must be a whole number of at least 0"):
        LanguageModule(CONFIG, LanguageShape(5), cache=size)


def test_it_compares_in_full_precision() -> None:
    part = drawn()
    whole = read(OutputCache(6), part, True, torch.tensor([0.03]))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(read(OutputCache(6), part, True, torch.tensor([0.03])), whole)
