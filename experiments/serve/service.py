"""`Service`: answers rows of many streams, each learnt once, and flushes what was learnt."""

from __future__ import annotations

import math
import re
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from types import NoneType
from typing import Any, Literal, NamedTuple

from dream.errors import CheckpointError, DataError, DREAMError, nearest, shown
from experiments.ending import say
from lightning_modules.learners import DREAMAnomalyDetector, DREAMForecaster, Streams
from lightning_modules.learners.base import OnlineObject
from lightning_modules.learners.outcome import Outcome, require_seq
from lightning_modules.learners.streams import Stream
from lightning_modules.store.keys import Key, bits_of

Operation = Literal["predict", "learn", "score"]
Answer = dict[str, Any]
FIELDS = ("key", "x", "y", "seq")
LONGEST_KEY = 1000
"""Characters of a key."""
LONGEST_NAME = 100
"""Characters of a client's word that a message repeats."""
UNKNOWN = 0.4
"""Threshold of a detector that has none of its own."""
RESULTS = {"retry": "failed", "error": "refused", "repeated": "repeated"}
"""Result of a row by the first of these fields that its answer has."""
PAUSE = 1
"""Seconds after a flush that the disk refused until the next is tried."""
MOVED = 20
"""Streams that a drift report names."""


class Asked(NamedTuple):
    """A row that came."""

    operation: Operation
    key: Key
    x: Any
    y: Any
    seq: int | None


def asked(operation: Operation, row: object) -> Asked:
    """A row of a client, ``{"key": K, "x": {...}, "y": ..., "seq": n}``.

    Raises:
        DataError: it is none.
    """
    if not isinstance(row, Mapping):
        raise DataError(
            f'a row must be an object such as {{"key": "pump-1", "x": {{...}}}}; got {shown(row)}.'
        )
    for name in row:
        if name not in FIELDS:
            raise DataError(
                f"a row must have no other field than {', '.join(FIELDS)}; {unknown(name, FIELDS)}"
            )
    key, seq = row.get("key"), row.get("seq")
    bits_of(key)
    if len(str(key)) > LONGEST_KEY:
        raise DataError(f"`key` must have at most {LONGEST_KEY} characters; got {len(str(key))}.")
    if seq is not None:
        require_seq(seq)
    return Asked(operation, key, row.get("x"), row.get("y"), seq)  # type: ignore[arg-type] # `bits_of` takes keys only


def asked_or_refused(operation: Operation, row: object) -> Asked | Answer:
    """A row of a client, or the answer to what is none."""
    try:
        return asked(operation, row)
    except DREAMError as error:
        return refusal(error)


def together(found: Iterable[Asked | Answer], answers: list[Answer]) -> list[Answer]:
    """Answers to the rows that were asked, and those that what is no row has already, in one order."""
    rest = iter(answers)
    return [next(rest) if isinstance(row, Asked) else row for row in found]


