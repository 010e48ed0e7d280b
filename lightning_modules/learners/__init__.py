"""DREAM as objects that learn one row at a time, with the methods that users of river know."""

from lightning_modules.learners.detector import DREAMAnomalyDetector
from lightning_modules.learners.forecaster import DREAMForecaster
from lightning_modules.learners.supervised import DREAMClassifier, DREAMRegressor

__all__ = ["DREAMAnomalyDetector", "DREAMClassifier", "DREAMForecaster", "DREAMRegressor"]
