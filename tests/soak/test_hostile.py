"""Short form of `tests.soak.hostile`: outputs stay finite on hostile streams, to the last step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dream.numerics import largest
from tests.dream.support import CPU_BACKENDS
from tests.soak import hostile


@pytest.mark.parametrize(
    "knobs", [{}, dict(kappa=0.0), dict(kappa=1.0), dict(error_smoothing=0.0), dict(ltc_enabled=False)]
)
def test_a_layer(knobs: dict[str, Any]) -> None:
    seen = hostile.through_layer(2000, **knobs)
    assert seen["finite"]
    assert seen["largest |h|"] <= 1
    assert seen["largest |U|"] <= 2.0 if knobs.get("kappa") == 1.0 else 1e6 < seen["largest |U|"] < 1e21


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_layer_that_trains(backend: str) -> None:
    assert hostile.through_layer(500, backend, train=True)["finite"]


@pytest.mark.parametrize("first", ["constants", "denormals", "huge legal values"])
@pytest.mark.parametrize(
    ("task", "rule"),
    [
        ("forecasting", "least_squares"),
        ("forecasting", "adam"),
        ("regression", "least_squares"),
        ("regression", "sgd"),
        ("classification", "least_squares"),
    ],
)
def test_a_learner(task: str, rule: str, first: str) -> None:
    """From whichever kind the stream begins with, missing values among them."""
    trust = 0.0 if task == "classification" else 0.9
    seen = hostile.through_learner(500 * len(hostile.KINDS), task, rule, first, every=50, trust=trust)
    assert seen["finite"]
    assert seen["refused"] == []
    assert seen["steps"] == 500 * len(hostile.KINDS)


def test_the_objects() -> None:
    seen = hostile.through_objects(40)
    assert seen["finite"]
    assert seen["refused"] == []


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_the_streams_are_what_they_are_called(kind: str) -> None:
    values = np.concatenate(list(hostile.pieces(kind, 1200, 0)))
    assert values.shape == (1200, hostile.COLUMNS)
    assert np.abs(values).max() <= largest(hostile.torch.float32)
    sizes = {
        "spikes of 1e6": (9e5, 2e6),
        "denormals": (1e-45, 1.2e-38),
        "huge legal values": (1.8e19, 1.85e19),
    }
    low, high = sizes.get(kind, (0.0, 1e8))
    assert low <= np.abs(values).max() <= high


@pytest.mark.parametrize(
    ("steps", "refused", "message"),
    [
        (5, ["`a` is too large"], "a part: a refusal without a row: `a` is too large"),
        (0, ["row 7 is too large"], "a part: everything was refused, first with: .'row 7 is too large'"),
    ],
)
def test_a_refusal_names_a_row_and_is_not_all(steps: int, refused: list[str], message: str) -> None:
    hostile.require_named("a part", {"steps": 5, "refused": ["row 7 of the stream holds 1e30"]})
    with pytest.raises(AssertionError, match=message):
        hostile.require_named("a part", {"steps": steps, "refused": refused})
