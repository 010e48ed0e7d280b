"""The engine that learns from a stream row by row, without Lightning.

Its parts, in the order in which a row passes them:

- `settings`: what the data offer and ask for (`Shape`), and how rows are read (`Reading`).
- `normalizers`, `seasonal`: each row relative to its own past, with a state that is carried.
- `network`: normaliser, recurrent core and linear head (`StreamNetwork`); `state` holds all that it carries.
- `rows`: the same in NumPy, for one row; `reader` chooses, and carries the state.
- `trust`: how far forecasts are shrunk towards the present level.
- `memory`: the rows that are still to be learnt from.
- `rules`, `head_rules`: how the weights are updated (`Updates`).
- `tables`: many rows that are predicted by a head which least squares moves.
- `learner`: one stream in order: learn from what is known, then predict (`StreamLearner`).
- `together`: one row of each of many streams, read at once.

Two words that all of them use. A *lane* is a state of the core with a head of its own: one for each target if
channels are independent, else a single one. *Feedback* is the newest target that is known when a row is read:
an input of the network where the targets are not inputs themselves (regression and classification).
"""

from lightning_modules.stream.learner import Steps, StreamLearner
from lightning_modules.stream.network import StreamNetwork
from lightning_modules.stream.rules import Moves, Updates
from lightning_modules.stream.settings import LAYER, Reading, Shape
from lightning_modules.stream.state import Features, StreamState

__all__ = [
    "LAYER",
    "Features",
    "Moves",
    "Reading",
    "Shape",
    "Steps",
    "StreamLearner",
    "StreamNetwork",
    "StreamState",
    "Updates",
]
