"""Learning from a stream row by row: the network, what moves its weights, and the learner that runs both in order."""

from lightning_modules.stream.learner import Steps, StreamLearner
from lightning_modules.stream.network import Features, Reading, Shape, StreamNetwork, StreamState
from lightning_modules.stream.rules import Updates

__all__ = ["Features", "Reading", "Shape", "Steps", "StreamLearner", "StreamNetwork", "StreamState", "Updates"]
