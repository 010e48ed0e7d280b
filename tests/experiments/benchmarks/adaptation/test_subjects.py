"""Tasks on data of the wings: systems, characters and speakers that are new at test time."""

from __future__ import annotations

import pytest
import torch

from experiments.benchmarks.adaptation.protocol import Batch
from experiments.benchmarks.adaptation.tasks import omniglot, speakers, systems
from experiments.benchmarks.adaptation.training import scores
from lightning_modules.forecasting.systems import SystemsModule

# Systems


def test_targets_are_corrections_of_the_reference_and_inputs_those_of_the_shipped_experiment() -> None:
    data = systems.Systems(0).data()
    batch, drawn = systems.batch_of(data, "val", 4), data.batch("val", [0, 1, 2, 3])
    found = batch.facts["reference"] + batch.facts["scale"] * batch.targets
    torch.testing.assert_close(found, drawn.targets)
    module = SystemsModule.for_data(data)
    torch.testing.assert_close(batch.facts["reference"], module.reference(drawn.inputs).future)
    assert batch.inputs.shape == (4, systems.STEPS, systems.INPUTS)
    assert torch.equal(batch.inputs[..., : systems.SHAPE.inputs], drawn.inputs)
    assert torch.equal(systems.least_squares(1.0, batch), torch.zeros_like(batch.targets))


def test_errors_of_the_systems_are_in_deviations_of_the_output_and_outliers_are_bounded() -> None:
    task = systems.Systems(0)
    batch = systems.batch_of(task.data(), "val", 3)
    targets, scale = batch.targets.double(), batch.facts["scale"].double()
    predicted = targets + 0.5 / scale * torch.tensor([1.0, 2.0])
    found = task.score([predicted, predicted], [Batch(*batch)._replace(targets=targets)] * 2)
    assert list(found.values.values()) == pytest.approx([0.5, 1.0, 0.5, 1.0], rel=1e-6)
    assert found.curve == pytest.approx([0.5] * len(task.positions), rel=1e-6)
    far = batch.targets + torch.tensor([1e6, 3.0])
    assert float(task.loss(far, batch)) == pytest.approx((systems.OUTLIER**2 + 9) / 2, rel=1e-4)


# Omniglot


@pytest.mark.data
def test_drawings_come_with_labels_a_step_late_and_neighbours_are_as_good_as_on_their_page() -> None:
    task = omniglot.Omniglot(0)
    batch = task.held_out("test")[0]
    assert batch.inputs.shape == (1000, 50, 69)
    late = batch.inputs[:, 1:, omniglot.FEATURES :].argmax(-1)
    assert torch.equal(late, batch.targets[:, :-1])
    assert (batch.inputs[:, 0, omniglot.FEATURES :] == 0).all()
    found = {name: scores(task, predict) for name, predict in task.baselines().items()}
    means = {name: outcome.values["mean"] for name, outcome in found.items()}
    assert means["nearest neighbour"] == pytest.approx(0.507, abs=0.01)
    assert means["nearest mean"] == pytest.approx(0.46, abs=0.01)
    assert means["nearest neighbour, unscaled"] == pytest.approx(0.58, abs=0.01)
    curve = found["nearest neighbour"].curve
    assert curve[1] == found["nearest neighbour"].values["2nd instance"] < curve[9]


# Speakers


def voices(count: int, recordings: int = 80) -> speakers.Voices:
    """Voices whose sounds tell the digit."""
    digits = torch.randint(speakers.DIGITS, (count, recordings))
    sounds = torch.randn(count, recordings, speakers.PARTS * speakers.FEATURES)
    sounds[..., :20] += digits[..., None] * 30
    return speakers.Voices(sounds, digits)


def small_task() -> speakers.Speakers:
    task = speakers.Speakers(0)
    task.voices = {"train": voices(4 * len(speakers.SPEEDS)), "validation": voices(1), "test": voices(1)}
    return task


def test_labels_come_a_step_late_and_components_of_the_training_have_variance_1() -> None:
    task = small_task()
    batch = task.train_batch(torch.Generator().manual_seed(0))
    assert batch.inputs.shape == (32, 40, speakers.COMPONENTS + speakers.DIGITS)
    labels = batch.inputs[..., speakers.COMPONENTS :]
    assert torch.equal(labels[:, 1:].argmax(-1), batch.targets[:, :-1])
    assert (labels[:, 1:].sum(-1) == 1).all()
    assert (labels[:, 0] == 0).all()
    known, said = task.known
    assert torch.equal(known[:80], task.voices["train"].sounds[2])
    assert torch.equal(known[80:160], task.voices["train"].sounds[2 + len(speakers.SPEEDS)])
    heard = task.batch_of(known[None], said[None]).inputs[0, :, : speakers.COMPONENTS]
    torch.testing.assert_close(heard.T.cov(correction=0), torch.eye(speakers.COMPONENTS), atol=2e-3, rtol=0)


def test_maps_keep_the_variance_and_lie_between_none_and_four_times_as_far() -> None:
    drawn = speakers.maps(200, torch.Generator().manual_seed(0))
    size = speakers.COMPONENTS
    torch.testing.assert_close(drawn.square().sum((1, 2)) / size, torch.ones(200), rtol=0.3, atol=0)
    kept = drawn.diagonal(dim1=1, dim2=2).mean(1)
    assert float(kept.max()) > 0.9
    assert 0.1 < float(kept.min()) < 0.4


def test_methods_without_a_core_know_the_labels_before_alone() -> None:
    task = small_task()
    batch = task.held_out("test")[0]
    for name, predict in task.baselines().items():
        found = predict(batch)
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(batch.targets.shape))
        assert task.score([found], [batch]).values["mean"] > 0.9, name
        later = batch.targets.clone()
        later[:, 10:] = 0
        assert torch.equal(predict(batch._replace(targets=later))[:, :11], found[:, :11]), name


@pytest.mark.data
def test_speakers_are_apart_and_each_utterance_is_asked_for_once_after_any_number_of_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speakers, "SPEEDS", (0.9, 1.0))
    task = speakers.Speakers(7)
    assert task.tested == "jackson"
    assert {part: tuple(known.digits.shape) for part, known in task.voices.items()} == {
        "train": (4 * len(speakers.SPEEDS), 500),
        "validation": (1, 500),
        "test": (1, 500),
    }
    batch = task.held_out("test")[0]
    assert batch.targets.shape == (500, 51)
    for place in (0, 50):
        assert batch.targets[:, place].bincount().tolist() == [50] * speakers.DIGITS
        assert len(batch.facts["sounds"][:, place].unique(dim=0)) == 500
    known, said = task.known
    assert known.shape == (2000, speakers.PARTS * speakers.FEATURES)
    assert said.bincount().tolist() == [200] * speakers.DIGITS
