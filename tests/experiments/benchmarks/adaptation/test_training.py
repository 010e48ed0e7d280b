"""One training for all columns: the choice of the learning rate, equal parameters, the same data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from torch import Tensor

from dream import DREAMConfig
from dream.errors import DREAMError
from experiments.benchmarks.adaptation import training
from experiments.benchmarks.adaptation.models import PlasticCore, build, nearest_width
from experiments.benchmarks.adaptation.protocol import (
    BASELINE,
    DELTA_NET,
    GRU,
    LSTM,
    OFF,
    OPTIMUM,
    PLASTIC,
    REST,
    TRAINED,
    Batch,
    Metric,
    Predictor,
    Scores,
    SequenceTask,
)
from experiments.benchmarks.adaptation.tasks import TASKS
from lightning_modules.cores import trainable

PROBES = [name for name, task in TASKS.items() if issubclass(task, SequenceTask)]


class Sines(SequenceTask):
    """Sines of unknown frequency, for seconds of training."""

    name = "sines"
    group = "small"
    title = "sines"
    config = DREAMConfig(input_dim=1, hidden_dim=8, rank=1)
    steps = 40
    rates = (1e-5, 1e-2)
    metrics = (Metric("MSE"),)

    def train_batch(self, random: torch.Generator) -> Batch:
        waves = torch.sin(torch.arange(21) * (0.1 + torch.rand(4, 1, generator=random)))[..., None]
        return Batch(waves[:, :-1], waves[:, 1:])

    def held_out(self, part: Literal["validation", "test"]) -> list[Batch]:
        return [self.train_batch(self.random(part))]

    def score(self, predictions: Sequence[Tensor], batches: Sequence[Batch]) -> Scores:
        return Scores({"MSE": float(self.loss(predictions[0], batches[0]))})

    def baselines(self) -> dict[str, Predictor]:
        return {"zero": lambda batch: 0 * batch.inputs, "last": lambda batch: batch.inputs}

    def optimum(self) -> Predictor:
        return lambda batch: batch.targets


def test_the_best_learning_rate_goes_on_and_its_steps_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []
    whole = Sines.train_batch

    def counting(self: Sines, random: torch.Generator) -> Batch:
        batch = whole(self, random)
        drawn.append(float(batch.inputs.sum()))
        return batch

    monkeypatch.setattr(Sines, "train_batch", counting)
    monkeypatch.setattr(Sines, "held_out", lambda self, part: [whole(self, self.random(part))])
    task = Sines(0)
    model, outcome = training.train(task, PLASTIC)
    assert outcome.chosen == "0.01"
    assert list(outcome.tried) == ["1e-05", "0.01"]
    assert outcome.tried["0.01"] < outcome.tried["1e-05"]
    assert outcome.parameters == trainable(model)
    assert len(drawn) == 8 + 40
    assert drawn[:8] == drawn[8:16]  # every rate sees the same batches

    alone = training.Training(task, PLASTIC, 1e-2, 40)
    alone.advance(40, lambda: None)
    for found, wanted in zip(model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_a_bound_on_the_steps_shortens_the_schedule() -> None:
    _, outcome = training.train(Sines(0), PLASTIC, 5)
    longer = training.train(Sines(0), PLASTIC)[1]
    assert outcome.tried != longer.tried


def test_the_least_finite_loss_is_chosen_and_one_is_needed() -> None:
    assert training.least({"a": float("nan"), "b": 2.0, "c": float("inf"), "d": 3.0}, "") == "b"
    with pytest.raises(DREAMError, match=r"no rate trains x: .* should be finite. Try lower ones"):
        training.least({"a": float("nan")}, "no rate trains x")


def test_every_column_has_its_outcome_and_the_weights_at_rest_are_those_of_dream() -> None:
    task = Sines(0)
    found = training.run_columns(task, 20)
    assert set(found) == {*TRAINED, REST, BASELINE, OPTIMUM}
    assert found[BASELINE].chosen == "last"
    assert found[OPTIMUM].scores.values == {"MSE": 0.0}
    model, outcome = training.train(task, PLASTIC, 20)
    assert outcome.scores.values == {}
    assert training.scores(task, model) == found[PLASTIC].scores
    assert isinstance(model.core, PlasticCore)
    with model.core.layer.plasticity(False):
        assert training.scores(task, model) == found[REST].scores
    assert found[REST].scores.values != found[PLASTIC].scores.values


@pytest.mark.parametrize("name", PROBES)
def test_rivals_have_dreams_parameters(name: str) -> None:
    task = TASKS[name](0)
    assert isinstance(task, SequenceTask)
    own = trainable(build(PLASTIC, task))
    for column, slack in {LSTM: 0.03, GRU: 0.03, DELTA_NET: 0.1}.items():  # a step of its width is 4 units
        assert abs(trainable(build(column, task)) - own) < slack * own, column
    assert trainable(build(OFF, task)) <= own


def test_the_nearest_width_may_be_above_the_budget() -> None:
    assert nearest_width(lambda width: torch.nn.Linear(10, width, bias=False), 34) == 3
    assert nearest_width(lambda width: torch.nn.Linear(10, width, bias=False), 36) == 4


def test_without_plasticity_the_fast_weights_are_left_out() -> None:
    core = build(OFF, Sines(0)).core
    assert isinstance(core, PlasticCore)
    assert core.layer.get_config().base_plasticity == 0


@pytest.mark.parametrize("name", PROBES)
def test_every_column_predicts_from_the_past_alone(name: str) -> None:
    task = TASKS[name](0)
    assert isinstance(task, SequenceTask)
    inputs = task.train_batch(task.random("train")).inputs[:2, :40]
    for column in TRAINED:
        model = build(column, task).eval()
        with torch.no_grad():
            whole = model(Batch(inputs, inputs))
            part = model(Batch(inputs[:, :9], inputs[:, :9]))
        torch.testing.assert_close(whole[:, :9], part, rtol=1e-4, atol=1e-5, msg=column)
