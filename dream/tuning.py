"""The parameter reference as data: what each knob does, its recommended range, and which symptom calls for
which knob.

Warnings, docs and the tuning advisor read it from here and nowhere else. Source: the DREAM configuration
guide; the words for the two smoothings follow the equations: they are EMA rates, and a larger one follows
faster, so that the gate gets used to noise sooner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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


KNOBS: dict[str, Knob] = {
    "input_dim": Knob("I"),
    "hidden_dim": Knob(
        "H",
        "more capacity, slower",
        "less capacity, faster",
        64,
        512,
        guidelines=(("most tasks", "256"), ("complex tasks", "512")),
    ),
    "rank": Knob(
        "R",
        "more expressivity",
        "more compression",
        4,
        32,
        guidelines=(("baseline", "16"), ("compression", "8 or lower"), ("complex tasks", "32")),
    ),
    "time_step": Knob(
        "dt",
        "faster dynamics",
        "slower dynamics",
        0.01,
        0.2,
        guidelines=(("most cases", "0.1"), ("stability", "0.05"), ("fast response", "0.15")),
    ),
    "forgetting_rate": Knob(
        "lambda",
        "faster forgetting",
        "slower forgetting",
        0.001,
        0.05,
        off=(0.0,),
        guidelines=(("long-term memory", "0.001-0.005"), ("non-stationary data", "0.02-0.05")),
    ),
    "base_plasticity": Knob(
        "eta",
        "faster learning",
        "slower learning",
        0.05,
        0.3,
        off=(0.0,),
        guidelines=(("online learning", "0.2-0.3"), ("stable tasks", "0.05-0.1")),
    ),
    "base_threshold": Knob(
        "tau_0",
        "less sensitive",
        "more sensitive",
        0.3,
        0.7,
        guidelines=(("novelty detection", "0.3"), ("stable processing", "0.7")),
    ),
    "entropy_influence": Knob(
        "alpha", "more uncertainty weighting", "less uncertainty weighting", 0.1, 0.5, off=(0.0,)
    ),
    "surprise_temperature": Knob(
        "gamma",
        "smoother gating",
        "sharper gating",
        0.05,
        0.2,
        guidelines=(("smoother adaptation", "0.15-0.2"),),
    ),
    "error_smoothing": Knob(
        "beta",
        "error statistics follow faster: used to noise sooner",
        "error statistics follow more slowly: sensitive to noise for longer",
        0.01,
        0.1,
        off=(0.0,),
        guidelines=(("noisy data", "0.05-0.1"), ("clean data", "0.01-0.02")),
    ),
    "surprise_smoothing": Knob(
        "beta_s",
        "threshold and mean surprise follow faster: used to novelty sooner",
        "threshold and mean surprise follow more slowly: surprised for longer",
        0.01,
        0.1,
        off=(0.0,),
        guidelines=(("noisy data", "0.05-0.1"), ("clean data", "0.01-0.02")),
    ),
    "target_norm": Knob(
        "target",
        "larger weights",
        "smaller weights",
        1.0,
        5.0,
        guidelines=(("complex tasks", "3.0-5.0"), ("stability", "1.0-2.0")),
    ),
    "kappa": Knob("kappa", "stronger homeostasis", "weaker homeostasis", 0.1, 1.0, off=(0.0,)),
    "sleep_rate": Knob(
        "zeta",
        "faster consolidation",
        "slower consolidation",
        0.001,
        0.01,
        off=(0.0,),
        guidelines=(("long-running models", "on"), ("short training runs", "0 (off)")),
    ),
    "min_surprise_for_sleep": Knob(
        "S_min", "less frequent consolidation", "more frequent consolidation", 0.1, 0.5, off=(0.0, 1.0)
    ),
    "ltc_enabled": Knob("", "liquid time constants", "standard RNN behavior", off=(0.0,)),
    "ltc_tau_sys": Knob(
        "tau_sys",
        "slower integration",
        "faster integration",
        5.0,
        30.0,
        guidelines=(("memory tasks", "20.0-30.0"), ("fast response", "5.0-10.0")),
    ),
    "ltc_surprise_scale": Knob(
        "s",
        "more dynamic tau",
        "less dynamic tau",
        5.0,
        30.0,
        off=(0.0,),
        guidelines=(("strong adaptation", "15.0-25.0"),),
    ),
}

Direction = Literal["increase", "decrease", "enable"]


@dataclass(frozen=True)
class Remedy:
    """What to do about a symptom, or for a goal: (direction, field) pairs, most useful first."""

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
