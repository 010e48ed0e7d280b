"""Classification: a class for each step of a sequence, with labels that arrive late as inputs.

The task is `module`. Sequences come from `sets` (your own table), `omniglot` (public) or `gaussian_classes`
(generated); `data` draws them and puts them into batches. `metrics` counts how often a class was seen before,
and `plots` shows accuracy by that."""

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
    "Omniglot",
    "SequenceTable",
]