class Service:
    """Answers rows; any thread may call it, one call at a time.

    Args:
        streams: The streams, with a folder.
        threshold: Score above which a row is flagged; None for the detector's own, and `UNKNOWN` where it
            has none.
        flush_every: Rows that are learnt between two flushes, at most; those of one call count together.
    """

    def __init__(self, streams: Streams[OnlineObject], threshold: float | None, flush_every: int) -> None:
        self.streams = streams
        model = streams.model
        own = model.threshold if isinstance(model, DREAMAnomalyDetector) else None
        self.threshold: float = next(one for one in (threshold, own, UNKNOWN) if one is not None)
        self.flush_every = flush_every
        self.lock = Lock()
        self.rows: Counter[tuple[str, str]] = Counter()
        """Rows by operation and result: done, refused, failed or repeated."""
        self.flushes = 0
        self.flush_seconds = 0.0
        self.failure: str | None = None
        """Error of the last flush, if it failed."""
        self.failures = 0
        self.next_flush = 0.0
        """Time before which no flush is tried."""
        self.refusing: str | None = None
        """Error of the disk for which a row of the last call was refused."""

    def operation(self, row: object) -> Operation:
        """Operation of a row that names none: it is learnt, unless its target is missing."""
        model = self.streams.model
        learns = isinstance(model, DREAMForecaster | DREAMAnomalyDetector)
        return "learn" if learns or (isinstance(row, Mapping) and row.get("y") is not None) else "predict"

    def answer(self, rows: Sequence[Asked]) -> list[Answer]:
        """Answers to rows, in their order; rows of one key happen in their order, too.

        An answer is sent after what it tells: `flushed` is the last row of its key that is on disk.
        """
        with self.lock:
            answers: list[Answer] = [{} for _ in rows]
            turns: dict[Key, deque[int]] = {}
            for place, row in enumerate(rows):
                turns.setdefault(row.key, deque()).append(place)
            while turns:
                self._answer(
                    [(place, rows[place]) for place in (turn.popleft() for turn in turns.values())], answers
                )
                turns = {key: turn for key, turn in turns.items() if turn}
            if self.streams.waiting >= self.flush_every and time.monotonic() >= self.next_flush:
                self._flush()
            self.refusing = next((answer["error"] for answer in answers if "retry" in answer), None)
            for row, answer in zip(rows, answers, strict=True):
                kind = next((kind for name, kind in RESULTS.items() if name in answer), "done")
                self.rows[row.operation, kind] += 1
                if "error" not in answer and (stream := self.streams.held.get(row.key)) is not None:
                    answer["flushed"] = stream.flushed
            return answers

    def _answer(self, rows: Iterable[tuple[int, Asked]], answers: list[Answer]) -> None:
        """Answer rows of different keys."""
        places: dict[Key, tuple[int, Asked]] = {}
        learnt: dict[Key, Any] = {}
        looked: dict[Key, Any] = {}
        for place, row in rows:
            try:
                self._require(row)
                content = given(self.streams.model, row)
                require_columns(self.streams.model, content)
                (learnt if row.operation == "learn" else looked)[row.key] = content
                places[row.key] = place, row
            except DREAMError as error:
                answers[place] = refusal(error, row)
        targets = {key: places[key][1].y for key in learnt}
        seqs = {key: seq for key in learnt if (seq := places[key][1].seq) is not None}
        found = self.streams.predict_streams(looked) | self.streams.learn_streams(learnt, targets, seqs)
        for key, (place, row) in places.items():
            outcome = found[key]
            if isinstance(outcome, DREAMError):
                answers[place] = refusal(outcome, row)
            else:
                head = {"key": key, "seq": outcome.seq, "flushed": outcome.flushed}
                answers[place] = head | ({"repeated": True} if outcome.repeated else self._told(outcome))

    def _require(self, row: Asked) -> None:
        model = self.streams.model
        detects = isinstance(model, DREAMAnomalyDetector)
        if row.operation == ("predict" if detects else "score"):
            name = type(model).__name__
            raise DataError(
                f"a {name} must be asked to {'score' if detects else 'predict'}; got {row.operation}."
            )

    def _told(self, outcome: Outcome) -> dict[str, Any]:
        judgement = outcome.judgement
        if judgement is None:
            return {"prediction": as_json(outcome.prediction)}
        flag = judgement.score > self.threshold
        cause = None
        if judgement.measure is not None:
            cause = {"measure": judgement.measure, "column": judgement.column}
        return {
            "score": judgement.score,
            "threshold": self.threshold,
            "flag": flag,
            "alarm": flag and judgement.alarm > 0,
            "cause": cause,
        }

    def _flush(self) -> None:
        """Flush; where the disk refuses, tell it and go on: no answer says that a row is there."""
        begun = time.monotonic()
        try:
            self.streams.flush()
        except CheckpointError as error:
            self.failure = str(error)
            self.failures += 1
            self.next_flush = time.monotonic() + PAUSE
            with suppress(OSError):  # stderr may lead to the same disk
                say(f"dream: {error} Rows go on; the next flush is tried after {PAUSE} s and the next rows.")
            return
        self.failure = None
        self.flushes += 1
        self.flush_seconds += time.monotonic() - begun

    @property
    def trouble(self) -> str | None:
        """Error of the disk that keeps states from it, or on it, now."""
        return self.failure or self.streams.full or self.refusing

    def drift(self, text: str | None = None) -> dict[str, Any]:
        """The streams in memory that moved most from what they usually are; or the one whose key is `text`,
        or else the number that is written so.

        Raises:
            DataError: there is no stream of this key.
            CheckpointError: it cannot be read, or not be taken into memory.
        """
        with self.lock:
            self.streams.make_room()
            found = sorted(self.streams, key=lambda pair: pair[1].change.size, reverse=True)[:MOVED]
            if text is not None:
                keys: list[Key] = [text]
                if re.fullmatch(r"-?[1-9][0-9]{0,999}|0", text):
                    keys.append(int(text))
                if not (known := [key for key in keys if self.streams.known(key)]):
                    raise DataError(f"`key` must be that of a stream; {shown(text)} is none.")
                found = [(known[0], self.streams.stream(known[0]))]
                self.streams.make_room()
            return {
                "streams": len(self.streams.held),
                "moved": [moved(key, stream) for key, stream in found],
            }

    def counts(self) -> dict[tuple[str, str], int]:
        """Rows by operation and result."""
        with self.lock:
            return dict(self.rows)

    def signals(self) -> tuple[list[float], list[float]]:
        """Surprise, and norm of the fast weights, of every stream in memory."""
        with self.lock:
            changes = [stream.change for _, stream in self.streams if stream.change.rows]
            return [change.surprise.now for change in changes], [change.u_norm.now for change in changes]


