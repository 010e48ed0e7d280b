"""Metrics of anomaly detection, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dream.errors import DataError
from lightning_modules.anomaly.metrics import event_metrics, range_pr, row_metrics, soft_labels, vus_pr


def flags(text: str) -> np.ndarray:
    return np.array([sign == "1" for sign in text])


def test_rows_by_hand() -> None:
    values = row_metrics([np.array([0.1, 0.9, 0.4, 0.8])], [flags("0101")], [flags("0110")])
    # of the pairs (anomalous, normal), one is the wrong way round
    assert values["roc_auc"] == pytest.approx(3 / 4)
    assert values["ap"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert values["f1"] == pytest.approx(1 / 2)
    assert (values["far"], values["mar"]) == (50, 50)


def test_rows_of_streams_are_pooled_and_their_unit_does_not_matter() -> None:
    score, label = np.array([1.0, 5, 3, 2, 9, 4]), flags("010010")
    whole = row_metrics([score], [score > 4], [label])
    parts = row_metrics(
        [score[:3] * 100, score[3:] * 100], [score[:3] > 4, score[3:] > 4], [label[:3], label[3:]]
    )
    assert whole == parts
    assert whole["roc_auc"] == 1


@pytest.mark.parametrize("label", ["000", "111"])
def test_rows_need_both_kinds(label: str) -> None:
    with pytest.raises(DataError, match="must hold normal and anomalous rows"):
        row_metrics([np.zeros(3)], [flags("000")], [flags(label)])


def test_events_by_hand() -> None:
    label = flags("0111001100")
    values = event_metrics([flags("0001110001")], [label])
    assert values == {"event_precision": 0.5, "event_recall": 0.5, "event_f1": 0.5}


def test_an_event_counts_once_and_is_not_filled_up() -> None:
    label = flags("00111111110000")
    one, many = flags("00000100000000"), flags("00010101010000")
    assert event_metrics([one], [label]) == {"event_precision": 1, "event_recall": 1, "event_f1": 1}
    assert event_metrics([many], [label])["event_precision"] == 1
    # four alarms, two in the event
    assert event_metrics([flags("00010100000101")], [label])["event_precision"] == 0.5


def test_events_without_alarms_or_events() -> None:
    assert event_metrics([flags("000")], [flags("010")]) == {
        "event_precision": 0,
        "event_recall": 0,
        "event_f1": 0,
    }
    assert event_metrics([flags("010")], [flags("000")])["event_f1"] == 0


def test_soft_labels_by_hand() -> None:
    soft = soft_labels(flags("0001100000"), 4)
    root = np.sqrt([0.5, 0.75])
    assert soft.tolist() == pytest.approx([0, *root, 1, 1, *root[::-1], 0, 0, 0])
    assert soft_labels(flags("1001"), 4).tolist() == pytest.approx([1, root[1], root[1], 1])
    assert soft_labels(flags("0110"), 0).tolist() == [0, 1, 1, 0]


def test_range_pr_without_a_buffer_by_hand() -> None:
    score, label = np.array([0.1, 0.9, 0.4, 0.8, 0.2]), flags("01100")
    # thresholds 0.9, 0.8, 0.4: precision 1, 1/2, 2/3; recall 1/2, 1/2, 1; one range, found at once
    assert range_pr([score], [label], 0) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_range_pr_with_a_buffer_by_hand() -> None:
    score, label = np.array([0.0, 0.0, 0.9, 0.8, 0.0, 0.0]), flags("000100")
    slope = np.sqrt(0.5)
    positives = (1 + 2 * slope + 1) / 2
    first, second = slope / positives, min(1, (1 + slope) / positives)
    rest = (1 + 2 * slope) / 6 * (1 - second)
    assert range_pr([score], [label], 2) == pytest.approx(
        first * slope + (second - first) * (1 + slope) / 2 + rest
    )


def test_a_range_that_is_missed_lowers_recall() -> None:
    label, one, both = flags("0100010"), np.array([0, 1, 0, 0, 0, 0, 0.0]), np.array([0, 1, 0, 0, 0, 1, 0.0])
    assert range_pr([both], [label], 0) == pytest.approx(1)
    # recall 1/2 times 1 of 2 ranges, then all
    assert range_pr([one], [label], 0) == pytest.approx(1 / 4 + 3 / 4 * 2 / 7)


def test_streams_do_not_fade_into_each_other() -> None:
    score, label = np.array([0.1, 0.2, 0.9, 0.8, 0.1, 0.3]), flags("001000")
    apart = range_pr([score[:3], score[3:]], [label[:3], label[3:]], 4)
    assert apart == pytest.approx(range_pr([score[3:], score[:3]], [label[3:], label[:3]], 4))
    assert apart != range_pr([score], [label], 4)


def test_the_volume_is_the_mean_over_buffers() -> None:
    score, label = np.array([0.1, 0.2, 0.9, 0.8, 0.1, 0.3, 0.2, 0.1]), flags("00010000")
    assert vus_pr([score], [label], 2) == pytest.approx(
        np.mean([range_pr([score], [label], k) for k in range(3)])
    )
    assert vus_pr([score], [label], 2) > range_pr([score], [label], 0)  # a row early is almost right


def test_the_volume_needs_an_anomaly() -> None:
    with pytest.raises(DataError, match="at least one anomalous row"):
        vus_pr([np.zeros(3)], [flags("000")], 2)
