"""`LanguageModule`: its loss, what its test reads and learns, what its rows are; and the text that it
writes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

from dream import DREAMConfig
from dream.errors import CheckpointError, ConfigError, DREAMError
from lightning_modules import LanguageModule
from lightning_modules.language import LanguageData, LanguageShape
from lightning_modules.language.data import IGNORED, Text
from lightning_modules.language.generation import Sampling, choose, show
from lightning_modules.language.record import metrics
from lightning_modules.language.vocabulary import Unit
from tests.lightning_modules.support import small_data, small_trainer

CONFIG = DREAMConfig(input_dim=6, hidden_dim=10, rank=4, base_plasticity=0.2)
OFF, RESTARTED = "DREAM, plasticity off", "DREAM, no carried state"


class Letters(LanguageData):
    """A text of seven letters and line ends; each letter is likely to come with the same others."""

    def __init__(self, text: str | None = None, **options: Any) -> None:
        super().__init__(
            **{"unit": "chars", "batch_size": 3, "steps": 8, "validation": 0.1, "test": 0.25} | options
        )
        self.text = text

    def read(self) -> dict[str, Text]:
        random = np.random.default_rng(0)
        drawn = "".join("abcdefg\n"[k] for k in random.normal(0, 1.2, 400).cumsum().round().astype(int) % 8)
        return {"train": Text("letters", (self.text or drawn).encode())}


def module(data: LanguageData, **options: Any) -> LanguageModule:
    torch.manual_seed(1)
    model = LanguageModule.for_data(data, **{"config": CONFIG} | options)
    model.prepare(data)
    return model


def judged(model: LanguageModule, data: LanguageData, folder: Path, **options: Any) -> dict[str, np.ndarray]:
    """The loss of each token of the test part, by row of the table."""
    small_trainer(folder, **options).test(model, datamodule=data, verbose=False)
    assert model._scores is not None
    return model._scores.losses()


def by_hand(model: LanguageModule, tokens: np.ndarray, plastic: bool = True) -> np.ndarray:
    """The same, in one call for the whole text."""
    held = torch.from_numpy(tokens.astype(np.int64))[None]
    with torch.no_grad(), model.eval().core.plasticity(plastic):
        x = model.embedding(held[:, :-1])
        output, (trace, *_), _ = model.core.trace(x)
        y = model.head(torch.cat([output, trace.forecast], -1))
        scores = y @ model.embedding.weight.T / math.sqrt(x.shape[-1]) + model.bias
    found: np.ndarray = cross_entropy(scores[0], held[0, 1:], reduction="none").numpy()
    return found


@pytest.mark.parametrize("prediction_weight", [0.0, 0.3])
def test_the_loss_is_the_cross_entropy_and_what_the_layer_had_expected(prediction_weight: float) -> None:
    data = Letters()
    model = module(data, prediction_weight=prediction_weight).double().eval()
    batch = next(iter(data.train_dataloader()))
    batch = batch._replace(targets=batch.targets.index_fill(1, torch.tensor([2]), IGNORED))
    terms = model.losses(batch)
    x = model.embedding(batch.tokens)
    output, (trace,), _ = model.core.trace(x)
    y = model.head(torch.cat([output, trace.forecast], -1))
    scores = y @ model.embedding.weight.T / math.sqrt(6) + model.bias
    nats = cross_entropy(scores.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)
    expected = nats + prediction_weight * mse_loss(trace.prediction, x.detach())
    assert terms["nats"].item() == pytest.approx(nats.item(), rel=1e-9)
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-9)


def test_every_layer_is_trained_to_expect_what_it_reads() -> None:
    data = Letters()
    model = module(data, hidden_dims=[10, 7]).double().eval()
    batch = next(iter(data.train_dataloader()))
    first, second = model.core.layers
    found = model(batch.tokens).prediction_loss
    x = model.embedding(batch.tokens)
    h, below, _ = first.trace(x)
    above = second.trace(h)[1]
    expected = mse_loss(below.prediction, x.detach()) + mse_loss(above.prediction, h.detach())
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    weights = [model.embedding.weight, *model.core.parameters()]
    gradients = (torch.autograd.grad(loss, weights, materialize_grads=True) for loss in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("hidden_dims", [[10], [10, 7]])
def test_every_parameter_learns(hidden_dims: list[int]) -> None:
    data = Letters()
    model = module(data, hidden_dims=hidden_dims)
    for batch in data.train_dataloader():
        model.losses(batch)["loss"].backward()
    still = [
        name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()
    ]
    assert still == []


def test_embeddings_may_have_a_learning_rate_of_their_own(tmp_path: Path) -> None:
    data, moved = Letters(), {}
    for lr in (None, 1e-30):
        model = module(data, lr=1e-2, embedding_lr=lr, weight_decay=0.1)
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        small_trainer(tmp_path, max_steps=1).fit(model, datamodule=data)
        moved[lr] = {name for name, weight in model.named_parameters() if (weight != before[name]).any()}
        assert sum(len(group["params"]) for group in model.optimizer_groups()) == len(before)
    assert moved[None] - moved[1e-30] == {"embedding.weight"}
    assert "head.weight" in moved[1e-30]


@pytest.mark.parametrize("chunk", [1, 24, 1000])
def test_the_test_reads_the_whole_text_as_one_stream(chunk: int, tmp_path: Path) -> None:
    data = Letters(chunk=chunk)
    model = module(data)
    found = judged(model, data, tmp_path)
    tokens = data.parts.tokens["test"]
    np.testing.assert_allclose(found["DREAM"], by_hand(model, tokens), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[OFF], by_hand(model, tokens, plastic=False), rtol=1e-4, atol=1e-5)
    pieces = [by_hand(model, tokens[start : start + 9]) for start in range(0, len(tokens) - 1, 8)]
    np.testing.assert_allclose(found[RESTARTED], np.concatenate(pieces), rtol=1e-4, atol=1e-5)
    assert np.abs(found["DREAM"] - found[OFF]).max() > 1e-3
    assert np.abs(found["DREAM"] - found[RESTARTED])[8:].max() > 1e-3


def test_the_future_does_not_change_the_past(tmp_path: Path) -> None:
    whole = Letters()
    text = whole.read()["train"].content.decode()
    changed = Letters(text[:350] + "".join(sorted(text[350:])))
    before, after = (judged(module(data), data, tmp_path) for data in (whole, changed))
    assert list(before) == ["DREAM", OFF, RESTARTED, "unigram", "bigram"]
    for name, nats in before.items():
        # the test part begins with letter 300, token 1 being the first
        assert (nats[:49] == after[name][:49]).all(), name
        assert (nats[49:] != after[name][49:]).mean() > 0.3, name


def test_rivals_have_the_rows_that_they_can_have(tmp_path: Path) -> None:
    data = Letters()
    assert list(judged(module(data, core="gru"), data, tmp_path)) == [
        "GRU",
        "GRU, no carried state",
        "unigram",
        "bigram",
    ]
    still = DREAMConfig(input_dim=6, hidden_dim=10, rank=4, base_plasticity=0.0)
    assert OFF not in judged(module(data, config=still), data, tmp_path)


def test_part_of_a_test_is_scored_as_such(tmp_path: Path) -> None:
    data = Letters(chunk=16)
    model = module(data)
    found = judged(model, data, tmp_path, limit_test_batches=2)
    assert {len(nats) for nats in found.values()} == {32}
    row = model.results["DREAM"]
    assert row["nats"] == pytest.approx(float(found["DREAM"].mean()), rel=1e-5)
    assert row["bits_per_character"] == pytest.approx(row["nats"] / math.log(2), rel=1e-5)
    assert row["perplexity"] == pytest.approx(math.exp(row["nats"]))


@pytest.mark.parametrize(
    ("unit", "tokens", "characters"), [("bytes", 1, 1), ("chars", 1, 1), ("words", 124, 298)]
)
def test_bits_per_character_of_a_model_that_knows_nothing(
    unit: Unit, tokens: int, characters: int, tmp_path: Path
) -> None:
    # in words the test part is 25 lines, whose first "ab" is only read
    data = Letters("ab cd ef ab\n" * 100, unit=unit)
    model = module(data)
    with torch.no_grad():
        for weight in (model.head.weight, model.head.bias):
            weight.zero_()
    judged(model, data, tmp_path)
    row = model.results["DREAM"]
    assert row["perplexity"] == pytest.approx(data.symbols, rel=1e-5)
    assert row["bits_per_character"] == pytest.approx(math.log2(data.symbols) * tokens / characters, rel=1e-5)


def test_a_loss_beyond_what_can_be_raised() -> None:
    assert metrics(np.full(3, 1e4), 3)["perplexity"] == math.inf
    assert metrics(np.zeros(2), 0)["bits_per_character"] == 0


def test_learning_while_reading_pays_where_a_text_repeats_itself(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    verses = ["".join(random.permutation(list("abcdefgh"))) for _ in range(40)]
    data = Letters("".join(verse * 12 for verse in verses), batch_size=8, steps=24)
    model = module(data, lr=1e-2, config=DREAMConfig(input_dim=16, hidden_dim=48, rank=8))
    small_trainer(tmp_path, max_epochs=12).fit(model, datamodule=data)
    found = judged(model, data, tmp_path)
    on, off = found["DREAM"], found[OFF]
    assert on.mean() < off.mean() - 0.1
    # of the token that is predicted, in its verse's twelve repetitions
    places = np.arange(1, len(on) + 1) % 96
    assert on[places >= 48].mean() < on[places < 8].mean() - 0.5


def test_validation_is_the_mean_over_all_streams(tmp_path: Path) -> None:
    data = Letters()
    model = module(data)
    (found,) = small_trainer(tmp_path).validate(model, datamodule=data, verbose=False)
    tokens = data.parts.tokens["val"]
    assert len(tokens) == 40
    streams = [by_hand(model, tokens[start : start + 14]) for start in (0, 13, 26)]
    assert found["val/nats"] == pytest.approx(np.concatenate(streams).mean(), rel=1e-4)


def test_figures(tmp_path: Path) -> None:
    data = Letters()
    model = module(data)
    assert model.figures() == {}
    judged(model, data, tmp_path)
    (figure,) = model.figures().values()
    labels = {line.get_label() for line in figure.axes[0].get_lines()}
    assert labels == {"DREAM", OFF, RESTARTED, "unigram", "bigram"}
    assert len(figure.axes[1].get_lines()) == 3


def written(model: LanguageModule, prompt: str = "", seed: int = 0, **settings: Any) -> str:
    torch.manual_seed(seed)
    return "".join(model.generate(prompt, **settings))


def test_the_same_seed_writes_the_same_text() -> None:
    model = module(Letters())
    one = written(model, "abc", length=60)
    assert one == written(model, "abc", length=60)
    assert one != written(model, "abc", seed=1, length=60)
    assert len(one) == 60
    assert set(one) <= set("abcdefg\n")


def test_temperature_0_and_top_1_take_the_most_likely() -> None:
    model = module(Letters())
    greedy = written(model, "ab", length=30, temperature=0)
    assert greedy == written(model, "ab", seed=1, length=30, temperature=0.0)
    assert greedy == written(model, "ab", seed=2, length=30, top_k=1)
    seen = "ab"
    for sign in greedy[:5]:
        assert model.vocabulary is not None
        scores, _ = model._next(model.vocabulary.encode(seen), None, learn=True)
        scores[0] = -torch.inf
        assert model.vocabulary.symbols[int(scores.argmax())] == sign
        seen += sign


def test_what_is_drawn_follows_the_temperature() -> None:
    scores = torch.tensor([3.0, 1.0, 0.0, -1.0]).log_softmax(0)
    for temperature in (0.5, 1.0, 2.0):
        drawn = [choose(scores, Sampling(temperature=temperature)) for _ in range(3000)]
        shares = np.bincount(drawn, minlength=4) / 3000
        assert shares == pytest.approx((scores / temperature).softmax(0).numpy(), abs=0.03)
    assert {choose(scores, Sampling(top_k=2)) for _ in range(300)} == {0, 1}
    assert {choose(scores, Sampling(top_k=2), unknown=0) for _ in range(300)} == {1, 2}
    assert choose(scores, Sampling(temperature=0), unknown=0) == 1
    assert {choose(scores, Sampling(temperature=1e-30)) for _ in range(20)} == {0}


@pytest.mark.parametrize("learn", [False, True])
def test_what_it_writes_itself_teaches_it_only_if_asked(learn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = module(Letters())
    norms = []
    before = model._next

    def noted(*arguments: Any, **named: Any) -> Any:
        scores, states = before(*arguments, **named)
        norms.append(float(states[0].U.norm()))
        return scores, states

    monkeypatch.setattr(model, "_next", noted)
    written(model, "abcabc", length=5, learn=learn)
    assert norms[0] > 0  # the prompt has taught it
    assert len(norms) == 5
    assert len(set(norms)) == (5 if learn else 1)


@pytest.mark.parametrize("unit", ["bytes", "chars", "words"])
def test_any_prompt_will_do(unit: Unit) -> None:
    data = Letters("abc de\n" * 60, unit=unit)
    model = module(data)
    for prompt in ("", "\n", "zz \N{EURO SIGN}", "\0"):
        text = written(model, prompt, length=12)
        assert "\N{REPLACEMENT CHARACTER}" not in text or unit == "bytes"
        assert "<unk>" not in text
    assert written(model, "", length=8) == written(model, "\n", length=8)
    if unit == "words":
        assert written(model, " \t", length=8) == written(model, "", length=8)


def test_writing_with_mixed_precision() -> None:
    model = module(Letters())
    whole = written(model, "abc", length=8, temperature=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert written(model, "abc", length=8, temperature=0)[0] == whole[0]


def test_writing_leaves_the_model_as_it_was() -> None:
    model = module(Letters(), dropout=0.5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one = written(model, "ab", length=20)
    assert model.training
    assert model.core.plasticity_enabled
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert one == written(model.eval(), "ab", length=20)


def test_a_terminal_that_cannot_show_a_character(capsysbinary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        encoding = "ascii"
        said = ""

        def write(self, text: str) -> None:
            self.said += text.encode("ascii").decode()

        def flush(self) -> None:
            pass

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    show("a\N{EURO SIGN}\x07\n")
    assert terminal.said == "a\\u20ac\\x07\n"


def test_a_checkpoint_knows_its_symbols(tmp_path: Path) -> None:
    data = Letters()
    model = module(data)
    trainer = small_trainer(tmp_path, limit_train_batches=2)
    trainer.fit(model, datamodule=data)
    path = tmp_path / "it.ckpt"
    trainer.save_checkpoint(path)
    again = LanguageModule.load_from_checkpoint(path, weights_only=True)
    assert again.vocabulary == data.vocabulary
    assert written(again, "abc", length=20) == written(model, "abc", length=20)
    other = Letters("hijklmno" * 50)
    assert other.symbols == data.symbols
    with pytest.raises(
        CheckpointError, match="knows 9 chars, which are not the 9 chars of the training text here"
    ):
        small_trainer(tmp_path).test(module(other), datamodule=other, ckpt_path=str(path), weights_only=True)


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="`data` must be a LanguageData; got DriftingLoad"):
        module(Letters()).prepare(small_data())
    with pytest.raises(ConfigError, match="has no vocabulary yet"):
        next(LanguageModule(CONFIG, LanguageShape(5)).generate())
    with pytest.raises(ConfigError, match="`prediction_weight` must be"):
        LanguageModule(CONFIG, LanguageShape(5), prediction_weight=-1.0)
    with pytest.raises(ConfigError, match="`embedding_lr` must be a finite number above 0; got 0"):
        LanguageModule(CONFIG, LanguageShape(5), embedding_lr=0)
    with pytest.raises(ConfigError, match="`dropout` must be a share from 0 to below 1"):
        LanguageModule(CONFIG, LanguageShape(5), core="lstm", dropout=1.0)
    sizes = ({"length": 0}, {"length": 2.5}, {"top_k": 0}, {"top_k": 2.5})
    for settings in (*sizes, {"temperature": -1.0}, {"temperature": math.nan}, {"prompt": "\ud800"}):
        with pytest.raises(ConfigError, match=f"`{next(iter(settings))}` must be"):
            Sampling(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("core", ["dream", "gru"])
def test_embeddings_that_have_diverged(core: Any, tmp_path: Path) -> None:
    data = Letters()
    model = module(data, core=core)
    torch.nn.init.constant_(model.embedding.weight, math.inf)
    with pytest.raises(DREAMError, match="not finite: the scores, first of what follows the text so far"):
        next(model.generate("ab"))
    with pytest.raises(DREAMError, match="not finite: the loss, first of letters, token 0"):
        judged(model, data, tmp_path)
