"""Tasks on DREAM layers as LightningModules, with their data, callbacks and logs, and objects that learn row
by row."""

from lightning_modules.anomaly import AnomalyModule
from lightning_modules.classification import ClassificationModule, SequenceModule
from lightning_modules.forecasting import ForecastingModule
from lightning_modules.language import LanguageModule
from lightning_modules.learners import (
    DREAMAnomalyDetector,
    DREAMClassifier,
    DREAMForecaster,
    DREAMRegressor,
    Streams,
)
from lightning_modules.online import OnlineModule
from lightning_modules.speech import SpeechModule
from lightning_modules.store import StateStore

__all__ = [
    "AnomalyModule",
    "ClassificationModule",
    "DREAMAnomalyDetector",
    "DREAMClassifier",
    "DREAMForecaster",
    "DREAMRegressor",
    "ForecastingModule",
    "LanguageModule",
    "OnlineModule",
    "SequenceModule",
    "SpeechModule",
    "StateStore",
    "Streams",
]
