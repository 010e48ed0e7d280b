"""Classification: a class for each whole sequence, or for each step of one.

`sequences` tells the class of whole sequences: its module, data, tables and generated motions. All else is of
steps, with labels that arrive late as inputs: the task is `module`. Its sequences come from `sets` (your own
table), `omniglot` (public) or `gaussian_classes` (generated); `data` draws them and puts them into batches.
`metrics` counts how often a class was seen before, and `plots` shows accuracy by that. `table` is what both
kinds of tables share."""

from lightning_modules.classification.data import (
    ClassificationBatch,
    ClassificationData,
    ClassificationShape,
    EpisodeData,
    LabelledSequence,
)
from lightning_modules.classification.gaussian_classes import GaussianClasses
from lightning_modules.classification.module import ClassificationModule, ClassificationSettings
from lightning_modules.classification.omniglot import Omniglot
from lightning_modules.classification.sequences.data import (
    SequenceBatch,
    SequenceData,
    SequenceShape,
    WholeSequence,
    stretches,
)
from lightning_modules.classification.sequences.module import SequenceModule, SequenceSettings
from lightning_modules.classification.sequences.motions import Motions
from lightning_modules.classification.sequences.sets import LabelledTable
from lightning_modules.classification.sets import SequenceTable

__all__ = [
    "ClassificationBatch",
    "ClassificationData",
    "ClassificationModule",
    "ClassificationSettings",
    "ClassificationShape",
    "EpisodeData",
    "GaussianClasses",
    "LabelledSequence",
    "LabelledTable",
    "Motions",
    "Omniglot",
    "SequenceBatch",
    "SequenceData",
    "SequenceModule",
    "SequenceSettings",
    "SequenceShape",
    "SequenceTable",
    "WholeSequence",
    "stretches",
]
