"""Results of a sweep: a table of the best trials, `sweep.json`, `sweep.png` and `best.yaml`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from dream import sums
from experiments import folders, records
from experiments.folders import CONFIG, RESULTS, RunSettings, settings_of
from experiments.invocation import configs, own_code
from experiments.invocation.arguments import GIVEN
from experiments.summary import table
from experiments.sweep.plots import sweep
from experiments.sweep.study import REASON, Study
from lightning_modules.run import tracking

SHOWN = 10
"""Trials in the table."""
ENOUGH = 10
"""Trials that have run to their end, and to different values, from which on it says which settings matter."""
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "unfinished",
}


def settings(params: Mapping[str, Any]) -> str:
    """Settings of a trial in one line."""
    return "  ".join(f"{name}={_short(value)}" for name, value in params.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def value(study: Study, number: int) -> float | None:
    """Best validation value of a trial; None where its run has not ended, or there is none that is finite.

    Raises:
        CheckpointError: its results are damaged, or were changed since they were written.
    """
    sums.altered(study.place(number), [RESULTS])
    results = folders.results(study.place(number)) or {}
    best = next(iter(results.values()), {}).get(study.monitor.removeprefix("val/"))
    return None if best is None or not math.isfinite(best) else best


def headline(study: Study, trial: FrozenTrial) -> str:
    """Result of a trial in one line."""
    if trial.state == TrialState.FAIL:
        return f"failed: {trial.user_attrs.get(REASON)}"
    best = value(study, trial.number)
    return f"{study.monitor} {math.nan if best is None else best:.4g}, {STATES[trial.state]}"


def show(study: Study, most: int, identity: dict[str, Any]) -> None:
    """Print the best trials and the paths of all files; write `sweep.json`, `sweep.png` and `best.yaml`."""
    trials = study.trials
    if not trials:
        return
    console = Console()
    found = [_record(study, trial) for trial in trials]
    sign = 1 if study.mode == "min" else -1
    ranked = sorted(found, key=lambda record: math.inf if record["value"] is None else sign * record["value"])
    judged = [record for record in ranked if record["value"] is not None]
    cells = {str(record["trial"]): _cells(study, record) for record in ranked[:SHOWN]}
    console.print(table(cells, _title(study), console, "trial"))
    for record in found:
        if record["state"] == "failed":
            console.print(
                f"trial {record['trial']} failed: {record['reason']}", highlight=False, markup=False
            )
    ended = sum(record["state"] != "unfinished" for record in found)
    if ended < most:
        console.print(f"{ended} of {most} trials are done; the same command does the others.")
    weights = importances(study)
    if weights:
        shown = settings({name: round(weight, 2) for name, weight in weights.items()})
        console.print(f"importance of the settings: {shown}", highlight=False, markup=False)
    tracking.write_results(
        study.folder / "sweep.json",
        {study.place(record["trial"]).name: {study.monitor: record["value"]} for record in judged},
        monitor=study.monitor,
        mode=study.mode,
        best=judged[0]["trial"] if judged else None,
        importance=weights,
        trials=found,
        asked=identity,
    )
    drawn = BytesIO()
    sweep(found, study.monitor, study.mode).savefig(drawn, dpi=120)
    sums.write_atomic(study.folder, "sweep.png", drawn.getvalue())
    written = {"trials": str(study.folder / "sweep.json"), "figure": str(study.folder / "sweep.png")}
    if judged and (best := study.place(judged[0]["trial"])).joinpath(CONFIG).is_file():
        own_code.keep(study.folder)
        written["best settings"] = str(sums.write_atomic(study.folder, "best.yaml", _runnable(best)))
        words = ["dream", "test", "-c", written["best settings"], "--ckpt_path", str(best)]
        written["its test"] = shlex.join(words)
    for kind, what in written.items():
        console.print(f"{kind:>16}  {what}", soft_wrap=True, highlight=False, markup=False)


def _title(study: Study) -> str:
    return f"best trials by {study.monitor}, {'lowest' if study.mode == 'min' else 'highest'} first"


def _record(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    """Record of a trial in `sweep.json`."""
    folder = study.place(trial.number)
    record = {
        "trial": trial.number,
        "state": STATES[trial.state],
        "value": value(study, trial.number),
        "params": trial.params,
        "epochs": {str(epoch): seen for epoch, seen in sorted(trial.intermediate_values.items())},
        "seconds": None,
        "folder": folder.name,
    }
    if trial.state == TrialState.FAIL:
        record["reason"] = trial.user_attrs.get(REASON)
    if record["value"] is not None:
        record["seconds"] = records.read(folder / RESULTS, records.Results).get("seconds")
    return record


def _cells(study: Study, record: dict[str, Any]) -> dict[str, str]:
    shown = "-" if record["value"] is None else f"{record['value']:.4g}"
    seconds = "-" if record["seconds"] is None else f"{record['seconds']:.0f}"
    params = {name: _short(value) for name, value in record["params"].items()}
    return {study.monitor: shown, "state": record["state"], **params, "seconds": seconds}


def importances(study: Study) -> dict[str, float]:
    """Share of each setting in the difference between good and other trials (PED-ANOVA), the largest first.

    Empty where fewer than `ENOUGH` trials have run to their end.
    """
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    if len({trial.value for trial in complete}) < ENOUGH or len(complete[0].params) < 2:
        return {}
    return optuna.importance.get_param_importances(
        study.held, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
    )


def _runnable(best: Any) -> str:
    """Configuration of the run in `best`, as an experiment of its own."""
    settings_of(best)  # refuses one that is damaged
    config = configs.read(best / CONFIG).content
    for name in GIVEN:
        config["run"][name] = getattr(RunSettings, name)
    return yaml.safe_dump(config, sort_keys=False)
