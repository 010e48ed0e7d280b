"""Learners that several threads use, that Ctrl-C interrupts, that are copied and forked, and read from files
that another writer sealed."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dream import CheckpointError, StateError
from dream.sealed import read_sealed, write_sealed
from lightning_modules.calls import whole
from lightning_modules.learners import DREAMForecaster
from lightning_modules.stream import StreamLearner
from lightning_modules.stream.checks import _MISSING, _SIZE
from lightning_modules.stream.rules import Weights
from tests.lightning_modules.interrupts import interrupted
from tests.lightning_modules.learners.test_learners import LAYER, MAKE, learn, say

KINDS = ("classifier", "all weights", "forecaster", "detector")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    # hundreds of small files need not outlive a power failure
    monkeypatch.setattr(os, "fsync", lambda _: None)


def facts(model: Any) -> Any:
    """Everything that a model knows, to compare exactly."""
    model = copy.deepcopy(model)  # a call like any other, so an interrupted one is undone first
    tensors = {} if model.learner is None else model.learner.tensors() | model._tensors()
    values = {name: value.numpy().tobytes() for name, value in tensors.items()}
    return model._extra(), list(model.columns), values


def learnt(name: str, rows: int) -> Any:
    model = MAKE[name]()
    learn(model, 0, rows)
    return model


class TestCtrlC:
    @pytest.mark.parametrize("name", KINDS)
    def test_a_call_is_before_or_after_itself(self, name: str) -> None:
        base = learnt(name, 12)
        before, after = facts(base), facts(learnt(name, 13))
        later = facts(learnt(name, 15))
        sizes = []
        for _ in range(2):  # the first call of a process passes through more: what is done once
            whole_run = copy.deepcopy(base)
            sizes.append(interrupted(lambda model=whole_run: learn(model, 12, 13), float("inf")))
        size = sizes[-1]
        assert size is not None
        seen = []
        for at in (*range(1, size, size // 9), *range(size - 8, size)):
            model = copy.deepcopy(base)
            assert interrupted(lambda model=model: learn(model, 12, 13), at) is None
            found = facts(model)
            assert found in (before, after), at
            seen.append(found == before)
            learn(model, 12 if found == before else 13, 15)
            assert facts(model) == later, at
        assert seen[5]
        assert not seen[-1]

    def test_the_first_row(self) -> None:
        base, after = MAKE["forecaster"](), facts(learnt("forecaster", 1))
        whole_run = copy.deepcopy(base)
        size = interrupted(lambda: learn(whole_run, 0, 1), float("inf"))
        assert size is not None
        for at in range(1, size - 40, size // 6):
            model = copy.deepcopy(base)
            assert interrupted(lambda model=model: learn(model, 0, 1), at) is None
            assert facts(model) == facts(base), at
            learn(model, 0, 1)
            assert facts(model) == after

    @pytest.mark.parametrize("name", ["adam", "forecaster"])
    def test_an_interrupt_while_it_goes_back(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model = learnt(name, 12)
        before, real = facts(model), Weights.restore

        def half(self: Weights) -> None:
            self.values[0][0].data.fill_(7)
            raise KeyboardInterrupt

        def fails(*_: Any) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(Weights, "restore", half)
        monkeypatch.setattr(StreamLearner, "_needed", fails)  # after the weights have moved
        with pytest.raises(KeyboardInterrupt):
            learn(model, 12, 13)
        monkeypatch.undo()
        assert Weights.restore is real
        assert facts(model) == before
        learn(model, 12, 15)
        assert facts(model) == facts(learnt(name, 15))

    @pytest.mark.parametrize("name", KINDS)
    def test_an_error_changes_nothing_either(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model = learnt(name, 12)
        before = facts(model)

        def fails(*_: Any) -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(StreamLearner, "_needed", fails)
            with pytest.raises(MemoryError):
                learn(model, 12, 13)
        assert facts(model) == before

    def test_a_signal_handler_that_uses_the_object_is_refused(self) -> None:
        model, seen = learnt("forecaster", 12), []

        class Told(DREAMForecaster):
            def _row(self, x: Any, fix: bool = False) -> Tensor:
                signal.raise_signal(signal.SIGUSR1)
                return super()._row(x, fix)

        told = Told(LAYER, horizon=3)
        told.__setstate__ = None  # type: ignore[attr-defined] # attributes are kept
        vars(told).update(model._content())
        before = facts(told)
        old = signal.signal(signal.SIGUSR1, lambda *_: seen.append(told.forecast()))
        try:
            with pytest.raises(
                StateError, match=r"from within one of its own calls.*Let the handler set a flag"
            ):
                told.learn_one({"a": 1.0, "b": 2.0})
        finally:
            signal.signal(signal.SIGUSR1, old)
        assert seen == []
        assert facts(told) == before
        assert len(told.forecast()) == 3


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_threads_learn_in_some_order() -> None:
    order: list[dict[str, float]] = []

    class Noted(DREAMForecaster):
        @whole
        def learn_one(self, y: Any, x: Any = None) -> Any:
            order.append(y)
            return DREAMForecaster.learn_one.__wrapped__(self, y, x)  # type: ignore[attr-defined]

    model, errors = Noted(LAYER, horizon=3), []

    def work(number: int) -> None:
        try:
            for k in range(12):
                model.learn_one({"a": float(number), "b": float(k)})
                assert len(model.forecast()) == 3
                model.learner.tensors()  # type: ignore[union-attr]
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(order) == 48
    assert order != sorted(order, key=lambda row: row["a"])
    alone = DREAMForecaster(LAYER, horizon=3)
    for row in order:
        alone.learn_one(row)
    assert facts(model) == facts(alone)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_that_is_forked_while_another_thread_learns() -> None:
    model = learnt("forecaster", 12)
    before, inside, go = facts(model), threading.Event(), threading.Event()
    real = StreamLearner._needed

    def waits(self: StreamLearner) -> int:
        inside.set()
        go.wait(30)
        return real(self)

    StreamLearner._needed = waits  # type: ignore[method-assign]
    thread = threading.Thread(target=learn, args=(model, 12, 13))
    thread.start()
    inside.wait(30)
    StreamLearner._needed = real  # type: ignore[method-assign]
    if (child := os.fork()) == 0:
        signal.alarm(20)
        os._exit(0 if facts(model) == before else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    go.set()
    thread.join()
    assert facts(model) == facts(learnt("forecaster", 13))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_copies_go_on_by_themselves(name: str, copied: Callable[[Any], Any]) -> None:
    model = learnt(name, 12)
    other = copied(model)
    learn(other, 12, 15)
    assert facts(other) == facts(learnt(name, 15))
    assert facts(model) == facts(learnt(name, 12))
    learn(model, 12, 15)
    assert facts(model) == facts(other)


def test_tensors_are_a_copy() -> None:
    model = learnt("adam", 12)
    held, before = model.learner.tensors(), facts(model)
    other = learnt("adam", 5)
    other.learner.load(held)
    learn(model, 12, 15)
    assert {name: value.numpy().tobytes() for name, value in held.items()} == before[2]
    assert {n: value.numpy().tobytes() for n, value in other.learner.tensors().items()} == before[2]


def sealed_again(path: Path, change: Callable[[dict[str, str], dict[str, Tensor]], Any], kind: Any) -> None:
    """The same file with other contents, sealed by a writer who means harm or errs."""
    header, tensors = read_sealed(path, "test", kind._kind())
    change(header, tensors)
    write_sealed(path, header, tensors)


@pytest.mark.parametrize("name", ["forecaster", "classifier", "detector"])
@pytest.mark.parametrize("version", ["1", "2"])
def test_a_learner_of_the_first_edition_of_the_cell_is_refused(
    name: str, version: str, tmp_path: Path
) -> None:
    model, path = learnt(name, 3), tmp_path / "model"
    model.save(path)
    sealed_again(path, lambda header, _: header.update(version=version), type(model))
    stated = rf"dream-learner 3 .* holds dream-learner {version} .*, of the first edition of the cell"
    with pytest.raises(CheckpointError, match=stated):
        type(model).load(path)


CHANGES: dict[str, Callable[[Tensor], Tensor | None]] = {
    "NaN": lambda value: torch.full_like(value, torch.nan) if value.is_floating_point() else value - 10**6,
    "infinite": lambda value: torch.full_like(value, torch.inf) if value.is_floating_point() else None,
    "of another type": lambda value: value.to(torch.float16),
    "of another shape": lambda value: torch.cat([value.reshape(-1)] * 3),
    "lost": lambda value: None,
}


@pytest.mark.parametrize("name", ["all weights", "forecaster", "detector"])
def test_what_no_learner_holds_is_refused(name: str, tmp_path: Path) -> None:
    model, path = learnt(name, 25), tmp_path / "model"
    model.save(path)
    content = path.read_bytes()
    _, tensors = read_sealed(path, "test", model._kind())
    assert len(tensors) > 25
    fields = {re.sub(r"\d+", "0", field): field for field in tensors}  # one of each kind
    for number, field in enumerate(fields.values()):
        value = tensors[field]
        for case, change in list(CHANGES.items())[number % 5 :: 5]:
            may_miss = _MISSING.fullmatch(field) or _SIZE.fullmatch(field)
            if not value.numel() or (case == "NaN" and may_miss):
                continue

            def damage(_: Any, held: dict[str, Tensor], field: str = field, change: Any = change) -> None:
                new = change(held.pop(field))
                if new is not None:
                    held[field] = new

            path.write_bytes(content)
            sealed_again(path, damage, type(model))
            with pytest.raises(CheckpointError, match="is inconsistent: "):
                type(model).load(path)
    path.write_bytes(content)
    assert facts(type(model).load(path)) == facts(model)


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("forecaster", "state.core.0.error_var", -1.0, "must be finite and not negative"),
        (
            "forecaster",
            "state.core.0.adaptive_tau",
            0.0,
            r"`state\.adaptive_tau` must be finite and positive",
        ),
        ("forecaster", "state.normalizer.var", -1.0, "must be finite and not negative"),
        ("forecaster", "memory.scale", 0.0, "must be NaN, or finite and positive"),
        ("forecaster", "rule.gram", -1.0, "must be a sum of squares"),
        ("forecaster", "trust.count", -1.0, "must be finite and not negative"),
        ("forecaster", "place", 10**9, "`memory.* must have|rows that follow"),
        ("adam", "rule.0.exp_avg_sq", -1.0, "must be finite and not negative"),
        ("all weights", "rule.kept.0.core.0.error_var", -1.0, "must be finite and not negative"),
        ("all weights", "memory.targets", 99, "must be from 0 to 9"),
        (
            "all weights",
            "network.core.layers.0.cell.error_var_prior",
            -1.0,
            "must be finite and not negative",
        ),
        ("detector", "tail.quantile", -1.0, "must be finite and not negative"),
        ("detector", "score.columns", 7, "must be 2; got 7"),
    ],
)
def test_ranges(name: str, field: str, value: float, message: str, tmp_path: Path) -> None:
    model, path = learnt(name, 25), tmp_path / "model"
    model.save(path)
    sealed_again(path, lambda _, held: held.update({field: torch.full_like(held[field], value)}), type(model))
    with pytest.raises(CheckpointError, match=message):
        type(model).load(path)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("settings", "{"),
        ("settings", "[]"),
        ("settings", json.dumps({"config": {"rank": -1}, "extra": {}})),
        ("columns", "3"),
        ("columns", json.dumps(["a", "a"])),
        ("columns", json.dumps(["a", "b", "c"])),
        ("columns", None),
    ],
)
def test_a_header_that_no_save_wrote(entry: str, value: str | None, tmp_path: Path) -> None:
    model, path = learnt("classifier", 12), tmp_path / "model"
    model.save(path)
    sealed_again(
        path,
        lambda header, _: header.pop(entry) if value is None else header.update({entry: value}),
        type(model),
    )
    with pytest.raises(CheckpointError, match="is inconsistent: "):
        type(model).load(path)


def test_a_damaged_load_changes_nothing() -> None:
    model = learnt("all weights", 25)
    tensors, before = learnt("all weights", 30).learner.tensors(), facts(model)
    tensors["rule.kept.0.core.0.adaptive_tau"].zero_()
    with pytest.raises(CheckpointError, match=r"`state\.adaptive_tau` must be finite and positive"):
        model.learner.load(tensors)
    assert facts(model) == before
    assert say(model, {"a": 1.0, "b": 2.0}) == say(learnt("all weights", 25), {"a": 1.0, "b": 2.0})
