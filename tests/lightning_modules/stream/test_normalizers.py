"""The causal normaliser and the seasonal profile against their equations, row by row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dream import ConfigError
from lightning_modules.stream.normalizers import Normalized, Normalizer, NormalizerState
from lightning_modules.stream.seasonal import SeasonalProfile


def whole(normalizer: Normalizer, x: Tensor) -> tuple[Normalized, NormalizerState]:
    return normalizer(x, normalizer.init_state(x.shape[0], x.shape[2]))


@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_running_follows_its_equations(rate: float) -> None:
    x = torch.randn(40, dtype=torch.float64).tolist()
    relative, _ = whole(Normalizer("running", rate), torch.tensor(x, dtype=torch.float64).view(1, -1, 1))
    mean, var, squares = 0.0, 0.0, 0.0
    for k, value in enumerate(x, 1):
        a = max(rate, 1 / k)
        away, mean = value - mean, mean + a * (value - mean)
        var = var + a * ((1 - a) * away**2 - var)
        squares += (1 - a) * away**2
        scale = math.sqrt(var + 0.01 * squares / k) or math.nan
        read = 0.0 if k == 1 else (value - mean) / scale
        assert relative.level[0, k - 1, 0] == pytest.approx(mean, abs=1e-12)
        assert relative.scale[0, k - 1, 0] == pytest.approx(scale, rel=1e-12, nan_ok=True)
        assert relative.read[0, k - 1, 0] == pytest.approx(read, abs=1e-12)


def test_differences_follow_their_equations() -> None:
    x = torch.randn(1, 40, 1, dtype=torch.float64).cumsum(1)
    relative, _ = whole(Normalizer("differences", 0.0), x)
    steps = x[0, 1:, 0].diff(prepend=x[0, :1, 0])
    for k in range(1, 40):
        scale = math.sqrt(1.01 * float(steps[:k].square().mean()))
        assert relative.scale[0, k, 0] == pytest.approx(scale, rel=1e-12)
        assert relative.read[0, k, 0] == pytest.approx(float(steps[k - 1]) / scale, abs=1e-12)
    assert relative.read[0, 0, 0] == 0
    torch.testing.assert_close(relative.level, x)


@pytest.mark.parametrize("kind", ["running", "differences", "none"])
def test_chunks_are_the_whole_and_the_future_is_not_read(kind: Any) -> None:
    normalizer, x = Normalizer(kind, 0.03), torch.randn(3, 60, 2, dtype=torch.float64)
    x[1, 20:25, 0] = torch.nan
    relative, state = whole(normalizer, x)
    first, between = whole(normalizer, x[:, :33])
    second, end = normalizer(x[:, 33:], between)
    for name in Normalized._fields:
        torch.testing.assert_close(
            torch.cat([getattr(first, name), getattr(second, name)], 1),
            getattr(relative, name),
            equal_nan=True,
        )
    for (_, a), (_, b) in zip(state.items(), end.items(), strict=True):
        torch.testing.assert_close(a, b)
    changed = x.clone()
    changed[:, 40:] = 1e6
    for a, b in zip(relative, whole(normalizer, changed)[0], strict=True):
        torch.testing.assert_close(a[:, :40], b[:, :40], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", ["running", "differences"])
def test_a_missing_value_changes_nothing(kind: Any) -> None:
    normalizer, x = Normalizer(kind, 0.05), torch.randn(1, 30, 1, dtype=torch.float64)
    with_gap = torch.cat([x[:, :10], torch.full((1, 3, 1), torch.nan, dtype=torch.float64), x[:, 10:]], 1)
    relative, gapped = whole(normalizer, x)[0], whole(normalizer, with_gap)[0]
    last = gapped.read[:, 9:10] if kind == "running" else torch.zeros(1, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(gapped.read[:, 10:13], last.expand(-1, 3, -1))  # of the last known value
    assert torch.equal(gapped.level[:, 10:13], gapped.level[:, 9:10].expand(-1, 3, -1))
    for name in Normalized._fields:
        torch.testing.assert_close(getattr(gapped, name)[:, 13:], getattr(relative, name)[:, 10:])


@pytest.mark.parametrize("kind", ["running", "differences"])
def test_no_jump_is_read_as_more_than_the_rate_allows(kind: Any) -> None:
    x = torch.zeros(1, 2000, 1, dtype=torch.float64)
    x[:, 1000:] = 1e9
    relative, _ = whole(Normalizer(kind, 0.01), x)
    assert float(relative.read.abs().max()) <= 10.0
    assert relative.read.isfinite().all()
    assert relative.scale[:, :1000].isnan().all()
    assert relative.scale[:, 1000:].isfinite().all()


def test_a_bad_rate_or_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="`rate` must be a number from 0 to below 1; got 1"):
        Normalizer("running", 1.0)
    with pytest.raises(
        ConfigError, match="`normalization` must be differences, running or none; got 'robust'"
    ):
        Normalizer("robust", 0.1)  # type: ignore[arg-type]


class TestSeason:
    def test_it_finds_a_profile_on_a_drifting_level(self) -> None:
        wave = np.array([0.0, 3.0, -1.0, -2.0])
        rows = np.tile(wave, 200) + 0.001 * np.arange(800)
        profile = SeasonalProfile(4, 0.1, 3)
        assert profile.steps == [1, 2, 3]
        changes, _ = profile(torch.from_numpy(rows).view(1, -1, 1), profile.init_state(1, 1))
        for slot in range(4):
            expected = [wave[(slot + h) % 4] - wave[slot] for h in profile.steps]
            np.testing.assert_allclose(changes[0, 796 + slot, 0].numpy(), expected, atol=0.15)

    def test_streams_at_different_rows_go_on_as_they_would_alone(self) -> None:
        profile, x = SeasonalProfile(5, 0.2, 2), torch.randn(1, 40, 2, dtype=torch.float64)
        whole, _ = profile(x, profile.init_state(1, 2))
        early, late = (profile(x[:, :n], profile.init_state(1, 2))[1] for n in (7, 18))
        both = type(early)(
            *(
                torch.cat(pair)
                for pair in zip(*([value for _, value in s.items()] for s in (early, late)), strict=True)
            )
        )
        changes, _ = profile(torch.cat([x[:, 7:17], x[:, 18:28]]), both)
        torch.testing.assert_close(changes[0], whole[0, 7:17])
        torch.testing.assert_close(changes[1], whole[0, 18:28])
