"""The NAB score: by hand on small corpora, and against the published detectors."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dream.errors import DataError
from lightning_modules.anomaly.nab_score import PROFILES, ScoredStream, nab_scores, probation, worth


def sigmoid(y: float) -> float:
    return 2 / (1 + math.exp(5 * y)) - 1


def test_probation() -> None:
    assert [probation(rows) for rows in (100, 4032, 5000, 22695)] == [15, 604, 750, 750]


def test_worth_by_hand() -> None:
    value = worth(40, [(10, 14)])
    assert (value[:10] == -1).all()
    assert value[10] == pytest.approx(1)
    assert value[12] == pytest.approx(sigmoid(-3 / 5) / sigmoid(-1))
    assert value[14] == pytest.approx(sigmoid(-1 / 5) / sigmoid(-1))
    assert value[15] == pytest.approx(sigmoid(1 / 4))
    assert value[26] == pytest.approx(sigmoid(3))  # 12 rows past a window of 5: 3 of its lengths
    assert (value[27:] == -1).all()


def test_a_detection_counts_after_its_own_window_not_before_the_next() -> None:
    value = worth(40, [(10, 14), (30, 34)])
    assert value[29] == -1
    assert value[35] == pytest.approx(sigmoid(1 / 4))


def corpus(
    *detections: int, rows: int = 40, windows: tuple[tuple[int, int], ...] = ((10, 14),)
) -> dict[str, ScoredStream]:
    scores = np.zeros(rows)
    scores[list(detections)] = 1.0
    return {"one": ScoredStream(scores, list(windows))}


def test_perfect_silent_and_late() -> None:
    assert {name: nab_scores(corpus(10))[name].value for name in PROFILES} == pytest.approx(
        dict.fromkeys(PROFILES, 100)
    )
    late = sigmoid(-1 / 5) / sigmoid(-1)
    assert nab_scores(corpus(14))["nab"].value == pytest.approx(100 * (late + 1) / 2)
    assert nab_scores(corpus(14))["nab_low_fn"].value == pytest.approx(100 * (late + 2) / 3)
    assert nab_scores(corpus(10))["nab"].threshold == 1


def test_one_row_of_many_in_a_window_counts() -> None:
    assert nab_scores(corpus(12, 13, 14)) == nab_scores(corpus(12))


def test_a_false_alarm_costs_by_profile() -> None:
    scores = nab_scores(corpus(10, 8, 39))
    assert scores["nab"].value == pytest.approx(100 * (2 - 2 * 0.11) / 2)
    assert scores["nab_low_fp"].value == pytest.approx(100 * (2 - 2 * 0.22) / 2)


def test_probation_is_free() -> None:
    assert nab_scores(corpus(10, 0, 1, 5)) == nab_scores(corpus(10))  # 6 rows of 40


def test_silence_is_best_where_all_else_costs() -> None:
    scores = np.ones(4000)
    scores[3999] = 0.0
    best = nab_scores({"one": ScoredStream(scores, [(3998, 3999)])})["nab"]
    assert (best.value, best.threshold) == (0, math.inf)


def test_one_threshold_serves_the_corpus() -> None:
    loud = ScoredStream(np.where(np.arange(40) == 10, 1.0, 0.5), [(10, 14)])
    quiet = ScoredStream(np.where(np.arange(40) == 10, 0.5, 0.0), [(10, 14)])
    both = nab_scores({"loud": loud, "quiet": quiet})["nab"]
    assert both.threshold == 1
    # at 0.5, 29 false alarms would cost more than the second window brings
    assert both.value == pytest.approx(50)


def test_brute_force() -> None:
    random = np.random.default_rng(3)
    streams = {
        "a": ScoredStream(random.integers(0, 12, 90) / 12, [(20, 29), (40, 44)]),
        "b": ScoredStream(random.integers(0, 12, 60) / 12, []),
        "c": ScoredStream(random.integers(0, 12, 70) / 12, [(30, 50)]),
    }
    for name, profile in PROFILES.items():
        sums = []
        for threshold in [np.inf, *np.unique(np.concatenate([stream.scores for stream in streams.values()]))]:
            total = 0.0
            for stream in streams.values():
                value = worth(len(stream.scores), stream.windows)
                detected = (stream.scores >= threshold) & (np.arange(len(value)) >= probation(len(value)))
                inside = np.zeros(len(value), dtype=bool)
                for first, last in stream.windows:
                    inside[first : last + 1] = True
                    hits = value[first : last + 1][detected[first : last + 1]]
                    total += profile.hit * hits.max() if len(hits) else -profile.miss
                total += profile.false_alarm * value[detected & ~inside].sum()
            sums.append(total)
        expected = 100 * (max(sums) + 3 * profile.miss) / (3 * profile.hit + 3 * profile.miss)
        assert nab_scores(streams)[name].value == pytest.approx(expected)


def test_it_refuses_what_it_cannot_score() -> None:
    with pytest.raises(DataError, match="at least one labelled window"):
        nab_scores({"one": ScoredStream(np.zeros(40), [])})
    with pytest.raises(DataError, match="scores of one must be finite; row 3 is not"):
        nab_scores({"one": ScoredStream(np.array([0.0, 1, 1, np.nan]), [(1, 1)])})


@pytest.mark.data
def test_published_detectors_score_as_published() -> None:
    folder = Path(os.environ["DREAM_DATA"]) / "nab"
    if not (folder / "reference_scores").is_dir():
        pytest.skip("DREAM_DATA has no nab/reference_scores")
    labels = json.loads((folder / "labels" / "combined_windows.json").read_text())
    windows = {}
    for name, spans in labels.items():
        time = pd.to_datetime(pd.read_csv(folder / "data" / name)["timestamp"])
        windows[name] = [tuple(np.flatnonzero((time >= a) & (time <= b))[[0, -1]]) for a, b in spans]
    published = {
        "windowedGaussian": (39.65, 20.87, 47.41),
        "numenta": (70.10, 63.21, 74.32),
        "contextOSE": (69.90, 66.98, 73.18),
    }
    for detector, expected in published.items():
        scores = np.load(folder / "reference_scores" / f"{detector}.npz")
        found = nab_scores({name: ScoredStream(scores[name], windows[name]) for name in windows})
        assert [found[name].value for name in PROFILES] == pytest.approx(expected, abs=0.1)
