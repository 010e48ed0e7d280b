"""Classification of steps: losses, tests, predictions, and baselines that need no training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dream import ConfigError, DREAMConfig, DREAMError
from lightning_modules import ClassificationModule
from lightning_modules.classification import ClassificationBatch, ClassificationData
from lightning_modules.classification.metrics import by_instance, chosen, instances
from lightning_modules.naive import nearest_labelled, nearest_mean_so_far
from tests.lightning_modules.classification.test_data import small_classes
from tests.lightning_modules.classification.test_sets import data_of, table
from tests.lightning_modules.support import prediction_errors, small_data, small_trainer


def module_of(data: ClassificationData, **options: Any) -> ClassificationModule:
    torch.manual_seed(0)
    module = ClassificationModule.for_data(data, **{"config": DREAMConfig(hidden_dim=16, rank=4)} | options)
    module.prepare(data)
    return module


def first(data: ClassificationData) -> ClassificationBatch:
    found: ClassificationBatch = next(iter(data.test_dataloader()))
    return found


@pytest.mark.parametrize("hidden_dims", [[16], [16, 7]])
def test_the_losses_are_those_of_the_formulas(hidden_dims: list[int]) -> None:
    data = small_classes()
    module, batch = module_of(data, prediction_weight=0.5, hidden_dims=hidden_dims).eval(), first(data)
    labels = batch.labels.clone()
    labels[:, 3] = -1
    with torch.no_grad():
        terms = module.losses(batch._replace(labels=labels))
        output = module(batch.inputs)
        error = prediction_errors(module.core, batch.inputs).mean()
    nats = -output.log_probs.gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
    asked = labels >= 0
    assert float(terms["fit"]) == pytest.approx(float(nats[asked].mean()), rel=1e-5)
    assert float(terms["prediction_loss"]) == pytest.approx(float(error), rel=1e-5)
    assert float(terms["loss"]) == pytest.approx(
        float(terms["fit"] + 0.5 * terms["prediction_loss"]), rel=1e-6
    )


@pytest.mark.parametrize("core", ["dream", "lstm", "linear"])
def test_padding_changes_nothing(core: str) -> None:
    data = small_classes()
    module, batch = module_of(data, core=core).eval(), first(data)
    padded = torch.cat([batch.inputs, torch.full((8, 5, 9), torch.nan)], 1)
    lengths = torch.full((8,), 12)
    whole, longer = module(batch.inputs), module(padded, lengths)
    torch.testing.assert_close(longer.log_probs[:, :12], whole.log_probs)
    torch.testing.assert_close(longer.prediction_loss, whole.prediction_loss)


def test_a_step_does_not_see_its_own_label_nor_what_follows() -> None:
    data = small_classes()
    module, batch = module_of(data).eval(), first(data)
    changed = batch.inputs.clone()
    changed[:, 7:] = 0
    before, after = (module(inputs).log_probs[:, :7] for inputs in (batch.inputs, changed))
    assert torch.equal(before, after)
    other = data.batch([data.sequence("test", 0)._replace(labels=1 - batch.labels[0].clamp(max=1))])
    assert torch.equal(other.inputs[0, 0], batch.inputs[0, 0])


def test_a_spare_batch_counts_for_nothing() -> None:
    data = small_classes()
    module = module_of(data)
    spare = data.train_dataloader().dataset[[]]
    with torch.no_grad():
        assert float(module.losses(spare)["loss"]) == 0
        assert module.counted(spare).tolist() == [0, 0]
        assert module.counted(first(data)).tolist() == [96, 96]


def test_it_learns_new_classes_within_a_sequence(tmp_path: Path) -> None:
    data = small_classes(pool=400, shots=8, episodes=320, test_episodes=100, batch_size=32)
    module = module_of(data, lr=1e-2, config=DREAMConfig.preset("fast_adaptation", hidden_dim=32))
    trainer = small_trainer(tmp_path, max_epochs=10)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert list(module.results) == ["DREAM", "DREAM, plasticity off", "nearest neighbour", "nearest mean"]
    own, resting, neighbour, _ = module.results.values()
    assert list(own) == ["accuracy", "accuracy_1", "accuracy_2", "accuracy_5", "nats"]
    assert own["accuracy_5"] > max(0.7, neighbour["accuracy_5"], resting["accuracy_5"] + 0.2)
    assert own["nats"] < math.log(3)
    module.eval()
    with torch.no_grad():
        found = [(module(batch.inputs).log_probs, batch.labels) for batch in data.test_dataloader()]
    right = torch.cat([probs.argmax(-1) == labels for probs, labels in found])
    nats = torch.cat([-probs.gather(-1, labels.unsqueeze(-1)) for probs, labels in found])
    assert own["accuracy"] == pytest.approx(float(right.float().mean()))
    assert own["nats"] == pytest.approx(float(nats.mean()), rel=1e-5)
    assert set(module.figures()) == {"instances"}
    (path,) = module.write_predictions(trainer.predict(module, datamodule=data) or [], tmp_path)
    written = pd.read_csv(path)
    assert list(written.columns) == ["sequence", "step", "label", "score"]
    assert len(written) == 100 * 24
    assert set(written["label"]) == {1, 2, 3}
    assert written["score"].between(1 / 3, 1).all()


def test_a_table_is_labelled(tmp_path: Path) -> None:
    frame = table()
    frame.loc[frame.index[-3:], "label"] = None
    data = data_of(frame)
    module = module_of(data, core="gru")
    trainer = small_trainer(tmp_path)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert list(module.results) == ["GRU", "nearest neighbour", "nearest mean", "previous label"]
    labels = [data.sequence("test", k).labels for k in range(2)]
    same = sum(int((part[1:] == part[:-1]).sum()) + int(part[0] == 0) for part in labels)
    assert module.results["previous label"]["accuracy"] == pytest.approx(same / 14)
    (path,) = module.write_predictions(trainer.predict(module, datamodule=data) or [], tmp_path)
    written = pd.read_csv(path)
    assert written["sequence"].tolist() == ["user9"] * 7
    assert set(written["label"]) <= {"sit", "walk"}


def test_without_labels_as_inputs_nothing_is_known_of_a_sequence(tmp_path: Path) -> None:
    data = data_of(label_delay=None)
    module = module_of(data)
    small_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    assert list(module.results) == ["DREAM", "DREAM, plasticity off"]


def test_instances_are_counted_within_a_sequence() -> None:
    labels = torch.tensor([[0, 1, 0, 0, -1, 1], [2, 2, -1, 2, 0, 1]])
    found = instances(labels, 3)
    assert found.tolist() == [[1, 1, 2, 3, 0, 2], [1, 2, 0, 3, 1, 1]]
    shares = by_instance(np.array([True, False, True, True]), np.array([1, 1, 2, 4]))
    np.testing.assert_array_equal(shares, [0.5, 1, np.nan, 1])
    assert chosen(shares, (1, 2, 3, 9)) == {"accuracy_1": 0.5, "accuracy_2": 1.0}


@pytest.mark.parametrize("delay", [1, 2, 300])
def test_the_nearest_label_and_the_nearest_mean_are_those_of_the_definition(delay: int) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 270, 4, generator=generator)
    labels = torch.randint(-1, 3, (3, 270), generator=generator)
    neighbour, mean = (
        nearest_labelled(features, labels, delay),
        nearest_mean_so_far(features, labels, 3, delay),
    )
    for sample in range(3):
        for step in (0, 1, 2, 5, 40, 255, 256, 257, 269):
            before = torch.arange(270) <= step - delay
            known = before & (labels[sample] >= 0)
            if not known.any():
                assert neighbour[sample, step] == mean[sample, step] == 0
                continue
            seen, own, asked = features[sample][known], labels[sample][known], features[sample, step]
            assert neighbour[sample, step] == own[(seen - asked).norm(dim=-1).argmin()]
            means = {int(k): seen[own == k].mean(0) for k in own.unique()}
            assert mean[sample, step] == min(means, key=lambda k: float((means[k] - asked).norm()))


def test_probabilities_that_are_not_finite_are_refused_by_name() -> None:
    data = small_classes()
    module, batch = module_of(data).eval(), first(data)
    with torch.no_grad():
        module.head.weight.fill_(math.nan)
    with pytest.raises(
        DREAMError, match=r"not finite: the probabilities, first of Gaussian classes .*, test seq"
    ):
        module.predict_step(batch, 0)


def test_other_data_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"`data` must be a ClassificationData; got DriftingLoad\. Try Sequ"
    ):
        ClassificationModule().prepare(small_data())
    with pytest.raises(ConfigError, match="`classes` is 4, not 3"):
        module_of(small_classes(pool=40)).prepare(small_classes(pool=40, ways=4))
