"""Tasks on data of the wings: systems, characters and speakers that are new at test time."""

from __future__ import annotations

import pytest
import torch

from experiments.benchmarks.adaptation.protocol import NOT_COUNTED, Batch
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


def voices(count: int, recordings: int = 60) -> speakers.Voices:
    """Voices whose features tell recording and digit."""
    digits = torch.randint(speakers.DIGITS, (count, recordings))
    features = torch.randn(count, recordings, speakers.PARTS, speakers.FEATURES)
    features[..., 0] += digits[..., None] * 100
    return speakers.Voices(features, digits)


def test_an_utterance_is_asked_for_at_its_end_and_its_label_comes_after() -> None:
    known = voices(2)
    order = torch.stack([torch.randperm(60)[:7] for _ in range(3)])
    batch = known.streams(torch.tensor([1, 0, 1]), order)
    assert batch.inputs.shape == (3, 7 * speakers.STEPS, speakers.FEATURES + speakers.DIGITS)
    steps = batch.inputs.unflatten(1, (7, speakers.STEPS))
    asked = batch.targets.unflatten(1, (7, speakers.STEPS))
    for place in range(7):
        digit = int(known.digits[1, order[2, place]])
        said = known.features[1, order[2, place]]
        assert torch.equal(steps[2, place, : speakers.PARTS, : speakers.FEATURES], said)
        assert (steps[2, place, : speakers.PARTS, speakers.FEATURES :] == 0).all()
        assert (steps[2, place, speakers.PARTS, : speakers.FEATURES] == 0).all()
        assert steps[2, place, speakers.PARTS, speakers.FEATURES :].nonzero()[:, 0].tolist() == [digit]
        assert asked[2, place].tolist() == [NOT_COUNTED] * (speakers.PARTS - 1) + [digit, NOT_COUNTED]


def test_methods_without_a_core_learn_from_labels_before_alone() -> None:
    task = speakers.Speakers(0)
    task.voices = {"train": voices(len(speakers.SPEEDS)), "test": voices(1)}
    order = torch.stack([torch.randperm(60)[:20] for _ in range(4)])
    batch = task.voices["test"].streams(torch.zeros(4, dtype=torch.int64), order)
    for name, predict in task.baselines().items():
        found = predict(batch)
        assert found.shape == (4, 20 * speakers.STEPS, speakers.DIGITS)
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(found.shape[:2]))
        said = found[:, speakers.PARTS - 1 :: speakers.STEPS].argmax(-1)
        assert (said == batch.facts["digits"]).float().mean() > 0.9, name
        later = batch.facts["digits"].clone()
        later[:, 10:] = 0
        again = predict(batch._replace(facts={**batch.facts, "digits": later}))
        assert torch.equal(again[:, : 11 * speakers.STEPS], found[:, : 11 * speakers.STEPS]), name


@pytest.mark.data
def test_speakers_are_apart_and_each_utterance_is_asked_for_once_after_any_number_of_labels() -> None:
    task = speakers.Speakers(7)
    assert task.tested == "jackson"
    assert {part: tuple(known.digits.shape) for part, known in task.voices.items()} == {
        "train": (4 * len(speakers.SPEEDS), 500),
        "validation": (1, 500),
        "test": (1, 500),
    }
    batches = task.held_out("test")
    digits = torch.cat([batch.facts["digits"] for batch in batches])
    features = torch.cat([batch.facts["features"] for batch in batches])
    assert digits.shape == (500, 51)
    for place in (0, 50):
        assert digits[:, place].bincount().tolist() == [50] * speakers.DIGITS
        assert len(features[:, place].flatten(1).unique(dim=0)) == 500
    known, said = task.known
    assert known.shape == (2000, speakers.PARTS * speakers.FEATURES)
    assert said.bincount().tolist() == [200] * speakers.DIGITS
