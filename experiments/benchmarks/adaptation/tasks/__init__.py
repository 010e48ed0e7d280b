"""Tasks of the suite, by name, in the order of the tables."""

from experiments.benchmarks.adaptation.protocol import Task
from experiments.benchmarks.adaptation.tasks.autoregressions import Autoregressions
from experiments.benchmarks.adaptation.tasks.controls import SKAB, ETTh1, ETTh2
from experiments.benchmarks.adaptation.tasks.linear_systems import LinearSystems
from experiments.benchmarks.adaptation.tasks.markov import Markov
from experiments.benchmarks.adaptation.tasks.omniglot import Omniglot
from experiments.benchmarks.adaptation.tasks.recall import Recall
from experiments.benchmarks.adaptation.tasks.rule_change import RuleChange
from experiments.benchmarks.adaptation.tasks.speakers import Speakers
from experiments.benchmarks.adaptation.tasks.systems import Systems

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        Recall,
        Markov,
        LinearSystems,
        Autoregressions,
        RuleChange,
        Systems,
        Omniglot,
        Speakers,
        ETTh2,
        SKAB,
        ETTh1,
    )
}