def given(model: OnlineObject, row: Asked) -> Any:
    """The row as `Streams.learn_streams` takes it, of a forecaster `x` and `y` together.

    Raises:
        DataError: they do not go together.
    """
    if not isinstance(model, DREAMForecaster) or row.y is None:
        return row.x
    own = {"y": row.y} if model.targets is None else row.y
    if not isinstance(own, Mapping) or not isinstance(row.x, Mapping | NoneType):
        raise DataError(
            f"`y` and `x` must name columns, `y` those that are forecast, {model.targets or 'or a number'}; "
            f"got {shown(row.y)} and {shown(row.x)}."
        )
    return {**(row.x or {}), **own}


def require_columns(model: OnlineObject, row: Any) -> None:
    """Refuse a column that the model does not read: a row object leaves it out, with a warning nobody sees.

    Raises:
        DataError: naming it.
    """
    for name in row if isinstance(row, Mapping) else ():
        if name not in model.columns and name != model.time_column:
            raise DataError(f"`x` must hold columns of the model; {unknown(name, model.columns)}")


def unknown(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a client's word that is none of those known."""
    cut = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
    return f"`{cut}` is none. {nearest(cut, known)}"


def refusal(error: DREAMError, row: Asked | None = None) -> Answer:
    """The answer to a row that was refused; `retry` where that is the disk's fault."""
    head = {} if row is None else {"key": row.key, "seq": row.seq}
    return head | {"error": str(error)} | ({"retry": True} if isinstance(error, CheckpointError) else {})


def moved(key: Key, stream: Stream[Any]) -> dict[str, Any]:
    """How far a stream has moved, for a report."""
    change = stream.change
    return {
        "key": key,
        "seq": stream.seq,
        "flushed": stream.flushed,
        "change": change.size,
        **{
            name: {"now": part.now, "usual": part.mean, "change": part.change}
            for name, part in (("surprise", change.surprise), ("u_norm", change.u_norm))
        },
    }


def as_json(value: Any) -> Any:
    """`value` as JSON has it: what is not finite becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: as_json(part) for name, part in value.items()}
    return [as_json(part) for part in value] if isinstance(value, list) else value
