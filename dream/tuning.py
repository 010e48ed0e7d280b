"""The parameter reference as data: what a knob does, and which symptom, goal or situation calls for which.

Symbols, effects and recommended ranges stand in the docstrings of the fields of `DREAMConfig`, which help
and JSON schema show; `dream.config.KNOBS` is read from them. Warnings, docs and the tuning advisor take all
of it from here and there. Source: the DREAM configuration guide; the words for the two smoothings follow the
equations: they are EMA rates, and a larger one follows faster, so that the gate gets used to noise sooner.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

OFF: dict[str, tuple[float, ...]] = {
    "forgetting_rate": (0.0,),
    "base_plasticity": (0.0,),
    "entropy_influence": (0.0,),
    "error_smoothing": (0.0,),
    "surprise_smoothing": (0.0,),
    "kappa": (0.0,),
    "sleep_rate": (0.0,),
    "min_surprise_for_sleep": (0.0, 1.0),
    "ltc_enabled": (0.0,),
    "ltc_surprise_scale": (0.0,),
}
"""Values that switch a mechanism off on purpose."""

GUIDELINES: dict[str, tuple[tuple[str, str], ...]] = {
    "hidden_dim": (("most tasks", "256"), ("complex tasks", "512")),
    "rank": (("baseline", "16"), ("compression", "8 or lower"), ("complex tasks", "32")),
    "time_step": (("most cases", "0.1"), ("stability", "0.05"), ("fast response", "0.15")),
    "forgetting_rate": (("long-term memory", "0.001-0.005"), ("non-stationary data", "0.02-0.05")),
    "base_plasticity": (("online learning", "0.2-0.3"), ("stable tasks", "0.05-0.1")),
    "base_threshold": (("novelty detection", "0.3"), ("stable processing", "0.7")),
    "surprise_temperature": (("smoother adaptation", "0.15-0.2"),),
    "error_smoothing": (("noisy data", "0.05-0.1"), ("clean data", "0.01-0.02")),
    "surprise_smoothing": (("noisy data", "0.05-0.1"), ("clean data", "0.01-0.02")),
    "target_norm": (("complex tasks", "3.0-5.0"), ("stability", "1.0-2.0")),
    "sleep_rate": (("long-running models", "on"), ("short training runs", "0 (off)")),
    "ltc_tau_sys": (("memory tasks", "20.0-30.0"), ("fast response", "5.0-10.0")),
    "ltc_surprise_scale": (("strong adaptation", "15.0-25.0"),),
}
"""Situations, and the values of a field that suit them."""


@dataclass(frozen=True)
class Knob:
    """One field of `DREAMConfig`.

    ``low`` and ``high`` bound the recommended range (both inclusive; None where there is none), ``off`` lists
    the values that switch the mechanism off on purpose, and ``guidelines`` pairs a situation with the values
    that suit it."""

    symbol: str
    increase: str = ""
    decrease: str = ""
    low: float | None = None
    high: float | None = None
    off: tuple[float, ...] = ()
    guidelines: tuple[tuple[str, str], ...] = ()

    @property
    def range(self) -> str | None:
        """The recommended range as text, such as ``0.3-0.7``; None where there is none."""
        return None if self.low is None or self.high is None else f"{self.low:g}-{self.high:g}"

    def recommends(self, value: float) -> bool:
        """Whether `value` lies in the recommended range or switches the mechanism off."""
        if self.low is None or self.high is None or value in self.off:
            return True
        return self.low <= value <= self.high

    @classmethod
    def read(cls, name: str, docstring: str) -> Knob:
        """The knob of the field `name`."""
        text = " ".join(docstring.split())
        symbol = re.match(r"(\w+): ", text)
        effects = re.search(r"(?:Up|True): (.+?); (?:down|False): (.+?)\.", text)
        bounds = re.search(r"Recommended range: ([\d.]+)-([\d.]+)\.", text)
        return cls(
            symbol=symbol[1] if symbol else "",
            increase=effects[1] if effects else "",
            decrease=effects[2] if effects else "",
            low=float(bounds[1]) if bounds else None,
            high=float(bounds[2]) if bounds else None,
            off=OFF.get(name, ()),
            guidelines=GUIDELINES.get(name, ()),
        )


Direction = Literal["increase", "decrease", "enable"]


@dataclass(frozen=True)
class Remedy:
    """Remedy for a symptom, or way to a goal: (direction, field) pairs, most useful first."""

    steps: tuple[tuple[Direction, str], ...]

    def __str__(self) -> str:
        return ", ".join(f"{direction} `{field}`" for direction, field in self.steps)


SYMPTOMS: dict[str, Remedy] = {
    "Loss not decreasing": Remedy((("increase", "base_plasticity"),)),
    "Too much oscillation": Remedy((("decrease", "time_step"), ("increase", "ltc_tau_sys"))),
    "Forgets too quickly": Remedy((("decrease", "forgetting_rate"),)),
    "Doesn't adapt": Remedy((("increase", "base_plasticity"), ("decrease", "base_threshold"))),
    "Unstable training": Remedy((("decrease", "time_step"), ("decrease", "target_norm"))),
}

GOALS: dict[str, Remedy] = {
    "Accuracy": Remedy((("increase", "hidden_dim"), ("increase", "rank"))),
    "Speed": Remedy((("decrease", "hidden_dim"), ("decrease", "rank"))),
    "Memory": Remedy((("decrease", "rank"), ("enable", "sleep_rate"))),
    "Adaptation": Remedy((("increase", "base_plasticity"), ("increase", "ltc_surprise_scale"))),
}
