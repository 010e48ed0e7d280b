"""DREAM as objects that learn one row at a time, with the methods that users of river know.

Each is a thin face of a `lightning_modules.stream.StreamLearner`, which `base` makes at the first row:

- `forecaster`: the next rows of a stream, `DREAMForecaster`.
- `supervised`: the target of a row from its columns, `DREAMClassifier` and `DREAMRegressor`.
- `detector`: how unusual a row is, `DREAMAnomalyDetector`; scores of `lightning_modules.anomaly.scores`.

`from_run` takes them from trained runs; `windows` is the forecaster of a run that was trained on windows.
`streams` keeps many streams of one such object, `Streams`; `outcome` is what a row of one comes to, and
`change` tells which of them moved.
"""

from lightning_modules.learners.detector import DREAMAnomalyDetector
from lightning_modules.learners.forecaster import DREAMForecaster
from lightning_modules.learners.streams import Streams
from lightning_modules.learners.supervised import DREAMClassifier, DREAMRegressor

__all__ = ["DREAMAnomalyDetector", "DREAMClassifier", "DREAMForecaster", "DREAMRegressor", "Streams"]
