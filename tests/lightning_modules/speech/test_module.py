"""The speech task: padding, heads, rivals, what is written, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soxr
import torch
from torchmetrics.text import WordErrorRate

from dream import ConfigError, DataError, DREAMConfig, DREAMError
from lightning_modules import SpeechModule
from lightning_modules.labelled.pooling import varied
from lightning_modules.naive import nearest_mean
from lightning_modules.plots import confusion
from lightning_modules.speech import SpeechFolder, ToneWords, plots
from lightning_modules.speech.decoding import beam_search
from lightning_modules.speech.mfcc import MFCC
from lightning_modules.speech.utterances import SpeechBatch, Utterance
from tests.lightning_modules.speech.test_audio import sound, wav
from tests.lightning_modules.support import prediction_errors, small_data, small_module, small_trainer

STRINGS = dict(task="recognition", string=[1, 3], stack=3)


def data_of(**options: Any) -> ToneWords:
    return ToneWords(**{"words": 3, "voices": 4, "takes": 4, "batch_size": 8} | options)


def module_of(data: ToneWords, **options: Any) -> SpeechModule:
    module = SpeechModule.for_data(data, **{"config": DREAMConfig(hidden_dim=16, rank=4)} | options)
    module.prepare(data)
    return module


def first(data: ToneWords) -> SpeechBatch:
    return next(iter(data.train_dataloader()))


@pytest.mark.parametrize("core", ["dream", "lstm", "linear"])
@pytest.mark.parametrize(("options", "attention"), [({}, 0), ({}, 2), (STRINGS, 0)])
def test_padding_changes_nothing(core: str, options: dict[str, Any], attention: int) -> None:
    data = data_of(**options)
    module = module_of(data, core=core, error=core == "dream", attention=attention).eval()
    batch = first(data)
    padded = torch.cat([batch.features, torch.full((len(batch.features), 7, data.inputs), torch.nan)], 1)
    together, longer = module(batch.features, batch.lengths), module(padded, batch.lengths)
    assert len(set(batch.lengths.tolist())) > 1
    for row, length in enumerate(batch.lengths.tolist()):
        alone = module(batch.features[row : row + 1, :length], torch.tensor([length])).log_probs[0]
        for reading in (together, longer):
            found = (
                reading.log_probs[row] if data.task == "classification" else reading.log_probs[row, :length]
            )
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.prediction_loss, longer.prediction_loss)


def test_the_core_is_read_as_with_a_mask() -> None:
    data = data_of()
    module, batch = module_of(data).eval(), first(data)
    output, _, _ = module.core.trace(batch.features, lengths=batch.lengths)
    masked, _ = module.core.forward_with_mask(batch.features, batch.lengths)
    assert torch.equal(output, masked)


def test_the_head_reads_means_weighted_by_attention() -> None:
    data = data_of()
    module, batch = module_of(data, attention=2).eval(), first(data)
    output, _, _ = module.core.trace(batch.features, lengths=batch.lengths)
    for sample, (steps, length) in enumerate(zip(output, batch.lengths.tolist(), strict=True)):
        z = steps[:length]
        means = [(z @ query).softmax(0) @ z for query in module.queries.weight]
        expected = module.head(torch.cat(means)).log_softmax(-1)
        torch.testing.assert_close(module(batch.features, batch.lengths).log_probs[sample], expected)


@pytest.mark.parametrize("attention", [0, 2])
def test_the_posteriors_of_the_figure_are_those_of_an_utterance_that_ends_there(attention: int) -> None:
    data = data_of()
    module, batch = module_of(data, attention=attention).eval(), first(data)
    module._batches = [batch]
    with torch.no_grad():
        found = torch.from_numpy(module._middle_utterance().posteriors)
        sample = len(batch.names) // 2
        steps = batch.features[sample : sample + 1]
        for end in (1, 9, len(found)):
            posterior = module(steps[:, :end], torch.tensor([end])).log_probs[0].exp()
            torch.testing.assert_close(found[end - 1], posterior, atol=1e-5, rtol=1e-4)


def test_attention_is_for_classification() -> None:
    with pytest.raises(ConfigError, match=r"`attention` must be 0 for recognition, .* got 2"):
        module_of(data_of(**STRINGS), attention=2)
    with pytest.raises(ConfigError, match="`attention` must be from 0 to 64 means; got -1"):
        module_of(data_of(), attention=-1)


@pytest.mark.parametrize("hidden_dims", [[16], [16, 7]])
def test_the_losses_are_those_of_the_formulas(hidden_dims: list[int]) -> None:
    data = data_of()
    module, batch = module_of(data, prediction_weight=0.5, hidden_dims=hidden_dims).eval(), first(data)
    with torch.no_grad():
        terms, reading = module.losses(batch), module(batch.features, batch.lengths)
        errors = prediction_errors(module.core, batch.features, batch.lengths)
    right = reading.log_probs[torch.arange(len(batch.names)), batch.tokens[:, 0]]
    assert float(terms["fit"]) == pytest.approx(float(-right.mean()), rel=1e-5)
    mean = errors.sum() / batch.lengths.sum()
    assert float(terms["prediction_loss"]) == pytest.approx(float(mean), rel=1e-5)
    assert float(terms["loss"]) == pytest.approx(
        float(terms["fit"] + 0.5 * terms["prediction_loss"]), rel=1e-6
    )


def test_the_loss_of_recognition_is_the_probability_that_decoding_sums() -> None:
    data = data_of(**STRINGS)
    module = module_of(data).eval()
    batch = data.batch([Utterance((k,)) for k in data.utterances["test"][0].recordings[:1]])
    with torch.no_grad():
        log_probs = module(batch.features, batch.lengths).log_probs
    tokens, score = beam_search(log_probs[0].double().numpy(), 500)
    said = batch._replace(tokens=torch.tensor([tokens]) - 1, counts=torch.tensor([len(tokens)]))
    assert float(module.misfit(log_probs, said)) * len(tokens) == pytest.approx(-score, rel=0.01)


def test_a_spare_batch_counts_for_nothing() -> None:
    data = data_of()
    module = module_of(data)
    spare = data.train_dataloader().dataset[[]]
    with torch.no_grad():
        assert float(module.losses(spare._replace(spare=False))["fit"]) > 0
        assert module.counted(spare).tolist() == [0, 0]
        assert module.counted(first(data)).tolist() == [8, int(first(data).lengths.sum())]


def test_variations_are_drawn_from_the_global_generator_and_in_training_only() -> None:
    data = data_of()
    module, batch = module_of(data, noise=0.3, mask=0.5), first(data)

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return varied(batch.features, batch.lengths, noise=0.3, mask=0.5)

    assert torch.equal(drawn(7), drawn(7))
    assert not torch.equal(drawn(7), drawn(8))
    module.eval()
    before = torch.get_rng_state()
    assert torch.equal(*(module(batch.features, batch.lengths).log_probs for _ in range(2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_hidden_is_one_stretch_of_at_most_its_share() -> None:
    lengths = torch.tensor([50, 20, 5])
    hidden = varied(torch.ones(3, 50, 2), lengths, noise=0.0, mask=0.4)[..., 0] == 0
    assert hidden.any()
    for row, length in enumerate(lengths.tolist()):
        places = hidden[row].nonzero().flatten()
        assert len(places) <= 0.4 * length + 1
        if len(places):
            assert places[-1] < length
            assert len(places) == places[-1] - places[0] + 1


def test_it_learns_to_tell_words_apart(tmp_path: Path) -> None:
    data = data_of(words=3, voices=8, takes=6)
    module = module_of(data, lr=1e-2, noise=0.1, dropout=0.0)
    trainer = small_trainer(tmp_path, max_epochs=20)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert list(module.results) == ["DREAM", "DREAM, plasticity off", "nearest mean"]
    own = module.results["DREAM"]
    assert own["accuracy"] > 0.8
    seen = torch.cat(module._seen["DREAM"])
    truth = torch.cat([batch.tokens[:, 0] for batch in data.test_dataloader()])
    assert own["accuracy"] == pytest.approx(float((seen.argmax(1) == truth).float().mean()))
    assert own["cross_entropy"] == pytest.approx(
        float(-seen[torch.arange(len(truth)), truth].mean()), rel=1e-5
    )
    assert module.results["DREAM, plasticity off"]["cross_entropy"] != own["cross_entropy"]
    assert set(module.figures()) == {"utterance", "confusion"}
    (path,) = module.write_predictions(trainer.predict(module, datamodule=data) or [], tmp_path)
    table = pd.read_csv(path)
    assert path.name == "labels.csv"
    assert sorted(table["file"]) == sorted(r.name for r in data.recordings if r.part == "test")
    right = (table["said"] == table["file"].str.split("-").str[0]).mean()
    assert right == pytest.approx(own["accuracy"])
    assert table["score"].between(1 / data.channels, 1).all()
    heard = labels_of_forms(module, data, tmp_path / "forms")
    for name, label in zip(table["file"], table["said"], strict=True):
        assert heard[name] == dict.fromkeys(heard[name], label)
        assert len(heard[name]) == 6


def labels_of_forms(module: SpeechModule, data: ToneWords, folder: Path) -> dict[str, dict[str, str]]:
    """Label by recording of the test part and form: WAV, from a pipe, FLAC, OGG, stereo, twice the rate."""
    rate, found = data.mfcc.sample_rate, {}
    folder.mkdir()
    for recording in (r for r in data.recordings if r.part == "test"):
        samples, plain = recording.samples, wav(recording.samples, rate)
        place = plain.index(b"data") + 4
        forms = {
            ".wav": plain,
            ".pipe.wav": plain[:4] + b"\xff" * 4 + plain[8:place] + b"\xff" * 4 + plain[place + 4 :],
            ".flac": sound("FLAC", rate, samples=samples),
            ".ogg": sound("OGG", rate, samples=samples, loss=0.0),
            ".stereo.wav": wav(np.stack([samples, samples], 1), rate),
            ".twice.wav": wav(soxr.resample(samples, rate, 2 * rate), 2 * rate),
        }
        for form, content in forms.items():
            (folder / f"{recording.name}{form}").write_bytes(content)
    again = SpeechFolder(str(folder), vocabulary=list(data.vocabulary), mfcc=data.mfcc, stack=data.stack)
    module.prepare(again)
    for batch in again.predict_dataloader():
        for name, label, _ in module.predict_step(batch, 0):
            recording, dot, form = name.partition(".")
            found.setdefault(recording, {})[dot + form] = label
    return found


def test_strings_are_written_down(tmp_path: Path) -> None:
    data = data_of(**STRINGS)
    module = module_of(data, core="gru", lr=1e-2)
    trainer = small_trainer(tmp_path, max_epochs=2)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert list(module.results) == ["GRU"]
    assert list(module.results["GRU"]) == ["wer", "cer", "wer_greedy", "cer_greedy"]
    assert set(module.figures()) == {"utterance"}
    (path,) = module.write_predictions(trainer.predict(module, datamodule=data) or [], tmp_path)
    table = pd.read_csv(path, keep_default_na=False)
    assert path.name == "transcripts.csv"
    truth = {data.name_of(utterance): data.transcript(utterance) for utterance in data.utterances["test"]}
    assert set(table["file"]) == set(truth)
    rate = WordErrorRate()(table["said"].tolist(), [truth[name] for name in table["file"]])
    assert module.results["GRU"]["wer"] == pytest.approx(float(rate))
    assert (table["score"] <= 1).all()


def test_text_has_no_blanks_at_its_ends() -> None:
    module = module_of(data_of(**STRINGS, tokens="characters"))
    blank = module.vocabulary.index(" ")
    a, b = (module.vocabulary.index(letter) for letter in "ab")
    assert module.written([blank, a, blank, blank, b, b, blank]) == "a bb"
    assert module.decoded([a + 1, b + 1]) == "ab"


def test_the_vocabulary_is_kept_in_its_order() -> None:
    module = module_of(data_of())
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["schema"]["vocabulary"] == ["alpha", "bravo", "charlie"]
    data = data_of(vocabulary=["charlie", "bravo", "alpha"])
    other = module_of(data)
    expected = [[["alpha", "bravo", "charlie"].index(name.split("-")[0]) for name in first(data).names]]
    assert first(data).tokens.T.tolist() != expected
    other.on_load_checkpoint(checkpoint)
    assert other.vocabulary == data.vocabulary == ("alpha", "bravo", "charlie")
    assert first(data).tokens.T.tolist() == expected
    with pytest.raises(DataError, match=r"trained on, alpha, bravo, charlie; unknown to it: delta\. Leave"):
        module_of(data_of(words=4, vocabulary=None)).on_load_checkpoint(checkpoint)


def test_features_of_other_settings_are_refused() -> None:
    checkpoint: dict[str, Any] = {}
    module_of(data_of()).on_save_checkpoint(checkpoint)
    for options in ({"mfcc": MFCC(hop=0.02)}, {"mfcc": MFCC(window=0.05)}):
        with pytest.raises(DataError, match=r"`mfcc` must be .* as in the training of the checkpoint"):
            module_of(data_of(**options)).on_load_checkpoint(checkpoint)
    with pytest.raises(DataError, match="`stack` must be 1, as in the training of the checkpoint; got 3"):
        module_of(data_of(stack=3)).on_load_checkpoint(checkpoint)


def test_probabilities_that_are_not_finite_are_refused_by_name() -> None:
    data = data_of()
    module, batch = module_of(data).eval(), first(data)
    with torch.no_grad():
        module.head.weight.fill_(math.nan)
    with pytest.raises(DREAMError, match=rf"not finite: the probabilities, first of {batch.names[0]}"):
        module.predict_step(batch, 0)


def test_the_nearest_mean() -> None:
    known = torch.tensor([[0.0, 0.0], [0.0, 2.0], [1.0, 10.0], [1.0, 14.0]])
    asked = torch.tensor([[0.9, 1.0], [0.1, 20.0]])
    labels = torch.tensor([0, 0, 1, 1])
    # the first column varies between classes only
    assert nearest_mean(known, labels, asked).tolist() == [
        1,
        0,
    ]
    assert nearest_mean(known, labels + 1, torch.zeros(1, 2)).tolist() == [1]  # nothing is known of class 0
    assert nearest_mean(known[:1], labels[:1], asked).tolist() == [0, 0]
    resting, moving = (
        torch.cat([part, torch.full((len(part), 1), at)], 1) for part, at in ((known, 0.3), (asked, 7.0))
    )
    assert torch.equal(nearest_mean(resting, labels, moving), nearest_mean(known, labels, asked))


def test_names_in_pictures_are_no_formulas() -> None:
    classes = ["a $x^$ b", "$\\nothing$"]
    shown = plots.DrawnUtterance(
        classes[0], np.arange(3.0), *(np.full(size, 0.5) for size in ((3, 2), 3, 3, (3, 2))), classes
    )
    for figure in (confusion(np.array([[0, 1], [0, 1]]), classes), plots.utterance(shown)):
        figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(mask=0.7), "`mask` must be a share from 0 to 0.5; got 0.7"),
        (dict(noise=-1.0), "`noise` must be from 0 to 10 deviations"),
        (dict(beam=0), "`beam` must be from 1 to 1000; got 0"),
        (dict(dropout=1.0), "`dropout` must be a share from 0 to below 1"),
        (dict(prediction_weight=-1.0), "`prediction_weight` must be a finite number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        SpeechModule(**options)
    assert message in str(refused.value)


def test_other_data_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"`data` must be a SpeechData; got DriftingLoad\. Try SpeechFolder"
    ):
        SpeechModule().prepare(small_data())
    with pytest.raises(ConfigError, match="`data` must be a ForecastingData; got ToneWords"):
        small_module().prepare(data_of())
