"""The guide's tables: presets, recommended ranges, effects, symptoms; and the warnings that read them."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from dream import DREAM, ConfigError, DREAMConfig, DREAMStack, DREAMWarning, config
from dream.config import KNOBS
from dream.tuning import GOALS, SYMPTOMS

PRESETS: dict[str, dict[str, Any]] = {
    "asr": dict(input_dim=39, hidden_dim=256, rank=16, ltc_tau_sys=10.0, base_threshold=0.5),
    "fast_adaptation": dict(
        input_dim=64,
        hidden_dim=128,
        rank=8,
        base_plasticity=0.2,
        forgetting_rate=0.005,
        ltc_surprise_scale=20.0,
    ),
    "long_term_memory": dict(
        input_dim=64, hidden_dim=512, rank=32, ltc_tau_sys=20.0, forgetting_rate=0.001, target_norm=3.0
    ),
    "stability": dict(
        input_dim=64,
        hidden_dim=256,
        rank=16,
        time_step=0.05,
        ltc_tau_sys=15.0,
        target_norm=1.5,
        error_smoothing=0.05,
    ),
    "speech_recognition": dict(
        input_dim=39,
        hidden_dim=256,
        rank=16,
        ltc_enabled=True,
        ltc_tau_sys=10.0,
        base_plasticity=0.1,
        forgetting_rate=0.01,
    ),
    "time_series_forecasting": dict(
        input_dim=10,
        hidden_dim=128,
        rank=8,
        ltc_enabled=True,
        ltc_tau_sys=15.0,
        base_plasticity=0.15,
        forgetting_rate=0.005,
    ),
    "anomaly_detection": dict(
        input_dim=20,
        hidden_dim=128,
        rank=16,
        ltc_enabled=True,
        base_threshold=0.3,
        surprise_temperature=0.15,
        base_plasticity=0.2,
    ),
    "language_modeling": dict(
        input_dim=300,
        hidden_dim=512,
        rank=32,
        ltc_enabled=True,
        ltc_tau_sys=20.0,
        forgetting_rate=0.001,
        target_norm=3.0,
    ),
    "online_learning": dict(
        input_dim=64,
        hidden_dim=256,
        rank=16,
        ltc_enabled=True,
        ltc_surprise_scale=20.0,
        base_plasticity=0.2,
        forgetting_rate=0.02,
        base_threshold=0.4,
    ),
}
# name: symbol, recommended range, increase, decrease; effects None where our own words replace the guide's
TABLE: dict[str, tuple[str, float, float, str | None, str | None]] = {
    "hidden_dim": ("H", 64, 512, "more capacity, slower", "less capacity, faster"),
    "rank": ("R", 4, 32, "more expressivity", "more compression"),
    "time_step": ("dt", 0.01, 0.2, "faster dynamics", "slower dynamics"),
    "base_plasticity": ("eta", 0.05, 0.3, "faster learning", "slower learning"),
    "forgetting_rate": ("lambda", 0.001, 0.05, "faster forgetting", "slower forgetting"),
    "base_threshold": ("tau_0", 0.3, 0.7, "less sensitive", "more sensitive"),
    "entropy_influence": ("alpha", 0.1, 0.5, "more uncertainty weighting", "less uncertainty weighting"),
    "surprise_temperature": ("gamma", 0.05, 0.2, "smoother gating", "sharper gating"),
    "ltc_tau_sys": ("tau_sys", 5.0, 30.0, "slower integration", "faster integration"),
    "ltc_surprise_scale": ("s", 5.0, 30.0, "more dynamic", "less dynamic"),
    "error_smoothing": ("beta", 0.01, 0.1, None, None),
    "surprise_smoothing": ("beta_s", 0.01, 0.1, None, None),
    "target_norm": ("target", 1.0, 5.0, "larger weights", "smaller weights"),
    "kappa": ("kappa", 0.1, 1.0, "stronger homeostasis", "weaker homeostasis"),
    "sleep_rate": ("zeta", 0.001, 0.01, "faster consolidation", "slower consolidation"),
    "min_surprise_for_sleep": (
        "S_min",
        0.1,
        0.5,
        "less frequent consolidation",
        "more frequent consolidation",
    ),
}
OFF = ["forgetting_rate", "base_plasticity", "entropy_influence", "kappa", "sleep_rate", "ltc_surprise_scale"]
OFF += ["error_smoothing", "surprise_smoothing"]


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    """As if nothing had been warned about yet."""
    before = set(config._warned)
    config._warned.clear()
    yield
    config._warned.clear()
    config._warned.update(before)


def caught(**values: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        DREAMConfig(**values)
    assert all(issubclass(one.category, DREAMWarning) for one in seen)
    assert all(one.filename == __file__ for one in seen)  # it points at the caller
    return [str(one.message) for one in seen]


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = DREAMConfig.preset(name)
    assert dataclasses.asdict(made) == dataclasses.asdict(DREAMConfig()) | PRESETS[name]


def test_which_presets_there_are() -> None:
    assert config.PRESETS.keys() == PRESETS.keys()
    for name in ("asr", "speech_recognition"):
        assert DREAMConfig.preset(name) == DREAMConfig()
        assert "defaults" in config.PRESETS[name].purpose
    assert re.search(
        r"`asr` and\s+`speech_recognition` are today's defaults", DREAMConfig.preset.__doc__ or ""
    )


def test_preset_overrides() -> None:
    made = DREAMConfig.preset("stability", input_dim=8, rank=4, time_step=0.1)
    assert (made.input_dim, made.rank, made.time_step, made.target_norm) == (8, 4, 0.1, 1.5)
    assert DREAMConfig.preset("stability").rank == 16
    with pytest.raises(ConfigError, match="`rank` must be above 0"):
        DREAMConfig.preset("stability", rank=0)
    with pytest.raises(ConfigError, match=r"`rnak`.*`rank`"):
        DREAMConfig.preset("stability", rnak=4)


@pytest.mark.parametrize(
    ("typo", "meant"), [("stabilty", "stability"), ("anomaly-detection", "anomaly_detection")]
)
def test_unknown_preset(typo: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"{typo}.*`{meant}`"):
        DREAMConfig.preset(typo)


@pytest.mark.parametrize("name", TABLE)
def test_ranges_effects_and_symbols(name: str) -> None:
    symbol, low, high, increase, decrease = TABLE[name]
    knob = KNOBS[name]
    assert (knob.symbol, knob.low, knob.high) == (symbol, low, high)
    if increase is not None and decrease is not None:
        assert knob.increase.startswith(increase)
        assert knob.decrease.startswith(decrease)
    else:  # EMA rates: a larger one follows faster
        assert "faster" in knob.increase
        assert "slow" in knob.decrease


def test_every_field_is_in_the_reference() -> None:
    assert list(KNOBS) == [field.name for field in dataclasses.fields(DREAMConfig)]
    assert {name for name, knob in KNOBS.items() if knob.low is None} == {"input_dim", "ltc_enabled"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        KNOBS["rank"].low = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", KNOBS)
def test_field_docstrings_carry_symbol_effect_and_range(name: str) -> None:
    text = " ".join(DREAMConfig.json_schema()["properties"][name]["description"].split())
    knob = KNOBS[name]
    assert text.endswith(".")
    if knob.symbol:
        assert re.match(rf"{re.escape(knob.symbol)}\b", text), text
    if knob.range:
        assert f"Recommended range: {knob.range}." in text
        assert f"Up: {knob.increase}; down: {knob.decrease}." in text


def test_symptoms_and_goals() -> None:
    up, down = "increase", "decrease"
    assert {name: remedy.steps for name, remedy in SYMPTOMS.items()} == {
        "Loss not decreasing": ((up, "base_plasticity"),),
        "Too much oscillation": ((down, "time_step"), (up, "ltc_tau_sys")),
        "Forgets too quickly": ((down, "forgetting_rate"),),
        "Doesn't adapt": ((up, "base_plasticity"), (down, "base_threshold")),
        "Unstable training": ((down, "time_step"), (down, "target_norm")),
    }
    assert {name: set(remedy.steps) for name, remedy in GOALS.items()} == {
        "Accuracy": {(up, "hidden_dim"), (up, "rank")},
        "Speed": {(down, "hidden_dim"), (down, "rank")},
        "Memory": {(down, "rank"), ("enable", "sleep_rate")},
        "Adaptation": {(up, "base_plasticity"), (up, "ltc_surprise_scale")},
    }
    assert str(SYMPTOMS["Doesn't adapt"]) == "increase `base_plasticity`, decrease `base_threshold`"


# kappa's recommended range ends at the largest legal value: there is no legal value above it
@pytest.mark.parametrize(
    ("name", "side"),
    [(name, side) for name in TABLE for side in ("above", "below") if (name, side) != ("kappa", "above")],
)
def test_outside_the_range_warns_once_with_range_and_effect(name: str, side: str) -> None:
    knob = KNOBS[name]
    assert knob.low is not None
    assert knob.high is not None
    if side == "above":
        value = {"min_surprise_for_sleep": 0.9}.get(name, 2 * knob.high)
        effect = knob.increase
    else:
        value, effect = knob.low / 2, knob.decrease
    values = {"input_dim": 10_000, name: int(value) if name in ("rank", "hidden_dim") else value}
    (message,) = caught(**values)
    assert f"`{name}`" in message
    assert knob.range is not None
    assert knob.range in message
    assert effect in message
    assert f"{values[name]:g}" in message
    assert caught(**values) == []  # once in a process
    # whatever the value
    assert caught(**(values | {name: 3 if isinstance(values[name], int) else knob.low / 3})) == []
    other = "base_threshold" if name != "base_threshold" else "time_step"
    assert len(caught(**{other: 0.001})) == 1  # another field still does


def test_bounds_and_defaults_are_silent() -> None:
    assert caught() == []
    for name, (_, low, high, *_) in TABLE.items():
        for value in (low, high):
            assert caught(**{"input_dim": 1000, name: value}) == [], name


@pytest.mark.parametrize("name", OFF)
def test_what_switches_something_off_is_silent(name: str) -> None:
    assert caught(**{name: 0.0}) == []
    assert caught(**{name: 0}) == []
    assert caught(ltc_enabled=False) == []


def test_rank_above_input_dim() -> None:
    (message,) = caught(input_dim=5, rank=6)
    assert "`rank`=6" in message
    assert "`input_dim`=5" in message
    assert "without adding anything" in message
    assert caught(input_dim=4, rank=6) == []
    assert caught(input_dim=6, rank=6) == []


def test_a_refused_value_does_not_use_up_the_warning() -> None:
    with pytest.raises(ConfigError):
        DREAMConfig(base_threshold=5.0, rank=0)
    assert len(caught(base_threshold=5.0)) == 1


def test_layers_warn_too() -> None:
    with pytest.warns(DREAMWarning, match="base_threshold"):
        DREAM(8, 64, 4, base_threshold=3.0)
    with pytest.warns(DREAMWarning, match="target_norm") as seen:
        DREAMStack(8, [64, 64, 64], 4, target_norm=50.0)
    assert len(seen) == 1
