from __future__ import annotations

import os
import signal
import sys
import weakref

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_modules.run.signals import StopSignals


@pytest.fixture(autouse=True)
def hears_ctrl_c() -> object:
    """Handle Ctrl-C as in a terminal, even if the suite runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SIGTERMException)]
)
def test_the_first_waits_for_the_end_of_the_step(number: signal.Signals, kind: type[BaseException]) -> None:
    with StopSignals() as signals:
        signals.wait = True
        os.kill(os.getpid(), number)
        assert signals.received is number
        with pytest.raises(kind):
            signals.stop()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_it_stops_at_once(first: signal.Signals) -> None:
    with StopSignals() as signals:
        signals.wait = True
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SIGTERMException)]
)
def test_where_nothing_waits_it_stops_at_once(number: signal.Signals, kind: type[BaseException]) -> None:
    with StopSignals(), pytest.raises(kind):
        os.kill(os.getpid(), number)


def test_one_that_is_raised_where_python_ignores_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with StopSignals() as signals:
        collected = signals.__class__()
        reference = weakref.ref(collected, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        del collected
    assert reference() is None
    assert ignored[0].exc_type is SIGTERMException
    assert signals.received is signal.SIGTERM


def test_what_was_heard_before_is_heard_again() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_what_the_parent_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
