"""`Streams`: many streams of one trained row object, each with a state of its own, in memory or on disk."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Self

import numpy as np
import torch
from torch import Tensor

from dream.errors import CheckpointError, ConfigError, DREAMError, StateError
from dream.files import write_atomic
from dream.sealed import checksum, note, read_note
from lightning_modules.checks import require_int
from lightning_modules.learners.change import Change
from lightning_modules.learners.detector import DREAMAnomalyDetector
from lightning_modules.learners.forecaster import DREAMForecaster
from lightning_modules.learners.outcome import Model, Outcome, learn, predict, require_seq
from lightning_modules.store import StateStore
from lightning_modules.store.keys import Key, bits_of
from lightning_modules.stream.together import advance

AT_ONCE = 256  # streams that are put into the store together
_OWN = ("seq", "extra", "change")  # tensors of a record that are not the object's


@dataclass
class Stream(Generic[Model]):
    """One stream."""

    model: Model
    """A row object; its core is that of all streams unless all its weights move."""
    seq: int = 0
    """Number of the last row that was learnt."""
    flushed: int = 0
    """Number of the last row whose state is on disk."""
    change: Change = field(default_factory=Change)
    """How far the stream has moved from what it usually is."""

    @property
    def waits(self) -> bool:
        """Whether rows were learnt that are not on disk."""
        return self.seq != self.flushed


class Streams(Generic[Model]):
    """Many streams of one trained row object: a key's rows are learnt as by an object of its own, to the bit.

    A stream that is new starts as a copy of the object as it is. The core's weights are shared, unless
    `moves` is "all"; what follows a stream is its own: the state of the core, the normaliser, the head and
    what updates it, rows that are still to be learnt from, the record of trust, the past of the scores.

    With a folder the streams outlive the process. `flush` writes all that were learnt since the last one, as
    a whole: after a crash every stream has its state and its `seq` of that moment, in `folder`/states, a
    `StateStore`. The folder serves one model: a sum of its weights and settings is in `folder`/model.sealed.

    One thread at a time. A `with` block closes it at its end, and flushes unless an error ends it. After a
    call that Ctrl-C or a defect has ended nothing is learnt or flushed any more.

    Args:
        model: A row object that knows its columns, from a run or after at least one row. It is copied.
        folder: Where states are kept; None for memory alone.
        most: Streams in memory at most. Without a folder, streams at all.

    Raises:
        StateError: the object has no columns yet, or another process uses the folder.
        ConfigError: its forecasts also depend on known covariates of the rows ahead.
        CheckpointError: the folder is another model's, or damaged.

    Example:
        >>> model = DREAMForecaster(horizon=2)
        >>> for k in range(300):
        ...     model = model.learn_one([0.0, 1.0, 0.0, -1.0][k % 4])
        >>> streams = Streams(model)
        >>> found = streams.learn_streams({"pump-1": 0.0, "pump-2": 5.0})
        >>> [round(value, 1) + 0.0 for value in found["pump-1"].prediction]
        [1.0, 0.0]
    """

    def __init__(
        self, model: Model, folder: str | os.PathLike[str] | None = None, most: int = 10_000
    ) -> None:
        require_int("most", most)
        if not model.started:
            raise StateError(
                f"`model` must know its columns; got a {type(model).__name__} that has seen no row. Let it "
                "learn one, or take it from a run."
            )
        if isinstance(model, DREAMForecaster) and model.windows is not None and model.windows.known:
            raise ConfigError(
                "`model` must forecast from past rows; this one also reads known covariates of the rows "
                f"ahead ({', '.join(model.windows.known)}), which no row brings. Call its "
                "`forecast(known=...)`, or forecast with `dream predict`."
            )
        self.model = deepcopy(model)
        self.most = most
        self.held: OrderedDict[Key, Stream[Model]] = OrderedDict()
        """Streams in memory, the one used last at the end."""
        self.full: str | None = None
        """Error of the disk for which streams that should have left memory are still there."""
        self.waiting = 0
        """Rows that were learnt since the last flush."""
        self._written: dict[Key, int] = {}
        """Last row that is on disk of each stream that left memory since the last flush."""
        self._is_whole = True
        """Whether no call was interrupted."""
        self._shares = model.moves != "all"
        self.store: StateStore | None = None
        if folder is not None:
            self.store = _open(Path(folder), checksum(*model._sealed()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(flush=kind is None)

    def close(self, flush: bool = True) -> None:
        """Let go of the folder; flush before, unless the rows since the last flush are to be forgotten."""
        if self.store is None:
            return
        try:
            if flush:
                self.flush()
        finally:
            self.store.close()

    def _require_whole(self) -> None:
        if not self._is_whole:
            raise StateError(
                "a call was interrupted, and left streams that may have learnt half a row. Open the folder "
                "again: it holds the last flush."
            )

    def stream(self, key: Key) -> Stream[Model]:
        """The stream of this key; a new one if it has none.

        Raises:
            StateError: `key` is not one, or there is no room for one more.
            CheckpointError: what is on disk of it does not fit, or no stream can leave memory for it: see
                `make_room`.
        """
        if type(key) not in (str, int):  # True and 1.0 would find the stream of 1
            bits_of(key)
        if (found := self.held.get(key)) is not None:
            self.held.move_to_end(key)
            return found
        bits_of(key)
        if self.full is not None:
            raise CheckpointError(f"no stream can leave memory, so none can enter: {self.full}")
        if self.store is None and len(self.held) >= self.most:
            raise StateError(f"there are {self.most} streams already, and no folder for more. Name a folder.")
        found = Stream(self._copy(self.model))
        if self.store is not None and key in self.store:
            self._resume(key, found, self.store[key])
        self.held[key] = found
        return found

    def make_room(self) -> None:
        """Keep the streams that were used least recently on disk alone.

        Where the disk refuses, they stay in memory and `full` is its error. Those in memory go on; no other
        is taken in until a later call finds room.
        """
        self.full = None
        while self.store is not None and len(self.held) > self.most:
            oldest, stream = next(iter(self.held.items()))
            if stream.waits:
                try:
                    self._put(self.store, [(oldest, stream)])
                except CheckpointError as error:
                    self.full = str(error)
                    return
                self._written[oldest] = stream.flushed
            del self.held[oldest]

    def known(self, key: Key) -> bool:
        """Whether the stream has learnt a row, or was asked for one.

        Raises:
            StateError: `key` is not one.
        """
        bits_of(key)
        return key in self.held or (self.store is not None and key in self.store)

    def learn_streams(
        self,
        rows: Mapping[Key, Any],
        targets: Mapping[Key, Any] | None = None,
        seqs: Mapping[Key, int] | None = None,
    ) -> dict[Key, Outcome | DREAMError]:
        """Predict or score the next row of each of these streams, then learn it.

        Args:
            rows: The row of each stream, as `learn_one` takes it; of a forecaster all columns, among
                which a single number is `y`, or the number.
            targets: Class or number of the row of each stream, for a classifier or a regressor.
            seqs: Number of the row of each stream, from 1, by default one more than the last; one that is not
                above the last was learnt before.

        Returns:
            The outcome for each stream, or the error for which its row was refused: a `CheckpointError`
            where that is the disk's fault.

        Raises:
            StateError: an earlier call was interrupted.
        """
        self._require_whole()
        self.make_room()
        new = {key for key in rows if key not in self.held}
        self._is_whole = False
        found: dict[Key, Outcome | DREAMError] = {}
        due: dict[Key, tuple[Stream[Model], int]] = {}
        for key in rows:
            try:
                stream = self.stream(key)
                given = None if seqs is None else seqs.get(key)
                seq = require_seq(stream.seq + 1 if given is None else given)
            except DREAMError as error:
                found[key] = error
                if key in new:  # what is refused takes no room
                    self.held.pop(key, None)
                continue
            if seq > stream.seq:
                due[key] = stream, seq
            else:
                found[key] = Outcome(seq=seq, flushed=stream.flushed, repeated=True)
        done = self._read_together({key: (stream, rows[key]) for key, (stream, _) in due.items()})
        for key, (stream, seq) in due.items():
            try:
                target = None if targets is None else targets.get(key)
                outcome = done[key] if key in done else learn(stream.model, rows[key], target)
            except DREAMError as error:
                found[key] = error
                if key in new:  # what is refused takes no room
                    self.held.pop(key, None)
                continue
            stream.seq = seq
            if (signals := stream.model._signals()) is not None:
                stream.change.add(*signals)
            self.waiting += 1
            found[key] = Outcome(outcome.prediction, outcome.judgement, seq, stream.flushed)
        self._is_whole = True
        self.make_room()
        return found

    def _read_together(self, rows: Mapping[Key, tuple[Stream[Model], Any]]) -> dict[Key, Outcome]:
        """Read the row of each stream at once, where that is faster; returns the outcomes that this settles.

        What cannot be read so, or is refused, is left to its own turn.
        """
        if len(rows) < 2 or not self._shares:
            return {}
        take = isinstance(self.model, DREAMForecaster)
        is_number = isinstance(self.model, DREAMForecaster) and self.model.targets is None
        keys, models, values = [], [], []
        for key, (stream, row) in rows.items():
            try:
                named = {"y": row} if is_number and not isinstance(row, Mapping) else row
                values.append(stream.model._row(named))
            except DREAMError:
                continue
            keys.append(key)
            models.append(stream.model)
        if len(keys) < 2:
            return {}
        detectors = [model for model in models if isinstance(model, DREAMAnomalyDetector)]
        if judged := DREAMAnomalyDetector._learn_together(detectors, np.stack(values)):
            return {key: Outcome(judgement=one) for key, one in zip(keys, judged, strict=True)}
        learners = [model.learner for model in models if model.learner is not None]
        if not learners:
            return {}
        outcomes = {}
        for place, prediction in advance(learners, np.stack(values), take).items():
            model = rows[keys[place]][0].model
            assert isinstance(model, DREAMForecaster)
            model.latest = model._in_units(prediction)
            outcomes[keys[place]] = Outcome(model._forecast(model.horizon))
        return outcomes

    def predict_streams(self, rows: Mapping[Key, Any]) -> dict[Key, Outcome | DREAMError]:
        """Predict or score a row of each of these streams, if it came next; nothing changes.

        Args:
            rows: As in `learn_streams`; a forecaster whose row is None forecasts after the last one.
        """
        self.make_room()
        found: dict[Key, Outcome | DREAMError] = {}
        for key, row in rows.items():
            try:
                if self.known(key):
                    stream = self.stream(key)
                    outcome = predict(stream.model, row, self._copy)
                    found[key] = outcome._replace(seq=stream.seq, flushed=stream.flushed)
                else:
                    found[key] = predict(self.model, row, self._copy)
            except DREAMError as error:
                found[key] = error
        self.make_room()
        return found

    def flush(self) -> None:
        """Write every stream that has learnt since the last flush, all of them or none.

        Raises:
            StateError: there is no folder, or a call was interrupted.
            CheckpointError: it cannot be written.
        """
        if self.store is None:
            raise StateError("there is no folder to write streams to. Name one.")
        self._require_whole()
        waiting = [(key, stream) for key, stream in self.held.items() if stream.waits]
        for start in range(0, len(waiting), AT_ONCE):
            self._put(self.store, waiting[start : start + AT_ONCE])
        self.store.flush()
        for stream in self.held.values():
            stream.flushed = stream.seq
        self._written = {}
        self.waiting = 0

    def _put(self, store: StateStore, streams: Sequence[tuple[Key, Stream[Model]]]) -> None:
        """Put streams into the store, those that carry tensors of the same names and shapes together."""
        alike: dict[Hashable, tuple[list[Key], list[dict[str, Tensor]]]] = {}
        for key, stream in streams:
            record = self._record(stream)
            shapes = tuple(value.shape for value in record.values())
            keys, records = alike.setdefault((tuple(record), shapes), ([], []))
            keys.append(key)
            records.append(record)
        for keys, records in alike.values():
            names = records[0]
            store.put_tensors(keys, {name: torch.stack([one[name] for one in records]) for name in names})

    def __iter__(self) -> Iterator[tuple[Key, Stream[Model]]]:
        """The streams in memory, and their keys."""
        return iter(self.held.items())

    def _copy(self, model: Model) -> Model:
        """A copy of the model or of a stream's; of the core only the state is its own."""
        if not self._shares:
            return deepcopy(model)
        copy = deepcopy(model, {id(part): part for part in model._shared()})
        copy._share(self.model)
        return copy

    def _record(self, stream: Stream[Model]) -> dict[str, Tensor]:
        """Everything of a stream but what all share, with the stream's own memory."""
        model = stream.model
        extra = np.frombuffer(json.dumps(model._extra(), allow_nan=False).encode(), np.uint8)
        return {
            "seq": torch.tensor(stream.seq),
            "extra": torch.from_numpy(extra.copy()),
            "change": torch.tensor(stream.change.values(), dtype=torch.float64),
            **model._held(core=not self._shares),
        }

    def _resume(self, key: Key, stream: Stream[Model], record: Mapping[str, Tensor]) -> None:
        """Let a copy go on from what `_record` returned."""
        try:
            held = {name: value for name, value in record.items() if name not in _OWN}
            stream.model._set_extra(json.loads(record["extra"].numpy().tobytes()))
            stream.model._hold(held, core=not self._shares)
            stream.change.load(record["change"].tolist())
            stream.seq = int(record["seq"])
            stream.flushed = self._written.get(key, stream.seq)
        except (DREAMError, LookupError, TypeError, ValueError, RuntimeError) as error:
            assert self.store is not None
            raise CheckpointError(
                f"the stream {key!r} in {self.store.folder} is inconsistent: {error}"
            ) from None


def _open(folder: Path, model: str) -> StateStore:
    """The store of streams of the model with this sum.

    Raises:
        CheckpointError: the folder is another model's, or cannot be used.
    """
    path = folder / "model.sealed"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists() and not (folder / "states").exists():
            write_atomic(path, note({"model": model}))
        found = read_note(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"`folder` must hold streams or nothing: {folder}; {error}.") from None
    if found != {"model": model}:
        raise CheckpointError(
            f"{folder} holds streams of another model, whose states mean nothing to this one. Name another "
            "folder."
        )
    return StateStore(folder / "states")
