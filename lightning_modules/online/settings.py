"""`OnlineSettings`: settings of `OnlineModule`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from lightning_modules.checks import require
from lightning_modules.settings import PredictiveSettings, as_instance
from lightning_modules.stream import Reading, Updates

Mode = Literal[
    "fast weights + head", "head", "fast weights", "frozen", "fast weights + all weights", "all weights"
]


@dataclass(frozen=True)
class OnlineSettings(PredictiveSettings):
    """Settings of `OnlineModule`."""

    prediction_weight: float = 0.3
    reading: Reading = Reading()  # noqa: RUF009 - frozen
    """Normalisation of the rows, and the values that the head reads."""
    updates: Updates = Updates()  # noqa: RUF009 - frozen
    """Updates of the head from the stream."""
    through_head: bool = False
    """Forecasting and regression with `updates.rule: least_squares`: trains the core through a head that
    follows each crop as it will follow the stream, see `lightning_modules.stream.following.followed`."""
    all_updates: Updates = Updates(every=24, replay=96, lr=3e-4)  # noqa: RUF009 - frozen
    """Updates of all weights from the stream, in the modes that move them."""
    modes: list[Mode] = field(
        default_factory=lambda: ["fast weights + head", "head", "fast weights", "frozen"]
    )
    """Ways to run the test, by what learns while the stream is read; one row of the table of results each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "reading", as_instance(Reading, self.reading, "reading"))
        object.__setattr__(self, "updates", as_instance(Updates, self.updates, "updates"))
        object.__setattr__(self, "all_updates", as_instance(Updates, self.all_updates, "all_updates"))
        require(
            "through_head",
            self.through_head,
            not self.through_head or self.updates.rule == "least_squares",
            "false unless `updates.rule` is least_squares",
        )
        modes, known = self.modes, get_args(Mode)
        fits = bool(modes) and set(modes) <= set(known) and len(set(modes)) == len(modes)
        require("modes", modes, fits, f"some of {known}, each once")
