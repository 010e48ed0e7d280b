"""Classification of whole sequences: losses, what the head reads, tests, predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import ConfigError, DREAMConfig, DREAMError
from lightning_modules import SequenceModule
from lightning_modules.classification import LabelledTable, SequenceBatch, SequenceData
from tests.lightning_modules.classification.sequences.support import data_of, table
from tests.lightning_modules.support import prediction_errors, small_data, small_trainer

ALL = ["last", "mean", "deviation", "attention", "error"]


def module_of(data: SequenceData, **options: Any) -> SequenceModule:
    torch.manual_seed(0)
    module = SequenceModule.for_data(data, **{"config": DREAMConfig(hidden_dim=16, rank=2)} | options)
    module.prepare(data)
    return module


def first(data: SequenceData) -> SequenceBatch:
    found: SequenceBatch = next(iter(data.test_dataloader()))
    return found


@pytest.mark.parametrize("hidden_dims", [[16], [16, 7]])
def test_the_losses_are_those_of_the_formulas(hidden_dims: list[int]) -> None:
    data = data_of()
    module = module_of(data, prediction_weight=0.5, hidden_dims=hidden_dims).eval()
    batch = first(data)
    with torch.no_grad():
        terms = module.losses(batch)
        log_probs = module.read(batch).log_probs
        error = prediction_errors(module.core, batch.inputs, batch.lengths).sum() / batch.lengths.sum()
    nats = -log_probs[torch.arange(len(log_probs)), batch.labels]
    assert float(terms["fit"]) == pytest.approx(float(nats.mean()), rel=1e-5)
    assert float(terms["prediction_loss"]) == pytest.approx(float(error), rel=1e-5)
    assert float(terms["loss"]) == pytest.approx(float(terms["fit"] + 0.5 * error), rel=1e-5)


def test_what_is_asked_and_a_spare_batch_do_not_count() -> None:
    data = data_of()
    module, batch = module_of(data).eval(), first(data)
    asked = batch._replace(labels=torch.tensor([-1, *batch.labels[1:].tolist()]))
    with torch.no_grad():
        nats = -module.read(batch).log_probs[torch.arange(4), batch.labels]
        assert float(module.losses(asked)["fit"]) == pytest.approx(float(nats[1:].mean()), rel=1e-5)
        assert module.counted(asked).tolist() == [3, int(batch.lengths.sum())]
        spare = data.train_dataloader().dataset[[]]
        assert module.counted(spare).tolist() == [0, 0]
        assert float(module.losses(spare)["loss"]) == 0


@pytest.mark.parametrize("core", ["dream", "lstm", "linear"])
def test_padding_changes_nothing(core: str) -> None:
    data = data_of()
    module, batch = module_of(data, core=core, reads=ALL).eval(), first(data)
    padded = torch.cat([batch.inputs, torch.full((4, 5, 2), torch.nan)], 1)
    whole, longer = module.read(batch), module.read(batch._replace(inputs=padded))
    torch.testing.assert_close(longer.log_probs, whole.log_probs)
    torch.testing.assert_close(longer.prediction_loss, whole.prediction_loss)
    for sample, length in enumerate(batch.lengths.tolist()):
        alone = module(batch.inputs[sample : sample + 1, :length], batch.lengths[sample : sample + 1])
        torch.testing.assert_close(alone.log_probs[0], whole.log_probs[sample], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reads", [[read] for read in ALL] + [ALL])
def test_a_sequence_of_one_step_trains(reads: list[str]) -> None:
    data = data_of(table(16, 1, 2))
    module = module_of(data, reads=reads)
    for batch in data.train_dataloader():
        module.losses(batch)["loss"].backward()
    gradients = [weights.grad for weights in module.head.parameters()]
    assert all(found is not None and found.isfinite().all() and found.any() for found in gradients)
    assert all(weights.grad.isfinite().all() for weights in module.parameters() if weights.grad is not None)


@pytest.mark.parametrize("missing", ["ffill", "mask", "model"])
@pytest.mark.parametrize("core", ["dream", "gru"])
def test_gaps_are_read(missing: str, core: str) -> None:
    frame = table()
    frame.loc[::3, "x"] = np.nan
    data = data_of(frame, missing=missing)
    module, batch = module_of(data, core=core).eval(), first(data)
    assert module.losses(batch)["loss"].isfinite()
    if missing == "model" and core == "dream":
        unlike = batch._replace(
            inputs=torch.where(batch.observed, batch.inputs, 5.0)  # type: ignore[arg-type] # not None
        )
        torch.testing.assert_close(module.read(unlike).log_probs, module.read(batch).log_probs)


def test_it_learns_from_the_order_of_steps(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays, labels = [], []
    for number in range(120):
        steps = random.integers(8, 20)
        line = np.linspace(-1, 1, steps) * (1 if number % 2 else -1)
        arrays.append(line[:, None] + 0.3 * random.standard_normal((steps, 2)))
        labels.append("rising" if number % 2 else "falling")
    data = LabelledTable.of_arrays(arrays, [*labels[:-4], *[None] * 4])
    module = module_of(data, lr=1e-2)
    trainer = small_trainer(tmp_path, max_epochs=5)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert list(module.results) == ["DREAM", "DREAM, plasticity off", "nearest mean"]
    own = module.results["DREAM"]
    assert list(own) == ["accuracy", "macro_f1", "nats"]
    assert own["accuracy"] > 0.9
    assert module.results["nearest mean"]["accuracy"] > 0.9
    assert set(module.figures()) == {"confusion"}
    confused = pd.read_csv(tmp_path / "confusion.csv", index_col="label")
    assert list(confused.columns) == list(confused.index) == ["falling", "rising"]
    assert confused.to_numpy().sum() == len(data.sequences["test"])
    assert confused.to_numpy().trace() / confused.to_numpy().sum() == pytest.approx(own["accuracy"])
    (path,) = module.write_predictions(trainer.predict(module, datamodule=data) or [], tmp_path)
    assert path.name == "predictions.csv"
    written = pd.read_csv(path)
    assert list(written.columns) == ["unique_id", "label", "p_falling", "p_rising"]
    assert written["unique_id"].tolist() == [116, 117, 118, 119]
    assert written["label"].tolist() == labels[-4:]
    np.testing.assert_allclose(written["p_falling"] + written["p_rising"], 1, rtol=1e-5)


def test_macro_f1_counts_every_class_alike(tmp_path: Path) -> None:
    data = data_of()
    module = module_of(data, core="gru")
    with torch.no_grad():
        module.head.weight.zero_()
        module.head.bias.copy_(torch.tensor([1.0, 0.0]))
    small_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    assert list(module.results) == ["GRU", "nearest mean"]
    assert module.results["GRU"]["accuracy"] == 0.5
    assert module.results["GRU"]["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_a_checkpoint_reads_other_data_on_its_scale(tmp_path: Path) -> None:
    data = data_of()
    module = module_of(data)
    trainer = small_trainer(tmp_path)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = SequenceModule.load_from_checkpoint(tmp_path / "a.ckpt").eval()
    frame = table()
    other = data_of(frame[frame["unique_id"] == "s2"].drop(columns="label"))
    loaded.prepare(other)
    (found,) = small_trainer(tmp_path).predict(loaded, datamodule=other) or []
    own = other.samples["predict"][0].inputs
    mean, scale = data.schema.scales["x"]
    np.testing.assert_allclose(own[:, 0] * scale + mean, frame[frame["unique_id"] == "s2"]["x"], rtol=1e-5)
    assert found[0] == ["s2"]


def test_probabilities_that_are_not_finite_are_refused_by_name() -> None:
    data = data_of()
    module, batch = module_of(data).eval(), first(data)
    with torch.no_grad():
        module.head.weight.fill_(torch.nan)
    with pytest.raises(DREAMError, match=rf"not finite: the probabilities, first of {batch.names[0]}\."):
        module.predict_step(batch, 0)


@pytest.mark.parametrize("reads", [[], ["mean", "mean"], ["median"]])
def test_reads_are_refused(reads: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"`reads` must be one or more of last, mean, .*, each once; got"):
        SequenceModule(reads=reads)


def test_other_data_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"`data` must be a SequenceData; got DriftingLoad\. Try LabelledTable"
    ):
        SequenceModule().prepare(small_data())
