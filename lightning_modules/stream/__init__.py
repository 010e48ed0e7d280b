"""Learning from a stream row by row: the network, what moves its weights, and the learner that runs both in
order."""

from lightning_modules.stream.learner import Steps, StreamLearner
from lightning_modules.stream.network import StreamNetwork
from lightning_modules.stream.rules import Updates
from lightning_modules.stream.settings import Reading, Shape
from lightning_modules.stream.state import Features, StreamState

__all__ = [
    "Features",
    "Reading",
    "Shape",
    "Steps",
    "StreamLearner",
    "StreamNetwork",
    "StreamState",
    "Updates",
]
