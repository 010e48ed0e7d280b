"""Scores from deviations: causal, calibrated, by hand where a hand can."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from torch import Tensor

from dream.ops import native
from lightning_modules.anomaly import scores
from lightning_modules.anomaly.scores import (
    DECADES,
    GATE_MEASURES,
    MEASURES,
    AnomalyScore,
    RunningScale,
    TailProbability,
    WindowedGaussian,
    carried_tensors,
    tail_threshold,
)


def scaled(values: np.ndarray, memory: int = 1000, learning: np.ndarray | None = None) -> np.ndarray:
    """`RunningScale` over one stream (T, C)."""
    learning = np.ones(len(values), dtype=bool) if learning is None else learning
    scale = RunningScale(1, values.shape[1], memory)
    return np.stack([scale.step(row[None], on[None])[0] for row, on in zip(values, learning, strict=True)])


def test_levels_and_steps_by_hand() -> None:
    values = np.array([1.0, 3.0, 2.0, 8.0])[:, None]
    z = scaled(values)
    steps = np.array([0.0, 2.0, -1.0, 6.0])
    assert z[:2].tolist() == [[0, 0], [0, 0]]  # of one row there is no scale
    for row in (2, 3):
        past, before = values[:row, 0], steps[:row]
        assert z[row, 0] == pytest.approx((values[row, 0] - past.mean()) / past.std())
        assert z[row, 1] == pytest.approx((steps[row] - before.mean()) / before.std())


def test_unit_and_offset_do_not_matter_and_a_jump_is_limited() -> None:
    values = np.random.default_rng(0).normal(size=(200, 2))
    values[150] = 1e6
    assert scaled(values * 1000 - 7) == pytest.approx(scaled(values), rel=1e-6, abs=1e-6)
    assert scaled(values)[150].tolist() == [8, 8, 50, 50]


def test_a_scale_that_is_held_learns_nothing() -> None:
    values = np.random.default_rng(0).normal(size=(300, 1))
    values[100:] += 5
    held, adapted = scaled(values, 50, np.arange(300) < 100), scaled(values, 50)
    assert held[280:, 0].mean() > 4
    assert adapted[280:, 0].mean() < 1


def tails(a: np.ndarray, memory: int = 20000) -> np.ndarray:
    """`TailProbability` over streams side by side, (T, N)."""
    tail, learning = TailProbability(a.shape[1], 1, memory), np.ones(a.shape[1], dtype=bool)
    return np.stack([tail.step(row[:, None], learning)[:, 0] for row in a])


def test_the_tail_of_an_exponential_is_right_in_any_unit() -> None:
    a = np.random.default_rng(1).exponential(size=(3000, 24))
    a[-3], a[-1] = 3 * np.log(10), 8 * np.log(10)  # P = 1e-3 and 1e-8
    unit = np.logspace(-3, 3, 24)
    found = tails(unit * a)
    assert found == pytest.approx(tails(a), rel=1e-6, abs=1e-6)
    assert np.median(found[-1]) == pytest.approx(8, rel=0.1)
    assert np.median(found[-3]) == pytest.approx(3, rel=0.1)
    assert np.mean(found[1000:-3] > 2) == pytest.approx(0.01, rel=0.2)
    assert (found[:50] == 0).all()


def test_a_heavy_tail_makes_the_same_deviation_less_surprising() -> None:
    random = np.random.default_rng(2)
    a = np.abs(np.stack([random.normal(size=3000), random.standard_t(3, size=3000)], 1))
    a[-1] = 8
    light, heavy = tails(a)[-1]
    assert light > 2 * heavy


def test_what_becomes_usual_stops_surprising() -> None:
    a = np.abs(np.random.default_rng(3).normal(size=(3000, 4)))
    a[1500:] *= 4
    found = tails(a, memory=300)
    assert (found[1500:1550].max(0) > 3.5).all()
    assert found[2500:].mean() == pytest.approx(found[1000:1500].mean(), rel=0.2)


def test_streams_and_measures_do_not_mix() -> None:
    a = np.random.default_rng(4).exponential(size=(300, 2, 3))
    whole, one = TailProbability(2, 3, 200), TailProbability(1, 1, 200)
    for row in a:
        both = whole.step(row, np.ones(2, dtype=bool))
        assert one.step(row[1:, 2:], np.ones(1, dtype=bool))[0, 0] == both[1, 2]


def judge(
    x: np.ndarray,
    prediction: np.ndarray,
    measures: Sequence[str] = MEASURES,
    gap: int = 20,
    learns: int = 10**9,
    gate: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`AnomalyScore` over one stream that learns for `learns` rows; `x` and `prediction` (T, 2 C)."""
    score = AnomalyScore(1, x.shape[1] // 2, 5000, np.array([gap]), measures)
    gate = np.zeros((len(x), 2)) if gate is None else gate
    rows = enumerate(zip(x, prediction, gate, strict=True))
    found = [score.step(a[None], b[None], c[None], np.array([row < learns])) for row, (a, b, c) in rows]
    return np.array([s[0] for s, _ in found]), np.array([a[0] for _, a in found])


def test_a_row_that_was_predicted_is_no_anomaly_and_one_that_was_not_is() -> None:
    random = np.random.default_rng(5)
    x = random.normal(size=(600, 2))
    x[500] = [0, 9]
    known, noise = x.copy(), x + random.normal(size=x.shape)
    known[500] = noise[500] = [0, 0]
    for prediction in (known + 0.1 * random.normal(size=x.shape), noise):
        score, alarm = judge(x, prediction, measures=["error"])
        assert np.argmax(score) == np.argmax(alarm) == 500
    assert judge(x, x + 0.1 * random.normal(size=x.shape), measures=["error"])[0][500] < 0.2


def test_an_alarm_is_not_raised_again_before_the_gap_is_over() -> None:
    x, prediction = np.random.default_rng(6).normal(size=(700, 2)), np.zeros((700, 2))
    x[600:], x[600], x[605], x[610], x[640] = 0, 4, 3, 6, 3
    score, alarm = judge(x, prediction, gap=20, measures=["error"], learns=600)
    assert np.flatnonzero(alarm[600:]).tolist() == [0, 10, 40]
    assert score[605] > 0.2
    assert alarm[600] == pytest.approx(score[600] - 0.5 * np.log10(601) / DECADES)


def test_each_measure_sees_its_own() -> None:
    random = np.random.default_rng(7)
    calm = random.normal(size=(1500, 2))
    shifted, restless = calm.copy(), calm.copy()
    shifted[1400:, 0] += 2.5
    restless[1400:] *= 3
    for x, measure in ((shifted, "drift"), (restless, "burst")):
        score, _ = judge(x, np.zeros_like(x), measures=[measure])
        assert score[1410:1430].mean() > np.quantile(score[300:1400], 0.99)
    spike = calm.copy()
    spike[1400, 0] = 7.9
    assert np.argmax(judge(spike, spike, measures=["level"])[0]) == 1400
    gate = random.uniform(0, 0.2, size=(1500, 2))
    gate[1400, 0] = gate[1300, 1] = 0.95
    assert np.argmax(judge(calm, calm, measures=["deviation"], gate=gate)[0]) == 1400
    assert np.argmax(judge(calm, calm, measures=["surprise"], gate=gate)[0]) == 1300


def test_one_column_of_many_is_enough() -> None:
    x = np.random.default_rng(8).normal(size=(800, 20))
    x[700, 3] = 12
    score, _ = judge(x, np.zeros_like(x))
    assert np.argmax(score) == 700


def test_windowed_gaussian_by_hand() -> None:
    values = np.random.default_rng(9).normal(3, 2, size=(250, 1))
    values[230] = 9
    detector = WindowedGaussian(1, 1)
    score = np.array([detector.step(row[None])[0][0] for row in values])
    assert (score[:100] == 0.5).all()
    away = abs(9 - values[:200].mean()) / values[:200].std()
    assert away > 2
    assert score[230] == pytest.approx(0.5 * (1 + math.erf(away / math.sqrt(2))), abs=1e-6)


def test_thresholds_of_an_exponential() -> None:
    scores = np.random.default_rng(10).exponential(size=20000)
    assert tail_threshold(scores, 0.2) == pytest.approx(np.log(5), rel=0.05)
    assert tail_threshold(scores, 1e-3) == pytest.approx(np.log(1e3), rel=0.05)
    assert tail_threshold(scores, 1e-5) == pytest.approx(np.log(1e5), rel=0.1)
    assert tail_threshold(np.ones(100), 1e-3) == 1


@pytest.mark.parametrize("gaps", [False, True])
def test_rows_at_once_are_rows_one_by_one(gaps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three streams of two columns, of which one stops learning: the same bits in any pieces."""
    random = np.random.default_rng(11)
    values = random.normal(size=(3, 300, 2)).cumsum(1)
    if gaps:
        values[random.random(values.shape) < 0.1] = np.nan
        values[:, ::17] = np.nan
    learning = np.ones((3, 300), dtype=bool)
    learning[1, 200:] = False
    expected, gate = values + random.normal(size=values.shape), random.random((3, 300, 2))
    measures, gap = [*MEASURES, *GATE_MEASURES], np.array([1, 7, 20])

    def found(rows: int) -> tuple[list[np.ndarray], list[Tensor]]:
        scale, score = RunningScale(3, 2, 100), AnomalyScore(3, 2, 200, gap, measures)
        parts = []
        for start in range(0, 300, rows):
            part = slice(start, start + rows)
            x, levels, prediction = scale.read(values[:, part], learning[:, part], expected[:, part])
            assert prediction is not None
            judged = score.read(x, prediction, gate[:, part], learning[:, part])
            parts.append((x, levels, prediction, *judged))
        named = list(carried_tensors(scale, score).values())
        return [np.concatenate(part, 1) for part in zip(*parts, strict=True)], named

    alone = found(1)
    for rows, numbers in ((300, 1 << 17), (41, 1 << 17), (300, 500)):
        monkeypatch.setattr(scores, "AT_ONCE", numbers)
        arrays, tensors = found(rows)
        for own, other in zip([*alone[0], *alone[1]], [*arrays, *tensors], strict=True):
            np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize(
    ("streams", "columns", "measures"), [(1, 10, MEASURES), (3, 3, ("error", "surprise", "level"))]
)
def test_the_compiled_scores_are_those_of_numpy(
    streams: int, columns: int, measures: tuple[str, ...], gaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of a table as of its rows, and of a stream as of many, to the bit."""
    if isinstance(native.kernel(), str):
        pytest.skip("there is no kernel")
    draw = np.random.default_rng(columns)
    values = draw.standard_normal((streams, 300, columns)).cumsum(1)
    values[draw.random(values.shape) < 0.02] *= 10
    expected = values + draw.standard_normal(values.shape)
    if gaps:
        values[draw.random(values.shape) < 0.05] = np.nan
        values[:, 150], values[0, 160, 0] = np.nan, np.inf
    learning = draw.random((streams, 300)) < 0.95
    gate = draw.random((streams, 300, 2))
    gap = np.arange(1, streams + 1) * 4

    def found(some: slice, rows: int) -> list[np.ndarray]:
        """Scores, alarms and all that is carried of some streams, so many rows at a time."""
        some_gap = gap[some]
        scale = RunningScale(len(some_gap), columns, 100)
        score = AnomalyScore(len(some_gap), columns, 100, some_gap, measures)
        score.recent = np.full((len(some_gap), int(gap.max())), -1.0)
        parts = []
        for start in range(0, 300, rows):
            part = some, slice(start, start + rows)
            read = scale.read(values[part], learning[part], expected[part])
            assert read.expected is not None
            parts.append([*read, *score.read(read.x, read.expected, gate[part], learning[part])])
        joined = [np.concatenate(part, 1) for part in zip(*parts, strict=True)]
        owners = (scale, score, score.tail)
        return [*joined, *(getattr(owner, name) for owner in owners for name in owner.CARRIED)]

    whole = found(slice(None), 300)
    for part, other in zip(whole, found(slice(None), 1), strict=True):
        np.testing.assert_array_equal(part, other)
    for part, other in zip(whole, found(slice(streams - 1, streams), 7), strict=True):
        np.testing.assert_array_equal(part[streams - 1 :], other)
    monkeypatch.setattr(native, "_found", "not there")
    for part, other in zip(whole, found(slice(None), 300), strict=True):
        np.testing.assert_allclose(part, other, rtol=1e-9, atol=1e-12)
