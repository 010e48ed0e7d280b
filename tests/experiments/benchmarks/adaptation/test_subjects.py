"""Tasks on data of the wings: systems, characters and speakers that are new at test time."""

from __future__ import annotations

import pytest
import torch

from experiments.benchmarks.adaptation.protocol import Batch
from experiments.benchmarks.adaptation.tasks import omniglot, systems
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
