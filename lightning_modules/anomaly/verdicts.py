"""Verdicts of a detector, from its scores: threshold, flags and alarms; and their assessment.

Shapes: T rows of a stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from lightning_modules.anomaly import nab_score as nab
from lightning_modules.anomaly.data import AnomalyStream
from lightning_modules.anomaly.metrics import event_metrics, row_metrics, vus_pr
from lightning_modules.anomaly.scores import WARM_UP, tail_threshold
from lightning_modules.data.frequency import table_times
from lightning_modules.tables import free

Rule = Literal["tail", "quantile"]
FLAGGED = "flagged"
HIGHER_IS_BETTER = frozenset(
    [*nab.PROFILES, "roc_auc", "ap", "vus_pr", "event_precision", "event_recall", "event_f1", "f1"]
)


class Verdict(NamedTuple):
    """Verdict of a detector on one stream."""

    score: np.ndarray
    """(T,)"""
    alarm: np.ndarray
    """(T,) strength of the alarm, 0 for none."""
    threshold: float
    flag: np.ndarray
    """(T,) True where the score is above the threshold, after the training part."""
    raised: np.ndarray
    """(T,) True where a row is flagged and has an alarm."""

    @classmethod
    def of(
        cls,
        stream: AnomalyStream,
        score: np.ndarray,
        alarm: np.ndarray,
        threshold: Rule,
        risk: float,
    ) -> Verdict:
        """Verdict with the threshold that a share `risk` of rows like the training part's may exceed."""
        return cls.by(threshold_of(score[: stream.training], threshold, risk), score, alarm, stream.training)

    @classmethod
    def by(cls, limit: float, score: np.ndarray, alarm: np.ndarray, first: int) -> Verdict:
        """Verdict with the threshold `limit`, which flags rows from number `first` on."""
        flag = (score > limit) & (np.arange(len(score)) >= first)
        return cls(score, alarm, limit, flag, flag & (alarm > 0))


def threshold_of(score: np.ndarray, rule: Rule, risk: float) -> float:
    """Threshold by `rule` from the scores (T,) of a training part."""
    known = score[WARM_UP:]
    return tail_threshold(known, risk) if rule == "tail" else float(np.quantile(known, 1 - risk))


def assess(
    streams: Sequence[AnomalyStream], verdicts: Sequence[Verdict], buffer: int, corpus: bool
) -> dict[str, float]:
    """Metrics of a detector over the rows after the training parts.

    Only the percentage of flagged rows if those rows have no labels, or labels of one kind, which cannot tell
    a good detector from a bad one.

    Args:
        streams: Streams of the test.
        verdicts: Verdict on each stream.
        buffer: Longest buffer of VUS-PR, in rows.
        corpus: Whether the streams are the benchmark NAB, whose own score then comes first.
    """
    parts = [slice(stream.training, None) for stream in streams]
    flags = [verdict.flag[part] for verdict, part in zip(verdicts, parts, strict=True)]
    labels = [
        stream.label[part] for stream, part in zip(streams, parts, strict=True) if stream.label is not None
    ]
    if len(labels) < len(streams) or len(np.unique(np.concatenate(labels))) < 2:
        return {FLAGGED: 100 * float(np.concatenate(flags).mean())}
    scores = [verdict.score[part] for verdict, part in zip(verdicts, parts, strict=True)]
    raised = [verdict.raised[part] for verdict, part in zip(verdicts, parts, strict=True)]
    values: dict[str, float] = {}
    if corpus:
        alarms = {
            s.name: nab.ScoredStream(v.alarm, s.windows) for s, v in zip(streams, verdicts, strict=True)
        }
        values = {name: score.value for name, score in nab.nab_scores(alarms).items()}
    values |= row_metrics(scores, flags, labels)
    values["vus_pr"] = vus_pr(scores, labels, buffer)
    return values | event_metrics(raised, labels)


def score_table(streams: Sequence[AnomalyStream], verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Table of all rows of all streams: stream, time, columns, score, threshold, flag and alarm."""
    tables = []
    for stream, verdict in zip(streams, verdicts, strict=True):
        table = pd.DataFrame(stream.values, columns=list(stream.columns))
        added: dict[str, np.ndarray | float] = {
            "score": verdict.score,
            "threshold": verdict.threshold,
            "flag": verdict.flag.astype(int),
            "alarm": verdict.raised.astype(int),
        }
        for name, values in added.items():
            table.insert(table.shape[1], free(name, stream.columns), values)
        table.insert(0, free("time", stream.columns), table_times(stream.times, stream.zone))
        table.insert(0, free("stream", stream.columns), stream.name)
        tables.append(table)
    return pd.concat(tables)
