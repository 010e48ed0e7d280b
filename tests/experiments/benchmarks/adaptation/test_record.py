"""What becomes of the figures: shares of the gap, bars, the summary, the tables."""

from __future__ import annotations

from typing import ClassVar

import pytest

from experiments.benchmarks.adaptation.page import markdown
from experiments.benchmarks.adaptation.protocol import (
    BASELINE,
    LSTM,
    OFF,
    OPTIMUM,
    PLASTIC,
    REST,
    Metric,
    Outcome,
    Scores,
    Task,
)
from experiments.benchmarks.adaptation.record import (
    Record,
    ahead,
    controls,
    means,
    metric_of,
    reached,
    record,
    summary,
)


class Probe(Task):
    name = "probe"
    group = "probes"
    title = "a probe"
    metrics = (Metric("loss", bar=0.5), Metric("closed", higher=True, bar=0.7, share_of="loss"))


class Sorting(Task):
    name = "sorting"
    group = "others"
    title = "sorting"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", higher=True, beats=(LSTM,)),)


def outcome(name: str, value: float, chosen: str | None = None) -> Outcome:
    return Outcome(Scores({name: value}), chosen=chosen)


def probe() -> Record:
    seeds = {
        seed: {
            PLASTIC: outcome("loss", 0.4 + seed / 10, "0.003"),
            REST: outcome("loss", 1.2),
            OFF: outcome("loss", 1.0 + seed / 10, "0.01"),
            BASELINE: outcome("loss", 0.3, "counts"),
            OPTIMUM: outcome("loss", 0.2),
        }
        for seed in range(2)
    }
    return record(Probe, seeds)


def sorting(own: float = 0.9) -> Record:
    return record(Sorting, {0: {PLASTIC: outcome("accuracy", own), LSTM: outcome("accuracy", 0.8)}})


def test_the_share_is_of_the_gap_to_the_better_of_both_without_fast_weights() -> None:
    columns = probe()["columns"]
    assert columns[PLASTIC]["values"] == {"loss": [0.4, 0.5], "closed": pytest.approx([0.75, 0.6 / 0.9])}
    assert columns[OFF]["values"]["closed"] == [0, 0]
    assert columns[OPTIMUM]["values"]["closed"] == [1, 1]
    assert columns[REST]["values"]["closed"] == pytest.approx([-0.25, -0.1 / 0.9])


def test_bars_hold_for_the_mean_and_rivals_of_the_metric() -> None:
    assert [metric["reached"] for metric in probe()["metrics"]] == [True, True]
    assert sorting()["metrics"][0]["reached"]
    assert sorting(0.8)["metrics"][0]["reached"]
    assert not sorting(0.79)["metrics"][0]["reached"]
    columns = probe()["columns"]
    assert reached(Metric("loss"), columns) is None
    assert reached(Metric("loss", bar=0.45), columns)
    assert not reached(Metric("loss", bar=0.44), columns)
    assert not reached(Metric("loss", bar=0.45, beats=(BASELINE,)), columns)
    assert reached(Metric("loss", beats=(OFF,), by=0.59), columns)
    assert not reached(Metric("loss", beats=(OFF,), by=0.61), columns)


def test_within_one_deviation_is_that_of_the_other_column() -> None:
    def rows(own: float) -> Record:
        return {PLASTIC: {"values": {"m": [own, own]}}, OFF: {"values": {"m": [1.0, 3.0]}}}  # 2 +- 1.414

    assert reached(Metric("m", within=(OFF,)), rows(3.4))
    assert not reached(Metric("m", within=(OFF,)), rows(3.5))
    assert reached(Metric("m", higher=True, within=(OFF,)), rows(0.6))
    assert not reached(Metric("m", higher=True, within=(OFF,)), rows(0.5))


class Harmless(Task):
    name = "harmless"
    group = "controls"
    title = "no gain expected"
    metrics = (Metric("mse", within=(REST, OFF)),)


def control(seeds: int, own: float) -> Record:
    """Record of a control in which both columns without plasticity have 1 and 3."""
    return record(
        Harmless,
        {
            seed: {
                PLASTIC: outcome("mse", own),
                REST: outcome("mse", 1 + 2 * seed),
                OFF: outcome("mse", 1 + 2 * seed),
            }
            for seed in range(seeds)
        },
    )


def test_controls_are_counted_apart_and_need_a_deviation() -> None:
    tasks = {"sorting": sorting(), "a": control(2, 3.4), "b": control(2, 3.5)}
    assert controls(tasks) == {"a": True, "b": False}
    assert ahead(tasks) == {LSTM: (1, 1)}
    assert summary(tasks) == (
        "DREAM with its fast weights is ahead of LSTM on 1 of 1 tasks. It is not worse than plasticity off "
        "beyond one deviation on 1 of 2 controls."
    )
    assert controls({"a": control(1, 0.0)}) == {"a": None}
    assert summary({"a": control(1, 0.0)}) == "Controls need two seeds or more, for a deviation."
    what = "not worse than DREAM at rest, without plasticity beyond one deviation"
    for seeds, own, verdict in ((2, 3.4, "reached"), (2, 3.5, "missed"), (1, 0.0, "needs two seeds")):
        assert f"| {what}: {verdict} |" in markdown({"a": control(seeds, own)})


def test_the_summary_counts_the_headlines_of_what_both_columns_have() -> None:
    tasks = {"probe": probe(), "sorting": sorting()}
    assert ahead(tasks) == {REST: (1, 1), OFF: (1, 1), LSTM: (1, 1), BASELINE: (0, 1)}
    assert summary(tasks) == (
        "DREAM with its fast weights is ahead of DREAM at rest on 1 of 1, without plasticity on 1 of 1, "
        "LSTM on 1 of 1, best without a core on 0 of 1 tasks."
    )
    assert summary({}) == ""
    assert ahead({"sorting": sorting(0.8)}) == {LSTM: (0, 1)}


def test_metrics_come_back_from_the_record() -> None:
    for task, entries in ((Probe, probe()["metrics"]), (Sorting, sorting()["metrics"])):
        assert [metric_of(entry) for entry in entries] == list(task.metrics)


def test_means_name_task_and_metric() -> None:
    found = means({"probe": probe(), "sorting": sorting()})
    assert found[PLASTIC]["probe: loss"] == pytest.approx(0.45)
    assert found[LSTM] == {"sorting: accuracy": 0.8}


def test_tables_have_every_column_bars_and_spreads() -> None:
    text = markdown({"probe": probe(), "sorting": sorting()})
    assert "### Probes" in text
    assert "### Others" in text
    row = next(line for line in text.splitlines() if line.startswith("| a probe: loss"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "a probe: loss",
        "≤ 0.5: reached",
        "0.45 ± 0.071",
        "1.2",
        "1.05 ± 0.071",
        "-",
        "-",
        "-",
        "0.3 (counts)",
        "0.2",
    ]
    assert "| sorting: accuracy | ≥ LSTM: reached | 0.9 | - | - | 0.8 |" in text
    assert "| probe | without plasticity | - | 0.01 | - |" in text
