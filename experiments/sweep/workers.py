"""Several processes that run the trials of one sweep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from dream.errors import DREAMError
from dream.files import extended, inside, opened
from experiments import ending
from experiments.ending import say
from experiments.folders import require_claimed
from experiments.sweep import outcome
from experiments.sweep.plan import SweepPlan
from experiments.sweep.study import ENDED, Study

WORKER = "DREAM_SWEEP_WORKER"  # tells a process that it is one
LAST = 2**16  # bytes of what a worker said, among which is its error
LOOK = 0.5  # seconds between two looks at what the workers have done


def is_worker() -> bool:
    """Whether this process was started by `run`."""
    return WORKER in os.environ


def run(plan: SweepPlan, study: Study, argv: list[str]) -> int:
    """Start the workers, print their results, and wait for them; return the exit code.

    Each runs the same command in a session of its own, so that Ctrl-C reaches it once, through this process;
    what it says goes to `worker-K.log`. It gets its share of the cores, unless OMP_NUM_THREADS says
    otherwise.

    Raises:
        DREAMError: with what a worker said that could not go on; the others are stopped.
    """
    left = plan.trials - sum(trial.state in ENDED for trial in study.trials)
    count = min(plan.workers, left)
    threads = str(max(1, (os.cpu_count() or 1) // max(count, 1)))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, WORKER: "1"}
    logs = [inside(plan.folder, f"worker-{number}.log") for number in range(1, count + 1)]
    if started := [_start(argv, log, environment) for log in logs]:
        say(
            f"{count} workers, {environment['OMP_NUM_THREADS']} threads each; what they say is in "
            f"{plan.folder}/worker-*.log"
        )
    code = 0
    while True:
        try:
            _watch(study, started, plan.trials)
            break
        except KeyboardInterrupt as stop:
            code = ending.code(stop)
            _send(started, signal.SIGTERM if isinstance(stop, ending.Terminated) else signal.SIGINT)
            say("dream: stopping after the steps under way; Ctrl-C stops at once.")
    if code:
        say(f"dream: interrupted; what is done is in {plan.folder}.")
        return code
    if not plan.folder.is_dir():
        require_claimed(plan.folder)
    for log, process in zip(logs, started, strict=True):
        if process.returncode == 2:
            with opened(log) as file:
                file.seek(max(os.fstat(file.fileno()).st_size - LAST, 0))
                raise DREAMError(file.read().decode(errors="replace").rpartition("dream: ")[2].strip())
        if process.returncode:
            say(f"dream: a worker ended with code {process.returncode}; {log} says more.")
    left = plan.trials - sum(trial.state in ENDED for trial in study.trials)
    return int(left > 0 and any(process.returncode for process in started))


def _start(argv: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with extended(log) as file:
        return subprocess.Popen(
            [sys.executable, "-m", "experiments.cli", "sweep", *argv],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )


def _send(started: list[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in started:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                process.send_signal(number)


def _watch(study: Study, started: list[subprocess.Popen[bytes]], most: int) -> None:
    """Print which trials end, until no worker is left; stop all when one failed."""
    begin, before = time.monotonic(), {trial.number for trial in study.trials if trial.state in ENDED}
    known, stopped = set(before), False
    while True:
        running = any(process.poll() is None for process in started)
        ended = [trial for trial in study.trials if trial.state in ENDED and trial.number not in known]
        for trial in ended:
            known.add(trial.number)
            left = (time.monotonic() - begin) / (len(known) - len(before)) * (most - len(known))
            came = outcome.headline(study, trial)
            say(f"[{len(known)}/{most}] trial {trial.number}: {came}, about {left / 60:.1f} min left")
        if not running:
            return
        if not stopped and any(process.poll() in (1, 2) for process in started):
            stopped = True
            _send(started, signal.SIGINT)
        time.sleep(LOOK)
