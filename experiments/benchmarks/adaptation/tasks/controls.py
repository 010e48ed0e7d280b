"""Controls: shipped experiments on real data, in which the fast weights are expected to gain nothing.

Each is a `dream fit` of DREAM and one of DREAM without plasticity; the run of DREAM scores the same weights
at rest, too, where its task does. DREAM must not be worse with plasticity. The other columns are left out:
the pages of the tasks have rivals and naive forecasts.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from experiments import compare, comparison
from experiments.benchmarks.adaptation.protocol import OFF, PLASTIC, REST, Metric, Outcome, Scores, Task

GROUP = "controls, no gain expected"


class Control(Task):
    """A shipped experiment, with one figure of its table."""

    experiment: ClassVar[str]
    settings: ClassVar[tuple[str, ...]] = ()
    runs: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "dream": {"DREAM": PLASTIC, "DREAM, plasticity off": REST},
        "no_plasticity": {"DREAM without plasticity": OFF},
    }
    """Rows of the table of each run that are columns here."""

    def run(self, most_steps: int | None, folder: Path) -> dict[str, Outcome]:
        """Return the outcomes of the columns that the runs have.

        Args:
            most_steps: Bound on the optimiser's steps of each run, if any.
            folder: Where the runs go; new or empty.

        Raises:
            DREAMError: a run was refused.
            SystemExit: a run did not end well, which it has told, with its exit code.
        """
        settings = [*self.settings, *([f"--trainer.max_steps={most_steps}"] if most_steps else [])]
        found: dict[str, Outcome] = {}
        for model, columns in self.runs.items():
            plan = compare.parse(
                ["-c", self.experiment, f"--folder={folder}", "--run.table=false", *settings]
            )
            if code := compare.run_cell(plan, model, self.seed):
                sys.exit(code)
            record = comparison.record(folder, model, self.seed)
            assert record is not None  # as it is after every run that ended well
            for title in columns.keys() & record["results"].keys():
                values = record["results"][title]
                scores = Scores({metric.name: values[metric.name] for metric in self.metrics})
                seconds = None if columns[title] == REST else record["seconds"]
                found[columns[title]] = Outcome(scores, parameters=record["parameters"], seconds=seconds)
        return found


class ETTh2(Control):
    name = "etth2_stream"
    group = GROUP
    title = "ETTh2 stream, one step ahead"
    experiment = "online_etth2"
    settings = ("--data.horizon=1",)
    runs: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "dream": {"DREAM, fast weights + head": PLASTIC, "DREAM, head": REST},
        "no_plasticity": {"DREAM without plasticity, head": OFF},
    }
    metrics = (Metric("mse", within=(REST, OFF)),)


class SKAB(Control):
    name = "skab"
    group = GROUP
    title = "SKAB, anomalies"
    experiment = "anomaly_skab"
    metrics = (Metric("f1", higher=True, within=(REST, OFF)),)


class ETTh1(Control):
    name = "etth1"
    group = GROUP
    title = "ETTh1, 96 hours ahead"
    experiment = "forecasting_etth1"
    metrics = (Metric("mse", within=(OFF,)),)
